"""Generated container names: a Greek letter, a number, ``container`` (zun-api, section 4.6)."""

import secrets

GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]


def generate() -> str:
    """A name such as ``zeta-22-container``."""
    return f"{secrets.choice(GREEK)}-{secrets.randbelow(24) + 1}-container"

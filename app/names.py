"""Generated names: a Greek letter, a number, what it is (zun-api, section 4.6; magnum-api, section 4.3)."""

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


def generate(kind: str = "container") -> str:
    """A name such as ``zeta-22-container``."""
    return f"{secrets.choice(GREEK)}-{secrets.randbelow(24) + 1}-{kind}"

"""Secrets that can be found again, whatever they were wrapped in."""

import base64
import secrets

import httpx


class Marks:
    """The secrets of one test, and what was told to others."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []

    def new(self, what: str) -> str:
        """A secret of the user."""
        return self.add(what, f"mark-{secrets.token_hex(12)}")

    def add(self, what: str, secret: str) -> str:
        """A secret that Caisson made."""
        self.made[secret] = what
        return secret

    def answer(self, whose: str, answer: httpx.Response, *but: str) -> None:
        """Remember an answer as one that must have no mark; `but` are those that it is for."""
        text = f"{answer.headers} {answer.text}"
        for secret in but:
            assert secret in text
            text = text.replace(secret, "")
        self.told.append((whose, text))

    def found_in(self, where: str, text: str) -> list[str]:
        """Which marks a text has, plain or in base64 or as in a URL."""
        found = []
        for secret, what in self.made.items():
            shifted = (base64.b64encode(b"x" * shift + secret.encode()).decode()[4:-4] for shift in range(3))
            if any(form in text for form in (secret, *shifted)):
                found.append(f"{what} in {where}")
        return found


def core(key: str) -> str:
    """What of a key in PEM is secret, and found in whatever it was wrapped in."""
    return max(key.splitlines()[1:-1], key=len)

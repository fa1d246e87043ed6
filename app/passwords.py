"""Secrets that people log in with: hashed slowly, compared in constant time, guessed at a limited rate."""

import asyncio
import base64
import ctypes
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import structlog
from cachetools import TTLCache

from app.errors import Busy, GatewayError

log = structlog.get_logger("caisson.identity")

MOST_FAILURES, FAILURE_SECONDS = 10, 60
MOST_HASHING, MOST_WAITING = 2, 32

_M_MMAP_THRESHOLD, _LARGE = -3, 8 * 1024 * 1024  # of mallopt(3)


class TooManyAttempts(GatewayError):
    """Too many wrong passwords for one account (429)."""

    status, code = 429, "too-many-attempts"


class Passwords:
    """Hashes and checks secrets with scrypt (16 MiB, about a fifth of a second), beside the event loop.

    Logins are the one thing that strangers can make us compute, so few run at once, few may wait, and an account that
    met ten wrong secrets is closed for a minute.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._running = asyncio.Semaphore(MOST_HASHING)
        self._waiting = 0
        self._failures: TTLCache[str, int] = TTLCache(10_000, FAILURE_SECONDS, timer)
        self._nobody = unusable_hash()

    async def hash(self, secret: str) -> str:
        """A text from which the secret can be checked but not told. Raises Busy when too many wait."""
        salt = secrets.token_bytes(16)
        return _encoded(salt, await self._derive(secret, salt))

    async def check(self, account: str, secret: str, stored: str | None) -> bool:
        """Whether a secret is the stored one; without a stored one it takes as long and says no.

        Raises:
            TooManyAttempts: the account is closed for now, whatever the secret.
            Busy: too many wait.
        """
        salt, digest = (base64.b64decode(part) for part in (stored or self._nobody).split("$")[1:])
        derived = await self._derive(secret, salt, account)
        if hmac.compare_digest(derived, digest):
            self._failures.pop(account, None)
            return True
        self._failures[account] = self._failures.get(account, 0) + 1
        if stored is not None:  # what strangers type where a name belongs may be a password
            log.warning("a login with a wrong secret", account=account, failures=self._failures[account])
        return False

    async def _derive(self, secret: str, salt: bytes, account: str = "") -> bytes:
        if self._waiting >= MOST_WAITING:
            raise Busy("Too many logins at once; try again.")
        self._waiting += 1
        try:
            async with self._running:
                if self._failures.get(account, 0) >= MOST_FAILURES:
                    raise TooManyAttempts("Too many wrong passwords for this account; wait a minute.")
                return await asyncio.to_thread(hashlib.scrypt, secret.encode(), salt=salt, n=2**14, r=8, p=5, dklen=32)
        finally:
            self._waiting -= 1


def return_large_blocks() -> None:
    """Have glibc give the 16 MiB of each hash back to the system, for the rest of this process.

    Left to itself it takes the first such block for a habit, and keeps the next ones for every thread that hashed. Does
    nothing with another C library.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _encoded(salt: bytes, digest: bytes) -> str:
    return "$".join(("scrypt-14-8-5", base64.b64encode(salt).decode(), base64.b64encode(digest).decode()))


def unusable_hash() -> str:
    return _encoded(secrets.token_bytes(16), secrets.token_bytes(32))

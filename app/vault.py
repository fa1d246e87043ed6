"""Secrets at rest: encrypted with keys that never enter the database. The newest seals, older ones are still read."""

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.errors import Invalid
from app.settings import Settings

MISFIT = "the secret key does not fit the secrets in the database (CAISSON_SECRET_KEY)"


class Vault:
    """Encrypts and decrypts short texts. Raises Invalid when no key fits what was stored."""

    def __init__(self, newest: str, *others: str) -> None:
        """`newest` seals; `others` only read: a key from before a rotation, or the one to come."""
        self._newest, *rest = (Fernet(_derived(key)) for key in (newest, *others))
        self._all = MultiFernet([self._newest, *rest])

    def seal(self, secret: str) -> str:
        """Encrypt, with a random nonce: equal secrets do not look alike."""
        return self._newest.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Decrypt what `seal` returned, under any of the keys."""
        try:
            return self._all.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Invalid(MISFIT) from None

    def reseal(self, sealed: str) -> str:
        """The same secret under the newest key."""
        try:
            return self._all.rotate(sealed.encode()).decode()
        except InvalidToken:
            raise Invalid(MISFIT) from None

    def is_newest(self, sealed: str) -> bool:
        """Whether the newest key opens it."""
        try:
            self._newest.decrypt(sealed.encode())
        except InvalidToken:
            return False
        return True


def open_vault(settings: Settings) -> Vault:
    """The vault of this installation; with SQLite its key is made on first use and kept in the data directory."""
    if settings.secret_key is not None:
        return Vault(
            settings.secret_key.get_secret_value(), *(key.get_secret_value() for key in settings.other_secret_keys)
        )
    if not settings.database.startswith("sqlite"):
        raise Invalid("set CAISSON_SECRET_KEY: replicas that share a database must share one key")
    path = key_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        keep_keys(path, [new_key()])
    return Vault(*kept_keys(path))


def new_key() -> str:
    """A random key of 256 bits."""
    return Fernet.generate_key().decode()


def key_file(settings: Settings) -> Path:
    """Where keys are kept that no setting gives: one a line, the newest first."""
    return settings.data_dir / "secret.key"


def kept_keys(path: Path) -> list[str]:
    """The keys in a file, the newest first. Raises Invalid when there is none, rather than sealing with nothing."""
    try:
        keys = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise Invalid(f"the key file {path}: {error.strerror}") from None
    if not keys:
        raise Invalid(f"the key file {path} is empty: put it back from the backup that belongs to this database")
    return keys


def keep_keys(path: Path, keys: Sequence[str]) -> None:
    """Replace the file as a whole, on the disk before this returns: a crash leaves the old keys or the new ones."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{key}\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _derived(key: str) -> bytes:
    derived = hashlib.scrypt(key.encode(), salt=b"caisson.vault", n=2**14, r=8, p=1, dklen=32)
    return base64.urlsafe_b64encode(derived)

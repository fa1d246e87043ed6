"""Secrets at rest: encrypted with one key that never enters the database."""

import base64
import hashlib
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from app.errors import Invalid
from app.settings import Settings


class Vault:
    """Encrypts and decrypts short texts. Raises Invalid when the key does not fit what was stored."""

    def __init__(self, key: str) -> None:
        derived = hashlib.scrypt(key.encode(), salt=b"caisson.vault", n=2**14, r=8, p=1, dklen=32)
        self._fernet = Fernet(base64.urlsafe_b64encode(derived))

    def seal(self, secret: str) -> str:
        """Encrypt, with a random nonce: equal secrets do not look alike."""
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Decrypt what `seal` returned."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Invalid("the secret key does not fit the secrets in the database (CAISSON_SECRET_KEY)") from None


def open_vault(settings: Settings) -> Vault:
    """The vault of this installation; with SQLite its key is made on first use and kept in the data directory."""
    if settings.secret_key is not None:
        return Vault(settings.secret_key.get_secret_value())
    if not settings.database.startswith("sqlite"):
        raise Invalid("set CAISSON_SECRET_KEY: replicas that share a database must share one key")
    return Vault(_kept_key(settings.data_dir / "secret.key"))


def _kept_key(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(Fernet.generate_key().decode())
    except FileExistsError:
        pass
    return path.read_text().strip()

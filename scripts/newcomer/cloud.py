"""The login for OpenStack's client: ``clouds.yaml`` beside the database, and where the client looks by itself."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import yaml

from scripts.newcomer.packages import SetupError

NAME = "caisson"
MARK = "# Written by Caisson's scripts/run, at every start."
USER, PROJECT, DOMAIN, REGION = "admin", "demo", "Default", "RegionOne"


@dataclass(frozen=True)
class Cloud:
    """How to log in.

    Attributes:
        password: the administrator's.
        file: the ``clouds.yaml`` beside the database.
        found_by_itself: whether the client finds the login without being told where.
    """

    password: str
    file: Path
    found_by_itself: bool


def prepare(data_dir: Path, base_url: str) -> Cloud:
    """Writes the login for the gateway at `base_url`; the password is made on the first start and kept.

    Raises:
        SetupError: there is a database whose password nobody wrote down here.
    """
    file = data_dir / "clouds.yaml"
    password = _kept_password(file)
    if password is None:
        if (data_dir / "caisson.db").exists():
            raise SetupError(
                f"{data_dir} holds a database but no {file.name} with its password: name another --data-dir, "
                "or serve this one with: caisson serve"
            )
        password = secrets.token_urlsafe(16)
    text = f"{MARK}\n{yaml.safe_dump({'clouds': {NAME: _entry(base_url, password)}}, sort_keys=False)}"
    _write(file, text)
    users = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "openstack" / "clouds.yaml"
    ours = not users.exists() or users.read_text(errors="replace").startswith(MARK)
    if ours:
        try:
            users.parent.mkdir(parents=True, exist_ok=True)
            _write(users, text)
        except OSError:
            ours = False
    return Cloud(password, file, ours)


def _entry(base_url: str, password: str) -> dict[str, object]:
    return {
        "auth": {
            "auth_url": f"{base_url}/identity/v3",
            "username": USER,
            "password": password,
            "user_domain_name": DOMAIN,
            "project_name": PROJECT,
            "project_domain_name": DOMAIN,
        },
        "region_name": REGION,
    }


def _kept_password(file: Path) -> str | None:
    try:
        return str(yaml.safe_load(file.read_text())["clouds"][NAME]["auth"]["password"])
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, TypeError):
        raise SetupError(f"{file} names no password of a cloud called {NAME}: put it right, or remove it") from None


def _write(file: Path, text: str) -> None:
    """Readable for its owner alone from the first moment, and never half written."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    draft.replace(file)

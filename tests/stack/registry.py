"""Image registries on loopback: one open, one with a password. Engines trust plain HTTP on 127.0.0.0/8."""

import base64
import json
from dataclasses import dataclass

import httpx

from tests.stack import debian, images
from tests.stack.session import Service, Stack, free_port

USERNAME = "puller"
PASSWORD = "let-me-in"
# The line of an htpasswd file for the two above, made once: bcrypt is not in Python's library.
HTPASSWD = "puller:$2b$04$WwspLPB3DhADEftNYHJnMuCTorFRrGclE.QzDCGVbHkKk7elliz2u\n"


@dataclass(frozen=True)
class Registry:
    """A running registry.

    Attributes:
        host: ``127.0.0.1:port``, the first part of the names of its images.
        username: None when the registry asks for nothing.
        password: as above.
        service: its process, for tests that stop or freeze it.
    """

    host: str
    username: str | None
    password: str | None
    service: Service

    def push(self, engine: str, name: str, image: str = images.BUSYBOX) -> str:
        """Pushes an image of the engine at this address as ``name`` (``path:tag``).

        Returns:
            The full name to run it by; the engine itself no longer knows it, and has to pull.

        Raises:
            StackError: the engine or the registry refused.
        """
        target = f"{self.host}/{name}"
        login = {"username": self.username, "password": self.password, "serveraddress": self.host}
        images.push(engine, image, target, base64.urlsafe_b64encode(json.dumps(login).encode()).decode())
        return target


def shared(stack: Stack) -> Registry:
    """The open registry of this session, started first if nobody has done that."""
    return connect(stack.shared("registry", lambda: start(stack)))


def start(stack: Stack, name: str = "registry", *, private: bool = False) -> Service:
    """Starts a registry under this name in the stack; ``private`` ones want :data:`USERNAME` and :data:`PASSWORD`."""
    program = debian.program("docker-registry")
    folder = stack.folder(name)
    port = free_port()
    (folder / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if private:
        config["auth"] = {"htpasswd": {"realm": "caisson", "path": str(folder / "htpasswd")}}
    # Its configuration is YAML, of which JSON is a part.
    (folder / "config.yml").write_text(json.dumps(config))
    return stack.spawn(
        name,
        [str(program), "serve", str(folder / "config.yml")],
        log=folder / "log",
        ready=lambda: _answers(port),
        facts={"host": f"127.0.0.1:{port}", "private": "yes" if private else ""},
    )


def connect(service: Service) -> Registry:
    """The registry that runs as this service."""
    private = bool(service.facts["private"])
    return Registry(service.facts["host"], USERNAME if private else None, PASSWORD if private else None, service)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/").status_code in (200, 401)
    except httpx.TransportError:
        return False

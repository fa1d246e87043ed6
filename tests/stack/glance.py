"""A real Glance from PyPI, on SQLite with files for images, in one process.

Its virtual environment (from ``glance.lock``) and an empty database are kept in the cache. It asks the Keystone it is
started for, as that one's user ``glance``; the caller puts it into the catalogue (:meth:`Keystone.region`).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.stack import venvs
from tests.stack.keystone import SERVICE_PASSWORD, Keystone
from tests.stack.session import Service, Stack, StackError, free_port

LOCK = Path(__file__).with_name("glance.lock")

CONFIGURATION = """
[DEFAULT]
use_stderr = true
transport_url = fake://
enabled_backends = file:file
node_staging_uri = file://{folder}/staging
workers = 0
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = {folder}/images
[database]
connection = sqlite:///{folder}/glance.db
[keystone_authtoken]
auth_type = password
auth_url = {keystone}
www_authenticate_uri = {keystone}
username = glance
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
[paste_deploy]
flavor = keystone
config_file = {folder}/glance-api-paste.ini
[oslo_policy]
enforce_scope = true
"""

# Glance reads sys.argv as its own options, so the web server must get all of its own from a file.
WEB_SERVER = """
wsgi_app = "glance.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
threads = 4
timeout = 120
worker_tmp_dir = "/dev/shm"
graceful_timeout = 1
control_socket_disable = True
"""


@dataclass(frozen=True)
class Glance:
    """A running Glance.

    Attributes:
        service: its process, for tests that stop or freeze it.
    """

    service: Service

    @property
    def url(self) -> str:
        """Its address for the catalogue, ``http://127.0.0.1:port``."""
        return self.service.facts["url"]

    def lose(self, image: str) -> None:
        """Takes an image's content away behind Glance's back: whoever downloads it from now on fails."""
        (Path(self.service.facts["folder"]) / "images" / image).unlink()

    def upload(self, token: str, name: str, content: bytes, **properties: object) -> str:
        """Stores an image in the project of a token.

        Args:
            content: its data; by default what ``docker save`` writes.
            properties: further fields, such as ``visibility``.

        Returns:
            Its id.

        Raises:
            httpx.HTTPStatusError: Glance refused.
        """
        fields = {"name": name, "container_format": "docker", "disk_format": "raw", **properties}
        image: str = self.call("POST", "/v2/images", token, json=fields).json()["id"]
        kind = {"Content-Type": "application/octet-stream"}
        self.call("PUT", f"/v2/images/{image}/file", token, content=content, headers=kind)
        return image

    def call(self, method: str, path: str, token: str, **options: object) -> httpx.Response:
        """Any call.

        Raises:
            httpx.HTTPStatusError: Glance refused.
        """
        headers = {"X-Auth-Token": token}
        with httpx.Client(base_url=self.url, timeout=60, headers=headers) as http:
            answer = http.request(method, path, **options)  # type: ignore[arg-type]
        return answer.raise_for_status()


def shared(stack: Stack, keystone: Keystone) -> Glance:
    """The Glance of this session, started first if nobody has done that."""
    return Glance(stack.shared("glance", lambda: start(stack, keystone)))


def start(stack: Stack, keystone: Keystone, name: str = "glance") -> Service:
    """Starts an empty Glance under this name in the stack.

    Raises:
        StackError: it could not be installed, prepared or started.
    """
    programs = venvs.programs("glance", LOCK)
    folder = stack.folder(name)
    shutil.copytree(_prepared_data(programs), folder, dirs_exist_ok=True)
    (folder / "glance-api.conf").write_text(_configuration(folder, keystone.url))
    port = free_port()
    (folder / "gunicorn.conf.py").write_text(WEB_SERVER.format(port=port))
    url = f"http://127.0.0.1:{port}"
    return stack.spawn(
        name,
        [str(programs / "gunicorn")],
        log=folder / "log",
        ready=lambda: _answers(url),
        environment={
            "OS_GLANCE_CONFIG_DIR": str(folder),
            "GUNICORN_CMD_ARGS": f"--config {folder}/gunicorn.conf.py",
        },
        facts={"url": url, "folder": str(folder)},
    )


def _configuration(folder: Path, keystone: str) -> str:
    return CONFIGURATION.format(folder=folder, keystone=keystone, password=SERVICE_PASSWORD)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code in (200, 300)
    except httpx.TransportError:
        return False


def _prepared_data(programs: Path) -> Path:
    """The cached data directory with an empty database. It follows the lock and this file."""
    recipe = LOCK.read_text() + Path(__file__).read_text()
    return venvs.prepared("glance", recipe, lambda folder: _prepare(programs, folder))


def _prepare(programs: Path, folder: Path) -> None:
    for part in ("images", "tasks", "staging"):
        (folder / part).mkdir()
    paste = next(programs.parent.rglob("glance-api-paste.ini"), None)
    if paste is None:
        raise StackError("Glance came without its glance-api-paste.ini")
    shutil.copy(paste, folder)
    (folder / "glance-api.conf").write_text(_configuration(folder, "http://identity.invalid/v3"))
    command = [str(programs / "glance-manage"), "--config-file", str(folder / "glance-api.conf"), "db_sync"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"glance-manage db_sync failed: {done.stderr[-2000:]}")


def main() -> None:
    """Fills the cache, so that no test has to wait for it within its own time limit."""
    _prepared_data(venvs.programs("glance", LOCK))


if __name__ == "__main__":
    main()

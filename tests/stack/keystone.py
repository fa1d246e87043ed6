"""The real Keystone from PyPI, on SQLite, in one process.

Its virtual environment (from ``keystone.lock``) and a bootstrapped, seeded data directory take a minute to make and are
kept in the cache; a start copies the data and takes two seconds. The seed:

* projects ``alpha``, ``beta``, ``faults``, ``service``; users ``alpha-admin``, ``alpha-manager``, ``alpha-member``,
  ``alpha-reader`` and the same for beta and faults, each with that role on that project and the password
  :data:`PASSWORD`; faults is for tests that take away whatever an engine has of their project;
* users ``caisson``, ``glance`` and ``neutron`` with the roles admin and service on project service and the password
  :data:`SERVICE_PASSWORD`;
* user ``admin`` with the password :data:`ADMIN_PASSWORD`, admin on project admin and on the system;
* services ``identity`` and ``container`` in region ``RegionOne``.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from scripts.newcomer.packages import tail
from tests.stack import venvs
from tests.stack.session import Service, Stack, StackError, free_port

Provider = Literal["fernet", "jws"]
PASSWORD = "pw"
SERVICE_PASSWORD = "svcpw"
ADMIN_PASSWORD = "adminpw"
ROLES = ("admin", "manager", "member", "reader")
PROJECTS = ("alpha", "beta", "faults")
SERVICE_USERS = ("caisson", "glance", "neutron")
SERVICES = {"container": "zun", "container-infra": "magnum", "image": "glance", "network": "neutron"}
"""The types of service that the catalogue may list, and their names."""
LOCK = Path(__file__).with_name("keystone.lock")
# Stand-ins in the cached data for the addresses that are known at the start only.
IDENTITY_URL = "http://identity.invalid/v3"
CONTAINER_URL = "http://container.invalid/v1"

CONFIGURATION = """
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = {provider}
expiration = {expiration}
[fernet_tokens]
key_repository = {folder}/fernet-keys
[fernet_receipts]
key_repository = {folder}/fernet-keys
[jwt_tokens]
jws_private_key_repository = {folder}/jws/private
jws_public_key_repository = {folder}/jws/public
[credential]
key_repository = {folder}/credential-keys
[identity]
password_hash_rounds = 4
# Without a cache a validation takes half a second. This one belongs to a process, so there may be only one.
[cache]
enabled = true
backend = dogpile.cache.memory
[oslo_policy]
enforce_scope = true
"""

# Keystone reads sys.argv as its own options, so the web server must get all of its own from a file.
WEB_SERVER = """
wsgi_app = "keystone.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
threads = 1  # two that write at a time are more than its SQLite takes
worker_tmp_dir = "/dev/shm"
graceful_timeout = 1
control_socket_disable = True
"""


@dataclass(frozen=True)
class Keystone:
    """A running Keystone.

    Attributes:
        service: its process, for tests that stop or freeze it.
    """

    service: Service

    @property
    def url(self) -> str:
        """The address clients know, ``http://127.0.0.1:port/v3``."""
        return self.service.facts["url"]

    @property
    def provider(self) -> str:
        """The kind of its tokens: fernet or jws."""
        return self.service.facts["provider"]

    @property
    def jws_public_key(self) -> Path:
        """The PEM file that checks its JWS tokens."""
        return Path(self.service.facts["folder"]) / "jws" / "public" / "public.pem"

    def token(self, user: str = "alpha-member", project: str | None = None, *, password: str | None = None) -> str:
        """A fresh token.

        Args:
            project: a project's name; by default the user's own (``alpha`` of ``alpha-member``).
            password: by default the one of the seed.

        Raises:
            httpx.HTTPStatusError: Keystone refused.
        """
        scope = {"project": {"name": project or _project_of(user), "domain": {"id": "default"}}}
        return self._token_for(_password_method(user, password), scope)

    def unscoped_token(self, user: str = "alpha-member") -> str:
        """A token without any scope."""
        return self._token_for(_password_method(user, None), "unscoped")

    def system_token(self) -> str:
        """A token of the user admin for the whole system: no project."""
        return self._token_for(_password_method("admin", None), {"system": {"all": True}})

    def application_credential(
        self, user: str = "alpha-member", project: str | None = None, *, name: str, roles: list[str] | None = None
    ) -> tuple[str, str]:
        """Makes an application credential of this user.

        Args:
            roles: the names of the roles it gets; by default all that the user has on the project.

        Returns:
            Its id and its secret.
        """
        token = self.token(user, project)
        body: dict[str, Any] = {"name": name}
        if roles is not None:
            body["roles"] = [{"name": role} for role in roles]
        path = f"/users/{self.describe(token)['user']['id']}/application_credentials"
        made = self.request("POST", path, {"application_credential": body}, token=token).json()[
            "application_credential"
        ]
        return made["id"], made["secret"]

    def token_of_credential(self, credential: str, secret: str) -> str:
        """A fresh token by an application credential's id and secret."""
        method = {
            "methods": ["application_credential"],
            "application_credential": {"id": credential, "secret": secret},
        }
        return self._token_for(method, None)

    def describe(self, token: str) -> dict[str, Any]:
        """What Keystone says of a token, as the service user asks it."""
        headers = {"X-Auth-Token": self.token("caisson"), "X-Subject-Token": token}
        answer = httpx.get(f"{self.url}/auth/tokens", headers=headers, params={"nocatalog": ""}, timeout=30)
        body: dict[str, Any] = answer.raise_for_status().json()["token"]
        return body

    def revoke(self, token: str) -> None:
        """Makes a token invalid at once."""
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        httpx.delete(f"{self.url}/auth/tokens", headers=headers, timeout=30).raise_for_status()

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        """Any call below ``/v3``, by default as the administrator.

        Raises:
            httpx.HTTPStatusError: Keystone refused.
        """
        headers = {"X-Auth-Token": token or self.token("admin", "admin")}
        answer = httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=30)
        return answer.raise_for_status()

    def region(self, container_url: str, **others: str) -> str:
        """Puts a gateway into the catalogue, in a region of its own, so that tests side by side do not meet.

        Args:
            container_url: the address of its container API.
            others: further services of that region: their addresses by type, such as ``image``.

        Returns:
            The region's name, for ``OS_REGION_NAME``.
        """
        token = self.token("admin", "admin")
        name = "r" + hashlib.sha256(container_url.encode()).hexdigest()[:12]
        known = self.request("GET", "/regions", token=token).json()["regions"]
        if any(region["id"] == name for region in known):
            return name
        self.request("POST", "/regions", {"region": {"id": name}}, token=token)
        for service_type, address in {"container": container_url, "identity": self.url, **others}.items():
            _add_endpoints(self.url, token, service_type, address, name)
        return name

    def environment(
        self, user: str = "alpha-member", project: str | None = None, region: str = "RegionOne"
    ) -> dict[str, str]:
        """The variables by which OpenStack's clients log in as this user."""
        return {
            "OS_AUTH_URL": self.url,
            "OS_IDENTITY_API_VERSION": "3",
            "OS_USERNAME": user,
            "OS_PASSWORD": password_of(user),
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_NAME": project or _project_of(user),
            "OS_PROJECT_DOMAIN_ID": "default",
            "OS_REGION_NAME": region,
        }

    def _token_for(self, identity: dict[str, Any], scope: Any) -> str:
        return _token(self.url, identity, scope)


def shared(stack: Stack) -> Keystone:
    """The Keystone of this session, started first if nobody has done that."""
    return Keystone(stack.shared("keystone", lambda: start(stack)))


def start(
    stack: Stack,
    name: str = "keystone",
    *,
    provider: Provider = "fernet",
    container_url: str = CONTAINER_URL,
    expiration: int = 86400,
    port: int | None = None,
) -> Service:
    """Starts a seeded Keystone under this name in the stack.

    Args:
        container_url: what the catalogue's region ``RegionOne`` says for ``container``.
        expiration: the life of its tokens in seconds.
        port: by default a free one.

    Raises:
        StackError: it could not be installed, prepared or started.
    """
    programs = venvs.programs("keystone", LOCK)
    template = _prepared_data(stack, programs)
    folder = stack.folder(name)
    shutil.copytree(template, folder, dirs_exist_ok=True)
    port = port or free_port()
    addresses = {IDENTITY_URL: f"http://127.0.0.1:{port}/v3", CONTAINER_URL: container_url}
    database = sqlite3.connect(folder / "keystone.db")
    with database:
        for before, after in addresses.items():
            database.execute("UPDATE endpoint SET url = ? WHERE url = ?", (after, before))
    database.close()
    return _serve(stack, name, programs, folder, port, provider, expiration)


def password_of(user: str) -> str:
    """The seed's password of a user."""
    known = dict.fromkeys(SERVICE_USERS, SERVICE_PASSWORD)
    return {"admin": ADMIN_PASSWORD, **known}.get(user, PASSWORD)


def _serve(
    stack: Stack,
    name: str,
    programs: Path,
    folder: Path,
    port: int,
    provider: Provider,
    expiration: int = 86400,
) -> Service:
    configuration = folder / "keystone.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, provider=provider, expiration=expiration))
    (folder / "gunicorn.conf.py").write_text(WEB_SERVER.format(port=port))
    url = f"http://127.0.0.1:{port}/v3"
    return stack.spawn(
        name,
        [str(programs / "gunicorn")],
        log=folder / "log",
        ready=lambda: _answers(url),
        environment={
            "OS_KEYSTONE_CONFIG_FILES": str(configuration),
            "GUNICORN_CMD_ARGS": f"--config {folder}/gunicorn.conf.py",
        },
        facts={"url": url, "provider": provider, "folder": str(folder)},
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def _prepared_data(stack: Stack, programs: Path) -> Path:
    """The cached data directory, bootstrapped and seeded. It follows the lock and this file."""
    recipe = LOCK.read_text() + Path(__file__).read_text()
    return venvs.prepared("keystone", recipe, lambda folder: _prepare(stack, programs, folder))


def _prepare(stack: Stack, programs: Path, folder: Path) -> None:
    configuration = folder / "keystone.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, provider="fernet", expiration=3600))
    for name in ("fernet-keys", "credential-keys", "jws/private", "jws/public"):
        (folder / name).mkdir(parents=True, mode=0o700)

    def manage(*arguments: str) -> None:
        command = [str(programs / "keystone-manage"), "--config-file", str(configuration), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"keystone-manage {arguments[0]} failed: {done.stderr[-2000:]}")

    owner = ["--keystone-user", str(os.geteuid()), "--keystone-group", str(os.getegid())]
    manage("db_sync")
    manage("fernet_setup", *owner)
    manage("credential_setup", *owner)
    # Writes both keys into the current directory.
    manage("create_jws_keypair", *owner, "--force")
    (folder / "private.pem").rename(folder / "jws/private/private.pem")
    (folder / "public.pem").rename(folder / "jws/public/public.pem")
    urls = [f"--bootstrap-{interface}-url={IDENTITY_URL}" for interface in ("admin", "public", "internal")]
    manage("bootstrap", f"--bootstrap-password={ADMIN_PASSWORD}", "--bootstrap-region-id=RegionOne", *urls)

    service = _serve(stack, f"keystone-seed-{os.getpid()}", programs, folder, free_port(), "fernet")
    try:
        _seed(service.facts["url"])
    except (httpx.HTTPError, KeyError) as error:
        raise StackError(f"Keystone could not be seeded: {error}\n{tail(folder / 'log')}") from error
    finally:
        stack.stop(service)
    for leftover in ("log", "keystone.conf", "gunicorn.conf.py"):
        (folder / leftover).unlink()


def _seed(url: str) -> None:
    token = _token(url, _password_method("admin", None), {"project": {"name": "admin", "domain": {"id": "default"}}})

    def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = httpx.request(method, url + path, json=body, headers={"X-Auth-Token": token}, timeout=60)
        return answer.raise_for_status().json() if answer.raise_for_status().content else None

    def create(kind: str, **attributes: Any) -> str:
        made: str = call("POST", f"/{kind}s", {kind: attributes})[kind]["id"]
        return made

    roles = {role["name"]: role["id"] for role in call("GET", "/roles")["roles"]}
    projects = {name: create("project", name=name, domain_id="default") for name in (*PROJECTS, "service")}
    for project in PROJECTS:
        for role in ROLES:
            user = create(
                "user",
                name=f"{project}-{role}",
                password=PASSWORD,
                domain_id="default",
                default_project_id=projects[project],
            )
            call("PUT", f"/projects/{projects[project]}/users/{user}/roles/{roles[role]}")
    for name in SERVICE_USERS:
        user = create("user", name=name, password=SERVICE_PASSWORD, domain_id="default")
        for role in ("admin", "service"):
            call("PUT", f"/projects/{projects['service']}/users/{user}/roles/{roles[role]}")
    create("service", name=SERVICES["container"], type="container")
    _add_endpoints(url, token, "container", CONTAINER_URL, "RegionOne")


def _add_endpoints(url: str, token: str, service_type: str, address: str, region: str) -> None:
    headers = {"X-Auth-Token": token}
    services = httpx.get(f"{url}/services", params={"type": service_type}, headers=headers, timeout=30)
    found = services.raise_for_status().json()["services"]
    if not found:
        wanted = {"service": {"type": service_type, "name": SERVICES[service_type]}}
        made = httpx.post(f"{url}/services", json=wanted, headers=headers, timeout=30)
        found = [made.raise_for_status().json()["service"]]
    service = found[0]["id"]
    for interface in ("public", "internal", "admin"):
        body = {"endpoint": {"service_id": service, "interface": interface, "url": address, "region_id": region}}
        httpx.post(f"{url}/endpoints", json=body, headers=headers, timeout=30).raise_for_status()


def _token(url: str, identity: dict[str, Any], scope: Any) -> str:
    body = {"auth": {"identity": identity, **({"scope": scope} if scope else {})}}
    answer = httpx.post(f"{url}/auth/tokens", json=body, timeout=30)
    for _ in range(5):  # Keystone's SQLite is sometimes locked by another caller, which Keystone answers with 500
        if answer.status_code != 500:
            break
        time.sleep(0.2)
        answer = httpx.post(f"{url}/auth/tokens", json=body, timeout=30)
    answer.raise_for_status()
    return str(answer.headers["X-Subject-Token"])


def _password_method(user: str, password: str | None) -> dict[str, Any]:
    who = {"name": user, "domain": {"id": "default"}, "password": password or password_of(user)}
    return {"methods": ["password"], "password": {"user": who}}


def _project_of(user: str) -> str:
    return {"admin": "admin", **dict.fromkeys(SERVICE_USERS, "service")}.get(user, user.partition("-")[0])


def main() -> None:
    """Fills the cache, so that no test has to wait for it within its own time limit."""
    stack = Stack.open()
    try:
        _prepared_data(stack, venvs.programs("keystone", LOCK))
    finally:
        stack.close()


if __name__ == "__main__":
    main()

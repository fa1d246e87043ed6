"""The embedded identity of a served Caisson, used by the clients that people use."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openstack
import pytest
import yaml
from keystoneauth1 import discover
from keystoneauth1.identity import v3
from keystoneauth1.session import Session as KeystoneSession

from tests.stack.keystone import ADMIN_PASSWORD, Keystone
from tests.stack.session import Stack, free_port

PROGRAMS = Path(sys.executable).parent
PASSWORD = "pw-of-admin"


class Served:
    """A Caisson process with its embedded identity and no engine."""

    def __init__(self, url: str, log: Path, folder: Path) -> None:
        self.url = url
        self.log = log
        self._folder = folder

    @property
    def identity(self) -> str:
        return f"{self.url}/identity"

    def cloud(self, name: str, auth: dict[str, Any], **more: Any) -> None:
        """Adds a cloud to the clouds.yaml that `run` uses."""
        file = self._folder / "clouds.yaml"
        clouds = yaml.safe_load(file.read_text()) if file.exists() else {"clouds": {}}
        clouds["clouds"][name] = {"auth": {"auth_url": self.identity} | auth, "region_name": "RegionOne"} | more
        file.write_text(yaml.safe_dump(clouds))

    def user(self, name: str, password: str, project: str = "demo") -> None:
        """Adds a cloud of the same name by which this user logs in."""
        domains = {"user_domain_name": "Default", "project_domain_name": "Default"}
        self.cloud(name, {"username": name, "password": password, "project_name": project} | domains)

    def run(self, cloud: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real ``openstack`` command."""
        return subprocess.run(
            [str(PROGRAMS / "openstack"), "--os-cloud", cloud, *arguments],
            env=os.environ | {"OS_CLIENT_CONFIG_FILE": str(self._folder / "clouds.yaml")},
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, cloud: str, *arguments: str) -> Any:
        """What the command prints as JSON; it must end well and complain about nothing."""
        done = self.run(cloud, *arguments, "-f", "json")
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    def quiet(self, cloud: str, *arguments: str) -> None:
        """A command that prints nothing when it works."""
        done = self.run(cloud, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


@pytest.fixture(scope="module")
def serve(stack: Stack) -> Iterator[Callable[..., Served]]:
    """Starts Caisson processes; takes environment variables."""
    services = []

    def start(**environment: str) -> Served:
        port = free_port()
        folder = stack.folder("identity")
        url = f"http://127.0.0.1:{port}"
        settings = {
            "CAISSON_PORT": str(port),
            "CAISSON_DATA_DIR": str(folder / "data"),
            "CAISSON_BACKENDS__LOCAL__URL": f"unix://{folder}/no-engine.sock",
        }
        service = stack.spawn(
            folder.name,
            [str(PROGRAMS / "caisson"), "serve"],
            log=folder / "log",
            ready=lambda: answers(f"{url}/healthcheck"),
            environment=settings | environment,
        )
        services.append(service)
        return Served(url, folder / "log", folder)

    yield start
    for service in services:
        stack.stop(service)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    served = serve(CAISSON_IDENTITY__ADMIN_PASSWORD=PASSWORD)
    served.user("admin", PASSWORD)
    return served


def test_the_first_start_prints_the_password_once(serve: Callable[..., Served]) -> None:
    served = serve()
    told = re.findall(r"password (\S+)", served.log.read_text())
    assert len(told) == 1
    served.user("admin", told[0])
    assert served.ok("admin", "token", "issue")["id"]


def test_a_new_user_is_made_and_works(served: Served) -> None:
    served.ok("admin", "project", "create", "lab", "--description", "a place to work")
    served.ok("admin", "user", "create", "alice", "--project", "lab", "--password", "pw", "--email", "a@example.org")
    served.quiet("admin", "role", "add", "--user", "alice", "--project", "lab", "member")
    assignments = served.ok("admin", "role", "assignment", "list", "--names", "--user", "alice", "--effective")
    assert {(one["Role"], one["Project"]) for one in assignments} == {
        ("member", "lab@Default"),
        ("reader", "lab@Default"),
    }
    served.user("alice", "pw", "lab")
    project = served.ok("alice", "token", "issue")["project_id"]
    assert served.ok("alice", "project", "show", project)["name"] == "lab"
    assert [one["Name"] for one in served.ok("alice", "project", "list")] == ["lab"]
    refused = served.run("alice", "user", "create", "mallory")
    assert refused.returncode == 1
    assert "403" in refused.stderr
    served.quiet("alice", "user", "password", "set", "--original-password", "pw", "--password", "pw2")
    assert served.run("alice", "token", "issue").returncode == 1
    served.user("alice", "pw2", "lab")
    assert served.ok("alice", "appcontainer", "list") == []
    served.quiet("admin", "role", "remove", "--user", "alice", "--project", "lab", "member")
    assert served.run("alice", "appcontainer", "list").returncode == 1
    served.quiet("admin", "user", "delete", "alice")
    served.quiet("admin", "project", "delete", "lab")


def test_an_application_credential_drives_the_client(served: Served) -> None:
    made = served.ok("admin", "application", "credential", "create", "ci", "--role", "reader")
    auth = {"application_credential_id": made["ID"], "application_credential_secret": made["Secret"]}
    served.cloud("ci", auth, auth_type="v3applicationcredential")
    assert served.ok("ci", "appcontainer", "list") == []
    assert served.run("ci", "user", "list").returncode == 1
    assert [one["Name"] for one in served.ok("admin", "application", "credential", "list")] == ["ci"]
    served.quiet("admin", "application", "credential", "delete", "ci")
    assert served.run("ci", "appcontainer", "list").returncode == 1


def test_the_catalogue_is_what_the_client_uses(served: Served) -> None:
    listed = served.ok("admin", "catalog", "list")
    assert {service["Type"] for service in listed} == {"identity", "container", "container-infra"}
    versions = served.ok("admin", "versions", "show")
    assert {version["Service Type"] for version in versions} == {
        "identity", "application-container", "container-infrastructure-management",
    }  # fmt: skip
    endpoints = served.ok("admin", "endpoint", "list", "--interface", "public")
    assert {endpoint["URL"] for endpoint in endpoints} == {
        f"{served.url}/identity/v3", f"{served.url}/container/v1", f"{served.url}/container-infra/v1",
    }  # fmt: skip
    for noun in ("domain", "service", "region", "role", "user"):
        assert served.ok("admin", noun, "list")


def test_a_revoked_token_opens_nothing(served: Served) -> None:
    token = served.ok("admin", "token", "issue")["id"]
    headers = {"X-Auth-Token": token}
    assert httpx.get(f"{served.url}/v1/containers", headers=headers).status_code == 200
    served.quiet("admin", "token", "revoke", token)
    refused = httpx.get(f"{served.url}/v1/containers", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{served.identity}"'


@pytest.mark.parametrize("suffix", ["", "/", "/v3", "/v3/"])
def test_keystoneauth_finds_v3_from_any_address(served: Served, suffix: str) -> None:
    found = discover.Discover(KeystoneSession(), f"{served.identity}{suffix}").version_data()
    assert [(one["version"], one["url"]) for one in found] == [((3, 14), f"{served.identity}/v3/")]


@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")  # it speaks to itself
def test_the_sdk_manages_and_lists(served: Served) -> None:
    settings: dict[str, Any] = {
        "auth_url": served.identity,
        "username": "admin",
        "password": PASSWORD,
        "project_name": "demo",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": "RegionOne",
    }
    connection = openstack.connect(load_yaml_config=False, load_envvars=False, **settings)
    try:
        identity: Any = connection.identity
        project = identity.create_project(name="by-sdk")
        user = identity.create_user(name="sdk-user", password="pw", default_project_id=project.id)
        role = identity.find_role("member")
        identity.assign_project_role_to_user(project, user, role)
        assert identity.validate_user_has_project_role(project, user, role)
        assert [one.name for one in identity.user_projects(user)] == ["by-sdk"]
        identity.unassign_project_role_from_user(project, user, role)
        assert not identity.validate_user_has_project_role(project, user, role)
        identity.delete_user(user)
        identity.delete_project(project)
        assert connection.application_container.get("/containers").json()["containers"] == []
    finally:
        connection.close()


def test_keystoneauth_rescopes(served: Served) -> None:
    domain: dict[str, Any] = {"user_domain_id": "default", "username": "admin", "password": PASSWORD}
    session = KeystoneSession(v3.Password(f"{served.identity}/v3", unscoped=True, **domain))
    token = session.get_token()
    assert token is not None
    project = session.get(f"{served.identity}/v3/auth/projects").json()["projects"][0]
    scoped = v3.Token(f"{served.identity}/v3", token, project_id=project["id"])
    assert KeystoneSession(scoped).get_project_id() == project["id"]


def test_it_is_not_served_to_other_machines_by_accident(stack: Stack) -> None:
    environment = os.environ | {"CAISSON_HOST": "0.0.0.0", "CAISSON_DATA_DIR": str(stack.folder("remote"))}  # noqa: S104
    done = subprocess.run(
        [str(PROGRAMS / "caisson"), "serve"], env=environment | {"CAISSON_PORT": str(free_port())}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CAISSON_IDENTITY__ALLOW_REMOTE" in done.stderr
    assert "Traceback" not in done.stderr


# The same calls to the real Keystone and to the embedded identity


class Both:
    """Calls either identity as its administrator."""

    def __init__(self, url: str, user: str, password: str, project: str) -> None:
        self.url = url
        self.user = {"name": user, "domain": {"id": "default"}, "password": password}
        self.scope: Any = {"project": {"name": project, "domain": {"id": "default"}}}
        answer = self.log_in()
        self.token = answer.headers["X-Subject-Token"]
        self.user_id = answer.json()["token"]["user"]["id"]

    def log_in(self, scope: Any = None, **user: Any) -> httpx.Response:
        identity = {"methods": ["password"], "password": {"user": self.user | user}}
        return self.send("POST", "/auth/tokens", {"auth": {"identity": identity, "scope": scope or self.scope}})

    def call(self, method: str, path: str, body: Any = None, subject: str = "") -> httpx.Response:
        headers = {"X-Auth-Token": self.token} | ({"X-Subject-Token": subject} if subject else {})
        return self.send(method, path.format(user=self.user_id), body, headers)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.request(method, self.url + path, json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def both(served: Served, keystone: Keystone) -> tuple[Both, Both]:
    ours = Both(f"{served.identity}/v3", "admin", PASSWORD, "demo")
    return ours, Both(keystone.url, "admin", ADMIN_PASSWORD, "admin")


Call = Callable[[Both], httpx.Response]
CREDENTIAL = "/users/{user}/application_credentials"
SAME: dict[str, Call] = {
    "versions": lambda it: httpx.get(it.url.removesuffix("v3")),
    "version": lambda it: it.send("GET", ""),
    "no token": lambda it: it.send("GET", "/users"),
    "bad token": lambda it: it.send("GET", "/users", headers={"X-Auth-Token": "bad"}),
    "password": lambda it: it.log_in(),
    "unscoped": lambda it: it.log_in("unscoped"),
    "wrong password": lambda it: it.log_in(password="wrong"),
    "unknown user": lambda it: it.log_in(name="nobody"),
    "unknown project": lambda it: it.log_in({"project": {"id": "nothing"}}),
    "no body": lambda it: it.send("POST", "/auth/tokens"),
    "empty login": lambda it: it.send("POST", "/auth/tokens", {}),
    "no methods": lambda it: it.send("POST", "/auth/tokens", {"auth": {"identity": {}}}),
    "show a token": lambda it: it.call("GET", "/auth/tokens", subject=it.token),
    "head of a token": lambda it: it.call("HEAD", "/auth/tokens", subject=it.token),
    "show no token": lambda it: it.call("GET", "/auth/tokens", subject="bad"),
    "revoke a bad token": lambda it: it.call("DELETE", "/auth/tokens", subject="bad"),
    "revoke": lambda it: it.call("DELETE", "/auth/tokens", subject=it.log_in().headers["X-Subject-Token"]),
    "catalogue": lambda it: it.call("GET", "/auth/catalog"),
    "own projects": lambda it: it.call("GET", "/auth/projects"),
    "a project": lambda it: it.call("POST", "/projects", {"project": {"name": os.urandom(8).hex()}}),
    "a user": lambda it: it.call(
        "POST", "/users", {"user": {"name": os.urandom(8).hex(), "password": "pw", "default_project_id": "nothing"}}
    ),
    "users": lambda it: it.call("GET", "/users?name=nobody"),
    "a credential": lambda it: it.call("POST", CREDENTIAL, {"application_credential": {"name": os.urandom(8).hex()}}),
    "unknown": lambda it: it.call("GET", "/users/nobody"),
    "a user without a name": lambda it: it.call("POST", "/users", {"user": {}}),
    "a user twice": lambda it: it.call("POST", "/users", {"user": {"name": "admin"}}),
    "another domain": lambda it: it.call("POST", "/users", {"user": {"name": "x", "domain_id": "nothing"}}),
    "a project without a name": lambda it: it.call("POST", "/projects", {"project": {}}),
    "a long project name": lambda it: it.call("POST", "/projects", {"project": {"name": "x" * 65}}),
    "projects of domains": lambda it: it.call("GET", "/projects?domain_id=nothing"),
    "roles": lambda it: it.call("GET", "/roles?name=member"),
    "a role on nothing": lambda it: it.call("PUT", "/projects/nothing/users/{user}/roles/nothing"),
    "assignments": lambda it: it.call("GET", f"/role_assignments?user.id={it.user_id}&scope.project.id=nothing"),
    "credentials": lambda it: it.call("GET", f"{CREDENTIAL}?name=nothing"),
    "a credential without a name": lambda it: it.call("POST", CREDENTIAL, {"application_credential": {}}),
    "a role it lacks": lambda it: it.call(
        "POST", CREDENTIAL, {"application_credential": {"name": "x", "roles": [{"id": "nothing"}]}}
    ),
    "domains": lambda it: it.call("GET", "/domains?name=Default"),
    "regions": lambda it: it.call("GET", "/regions/RegionOne"),
    "an unknown service": lambda it: it.call("GET", "/services/nothing"),
    "wrong old password": lambda it: it.call(
        "POST", "/users/{user}/password", {"user": {"password": "x", "original_password": "wrong"}}
    ),
}


def shape(value: Any) -> Any:
    """Keys and nesting, without the values; of a list the first entry stands for all."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


@pytest.mark.parametrize("what", SAME)
def test_keystone_answers_alike(both: tuple[Both, Both], what: str) -> None:
    ours, theirs = (SAME[what](identity) for identity in both)
    assert ours.status_code == theirs.status_code, (ours.text, theirs.text)
    assert bool(ours.content) == bool(theirs.content)
    for header in ("WWW-Authenticate", "X-Subject-Token", "Vary"):
        assert (header in ours.headers) == (header in theirs.headers), header
    if theirs.content:
        assert shape(ours.json()) == shape(theirs.json())

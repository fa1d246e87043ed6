"""The services that all other tests stand on: that they are real, apart from one another, and gone in the end."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.stack import docker, images, postgres
from tests.stack.docker import PrivateDocker
from tests.stack.glance import Glance
from tests.stack.keystone import Keystone
from tests.stack.neutron import Neutron
from tests.stack.postgres import Postgres
from tests.stack.registry import Registry
from tests.stack.session import ROOT, VARIABLE, Stack, wait_until

A_SESSION_THAT_WAITS = """
import sys
from tests.stack.session import Stack
stack = Stack.open()
service = stack.spawn("sleeper", ["sleep", "1000"], log=stack.directory / "log", ready=lambda: True)
print(stack.directory, service.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_services_end_with_their_session_however_it_ends(end: signal.Signals) -> None:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    with subprocess.Popen(
        [sys.executable, "-c", A_SESSION_THAT_WAITS],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as session:
        assert session.stdout is not None
        directory, pid = session.stdout.readline().split()
        assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        session.send_signal(end)
        session.wait()
        wait_until(lambda: not Path(directory).exists(), "the guard to clean up")
    comm = Path(f"/proc/{pid}/comm")
    assert not comm.exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _pull(url: str, image: str, login: dict[str, str | None] | None = None) -> str:
    headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login or {}).encode()).decode()}
    with docker.client(url) as http:
        return http.post("/images/create", params={"fromImage": image}, headers=headers).text


def test_an_image_comes_from_the_open_registry(docker_url: str, busybox_image: str, registry: Registry) -> None:
    name = registry.push(docker_url, "team/tool:1")
    with docker.client(docker_url) as http:
        assert http.get(f"/images/{name}/json").status_code == 404
        assert "Downloaded newer image" in _pull(docker_url, name)
        assert http.get(f"/images/{name}/json").status_code == 200
    images.remove(docker_url, name)


def test_the_private_registry_wants_its_password(
    docker_url: str, busybox_image: str, private_registry: Registry
) -> None:
    name = private_registry.push(docker_url, "team/secret:1")
    assert "no basic auth credentials" in _pull(docker_url, name)
    login = {"username": private_registry.username, "password": private_registry.password}
    assert "Downloaded newer image" in _pull(docker_url, name, login)
    images.remove(docker_url, name)


def test_databases_are_new_and_apart(postgres_server: Postgres, postgres: Callable[[], str]) -> None:
    first, second = (url.rpartition("/")[2] for url in (postgres(), postgres()))
    postgres_server.sql("CREATE TABLE thing (a int)", first)
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert (postgres_server.sql(count, first), postgres_server.sql(count, second)) == ("1", "0")


def test_a_crashed_database_server_keeps_what_was_committed(stack: Stack, private_postgres: Postgres) -> None:
    private_postgres.create("kept")
    private_postgres.sql("CREATE TABLE thing (a int)", "kept")
    private_postgres.sql("INSERT INTO thing VALUES (1)", "kept")
    restarted = postgres.restart(stack, private_postgres)
    assert restarted.url("kept") == private_postgres.url("kept")
    assert restarted.sql("SELECT a FROM thing", "kept") == "1"


@pytest.mark.parametrize("kind", ["keystone", "keystone_jws"])
def test_keystone_knows_the_seed(kind: str, request: pytest.FixtureRequest) -> None:
    keystone: Keystone = request.getfixturevalue(kind)
    token = keystone.token("alpha-member")
    assert token.startswith("eyJ") == (kind == "keystone_jws")
    seen = keystone.describe(token)
    assert (seen["user"]["name"], seen["project"]["name"]) == ("alpha-member", "alpha")
    assert {role["name"] for role in seen["roles"]} == {"member", "reader"}
    credential = keystone.application_credential("alpha-admin", name=f"of-{kind}", roles=["reader"])
    assert [role["name"] for role in keystone.describe(keystone.token_of_credential(*credential))["roles"]] == [
        "reader"
    ]
    keystone.revoke(token)
    with pytest.raises(httpx.HTTPStatusError):
        keystone.describe(token)


def test_glance_keeps_what_a_project_uploads_from_other_projects(glance: Glance, keystone: Keystone) -> None:
    owner, other = keystone.token("alpha-member"), keystone.token("beta-member")
    image = glance.upload(owner, "stack-test", b"not really an image")
    assert glance.call("GET", f"/v2/images/{image}", owner).json()["status"] == "active"
    assert glance.call("GET", f"/v2/images/{image}/file", owner).content == b"not really an image"
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        glance.call("GET", f"/v2/images/{image}", other)
    glance.call("DELETE", f"/v2/images/{image}", owner)


def test_each_gateway_has_a_region_of_its_own(keystone: Keystone) -> None:
    region = keystone.region("http://127.0.0.1:1/v1", image="http://127.0.0.1:2")
    assert keystone.region("http://127.0.0.1:1/v1") == region
    catalog = keystone.request("GET", "/auth/catalog", token=keystone.token("beta-reader")).json()["catalog"]
    urls = {
        service["type"]: endpoint["url"]
        for service in catalog
        for endpoint in service["endpoints"]
        if (endpoint["region"], endpoint["interface"]) == (region, "public")
    }
    expected = {"container": "http://127.0.0.1:1/v1", "identity": keystone.url, "image": "http://127.0.0.1:2"}
    assert urls == expected


def test_neutron_gives_addresses_and_default_rules(keystone: Keystone, neutron: Neutron) -> None:
    token = keystone.token("alpha-member")
    net, subnet = neutron.network(token, "stack", "10.99.0.0/24")
    port = neutron.create(token, "port", network_id=net["id"])
    assert port["fixed_ips"][0]["subnet_id"] == subnet["id"]
    assert port["fixed_ips"][0]["ip_address"].startswith("10.99.0.")
    (group,) = neutron.find(token, "security-group", id=port["security_groups"])
    assert group["name"] == "default"
    given = {(rule["direction"], rule["ethertype"], rule["remote_group_id"]) for rule in group["security_group_rules"]}
    for version in ("IPv4", "IPv6"):  # others may have added to them
        assert {("egress", version, None), ("ingress", version, group["id"])} <= given
    assert neutron.find(keystone.token("beta-member"), "network", id=net["id"]) == []


def test_tokens_of_a_private_keystone_can_expire(private_keystone: Callable[..., Keystone]) -> None:
    keystone = private_keystone(expiration=1)
    token = keystone.token()

    def expired() -> bool:
        try:
            keystone.describe(token)
        except httpx.HTTPStatusError as error:
            return error.response.status_code == 404
        return False

    wait_until(expired, "the token to expire")


def test_a_private_engine_dies_and_comes_back_with_its_containers(private_docker: PrivateDocker) -> None:
    with docker.client(private_docker.url) as http:
        # Its own process number 1 would ignore SIGTERM, and the engine would wait ten seconds for it.
        command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
        made = http.post("/containers/create", json={"Image": images.BUSYBOX, "Cmd": command}).json()
        assert http.post(f"/containers/{made['Id']}/start").status_code == 204
    private_docker.kill()
    assert not docker.answers(private_docker.url)
    private_docker.start()
    with docker.client(private_docker.url) as http:
        assert http.get(f"/containers/{made['Id']}/json").json()["State"]["Status"] == "exited"
        assert http.post(f"/containers/{made['Id']}/start").status_code == 204
    private_docker.restart()
    with docker.client(private_docker.url) as http:
        assert http.get(f"/containers/{made['Id']}/json").json()["State"]["ExitCode"] == 0

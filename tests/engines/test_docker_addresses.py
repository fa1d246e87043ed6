"""Why a rebuilt container may get another address: what it would cost to ask Docker for the old one."""

import secrets
from collections.abc import Iterator

import httpx
import pytest

from tests.stack.docker import client
from tests.stack.images import BUSYBOX

SUBNET, ADDRESS = "10.219.77.0/24", "10.219.77.2"
SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def network(docker_url: str, busybox_image: str) -> Iterator[tuple[httpx.Client, str]]:
    """A network with a subnet of its own, as a project's is; it goes with all that is on it."""
    name = f"caisson-test-{secrets.token_hex(4)}"
    with client(docker_url) as http:
        config = {"Name": name, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": SUBNET}]}}
        http.post("/networks/create", json=config).raise_for_status()
        yield http, name
        for box in http.get("/containers/json", params={"all": "true"}).json():
            if name in box["NetworkSettings"]["Networks"]:
                http.delete(f"/containers/{box['Id']}", params={"force": "true"})
        http.delete(f"/networks/{name}")


def test_who_asked_for_an_address_cannot_start_once_another_has_got_it(network: tuple[httpx.Client, str]) -> None:
    """Addresses belong to what runs, the lowest free one is next: so after a stop, or when the daemon starts anew."""
    http, name = network

    def make(address: str | None) -> str:
        wish = {"IPAMConfig": {"IPv4Address": address}} if address else {}
        body = {
            "Image": BUSYBOX,
            "Cmd": SLEEPER,
            "HostConfig": {"NetworkMode": name},
            "NetworkingConfig": {"EndpointsConfig": {name: wish}},
        }
        return str(http.post("/containers/create", json=body).raise_for_status().json()["Id"])

    def address_of(ref: str) -> str:
        return str(http.get(f"/containers/{ref}/json").json()["NetworkSettings"]["Networks"][name]["IPAddress"])

    rebuilt, other = make(ADDRESS), make(None)
    http.post(f"/containers/{rebuilt}/start").raise_for_status()
    assert address_of(rebuilt) == ADDRESS
    http.post(f"/containers/{rebuilt}/stop", params={"t": 1}).raise_for_status()
    http.post(f"/containers/{other}/start").raise_for_status()
    assert address_of(other) == ADDRESS
    refused = http.post(f"/containers/{rebuilt}/start")
    assert refused.status_code >= 400
    assert "Address already in use" in refused.text

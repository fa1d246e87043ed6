"""openstacksdk: its adapter of the container API, by the catalogue and with microversions as it writes them."""

from collections.abc import Iterator
from typing import Any

import openstack
import pytest

from tests.e2e.served import Gateway
from tests.stack.images import BUSYBOX

SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"]


@pytest.fixture
def containers(gateway: Gateway) -> Iterator[Any]:
    """``cloud.application_container`` of a member of project alpha; it has no methods but those of HTTP."""
    login = gateway.keystone.environment("alpha-member")
    cloud = openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_url=login["OS_AUTH_URL"],
        username=login["OS_USERNAME"],
        password=login["OS_PASSWORD"],
        project_name=login["OS_PROJECT_NAME"],
        user_domain_id="default",
        project_domain_id="default",
        region_name=gateway.region,
    )
    yield cloud.application_container
    cloud.close()


def test_a_life(gateway: Gateway, containers: Any) -> None:
    wish = {"name": "by-sdk", "image": BUSYBOX, "command": SLEEPER, "memory": "64"}
    made = containers.post("/containers", json=wish, params={"run": "true"}, microversion="1.40")
    assert (made.status_code, made.headers["OpenStack-API-Version"]) == (202, "container 1.40")
    uuid = made.json()["uuid"]
    gateway.become(uuid, "Running")

    shown = containers.get("/containers/by-sdk", microversion="1.40").json()
    assert (shown["uuid"], shown["command"], shown["memory"]) == (uuid, SLEEPER, "64")
    assert [box["uuid"] for box in containers.get("/containers").json()["containers"]] == [uuid]
    query = {"command": "echo hello"}
    ran = containers.post(f"/containers/{uuid}/execute", params=query, microversion="1.40").json()
    assert (ran["output"], ran["exit_code"]) == ("hello\n", 0)
    assert containers.get(f"/containers/{uuid}/logs").json() == "ready\n"
    changed = containers.patch(f"/containers/{uuid}", json={"name": "renamed"}, microversion="1.40")
    assert changed.json()["name"] == "renamed"
    for verb, status in (("pause", "Paused"), ("unpause", "Running"), ("stop", "Stopped"), ("start", "Running")):
        assert containers.post(f"/containers/renamed/{verb}", microversion="1.40").status_code == 202
        gateway.become(uuid, status)
    gone = containers.delete(f"/containers/{uuid}", params={"stop": "true"}, microversion="1.40")
    assert gone.status_code == 204
    gateway.become(uuid, "Gone")


def test_a_version_by_discovery_by_number_and_by_latest(gateway: Gateway, containers: Any) -> None:
    found = containers.get_endpoint_data()
    assert (found.min_microversion, found.max_microversion) == ((1, 1), (1, 40))
    wish = {"image": BUSYBOX, "command": SLEEPER}
    uuid = containers.post("/containers", json=wish, microversion="1.40").json()["uuid"]
    gateway.become(uuid, "Created")
    # Versions before 1.20 show a command as text, and 1.1 is what a caller gets that names none.
    for version, answered, kind in (("1.19", "1.19", str), ("1.20", "1.20", list), ("latest", "1.40", list)):
        shown = containers.get(f"/containers/{uuid}", microversion=version)
        assert shown.headers["OpenStack-API-Version"] == f"container {answered}"
        assert isinstance(shown.json()["command"], kind)
    assert containers.get(f"/containers/{uuid}").headers["OpenStack-API-Version"] == "container 1.1"
    refused = containers.get(f"/containers/{uuid}", microversion="1.41")
    assert refused.status_code == 406


def test_refusals_are_told_in_words_that_the_sdk_shows(containers: Any) -> None:
    absent = containers.get("/containers/nobody", microversion="1.40")
    with pytest.raises(openstack.exceptions.NotFoundException, match="nobody could not be found"):
        openstack.exceptions.raise_from_response(absent)
    too_much = containers.post("/containers", json={"image": BUSYBOX, "memory": "1000000"}, microversion="1.40")
    with pytest.raises(openstack.exceptions.BadRequestException, match="memory"):
        openstack.exceptions.raise_from_response(too_much)

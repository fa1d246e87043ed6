"""openstacksdk: its adapter of the container API, by the catalogue and with microversions as it writes them."""

from collections.abc import Iterator
from typing import Any

import openstack
import pytest

from tests.e2e.served import Gateway
from tests.stack.images import BUSYBOX

pytestmark = pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")  # it speaks to itself

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
    for version, answered in (("1.7", "1.7"), ("1.40", "1.40"), ("latest", "1.40")):
        shown = containers.get(f"/containers/{uuid}", microversion=version)
        assert shown.headers["OpenStack-API-Version"] == f"container {answered}"
        assert shown.json()["uuid"] == uuid
    # What a caller gets that names none.
    assert containers.get(f"/containers/{uuid}").headers["OpenStack-API-Version"] == "container 1.1"
    refused = containers.get(f"/containers/{uuid}", microversion="1.41")
    assert refused.status_code == 406


def test_refusals_are_the_sdks_exceptions_with_our_words(containers: Any) -> None:
    """The SDK looks for a message elsewhere than Zun's API puts it; the answer is with the exception."""
    too_much = {"image": BUSYBOX, "memory": "1000000"}
    for answer, kind, words in (
        (containers.get("/containers/nobody"), openstack.exceptions.NotFoundException, "nobody could not be found"),
        (containers.post("/containers", json=too_much), openstack.exceptions.BadRequestException, "memory"),
    ):
        with pytest.raises(kind):
            openstack.exceptions.raise_from_response(answer)
        assert words in answer.json()["errors"][0]["title"]

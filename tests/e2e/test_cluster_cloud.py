"""A real Glance and a real Neutron beside the gateway: what a caller sees there is what clusters may be made of."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.served import Gateway, serve
from tests.stack.glance import Glance
from tests.stack.keystone import Keystone
from tests.stack.neutron import Neutron
from tests.stack.session import Stack

MAGNUM = "/container-infra/v1"
LATEST = {"OpenStack-API-Version": "container-infra latest"}


@pytest.fixture(scope="module")
def gateway(
    stack: Stack, keystone: Keystone, glance: Glance, neutron: Neutron, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose engine is not there: nothing gets that far."""
    folder = tmp_path_factory.mktemp("gateway")
    images = {"node-of-alpha": {"os_distro": "not-what-glance-says"}}
    settings = {"CAISSON_CLUSTERS__IMAGES": json.dumps(images), "CAISSON_CLUSTERS__FLAVORS": "{}"}
    services = {"image": glance.url, "network": neutron.url}
    with serve(stack, folder, keystone, f"unix://{folder}/no-engine.sock", services, **settings) as served:
        yield served


@pytest.fixture(autouse=True)
def _no_containers_left() -> None:
    """In the place of the folder's, which asks the engine."""


def ask(gateway: Gateway, user: str = "alpha-member", **fields: Any) -> tuple[int, Any]:
    """How a template is answered: the status, and the template or the sentence."""
    body = {"coe": "swarm-mode", "image_id": "node-of-alpha", **fields}
    token = gateway.keystone.token(user)
    answer = gateway.call("POST", f"{MAGNUM}/clustertemplates", token, json=body, headers=LATEST)
    shown = answer.json()
    return answer.status_code, shown if answer.status_code == 201 else shown["errors"][0]["detail"]


def test_images_are_those_of_glance(gateway: Gateway, glance: Glance) -> None:
    token = gateway.keystone.token("alpha-member")
    ident = glance.upload(token, "node-of-alpha", b"x", container_format="bare", os_distro="debian")
    for image in ("node-of-alpha", ident):
        status, made = ask(gateway, image_id=image)
        assert (status, made["image_id"], made["cluster_distro"]) == (201, image, "debian")
    assert ask(gateway, "beta-member") == (400, "Image node-of-alpha could not be found.")
    glance.upload(token, "without-a-system", b"x")
    assert ask(gateway, image_id="without-a-system")[1] == "Image without-a-system doesn't contain os_distro field."
    glance.upload(token, "not-for-nodes", b"x", os_distro="debian")
    status, said = ask(gateway, image_id="not-for-nodes")
    assert (status, said) == (400, "Image not-for-nodes is no image for nodes. There are: node-of-alpha.")
    twins = [glance.upload(token, "twin", b"x", os_distro="debian") for _ in range(2)]
    assert ask(gateway, image_id="twin")[0] == 409
    assert twins


def test_networks_are_those_of_neutron(gateway: Gateway, glance: Glance, neutron: Neutron) -> None:
    member, admin = gateway.keystone.token("beta-member"), gateway.keystone.token("admin", "admin")
    glance.upload(member, "node-of-alpha", b"x", os_distro="debian")  # beta's own of that name
    outside = neutron.create(admin, "network", name="outside", **{"router:external": True})
    net, subnet = neutron.network(member, "inside", "10.77.0.0/24")
    for fields in (
        {"external_network_id": "outside"}, {"external_network_id": outside["id"]},
        {"fixed_network": "inside"},
        {"fixed_network": net["id"], "fixed_subnet": subnet["id"]},
    ):  # fmt: skip
        assert ask(gateway, "beta-member", **fields)[0] == 201
    for fields, noun in (
        ({"external_network_id": "inside"}, "external network inside"),
        ({"fixed_network": "public"}, "fixed network public"),
        ({"fixed_subnet": "inside"}, "fixed subnet inside"),
    ):
        assert ask(gateway, "beta-member", **fields) == (400, f"Unable to find {noun}.")
    neutron.network(member, "inside", "10.78.0.0/24")
    status, said = ask(gateway, "beta-member", fixed_network="inside")
    assert (status, "use the id" in said) == (409, True)

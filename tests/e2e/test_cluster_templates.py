"""Cluster templates by the clients that people use, unmodified, with a real Keystone."""

import json
import re
from collections.abc import Iterator
from typing import Any

import openstack
import pytest
from magnumclient.v1 import client as magnum

from tests.e2e.served import CommandError, Gateway, serve
from tests.stack.keystone import Keystone
from tests.stack.session import Stack

IMAGES = {"swarm-node": {"os_distro": "debian"}, "kube-node": {"os_distro": "ubuntu"}}
FLAVORS = {"small": {"cpus": 1, "memory": 1024}}


@pytest.fixture(scope="module")
def gateway(stack: Stack, keystone: Keystone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose engine is not there: templates need none."""
    folder = tmp_path_factory.mktemp("gateway")
    images, flavors = json.dumps(IMAGES), json.dumps(FLAVORS)
    with serve(
        stack,
        folder,
        keystone,
        f"unix://{folder}/no-engine.sock",
        CAISSON_CLUSTERS__IMAGES=images,
        CAISSON_CLUSTERS__FLAVORS=flavors,
    ) as served:
        yield served


@pytest.fixture(autouse=True)
def _no_containers_left() -> None:
    """In the place of the folder's, which asks the engine."""


def template(gateway: Gateway, *words: str, user: str = "alpha-member") -> Any:
    """What ``openstack coe cluster template WORDS…`` prints as JSON."""
    printed = gateway.command("coe", "cluster", "template", *words, "-f", "json", user=user)
    return json.loads(re.sub(r"^Request to create .* accepted\n", "", printed))


def test_the_openstack_command(gateway: Gateway) -> None:
    made = template(
        gateway, "create", "lab", "--coe", "swarm-mode", "--image", "swarm-node", "--external-network", "public",
        "--flavor", "small", "--labels", "swarm_strategy=spread,tier=lab", "--docker-volume-size", "5",
    )  # fmt: skip
    assert (made["name"], made["coe"], made["driver"], made["cluster_distro"]) == (
        "lab",
        "swarm-mode",
        "swarm",
        "debian",
    )
    assert made["labels"] == {"swarm_strategy": "spread", "tier": "lab"}
    assert made["docker_volume_size"] == 5
    assert [row["name"] for row in template(gateway, "list")] == ["lab"]
    assert template(gateway, "list", "--limit", "1", "--sort-key", "name", user="beta-member") == []
    assert template(gateway, "show", "lab")["uuid"] == made["uuid"]
    changes = ("--dns-nameserver", "1.1.1.1", "--tag", "a", "--label", "zone=one", "--no-label", "tier")
    assert template(gateway, "update", "lab", *changes)["tags"] == "a"
    shown = template(gateway, "show", made["uuid"])
    assert (shown["dns_nameserver"], shown["tags"]) == ("1.1.1.1", "a")
    assert shown["labels"] == {"swarm_strategy": "spread", "zone": "one"}
    with pytest.raises(CommandError, match=r"public or hidden.*HTTP 403"):
        gateway.command("coe", "cluster", "template", "update", "lab", "--public")
    gateway.command("coe", "cluster", "template", "update", made["uuid"], "--public", user="alpha-admin")
    assert template(gateway, "show", "lab", user="beta-member")["uuid"] == made["uuid"]
    said = gateway.command("coe", "cluster", "template", "delete", "lab", user="beta-member")
    assert "HTTP 403" in said
    with pytest.raises(CommandError, match=r"Image nope could not be found.*HTTP 400"):
        template(gateway, "create", "x", "--coe", "swarm", "--image", "nope", "--external-network", "public")
    gateway.command("coe", "cluster", "template", "delete", "lab")
    with pytest.raises(CommandError, match="could not be found"):
        template(gateway, "show", made["uuid"])


@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")  # it speaks to itself
def test_magnumclient(gateway: Gateway) -> None:
    login = gateway.keystone.environment("alpha-member")
    client = magnum.Client(
        username=login["OS_USERNAME"],
        password=login["OS_PASSWORD"],
        auth_url=login["OS_AUTH_URL"],
        project_name=login["OS_PROJECT_NAME"],
        user_domain_id="default",
        project_domain_id="default",
        region_name=gateway.region,
        api_version="latest",
    )
    made = [
        client.cluster_templates.create(name=f"t{number}", coe="kubernetes", image_id="kube-node", labels={"a": "b"})
        for number in range(3)
    ]
    assert (made[0].network_driver, made[0].cluster_distro) == ("flannel", "ubuntu")
    assert [row.name for row in client.cluster_templates.list(sort_key="name")] == ["t0", "t1", "t2"]
    first = client.cluster_templates.list(limit=2, sort_key="name")
    assert [row.name for row in first] == ["t0", "t1"]
    patch = [{"op": "replace", "path": "/name", "value": "renamed"}]
    assert client.cluster_templates.update(made[0].uuid, patch).name == "renamed"
    assert client.cluster_templates.get("renamed").uuid == made[0].uuid
    for row in made:
        client.cluster_templates.delete(row.uuid)
    assert client.cluster_templates.list() == []


@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")  # it speaks to itself
def test_openstacksdk(gateway: Gateway) -> None:
    login = gateway.keystone.environment("alpha-member")
    cloud = openstack.connect(
        auth_url=login["OS_AUTH_URL"],
        username=login["OS_USERNAME"],
        password=login["OS_PASSWORD"],
        project_name=login["OS_PROJECT_NAME"],
        user_domain_id="default",
        project_domain_id="default",
        region_name=gateway.region,
    )
    proxy = cloud.container_infrastructure_management
    made = proxy.create_cluster_template(name="sdk", coe="swarm", image_id="swarm-node", labels={"a": "b"})
    assert (made.name, made.coe, made.is_public) == ("sdk", "swarm", False)
    assert [row.id for row in proxy.cluster_templates()] == [made.id]
    # The SDK leaves the name that it asked for in `id`.
    assert proxy.find_cluster_template("sdk", ignore_missing=False).uuid == made.uuid
    assert proxy.update_cluster_template(made, name="changed").name == "changed"
    assert proxy.get_cluster_template(made.id).name == "changed"
    proxy.delete_cluster_template(made)
    assert proxy.find_cluster_template("changed") is None
    cloud.close()

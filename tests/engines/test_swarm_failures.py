"""What a swarm that cannot be made says; swarms whose API is published, or open to everybody."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from app.backends.driver import ClusterFailed
from app.settings import ClusterSettings
from tests.engines.swarm_cluster import Swarm
from tests.stack import images

Swarms = Callable[..., Swarm]


async def test_an_image_that_no_registry_has(swarms: Swarms) -> None:
    cluster = swarms(1, 1, image="127.0.0.1:9/absent:1")
    with pytest.raises(ClusterFailed, match=r"image 127\.0\.0\.1:9/absent:1: .*refused"):
        await cluster.converge()


async def test_an_image_of_our_own_is_made_and_not_pulled(swarms: Swarms) -> None:
    cluster = swarms(1, 0, image="caisson/node-swarm:absent")
    with pytest.raises(
        ClusterFailed, match="caisson/node-swarm:absent is not in the engine: make it with scripts/node-"
    ):
        await cluster.converge()


async def test_an_image_without_an_engine(swarms: Swarms, busybox_image: str) -> None:
    cluster = swarms(1, 0, image=busybox_image)
    with pytest.raises(ClusterFailed, match=r"default-master-0: .*exit code 127\).*, 4 times; .*dockerd") as failed:
        await cluster.converge()
    assert set(failed.value.faults) == {cluster.spec.groups[0].uuid}


async def test_the_last_words_of_a_node_that_ends_are_told(swarms: Swarms, docker_url: str) -> None:
    words = 'ENTRYPOINT ["sh", "-c", "echo there is no engine here; exit 3"]'
    image = images.build(docker_url, "caisson-test/ends:1", changes=[words])
    cluster = swarms(1, 1)
    cluster.group(1, image=image)
    try:
        with pytest.raises(
            ClusterFailed, match=r"default-worker-0: .*exit code 3\)(.|\n)*there is no engine here"
        ) as failed:
            await cluster.converge()
        assert set(failed.value.faults) == {cluster.spec.groups[1].uuid}
        seen = await cluster.seen()
        assert seen.reasons["default-worker-0.Ready"].startswith("False: its container is ")
    finally:
        await cluster.driver.delete(cluster.spec.uuid)
        images.remove(docker_url, image)


async def test_a_failed_upgrade_can_be_taken_back(swarms: Swarms, busybox_image: str) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    good = cluster.spec
    cluster.group(1, image=busybox_image)
    with pytest.raises(ClusterFailed, match="default-worker-0"):
        await cluster.converge()
    cluster.spec = good
    await cluster.converge()
    assert set(cluster.members().values()) == {"Ready"}
    assert (await cluster.seen()).healthy


async def test_without_tls_everybody_may_ask(swarms: Swarms) -> None:
    cluster = swarms(1, 1, tls=False)
    await cluster.converge()
    await cluster.open()
    assert cluster.address.endswith(":2375")
    assert set(cluster.members().values()) == {"Ready"}
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{cluster.address.replace('tcp', 'http')}/info")
    assert answer.json()["Swarm"]["LocalNodeState"] == "active"


async def test_the_api_listens_where_it_is_wished(swarms: Swarms) -> None:
    cluster = swarms(1, 0, api_port=4243)
    await cluster.converge()
    await cluster.open()
    assert cluster.address.endswith(":4243")
    assert set(cluster.members().values()) == {"Ready"}


async def test_published_apis_have_ports_of_their_own(swarms: Swarms) -> None:
    published = ClusterSettings(publish_address="127.0.0.1")
    one, two = swarms(1, 0, published), swarms(1, 0, published)
    # Both begin to look for a port at the same place.
    two.spec = replace(two.spec, uuid=type(two.spec.uuid)(int=one.spec.uuid.int ^ (1 << 127) ^ 0))
    await asyncio.gather(one.converge(), two.converge())
    for cluster in (one, two):
        await cluster.open()
        assert cluster.address.startswith("tcp://127.0.0.1:")
        assert cluster.members() == {"default-master-0": "Ready"}
    assert one.address != two.address
    before = two.address
    (node,) = (await two.nodes()).values()
    await two.engine.stop_node(node.ref, 2)
    await two.healthy()
    await two.open()
    assert two.address == before


async def test_proxies_and_registries_reach_the_nodes(swarms: Swarms) -> None:
    wishes = {"http_proxy": "http://10.9.9.9:3128", "no_proxy": "10.0.0.0/8", "insecure_registry": "10.9.9.8:5000"}
    cluster = swarms(1, 0, name_servers=["10.9.9.7"], **wishes)
    await cluster.converge()
    await cluster.open()
    assert cluster.docker("info", "--format", "{{.HTTPProxy}} {{.NoProxy}}") == "http://10.9.9.9:3128 10.0.0.0/8"
    assert "10.9.9.8:5000" in cluster.docker("info", "--format", "{{json .RegistryConfig.IndexConfigs}}")
    assert "10.9.9.7" in cluster.docker("run", "--rm", "caisson/busybox:1", "cat", "/etc/resolv.conf")

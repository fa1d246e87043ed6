"""Nodes of clusters: on a network of their own, with addresses that stay; who looks for containers sees none."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.engine import Ability, Networks, State, Volumes
from app.backends.nodes import NodeNetwork, Nodes, NodeSeen, NodeSpec
from app.errors import Gone, Refused, Taken
from tests.conformance.place import Place

pytestmark = pytest.mark.needs(Ability.NODE)

STATE = "/var/lib/state"
ABSENT = "0" * 64


@dataclass
class Site:
    """A cluster of one test."""

    place: Place
    engine: Nodes
    network: NodeNetwork
    cluster: UUID
    group: UUID = field(default_factory=uuid4)

    def spec(self, name: str = "one", host: int = 10, **wishes: Any) -> NodeSpec:
        address = str(ip_network(self.network.subnet)[host])
        wish = NodeSpec(self.cluster, self.place.project, name, self.group, self.place.image, address)
        return replace(wish, **{"command": ["sleep", "1000"], **wishes})

    async def started(self, name: str = "one", host: int = 10, **wishes: Any) -> NodeSeen:
        made = await self.engine.create_node(self.spec(name, host, **wishes))
        await self.engine.start_node(made.ref)
        return await self.node(name)

    async def node(self, name: str = "one") -> NodeSeen:
        return next(seen for seen in await self.engine.nodes(self.cluster) if seen.name == name)

    async def text(self, ref: str, path: str) -> str | None:
        result = await self.engine.run_in_node(ref, ["cat", path])
        return result.output.decode() if result.exit_code == 0 else None


@pytest.fixture
async def site(place: Place) -> AsyncIterator[Site]:
    """A cluster with its network, removed afterwards."""
    assert isinstance(place.engine, Nodes)
    cluster = uuid4()
    network = await place.engine.ensure_node_network(cluster, place.project)
    yield Site(place, place.engine, network, cluster)
    assert await place.engine.remove_cluster(cluster)


async def test_a_cluster_has_one_network_of_its_own(site: Site) -> None:
    assert isinstance(site.place.twin, Nodes)
    asked = [engine.ensure_node_network(site.cluster, site.place.project) for engine in (site.engine, site.place.twin)]
    assert set(await asyncio.gather(*asked)) == {site.network}
    assert ip_address(site.network.gateway) in ip_network(site.network.subnet)
    other = uuid4()
    another = await site.engine.ensure_node_network(other, site.place.project)
    assert not ip_network(another.subnet).overlaps(ip_network(site.network.subnet))
    assert await site.engine.remove_cluster(other)


async def test_asked_for_at_once_it_is_made_once(site: Site) -> None:
    assert isinstance(site.place.twin, Nodes)
    cluster = uuid4()
    both = [site.engine, site.place.twin] * 3
    made = await asyncio.gather(*(engine.ensure_node_network(cluster, site.place.project) for engine in both))
    assert len(set(made)) == 1
    assert await site.engine.remove_cluster(cluster)


async def test_a_node_is_seen_as_wished(site: Site) -> None:
    spec = site.spec(labels={"role": "manager"}, memory=64, cpu=0.5)
    made = await site.engine.create_node(spec)
    assert (made.state, made.started_at) == (State.CREATED, None)
    assert (made.cluster, made.group, made.name, made.project_id) == (
        site.cluster, site.group, "one", site.place.project,
    )  # fmt: skip
    assert (made.image, made.address, made.labels) == (site.place.image, spec.address, {"role": "manager"})
    await site.engine.start_node(made.ref)
    await site.engine.start_node(made.ref)
    seen = await site.node()
    assert (seen.state, seen.ref) == (State.RUNNING, made.ref)
    assert seen.started_at is not None


async def test_made_twice_it_is_one(site: Site) -> None:
    assert isinstance(site.place.twin, Nodes)
    both = (site.engine, site.place.twin)
    made = await asyncio.gather(*(engine.create_node(site.spec()) for engine in both))
    assert len({seen.ref for seen in made}) == 1
    assert len(await site.engine.nodes(site.cluster)) == 1


async def test_without_its_image_no_node_is_made(site: Site) -> None:
    with pytest.raises(Gone):
        await site.engine.create_node(site.spec(image="conformance/absent:1"))


async def test_a_name_is_a_host_name(site: Site) -> None:
    for name in ("", "One", "a b", "../x", "x" * 64):
        with pytest.raises(Refused):
            await site.engine.create_node(site.spec(name))


async def test_an_address_is_given_once(site: Site) -> None:
    await site.started("one", 10)
    with pytest.raises(Taken, match="already in use"):
        await site.engine.create_node(site.spec("two", 10))


async def test_nodes_are_listed_by_name(site: Site) -> None:
    for host, name in enumerate(("c", "a", "b"), 10):
        await site.engine.create_node(site.spec(name, host))
    assert [seen.name for seen in await site.engine.nodes(site.cluster)] == ["a", "b", "c"]
    assert await site.engine.nodes(uuid4()) == []


async def test_files_are_there_before_the_start(site: Site) -> None:
    await site.engine.create_node(site.spec(files={"/certs/a/key.pem": b"secret"}))
    # As if the process had been killed between making it and writing the files: the next one writes them.
    node = await site.started(files={"/certs/a/key.pem": b"better", "/etc/motd": b"hello"})
    assert await site.text(node.ref, "/certs/a/key.pem") == "better"
    assert await site.text(node.ref, "/etc/motd") == "hello"
    await site.engine.create_node(site.spec(files={"/etc/motd": b"later"}))
    assert await site.text(node.ref, "/etc/motd") == "hello"
    await site.engine.put_files(node.ref, {"/etc/motd": b"later"})
    assert await site.text(node.ref, "/etc/motd") == "later"
    assert await site.text(node.ref, "/etc/absent") is None


async def test_stopped_and_started_it_keeps_its_address(site: Site) -> None:
    node = await site.started()
    await site.engine.stop_node(node.ref, 0)
    await site.engine.stop_node(node.ref, 0)
    stopped = await site.node()
    assert (stopped.state, stopped.address) == (State.EXITED, node.address)
    await site.engine.start_node(node.ref)
    assert (await site.node()).address == node.address
    await site.engine.stop_node(node.ref, 0)
    with pytest.raises(Taken):
        await site.engine.run_in_node(node.ref, ["true"])


async def test_volumes_outlive_the_container_but_not_the_node(site: Site) -> None:
    node = await site.started(volumes=[STATE], files={f"{STATE}/id": b"1", "/etc/motd": b"1"})
    await site.engine.remove_node(node.ref, keep_volumes=True)
    assert await site.engine.nodes(site.cluster) == []
    again = await site.started(volumes=[STATE])
    assert again.ref != node.ref
    assert await site.text(again.ref, f"{STATE}/id") == "1"
    assert await site.text(again.ref, "/etc/motd") != "1"
    await site.engine.remove_node(again.ref)
    await site.engine.remove_node(again.ref)
    anew = await site.started(volumes=[STATE])
    assert await site.text(anew.ref, f"{STATE}/id") is None
    # Whoever removed it was cut off before its volumes went.
    await site.engine.put_files(anew.ref, {f"{STATE}/id": b"2"})
    await site.engine.drop_strays(site.cluster)
    assert await site.text(anew.ref, f"{STATE}/id") == "2"
    await site.engine.remove_node(anew.ref, keep_volumes=True)
    await site.engine.drop_strays(site.cluster)
    last = await site.started(volumes=[STATE])
    assert await site.text(last.ref, f"{STATE}/id") is None


async def test_commands_run_with_and_without_input(site: Site) -> None:
    node = await site.started()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 16384

    assert (await site.engine.run_in_node(node.ref, ["true"])).exit_code == 0
    assert (await site.engine.run_in_node(node.ref, ["false"])).exit_code == 1
    fed = await site.engine.run_in_node(node.ref, ["cat"], stdin=pieces())
    assert (fed.exit_code, fed.output) == (0, b"".join([piece async for piece in pieces()]))
    with pytest.raises(Taken, match="within"):
        await site.engine.run_in_node(node.ref, ["sleep", "100"], timeout=0.2)
    with pytest.raises(Gone):
        await site.engine.run_in_node(ABSENT, ["true"])


async def test_the_log_of_an_absent_node_is_empty(site: Site) -> None:
    assert await site.engine.node_log(ABSENT) == ""
    with pytest.raises(Gone):
        await site.engine.start_node(ABSENT)


async def test_who_looks_for_containers_sees_no_node(site: Site) -> None:
    await site.started(volumes=[STATE])
    assert await site.place.mine() == []
    assert isinstance(site.place.engine, Volumes)
    assert site.place.project not in {volume.project_id for volume in await site.place.engine.volumes()}
    assert isinstance(site.place.engine, Networks)
    assert await site.place.engine.ensure_network(site.place.project) != site.network.name


async def test_of_a_removed_cluster_nothing_is_left(site: Site) -> None:
    assert isinstance(site.place.engine, Nodes)
    other = uuid4()
    await site.started(volumes=[STATE])
    assert site.cluster in await site.engine.clusters()
    assert await site.engine.remove_cluster(other)
    assert await site.engine.remove_cluster(site.cluster)
    assert site.cluster not in await site.engine.clusters()
    assert await site.engine.nodes(site.cluster) == []

"""Node containers on Docker: what the host lets them do, and how the engine looks after them."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.docker.engine import DockerEngine
from app.backends.engine import State
from app.backends.nodes import NodeSeen, NodeSpec
from app.errors import Refused, Unavailable
from app.settings import BackendSettings, ClusterSettings, Settings
from tests.conformance.place import Place
from tests.stack.docker import PrivateDocker, client
from tests.stack.images import BUSYBOX


@pytest.fixture
async def engine(place: Place) -> AsyncIterator[DockerEngine]:
    """An engine of the test's own name, whose clusters are removed afterwards."""
    assert isinstance(place.engine, DockerEngine)
    place.engine.installation = str(uuid4())
    yield place.engine
    for cluster in await place.engine.clusters():
        assert await place.engine.remove_cluster(cluster)


async def started(engine: DockerEngine, cluster: UUID, **wishes: Any) -> NodeSeen:
    """A running node that does nothing."""
    network = await engine.ensure_node_network(cluster, "project")
    address = str(ip_network(network.subnet)[10])
    wish = {"command": ["sleep", "1000"], **wishes}
    spec = NodeSpec(cluster, "project", "node", uuid4(), BUSYBOX, address, **wish)
    made = await engine.create_node(spec)
    await engine.start_node(made.ref)
    return (await engine.nodes(cluster))[0]


async def said(engine: DockerEngine, node: NodeSeen, *command: str) -> str:
    """What a command in the node prints; it must succeed."""
    result = await engine.run_in_node(node.ref, command)
    assert result.exit_code == 0, result.output
    return result.output.decode()


async def test_a_node_may_do_what_a_host_does(engine: DockerEngine) -> None:
    node = await started(engine, uuid4())
    capabilities = int((await said(engine, node, "grep", "CapEff", "/proc/1/status")).split()[1], 16)
    administration = 1 << 21
    assert capabilities & administration


async def test_what_the_host_allows_is_tried_by_many_at_once(engine: DockerEngine, docker_url: str) -> None:
    """Each takes the others' trials for some that were left behind."""
    cluster = uuid4()
    network = await engine.ensure_node_network(cluster, "project")
    replicas = [DockerEngine("docker", BackendSettings(url=docker_url), Settings()) for _ in range(6)]
    for replica in replicas:
        replica.installation = engine.installation
    specs = [
        NodeSpec(cluster, "project", f"node-{number}", uuid4(), BUSYBOX, str(ip_network(network.subnet)[10 + number]))
        for number in range(len(replicas))
    ]
    try:
        await asyncio.gather(*(one.create_node(spec) for one, spec in zip(replicas, specs, strict=True)))
    finally:
        for replica in replicas:
            await replica.close()
    assert len(await engine.nodes(cluster)) == len(replicas)


async def test_files_are_for_root_alone(engine: DockerEngine) -> None:
    node = await started(engine, uuid4(), files={"/certs/one/key.pem": b"secret"})
    assert (await said(engine, node, "stat", "-c", "%a %u", "/certs/one/key.pem")).split() == ["600", "0"]


async def test_a_sandboxing_runtime_takes_the_place_of_privileges(engine: DockerEngine, docker_url: str) -> None:
    settings = Settings(clusters=ClusterSettings(runtime="no-such-runtime"))
    sandboxed = DockerEngine("docker", BackendSettings(url=docker_url), settings)
    sandboxed.installation = engine.installation
    try:
        with pytest.raises(Refused, match="no-such-runtime"):
            await started(sandboxed, uuid4())
    finally:
        await sandboxed.close()


async def test_the_range_for_clusters_can_be_used_up(engine: DockerEngine, docker_url: str) -> None:
    settings = Settings(clusters=ClusterSettings(network_pool="10.239.7.0/28", network_prefix=28))
    small = DockerEngine("docker", BackendSettings(url=docker_url), settings)
    small.installation = engine.installation
    try:
        await small.ensure_node_network(uuid4(), "project")
        with pytest.raises(Refused, match=r"no network of /28 is left in 10\.239\.7\.0/28"):
            await small.ensure_node_network(uuid4(), "project")
    finally:
        await small.close()


async def test_an_installation_sees_its_own_clusters(engine: DockerEngine, docker_url: str) -> None:
    cluster = uuid4()
    await engine.ensure_node_network(cluster, "project")
    other = DockerEngine("docker", BackendSettings(url=docker_url), Settings())
    other.installation = str(uuid4())
    try:
        assert await engine.clusters() == {cluster}
        assert await other.clusters() == set()
    finally:
        await other.close()


async def test_nodes_come_back_with_their_engine(private_docker: PrivateDocker) -> None:
    engine = DockerEngine("private", BackendSettings(url=private_docker.url), Settings())
    try:
        node = await started(engine, uuid4(), files={"/etc/motd": b"hello"})
        private_docker.restart()
        (again,) = await engine.nodes(node.cluster)
        assert (again.ref, again.state, again.address) == (node.ref, State.RUNNING, node.address)
        assert await said(engine, again, "cat", "/etc/motd") == "hello"
    finally:
        await engine.close()


async def test_a_node_whose_process_docker_forgot_makes_way_for_a_new_one(private_docker: PrivateDocker) -> None:
    """What it knew stays in its volumes."""
    engine, cluster = DockerEngine("docker", BackendSettings(url=private_docker.url), Settings()), uuid4()
    try:
        node = await started(engine, cluster, volumes=["/data"])
        await said(engine, node, "touch", "/data/kept")
        await engine.stop_node(node.ref, 0)
        private_docker.spoil_start(node.ref)
        with pytest.raises(Unavailable, match="cannot be started again"):
            await engine.start_node(node.ref)
        assert await engine.nodes(cluster) == []
        again = await started(engine, cluster, volumes=["/data"])
        assert await said(engine, again, "ls", "/data") == "kept\n"
    finally:
        assert await engine.remove_cluster(cluster)
        await engine.close()


async def test_a_node_that_was_made_by_half_makes_way_for_a_whole_one(engine: DockerEngine, docker_url: str) -> None:
    """A daemon that was killed within the create leaves one without its address."""
    cluster = uuid4()
    whole = await started(engine, cluster)
    with client(docker_url) as http:
        made = http.get(f"/containers/{whole.ref}/json").json()
        await engine.remove_node(whole.ref)
        half = {"Image": BUSYBOX, "Labels": made["Config"]["Labels"], "HostConfig": {"NetworkMode": "none"}}
        http.post("/containers/create", params={"name": made["Name"][1:]}, json=half).raise_for_status()
    assert await engine.nodes(cluster) == []
    assert (await started(engine, cluster)).address == whole.address

"""Clusters on real Docker that become others: another version, another authority; and control planes that die."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from app.backends.driver import ClusterSeen, Keys
from app.certificates import make_authority
from tests.conformance.place import until
from tests.engines.kubernetes_cluster import Cluster, Kubectl, changed, web
from tests.stack import kubernetes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(kubernetes.SECONDS)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    docker_url: str, kubernetes_image: str, next_kubernetes_image: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    made = Cluster(
        docker_url,
        tmp_path_factory.mktemp("cluster"),
        kubernetes_image,
        1,
        1,
        publish_address="127.0.0.1",
        labels={"kube_tag": kubernetes.VERSION},
    )
    try:
        await made.converge()
        yield made
    finally:
        await made.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(
    docker_url: str, kubernetes_image: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    made = Cluster(
        docker_url,
        tmp_path_factory.mktemp("three"),
        kubernetes_image,
        3,
        1,
        api_port=7443,
        labels={"service_cluster_ip_range": "10.96.0.0/16", "flannel_network_cidr": "10.244.0.0/16"},
    )
    try:
        await made.converge()
        yield made
    finally:
        await made.remove()


async def test_another_version_is_taken_up_node_by_node_and_nothing_is_lost(cluster: Cluster) -> None:
    address = (await cluster.seen()).api_address or ""
    assert address.startswith("https://127.0.0.1:2")
    kubectl = Kubectl(await cluster.kubeconfig())
    await kubectl("apply", "-f", "-", manifest=web("web", 1))
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    before = {node.name: node for node in await cluster.host.nodes(cluster.spec.uuid)}
    cluster.spec = replace(cluster.spec, labels={"kube_tag": kubernetes.NEXT})
    texts = await cluster.converge()
    assert texts.index("default-master-0: made anew") < texts.index("default-worker-0: made anew")
    after = {node.name: node for node in await cluster.host.nodes(cluster.spec.uuid)}
    assert {node.image.rpartition(":")[2] for node in after.values()} == {kubernetes.NEXT}
    for name, node in after.items():
        assert node.ref != before[name].ref
        assert node.address == before[name].address
    seen = await cluster.seen()
    assert (seen.healthy, seen.api_address) == (True, address)
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    worker = await kubectl.json("get", "node", "default-worker-0")
    assert "unschedulable" not in worker["spec"]
    assert await cluster.converge() == ["2 nodes ready"]


async def test_a_new_authority_takes_the_place_of_the_old_one(cluster: Cluster) -> None:
    old = await cluster.kubeconfig()
    kubectl = Kubectl(old)
    await kubectl("apply", "-f", "-", manifest=web("web", 1))
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pod = (await kubectl.json("get", "pods", "-l", "app=web"))["items"][0]["metadata"]["uid"]
    keys = cluster.spec.keys
    assert isinstance(keys, Keys)
    cluster.spec = replace(cluster.spec, keys=replace(keys, cluster=make_authority("demo"), previous=keys.cluster))
    texts = await cluster.converge()
    assert texts.count("default-master-0: new certificates") == 2
    # Until everybody has changed over, both are trusted.
    new = Kubectl(await cluster.kubeconfig())
    assert len((await new("get", "nodes", "-o", "name")).split()) == 2
    assert cluster.spec.keys is not None
    cluster.spec = replace(cluster.spec, keys=replace(cluster.spec.keys, previous=None))
    await cluster.converge()
    assert (await cluster.seen()).healthy
    await kubectl.fails("get", "nodes")
    running = (await new.json("get", "pods", "-l", "app=web"))["items"][0]
    assert running["metadata"]["uid"] == pod
    assert await new("logs", running["metadata"]["name"]) == "started"
    # The old certificate is nobody's any more, even to who trusts the new server.
    complaint = await Kubectl(changed(old, cluster=await cluster.kubeconfig())).fails("get", "nodes")
    assert "must be logged in" in complaint or "Unauthorized" in complaint


async def test_one_of_three_control_planes_may_die_and_comes_back(three: Cluster) -> None:
    kubectl = Kubectl(await three.kubeconfig())
    seen = await three.seen()
    assert seen.healthy
    assert [fact.name for fact in seen.nodes] == [
        "default-master-0", "default-master-1", "default-master-2", "default-worker-0",
    ]  # fmt: skip
    assert (seen.api_address or "").endswith(":7443")
    assert await kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}") == "10.96.0.1"
    pods = await kubectl("get", "node", "default-worker-0", "-o", "jsonpath={.spec.podCIDR}")
    assert pods.startswith("10.244.")
    dead = next(node for node in await three.host.nodes(three.spec.uuid) if node.name == "default-master-0")
    await three.host.stop_node(dead.ref, 0)

    async def answering() -> ClusterSeen | None:
        seen = await three.seen()
        return seen if seen.reasons["api"] == "ok" else None

    seen = await until(answering)
    assert not seen.healthy
    assert seen.reasons["default-master-0.Ready"].startswith("False: its container is exited")
    note = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "meanwhile"}}
    # If it was etcd's leader that died, what is asked until there is another may fail.
    await until(lambda: kubectl.tries("apply", "-f", "-", manifest=note))
    assert await three.driver.mend(three.spec) == "default-master-0 started again"
    await three.converge()
    assert (await three.seen()).healthy
    # The one that was away knows what happened meanwhile.
    asked = Kubectl(changed(await three.kubeconfig(), server=f"https://{dead.address}:7443"))
    assert await asked("get", "configmap", "meanwhile", "-o", "name") == "configmap/meanwhile"

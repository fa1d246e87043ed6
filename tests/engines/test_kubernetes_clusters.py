"""One control plane and two workers on real Docker: what their users do, and nodes that come, go, stop and start."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.backends.driver import ClusterFailed
from app.backends.engine import State
from tests.conformance.place import until
from tests.engines.kubernetes_cluster import Cluster, Kubectl, group, web
from tests.stack import kubernetes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(kubernetes.SECONDS)]

SYSCTLS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/netfilter/nf_conntrack_max")


def host_settings() -> list[str]:
    """Settings of this machine that Kubernetes would like to change."""
    return [Path("/proc/sys", name).read_text() for name in SYSCTLS if Path("/proc/sys", name).exists()]


def given_taints(node: dict[str, Any]) -> list[dict[str, str]]:
    """Without those by which the cluster itself says how a node is."""
    return [taint for taint in node["spec"].get("taints", []) if not taint["key"].startswith("node.kubernetes.io/")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    docker_url: str, kubernetes_image: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    before = host_settings()
    made = Cluster(docker_url, tmp_path_factory.mktemp("cluster"), kubernetes_image, 1, 2)
    try:
        texts = await made.converge()
        assert "default-master-0, default-worker-0, default-worker-1: started" in texts
        yield made
        assert host_settings() == before
    finally:
        await made.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kubectl(cluster: Cluster) -> Kubectl:
    return Kubectl(await cluster.kubeconfig())


async def test_the_driver_and_kubectl_see_the_same_nodes(cluster: Cluster, kubectl: Kubectl) -> None:
    seen = await cluster.seen()
    assert seen.healthy
    assert seen.reasons == {
        "api": "ok",
        "default-master-0.Ready": "True",
        "default-worker-0.Ready": "True",
        "default-worker-1.Ready": "True",
    }
    assert seen.coe_version == kubernetes.VERSION
    assert (seen.container_version or "").startswith("containerd://")
    listed = await kubectl.json("get", "nodes")
    addresses = {
        item["metadata"]["name"]: one["address"]
        for item in listed["items"]
        for one in item["status"]["addresses"]
        if one["type"] == "InternalIP"
    }
    assert addresses == {fact.name: fact.address for fact in seen.nodes}
    master, *workers = listed["items"]
    assert "node-role.kubernetes.io/master" in [taint["key"] for taint in master["spec"]["taints"]]
    assert {worker["metadata"]["labels"]["magnum.openstack.org/nodegroup"] for worker in workers} == {"default-worker"}


async def test_pods_run_log_take_commands_and_are_reached_through_every_node(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    await kubectl("apply", "-f", "-", manifest=web("web", 2))
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("expose", "deployment/web", "--port=80", "--target-port=8080", "--type=NodePort")
    pods = (await kubectl.json("get", "pods", "-l", "app=web"))["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"default-worker-0", "default-worker-1"}
    one, other = pods
    for pod in pods:
        assert await kubectl("logs", pod["metadata"]["name"]) == "started"
    names = {pod["metadata"]["name"] for pod in pods}
    assert await kubectl("exec", one["metadata"]["name"], "--", "hostname") in names
    fetch = ("wget", "-q", "-O", "-", f"http://{other['status']['podIP']}:8080/")
    assert await kubectl("exec", one["metadata"]["name"], "--", *fetch) == other["metadata"]["name"]
    service = await kubectl.json("get", "service", "web")
    port = service["spec"]["ports"][0]["nodePort"]
    for fact in (await cluster.seen()).nodes:
        answers: set[str] = set()
        async with asyncio.timeout(30):
            while answers != names:
                try:
                    async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
                        answers.add((await http.get(f"http://{fact.address}:{port}/")).text.strip())
                except httpx.HTTPError:
                    # Until the node's proxy has heard of the service.
                    await asyncio.sleep(0.1)
    await kubectl("delete", "service/web", "deployment/web")


async def test_who_signs_in_is_who_the_certificate_says(cluster: Cluster, kubectl: Kubectl) -> None:
    jane = Kubectl(await cluster.kubeconfig("jane", ()))
    assert 'User "jane" cannot list resource "pods"' in await jane.fails("get", "pods")
    await kubectl("create", "rolebinding", "jane", "--clusterrole=view", "--user=jane")
    await jane("get", "pods")
    assert 'User "jane" cannot create' in await jane.fails("create", "configmap", "c")
    await kubectl("delete", "rolebinding/jane")


async def test_a_group_of_no_nodes_gets_one_with_labels_and_taints_that_change(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    image, groups = cluster.spec.groups[0].image, list(cluster.spec.groups)
    extra = group("extra", "gpu", 0, image, node_labels={"disk": "fast"}, node_taints=[
        {"key": "only", "value": "gpu", "effect": "NoSchedule"}
    ])  # fmt: skip
    cluster.spec = replace(cluster.spec, groups=[*groups, extra])
    assert await cluster.converge() == ["3 nodes ready"]
    cluster.change(2, count=1, memory=1024)
    await cluster.converge()
    node = await kubectl.json("get", "node", "extra-0")
    assert node["metadata"]["labels"]["disk"] == "fast"
    assert node["metadata"]["labels"]["magnum.openstack.org/role"] == "gpu"
    assert given_taints(node) == [{"key": "only", "value": "gpu", "effect": "NoSchedule"}]
    # What pods may ask for is the node's size, not that of the host.
    assert node["status"]["allocatable"]["memory"] in ("1Gi", f"{1024**2}Ki", str(1024**3))
    await kubectl("label", "node", "extra-0", "mine=stays")
    cluster.change(2, node_labels={"rack": "7"}, node_taints=[])
    await cluster.converge()
    node = await kubectl.json("get", "node", "extra-0")
    assert {name: node["metadata"]["labels"].get(name) for name in ("disk", "rack", "mine")} == {
        "disk": None,
        "rack": "7",
        "mine": "stays",
    }
    assert given_taints(node) == []
    cluster.spec = replace(cluster.spec, groups=groups)
    await cluster.converge()
    assert "extra-0" not in await kubectl("get", "nodes", "-o", "name")


async def test_a_node_that_is_named_leaves_after_its_pods(cluster: Cluster, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", manifest=web("web", 2))
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.change(1, count=1, leaving=["default-worker-0"])
    texts = await cluster.converge()
    assert "default-worker-0: removed" in texts
    assert any("pod" in text and "still there" in text for text in texts)
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    pods = (await kubectl.json("get", "pods", "-l", "app=web", "--field-selector=status.phase=Running"))["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"default-worker-1"}
    assert (await kubectl("get", "nodes", "-o", "name")).split() == ["node/default-master-0", "node/default-worker-1"]
    cluster.change(1, count=2, leaving=[])
    await cluster.converge()
    assert len((await kubectl("get", "nodes", "-o", "name")).split()) == 3
    await kubectl("delete", "deployment/web")


async def test_nodes_that_stopped_come_back_with_their_addresses_and_what_they_knew(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    await kubectl("create", "configmap", "kept", "--from-literal=a=b")
    before = {node.name: node.address for node in await cluster.host.nodes(cluster.spec.uuid)}
    nodes = await cluster.host.nodes(cluster.spec.uuid)
    await asyncio.gather(*(cluster.host.stop_node(node.ref, 10) for node in nodes))
    seen = await cluster.seen()
    assert not seen.reachable
    assert not seen.healthy
    assert seen.reasons["default-worker-0.Ready"].startswith("False: its container is exited")
    said = await cluster.driver.mend(cluster.spec)
    assert all(f"{name} started again" in said for name in before)
    await cluster.converge()
    after = await cluster.host.nodes(cluster.spec.uuid)
    assert {node.name: node.address for node in after} == before
    assert {node.state for node in after} == {State.RUNNING}
    assert await kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"
    assert (await cluster.seen()).healthy
    assert await cluster.driver.mend(cluster.spec) == ""


async def test_a_node_whose_container_is_gone_is_made_anew(cluster: Cluster) -> None:
    """By whoever watches it, on the address that it had."""
    nodes = {node.name: node for node in await cluster.host.nodes(cluster.spec.uuid)}
    await cluster.host.remove_node(nodes["default-worker-0"].ref, keep_volumes=True)
    assert not (await cluster.seen()).healthy
    assert await cluster.driver.mend(cluster.spec) == "default-worker-0: started"

    async def healthy() -> bool:
        return (await cluster.seen()).healthy

    await until(healthy, kubernetes.SECONDS)
    after = {node.name: node for node in await cluster.host.nodes(cluster.spec.uuid)}
    assert {name: node.address for name, node in after.items()} == {name: node.address for name, node in nodes.items()}
    assert await cluster.driver.mend(cluster.spec) == ""


async def test_a_node_that_does_not_stay_up_is_given_up_with_its_last_words(
    cluster: Cluster, docker_url: str, busybox_image: str
) -> None:
    spec = cluster.spec
    wrong = kubernetes.alias(docker_url, busybox_image, kubernetes.VERSION)
    cluster.spec = replace(spec, groups=[*spec.groups, group("wrong", "worker", 1, wrong)])
    try:
        with pytest.raises(ClusterFailed, match="wrong-0: ended with 0"):
            await cluster.converge()
        assert (await cluster.seen()).reasons["wrong-0.Ready"].startswith("False: ")
        cluster.spec = spec
        texts = await cluster.converge()
        assert "wrong-0: removed" in texts
    finally:
        cluster.spec = spec
        kubernetes.remove_alias(docker_url, wrong)


async def test_an_image_that_is_not_there_is_said_in_the_engines_words(cluster: Cluster) -> None:
    spec = cluster.spec
    missing = "127.0.0.1:1/caisson/node-kubernetes:v1.20.9"
    cluster.spec = replace(spec, groups=[*spec.groups, group("wrong", "worker", 1, missing)])
    with pytest.raises(ClusterFailed, match=r"wrong-0: the image 127\.0\.0\.1:1/.* is not there: .+") as raised:
        await cluster.converge()
    assert list(raised.value.faults) == [cluster.spec.groups[2].uuid]
    ours = group("wrong", "worker", 1, "caisson/node-kubernetes:v1.20.999")
    cluster.spec = replace(spec, groups=[*spec.groups, ours])
    with pytest.raises(ClusterFailed, match=r"v1\.20\.999 is not there: scripts/node-image kubernetes makes it"):
        await cluster.converge()
    cluster.spec = spec
    assert await cluster.converge() == ["3 nodes ready"]

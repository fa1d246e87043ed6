"""Clusters that are complete by their rows, and of which nothing is left."""

from uuid import uuid4

import pytest

from app.backends import Engines
from app.backends.driver import ClusterSpec, Keys, NodeGroupSpec
from app.backends.kubernetes.driver import KubernetesDriver
from app.certificates import make_authority
from app.errors import Unavailable
from app.settings import Settings
from tests.fake import FakeEngine


async def test_a_silent_cluster_is_asked_less_and_less_often_and_a_silent_host_is_not() -> None:
    host, cluster = FakeEngine("host"), FakeEngine("cluster:1")
    engines = Engines({"host": host})
    engines.join("cluster:1", cluster, "cluster:one")
    for engine in (host, cluster):
        for _ in range(3):
            engine.fail_next("ping", Unavailable("gone"))
    assert [await engines.ping() for _ in range(4)] == [[], [], [], ["host"]]
    assert (host.calls["ping"], cluster.calls["ping"]) == (4, 2)
    # Made anew, for new keys perhaps, it is asked at once.
    engines.join("cluster:1", FakeEngine("cluster:1"), "cluster:one")
    assert await engines.ping() == ["host", "cluster:1"]


async def test_asking_for_kubernetes_whose_nodes_are_gone_makes_nothing() -> None:
    host = FakeEngine("host")
    cluster, etcd, front_proxy = (make_authority(name) for name in ("cluster", "etcd", "front-proxy"))
    keys = Keys(cluster, etcd, front_proxy, accounts="")
    master = NodeGroupSpec(uuid4(), "default-master", "master", 1, "caisson/node-kubernetes:v1.20.2", 0, 0)
    spec = ClusterSpec(uuid4(), "project", "gone", "kubernetes", [master], keys=keys)
    driver = KubernetesDriver(host, Settings())
    engine = driver.engine(spec)
    for call in (engine.ping(), engine.find_all(), engine.find(uuid4())):
        with pytest.raises(Unavailable, match="no node"):
            await call
    assert await host.clusters() == set()
    assert host.calls["ensure_node_network"] == 0
    await driver.close()

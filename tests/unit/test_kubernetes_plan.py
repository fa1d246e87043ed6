"""Clusters of Kubernetes on paper: what is refused and why, names and addresses, labels and taints, versions."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.backends.driver import ClusterSpec, Keys, NodeGroupSpec
from app.backends.engine import State
from app.backends.kubernetes import addons as kubernetes_addons
from app.backends.kubernetes import files as kubernetes_files
from app.backends.kubernetes import plan as kubernetes_plan
from app.backends.kubernetes.driver import KubernetesDriver
from app.backends.kubernetes.steps import marks, why_not_ready
from app.backends.kubernetes.trust import stages
from app.backends.kubernetes.view import BALANCER, View, look, node_spec
from app.backends.nodes import NodeNetwork, NodeSeen
from app.certificates import issue, make_authority
from app.errors import Invalid
from app.settings import Settings
from scripts.newcomer.packages import SetupError
from scripts.nodes.kubernetes import version_of
from tests.fake import FakeEngine

IMAGE = "caisson/node-kubernetes:v1.20.2"
NETWORK = NodeNetwork("n", "10.222.7.0/24", "10.222.7.1")
KEYS = Keys(make_authority("c"), make_authority("c"), make_authority("c"), issue(make_authority("c"), "accounts").key)


def group(name: str, role: str, count: int, **more: Any) -> NodeGroupSpec:
    wish = {"uuid": uuid4(), "name": name, "role": role, "count": count, "image": IMAGE, "cpus": 1, "memory": 512}
    return NodeGroupSpec(**{**wish, **more})


def spec(masters: int = 1, workers: int = 2, *, worker: dict[str, Any] | None = None, **more: Any) -> ClusterSpec:
    groups = [group("default-master", "master", masters), group("default-worker", "worker", workers, **(worker or {}))]
    return ClusterSpec(
        **{"uuid": uuid4(), "project_id": "p", "name": "c", "coe": "kubernetes", "groups": groups, **more}
    )


def view(wish: ClusterSpec, *seen: NodeSeen, **memory: str) -> View:
    return look(wish, KEYS, NETWORK, list(seen), memory, None)


def made(wish: ClusterSpec) -> list[NodeSeen]:
    """The nodes that an engine shows once all that is missing was made."""
    plan = view(wish)
    specs = [node_spec(plan, one, stages(KEYS)[0], None) for one in plan.missing]
    return [
        NodeSeen(
            ref=f"ref-{one.name}",
            cluster=one.cluster,
            project_id=one.project_id,
            name=one.name,
            group=one.group,
            state=State.RUNNING,
            image=one.image,
            address=one.address,
            labels=one.labels,
        )
        for one in specs
    ]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (spec(masters=2), "master_count: 2; an odd number from 1 to 7"),
        (spec(masters=9), "master_count: 9"),
        (spec(tls=False), "tls_disabled"),
        (spec(network_driver="calico"), "network_driver: calico is not made here, only flannel"),
        (spec(api_port=80), "apiserver_port: 80; from 1024 to 29999"),
        (spec(api_port=10250), "apiserver_port: 10250"),
        (spec(labels={"kube_tag": "v1.19.4"}), r"image: caisson/node-kubernetes:v1.19.4; Kubernetes from v1.20 on"),
        (spec(labels={"kube_tag": "latest"}), "the tag of a node image is its version"),
        (spec(labels={"service_cluster_ip_range": "10.9.0.0"}), "label service_cluster_ip_range: 10.9.0.0/32"),
        (spec(labels={"service_cluster_ip_range": "10.9.0.1/16"}), "service_cluster_ip_range: .* has host bits set"),
        (spec(labels={"service_cluster_ip_range": "8.8.0.0/16"}), "label service_cluster_ip_range: .* a private range"),
        (spec(labels={"service_cluster_ip_range": "10.100.0.0/17"}), "overlaps the range of pods, 10.100.0.0/16"),
        (spec(labels={"calico_ipv4pool": "many"}), "label calico_ipv4pool: Expected 4 octets"),
        (spec(labels={"flannel_network_cidr": "10.222.0.0/15"}), "overlaps the range of nodes, 10.222.0.0/16"),
        (spec(labels={"flannel_network_subnetlen": "30"}), "flannel_network_subnetlen: '30'; a number from 16"),
        (spec(workers=9, labels={"flannel_network_cidr": "10.9.0.0/21"}), "node_count: 10 nodes .* have room for 4"),
        (spec(workers=253), "node_count: 254 nodes .* have room for 252"),
        (spec(worker={"node_labels": {"a b": "c"}}), "node_labels: 'a b' is not a key"),
        (spec(worker={"node_labels": {"a": "c d"}}), "node_labels: 'c d' of a may have up to 63"),
        (spec(worker={"node_taints": [{"key": "a", "effect": "Never"}]}), "node_taints: the effect 'Never' is none of"),
        (spec(worker={"profile": "k3s"}), "nodes of different profiles"),
        (spec(worker={"profile": "minikube"}), "profile 'minikube' of its nodes is not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_by_its_name(wish: ClusterSpec, words: str) -> None:
    driver = KubernetesDriver(FakeEngine(), Settings())
    with pytest.raises(Invalid, match=words):
        driver.validate(wish)
    driver.validate(spec())


def test_masters_have_the_first_addresses_after_the_balancers_and_keep_them() -> None:
    wish = spec(masters=3, workers=1)
    plan = view(wish)
    assert [(one.name, one.address, one.role) for one in plan.missing] == [
        (BALANCER, "10.222.7.2", "balancer"),
        ("default-master-0", "10.222.7.3", "master"),
        ("default-master-1", "10.222.7.4", "master"),
        ("default-master-2", "10.222.7.5", "master"),
        ("default-worker-0", "10.222.7.6", "worker"),
    ]
    assert plan.server == "https://10.222.7.2:6443"
    seen = made(wish)
    # One is gone, while another is being made anew: both are made again as they were.
    partly = view(wish, *(node for node in seen if node.name not in ("default-master-1", "default-master-0")))
    assert [(one.name, one.address) for one in partly.missing] == [
        ("default-master-0", "10.222.7.3"),
        ("default-master-1", "10.222.7.4"),
    ]
    assert dict(partly.layout.masters) == dict(plan.layout.masters)
    # Also a control plane beside which an address below its own is free.
    others = [replace(node, address="10.222.7.9") if node.name == "default-master-1" else node for node in seen]
    assert [one.address for one in view(wish, *others[:3], *others[4:]).missing] == [seen[3].address]
    moved = view(wish, *seen[:-1], **{"default-worker-0": "10.222.7.99"})
    assert [(one.name, one.address) for one in moved.missing] == [("default-worker-0", "10.222.7.99")]


def test_the_named_leave_first_then_the_newest() -> None:
    wish = spec(workers=12)
    seen = made(wish)
    workers = wish.groups[1]
    smaller = replace(wish, groups=[wish.groups[0], replace(workers, count=9, leaving=["ref-default-worker-3"])])
    assert [node.name for node in view(smaller, *seen).surplus] == [
        "default-worker-3", "default-worker-11", "default-worker-10",
    ]  # fmt: skip
    by_address = replace(wish, groups=[wish.groups[0], replace(workers, count=11, leaving=[seen[5].address])])
    assert [node.name for node in view(by_address, *seen).surplus] == [seen[5].name]
    gone = replace(wish, groups=wish.groups[:1])
    assert len(view(gone, *seen).surplus) == 12


def test_names_of_groups_become_names_of_hosts_that_do_not_meet() -> None:
    first, second, third = group("Ärger", "w", 1), group("rger", "w", 1), group("x" * 70, "w", 1)
    wish = replace(spec(), groups=[spec().groups[0], first, second, third])
    names = [node.name for node in made(wish)]
    assert len(set(names)) == 4
    assert all(len(name) < 60 and name.isascii() and name == name.lower() for name in names)


def test_the_ranges_are_those_of_the_first_day() -> None:
    wish = spec(labels={"flannel_network_cidr": "10.9.0.0/16"})
    later = replace(wish, labels={"flannel_network_cidr": "10.8.0.0/16"})
    assert str(view(later, *made(wish)).layout.ranges.pods) == "10.9.0.0/16"


@pytest.mark.parametrize(
    ("version", "eviction", "taint", "flags", "cgroups"),
    [
        ("v1.20.2", "v1beta1", "master", True, False),
        ("v1.23.17", "v1", "master", True, False),
        ("v1.26.0", "v1", "control-plane", True, False),
        ("v1.30.4", "v1", "control-plane", False, False),
        ("v1.36.2", "v1", "control-plane", False, True),
    ],
)
def test_each_version_is_spoken_to_in_its_own_words(
    version: str, eviction: str, taint: str, flags: bool, cgroups: bool
) -> None:
    spoken = kubernetes_plan.dialect(f"localhost:5000/node:{version}")
    assert spoken.eviction == eviction
    assert spoken.master_taint.endswith(taint)
    assert bool(spoken.kubelet_flags) == flags
    assert ("failCgroupV1" in spoken.kubelet_settings) == cgroups
    assert ("containerRuntimeEndpoint" in spoken.kubelet_settings) != flags


def test_a_node_keeps_what_its_users_gave_it() -> None:
    wish = spec(worker={"node_labels": {"disk": "fast"}, "node_taints": [{"key": "only", "effect": "NoSchedule"}]})
    seen = made(wish)
    theirs = {"key": "theirs", "effect": "NoExecute"}
    document: dict[str, Any] = {
        "metadata": {"labels": {"mine": "1"}, "annotations": {}},
        "spec": {"taints": [theirs]},
    }
    change = marks(view(wish, *seen), seen[1], document)
    assert change["metadata"]["labels"]["disk"] == "fast"
    assert change["spec"]["taints"] == [theirs, {"key": "only", "effect": "NoSchedule"}]
    # As the cluster has it then: nothing to do.
    document["metadata"]["labels"] |= change["metadata"]["labels"]
    document["metadata"]["annotations"] |= change["metadata"]["annotations"]
    document["spec"] |= change["spec"]
    assert marks(view(wish, *seen), seen[1], document) == {}
    bare = replace(wish, groups=[wish.groups[0], replace(wish.groups[1], node_labels={}, node_taints=())])
    change = marks(view(bare, *seen), seen[1], document)
    assert change["metadata"]["labels"]["disk"] is None
    assert "mine" not in change["metadata"]["labels"]
    assert change["spec"]["taints"] == [theirs]


def test_what_a_node_said_before_its_start_does_not_count() -> None:
    document = {
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-31T09:05:07Z"}]}
    }
    assert why_not_ready(document, datetime(2026, 1, 31, 9, 5, 7, 900000, UTC)) == ""
    assert (
        why_not_ready(document, datetime(2026, 1, 31, 9, 5, 8, tzinfo=UTC))
        == "it has not said how it is since its start"
    )
    assert why_not_ready(None, None) == "it has not joined yet"


def test_nodes_trust_both_authorities_before_any_shows_the_new_one() -> None:
    new = make_authority("c")
    (only,) = stages(KEYS)
    first, second = stages(replace(KEYS, cluster=new, previous=KEYS.cluster))
    (last,) = stages(replace(KEYS, cluster=new))
    assert only.signer == first.signer == KEYS.cluster
    assert second.signer == last.signer == new
    assert first.trusted == second.trusted == (new, KEYS.cluster)
    assert last.trusted == (new,)
    assert len({trust.state for trust in (only, first, second, last)}) == 4


def test_no_secret_is_in_a_command_or_a_label() -> None:
    wish = spec(masters=3)
    plan = view(wish)
    for one in plan.missing:
        built = node_spec(plan, one, stages(KEYS)[0], None)
        assert "PRIVATE" not in f"{built.command} {built.environment} {built.labels} {built!r}"
        scripts = [text for path, text in built.files.items() if path.startswith(kubernetes_files.SERVICES)]
        assert all(b"PRIVATE" not in text for text in scripts)


def test_addons_are_made_when_a_label_asks_for_them() -> None:
    assert list(kubernetes_addons.objects(view(spec()).layout)) == []
    labels = {"coredns_tag": "1.8.0", "local_path_tag": "v0.0.24", "container_infra_prefix": "registry.example/x/"}
    objects = dict(kubernetes_addons.objects(view(spec(labels=labels)).layout))
    service = objects["/api/v1/namespaces/kube-system/services/kube-dns"]
    assert service["spec"]["clusterIP"] == "10.254.0.10"
    images = [
        container["image"]
        for document in objects.values()
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    assert images == ["registry.example/x/coredns:1.8.0", "registry.example/x/local-path-provisioner:v0.0.24"]


def test_a_registry_without_tls_and_proxies_are_known_to_containerd_alone() -> None:
    wish = spec(insecure_registry="10.0.0.5:5000", https_proxy="http://proxy:3128", no_proxy="example.org")
    plan = view(wish)
    files = node_spec(plan, plan.missing[-1], stages(KEYS)[0], None).files
    assert b"http://10.0.0.5:5000" in files["/etc/containerd/certs.d/10.0.0.5:5000/hosts.toml"]
    script = files[f"{kubernetes_files.SERVICES}/containerd"].decode()
    assert "export HTTPS_PROXY=http://proxy:3128" in script
    assert "example.org,127.0.0.1" in script
    assert b"proxy:3128" not in files[f"{kubernetes_files.SERVICES}/kubelet"]
    kubelet = yaml.safe_load(files[f"{kubernetes_files.HOME}/kubelet.yaml"])
    assert kubelet["clusterDNS"] == ["10.254.0.10"]


def test_an_image_pulled_by_tag_is_one_of_k3s_when_its_profile_says_so() -> None:
    image = "rancher/k3s:v1.34.1-k3s1"
    wish = spec(worker={"profile": "k3s", "image": image})
    wish = replace(wish, groups=[replace(wish.groups[0], profile="k3s", image=image), wish.groups[1]])
    KubernetesDriver(FakeEngine(), Settings()).validate(wish)
    plan = view(wish)
    master, worker, _ = (node_spec(plan, one, stages(KEYS)[0], None) for one in plan.missing)
    assert master.command[0] == "server"
    assert worker.command[:3] == ("agent", "--server", "https://10.222.7.3:6443")
    assert master.files["/etc/rancher/joining"] == worker.files["/etc/rancher/joining"]
    tls = "/var/lib/rancher/k3s/server/tls"
    assert master.files[f"{tls}/client-ca.crt"].decode() == KEYS.cluster.certificate
    with pytest.raises(Invalid, match="master_count: 3; clusters of profile k3s have one"):
        KubernetesDriver(FakeEngine(), Settings()).validate(
            replace(wish, groups=[replace(wish.groups[0], count=3), wish.groups[1]])
        )


def test_uuids_of_clusters_choose_ports_between_20000_and_29999() -> None:
    wish = replace(spec(), uuid=UUID(int=2**128 - 1))
    plan = look(wish, KEYS, NETWORK, [], {}, "192.0.2.7")
    built = node_spec(plan, plan.missing[0], stages(KEYS)[0], 20007)
    assert built.publish == {6443: 20007}
    seen = made(wish)
    assert look(wish, KEYS, NETWORK, [replace(seen[0], labels=built.labels)], {}, "192.0.2.7").server == (
        "https://192.0.2.7:20007"
    )


def test_a_folder_without_all_programs_makes_no_image(tmp_path: Path) -> None:
    (tmp_path / "kube-apiserver").touch()
    with pytest.raises(SetupError, match=r"lacks kube-controller-manager; it must hold kube-apiserver, .*, kubectl"):
        version_of(tmp_path)


WORDS = st.one_of(
    st.text(max_size=20),
    st.integers(0, 40).map(str),
    st.sampled_from(["9" * 5000, f"v1.{'9' * 5000}.1", "\u0662\u0664"]),  # a label may be as long
    st.ip_addresses(v=4, network="10.0.0.0/8").flatmap(lambda one: st.integers(0, 40).map(lambda n: f"{one}/{n}")),
    st.from_regex(r"v?[0-9]{1,3}(\.[0-9]{1,3}){0,3}", fullmatch=True),
)
LABELS = st.sampled_from(
    ["kube_tag", "flannel_network_cidr", "calico_ipv4pool", "service_cluster_ip_range", "flannel_network_subnetlen"]
)


@given(
    st.dictionaries(LABELS, WORDS, max_size=2),
    st.dictionaries(WORDS, WORDS, max_size=2),
    st.lists(st.dictionaries(st.sampled_from(["key", "value", "effect"]), WORDS), max_size=2),
)
def test_any_labels_and_taints_are_taken_or_refused(
    labels: dict[str, str], own: dict[str, str], taints: list[dict[str, str]]
) -> None:
    with suppress(Invalid):
        kubernetes_plan.check(
            spec(labels=labels, worker={"node_labels": own, "node_taints": taints}), "10.222.0.0/16", 24
        )
        assert kubernetes_plan.ranges(labels).pods.version == 4

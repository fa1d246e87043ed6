"""What a swarm will look like, and what is refused before anything is made."""

from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.driver import ClusterFailed, ClusterSpec, Keys, NodeGroupSpec
from app.backends.engine import State
from app.backends.nodes import NodeNetwork, NodeSeen
from app.backends.swarm import plan as planning
from app.backends.swarm.steps import why_stopped
from app.certificates import make_authority, rotate
from app.errors import Invalid
from app.settings import ClusterSettings

CLUSTER = UUID(int=1)
MASTERS = NodeGroupSpec(UUID(int=2), "default-master", "master", 1, "node:1", 1.0, 512)
WORKERS = NodeGroupSpec(UUID(int=3), "default-worker", "worker", 2, "node:1", 1.0, 512)
KEYS = Keys(make_authority("a"), make_authority("b"), make_authority("c"), accounts="")
NETWORK = NodeNetwork("net", "10.222.5.0/29", "10.222.5.1")
SETTINGS = ClusterSettings(preload=["busybox:1"])


def spec(*groups: NodeGroupSpec, **wishes: Any) -> ClusterSpec:
    return ClusterSpec(CLUSTER, "p", "mine", "swarm", groups or (MASTERS, WORKERS), **{"keys": KEYS, **wishes})


def node(group: NodeGroupSpec, number: int, address: int = 0, **facts: Any) -> NodeSeen:
    name = f"{group.name}-{number}"
    seen = NodeSeen(f"ref-of-{name}", CLUSTER, "p", name, group.uuid, State.RUNNING, group.image, f"10.222.5.{address}")
    return replace(seen, **facts)


def test_names_and_addresses_of_a_new_cluster() -> None:
    found = planning.plan(spec(), [])
    assert [wish.name for wish in found.wishes] == ["default-master-0", "default-worker-0", "default-worker-1"]
    assert list(planning.addresses(found, NETWORK).values()) == ["10.222.5.2", "10.222.5.3", "10.222.5.4"]
    assert list(found.surplus) == []


def test_what_is_there_stays_and_gaps_are_filled() -> None:
    seen = [node(MASTERS, 0, 2), node(WORKERS, 1, 4)]
    found = planning.plan(spec(), seen)
    assert [(wish.name, wish.seen) for wish in found.wishes] == [
        ("default-master-0", seen[0]), ("default-worker-1", seen[1]), ("default-worker-0", None),
    ]  # fmt: skip
    assert planning.addresses(found, NETWORK) == {"default-worker-0": "10.222.5.3"}


def test_a_network_can_be_full() -> None:
    found = planning.plan(spec(MASTERS, replace(WORKERS, count=5)), [])
    with pytest.raises(ClusterFailed, match=r"default-worker-4: no address is left in 10\.222\.5\.0/29") as failed:
        planning.addresses(found, NETWORK)
    assert set(failed.value.faults) == {WORKERS.uuid}


@pytest.mark.parametrize(
    ("leaving", "gone"),
    [
        ((), [11, 10]),
        (("default-worker-2",), [2, 11]),
        (("ref-of-default-worker-1", "10.222.5.0"), [0, 1]),
        (("nobody",), [11, 10]),
    ],
)
def test_who_leaves(leaving: tuple[str, ...], gone: list[int]) -> None:
    seen = [node(MASTERS, 0, 2), *(node(WORKERS, number, number) for number in (0, 1, 2, 10, 11))]
    found = planning.plan(spec(MASTERS, replace(WORKERS, count=3, leaving=leaving)), seen)
    assert {one.name for one in found.surplus} == {f"default-worker-{number}" for number in gone}
    assert len(found.wishes) == 4
    assert found.missing == []


def test_a_node_that_does_not_run_leaves_first() -> None:
    seen = [node(MASTERS, 0, 2), node(WORKERS, 0, 3, state=State.EXITED), node(WORKERS, 1, 4), node(WORKERS, 2, 5)]
    assert [one.name for one in planning.plan(spec(), seen).surplus] == ["default-worker-0"]


def test_nodes_of_a_group_that_is_no_more_leave() -> None:
    found = planning.plan(spec(MASTERS), [node(MASTERS, 0, 2), node(WORKERS, 0, 3)])
    assert [one.name for one in found.surplus] == ["default-worker-0"]


def test_names_of_groups_become_host_names() -> None:
    odd = [replace(WORKERS, uuid=UUID(int=n << 112), name=name) for n, name in enumerate(("Ä b", "a_b", "x" * 200), 1)]
    names = [wish.name for wish in planning.plan(spec(MASTERS, *odd), []).wishes]
    assert len(set(names)) == len(names) == 7
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() and name.isascii() for name in names)


def test_a_node_is_outdated_by_its_image_and_by_its_certificates() -> None:
    trusting = {planning.TRUST: planning.trust(spec())}
    up_to_date = planning.Wish("x", WORKERS, node(WORKERS, 0, labels=trusting))
    assert not planning.outdated(spec(), up_to_date)
    assert planning.outdated(spec(), replace(up_to_date, group=replace(WORKERS, image="node:2")))
    both = replace(KEYS, cluster=rotate(KEYS.cluster).authority, previous=KEYS.cluster)
    assert planning.outdated(spec(keys=both), up_to_date)
    assert planning.outdated(spec(keys=replace(both, previous=None)), up_to_date)
    assert not planning.outdated(spec(), replace(up_to_date, seen=None))


def test_a_node_has_its_keys_in_files_alone() -> None:
    made = planning.node_spec(spec(), "default-master-0", MASTERS, "10.222.5.2", None, None)
    assert made.files["/certs/ca.pem"].decode().strip() == KEYS.cluster.certificate
    assert b"PRIVATE KEY" in made.files["/certs/server-key.pem"]
    assert "PRIVATE" not in repr(made)
    assert "--tlsverify" in made.command
    plain = planning.node_spec(spec(tls=False), "default-master-0", MASTERS, "10.222.5.2", None, None)
    assert plain.files == {}
    assert "tcp://0.0.0.0:2375" in plain.command
    assert "--tlsverify" not in plain.command


REFUSED: list[tuple[ClusterSpec, str]] = [
    (spec(replace(MASTERS, count=2)), "master_count: a swarm has an odd number of managers, 1 to 7, not 2"),
    (spec(replace(MASTERS, count=9)), "master_count"),
    (spec(MASTERS, replace(WORKERS, count=253)), "node_count: a cluster's network has room for 253 nodes"),
    (spec(network_driver="flannel"), "network_driver: .* not flannel"),
    (spec(api_port=2377), "apiserver_port: 2377"),
    (spec(labels={"swarm_strategy": "best"}), "label swarm_strategy: 'best' is none of spread, binpack, random"),
    (spec(labels={"swarm_strategy": "binpack"}), "label swarm_strategy: swarm mode always spreads"),
    (spec(labels={"preload_images": "Not An Image"}), "label preload_images: invalid reference format"),
    (spec(labels={"preload_images": "busybox:1, secret:1"}), "label preload_images: secret:1 .* permitted: busybox:1"),
    (spec(MASTERS, replace(WORKERS, node_taints=[{"key": "a"}])), "node_taints"),
    (spec(replace(MASTERS, profile="k3s")), "profile 'k3s'"),
]


@pytest.mark.parametrize(("wish", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_can_never_be_made(wish: ClusterSpec, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        planning.check(wish, SETTINGS)


def test_what_can_be_made() -> None:
    labels = {"swarm_strategy": "spread", "preload_images": "busybox:1", "availability_zone": "nova"}
    planning.check(
        spec(replace(MASTERS, count=7), WORKERS, labels=labels, network_driver="docker", keys=None), SETTINGS
    )


def test_why_a_node_does_not_run() -> None:
    assert why_stopped(node(WORKERS, 0)) == ""
    ended = node(WORKERS, 0, state=State.EXITED, exit_code=137, oom_killed=True)
    assert why_stopped(ended) == "its container is exited (exit code 137, out of memory)"


WORDS = st.text(max_size=20) | st.sampled_from(
    ["spread", "binpack", "busybox:1", "busybox:1, busybox:1", ",", "9" * 5000]
)


@given(
    st.dictionaries(st.sampled_from(["swarm_strategy", planning.PRELOAD, "other"]), WORDS),
    st.dictionaries(WORDS, WORDS),
)
def test_any_labels_are_taken_or_refused(labels: dict[str, str], own: dict[str, str]) -> None:
    with suppress(Invalid):
        planning.check(spec(MASTERS, replace(WORKERS, node_labels=own), labels=labels), SETTINGS)
        assert set(planning.preloaded(labels)) <= {"busybox:1"}

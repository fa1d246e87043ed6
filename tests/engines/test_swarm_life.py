"""A swarm from nothing to services, and what becomes of it when its nodes stop, die or are lost."""

import asyncio
from collections.abc import Callable

from app.backends.engine import State
from tests.engines.swarm_cluster import Swarm, left_of

Swarms = Callable[..., Swarm]
NAMES = {"default-master-0", "default-worker-0", "default-worker-1"}


async def test_a_swarm_runs_a_service_on_every_node(swarms: Swarms) -> None:
    cluster = swarms(1, 2)
    assert await cluster.driver.observe(cluster.spec) is None
    texts = await cluster.converge()
    assert texts[0] == "started default-master-0, default-worker-0, default-worker-1"
    seen = await cluster.seen()
    nodes = await cluster.nodes()
    assert seen.healthy
    assert seen.api_address == f"tcp://{nodes['default-master-0'].address}:2376"
    assert seen.reasons["api"] == "ok"
    assert {key for key, value in seen.reasons.items() if value == "True"} >= {f"{name}.Ready" for name in NAMES}

    await cluster.open()
    assert cluster.members() == dict.fromkeys(NAMES, "Ready")
    assert seen.coe_version == cluster.docker("version", "--format", "{{.Server.Version}}")
    cluster.serve("web", 3)
    await cluster.served("web", 3)
    assert len(await cluster.answers(list(nodes.values()))) == 3
    assert await cluster.converge() == []


async def test_nobody_is_let_in_without_a_certificate_of_the_cluster(swarms: Swarms) -> None:
    cluster, other = swarms(1, 0), swarms(1, 0)
    await asyncio.gather(cluster.converge(), other.converge())
    await cluster.open()
    assert cluster.docker("info", "--format", "{{.Swarm.ControlAvailable}}") == "true"
    assert other.spec.keys is not None
    assert not cluster.lets_in(other.spec.keys.cluster)


async def test_overlay_networks_reach_from_node_to_node(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    cluster.docker("network", "create", "--driver", "overlay", "--attachable", "wide")
    addresses = {}
    nodes = await cluster.nodes()
    for name, node in nodes.items():
        url = f"tcp://{node.address}:2376"
        box = ("--name", "box", "--network", "wide", "caisson/busybox:1", "sleep", "1000")
        cluster.docker("run", "--detach", *box, url=url)
        shown = "{{.NetworkSettings.Networks.wide.IPAddress}}"
        addresses[name] = cluster.docker("inspect", "--format", shown, "box", url=url)
    master, worker = "default-master-0", "default-worker-0"
    url = f"tcp://{nodes[master].address}:2376"
    assert "0% packet loss" in cluster.docker("exec", "box", "ping", "-c", "3", addresses[worker], url=url)


async def test_stopped_and_started_it_is_the_same_swarm(swarms: Swarms) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    await cluster.open()
    cluster.serve("web", 3)
    await cluster.served("web", 3)
    before = await cluster.nodes()
    await asyncio.gather(*(cluster.engine.stop_node(node.ref, 2) for node in before.values()))
    seen = await cluster.seen()
    assert not seen.reachable
    assert "its container is exited" in seen.reasons["api"]
    for name in NAMES:
        assert seen.reasons[f"{name}.Ready"].startswith("False: its container is exited")

    assert (await cluster.driver.mend(cluster.spec)).startswith("started default-master-0")
    await cluster.healthy()
    after = await cluster.nodes()
    assert {name: (node.ref, node.address) for name, node in after.items()} == {
        name: (node.ref, node.address) for name, node in before.items()
    }
    await cluster.served("web", 3)
    assert len(await cluster.answers(list(after.values()))) == 3


async def test_what_is_lost_is_made_anew(swarms: Swarms) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    await cluster.open()
    ids = cluster.docker("node", "ls", "--quiet").split()
    before = await cluster.nodes()

    # The container alone: it is the same member of the swarm again.
    await cluster.engine.remove_node(before["default-worker-0"].ref, keep_volumes=True)
    seen = await cluster.seen()
    assert seen.reasons["default-worker-0.Ready"] == "False: its container is gone"
    assert not seen.healthy
    await cluster.healthy()
    assert sorted(cluster.docker("node", "ls", "--quiet").split()) == sorted(ids)

    # With all that it had: it is another member, and the old one is forgotten.
    await cluster.engine.remove_node(before["default-worker-1"].ref)
    await cluster.healthy()
    assert await cluster.driver.mend(cluster.spec) == ""
    assert cluster.members() == dict.fromkeys(NAMES, "Ready")
    assert len(set(ids) & set(cluster.docker("node", "ls", "--quiet").split())) == 2
    after = await cluster.nodes()
    assert {node.address for node in after.values()} == {node.address for node in before.values()}


async def test_three_managers_survive_the_loss_of_their_leader(swarms: Swarms) -> None:
    cluster = swarms(3, 1)
    await cluster.converge()
    await cluster.open()
    leading = '{{if eq .ManagerStatus "Leader"}}{{.Hostname}}{{end}}'
    leader = cluster.docker("node", "ls", "--filter", "role=manager", "--format", leading).strip()
    cluster.docker("network", "create", "--driver", "overlay", "kept")
    nodes = await cluster.nodes()
    await cluster.engine.remove_node(nodes[leader].ref)
    await cluster.healthy()
    assert cluster.docker("network", "ls", "--filter", "name=kept", "--format", "{{.Name}}") == "kept"
    statuses = cluster.docker("node", "ls", "--filter", "role=manager", "--format", "{{.ManagerStatus}}").split()
    assert sorted(statuses) == ["Leader", "Reachable", "Reachable"]
    assert await cluster.driver.mend(cluster.spec) == ""


async def test_without_its_only_manager_a_new_swarm_begins(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    ids = set(cluster.docker("node", "ls", "--quiet").split())
    nodes = await cluster.nodes()
    await cluster.engine.remove_node(nodes["default-master-0"].ref)
    assert (await cluster.seen()).reasons["api"] == "there is no manager"
    await cluster.healthy()
    assert cluster.members() == dict.fromkeys(("default-master-0", "default-worker-0"), "Ready")
    assert ids.isdisjoint(cluster.docker("node", "ls", "--quiet").split())


async def test_two_replicas_and_a_lost_memo_do_no_harm(swarms: Swarms) -> None:
    cluster = swarms(1, 2)

    async def half() -> None:
        while True:
            if (await cluster.step({})).done:
                return
            await asyncio.sleep(0.01)

    await asyncio.gather(half(), half())
    await cluster.open()
    assert cluster.members() == dict.fromkeys(NAMES, "Ready")
    assert {node.state for node in (await cluster.nodes()).values()} == {State.RUNNING}


async def test_of_a_deleted_swarm_nothing_is_left(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    assert left_of(cluster.spec.uuid)
    assert await cluster.driver.delete(cluster.spec.uuid)
    assert left_of(cluster.spec.uuid) == ""
    assert await cluster.driver.delete(cluster.spec.uuid)
    assert await cluster.driver.observe(cluster.spec) is None

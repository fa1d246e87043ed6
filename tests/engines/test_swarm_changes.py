"""A swarm that grows, shrinks, gets other nodes and another authority, while what it runs goes on."""

from collections.abc import Callable
from dataclasses import replace

from app.certificates import rotate
from tests.engines.swarm_cluster import Swarm

Swarms = Callable[..., Swarm]
MASTER, FIRST, SECOND, THIRD = "default-master-0", "default-worker-0", "default-worker-1", "default-worker-2"


async def test_it_grows_and_shrinks(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    cluster.serve("web", 2)
    await cluster.served("web", 2)
    before = await cluster.nodes()

    cluster.group(1, count=3)
    assert "started default-worker-1, default-worker-2" in await cluster.converge()
    assert cluster.members() == dict.fromkeys((MASTER, FIRST, SECOND, THIRD), "Ready")
    after = await cluster.nodes()
    assert {name: after[name] for name in before} == before
    cluster.docker("service", "scale", "--detach", "web=4")
    await cluster.served("web", 4)
    cluster.docker("service", "scale", "--detach", "web=2")

    # Who is named leaves, else the latest.
    cluster.group(1, count=2, leaving=[FIRST])
    assert f"removed {FIRST}" in await cluster.converge()
    assert cluster.members() == dict.fromkeys((MASTER, SECOND, THIRD), "Ready")
    cluster.group(1, count=1, leaving=())
    await cluster.converge()
    assert cluster.members() == dict.fromkeys((MASTER, SECOND), "Ready")
    await cluster.served("web", 2)
    assert len(await cluster.answers(list((await cluster.nodes()).values()))) == 2

    cluster.group(1, count=0)
    await cluster.converge()
    assert cluster.members() == {MASTER: "Ready"}


async def test_nodes_leave_by_reference_and_by_address(swarms: Swarms) -> None:
    cluster = swarms(1, 3)
    await cluster.converge()
    await cluster.open()
    nodes = await cluster.nodes()
    cluster.group(1, count=1, leaving=[nodes[FIRST].ref, nodes[THIRD].address])
    await cluster.converge()
    assert cluster.members() == dict.fromkeys((MASTER, SECOND), "Ready")


async def test_groups_come_and_go(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    cluster.add_group("Fast ones", 2, node_labels={"disk": "ssd"})
    await cluster.converge()
    fast = {
        node.name: node
        for node in await cluster.engine.nodes(cluster.spec.uuid)
        if node.group == cluster.spec.groups[2].uuid
    }
    assert len(fast) == 2
    assert set(cluster.members()) == {MASTER, FIRST, *fast}
    for name in fast:
        labels = cluster.docker("node", "inspect", name, "--format", "{{json .Spec.Labels}}")
        assert '"disk":"ssd"' in labels
        assert '"magnum.openstack.org/nodegroup":"Fast ones"' in labels
    cluster.spec = replace(cluster.spec, groups=cluster.spec.groups[:2])
    await cluster.converge()
    assert set(cluster.members()) == {MASTER, FIRST}


async def test_managers_become_three_and_one_again(swarms: Swarms) -> None:
    cluster = swarms(1, 0)
    await cluster.converge()
    await cluster.open()
    cluster.docker("network", "create", "--driver", "overlay", "kept")
    for count in (3, 1):
        cluster.group(0, count=count)
        await cluster.converge()
        statuses = cluster.docker("node", "ls", "--format", "{{.ManagerStatus}}").split()
        assert sorted(statuses) == ["Leader", *["Reachable"] * (count - 1)]
    assert cluster.docker("network", "ls", "--filter", "name=kept", "--format", "{{.Name}}") == "kept"


async def test_nodes_are_replaced_by_those_of_another_image(swarms: Swarms, next_swarm_image: str) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    await cluster.open()
    cluster.serve("web", 2)
    await cluster.served("web", 2)
    before = await cluster.nodes()
    ids = sorted(cluster.docker("node", "ls", "--quiet").split())

    cluster.group(1, image=next_swarm_image)
    texts = await cluster.converge()
    assert f"replaced {FIRST}, 1 more to come" in texts
    assert f"replaced {SECOND}" in texts
    cluster.group(0, image=next_swarm_image)
    await cluster.converge()

    after = await cluster.nodes()
    assert {node.image for node in after.values()} == {next_swarm_image}
    assert {name: node.address for name, node in after.items()} == {name: node.address for name, node in before.items()}
    assert {node.ref for node in after.values()}.isdisjoint(node.ref for node in before.values())
    assert sorted(cluster.docker("node", "ls", "--quiet").split()) == ids
    assert set(cluster.docker("node", "ls", "--format", "{{.Availability}}").split()) == {"Active"}
    await cluster.served("web", 2)
    assert (await cluster.seen()).healthy


async def test_several_are_replaced_at_a_time_when_that_is_wished(swarms: Swarms, next_swarm_image: str) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    cluster.group(1, image=next_swarm_image, batch=2)
    assert f"replaced {FIRST}, {SECOND}" in await cluster.converge()


async def test_whom_its_owner_drained_stays_drained(swarms: Swarms, next_swarm_image: str) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    await cluster.open()
    cluster.docker("node", "update", "--availability", "drain", FIRST)
    cluster.group(1, image=next_swarm_image, batch=2)
    await cluster.converge()
    shown = ("--format", "{{.Spec.Availability}}")
    assert cluster.docker("node", "inspect", FIRST, SECOND, *shown).split() == ["drain", "active"]


async def test_another_authority_takes_over_while_the_swarm_works(swarms: Swarms) -> None:
    cluster = swarms(1, 2)
    await cluster.converge()
    await cluster.open()
    cluster.serve("web", 2)
    await cluster.served("web", 2)
    ids = sorted(cluster.docker("node", "ls", "--quiet").split())
    keys = cluster.spec.keys
    assert keys is not None
    old, new = keys.cluster, rotate(keys.cluster).authority

    # Both are trusted until every node has changed over.
    cluster.spec = replace(cluster.spec, keys=replace(keys, cluster=new, previous=old))
    texts = await cluster.converge()
    assert [text for text in texts if text.startswith("replaced")] == [
        f"replaced {MASTER}, 2 more to come",
        f"replaced {FIRST}, 1 more to come",
        f"replaced {SECOND}",
    ]
    for authority in (old, new):
        assert sorted(cluster.docker("node", "ls", "--quiet", authority=authority).split()) == ids

    cluster.spec = replace(cluster.spec, keys=replace(keys, cluster=new, previous=None))
    await cluster.converge()
    assert sorted(cluster.docker("node", "ls", "--quiet").split()) == ids
    for node in (await cluster.nodes()).values():
        url = f"tcp://{node.address}:2376"
        assert cluster.lets_in(new, url)
        assert not cluster.lets_in(old, url)
    await cluster.served("web", 2)
    assert (await cluster.seen()).healthy


async def test_nodes_that_trust_nobody_who_is_left_are_made_anew(swarms: Swarms) -> None:
    cluster = swarms(1, 1)
    await cluster.converge()
    await cluster.open()
    ids = sorted(cluster.docker("node", "ls", "--quiet").split())
    keys = cluster.spec.keys
    assert keys is not None
    cluster.spec = replace(cluster.spec, keys=replace(keys, cluster=rotate(keys.cluster).authority))
    await cluster.converge()
    assert sorted(cluster.docker("node", "ls", "--quiet").split()) == ids

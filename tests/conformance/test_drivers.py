"""What every cluster driver does, on each that there is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from app import certificates
from app.backends.driver import ClusterAbility, ClusterDriver, ClusterSpec
from app.errors import EngineError, Invalid, Unsupported
from tests.conformance.yard import YARDS, Kept, Yard, resized
from tests.stack import kubernetes

pytestmark = pytest.mark.timeout(kubernetes.SECONDS)


@pytest.fixture(scope="module")
def kept(docker_url: str) -> Iterator[Kept]:
    """Standing clusters on the engine of this machine."""
    made = Kept(docker_url)
    yield made
    made.remove()


@pytest.fixture(params=list(YARDS))
async def yard(request: pytest.FixtureRequest) -> AsyncIterator[Yard]:
    """A driver and its surroundings; the clusters of the test are removed afterwards."""
    made = YARDS[request.param](request)
    if request.param != "fake":
        made.kept = request.getfixturevalue("kept")
    yield made
    await made.clean_up()


def names(seen: Any, spec: ClusterSpec, group: str) -> list[str]:
    uuid = next(one.uuid for one in spec.groups if one.name == group)
    return [node.name for node in seen.nodes if node.group == uuid]


async def test_it_says_what_it_makes(yard: Yard) -> None:
    assert isinstance(yard.driver, ClusterDriver)
    assert yard.coe in {made.coe for made in yard.driver.provides}
    assert all(made.server_type and made.os for made in yard.driver.provides)
    if ClusterAbility.CONTAINERS not in yard.driver.abilities:
        with pytest.raises((Unsupported, EngineError)):
            yard.driver.engine(yard.plan())


async def test_what_can_never_be_is_said_at_once(yard: Yard) -> None:
    """And nothing is made of it. The sentence names the field, or the label."""
    wrong: list[tuple[ClusterSpec, str]] = [
        (yard.plan(masters=2), "master_count"),
        (yard.plan(masters=0), "master_count"),
        (yard.plan(masters=99), "master_count"),
        (yard.plan(network_driver="carrier-pigeon"), "network_driver"),
        (yard.plan(workers=70_000), ": "),
    ]
    for spec, words in wrong:
        with pytest.raises(Invalid, match=words):
            yard.driver.validate(spec)
    yard.driver.validate(replace(yard.plan(), keys=None))
    assert not {spec.uuid for spec, _ in wrong} & await yard.held()


async def test_a_cluster_is_made_and_once_made_is_left_alone(yard: Yard) -> None:
    spec = yard.plan(workers=2)
    assert await yard.driver.observe(spec) is None
    assert spec.uuid not in await yard.held()
    said = await yard.reach(spec)
    assert said, "nobody was told what goes on"
    seen = await yard.seen(spec)
    assert (seen.healthy, seen.reasons["api"]) == (True, "ok")
    assert len(names(seen, spec, "default-master")) == 1
    assert len(names(seen, spec, "default-worker")) == 2
    for node in seen.nodes:
        assert (node.ready, node.reason) == (True, "")
        assert seen.reasons[f"{node.name}.Ready"] == "True"
    assert len({node.address for node in seen.nodes}) == 3
    assert seen.api_address is not None
    assert seen.coe_version
    assert await yard.driver.mend(spec) == ""
    assert await yard.reach(spec) == []
    assert await yard.reach(spec, yard.twin) == []
    assert await yard.seen(spec) == seen
    assert spec.uuid in await yard.held()


async def test_nodes_come_and_go(yard: Yard) -> None:
    """Those that are named go first, by name or by address; a group may be left without any."""
    spec = yard.plan(workers=0)
    await yard.reach(spec)
    assert names(await yard.seen(spec), spec, "default-worker") == []
    spec = resized(spec, "default-worker", count=3)
    await yard.reach(spec)
    first, second, third = names(await yard.seen(spec), spec, "default-worker")
    spec = resized(spec, "default-worker", count=2, leaving=[first])
    await yard.reach(spec)
    left = await yard.seen(spec)
    assert names(left, spec, "default-worker") == [second, third]
    address = next(node.address for node in left.nodes if node.name == second)
    spec = resized(spec, "default-worker", count=1, leaving=[address])
    await yard.reach(spec)
    assert names(await yard.seen(spec), spec, "default-worker") == [third]
    spec = resized(spec, "default-worker", count=0, leaving=[])
    await yard.reach(spec)
    seen = await yard.seen(spec)
    assert (names(seen, spec, "default-worker"), seen.healthy) == ([], True)


async def test_groups_come_and_go(yard: Yard) -> None:
    assert ClusterAbility.NODE_GROUPS in yard.driver.abilities
    small = await yard.standing()
    before = await yard.seen(small)
    large = replace(small, groups=[*small.groups, yard.group("extra", 1, node_labels={"disk": "fast"})])
    await yard.reach(large)
    seen = await yard.seen(large)
    assert len(names(seen, large, "extra")) == 1
    assert seen.healthy
    await yard.reach(small)
    after = await yard.seen(small)
    assert {(node.name, node.address) for node in after.nodes} == {(node.name, node.address) for node in before.nodes}


async def test_two_at_once_do_no_harm(yard: Yard) -> None:
    """After a freeze two replicas may both believe that the action is theirs."""
    spec = yard.plan(workers=2)
    await asyncio.gather(yard.reach(spec), yard.reach(spec, yard.twin))
    await yard.reach(spec)
    seen = await yard.seen(spec)
    assert seen.healthy
    assert len(seen.nodes) == 3


async def test_a_step_that_was_cut_off_is_made_up_for(yard: Yard) -> None:
    """Whoever comes next knows nothing of the memo, and finds what is there."""
    spec = yard.plan(workers=1)
    for cut in (0.0, 0.02, 0.1, 0.3, 0.8):
        try:
            async with asyncio.timeout(cut):
                await yard.driver.converge(spec, {})
        except TimeoutError:
            pass
    await yard.reach(spec, yard.twin)
    seen = await yard.seen(spec)
    assert seen.healthy
    assert len(seen.nodes) == 2


async def test_a_node_that_stops_is_seen_and_started_again(yard: Yard) -> None:
    spec = await yard.standing()
    before = await yard.seen(spec)
    (worker,) = names(before, spec, "default-worker")
    await yard.stop(spec.uuid, worker)
    seen = await yard.seen(spec)
    assert not seen.healthy
    (node,) = [node for node in seen.nodes if node.name == worker]
    assert not node.ready
    assert node.reason
    assert seen.reasons[f"{worker}.Ready"] == f"False: {node.reason}"
    assert worker in await yard.driver.mend(spec)
    after = await yard.healthy(spec)
    assert {(node.name, node.address) for node in after.nodes} == {(node.name, node.address) for node in before.nodes}
    assert after.api_address == before.api_address


async def test_with_all_nodes_stopped_its_api_does_not_answer(yard: Yard) -> None:
    """And converging starts them as well."""
    spec = await yard.standing()
    for node in (await yard.seen(spec)).nodes:
        await yard.stop(spec.uuid, node.name)
    seen = await yard.seen(spec)
    assert not seen.reachable
    assert seen.reasons["api"] != "ok"
    assert not any(node.ready for node in seen.nodes)
    await yard.reach(spec)
    assert (await yard.seen(spec)).healthy


async def test_nodes_are_replaced_by_those_of_another_image(yard: Yard) -> None:
    assert ClusterAbility.UPGRADE in yard.driver.abilities
    spec = yard.plan(workers=2)
    await yard.reach(spec)
    before = await yard.seen(spec)
    for name in ("default-master", "default-worker"):
        spec = resized(spec, name, image=yard.newer)
    assert await yard.reach(spec) != []
    after = await yard.seen(spec)
    assert after.healthy
    assert len(after.nodes) == 3
    assert after.api_address == before.api_address
    assert await yard.reach(spec) == []


async def test_an_authority_is_replaced(yard: Yard) -> None:
    """First nodes trust both, then only the new one; what was there stays."""
    assert ClusterAbility.ROTATE_CA in yard.driver.abilities
    spec = await yard.standing()
    assert spec.keys is not None
    before = await yard.seen(spec)
    new = certificates.rotate(spec.keys.cluster).authority
    both = replace(spec, keys=replace(spec.keys, cluster=new, previous=spec.keys.cluster))
    assert await yard.reach(both) != []
    yard.keep(both)
    assert (await yard.seen(both)).healthy
    only = replace(spec, keys=replace(spec.keys, cluster=new))
    await yard.reach(only)
    yard.keep(only)
    after = await yard.seen(only)
    assert after.healthy
    assert {(node.name, node.address) for node in after.nodes} == {(node.name, node.address) for node in before.nodes}
    assert await yard.reach(only) == []


async def test_deleted_there_is_nothing_left(yard: Yard) -> None:
    """However far it was made, and however often it is asked for."""
    whole, half, never = yard.plan(workers=1), yard.plan(workers=1), yard.plan()
    await yard.reach(whole)
    await yard.driver.converge(half, {})
    assert half.uuid in await yard.held()
    for spec in (whole, half, never):
        await yard.gone(spec.uuid)
        assert await yard.driver.delete(spec.uuid)
        assert await yard.twin.delete(spec.uuid)
        assert await yard.driver.observe(spec) is None
    assert not {whole.uuid, half.uuid, never.uuid} & await yard.held()


async def test_deleted_by_two_at_once(yard: Yard) -> None:
    spec = yard.plan(workers=1)
    await yard.reach(spec)
    await asyncio.gather(yard.driver.delete(spec.uuid), yard.twin.delete(spec.uuid))
    await yard.gone(spec.uuid)
    assert spec.uuid not in await yard.held()


async def test_clusters_leave_each_other_alone(yard: Yard) -> None:
    one, other = yard.plan(workers=0), yard.plan(workers=0)
    await asyncio.gather(yard.reach(one), yard.reach(other))
    addresses = {node.address for spec in (one, other) for node in (await yard.seen(spec)).nodes}
    assert len(addresses) == 2
    await yard.gone(one.uuid)
    assert (await yard.seen(other)).healthy
    assert await yard.reach(other) == []

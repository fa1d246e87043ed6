"""Containers of one project reach each other; those of two projects do not. Packets are counted where they arrive."""

import re
from secrets import token_hex

import pytest

from app.backends.engine import Execs, Networks, Seen
from tests.conformance.place import Place

PROTOCOLS = {
    "ping": ("ping -c 1 -W 1 {to}", "Icmp", "InEchos"),
    "tcp": ("nc -w 1 {to} 80 </dev/null", "Tcp", "PassiveOpens"),
    "closed tcp": ("nc -w 1 {to} 81 </dev/null", "Tcp", "InSegs"),
}


async def server(place: Place, project: str) -> Seen:
    """A container of the project that listens on port 80."""
    assert isinstance(place.engine, Networks)
    network = await place.engine.ensure_network(project)
    return await place.run("httpd", "-f", "-p", "80", network=network, project_id=project)


async def counted(place: Place, seen: Seen, family: str, counter: str) -> int:
    """How many packets of this kind the container has received in its life."""
    assert isinstance(place.engine, Execs)
    table = (await place.engine.execute(seen.ref, ["cat", "/proc/net/snmp"], 30)).output.decode()
    names, values = re.findall(rf"^{family}: (.*)$", table, re.MULTILINE)
    return int(dict(zip(names.split(), values.split(), strict=True))[counter])


async def arrived(place: Place, sender: Seen, receiver: Seen, protocol: str) -> int:
    """How many packets arrive when one container sends to the other's address."""
    assert isinstance(place.engine, Execs)
    command, family, counter = PROTOCOLS[protocol]
    before = await counted(place, receiver, family, counter)
    await place.engine.execute(sender.ref, ["sh", "-c", command.format(to=receiver.addresses[0].address)], 60)
    return await counted(place, receiver, family, counter) - before


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_projects_do_not_reach_each_other(place: Place, protocol: str) -> None:
    assert isinstance(place.engine, Networks)
    foreign = token_hex(16)
    one, two, other = [await server(place, project) for project in (place.project, place.project, foreign)]
    try:
        assert await arrived(place, one, two, protocol) > 0
        assert await arrived(place, two, one, protocol) > 0
        for sender, receiver in ((one, other), (other, one), (two, other), (other, two)):
            assert await arrived(place, sender, receiver, protocol) == 0
    finally:
        await place.engine.remove(other.ref, force=True)
        await place.engine.remove_network(foreign)


async def test_a_route_of_ones_own_does_not_lead_there_either(place: Place) -> None:
    """With NET_RAW a container may write any address on its packets, but it may not change its routes or links."""
    assert isinstance(place.engine, Execs)
    one = await server(place, place.project)
    for change in (
        "ip route add 10.0.0.0/8 dev eth0",
        "ip link set eth0 promisc on",
        "ip addr add 10.1.2.3/8 dev eth0",
    ):
        done = await place.engine.execute(one.ref, ["sh", "-c", change], 30)
        assert done.exit_code != 0
        assert b"Operation not permitted" in done.output


async def test_networks_do_not_overlap(place: Place, docker_url: str) -> None:
    assert isinstance(place.engine, Networks)
    projects = [token_hex(16) for _ in range(4)]
    try:
        servers = [await server(place, project) for project in projects]
        subnets = {seen.addresses[0].address.rpartition(".")[0] for seen in servers}
        assert len(subnets) == len(projects)
        for seen in servers:
            await place.engine.remove(seen.ref, force=True)
    finally:
        for project in projects:
            await place.engine.remove_network(project)

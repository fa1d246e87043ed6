"""Security groups of Neutron as guards of the engine: everything is asked anew, and put in place at once.

What is enforced is what Neutron says of the ports that are bound to the engine's host, so there is nothing to keep.
"""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, UUID, uuid5
from weakref import WeakKeyDictionary

import structlog

from app.actions import Again, Job, Outcome, ensure_recurring, step
from app.backends.engine import Ability, ContainerEngine
from app.backends.wires import Guard, Guards, Rule
from app.db import Database
from app.errors import GatewayError
from app.neutron import DEVICE_OWNER, Neutron, Thing, connect

log = structlog.get_logger("caisson.firewall")

WIRE_NAMES = "caisson-net-"

PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6-encap": 41, "ipv6-route": 43,
    "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ospf": 89, "vrrp": 112, "pgm": 113, "sctp": 132, "udplite": 136,
}  # fmt: skip
"""Neutron's names of IP's protocols."""


class _Turn:
    """One at a time for each engine; who waited while a whole round ran need not start another."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.begun = 0
        self.done = 0


_turns: WeakKeyDictionary[ContainerEngine, _Turn] = WeakKeyDictionary()


def guard_id(backend: str) -> str:
    """The resource that a backend's recurring action belongs to."""
    return str(uuid5(NAMESPACE_URL, f"caisson:guard:{backend}"))


async def ensure(database: Database, backends: Sequence[str]) -> None:
    """Make sure that the guards of every backend follow Neutron."""
    for name in backends:
        await ensure_recurring(database, guard_id(name), "backend", "guard", name)


@step("backend", "guard")
async def guard(job: Job) -> Outcome:
    """The recurring look at Neutron's rules."""
    try:
        neutron = await connect(job.catalogue)
        if neutron is not None:
            await enforce(neutron, job.engine)
    except GatewayError as error:  # what was in place stays there
        log.warning("security groups not refreshed", backend=job.engine.name, reason=error.title)
    return Again(job.settings.guard_seconds)


async def enforce(neutron: Neutron, engine: ContainerEngine) -> None:
    """Let the engine enforce what Neutron says now. Without ability FIREWALL there is nothing to do.

    Raises Busy when Neutron cannot answer, EngineError when the engine cannot do it.
    """
    if Ability.FIREWALL not in engine.abilities or not isinstance(engine, Guards):
        return
    turn = _turns.setdefault(engine, _Turn())
    begun = turn.begun
    async with turn.lock:
        if turn.done > begun:
            return
        turn.begun += 1
        now = turn.begun
        guards, members = await _guards(neutron, (await engine.ping()).hostname)
        await engine.guard(guards, members)
        turn.done = now


async def _guards(neutron: Neutron, host: str) -> tuple[list[Guard], dict[str, list[str]]]:
    ports = await neutron.find("ports", **{"binding:host_id": host, "device_owner": DEVICE_OWNER})
    groups = await _groups(neutron, {group for port in ports for group in port["security_groups"]})
    remote = {rule["remote_group_id"] for group in groups.values() for rule in group["security_group_rules"]} - {None}
    members: dict[str, list[str]] = {ident: [] for ident in remote}
    for ident in sorted(remote):
        for port in await neutron.find("ports", security_groups=ident):
            members[ident] += _addresses(port)
    return [one for port in ports if (one := _guard(port, groups)) is not None], members


async def _groups(neutron: Neutron, ids: set[str]) -> dict[str, Thing]:
    found = await neutron.find("security_groups", id=sorted(ids)) if ids else []
    return {group["id"]: group for group in found}


def _guard(port: Thing, groups: Mapping[str, Thing]) -> Guard | None:
    try:
        uuid = UUID(port["device_id"])
    except ValueError:
        return None
    rules: list[Rule] | None = None
    if port["port_security_enabled"]:
        of_port = [groups[group] for group in port["security_groups"] if group in groups]
        rules = [
            made for group in of_port for rule in group["security_group_rules"] if (made := rule_of(rule)) is not None
        ]
    return Guard(uuid, f"{WIRE_NAMES}{port['network_id']}", _addresses(port), rules)


def rule_of(rule: Thing) -> Rule | None:
    """A rule of Neutron for the engine; None for one that cannot be kept (address groups), which lets nothing pass."""
    if rule.get("remote_address_group_id"):
        return None
    name = rule["protocol"]
    protocol = None
    if name is not None and str(name).lower() not in ("any", "0"):
        protocol = int(name) if str(name).isdigit() else PROTOCOLS.get(str(name).lower(), -1)
        if protocol < 0:
            return None
    version = 6 if rule["ethertype"] == "IPv6" else 4
    if protocol == PROTOCOLS["icmp"] and version == 6:
        protocol = PROTOCOLS["icmpv6"]
    return Rule(
        ingress=rule["direction"] == "ingress",
        version=version,
        protocol=protocol,
        low=rule["port_range_min"],
        high=rule["port_range_max"],
        prefix=rule["remote_ip_prefix"],
        group=rule["remote_group_id"],
    )


def _addresses(port: Thing) -> list[str]:
    """Its own, and those that Neutron lets it use besides, if they are single ones with its own MAC address."""
    pairs = port.get("allowed_address_pairs") or ()
    more = [
        pair["ip_address"]
        for pair in pairs
        if "/" not in pair["ip_address"] and pair.get("mac_address", port["mac_address"]) == port["mac_address"]
    ]
    return [ip["ip_address"] for ip in port["fixed_ips"]] + more

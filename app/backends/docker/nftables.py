"""The host's packet filter: which packets may pass between containers' ports, as one text for ``nft``.

Two tables. The one of the family `bridge` looks at what comes out of a container: only its own MAC and IP addresses
may, and nobody else may bear them. The one of the family `inet` lets through what the rules name; it meets frames
between two ports of a bridge as well, because the kernel's br_netfilter shows them to it. It knows bridges by how their
names begin, so that a new one is shut from the first moment. Packets in the direction in
which a conversation began are held against the rules each time, answers are not: so a rule that is taken back ends what
it allowed. The tables outlive Caisson's process.

A third one, the fence, is for the networks that Caisson itself gives to projects: it keeps their containers from the
host, and from what clouds tell machines at link-local addresses. All Caissons of a host share it.
"""

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path

from app.backends.wires import Rule
from app.errors import EngineBug, Refused, Unavailable

SECONDS = 20.0
FAMILIES = ("bridge", "inet")

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_ANSWERS = ("ct state related accept", "ct state established ct direction reply accept")
_WITH_PORTS = {TCP, UDP, 33, 132, 136}
FENCE = "caisson_fence"
FENCED = "caip-"
"""How names of bridges begin whose containers do not reach the host."""
OF_NODES = "caic-"
"""How names of bridges begin whose nodes of clusters reach the host, but not what clouds tell it."""
METADATA = ("ip daddr 169.254.0.0/16 reject", "ip6 daddr { fe80::/10, fd00:ec2::254 } reject")
"""Where clouds tell a machine its secrets. Refused at once: kubelet asks there and would wait for seconds."""
_BRIDGED = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}tables") for family in ("ip", "ip6")]


@dataclass(frozen=True, slots=True)
class Place:
    """A container's port on the host: its interface, its bridge, its addresses and its rules (None: no limits)."""

    interface: str
    bridge: str
    mac: str
    addresses: Sequence[str]
    rules: Sequence[Rule] | None


class Tables:
    """The two tables of one engine of one Caisson; others on the same host have tables of their own."""

    def __init__(self, identity: str) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()
        self.name = f"caisson_{digest[:10]}"
        self._bridges = f"cn{digest[:4]}-"

    def bridge(self, network: str) -> str:
        """The name of a network's bridge, by which these tables are its own: 15 characters, the kernel's limit."""
        return f"{self._bridges}{network.replace('-', '')[:8]}"

    async def works(self) -> bool:
        """Whether this process may filter packets on this host. Makes bridges show frames to the filter."""
        if not may_filter() or shutil.which("nsenter") is None:
            return False
        try:
            for switch in _BRIDGED:
                if switch.read_text().strip() != "1":
                    switch.write_text("1")
            probe = f"{self.name}_probe"
            both = [f"{verb} table {family} {probe}" for verb in ("add", "delete") for family in FAMILIES]
            await _run(["nft", "-f", "-"], "\n".join(both))
        except (OSError, Refused, Unavailable):
            return False
        return True

    async def stand(self) -> None:
        """Make sure of tables, before the first bridge comes: where there are none everything would pass on it."""
        listed = await _run(["nft", "list", "tables"], "")
        if f"table inet {self.name}" not in listed.splitlines():
            await self.apply([], {})

    async def apply(self, places: Sequence[Place], members: Mapping[str, Sequence[str]]) -> None:
        """Put new tables in the place of the old, in one transaction of the kernel. Raises Refused with nft's words."""
        text, mark = render(self.name, self._bridges, places, members)
        # The kernel is asked: another replica may have put others there, or somebody have emptied the whole filter.
        try:
            await _run(["nft", "-f", "-"], "".join(f"list chain {family} {self.name} {mark}\n" for family in FAMILIES))
        except Refused:
            await _run(["nft", "-f", "-"], text)

    async def remove(self) -> None:
        """Without bridges there is nothing to filter."""
        await _run(["nft", "-f", "-"], _nothing(self.name))


def new_bridge(kind: str) -> str:
    """A name for a new bridge, `FENCED` or `OF_NODES`: 15 characters, the kernel's limit."""
    return f"{kind}{secrets.token_hex(5)}"


def may_filter() -> bool:
    """Whether this process is somebody who may filter packets on this host."""
    return os.geteuid() == 0 and shutil.which("nft") is not None


async def fence() -> None:
    """Make sure of the fence. Raises Refused with nft's words."""
    body = fence_lines()
    mark = f"is_{hashlib.sha256(repr(body).encode()).hexdigest()[:16]}"
    try:
        await _run(["nft", "-f", "-"], f"list chain inet {FENCE} {mark}\n")
    except Refused:
        lines = [f"table inet {FENCE} {{", *_chain(mark, []), *body, "}"]
        await _run(["nft", "-f", "-"], _no_fence() + "\n".join(lines) + "\n")


async def clear_fence() -> None:
    """Remove the fence when nobody is behind it. Raises Refused with nft's words."""
    if not _is_needed():
        await _run(["nft", "-f", "-"], _no_fence())
        if _is_needed():  # somebody made a bridge in this moment
            await fence()


async def host_side(pid: int, mac: str) -> str | None:
    """The host's end of the interface with this MAC address in a process's network namespace; None if it is gone."""
    try:
        inside = json.loads(await _run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "link"], ""))
    except Refused:
        return None
    for link in inside:
        if link.get("address") == mac.lower() and (index := link.get("link_index")):
            return _interfaces().get(index)
    return None


def render(name: str, bridges: str, places: Sequence[Place], members: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The whole text, for bridges whose names begin so; and a chain of both tables that tells it from any other."""
    bodies = [_origins(places), _passages(f'"{bridges}*"', places, members)]
    mark = f"is_{hashlib.sha256(repr(bodies).encode()).hexdigest()[:16]}"
    lines = [
        line
        for family, body in zip(FAMILIES, bodies, strict=True)
        for line in (f"table {family} {name} {{", *_chain(mark, []), *body, "}")
    ]
    return _nothing(name) + "\n".join(lines) + "\n", mark


def _nothing(name: str) -> str:
    """Removes the tables, which may be absent."""
    return "".join(f"{verb} table {family} {name}\n" for family in FAMILIES for verb in ("add", "delete"))


def _origins(places: Sequence[Place]) -> list[str]:
    """Family bridge: who may say that he has which address."""
    guarded = [place for place in places if place.rules is not None]
    triples = {
        version: [
            f"{place.interface} . {place.mac} . {address}"
            for place in guarded
            for address in place.addresses
            if ip_address(address).version == version
        ]
        for version in (4, 6)
    }
    known = {version: sorted({one.rpartition(" ")[2] for one in triples[version]}) for version in (4, 6)}
    chain = [
        # Somebody else's address, from an interface that is not his: also from one that nobody has told us of yet.
        "ip saddr @known4 iifname . ether saddr . ip saddr != @own4 drop",
        "ip6 saddr @known6 iifname . ether saddr . ip6 saddr != @own6 drop",
        "arp saddr ip @known4 iifname . arp saddr ether . arp saddr ip != @own4 drop",
        # An interface of ours: nothing but its own addresses.
        "iifname != @interfaces accept",
        "iifname . ether saddr != @pairs drop",
        "ether type arp iifname . arp saddr ether . arp saddr ip @own4 accept",
        "ether type ip iifname . ether saddr . ip saddr @own4 accept",
        "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop",
        "ether type ip6 ip6 saddr { ::, fe80::/10 } accept",
        "ether type ip6 iifname . ether saddr . ip6 saddr @own6 accept",
        "drop",
    ]
    return [
        *_set("known4", "ipv4_addr", known[4]),
        *_set("known6", "ipv6_addr", known[6]),
        *_set("own4", "ifname . ether_addr . ipv4_addr", triples[4]),
        *_set("own6", "ifname . ether_addr . ipv6_addr", triples[6]),
        *_set("interfaces", "ifname", [place.interface for place in guarded]),
        *_set("pairs", "ifname . ether_addr", [f"{place.interface} . {place.mac}" for place in guarded]),
        *_chain("arrive", ["type filter hook prerouting priority -310; policy accept;", *chain]),
    ]


def _passages(bridges: str, places: Sequence[Place], members: Mapping[str, Sequence[str]]) -> list[str]:
    """Family inet: what may pass. A packet between two containers must pass the sender's rules and the receiver's."""
    sets: list[str] = []
    for group, addresses in sorted(members.items()):
        for version in (4, 6):
            of_version = [address for address in addresses if ip_address(address).version == version]
            sets += _set(_group(group, version), f"ipv{version}_addr", of_version)
    chains: list[str] = []
    jumps: dict[tuple[str, int], list[str]] = {(way, version): [] for way in ("out", "in") for version in (4, 6)}
    for number, place in enumerate(places):
        for way in ("out", "in"):
            if place.rules is not None:
                allowed = [_match(rule) for rule in place.rules if rule.ingress == (way == "in")]
                chains += _chain(f"{way}_{number}", [*(f"{match} return" for match in sorted(set(allowed))), "drop"])
            for address in place.addresses:
                verdict = "continue" if place.rules is None else f"jump {way}_{number}"
                jumps[way, ip_address(address).version].append(f"{place.bridge} . {address} : {verdict}")
    maps: list[str] = []
    for (way, version), entries in jumps.items():
        maps += _set(f"{way}{version}", f"ifname . ipv{version}_addr : verdict", entries, kind="map")
        known = [entry.rpartition(" : ")[0] for entry in entries]
        maps += _set(f"{way}_known{version}", f"ifname . ipv{version}_addr", known)
    answers = [*_ANSWERS, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"]
    leaving = [
        "meta nfproto ipv4 iifname . ip saddr != @out_known4 drop",
        "meta nfproto ipv6 iifname . ip6 saddr != @out_known6 drop",
        "iifname . ip saddr vmap @out4",
        "iifname . ip6 saddr vmap @out6",
    ]
    entering = [
        "meta nfproto ipv4 oifname . ip daddr != @in_known4 drop",
        "meta nfproto ipv6 oifname . ip6 daddr != @in_known6 drop",
        "oifname . ip daddr vmap @in4",
        "oifname . ip6 daddr vmap @in6",
    ]
    return [
        *sets,
        *chains,
        *maps,
        *_chain("leaving", leaving),
        *_chain("entering", entering),
        *_chain(
            "forward",
            [
                "type filter hook forward priority -10; policy accept;",
                f"iifname != {bridges} oifname != {bridges} accept",
                *answers,
                *(f"iifname {bridges} {rule}" for rule in METADATA),
                # Docker routes IPv6 between all its networks.
                f"iifname {bridges} oifname != {bridges} meta nfproto ipv6 drop",
                f"iifname != {bridges} oifname {bridges} meta nfproto ipv6 drop",
                f"iifname {bridges} jump leaving",
                f"oifname {bridges} jump entering",
            ],
        ),
        *_chain(
            "input",
            [
                "type filter hook input priority -10; policy accept;",
                f"iifname != {bridges} accept",
                *answers,
                "jump leaving",
                # The host is the networks' gateway, and nothing else to them.
                "meta l4proto { icmp, ipv6-icmp } accept",
                "drop",
            ],
        ),
        *_chain(
            "output",
            [
                "type filter hook output priority -10; policy accept;",
                f"oifname != {bridges} accept",
                *answers,
                "jump entering",
            ],
        ),
    ]


def fence_lines() -> list[str]:
    """The chains of the fence."""
    return [
        *_chain(
            "input",
            [
                "type filter hook input priority -10; policy accept;",
                f'iifname != "{FENCED}*" accept',
                *_ANSWERS,
                "meta l4proto { icmp, ipv6-icmp } accept",
                "drop",
            ],
        ),
        *_chain(
            "forward",
            [
                "type filter hook forward priority -10; policy accept;",
                *(f'iifname "{kind}*" {rule}' for kind in (FENCED, OF_NODES) for rule in METADATA),
            ],
        ),
    ]


def _no_fence() -> str:
    return f"add table inet {FENCE}\ndelete table inet {FENCE}\n"


def _is_needed() -> bool:
    return any(name.startswith((FENCED, OF_NODES)) for name in _interfaces().values())


def _match(rule: Rule) -> str:
    """The condition of one rule."""
    family, side = ("ip" if rule.version == 4 else "ip6"), ("saddr" if rule.ingress else "daddr")
    words = [f"meta nfproto ipv{rule.version}"]
    if rule.prefix is not None and (prefix := ip_network(rule.prefix, strict=False)).prefixlen:
        words.append(f"{family} {side} {prefix}")
    if rule.group is not None:
        words.append(f"{family} {side} @{_group(rule.group, rule.version)}")
    if rule.protocol is None:
        return " ".join(words)
    words.append(f"meta l4proto {rule.protocol}")
    if rule.protocol in (ICMP, ICMPV6):
        kind = "icmp" if rule.protocol == ICMP else "icmpv6"
        words += [f"{kind} type {rule.low}"] if rule.low is not None else []
        words += [f"{kind} code {rule.high}"] if rule.high is not None else []
    elif rule.protocol in _WITH_PORTS and rule.low is not None:
        words.append(f"th dport {rule.low}-{rule.high if rule.high is not None else rule.low}")
    return " ".join(words)


def _group(group: str, version: int) -> str:
    return f"g{version}_{group.replace('-', '')}"


def _set(name: str, kind_of: str, elements: Sequence[str], *, kind: str = "set") -> list[str]:
    unique = ", ".join(sorted(set(elements)))
    return [f"  {kind} {name} {{ type {kind_of}; {f'elements = {{ {unique} }};' if unique else ''} }}"]


def _chain(name: str, rules: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def _interfaces() -> dict[int, str]:
    """The host's interfaces by number."""
    found: dict[int, str] = {}
    for folder in Path("/sys/class/net").iterdir():
        try:
            found[int((folder / "ifindex").read_text())] = folder.name
        except (OSError, ValueError):
            continue
    return found


async def _run(command: Sequence[str], text: str) -> str:
    """Run one program to its end. Raises Refused with its words, Unavailable when it does not end."""
    # In a thread, because uvloop fails on a program that ends before it has read its input.
    argv = [_path(command[0]), *command[1:]]
    few = {"PATH": os.environ.get("PATH", os.defpath)}  # of Caisson's own variables some are secrets
    try:
        done = await asyncio.to_thread(
            subprocess.run, argv, input=text, env=few, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} did not end within {SECONDS:g} seconds") from None
    if done.returncode:
        raise Refused(f"{command[0]}: {done.stderr.strip()[:500]}")
    return done.stdout


@cache
def _path(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise EngineBug(f"there is no program {program} on this host")
    return found

"""The Docker engine's networks with given addresses: a bridge for each, which Docker gives those addresses on."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from app.backends.docker import nftables, shapes
from app.backends.docker.calls import container_path
from app.backends.docker.networks import DockerNetworks
from app.backends.engine import Ability
from app.backends.wires import Attachment, Guard, Wire, overlapped
from app.errors import Gone, Refused, Taken

RELEASE_SECONDS = 5.0
LABEL_TABLES = "caisson.tables"  # whose packet filter looks after it


def wire_name(network: str) -> str:
    """Docker's name of a network."""
    return f"caisson-net-{network}"


class DockerWires(DockerNetworks):
    """What `DockerEngine` does for networks of Neutron."""

    tables: nftables.Tables
    abilities: frozenset[Ability]

    async def ensure_wire(self, wire: Wire) -> str:
        """See `Wires`. Docker knows no two networks with overlapping addresses, whoever's they are."""
        name = wire_name(wire.network)
        async with self._wire_lock(name):
            if await self._wire(name) is None:
                try:
                    await self._make_wire(name, wire)
                except Taken:
                    if not await self._appears(name, [subnet.cidr for subnet in wire.subnets]):
                        raise
        return name

    async def remove_wire(self, network: str) -> bool:
        """See `Wires`."""
        name = wire_name(network)
        async with self._wire_lock(name):
            # Docker forgets a network that only stopped containers use, and then cannot start them.
            users = json.dumps({"network": [name]})
            deadline = time.monotonic() + RELEASE_SECONDS
            while not await self.calls.call("GET", "containers/json", {"all": True, "filters": users}):
                try:
                    await self.calls.call("DELETE", f"networks/{name}")
                except Gone:
                    return True
                except Taken:
                    # A container that was killed leaves its network a moment after it is gone.
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(0.05)
                else:
                    return True
            return False

    async def join(self, ref: str, place: Attachment) -> str:
        """See `Wires`. Before Docker's API 1.44 only the network that a container is made with takes a MAC address."""
        await self.connect(ref, place.name, endpoint(place))
        there = (await self.connections(ref)).get(place.name) or {}
        return str(there.get("MacAddress") or place.mac)

    async def leave(self, ref: str, network: str) -> None:
        """See `Wires`."""
        with suppress(Gone):
            await self.disconnect(ref, wire_name(network))

    async def guard(self, guards: Sequence[Guard], members: Mapping[str, Sequence[str]]) -> None:
        """See `Guards`."""
        async with self._wire_lock("guards"):
            places: list[nftables.Place] = []
            for uuid in sorted({one.uuid for one in guards}, key=str):
                document = await self._document(shapes.container_name(uuid))
                if document is None or not (pid := document["State"].get("Pid")):
                    continue
                for one in guards:
                    there = document["NetworkSettings"]["Networks"].get(one.name) or {}
                    if one.uuid != uuid or not (mac := there.get("MacAddress")):
                        continue
                    port = await nftables.host_side(pid, mac)
                    if port is not None:
                        bridge = self.tables.bridge(one.name.removeprefix(wire_name("")))
                        places.append(nftables.Place(port, bridge, mac, one.addresses, one.rules))
            query = {"filters": json.dumps({"label": [f"{LABEL_TABLES}={self.tables.name}"]})}
            if await self.calls.call("GET", "networks", query):
                await self.tables.apply(places, members)
            else:
                await self.tables.remove()

    async def _make_wire(self, name: str, wire: Wire) -> None:
        ranges = [one for one in await self.ranges() if one.network != wire.network]
        for subnet in wire.subnets:
            if overlapped(subnet.cidr, ranges) is not None:
                raise Taken(
                    f"network {wire.network}: {subnet.cidr} overlaps addresses that the engine's host has already; "
                    "use a subnet with others"
                )
        body = _body(name, wire, self.tables.name, self.tables.bridge(wire.network))
        if Ability.FIREWALL not in self.abilities:
            await self.calls.call("POST", "networks/create", body=body)
            return
        async with self._wire_lock("guards"):  # or a round that has seen no bridge yet would remove the tables
            await self.tables.stand()
            await self.calls.call("POST", "networks/create", body=body)

    async def _wire(self, name: str) -> Mapping[str, Any] | None:
        try:
            document: Mapping[str, Any] = await self.calls.call("GET", f"networks/{name}")
        except Gone:
            return None
        if shapes.LABEL_NETWORK not in (document.get("Labels") or {}):
            raise Taken(f"the engine's network {name} is not Caisson's")
        return document

    async def _document(self, ref: str) -> Mapping[str, Any] | None:
        try:
            document: Mapping[str, Any] = await self.calls.call("GET", f"{container_path(ref)}/json")
        except Gone:
            return None
        return document

    def _wire_lock(self, name: str) -> asyncio.Lock:
        return self.calls.session.networks.setdefault(name, asyncio.Lock())


def endpoint(place: Attachment) -> dict[str, Any]:
    """Docker's EndpointConfig."""
    fields = {f"IPv{ip_address(address).version}Address": address for address in place.addresses}
    return {"IPAMConfig": fields, "MacAddress": place.mac}


def plug_in(body: dict[str, Any], places: Sequence[Attachment]) -> dict[str, Any]:
    """A create body on the first of these networks; Docker takes one there, and the others afterwards."""
    if not places:
        return body
    first = places[0]
    config = body["HostConfig"] | {"NetworkMode": first.name}
    ends = {"EndpointsConfig": {first.name: endpoint(first)}}
    return body | {"HostConfig": config, "MacAddress": first.mac, "NetworkingConfig": ends}


def replugged(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a container made anew needs of the old one's document to be on the same networks."""
    mode = document["HostConfig"]["NetworkMode"]
    there = (document["NetworkSettings"]["Networks"] or {}).get(mode)
    if not mode.startswith(wire_name("")) or not there or not there.get("IPAMConfig"):
        return {}
    return {"NetworkingConfig": {"EndpointsConfig": {mode: {"IPAMConfig": there["IPAMConfig"]}}}}


def _body(name: str, wire: Wire, tables: str, bridge: str) -> dict[str, Any]:
    if not wire.subnets:
        raise Refused(f"network {wire.network} has no subnet that the engine can use")
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": wire.closed,
        "EnableIPv6": any(":" in subnet.cidr for subnet in wire.subnets),
        "IPAM": {"Config": [{"Subnet": subnet.cidr, "Gateway": subnet.host} for subnet in wire.subnets]},
        "Options": {
            "com.docker.network.bridge.name": bridge,
            "com.docker.network.driver.mtu": str(wire.mtu),
        },
        "Labels": {shapes.LABEL_NETWORK: wire.network, LABEL_TABLES: tables},
    }

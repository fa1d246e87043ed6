"""The Docker engine's networks with given addresses: a bridge for each, which Docker gives those addresses on."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from app.backends import docker_shapes as shapes
from app.backends import nftables
from app.backends.docker_calls import Calls, container_path
from app.backends.wires import Attachment, Guard, Wire
from app.errors import EngineError, Gone, Refused, Taken

RELEASE_SECONDS = 5.0
LABEL_NETWORK = "caisson.network"
LABEL_TABLES = "caisson.tables"  # whose packet filter looks after it


def wire_name(network: str) -> str:
    """Docker's name of a network."""
    return f"caisson-net-{network}"


def bridge_name(network: str) -> str:
    """The name of its bridge on the host: at most 15 characters."""
    return f"cn-{network.replace('-', '')[:12]}"


class DockerWires:
    """What `DockerEngine` does for networks of Neutron."""

    calls: Calls
    tables: nftables.Tables

    async def ensure_wire(self, wire: Wire) -> str:
        """See `Wires`. Docker knows no two networks with overlapping addresses, whoever's they are."""
        name = wire_name(wire.network)
        async with self._wire_lock(name):
            if await self._wire(name) is None:
                try:
                    await self.calls.call("POST", "networks/create", body=_body(name, wire, self.tables.name))
                except Taken as error:
                    if "overlap" in error.title:
                        ranges = ", ".join(subnet.cidr for subnet in wire.subnets)
                        raise Taken(
                            f"network {wire.network}: {ranges} overlaps a network that the engine's host has already; "
                            "use a subnet with other addresses"
                        ) from error
                    if await self._wire(name) is None:
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
        there = await self._endpoint(ref, place.name)
        if there is None:
            body = {"Container": ref, "EndpointConfig": endpoint(place)}
            try:
                await self.calls.call("POST", f"networks/{place.name}/connect", body=body)
            except EngineError as error:
                if "already exists in network" not in error.title:
                    raise
        there = await self._endpoint(ref, place.name)
        return str((there or {}).get("MacAddress") or place.mac)

    async def leave(self, ref: str, network: str) -> None:
        """See `Wires`."""
        name = wire_name(network)
        if await self._endpoint(ref, name) is None:
            return
        with suppress(Gone):
            await self.calls.call("POST", f"networks/{name}/disconnect", body={"Container": ref, "Force": True})

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
                        bridge = bridge_name(one.name.removeprefix(wire_name("")))
                        places.append(nftables.Place(port, bridge, mac, one.addresses, one.rules))
            wires = await self.calls.call(
                "GET", "networks", {"filters": json.dumps({"label": [f"{LABEL_TABLES}={self.tables.name}"]})}
            )
            bridges = [bridge_name(document["Labels"][LABEL_NETWORK]) for document in wires]
            await self.tables.apply(nftables.present(bridges), places, members)

    async def _wire(self, name: str) -> Mapping[str, Any] | None:
        try:
            document: Mapping[str, Any] = await self.calls.call("GET", f"networks/{name}")
        except Gone:
            return None
        if LABEL_NETWORK not in (document.get("Labels") or {}):
            raise Taken(f"the engine's network {name} is not Caisson's")
        return document

    async def _document(self, ref: str) -> Mapping[str, Any] | None:
        try:
            document: Mapping[str, Any] = await self.calls.call("GET", f"{container_path(ref)}/json")
        except Gone:
            return None
        return document

    async def _endpoint(self, ref: str, name: str) -> Mapping[str, Any] | None:
        document = await self._document(ref)
        there: Mapping[str, Any] | None = (
            None if document is None else document["NetworkSettings"]["Networks"].get(name)
        )
        return there

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


def _body(name: str, wire: Wire, tables: str) -> dict[str, Any]:
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
            "com.docker.network.bridge.name": bridge_name(wire.network),
            "com.docker.network.driver.mtu": str(wire.mtu),
        },
        "Labels": {LABEL_NETWORK: wire.network, LABEL_TABLES: tables},
    }

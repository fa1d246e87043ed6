"""Networks of our own on Docker: making one, attaching a container to its project's, and detaching it."""

import asyncio
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Network

from app.backends import docker_shapes as shapes
from app.backends.docker_calls import Calls, container_path, text_of
from app.backends.engine import Networks
from app.errors import Gone, Taken

NONE = "none"


class NameTaken(Taken):
    """A network of that name is there."""


class DockerNetworks:
    """What `DockerEngine` can do about networks that it chooses the addresses of."""

    calls: Calls

    async def cut_network(
        self, name: str, labels: Mapping[str, str], pool: str, prefix: int, seed: str
    ) -> IPv4Network | None:
        """Make a bridge network with a range of `pool` that nothing else on this host has; None when none is left.

        `seed` decides where the search begins. Raises NameTaken.
        """
        taken = await self._taken_subnets()
        while subnet := shapes.free_subnet(pool, prefix, taken, zlib.crc32(seed.encode())):
            body = {
                "Name": name,
                "CheckDuplicate": True,
                "Driver": "bridge",
                "IPAM": {"Config": [{"Subnet": subnet}]},
                "Labels": dict(labels),
            }
            try:
                await self.calls.call("POST", "networks/create", body=body)
            except Taken as error:
                if "overlap" not in error.title or await self._appears(name):
                    raise NameTaken(error.title) from error
                # Somebody else was quicker, or Docker knows of more routes than we do.
                taken.append(IPv4Network(subnet))
                continue
            return IPv4Network(subnet)
        return None

    async def join_network(self, ref: str, project_id: str) -> None:
        """Connect a container, running or not, with its project's network, made when absent; again is fine."""
        if isinstance(self, Networks):
            await self.ensure_network(project_id)
        name = shapes.network_name(project_id)
        connected = await self._connected(ref)
        if name in connected:
            return
        if NONE in connected:
            await self._disconnect(ref, NONE)
        with suppress(Taken):  # another replica was quicker
            await self.calls.call("POST", f"networks/{name}/connect", body={"Container": ref})

    async def leave_network(self, ref: str, project_id: str) -> None:
        """Disconnect a container from it; it stays off when it starts again. Not connected is fine.

        Docker connects a container that is on no network at all with the first one when it starts: so it joins the
        one that is called ``none``.
        """
        name = shapes.network_name(project_id)
        connected = await self._connected(ref)
        if name in connected:
            await self._disconnect(ref, name)
        if not connected - {name}:
            with suppress(Taken):
                await self.calls.call("POST", f"networks/{NONE}/connect", body={"Container": ref})

    async def _appears(self, name: str) -> bool:
        """Whether another replica makes this network: it then chose the same range, which is taken a moment before the
        network can be seen."""
        wish = json.dumps({"name": [name]})
        for _ in range(4):
            if any(found["Name"] == name for found in await self.calls.call("GET", "networks", {"filters": wish})):
                return True
            await asyncio.sleep(0.05)
        return False

    async def _taken_subnets(self) -> list[IPv4Network]:
        documents = await self.calls.call("GET", "networks")
        ranges = [entry.get("Subnet", "") for document in documents for entry in document["IPAM"]["Config"] or ()]
        taken = [IPv4Network(subnet, strict=False) for subnet in ranges if "." in subnet]
        return taken + shapes.routes(text_of("/proc/net/route")) if self.calls.is_local else taken

    async def _connected(self, ref: str) -> set[str]:
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        return set(document["NetworkSettings"].get("Networks") or {})

    async def _disconnect(self, ref: str, name: str) -> None:
        with suppress(Gone, Taken):
            await self.calls.call("POST", f"networks/{name}/disconnect", body={"Container": ref, "Force": True})

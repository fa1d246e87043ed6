"""Networks on Docker: making one with a free range, fencing it, attaching and detaching containers that are there."""

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, ip_network
from typing import Any

import structlog

from app.backends.docker import nftables, shapes
from app.backends.docker.calls import Calls, container_path, text_of
from app.backends.engine import Networks
from app.backends.wires import Range, overlapped
from app.errors import EngineError, Gone, Refused, Taken
from app.settings import Settings

NONE = "none"
APPEARING_SECONDS = 5.0  # most that Docker takes, on a busy host, from taking addresses to showing their network

log = structlog.get_logger("caisson.networks")


class NameTaken(Taken):
    """A network of that name is there."""


class DockerNetworks:
    """What `DockerEngine` can do about networks, and about containers that are there and their networks."""

    name: str
    calls: Calls
    _settings: Settings
    _fences: bool | None = None  # known after the first try

    async def cut_network(
        self, name: str, labels: Mapping[str, str], pool: str, prefix: int, seed: str, bridge: str | None = None
    ) -> IPv4Network | None:
        """Make a bridge network with a range of `pool` that nothing else on this host has; None when none is left.

        `seed` decides where the search begins; `bridge` is the name of its interface on the host, of Docker's choice
        if None. Raises NameTaken.
        """
        taken = [IPv4Network(one.cidr) for one in await self.ranges() if "." in one.cidr]
        while subnet := shapes.free_subnet(pool, prefix, taken, zlib.crc32(seed.encode())):
            body = {
                "Name": name,
                "CheckDuplicate": True,
                "Driver": "bridge",
                "IPAM": {"Config": [{"Subnet": subnet}]},
                "Labels": dict(labels),
                "Options": {} if bridge is None else {"com.docker.network.bridge.name": bridge},
            }
            try:
                await self.calls.call("POST", "networks/create", body=body)
            except Taken as error:
                if "overlap" not in error.title or await self._appears(name, [subnet]):
                    raise NameTaken(error.title) from error
                # Somebody else was quicker, or Docker knows of more routes than we do.
                taken.append(IPv4Network(subnet))
                continue
            return IPv4Network(subnet)
        return None

    async def ranges(self) -> list[Range]:
        """Addresses of every network of the engine, and of what the host has a route to."""
        of_docker = _ranges(await self.calls.call("GET", "networks"))
        if not self.calls.is_local:
            return of_docker
        routes = [*shapes.routes(text_of("/proc/net/route")), *shapes.routes6(text_of("/proc/net/ipv6_route"))]
        known = {one.cidr for one in of_docker}
        return of_docker + [Range(cidr, None) for cidr in map(str, routes) if cidr not in known]

    @property
    def may_fence(self) -> bool:
        """Whether it is this process that keeps containers of projects from the engine's host."""
        return self._settings.firewall == "nftables" and self.calls.is_local and nftables.may_filter()

    async def fence(self) -> None:
        """Keep the containers of projects from the host, or leave that to its operator (docs/security.md).

        Raises Refused with nft's words when it had worked before.
        """
        if self._fences is None and not self.may_fence:
            self._fences = False
        if self._fences is False:
            return
        try:
            await nftables.fence()
        except Refused as error:
            if self._fences:
                raise
            # Root, but not on the host. It is never taken for that because nft was slow.
            log.warning("containers are not kept from the host", engine=self.name, reason=error.title)
            self._fences = False
        else:
            self._fences = True

    async def clear_fence(self) -> None:
        """Take down what `fence` put up, if nobody is behind it."""
        if self._fences:
            await nftables.clear_fence()

    async def join_network(self, ref: str, project_id: str) -> None:
        """Connect a container, running or not, with its project's network, made when absent; again is fine."""
        if isinstance(self, Networks):
            await self.ensure_network(project_id)
        await self.connect(ref, shapes.network_name(project_id))

    async def leave_network(self, ref: str, project_id: str) -> None:
        """Disconnect a container from it; it stays off when it starts again. Not connected is fine."""
        await self.disconnect(ref, shapes.network_name(project_id))

    async def connect(self, ref: str, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Connect a container, running or not, with a network by Docker's name; connected already is fine."""
        connected = await self.connections(ref)
        if name in connected:
            return
        if NONE in connected:  # it bears no other beside it
            await self._force_off(ref, NONE)
        try:
            body = {"Container": ref, "EndpointConfig": config or {}}
            await self.calls.call("POST", f"networks/{name}/connect", body=body)
        except EngineError:
            if name not in await self.connections(ref):  # otherwise another replica was quicker
                await self._stay_off(ref)
                raise

    async def disconnect(self, ref: str, name: str) -> None:
        """Disconnect a container from a network by Docker's name; not connected is fine."""
        if name in await self.connections(ref):
            await self._force_off(ref, name)
        await self._stay_off(ref)

    async def connections(self, ref: str) -> Mapping[str, Any]:
        """Its places by the names of networks. Raises Gone."""
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        return document["NetworkSettings"].get("Networks") or {}

    async def _appears(self, name: str, subnets: Sequence[str]) -> bool:
        """Whether it is another replica making this network that took these addresses.

        They are taken before the network can be seen, on a busy host for longer than a moment.
        """
        deadline = time.monotonic() + APPEARING_SECONDS
        while True:
            found = await self.calls.call("GET", "networks")
            if any(one["Name"] == name for one in found):
                return True
            if time.monotonic() > deadline or any(overlapped(subnet, _ranges(found)) for subnet in subnets):
                return False
            await asyncio.sleep(0.05)

    async def _stay_off(self, ref: str) -> None:
        """Docker connects a container that is on no network with the first one when it starts: so it joins ``none``."""
        if not await self.connections(ref):
            with suppress(Taken):
                await self.calls.call("POST", f"networks/{NONE}/connect", body={"Container": ref})

    async def _force_off(self, ref: str, name: str) -> None:
        with suppress(Gone, Taken):
            await self.calls.call("POST", f"networks/{name}/disconnect", body={"Container": ref, "Force": True})


def _ranges(networks: Sequence[Mapping[str, Any]]) -> list[Range]:
    return [
        Range(str(ip_network(subnet, strict=False)), (document["Labels"] or {}).get(shapes.LABEL_NETWORK))
        for document in networks
        for config in document["IPAM"]["Config"] or ()
        if (subnet := config.get("Subnet"))
    ]

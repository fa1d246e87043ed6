"""Attaching a container to its project's network on Docker, and detaching it."""

from contextlib import suppress

from app.backends import docker_shapes as shapes
from app.backends.docker_calls import Calls, container_path
from app.backends.engine import Networks
from app.errors import Gone, Taken

NONE = "none"


class DockerNetworks:
    """What `DockerEngine` can do about a container that is there and its project's network."""

    calls: Calls

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

    async def _connected(self, ref: str) -> set[str]:
        document = await self.calls.call("GET", f"{container_path(ref)}/json")
        return set(document["NetworkSettings"].get("Networks") or {})

    async def _disconnect(self, ref: str, name: str) -> None:
        with suppress(Gone, Taken):
            await self.calls.call("POST", f"networks/{name}/disconnect", body={"Container": ref, "Force": True})

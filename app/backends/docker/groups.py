"""Groups on Docker: a sandbox container holds the network and IPC namespaces, members join them.

That is what Docker itself offers for sharing (``container:<id>``). The sandbox's image is our own, see
``app.backends.docker.sandbox``.
"""

from collections.abc import AsyncIterator
from uuid import UUID

from app.backends.docker import sandbox, shapes
from app.backends.docker.containers import DockerContainers
from app.backends.docker.images import DockerImages
from app.backends.docker.wires import plug_in
from app.backends.engine import GroupSpec, Seen
from app.errors import Gone, Refused
from app.settings import Settings


class DockerGroups(DockerContainers, DockerImages):
    """Ability GROUP of a Docker engine."""

    _settings: Settings

    async def create_group(self, uuid: UUID, spec: GroupSpec) -> Seen:
        """Make the group's sandbox, or return the one that is there; it is not started.

        Raises Refused when there is no program for the host's architecture.
        """
        image = await self._sandbox_image()
        body = shapes.sandbox_body(uuid, spec, image, self._settings.publish_address)
        return await self._make(uuid, plug_in(body, spec.places))

    async def _sandbox(self, group: UUID) -> str:
        """The ref of a group's sandbox. Raises Gone when there is none."""
        if (seen := await self.find(group)) is None:
            raise Gone(f"the sandbox of group {group} is gone")
        return seen.ref

    async def _sandbox_image(self) -> str:
        """The sandbox's image, loaded unless the engine has it: by its id, for anybody may give its name away.

        An engine that numbers images in its own way (Docker's containerd store) is asked by name.
        """
        host = (await self.calls.call("GET", "version")).get("Arch", "")
        if host not in sandbox.ARCHITECTURES:
            raise Refused(f"groups: there is no sandbox program for the architecture {host!r}")
        name, ident, archive = sandbox.image(sandbox.ARCHITECTURES[host])
        if await self._holds(ident):
            return ident
        await self.load(name, _whole(archive))
        return ident if await self._holds(ident) else name

    async def _holds(self, ident: str) -> bool:
        try:
            await self.calls.call("GET", f"images/{ident}/json")
        except Gone:
            return False
        return True


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content

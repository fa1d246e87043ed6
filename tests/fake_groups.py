"""Groups of the engine in memory: a sandbox that others join."""

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any
from uuid import UUID

from app.backends.engine import ContainerSpec, GroupSpec, ImageSeen, Restart, Seen, State
from app.errors import Gone, Taken

SANDBOX = ImageSeen("sha256:sandbox", 250, ("sleep",))


class FakeGroups:
    """Ability GROUP of the engine in memory."""

    _boxes: dict[UUID, Any]
    _owners: dict[UUID, str | None]
    installation: str | None

    async def create_group(self, uuid: UUID, spec: GroupSpec) -> Seen:
        async with self._verb("create_group"):
            if uuid not in self._boxes:
                wish = ContainerSpec(
                    spec.project_id, "caisson/sandbox", hostname=spec.hostname, network=spec.network, ports=spec.ports,
                    restart=Restart("unless-stopped"), places=spec.places,
                )  # fmt: skip
                self._boxes[uuid] = self._make(uuid, wish, SANDBOX)
                self._owners[uuid] = self.installation
                self._tell(uuid, "create")
            return self._shown(self._boxes[uuid])

    def _sandbox(self, group: UUID) -> Seen:
        if group not in self._boxes:
            raise Gone(f"the sandbox of group {group} is gone")
        seen: Seen = self._boxes[group].seen
        return seen

    def _join(self, seen: Seen, group: UUID) -> Seen:
        """A member as it is made: the network is the sandbox's, and so is the name."""
        sandbox = self._sandbox(group)
        return replace(seen, joined=sandbox.ref, hostname=sandbox.hostname, ports=())

    def _check_joined(self, ref: str) -> None:
        """Raises as engines do when the sandbox that a member starts in is not there, or does not run."""
        for box in self._boxes.values():
            if box.seen.ref == ref:
                if box.seen.state is not State.RUNNING:
                    raise Taken(f"cannot join network of a non running container: {ref}")
                return
        raise Gone(f"No such container: {ref}")

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _make(self, uuid: UUID, spec: ContainerSpec, image: ImageSeen) -> Any:
        raise NotImplementedError

    def _shown(self, box: Any) -> Seen:
        raise NotImplementedError

    def _tell(self, uuid: UUID, what: str) -> None:
        raise NotImplementedError

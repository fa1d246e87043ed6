"""Volumes of the engine in memory. What a container wrote is in a volume once the container is gone."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.backends.engine import ContainerSpec, VolumeSeen
from app.errors import Taken
from tests.fake_changes import Files, folder


@dataclass(slots=True)
class Volume:
    """One volume, its files by their paths within it."""

    project_id: str
    size: int | None
    files: Files = field(default_factory=dict)


class FakeVolumes:
    """Mixed into `FakeEngine`, which has what is declared here."""

    _boxes: dict[UUID, Any]
    _volumes: dict[UUID, Volume]

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    async def create_volume(self, uuid: UUID, project_id: str, size: int | None) -> None:
        async with self._verb("create_volume"):
            self._volumes.setdefault(uuid, Volume(project_id, size))

    async def remove_volume(self, uuid: UUID) -> None:
        async with self._verb("remove_volume"):
            if any(uuid in [mount.volume for mount in box.spec.mounts] for box in self._boxes.values()):
                raise Taken(f"remove {uuid}: volume is in use")
            self._volumes.pop(uuid, None)

    async def volumes(self) -> list[VolumeSeen]:
        async with self._verb("volumes"):
            return [VolumeSeen(uuid, volume.project_id) for uuid, volume in self._volumes.items()]

    def _mounted(self, spec: ContainerSpec) -> Files:
        """The files of a container's volumes."""
        files: Files = {}
        for mount in spec.mounts:
            volume = self._volumes.setdefault(mount.volume, Volume(spec.project_id, None))
            files[mount.path] = (folder(mount.path), b"")
            files |= {mount.path + within: file for within, file in volume.files.items()}
        return files

    def _unmount(self, spec: ContainerSpec, files: Files) -> None:
        for mount in spec.mounts:
            within = {path: file for path, file in files.items() if path.startswith(f"{mount.path}/")}
            self._volumes[mount.volume].files = {path.removeprefix(mount.path): file for path, file in within.items()}

"""The Docker engine's volumes: named after our uuid, labelled with it and with the project."""

import json
from typing import Any
from uuid import UUID

from app.backends.docker import shapes
from app.backends.docker.calls import Calls
from app.backends.engine import VolumeSeen
from app.errors import Gone


class DockerVolumes:
    """What `DockerEngine` can do with volumes."""

    calls: Calls

    async def create_volume(self, uuid: UUID, project_id: str, size: int | None) -> None:
        """Make it, with `size` in GiB where the storage can limit it; one that is there stays as it is."""
        body: dict[str, Any] = {
            "Name": shapes.volume_name(uuid),
            "Driver": "local",
            "Labels": shapes.volume_labels(uuid, project_id),
        }
        if size is not None:
            body["DriverOpts"] = {"size": f"{size}G"}
        await self.calls.call("POST", "volumes/create", body=body)

    async def remove_volume(self, uuid: UUID) -> None:
        """Remove it; absent is fine. Raises Taken while a container has it, running or not."""
        try:
            await self.calls.call("DELETE", f"volumes/{shapes.volume_name(uuid)}")
        except Gone:
            return

    async def volumes(self) -> list[VolumeSeen]:
        """Every volume that bears our label."""
        label = json.dumps({"label": [shapes.LABEL_VOLUME]})
        listed = await self.calls.call("GET", "volumes", {"filters": label})
        return [
            VolumeSeen(UUID(labels[shapes.LABEL_VOLUME]), labels.get(shapes.LABEL_PROJECT, ""))
            for document in listed["Volumes"] or ()
            if document["Name"] == shapes.volume_name(UUID((labels := document["Labels"])[shapes.LABEL_VOLUME]))
        ]

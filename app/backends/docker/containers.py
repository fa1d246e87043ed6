"""Containers of ours on a Docker engine: made under a name from our uuid, found by it, told apart by their labels."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from uuid import UUID

from app.backends.docker import shapes
from app.backends.docker.calls import Calls, container_path
from app.backends.engine import Seen
from app.errors import Gone, Taken

NAME_SECONDS = 10.0

Found = TypeVar("Found")


class DockerContainers:
    """What all parts of `DockerEngine` need that make or look at a container."""

    calls: Calls
    installation: str | None

    async def find(self, uuid: UUID) -> Seen | None:
        """Our container, by its name; one of that name without our labels is not ours."""
        document = await self._inspect(shapes.container_name(uuid))
        seen = shapes.seen(document) if document else None
        return seen if seen is not None and seen.uuid == uuid else None

    async def find_all(self) -> list[Seen]:
        """Every container that bears our label, in no order."""
        labels = [shapes.LABEL_UUID]
        if self.installation is not None:
            labels.append(f"{shapes.LABEL_INSTALLATION}={self.installation}")
        label = json.dumps({"label": labels})
        listed = await self.calls.call("GET", "containers/json", {"all": True, "filters": label})
        found: list[Seen] = []

        async def look(refs: Iterator[str]) -> None:
            for ref in refs:
                try:
                    seen = shapes.seen(await self.calls.call("GET", f"containers/{ref}/json"))
                except Gone:
                    continue
                if seen is not None:
                    found.append(seen)

        refs = iter([document["Id"] for document in listed])
        await asyncio.gather(*(look(refs) for _ in range(8)))
        return found

    async def remove(self, ref: str, force: bool) -> None:
        """Remove with its anonymous volumes, and return when it is gone. Without `force`, Taken when it runs."""
        try:
            async with self.calls.session.slots:
                await self.calls.call("DELETE", container_path(ref), {"force": force, "v": True})
        except Gone:
            return
        except Taken as error:
            if "already in progress" not in error.title:
                raise
            try:
                await self.calls.call("POST", f"{container_path(ref)}/wait", {"condition": "removed"})
            except Gone:
                return

    async def _make(self, uuid: UUID, body: Mapping[str, Any]) -> Seen:
        """Make a container of this body, or return ours of this uuid that is there."""

        def ours(document: Mapping[str, Any]) -> Seen | None:
            seen = shapes.seen(document)
            return seen if seen is not None and seen.uuid == uuid else None

        return await self._make_named(shapes.container_name(uuid), body, ours)

    async def _make_named(
        self, name: str, body: Mapping[str, Any], ours: Callable[[Mapping[str, Any]], Found | None]
    ) -> Found:
        """Make a container of this name, or return the one that is there; `ours` reads it, None for somebody else's."""
        if self.installation is not None:
            body = {**body, "Labels": {**body["Labels"], shapes.LABEL_INSTALLATION: self.installation}}
        deadline = time.monotonic() + NAME_SECONDS
        while True:
            try:
                async with self.calls.session.slots:
                    await self.calls.call("POST", "containers/create", {"name": name}, body=body)
                problem: Gone | Taken = Gone(f"container {name} is not Caisson's")
            except (Gone, Taken) as error:
                problem = error
            document = await self._inspect(name)
            there = ours(document) if document else None
            if there is not None:
                return there
            # A name is reserved a moment before its container can be seen, or in vain if that create then fails.
            if document or isinstance(problem, Gone) or time.monotonic() > deadline:
                raise problem
            await asyncio.sleep(0.05)

    async def _seen(self, ref: str) -> Seen:
        seen = shapes.seen(await self.calls.call("GET", f"{container_path(ref)}/json"))
        if seen is None:
            raise Gone(f"container {ref} is not Caisson's")
        return seen

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = await self.calls.call("GET", f"containers/{name}/json")
        except Gone:
            return None
        return document

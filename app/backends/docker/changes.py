"""The Docker engine's means to change a container and to copy from it: limits, commits, archives."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from app.backends.docker import shapes
from app.backends.docker.calls import Calls, container_path, next_chunk
from app.backends.engine import ImageSeen, PathStat

COMMIT_SECONDS = 600.0  # a commit reads the whole file system of its container


class DockerChanges:
    """What `DockerEngine` can do to a container beyond its life."""

    calls: Calls

    async def update(self, ref: str, cpu: float, memory: int) -> None:
        """Set both limits (cores, MiB; 0 is no limit). Raises Taken when it uses more memory than that by now."""
        body = shapes.limits(cpu, memory)
        if not cpu or not memory:
            # To Docker's update 0 means: as it was. All that the host has is no limit either.
            host = await self.calls.call("GET", "info")
            all_of_it = {"NanoCpus": host["NCPU"] * shapes.NANOSECONDS, "CpuShares": 1024}
            body = all_of_it | {"Memory": host["MemTotal"], "MemorySwap": host["MemTotal"]} | body
        await self.calls.call("POST", f"{container_path(ref)}/update", body=body)

    async def commit(self, ref: str, image: str) -> ImageSeen:
        """Copy it to an image called `image`; the daemon freezes a running one, and thaws it even if we are gone."""
        name = shapes.image_name(image)
        query = {"container": ref, "repo": name.name, "tag": name.version, "pause": True}
        # An image's labels are inherited: containers of others must not pass as this one.
        ours = (shapes.LABEL_UUID, shapes.LABEL_PROJECT, *shapes.TELLING)
        unlabelled = {"Labels": dict.fromkeys(ours, "")}
        container_path(ref)
        made = await self.calls.call("POST", "commit", query, body=unlabelled, seconds=COMMIT_SECONDS)
        return shapes.image_seen(await self.calls.call("GET", f"images/{made['Id']}/json"))

    async def stat(self, ref: str, path: str) -> PathStat:
        """What is at `path`. Raises Gone when nothing is."""
        # The head of the archive itself: an answer to HEAD would have no room for the reason when it is a refusal.
        async with self.calls.reply("GET", f"{container_path(ref)}/archive", {"path": path}) as response:
            return _stat(response.headers["X-Docker-Container-Path-Stat"])

    async def get_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A tar of what is at `path`. Raises Gone when nothing is."""
        async with self.calls.reply("GET", f"{container_path(ref)}/archive", {"path": path}) as response:
            while chunk := await next_chunk(response, self.calls.patience):
                yield chunk

    async def put_archive(self, ref: str, path: str, tar: bytes) -> None:
        """Unpack a plain tar in the directory `path`. Raises Gone when there is none, Refused when it is none."""
        query = {"path": path, "noOverwriteDirNonDir": True}
        kind = {"Content-Type": "application/x-tar"}
        target = f"{container_path(ref)}/archive"
        async with self.calls.reply("PUT", target, query, body=tar, headers=kind) as response:
            await response.read()


def _stat(header: str) -> PathStat:
    document: dict[str, Any] = json.loads(base64.b64decode(header))
    name, size, mode, mtime = (document[key] for key in ("name", "size", "mode", "mtime"))
    return PathStat(name, size, mode, mtime, document.get("linkTarget") or "")

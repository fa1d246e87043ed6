"""The engines of a swarm's nodes, and how an image gets to all of them."""

import asyncio
import signal
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.backends.chunks import closing
from app.backends.docker import shapes
from app.backends.docker.engine import DockerEngine
from app.backends.engine import SILENT_MOST, ImageSeen, RegistryLogin, Tars
from app.backends.nodes import ImageHost
from app.errors import EngineError, Gone, RegistryDown, Unavailable
from app.settings import BackendSettings, Settings

PATIENCE = 15.0  # seconds within which a node must answer

SIGNAL = """
container=$1 number=$2; shift 2
for process in "$@"; do grep -q "$container" /proc/$process/cgroup && kill -$number $process; done; true
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API of one node is, and how it is asked: over TLS, unless its cluster does without.

    `ref` is what the engine that carries the nodes calls it.
    """

    address: str
    url: str
    tls: ssl.SSLContext | None
    manager: bool
    ref: str


class NodeEngine(DockerEngine):
    """The engine of one node."""

    def __init__(self, endpoint: Endpoint, host: ImageHost, settings: Settings) -> None:
        super().__init__(endpoint.address, BackendSettings(url=endpoint.url), settings, endpoint.tls)
        self.calls.patience = PATIENCE
        self.most_pause = SILENT_MOST
        self._node = endpoint
        self._host = host

    @property
    def _reaches_processes(self) -> bool:
        return True

    async def _signal(self, ref: str, pids: Sequence[int], number: signal.Signals) -> None:
        command = ["sh", "-c", SIGNAL, "sh", ref, str(int(number)), *map(str, pids)]
        await self._host.run_in_node(self._node.ref, command)


class NodeImages:
    """The images of a swarm: what is on one node, or on `host`, is copied to those that lack it."""

    def __init__(self, host: ImageHost) -> None:
        self._host = host
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, nodes: Sequence[NodeEngine], image: str) -> ImageSeen | None:
        """The image, when a node holds it, or the host."""
        held = await asyncio.gather(*(node.image(image) for node in nodes))
        return next((seen for seen in held if seen is not None), None) or await self._host.image(image)

    async def pull(self, nodes: Sequence[NodeEngine], image: str, login: RegistryLogin | None) -> None:
        """Fetch it once, by a node, or else by the host, which keeps what it had before only."""
        try:
            await nodes[0].pull(image, login)
            await self._spread_from(nodes[0], nodes, image)
        except (Gone, RegistryDown):
            before = await self._host.image(image)
            await self._host.pull(image, login)
            await self._spread_from(self._host, nodes, image)
            if before is None:
                with suppress(EngineError):
                    await self._host.remove_image(image)

    async def load(self, nodes: Sequence[NodeEngine], image: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in an image, for all nodes."""
        await nodes[0].load(image, chunks)
        await self._spread_from(nodes[0], nodes, image)

    async def save(self, nodes: Sequence[NodeEngine], image: str) -> AsyncIterator[bytes]:
        """The image as a tar, from who has it. Raises Gone when nobody does."""
        held = await asyncio.gather(*(node.image(image) for node in nodes))
        source: Tars = next((node for node, seen in zip(nodes, held, strict=True) if seen is not None), self._host)
        async with closing(source.save(image)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def spread(self, nodes: Sequence[NodeEngine], image: str, ref: str) -> None:
        """Bring the image of this id to every node that lacks it; `image` is what it is called. Raises Gone."""
        async with self._locks[ref]:
            held = await asyncio.gather(*(node.image(ref) for node in nodes))
            lacking = [node for node, seen in zip(nodes, held, strict=True) if seen is None]
            source: Tars = next((node for node in nodes if node not in lacking), self._host)
            await asyncio.gather(*(_copy(source, node, image) for node in lacking))

    async def _spread_from(self, source: NodeEngine | ImageHost, nodes: Sequence[NodeEngine], image: str) -> None:
        if (seen := await source.image(image)) is None:
            raise Unavailable(f"the pull of {image} ended without an image")
        held = await asyncio.gather(*(node.image(image) for node in nodes))
        lacking = [node for node, there in zip(nodes, held, strict=True) if there is None or there.ref != seen.ref]
        await asyncio.gather(*(_copy(source, node, image) for node in lacking if node is not source))


async def _copy(source: Tars, node: NodeEngine, image: str) -> None:
    name = shapes.image_name(image)
    # What was asked for by a digest cannot be called so where it was not pulled; it is run by its id.
    tag = name.version.replace(":", "-")[:40] if ":" in name.version else name.version
    async with closing(source.save(image)) as chunks:
        await node.load(f"{name.name}:{tag}", chunks)

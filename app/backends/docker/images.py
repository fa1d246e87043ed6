"""The Docker engine's images as tars: out of it to a service that keeps images, and into it from there."""

from collections.abc import AsyncIterator

from app.backends.docker import shapes
from app.backends.docker.archive import renamed
from app.backends.docker.calls import Calls, next_chunk
from app.errors import EngineError, GatewayError, Gone, Refused, Unavailable

LOAD_SECONDS = 3600.0
"""How long an image may take into the engine."""


class DockerImages:
    """What `DockerEngine` does with whole images beyond registries."""

    calls: Calls

    async def load(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in the one image that `chunks` hold under the name `image`; see `engine.Tars`."""
        version = shapes.image_name(image).version
        # In a tar a name has its tag.
        source = _Watched(renamed(chunks, image if image.endswith(version) else f"{image}:{version}"))
        lines = shapes.Lines()
        kind = {"Content-Type": "application/x-tar"}
        try:
            async with self.calls.reply(
                "POST", "images/load", {"quiet": True}, body=aiter(source), headers=kind, seconds=LOAD_SECONDS
            ) as response:
                while chunk := await next_chunk(response, LOAD_SECONDS):
                    for line in lines.feed(chunk):
                        if "error" in line or "errorDetail" in line:
                            detail = line.get("errorDetail") or {}
                            raise Refused(detail.get("message") or line.get("error") or "the image is refused")
        except EngineError:
            # To the HTTP client a source that failed is a broken connection.
            if source.error is not None:
                raise source.error from None
            raise
        try:
            await self.calls.call("GET", f"images/{image}/json")
        except Gone:
            raise Unavailable(f"the engine took {image} in, but does not show it") from None

    async def save(self, image: str) -> AsyncIterator[bytes]:
        """The image as a tar. Raises Gone when the engine does not have it."""
        shapes.image_name(image)
        async with self.calls.reply("GET", f"images/{image}/get") as response:
            while chunk := await next_chunk(response, self.calls.patience):
                yield chunk


class _Watched:
    """Chunks that remember how their source failed."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.error: GatewayError | None = None
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except GatewayError as error:
            self.error = error
            raise

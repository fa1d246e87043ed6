"""What the engine in memory does with whole images as tars. Its own tars hold just enough to be taken in again."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from app.backends.docker.archive import renamed
from app.backends.engine import ImageSeen
from app.errors import Gone, Refused
from tests.fake_changes import Files


class FakeImages:
    """Mixed into `FakeEngine`, which has what is declared here."""

    _images: dict[str, ImageSeen]
    _committed: dict[str, Files]

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _full_name(self, image: str) -> str:
        raise NotImplementedError

    async def load(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        async with self._verb("load"):
            content = b"".join([chunk async for chunk in renamed(chunks, image)])
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                (listed,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
                try:
                    kept = json.load(tar.extractfile(listed["Config"]))  # type: ignore[arg-type]
                except (KeyError, ValueError) as error:
                    raise Refused(f"open {error}: no such file or directory") from None
            name = self._full_name(image)
            self._images[name] = ImageSeen(kept["id"], kept["size"], tuple(kept["command"]), tuple(kept["entrypoint"]))
            if kept["like"] in self._committed:
                self._committed[name] = dict(self._committed[kept["like"]])

    async def save(self, image: str) -> AsyncIterator[bytes]:
        async with self._verb("save"):
            name = self._full_name(image)
            seen = self._images.get(name)
            if seen is None:
                raise Gone(f"No such image: {image}")
        kept = {
            "id": seen.ref,
            "size": seen.size,
            "command": list(seen.command),
            "entrypoint": list(seen.entrypoint),
            "like": name,
        }
        tar = archive({"config.json": json.dumps(kept).encode(), "manifest.json": listing("config.json", image)})
        for start in range(0, len(tar), 700):
            yield tar[start : start + 700]


def listing(config: str, *names: str) -> bytes:
    """The file of an archive that says what it holds: one image with these names."""
    return json.dumps([{"Config": config, "RepoTags": list(names), "Layers": []}]).encode()


def archive(files: dict[str, bytes]) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()

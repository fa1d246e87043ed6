"""An image as a tar, as ``docker save`` writes it, on its way into an engine.

Whoever made the tar may not decide what the engine calls it: a name in it such as ``busybox:latest`` would replace the
host's image of that name, for every project. So all that names images is taken out of the stream, and a list of
contents with the one name that the image is to have is put at its end, where it wins over any other file of its name.
"""

import json
import posixpath
import tarfile
import zlib
from collections.abc import AsyncIterator
from typing import Any

from app.errors import Refused

BLOCK = 512
LONGEST_LIST = 4 * 1024 * 1024
DIGITS = 18  # of a size; int() refuses thousands of them with another error
LIST = "manifest.json"
NAMING = frozenset({LIST, "repositories", "index.json", "oci-layout"})
"""Files of the archive that say what images are called; beside the first the others are not needed."""

GZIP = b"\x1f\x8b"
ONLY = "an image of container format docker is the tar that `docker save` writes for one image, plain or gzipped"


async def renamed(chunks: AsyncIterator[bytes], image: str) -> AsyncIterator[bytes]:
    """The same archive, whose one image is called `image` and nothing else. Memory does not grow with it.

    Raises:
        Refused: it is no such archive, or it holds no image or several.
    """
    source = _Reader(chunks)
    contents: bytes | None = None
    while True:
        entry = await _next_entry(source)
        if entry is None:
            break
        name, kind, head, size = entry
        if name in NAMING:
            if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise Refused(f"the image's archive is not accepted: {name} is no plain file; {ONLY}")
            if size > LONGEST_LIST:
                raise Refused(f"the image's archive is not accepted: {name} is longer than {LONGEST_LIST} bytes")
            content = await source.exactly(size)
            await source.exactly(-size % BLOCK)
            contents = content if name == LIST else contents
            continue
        if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) and posixpath.basename(name) != "layer.tar":
            # A link could lead to one of the files above under another name.
            raise Refused(f"the image's archive is not accepted: {name[:200]} is a link; {ONLY}")
        yield head
        async for piece in source.pieces(size + -size % BLOCK):
            yield piece
    listed = _one_image(contents)
    content = json.dumps([{**listed, "RepoTags": [image]}]).encode()
    info = tarfile.TarInfo(LIST)
    info.size = len(content)
    yield info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK) + bytes(2 * BLOCK)


async def _next_entry(source: "_Reader") -> tuple[str, bytes, bytes, int] | None:
    """The next file's name, kind, header blocks as they came, and size; None at the archive's end."""
    head, long_name, size_said = b"", None, None
    while True:
        block = await source.exactly(BLOCK, may_end=not head)
        if block is None or not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise Refused(f"the image's archive is damaged; {ONLY}") from None
        head += block
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if info.size > LONGEST_LIST or len(head) > LONGEST_LIST:
                raise Refused(f"the image's archive is not accepted: a name in it is too long; {ONLY}")
            content = await source.exactly(info.size) or b""
            head += content + (await source.exactly(-info.size % BLOCK) or b"")
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type != tarfile.GNUTYPE_LONGLINK:
                said = _pax(content)
                long_name, size_said = said.get("path", long_name), said.get("size", size_said)
            continue
        if size_said is not None and not (size_said.isdecimal() and len(size_said) <= DIGITS):
            raise Refused(f"the image's archive is damaged; {ONLY}")
        size = int(size_said) if size_said is not None else info.size
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            if info.type not in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                raise Refused(f"the image's archive is not accepted: it holds what is neither file nor folder; {ONLY}")
            size = 0
        return posixpath.normpath("/" + (long_name or info.name)).lstrip("/"), info.type, head, size


def _pax(content: bytes) -> dict[str, str]:
    """The records of an extended header that matter here."""
    found: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or len(length) > DIGITS or not 0 < int(length) <= len(content):
            raise Refused(f"the image's archive is damaged; {ONLY}")
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    return found


def _one_image(contents: bytes | None) -> dict[str, Any]:
    try:
        listed = json.loads(contents or b"null")
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Refused(f"the image's archive has no {LIST}; {ONLY}")
    if len(listed) != 1:
        raise Refused(f"the image's archive holds {len(listed)} images; {ONLY}")
    return dict(listed[0])


class _Reader:
    """A stream of chunks, unzipped if need be, as blocks of known length."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self._unzip: Any = None
        self._begun = False

    async def exactly(self, count: int, *, may_end: bool = False) -> bytes | None:
        """So many bytes; None when the stream is over instead and `may_end`."""
        while len(self._held) < count:
            if not await self._more():
                if may_end and not self._held:
                    return None
                raise Refused(f"the image's archive ends too early; {ONLY}")
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def pieces(self, count: int) -> AsyncIterator[bytes]:
        """So many bytes, as they come."""
        while count:
            if not self._held and not await self._more():
                raise Refused(f"the image's archive ends too early; {ONLY}")
            piece = bytes(self._held[:count])
            del self._held[:count]
            count -= len(piece)
            yield piece

    async def _more(self) -> bool:
        if self._unzip is not None and self._unzip.eof:
            return False
        if self._unzip is not None and self._unzip.unconsumed_tail:
            # Bounded, because a few bytes may become very many.
            self._held += self._unzip.decompress(self._unzip.unconsumed_tail, 1 << 20)
            return True
        async for chunk in self._chunks:
            if not self._begun:
                self._begun = True
                if chunk.startswith(GZIP):
                    self._unzip = zlib.decompressobj(wbits=31)
            try:
                self._held += chunk if self._unzip is None else self._unzip.decompress(chunk, 1 << 20)
            except zlib.error:
                raise Refused(f"the image's archive is damaged; {ONLY}") from None
            return True
        return False

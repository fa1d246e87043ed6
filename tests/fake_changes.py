"""What the engine in memory can do to a container beyond its life: limits, commits, files."""

import io
import posixpath
import secrets
import tarfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.backends.engine import ImageSeen, PathStat
from app.errors import Gone, Refused

Files = dict[str, tuple[tarfile.TarInfo, bytes]]
"""A file system: absolute paths, and what is there."""
MIB = 1024 * 1024
GO_DIR, GO_LINK = 1 << 31, 1 << 27
FOLDERS = ("/", "/etc", "/root", "/tmp", "/home", "/mnt")


def basic_files() -> Files:
    """What every image has."""
    return {path: (folder(path), b"") for path in FOLDERS}


def folder(path: str) -> tarfile.TarInfo:
    """An empty folder."""
    info = tarfile.TarInfo(path)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


class FakeChanges:
    """Mixed into `FakeEngine`, which has what is declared here."""

    _images: dict[str, ImageSeen]
    _committed: dict[str, Files]

    def _verb(self, verb: str) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    def _box(self, ref: str) -> Any:
        raise NotImplementedError

    async def update(self, ref: str, cpu: float, memory: int) -> None:
        async with self._verb("update"):
            box = self._box(ref)
            check_limits(cpu, memory)
            box.spec = replace(box.spec, cpu=cpu, memory=memory)

    async def commit(self, ref: str, image: str) -> ImageSeen:
        async with self._verb("commit"):
            box = self._box(ref)
            seen = ImageSeen(f"sha256:{secrets.token_hex(32)}", MIB, box.seen.command, box.seen.entrypoint)
            self._images[image], self._committed[image] = seen, dict(box.files)
            return seen

    async def stat(self, ref: str, path: str) -> PathStat:
        async with self._verb("stat"):
            info, content = self._found(ref, path)
            mode = info.mode | (GO_DIR if info.isdir() else GO_LINK if info.issym() else 0)
            mtime = datetime.fromtimestamp(info.mtime, UTC).isoformat()
            return PathStat(posixpath.basename(_clean(path)) or "/", len(content), mode, mtime, info.linkname)

    async def get_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        async with self._verb("get_archive"):
            self._found(ref, path)
            root, files = _clean(path), self._box(ref).files
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name, (info, content) in sorted(files.items()):
                    if name == root or name.startswith(f"{root.rstrip('/')}/"):
                        within = posixpath.join(posixpath.basename(root) or "/", posixpath.relpath(name, root))
                        tar.addfile(info.replace(name=posixpath.normpath(within)), io.BytesIO(content))
        yield packed.getvalue()

    async def put_archive(self, ref: str, path: str, tar: bytes) -> None:
        async with self._verb("put_archive"):
            info, _ = self._found(ref, path)
            if not info.isdir():
                raise Refused("extraction point is not a directory")
            files = self._box(ref).files
            with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    name = _clean(posixpath.join(_clean(path), member.name))
                    files[name] = (member, content.read() if content else b"")

    def _found(self, ref: str, path: str) -> tuple[tarfile.TarInfo, bytes]:
        files: Files = self._box(ref).files
        if (found := files.get(_clean(path))) is None:
            raise Gone(f"Could not find the file {path} in container {ref}")
        return found


def check_limits(cpu: float, memory: int) -> None:
    """Raises Refused when the host does not have so much, or the engine cannot limit so tightly."""
    if cpu > 2:
        raise Refused("Range of CPUs is from 0.01 to 2, as there are only 2 CPUs available")
    if 0 < memory < 6:
        raise Refused("Minimum memory limit allowed is 6MB")


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))

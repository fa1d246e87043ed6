"""A root file system collected from programs of this system, and the image made of it: same content, same image id.

Nothing is downloaded but packages that are missing, and no registry is asked.
"""

import hashlib
import json
import platform
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from scripts.newcomer import packages
from scripts.newcomer.engine import client
from scripts.newcomer.image import errors_of, is_there, static_busybox
from scripts.newcomer.packages import SetupError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What the kernel calls a machine, and what images do."""

MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links into usr, as on Debian."""

IMPORT_SECONDS = 600.0


@dataclass(frozen=True)
class _File:
    content: bytes | Path
    mode: int


@dataclass(frozen=True)
class _Link:
    target: str


class RootFileSystem:
    """Files by their absolute path; of two at one path the later counts. All belong to root."""

    def __init__(self) -> None:
        self._entries: dict[str, _File | _Link | None] = {}
        for name in MERGED:
            self.link(f"/{name}", f"usr/{name}")
        for folder in ("/tmp", "/run", "/proc", "/sys", "/dev", "/root", "/var", "/usr/lib64"):  # noqa: S108
            self.folder(folder)
        self.link("/var/run", "/run")
        self.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        self.file("/etc/group", b"root:x:0:\n")
        self.file("/etc/nsswitch.conf", b"hosts: files dns\n")
        if (system := Path("/etc/os-release")).exists():
            self.file("/usr/lib/os-release", system.resolve())
            self.link("/etc/os-release", "../usr/lib/os-release")

    def folder(self, path: str) -> None:
        """An empty folder; those that files lie in come by themselves."""
        self._entries[_merged(path)] = None

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._entries[path if path.strip("/") in MERGED else _merged(path)] = _Link(target)

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """A file with this content, or with that of a file here."""
        self._entries[_merged(path)] = _File(content, mode)

    def program(self, source: Path, path: str | None = None) -> None:
        """A program or a library of this system with the libraries that it loads, at its own place or at `path`.

        Raises:
            SetupError: a library is missing.
        """
        self.file(path or str(source), source.resolve(), 0o755)
        listed = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False).stdout
        if "not found" in listed:
            missing = " ".join(re.findall(r"(\S+) => not found", listed))
            raise SetupError(f"{source} needs {missing}, which is not on this system")
        for library in re.findall(r"(/\S+) \(0x", listed):
            self.file(library, Path(library).resolve(), 0o755)

    def tree(self, folder: Path, unused: re.Pattern[str]) -> None:
        """All files and links below a folder here, but those whose path in it begins as `unused` says."""
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if str(place) in MERGED or unused.match(str(place)):
                continue
            if path.is_symlink():
                self.link(f"/{place}", str(path.readlink()))
            elif path.is_file():
                self.file(f"/{place}", path, path.stat().st_mode & 0o755)

    def busybox(self, *, replace: bool = True) -> None:
        """A static busybox under the names of all its programs; what comes later replaces single ones.

        Without `replace`, programs of the same name that are there already stay.
        """
        content = static_busybox()
        with tempfile.TemporaryDirectory(prefix="caisson-node-") as name:
            draft = Path(name) / "busybox"
            draft.write_bytes(content)
            draft.chmod(0o755)
            applets = subprocess.run([draft, "--list"], capture_output=True, text=True, check=True).stdout.split()
        self.file("/usr/bin/busybox", content, 0o755)
        for applet in applets:
            there = any(f"/usr/{folder}/{applet}" in self._entries for folder in ("bin", "sbin"))
            if applet != "busybox" and (replace or not there):
                self.link(f"/usr/bin/{applet}", "busybox")

    def authorities(self) -> None:
        """The certificate authorities that this system trusts, for whatever fetches over HTTPS."""
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")
        if bundle.exists():
            self.file(str(bundle), bundle)

    def write(self, tar: Path) -> str:
        """Write it all as a tar, without times; returns the SHA-256 of that."""
        paths = set(self._entries)
        for path in self._entries:
            paths.update(str(parent) for parent in Path(path).parents if str(parent) != "/")
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(paths):
                _add(archive, path, self._entries.get(path))
        with tar.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def program(name: str, package: str) -> Path:
    """Where a program of this system is; `package` is installed when it is missing.

    Raises:
        SetupError: it is missing and cannot be installed here.
    """
    if packages.path_of(name) is None:
        packages.install([package])
    found = packages.path_of(name)
    if found is None:
        raise SetupError(f"package {package} is installed, but there is no {name}")
    return found


def load(
    url: str, image: str, root: RootFileSystem, entrypoint: Sequence[str], version: str, labels: Mapping[str, str]
) -> bool:
    """Make `image` of `root` in the engine at `url`; False when the very same image bears that name already.

    The image runs `entrypoint` as root. `version` is that of what it is about, and stands in its labels.

    Raises:
        SetupError: the engine refused.
    """
    about = {
        "org.opencontainers.image.title": image.rpartition(":")[0] or image,
        "org.opencontainers.image.version": version,
        **labels,
    }
    with tempfile.TemporaryDirectory(prefix="caisson-node-") as name:
        layer = Path(name) / "layer.tar"
        config = _config(root.write(layer), entrypoint, about)
        digest = hashlib.sha256(config).hexdigest()
        with client(url, IMPORT_SECONDS) as http:
            if is_there(http, image) and http.get(f"/images/{image}/json").json()["Id"] == f"sha256:{digest}":
                return False
            kind = {"Content-Type": "application/x-tar"}
            answer = http.post("/images/load", content=_archive(image, digest, config, layer), headers=kind)
            if answer.status_code >= 300 or errors_of(answer) or not is_there(http, image):
                raise SetupError(f"the engine refused the image {image}: {answer.status_code} {answer.text.strip()}")
    return True


def image_archive(image: str, layer: bytes, entrypoint: Sequence[str]) -> bytes:
    """An image of one layer (a tar), as ``docker save`` writes it."""
    with tempfile.NamedTemporaryFile(prefix="caisson-node-") as file:
        file.write(layer)
        file.flush()
        config = _config(hashlib.sha256(layer).hexdigest(), entrypoint, {})
        return b"".join(_archive(image, hashlib.sha256(config).hexdigest(), config, Path(file.name)))


def digest(text: str) -> str:
    """A short name of something that follows from this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _config(layer: str, entrypoint: Sequence[str], labels: Mapping[str, str]) -> bytes:
    """The settings of an image whose only layer has this SHA-256."""
    machine = platform.machine()
    return json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": list(entrypoint),
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": dict(labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
            "history": [{"created_by": "caisson"}],
        }
    ).encode()


def _merged(path: str) -> str:
    """The path where a file really lies."""
    first = path.strip("/").partition("/")[0]
    return f"/usr{path}" if first in MERGED else path


def _add(archive: tarfile.TarFile, path: str, entry: _File | _Link | None) -> None:
    info = tarfile.TarInfo(path.lstrip("/"))
    if entry is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "/tmp" else 0o755  # noqa: S108
        archive.addfile(info)
    elif isinstance(entry, _Link):
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
        archive.addfile(info)
    elif isinstance(entry.content, Path):
        info.size, info.mode = entry.content.stat().st_size, entry.mode
        with entry.content.open("rb") as file:
            archive.addfile(info, file)
    else:
        info.size, info.mode = len(entry.content), entry.mode
        archive.addfile(info, BytesIO(entry.content))


def _archive(image: str, digest: str, config: bytes, layer: Path) -> Iterator[bytes]:
    """What ``docker load`` takes: the settings, the layer, and the list of both."""
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [image], "Layers": ["layer.tar"]}]).encode()
    for name, content in ((f"{digest}.json", config), ("manifest.json", manifest)):
        yield _head(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    size = layer.stat().st_size
    yield _head("layer.tar", size)
    with layer.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece
    yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)

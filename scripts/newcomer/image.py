"""A small image: pulled when a registry answers, otherwise made of Debian's static busybox."""

import io
import json
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx

from scripts.newcomer import packages
from scripts.newcomer.engine import client
from scripts.newcomer.packages import SetupError

NAME = "busybox"
PULL_SECONDS = 30.0
"""Seconds without a sign of progress after which a pull is given up."""

APPLETS = """
    [ ash awk base64 basename cat chmod chown cp cut date dd df dirname du echo env expr false find free grep
    head hostname httpd id ifconfig ip kill ln ls md5sum mkdir mkfifo mv nc nslookup od ping ping6 printenv
    printf ps pwd readlink rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar tee telnet test
    time timeout top touch tr true tty uname uniq vi wc wget which whoami xargs yes
"""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def ensure(url: str) -> str:
    """Makes sure that the engine has the image :data:`NAME`. Returns how it came by it, for the user.

    Raises:
        SetupError: no registry answers and the image cannot be made here; or the engine refused it.
    """
    with client(url, PULL_SECONDS) as http:
        if is_there(http, NAME):
            return "was there"
        try:
            answer = http.post("/images/create", params={"fromImage": NAME, "tag": "latest"})
        except httpx.TimeoutException:
            pass
        else:
            if is_there(http, NAME) and not errors_of(answer):
                return "pulled"
        import_tar(http, NAME, root_file_system(static_busybox(), {}))
        return "made of Debian's static busybox, because no registry answered"


def is_there(http: httpx.Client, image: str) -> bool:
    """Whether the engine has an image of this name."""
    return http.get(f"/images/{quote(image)}/json").status_code == 200


def import_tar(http: httpx.Client, image: str, tar: bytes, changes: Sequence[str] = ()) -> None:
    """Makes an image of a file system; its command is a shell unless `changes` (Dockerfile instructions) say else.

    Raises:
        SetupError: the engine refused.
    """
    repository, _, tag = image.partition(":")
    answer = http.post(
        "/images/create",
        params={
            "fromSrc": "-",
            "repo": repository,
            "tag": tag or "latest",
            "changes": ['CMD ["/bin/sh"]', "ENV PATH=/bin", *changes],
        },
        content=tar,
        headers={"Content-Type": "application/x-tar"},
    )
    if answer.status_code >= 300 or errors_of(answer):
        raise SetupError(f"the engine refused the image {image}: {answer.status_code} {answer.text.strip()}")


def errors_of(answer: httpx.Response) -> list[str]:
    """What went wrong after the first byte: progress is a line of JSON each, and so is a failure then."""
    lines = [line for line in answer.text.splitlines() if "error" in line]
    return [str(document["error"]) for document in map(json.loads, lines) if "error" in document]


def root_file_system(busybox: bytes, files: Mapping[str, bytes]) -> bytes:
    """A tar of busybox, its applets as links, a user table and the given files. The same input gives the same bytes."""
    content = {**{path: text.encode() for path, text in FILES.items()}, **files}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "root", "tmp", "var", "var/www", "home", "dev", "proc", "sys"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(busybox), 0o755
        tar.addfile(entry, io.BytesIO(busybox))
        for applet in APPLETS.split():
            if f"bin/{applet}" in content:
                continue
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        for path, data in content.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path.startswith("bin/") else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def static_busybox() -> bytes:
    """A busybox that runs without any library: the system's, else the one of Debian's package, which is only unpacked.

    Raises:
        SetupError: there is none, and none can be had.
    """
    installed = packages.path_of("busybox")
    if installed is not None and is_static(installed):
        return installed.read_bytes()
    with tempfile.TemporaryDirectory(prefix="caisson-busybox-") as name:
        folder = Path(name)
        # Unpacked, not installed: that needs no rights, and does not take the place of the other busybox package.
        if not _unpack(folder) and packages.may_install():
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False)
            _unpack(folder)
        for path in folder.glob("**/busybox"):
            if path.is_file() and is_static(path):
                return path.read_bytes()
    raise SetupError(
        "no registry answers, and there is no static busybox to make an image of: install the package "
        f"busybox-static, or give the engine an image called {NAME}"
    )


def is_static(program: Path) -> bool:
    """Whether an ELF program (64 bit, little endian) asks for no interpreter, which would load its libraries."""
    header = program.read_bytes()[:4096]
    if header[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    kinds = [struct.unpack_from("<I", header, table + number * size)[0] for number in range(count)]
    return 3 not in kinds  # PT_INTERP


def _unpack(folder: Path) -> bool:
    if packages.path_of("apt-get") is None:
        return False
    fetched = subprocess.run(
        ["apt-get", "-qq", "download", "busybox-static"], cwd=folder, capture_output=True, check=False
    )
    archive = next(folder.glob("*.deb"), None)
    if fetched.returncode or archive is None:
        return False
    return subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=False).returncode == 0

"""The image of a group's sandbox: one static program of 250 bytes that waits to be told to end.

A sandbox holds the namespaces that the members of a group share, and does nothing else. Its image is made here and
loaded into the engine, so that no registry is needed, and nobody else's image runs with a group's network. The program
makes two system calls: it blocks SIGTERM and SIGINT, waits for one of them, and exits with 0. Below is its machine
code with the assembly beside it; there is no library, no shell and no file in the image but this one.
"""

import hashlib
import io
import json
import struct
import tarfile

NAME = "caisson/sandbox"
PROGRAM = "pause"

_SIGNALS = struct.pack("<Q", 1 << (15 - 1) | 1 << (2 - 1))  # SIGTERM and SIGINT, as a set of the kernel's

# fmt: off
_X86_64 = bytes.fromhex(
    "b80e000000"      # mov eax, 14      rt_sigprocmask
    "31ff"            # xor edi, edi     SIG_BLOCK
    "488d352b000000"  # lea rsi, [signals]
    "31d2"            # xor edx, edx
    "6a08415a"        # push 8; pop r10
    "0f05"            # syscall
    "b880000000"      # mov eax, 128     wait: rt_sigtimedwait
    "488d3d17000000"  # lea rdi, [signals]
    "31f6"            # xor esi, esi
    "31d2"            # xor edx, edx     no limit of time
    "6a08415a"        # push 8; pop r10
    "0f05"            # syscall
    "85c0"            # test eax, eax
    "78e6"            # js wait          interrupted by another signal
    "b8e7000000"      # mov eax, 231     exit_group
    "31ff"            # xor edi, edi
    "0f05"            # syscall
)
_AARCH64 = bytes.fromhex(
    "e81080d2"  # mov x8, 135      rt_sigprocmask
    "000080d2"  # mov x0, 0        SIG_BLOCK
    "c1010010"  # adr x1, signals
    "020080d2"  # mov x2, 0
    "030180d2"  # mov x3, 8
    "010000d4"  # svc 0
    "281180d2"  # mov x8, 137      wait: rt_sigtimedwait
    "20010010"  # adr x0, signals
    "010080d2"  # mov x1, 0
    "020080d2"  # mov x2, 0        no limit of time
    "030180d2"  # mov x3, 8
    "010000d4"  # svc 0
    "40ffff37"  # tbnz w0, 31, wait    interrupted by another signal
    "c80b80d2"  # mov x8, 94       exit_group
    "000080d2"  # mov x0, 0
    "010000d4"  # svc 0
)
# fmt: on

_PROGRAMS = {"amd64": (62, _X86_64 + _SIGNALS), "arm64": (183, _AARCH64 + _SIGNALS)}
"""By the image's architecture: the machine's number in ELF, and the code."""

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""What engines call a host that there is a program for, and what images call it."""

_ADDRESS, _HEADERS = 0x400000, 64 + 2 * 56


def program(architecture: str) -> bytes:
    """The program as an ELF file, for ``amd64`` or ``arm64``."""
    machine, code = _PROGRAMS[architecture]
    size = _HEADERS + len(code)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), 2, machine, 1, _ADDRESS + _HEADERS, 64, 0, 0, 64, 56, 2, 0, 0, 0,
    )  # fmt: skip
    # All of the file, readable and executable; and a stack that is not executable.
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x10000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return head + load + stack + code


def image(architecture: str) -> tuple[str, str, bytes]:
    """The image for that architecture: its name, its id and the archive that engines load.

    The name ends in the start of the id, so that another version of it is another image.
    """
    layer = _tar({PROGRAM: program(architecture)})
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [f"/{PROGRAM}"], "User": "65534:65534"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created_by": "caisson"}],
        }
    ).encode()
    digest = hashlib.sha256(config).hexdigest()
    name = f"{NAME}:{digest[:12]}"
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    files = {f"{digest}.json": config, "layer.tar": layer, "manifest.json": manifest}
    return name, f"sha256:{digest}", _tar(files)


def _tar(files: dict[str, bytes]) -> bytes:
    """The same bytes for the same files, whenever and wherever."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o555
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()

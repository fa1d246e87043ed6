"""A small file system of a test's own, that it may fill."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024


class Disk:
    """A mounted file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        for size in (MIB, 4096, 1):
            while _written(descriptor, size):
                pass
        os.close(descriptor)

    def free(self) -> None:
        """Give back what was taken."""
        self._ballast.unlink()


@contextmanager
def small(folder: Path, mebibytes: int) -> Iterator[Disk]:
    """One of this size on an empty folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "caisson-test", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _written(descriptor: int, size: int) -> bool:
    try:
        return os.write(descriptor, b"\0" * size) == size
    except OSError:
        return False

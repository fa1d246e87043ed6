"""The guard: a process that outlives the test session by a moment, and stops every service which that session started.

Run as ``python -m tests.stack.guard DIRECTORY`` with a pipe as standard input. Only the session holds the other end, so
end of file means that the session is over, whether it ended well, failed or was killed. The services are then stopped
in reverse order of their start, and the directory is removed.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE = 20.0
"""Seconds that a service gets between its own stop signal and SIGKILL."""


def state_of(pid: int) -> tuple[str, int] | None:
    """The state letter and start time (clock ticks since boot) of a process; None when there is no such process."""
    try:
        # The second field is a name in parentheses that may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def is_alive(pid: int, born: int) -> bool:
    """Whether the process that had this pid and start time still runs. A zombie does not run."""
    seen = state_of(pid)
    return seen is not None and seen[1] == born and seen[0] not in "ZX"


def stop(pid: int, born: int, stop_signal: int = signal.SIGTERM, grace: float = GRACE) -> None:
    """Ends one process and returns when it is gone: its own stop signal first, SIGKILL after ``grace`` seconds."""
    deadline = time.monotonic() + grace
    sent = False
    while is_alive(pid, born):
        try:
            if not sent:
                os.kill(pid, stop_signal)
                # A frozen process acts on no signal but SIGKILL.
                os.kill(pid, signal.SIGCONT)
                sent = True
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.02)


def unmount_below(directory: Path) -> None:
    """Detaches everything mounted below a directory, so that removing it cannot reach into another file system."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    libc = ctypes.CDLL(None)
    for mount in sorted(mounts, key=len, reverse=True):
        if mount.startswith(f"{directory}/"):
            libc.umount2(mount.encode(), 2)  # 2: MNT_DETACH


def remove_control_groups(name: str) -> None:
    """Removes the control groups that a private engine leaves behind under its own parent, once all there has ended."""
    deadline = time.monotonic() + GRACE
    while left := _control_groups(name):
        for group in left:
            try:
                os.rmdir(group)
            except OSError as error:
                if time.monotonic() > deadline:
                    print(f"control group {group} stays: {error}", file=sys.stderr)
                    return
        time.sleep(0.02)


def _control_groups(name: str) -> list[str]:
    """All below the parent of this name, the inner ones first."""
    tops = [*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup") / name]
    return [group for top in tops if top.is_dir() for group, _, _ in os.walk(top, topdown=False)]


def stop_all(directory: Path) -> None:
    """Stops every service recorded in the directory, newest first, and removes the directory."""
    records = sorted(directory.glob("services/*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for record in records:
        service = json.loads(record.read_text())
        stop(service["pid"], service["born"], service["signal"])
        if group := service["facts"].get("control_group"):
            remove_control_groups(group)
    unmount_below(directory)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    directory = Path(sys.argv[1])
    # Ctrl-C at the terminal is for the session; its end is what the guard waits for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    stop_all(directory)


if __name__ == "__main__":
    main()

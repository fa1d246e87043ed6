"""A terminal on which a command runs, as a person's: a window with a size, a keyboard, and what is shown."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

PATIENCE = 60.0


class Terminal:
    """A command's terminal; `shown` is all that it has printed so far."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], lines: int, columns: int) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._resize(lines, columns)
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._ours, text.encode())

    def resize(self, lines: int, columns: int) -> None:
        """Drag the window; the command is told as the system tells it."""
        self._resize(lines, columns)
        self.process.send_signal(signal.SIGWINCH)

    def until(self, text: str) -> str:
        """Wait until this is shown. Returns what came up to it, and forgets that. Fails with all there is instead."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was never shown: {self.shown!r}"
            assert self._take(), f"it ended without {text!r}: {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def press_until(self, key: str, text: str) -> None:
        """Press a key again and again until this is shown: what is typed too early is thrown away by the command."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was never shown: {self.shown!r}"
            self.type(key)
            quiet = time.monotonic() + 0.5
            while time.monotonic() < quiet:
                assert self._take(), f"it ended without {text!r}: {self.shown!r}"
        self.shown = ""

    def ended(self) -> int:
        """Wait for the end. Returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._take():
            assert time.monotonic() < deadline, f"it does not end: {self.shown!r}"
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Close the window, and take the command with it."""
        os.close(self._ours)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    def _resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _take(self) -> bool:
        """Look for more for a moment; whether there may still come some."""
        if not select.select([self._ours], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux says so when the last one on the other side has closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], lines: int = 30, columns: int = 100
) -> Iterator[Terminal]:
    """Run a command on a terminal until the block ends."""
    made = Terminal(command, environment, lines, columns)
    try:
        yield made
    finally:
        made.close()

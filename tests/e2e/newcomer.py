"""``scripts/run`` as a user starts it: in a terminal of its own, read line by line, ended by Ctrl-C."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.stack.session import wait_until

PROMPT = "until you press Ctrl-C."
"""What it prints when everything has been shown and it goes on serving."""


def finding_by_itself(config: Path) -> dict[str, str]:
    """Environment of a client that looks for its login in this folder of the user, and is told of no other."""
    return {"XDG_CONFIG_HOME": str(config), "OS_CLIENT_CONFIG_FILE": ""}


class Run:
    """One start. `prefix` is a command that runs it elsewhere, such as in other namespaces."""

    def __init__(
        self, root: Path, log: Path, *options: str, prefix: Sequence[str] = (), **environment: str | None
    ) -> None:
        self._log = log
        # Without SHELL, which a service or a container does not have either.
        foreign = ("OS_", "CAISSON_", "SHELL")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        self._elsewhere = bool(prefix)
        given = {key: value for key, value in (inherited | environment).items() if value is not None}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*prefix, str(root / "scripts/run"), *options],
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A terminal sends Ctrl-C to all of its foreground processes at once.
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return self._log.read_text()

    def wait_for(self, text: str, seconds: float = 150) -> str:
        """Returns the output once it holds this text; fails when it ends without."""
        wait_until(lambda: text in self.output or self._process.poll() is not None, f"{text!r} in {self._log}", seconds)
        assert text in self.output, self.output
        return self.output

    def press_ctrl_c(self) -> int:
        """The exit code after Ctrl-C."""
        if self._elsewhere:
            # What leads there would die of the signal itself, and its exit code be lost.
            pid = self._process.pid
            os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), signal.SIGINT)
        else:
            os.killpg(self._process.pid, signal.SIGINT)
        return self._process.wait(60)

    def wait(self) -> int:
        """The exit code of one that ends by itself."""
        return self._process.wait(60)

    def end(self) -> None:
        """Ends it if it still runs; for the end of a test that failed."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(60)

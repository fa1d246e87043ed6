"""The ``openstack`` command, many times in one process: its start takes longer than most of what it is asked here.

Run as ``python -m tests.e2e.shell``: each line of standard input is a JSON list of arguments, each line of standard
output a JSON object with the exit code and what the command printed. Every command gets a shell of its own.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.stack.session import ROOT


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str


class Shell:
    """A process that runs one command after the other for one user."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        command = [sys.executable, "-m", "tests.e2e.shell", str(folder)]
        inherited = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=inherited | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *words: str) -> Said:
        """Runs ``openstack WORDS…``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the shell ended at {words}"
        return Said(**json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(folder: str) -> None:
    """Runs what comes by standard input until that ends."""
    from openstackclient.shell import OpenStackShell  # dear, and only for this process

    os.chdir(folder)
    answers = sys.stdout
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                shell = OpenStackShell()
                shell.stdout, shell.stderr = out, err
                code = shell.run(json.loads(line))
            except SystemExit as end:
                code = int(end.code or 0) if not isinstance(end.code, str) else 1
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])

"""OpenStack's own client, and Docker's, each command printed before it runs."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.newcomer import cloud
from scripts.newcomer.cloud import Cloud
from scripts.newcomer.packages import SetupError

PROGRAM = Path(sys.executable).with_name("openstack")


def openstack(login: Cloud, *words: str) -> None:
    """Run a command of `openstack`. Raises SetupError when it fails."""
    command = ["openstack", "--os-cloud", cloud.NAME, *words]
    tell(command)
    run([str(PROGRAM), *command[1:]], environment(login))


def openstack_said(login: Cloud, *words: str) -> str:
    """The same, and what it printed. Raises SetupError when it fails."""
    command = ["openstack", "--os-cloud", cloud.NAME, *words]
    tell(command)
    done = subprocess.run(
        [str(PROGRAM), *command[1:]], env=environment(login), stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SetupError(f"the command ended with exit code {done.returncode}")
    return done.stdout


def environment(login: Cloud) -> dict[str, str]:
    """What the client needs to know: this login, and of no other cloud."""
    # Variables of another cloud would be mixed into this login.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    kept |= {"OS_CLIENT_CONFIG_FILE": str(login.file.absolute()), "CLIFF_FIT_WIDTH": "1"}
    kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1,localhost"
    # `coe cluster config` prints in this shell's words, and fails where none is named.
    kept["SHELL"] = "/bin/sh"
    return kept


def tell(command: Sequence[str]) -> None:
    """Print a command as one would type it."""
    print(f"\n$ {shlex.join(command)}", flush=True)


def run(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a program to its end; Ctrl-C ends it too. Raises SetupError when it fails."""
    with subprocess.Popen(command, env=variables, process_group=0) as process:
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise SetupError(f"the command ended with exit code {code}")

"""Running one plugin of tempest: a changed copy of it, a workspace, one run, and the outcomes."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.served import Gateway
from tests.stack.keystone import ADMIN_PASSWORD
from tests.stack.session import Stack
from tests.stack.tempest import programs

LINE = re.compile(r"^\{\d+\} (\S+?)(?:\[[^]]*\])? (?:\[[\d.]+s\] )?\.\.\. (ok|FAILED|SKIPPED)(?:: (.*))?$")
SETUP = re.compile(
    r"^(?:\{\d+\} )?(setUpClass|tearDownClass) \((\S+)\) (?:\[[\d.]+s\] )?\.\.\. (FAILED|SKIPPED)(?:: (.*))?$"
)

CONFIGURATION = """
[DEFAULT]
debug = true
log_file = tempest.log
[oslo_concurrency]
lock_path = {folder}/locks
[auth]
use_dynamic_credentials = true
create_isolated_networks = {networks}
tempest_roles = member
admin_username = admin
admin_project_name = admin
admin_password = {password}
admin_domain_name = Default
admin_user_domain_name = Default
admin_project_domain_name = Default
default_credentials_domain_name = Default
[identity]
auth_version = v3
uri_v3 = {keystone}
region = {region}
default_domain_id = default
[identity-feature-enabled]
api_v3 = true
api_v2 = false
[service_available]
nova = false
neutron = {networks}
glance = {images}
cinder = false
swift = false
"""

Changes = Mapping[str, Sequence[tuple[str, str]]]
"""Texts of a plugin's files, by path within the plugin, and what they become."""


class NothingRan(RuntimeError):
    """Tempest ran no test at all; the text is what it printed."""


@dataclass(frozen=True)
class Result:
    """How one test ended: passed, failed or skipped; `reason` is tempest's, for a skipped one."""

    name: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Suite:
    """A plugin of tempest.

    Attributes:
        name: what `scripts/conformance` calls it.
        lanes: the ways it is run, in their order.
        run: runs one lane, given the stack, the lane and a regular expression that tests' names must match; returns
            every test's outcome, by name. Raises StackError when something around it cannot be started.
    """

    name: str
    lanes: tuple[str, ...]
    run: Callable[[Stack, str, str], list[Result]]


def changed_copy(package: str, folder: Path, changes: Changes) -> Path:
    """A copy of an installed plugin with some texts changed; returns what to put before Python's path.

    Raises:
        RuntimeError: the plugin no longer holds one of the texts.
    """
    installed = next(programs().parent.rglob(package))
    shutil.copytree(installed, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, pairs in changes.items():
        path = folder / package / name
        text = path.read_text()
        for before, after in pairs:
            if before not in text:
                raise RuntimeError(f"the plugin's {name} no longer holds {before!r}")
            text = text.replace(before, after)
        path.write_text(text)
    return folder


def configuration(folder: Path, gateway: Gateway, plugin: str, *, images: bool, networks: bool) -> str:
    """The text of tempest.conf for the cloud of a gateway.

    Args:
        folder: an empty one, for tempest's locks.
        plugin: what follows ``[service_available]``: first the plugin's own service there, then its sections.
        images: whether the cloud has a Glance.
        networks: whether it has a Neutron, where tempest then gives each project a network.
    """
    known = CONFIGURATION.format(
        folder=folder,
        password=ADMIN_PASSWORD,
        keystone=gateway.keystone.url,
        region=gateway.region,
        images=str(images).lower(),
        networks=str(networks).lower(),
    )
    return f"{known}{plugin}"


def run(folder: Path, copy: Path, configuration: str, tests: str, prefix: str, keep: str) -> list[Result]:
    """Runs tempest once, one test after the other.

    Args:
        folder: an empty one, for the workspace and the logs.
        copy: where :func:`changed_copy` put the plugin.
        configuration: the text of tempest.conf.
        tests: the regular expression that names of tests must match.
        prefix: what is left out of their names.
        keep: the beginning of the names under which logs are kept in ``$CAISSON_TEMPEST_OUT``, where that is set.

    Raises:
        NothingRan: no test matched, or none could be loaded.
    """
    tempest = str(programs() / "tempest")
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "HOME": str(folder),
        "PATH": f"{programs()}:{os.environ['PATH']}",
    }
    workspace = folder / "workspace"
    subprocess.run([tempest, "init", str(workspace)], env=environment, capture_output=True, check=True)
    (workspace / "etc" / "tempest.conf").write_text(configuration)
    command = [tempest, "run", "--concurrency", "1", "--regex", tests]
    with (folder / "tempest.out").open("w") as out:
        subprocess.run(command, cwd=workspace, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
    text = (folder / "tempest.out").read_text()
    if place := os.environ.get("CAISSON_TEMPEST_OUT"):
        Path(place).mkdir(parents=True, exist_ok=True)
        for name in ("tempest.out", "tempest.log", "gateway.log"):
            for log in folder.rglob(name):
                shutil.copy(log, Path(place) / f"{keep}-{name}")
    found = {result.name: result for result in results(text, prefix)}
    if not found:
        raise NothingRan(f"tempest ran nothing:\n{text[-3000:]}")
    return sorted(found.values(), key=lambda result: result.name)


def results(text: str, prefix: str) -> Iterator[Result]:
    """The outcomes in what ``tempest run`` printed; a class that could not be set up counts as one test."""
    words = {"ok": "passed", "FAILED": "failed", "SKIPPED": "skipped"}
    for line in text.splitlines():
        if found := SETUP.match(line.strip()):
            yield Result(f"{found[2].removeprefix(prefix)}.{found[1]}", words[found[3]], found[4] or "")
        elif found := LINE.match(line.strip()):
            yield Result(found[1].removeprefix(prefix), words[found[2]], found[3] or "")

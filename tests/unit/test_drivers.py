"""Which drivers there are, on which engines, and what the command line says of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.backends import DriverKind, Drivers
from app.errors import Unsupported
from tests.fake_driver import FakeDriver

ROOT = Path(__file__).resolve().parents[2]


def test_a_driver_is_found_by_its_kind_and_the_engine() -> None:
    on_one, on_two = FakeDriver(), FakeDriver()
    drivers = Drivers({("kubernetes", "one"): on_one, ("kubernetes", "two"): on_two}, installed=["kubernetes", "swarm"])
    assert drivers.find("kubernetes", "two") is on_two
    assert (drivers.backends("kubernetes"), drivers.backends("swarm")) == (["one", "two"], [])
    assert drivers.backends() == ["one", "two"]
    with pytest.raises(Unsupported, match="the cluster driver other is not installed here"):
        drivers.find("other", "one")
    with pytest.raises(Unsupported, match="engine one has no ability node, which the cluster driver swarm needs"):
        drivers.find("swarm", "one")


def test_a_disabled_driver_still_serves_what_it_made() -> None:
    driver = FakeDriver()
    drivers = Drivers({("kubernetes", "one"): driver}, installed=["swarm"], disabled=["kubernetes"])
    assert drivers.find("kubernetes", "one") is driver
    assert drivers.kinds() == [
        DriverKind("kubernetes", False, driver.provides, driver.abilities),
        DriverKind("swarm", False),
    ]


def listed(folder: Path, *options: str, **environment: str) -> str:
    """What ``caisson drivers list`` prints where another distribution, in `folder`, adds a driver."""
    metadata = folder / "another-1.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[app.drivers]\nanother = tests.fake_driver:make\n")
    known = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "CAISSON_DATA_DIR": str(folder)} | environment
    command = [sys.executable, "-m", "app", "drivers", "list", *options]
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_command_line_lists_what_is_installed_and_asks_no_engine(tmp_path: Path) -> None:
    nowhere = {"CAISSON_BACKENDS__LOCAL__URL": f"unix://{tmp_path}/nothing.sock"}
    found = json.loads(listed(tmp_path, "--details", "-f", "json", **nowhere))
    mine = {"name": "another", "enabled": True, "server_type": "vm", "os": "*", "coe": "kubernetes"}
    assert mine in found
    assert {"name": "another", "enabled": True} in json.loads(listed(tmp_path, "-f", "json", **nowhere))
    lines = [line.split() for line in listed(tmp_path, "-d", **nowhere).splitlines()]
    assert lines[0] == ["name", "enabled", "server_type", "os", "coe"]
    assert ["another", "True", "vm", "*", "kubernetes"] in lines
    disabled = json.loads(listed(tmp_path, "-f", "json", CAISSON_CLUSTERS__DISABLED_DRIVERS='["another"]', **nowhere))
    assert {"name": "another", "enabled": False} in disabled

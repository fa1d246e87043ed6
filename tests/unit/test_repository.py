"""Properties of the repository itself that no linter knows."""

import re
import subprocess
import tomllib
from pathlib import Path

import alembic
import alembic.command
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "tests/stack/keystone.lock",
    "tests/stack/glance.lock",
    "tests/stack/neutron.lock",
    "tests/stack/tempest.lock",
)
LONGEST_FILE = 600

# Each holds a class of one letter, so that this file does not contain what it forbids.
FORBIDDEN = {
    "a path of one machine": r"/wor[k]/(main|shared|\.library)|/tm[p]/w/|/hom[e]/[a-z]",
    "the host of a package index": r"pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.(org|com)|file:///op[t]",
    "a skipped test": r"pytest\.ski[p]\b|mark\.ski[p]|importorski[p]",
    "work left undone": r"\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b",
}
# Locks hold hashes, and the assets come from elsewhere as they are.
FOREIGN = re.compile(r"\.lock$|^app/(console|static|swagger)|\.(js|css|png|svg|ico|map|jsonl)$")


def _files() -> list[str]:
    """What a commit of everything would hold."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


FILES = _files()
OWN_TEXT = [name for name in FILES if not FOREIGN.search(name)]


def test_the_folder_of_migrations_does_not_hide_the_library() -> None:
    """A folder ``alembic`` with an ``__init__.py`` beside ``app`` would be imported in place of the library."""
    assert ROOT not in Path(alembic.__file__).parents or ".venv" in Path(alembic.__file__).parts
    assert callable(alembic.command.upgrade)
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_no_python_file_is_long() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in FILES if name.endswith(".py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "base", "helpers", "misc"}
    assert [name for name in FILES if name.endswith(".py") and drawers & set(Path(name).with_suffix("").parts)] == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_are_free_of(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in OWN_TEXT
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def _pins(lock: str) -> dict[str, str]:
    """Name to version of every entry. Fails on whatever is not a pinned, hashed entry."""
    pins = {}
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = re.fullmatch(r"([a-z0-9][a-z0-9-]*)==([^\s;]+)( ; [^-]+?)?((\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert entry, f"{lock}: not a pinned and hashed entry: {line[:100]}"
        pins[entry[1]] = entry[2]
    return pins


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_nothing_but_pinned_and_hashed_entries(lock: str) -> None:
    assert len(_pins(lock)) > 20


def test_development_runs_on_the_very_versions_that_users_get() -> None:
    runtime, development = _pins("requirements.lock"), _pins("requirements-dev.lock")
    assert {name: development.get(name) for name in runtime} == runtime


def test_the_locks_satisfy_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        "requirements.lock": project["dependencies"] + extras["postgres"] + extras["cli"],
        "requirements-dev.lock": [*project["dependencies"], *(line for extra in extras.values() for line in extra)],
    }
    for lock, lines in declared.items():
        pins = _pins(lock)
        for requirement in map(Requirement, lines):
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            assert requirement.specifier.contains(pins.get(name, "0")), f"{lock}: {requirement} is not {pins.get(name)}"

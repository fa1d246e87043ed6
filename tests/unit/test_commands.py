"""The command line: what an operator types, and what it says back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from app.__main__ import main
from app.vault import Vault, keep_keys, kept_keys


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands set up the log for a process of their own."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of the commands."""
    monkeypatch.setenv("CAISSON_DATA_DIR", str(tmp_path))
    return tmp_path


def test_new_keys_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secrets", "new-key"]) == main(["secrets", "new-key"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first != second
    assert len(first) == 44


def test_a_rotation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secrets", "rotate"]) == 2
    assert "the database is empty: run caisson migrate" in capsys.readouterr().err
    assert main(["migrate"]) == 0
    (here / "new").write_text("a key from a file\n")
    assert main(["secrets", "rotate", "--key-file", str(here / "new")]) == 0
    assert "0 secrets are under the newest key now" in capsys.readouterr().out
    assert kept_keys(here / "secret.key") == ["a key from a file"]
    assert main(["secrets", "rotate", "--key-file", str(here / "absent")]) == 2
    assert f"{here / 'absent'}: No such file or directory" in capsys.readouterr().err


def test_a_check_of_what_cannot_serve(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAISSON_BACKENDS__LOCAL__URL", f"unix://{here}/no.sock")
    monkeypatch.setenv("CAISSON_HOST", "192.0.2.1")
    assert main(["check"]) == 1
    told = capsys.readouterr()
    assert "the database is empty: run caisson migrate; the next start does so by itself" in told.out
    assert "engine local: the engine does not answer" in told.err
    assert "The embedded identity is not served on 192.0.2.1" in told.err
    assert "not fit to serve: 2 of the findings above" in told.err
    assert not (here / "secret.key").exists()


def test_a_check_of_keys(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CAISSON_BACKENDS__LOCAL__URL", f"unix://{here}/no.sock")
    assert main(["migrate"]) == 0
    keep_keys(here / "secret.key", ["older"])
    with closing(sqlite3.connect(here / "caisson.db")) as database:
        for ident, key in (("one", "older"), ("two", "lost")):
            row = (ident, Vault(key).seal("pem"), 1.0)
            database.execute("INSERT INTO identity_key (id, private_pem, created_at) VALUES (?, ?, ?)", row)
        database.commit()
    keep_keys(here / "secret.key", ["newest", "older"])
    assert main(["check"]) == 1
    told = capsys.readouterr()
    assert "0 secrets are under the newest key" in told.out
    assert "1 secrets are under older keys: run caisson secrets rotate" in told.err
    assert "1 secrets fit none of the keys" in told.err


@pytest.mark.parametrize("command", ["serve", "migrate", "check"])
def test_a_newer_programs_database_is_not_served(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CAISSON_BACKENDS__LOCAL__URL", f"unix://{here}/no.sock")
    assert main(["migrate"]) == 0
    with closing(sqlite3.connect(here / "caisson.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert main([command]) == (1 if command == "check" else 2)
    assert "caisson: the database has schema 9999, made by a newer Caisson" in capsys.readouterr().err


def test_an_older_database_is_not_served_when_it_may_not_be_upgraded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAISSON_MIGRATE_ON_START", "false")
    assert main(["serve"]) == 2
    assert "caisson: the database is empty: run caisson migrate" in capsys.readouterr().err


def test_a_backup_is_whole_and_only_its_owners(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup", str(here / "none")]) == 2
    assert "there is no database at" in capsys.readouterr().err
    assert main(["migrate"]) == 0
    keep_keys(here / "secret.key", ["the key"])
    with closing(sqlite3.connect(here / "caisson.db")) as writer:
        writer.execute("INSERT INTO identity_project (id, name, description, enabled) VALUES ('p', 'p', '', 1)")
        writer.commit()
        writer.execute("DELETE FROM identity_project")  # under way, and not part of it
        assert main(["backup", str(here / "kept")]) == 0
    with closing(sqlite3.connect(here / "kept" / "caisson.db")) as copy:
        assert copy.execute("SELECT name FROM identity_project").fetchall() == [("p",)]
    assert kept_keys(here / "kept" / "secret.key") == ["the key"]
    assert {path.stat().st_mode & 0o777 for path in (here / "kept").iterdir()} == {0o600}
    assert (here / "kept").stat().st_mode & 0o777 == 0o700
    assert main(["backup", str(here / "kept")]) == 2
    assert f"the folder {here / 'kept'}: File exists" in capsys.readouterr().err

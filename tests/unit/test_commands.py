"""The command line: what an operator types, and what it says back."""

from pathlib import Path

import pytest

from app.__main__ import main
from app.vault import kept_keys


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

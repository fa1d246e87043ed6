"""Keys: the newest seals, older ones are read, and the file that keeps them is never half written."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.errors import Invalid
from app.settings import Settings
from app.vault import Vault, keep_keys, kept_keys, key_file, open_vault


def test_the_newest_key_seals_and_older_ones_are_read() -> None:
    before, after = Vault("old"), Vault("new", "old")
    sealed = before.seal("s3cret")
    assert after.open(sealed) == "s3cret"
    assert not after.is_newest(sealed)
    anew = after.reseal(sealed)
    assert after.is_newest(anew)
    assert Vault("new").open(anew) == "s3cret"
    with pytest.raises(Invalid, match="CAISSON_SECRET_KEY"):
        before.open(anew)


def test_a_replica_that_knows_the_key_to_come_reads_what_others_seal_with_it() -> None:
    assert Vault("old", "new").open(Vault("new", "old").seal("x")) == "x"


def test_a_secret_of_an_unknown_key_is_refused() -> None:
    sealed = Vault("lost").seal("x")
    for act in (Vault("new", "old").open, Vault("new", "old").reseal):
        with pytest.raises(Invalid):
            act(sealed)


def test_equal_secrets_do_not_look_alike() -> None:
    vault = Vault("key")
    assert vault.seal("x") != vault.seal("x")
    assert vault.seal("x") != vault.reseal(vault.seal("x"))


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    sealed = open_vault(settings).seal("x")
    assert open_vault(settings).open(sealed) == "x"
    assert key_file(settings).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.data_dir.iterdir()] == ["secret.key"]


def test_an_empty_key_file_is_no_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    key_file(settings).touch()
    with pytest.raises(Invalid, match="is empty"):
        open_vault(settings)


def test_a_key_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    keep_keys(path, ["one"])
    (tmp_path / "secret.key.new").write_text("half of it")  # a crash left this
    keep_keys(path, ["two", "one"])
    assert kept_keys(path) == ["two", "one"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_settings_give_several_keys(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, secret_key=SecretStr("new"), other_secret_keys=[SecretStr("old")])
    assert open_vault(settings).open(Vault("old").seal("x")) == "x"
    assert Vault("new").open(open_vault(settings).seal("x")) == "x"
    assert "old" not in repr(settings)
    assert not key_file(settings).exists()

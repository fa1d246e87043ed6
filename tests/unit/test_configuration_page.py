"""docs/configuration.md names every setting with its true default and no other, and says truly what is refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from app.__main__ import main
from app.settings import BackendSettings, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(CAISSON_[A-Z_]+)` \| (.*?) \|", re.MULTILINE)
WITHOUT_FIELD = {"CAISSON_CONFIG_FILE", "CAISSON_LOG_JSON"}


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """The variable of every field, sections included, and its default as the page writes it."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        annotation = str(field.annotation)
        if name == "backends":
            yield from _settings(BackendSettings, f"{variable}__LOCAL__")
        elif re.search(r"app\.settings\.\w+Settings\b", annotation):
            section = next(
                kind
                for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
            yield from _settings(section, f"{variable}__")
        else:
            required = field.is_required()
            yield variable, "–" if required else _written(field.get_default(call_default_factory=True))


def _written(default: object) -> str:
    if default is None:
        return "–"
    if default == "":
        return "empty"
    assert not isinstance(default, SecretStr)
    return f"`{json.dumps(default) if isinstance(default, bool | list) else default}`"


def test_every_setting_is_on_the_page_with_its_default() -> None:
    assert dict(ROW.findall(PAGE.read_text())) == dict(_settings(Settings, "CAISSON_"))


def test_the_page_names_no_variable_that_is_not_there() -> None:
    named = set(re.findall(r"CAISSON_[A-Z_]+", PAGE.read_text()))
    assert named - WITHOUT_FIELD == {variable for variable, _ in _settings(Settings, "CAISSON_")}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "CAISSON_CONFIG_FILE {file}: No such file or directory"),
        ("port = ", "CAISSON_CONFIG_FILE {file}: Invalid value (at end of document)"),
        ("colour = 1", "setting colour: Extra inputs are not permitted"),
        ("[keystone]\nurll = 1", "setting keystone.urll: Extra inputs are not permitted"),
        ("[keystone]\nurl = 'http://k/v3'", "setting keystone: Value error, keystone needs username and password, or"),
        ("wire_ranges = ['10.0.0.1/8']", "setting wire_ranges.0: Value error, 10.0.0.1/8 has host bits set"),
        ("port = 70000", "setting port: Input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_setting_is_named_in_a_line(
    written: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "caisson.toml"
    if written is not None:
        file.write_text(written)
    monkeypatch.setenv("CAISSON_CONFIG_FILE", str(file))
    assert main(["check"]) == 2
    assert said.format(file=file) in capsys.readouterr().err


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "caisson.toml"
    file.write_text('port = 9600\navailability_zone = "here"\n[backends.local]\nurl = "unix:///engine.sock"\n')
    monkeypatch.setenv("CAISSON_CONFIG_FILE", str(file))
    monkeypatch.setenv("CAISSON_PORT", "9601")
    monkeypatch.setenv("CAISSON_BACKENDS__LOCAL__CONCURRENCY", "3")
    settings = Settings()
    assert (settings.port, settings.availability_zone) == (9601, "here")
    assert settings.backends == {"local": BackendSettings(url="unix:///engine.sock", concurrency=3)}

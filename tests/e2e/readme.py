"""The README's commands, by the heading they stand under."""

import re
from collections.abc import Mapping

from tests.stack.session import ROOT


def headings() -> list[str]:
    """Every heading with shell commands under it."""
    return list(_scripts())


def script(heading: str, instead: Mapping[str, str]) -> str:
    """All commands under one heading as one script, with the values of `instead` in the place of its keys."""
    text = _scripts()[heading]
    for words, others in instead.items():
        assert words in text, f"{words} is not in the commands under {heading}"
        text = text.replace(words, others)
    return text


def _scripts() -> dict[str, str]:
    found: dict[str, str] = {}
    for section in re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        if blocks := re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
            found[section.splitlines()[0]] = "".join(blocks)
    return found

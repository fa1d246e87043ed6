"""What the real Zun 18 and the real Magnum 23 answered, asked again of Caisson.

``zun/requests.jsonl``, ``zun/life.jsonl`` and ``magnum/calls.jsonl`` hold recorded calls, one a line, in the order
asked. Ids, times, hosts and the words of errors are our own; status, contract headers, error codes and the shape of
bodies are not.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).parent
RECORDED_IMAGE = "127.0.0.1:15000/tp:1"
RECORDED_UUID = "71abaaf5-b99e-48b6-9474-dcf7e3b5106a"
HEADERS = ("openstack-api-version", "openstack-api-minimum-version", "openstack-api-maximum-version")
PRESENT = ("location", "www-authenticate", "vary")

FREE_MAPS = frozenset({"environment", "labels", "addresses", "restart_policy", "healthcheck"})
"""Fields whose keys are the user's, or ids."""

AS_IT_HAPPENS = frozenset({"status_reason", "status_detail", "task_state", "updated_at", "finish_time", "message"})
"""Fields that are null or not as time goes by."""


@dataclass(frozen=True)
class Call:
    """One recorded call. `who` is a caller's role, None for no token, anything else a token itself. `status` is None
    where Zun's process failed without an answer."""

    name: str
    who: str | None
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int | None
    answer_headers: dict[str, str]
    answer: Any

    @property
    def code(self) -> str | None:
        """The error's code, None when it was no error in the envelope."""
        errors = self.answer.get("errors") if isinstance(self.answer, dict) else None
        return errors[0]["code"] if errors else None

    def content(self, image: str) -> bytes | None:
        """The request's body, with an image that is there."""
        if self.body is None:
            return None
        text = self.body["_raw"] if isinstance(self.body, dict) and "_raw" in self.body else json.dumps(self.body)
        return str(text).replace(RECORDED_IMAGE, image).encode()


def recorded(part: str, api: str = "zun") -> Iterator[Call]:
    """The calls of one file."""
    for line in (FOLDER / api / f"{part}.jsonl").read_text().splitlines():
        fields = json.loads(line)
        yield Call(**{name: fields.get(name) for name in Call.__dataclass_fields__})


def differences(call: Call, answer: httpx.Response, loose: Collection[str] = ()) -> list[str]:
    """Where an answer is not what the recorded one was; empty when it agrees. `loose` fields may be null or not."""
    found = []
    if answer.status_code != call.status:
        return [f"status {answer.status_code} instead of {call.status}"]
    for name in HEADERS:
        if name in call.answer_headers and answer.headers.get(name) != call.answer_headers[name]:
            found.append(f"{name}: {answer.headers.get(name)} instead of {call.answer_headers[name]}")
    found += [f"no header {name}" for name in PRESENT if name in call.answer_headers and name not in answer.headers]
    if "_text" in (call.answer or {}) if isinstance(call.answer, dict) else False:
        return found
    body = answer.json()
    if call.code is not None:
        error = body["errors"][0]
        if error["code"] != call.code:
            found.append(f"code {error['code']} instead of {call.code}")
        if not error["title"]:
            found.append("no title")
    return found + list(_shape("", call.answer, body, AS_IT_HAPPENS | {"errors", *loose}))


def _shape(where: str, theirs: Any, ours: Any, loose: Collection[str]) -> Iterator[str]:
    name = where.rpartition(".")[2]
    if name in loose:
        return
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if name in FREE_MAPS:
            return
        for key in theirs.keys() ^ ours.keys():
            yield f"{where}.{key} is {'missing' if key in theirs else 'new'}"
        for key in theirs.keys() & ours.keys():
            yield from _shape(f"{where}.{key}", theirs[key], ours[key], loose)
    elif isinstance(theirs, list) and isinstance(ours, list):
        if theirs and ours:
            yield from _shape(where, theirs[0], ours[0], loose)
    elif _kind(theirs) != _kind(ours):
        yield f"{where} is {_kind(ours)} instead of {_kind(theirs)}"


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__

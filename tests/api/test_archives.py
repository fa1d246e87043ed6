"""Files in and out of containers."""

import base64
import io
import json
import tarfile
from typing import Any
from uuid import UUID

import pytest

from app.archives import one_file
from tests.api.caisson import Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


def encoded(path: str = "note.txt", content: bytes = b"hello\n") -> str:
    return base64.b64encode(one_file(path, content)).decode()


def at(box: dict[str, Any], verb: str, path: str = "/tmp") -> str:
    return f"/v1/containers/{box['uuid']}/{verb}?path={path}"


@pytest.mark.parametrize("version", ["container 1.25", "container 1.40", "container 1.24", "container 1.1"])
async def test_a_file_goes_in_and_comes_out(caisson: Caisson, version: str) -> None:
    box = await caisson.made(run=True)
    data = encoded() if version >= "container 1.25" else one_file("note.txt", b"hello\n").decode()
    answer = await caisson.call("POST", at(box, "put_archive"), {"data": data}, version=version)
    assert (answer.status_code, answer.json()) == (200, None)
    found = await caisson.ok("GET", at(box, "get_archive", "/tmp/note.txt"), version=version)
    assert set(found) == {"data", "stat"}
    assert set(found["stat"]) == {"name", "size", "mode", "mtime", "linkTarget"}
    assert (found["stat"]["name"], found["stat"]["size"], found["stat"]["mode"]) == ("note.txt", 6, 0o644)
    raw = base64.b64decode(found["data"]) if version >= "container 1.25" else found["data"].encode()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        content = tar.extractfile("note.txt")
        assert content is not None
        assert content.read() == b"hello\n"
    assert await caisson.actions(box["uuid"]) == (await caisson.actions(box["uuid"]))[:1]


async def test_path_and_data_in_the_body(caisson: Caisson) -> None:
    box = await caisson.made()
    await caisson.ok("POST", f"/v1/containers/{box['uuid']}/put_archive", {"path": "/tmp", "data": encoded()})
    await caisson.ok("GET", at(box, "get_archive", "/tmp/note.txt"))


@pytest.mark.parametrize("verb", ["get_archive", "put_archive"])
@pytest.mark.parametrize("path", ["/nowhere", "/tmp/nowhere"])
async def test_a_path_that_is_not_there(caisson: Caisson, verb: str, path: str) -> None:
    box = await caisson.made()
    method, body = ("GET", None) if verb == "get_archive" else ("POST", {"data": encoded()})
    assert path in error_of(await caisson.call(method, at(box, verb, path), body), 400, "invalid-value")["title"]
    assert (await caisson.show(box["uuid"]))["status"] == "Created"


@pytest.mark.parametrize("verb", ["get_archive", "put_archive"])
async def test_a_container_that_is_gone(caisson: Caisson, verb: str) -> None:
    box = await caisson.made()
    caisson.engine.vanish(UUID(box["uuid"]))
    method, body = ("GET", None) if verb == "get_archive" else ("POST", {"data": encoded()})
    error_of(await caisson.call(method, at(box, verb), body), 409, "conflict")


@pytest.mark.parametrize(
    ("query", "body", "word"),
    [
        ("", {"data": ""}, "path"),
        ("?path=", {"data": ""}, "path"),
        ("?path=/tmp", {}, "data"),
        ("?path=/tmp", {"data": 5}, "data"),
        ("?path=/tmp", {"data": "$"}, "base64"),
        ("?path=/tmp", {"data": base64.b64encode(b"no tar").decode()}, "tar"),
        ("?path=/tmp", {"data": encoded("a/../../b")}, "a/../../b"),
        ("?path=/tmp", {"data": encoded(), "path": "/"}, "path"),
        ("?path=/tmp", {"data": encoded(), "other": 1}, "other"),
        ("?path=/tmp&data=x", {"data": encoded()}, "data"),
        ("?path=/tmp", [], "object"),
    ],
)
async def test_what_is_wrong_is_named(caisson: Caisson, query: str, body: Any, word: str) -> None:
    box = await caisson.made()
    before = caisson.engine.calls["put_archive"]
    answer = await caisson.call("POST", f"/v1/containers/{box['uuid']}/put_archive{query}", body)
    assert answer.status_code == 400
    assert word in answer.json()["errors"][0]["title"]
    assert caisson.engine.calls["put_archive"] == before


async def test_archives_have_a_limit_of_their_own(caisson: Caisson) -> None:
    box = await caisson.made()
    general, most = caisson.settings.max_body_bytes, caisson.settings.max_archive_bytes
    await caisson.ok("POST", at(box, "put_archive"), {"data": encoded(content=b"x" * 2 * general)})
    answer = await caisson.call("POST", at(box, "put_archive"), {"data": encoded(content=b"x" * most)})
    assert str(most) in error_of(answer, 413, "request-too-large")["title"]
    for name in ("one", "two"):
        content = b"x" * (most * 6 // 10)
        await caisson.ok("POST", at(box, "put_archive"), {"data": encoded(name, content)})
    await caisson.ok("GET", at(box, "get_archive", "/tmp/one"))
    error_of(await caisson.call("GET", at(box, "get_archive")), 413, "request-too-large")
    beyond = json.dumps({"data": "x" * (3 * most)}).encode()
    error_of(await caisson.call("POST", at(box, "put_archive"), raw=beyond), 413, "request-too-large")


async def test_old_versions_have_no_form_for_bytes(caisson: Caisson) -> None:
    box = await caisson.made()
    await caisson.ok("POST", at(box, "put_archive"), {"data": encoded(content=b"\xff\xfe")})
    answer = await caisson.call("GET", at(box, "get_archive", "/tmp/note.txt"), version="container 1.24")
    assert "1.25" in error_of(answer, 400, "invalid-value")["title"]

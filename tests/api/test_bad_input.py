"""Malformed requests of every kind: a 4xx that names the field and the limit, and nothing stored."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.routers.containers import FILTERS, ContainerCreate
from tests.api.caisson import BUSY, Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = "schema-validation-error"

# Field, value, and words that the title must have: the field, and the limit where there is one.


def each(field: str, words: list[str], *values: Any) -> list[tuple[str, Any, list[str]]]:
    return [(field, value, words) for value in values]


PORTS = ("x", "0", "65536", "80/icmp", "80/tcp\n", "٨٠", "", "8 0")
BAD_FIELDS: list[tuple[str, Any, list[str]]] = [
    *each("image", ["image"], None, 5, ["x"], {"a": 1}, True, "--", "bad name!", "UPPER", "a:b:c"),
    ("image", "a", ["image", "2"]),
    ("image", "i" * 256, ["image", "255"]),
    ("image", "busybox\n", ["image"]),
    ("image", "host.example:port/x1", ["image"]),
    *each("name", ["name"], 5, ["x"], {}, True, "bad name!", "-lead", "nämé", "new\nline", "end\n"),
    ("name", "a", ["name", "2"]),
    ("name", "n" * 256, ["name", "255"]),
    *each("command", ["command"], "echo hi", 5, {"a": 1}, [["a"]], [None], [True], [{}]),
    ("command", ["x"] * 5000, ["command", "4096"]),
    *each("entrypoint", ["entrypoint"], "sh", 5, {}),
    ("entrypoint", [1], ["0"]),
    *each("cpu", ["cpu"], "x", "", ".", "1.2.3", "-1", "1e3", "٣", True, [], {}, "9" * 40, 10**400),
    *each("cpu", ["cpu", "0.1", "16.0", "cores"], 0, 0.09, 16.1, 1e300, "17"),
    *each("memory", ["memory"], "100m", "", "1.5", 1.5, "-1", "٣", True, [], {}, "9" * 40),
    *each("memory", ["memory", "4", "8192", "MiB"], 0, 3, 8193, "8193", 10**30),
    *each("disk", ["disk"], "x", 1.5, True, [], {}, "9" * 40),
    *each("disk", ["disk", "1", "160", "GiB"], 0, 161, "161", 10**30),
    ("cpu_policy", "fast", ["cpu_policy", "dedicated", "shared"]),
    ("cpu_policy", None, ["cpu_policy"]),
    *each("workdir", ["workdir"], 5, [], {}, "w" * 70000),
    *each("environment", ["environment"], ["A=1"], "A=1", 5, True),
    ("environment", {"A": 1}, ["A"]),
    ("environment", {"A": None}, ["A"]),
    ("environment", {"A": ["x"]}, ["A"]),
    ("environment", {"": "x"}, ["environment"]),
    ("environment", {"A=B": "x"}, ["environment", "A=B"]),
    *each("labels", ["labels"], ["A=1"], "A=1", 5, {"a": None}, {"a": []}, {"a": {}}, {"": "x"}),
    ("labels", {"caisson.uuid": "x"}, ["labels", "caisson."]),
    *each("interactive", ["interactive", "true"], None, 1, "maybe", [], "1"),
    *each("tty", ["tty"], None, 1, "maybe", []),
    *each("auto_heal", ["auto_heal"], None, 1, "maybe", {}),
    *each("auto_remove", ["auto_remove"], "true", 1, [], {}),
    *each("image_pull_policy", ["image_pull_policy", "always"], "sometimes", 5, []),
    *each("image_driver", ["image_driver", "docker"], "floppy", 5, []),
    *each("restart_policy", ["restart_policy"], "always", 5, []),
    ("restart_policy", {}, ["Name"]),
    ("restart_policy", {"Name": "sometimes"}, ["Name", "on-failure"]),
    ("restart_policy", {"Name": "always", "bogus": 1}, ["bogus"]),
    ("restart_policy", {"Name": "on-failure", "MaximumRetryCount": "x"}, ["MaximumRetryCount"]),
    ("restart_policy", {"Name": "on-failure", "MaximumRetryCount": -1}, ["MaximumRetryCount"]),
    ("restart_policy", {"Name": "on-failure", "MaximumRetryCount": 10**30}, ["MaximumRetryCount", "2147483647"]),
    ("restart_policy", {"Name": "always", "MaximumRetryCount": 2}, ["retry count", "always"]),
    ("restart_policy", {"Name": "unless-stopped", "MaximumRetryCount": "1"}, ["retry count", "unless-stopped"]),
    *each("runtime", ["runtime"], 5, [], {}),
    *each("hostname", ["hostname"], None, 5, [], "bad host!", "h_\n"),
    ("hostname", "", ["hostname", "1"]),
    ("hostname", "h" * 64, ["hostname", "63"]),
    *each("privileged", ["privileged"], None, "maybe", []),
    *each("healthcheck", ["healthcheck"], "true", 5, []),
    ("healthcheck", {"interval": 5}, ["cmd"]),
    ("healthcheck", {"cmd": 5}, ["cmd"]),
    ("healthcheck", {"cmd": None}, ["cmd"]),
    ("healthcheck", {"cmd": "x", "interval": "abc"}, ["interval"]),
    ("healthcheck", {"cmd": "x", "timeout": -1}, ["timeout"]),
    ("healthcheck", {"cmd": "x", "retries": 10**30}, ["retries", "2147483647"]),
    ("healthcheck", {"cmd": "x", "interval": 10**10}, ["interval", "86400"]),
    ("healthcheck", {"cmd": "x", "bogus": 1}, ["bogus"]),
    *each("security_groups", ["security_groups"], "default", 5, {}),
    ("security_groups", [5], ["0"]),
    ("security_groups", [""], ["0", "1"]),
    ("security_groups", ["g" * 256], ["0", "255"]),
    ("security_groups", ["nope"], ["nope"]),
    *each("exposed_ports", ["exposed_ports"], "80", 5, [80]),
    *each("exposed_ports", ["publish port"], *({key: {}} for key in PORTS)),
    ("exposed_ports", {"80": 8080}, ["80"]),
    ("exposed_ports", {"80": {"bogus": 1}}, ["80", "host_port"]),
    ("exposed_ports", {"80": {"host_port": "x"}}, ["80", "host_port"]),
    ("exposed_ports", {"80": {"host_port": True}}, ["80", "host_port"]),
    *each("nets", ["nets"], "project", 5, {}),
    ("nets", [5], ["0"]),
    ("nets", [{}], ["network", "port"]),
    ("nets", [{"network": "project", "port": "p"}], ["network", "port"]),
    ("nets", [{"network": ""}], ["network", "1"]),
    ("nets", [{"network": "n" * 256}], ["network", "255"]),
    ("nets", [{"network": "project", "bogus": 1}], ["bogus"]),
    ("nets", [{"network": "project", "v4-fixed-ip": "10.0.0.1"}], ["nets", "10.0.0.1"]),
    ("nets", [{"network": "project"}, {"network": "project"}], ["nets"]),
    *each("mounts", ["mounts"], "v", 5, {}),
    ("mounts", [{"source": "x"}], ["destination"]),
    ("mounts", [{"destination": "/x"}], ["source", "size"]),
    ("mounts", [{"destination": "/x", "size": "big"}], ["size"]),
    ("mounts", [{"destination": "/x", "size": 1, "bogus": 1}], ["bogus"]),
    *each("hints", ["hints"], "x", 5, []),
    *each("availability_zone", ["availability_zone"], 5, [], {}),
    ("availability_zone", "", ["availability_zone", "1"]),
    ("availability_zone", "z" * 256, ["availability_zone", "255"]),
    *each("registry", ["registry"], None, 5, [], "r", "bad name"),
    *each("host", ["host"], None, 5, [], "bad host!"),
    ("host", "h" * 256, ["host", "255"]),
    ("bogus", 1, ["bogus"]),
    ("Image", "x", ["Image"]),
    ("__class__", "x", ["__class__"]),
    ("", "x", ["''"]),
]  # fmt: skip
REFUSED_OTHERWISE = [
    ({"nets": [{"network": "nope"}]}, 404, "network-not-found", ["nope"]),
    ({"nets": [{"port": "nope"}]}, 404, "port-not-found", ["nope"]),
    ({"registry": "nope"}, 404, "registry-not-found", ["nope"]),
    ({"mounts": [{"source": "v", "destination": "/v"}]}, 404, "volume-not-found", ["v"]),
    ({"image_driver": "glance"}, 501, "unsupported", ["glance", "docker"]),
    ({"cpu_policy": "dedicated", "cpu": 0.5}, 400, "invalid-value", ["cpu_policy", "0.5"]),
    ({"cpu_policy": "dedicated", "cpu": 2}, 409, "conflict", ["cpu_policy", "2 dedicated cores"]),
    ({"restart_policy": {"Name": "always"}, "auto_remove": True}, 400, "invalid-value", ["auto_remove", "always"]),
    ({"security_groups": ["default"], "exposed_ports": {"80": {}}}, 400, "invalid-value", ["exposed_ports"]),
]


async def test_bad_fields(caisson: Caisson) -> None:
    wrong = []
    for field, value, words in BAD_FIELDS:
        who = "admin" if field == "host" else "member"
        answer = await caisson.call("POST", "/v1/containers", {"image": BUSY} | {field: value}, who=who)
        if answer.status_code != 400:
            wrong.append(f"{field}={value!r:.60}: {answer.status_code} {answer.text[:200]}")
            continue
        title = error_of(answer, 400, answer.json()["errors"][0]["code"].removeprefix("container."))["title"]
        if missing := [word for word in words if word not in title]:
            wrong.append(f"{field}={value!r:.60}: no {missing} in {title!r:.300}")
        assert len(title) <= 2000
        assert title.isprintable()
    assert wrong == [], "\n".join(wrong)
    await caisson.nothing_stored()


async def test_every_field_was_tried() -> None:
    assert ContainerCreate.model_fields.keys() - {field for field, _, _ in BAD_FIELDS} == set()


@pytest.mark.parametrize(("fields", "status", "code", "words"), REFUSED_OTHERWISE)
async def test_refusals_of_other_kinds(
    caisson: Caisson, fields: dict[str, Any], status: int, code: str, words: list[str]
) -> None:
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY} | fields)
    title = error_of(answer, status, code)["title"]
    assert [word for word in words if word not in title] == []
    await caisson.nothing_stored()


async def test_an_image_is_required(caisson: Caisson) -> None:
    error = error_of(await caisson.call("POST", "/v1/containers", {}), 400, SCHEMA)
    assert error["title"] == "'image' is a required property"
    await caisson.nothing_stored()


@pytest.mark.parametrize("query", ["run=maybe", "run=", "run=2", "bogus=1", "run=1&image=x", "all_projects=1"])
async def test_bad_queries_of_create(caisson: Caisson, query: str) -> None:
    answer = await caisson.call("POST", f"/v1/containers?{query}", {"image": BUSY})
    assert answer.status_code == 400
    await caisson.nothing_stored()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"null", b"[]", b"5", b'"text"', b"true", b"{not json", b'{"image": "busybox"', b"{'image': 'x'}",
        b'{"image": "busybox",}', b"\xff\xfe\x00", b"\x80", b'{"image": "\xff"}', b'{"image": NaN}', b"[" * 100_000,
        b'{"image":' * 50_000, b'{"a":' * 400 + b"1" + b"}" * 400, b"[" * 900 + b"]" * 900,
        b'{"image": ' + b"9" * 5000 + b"}", b'{"image": 1e999}', b'{"image": "a\tb"}', b"\xef\xbb\xbf{}",
        '{"image": "busybox"}'.encode("utf-16"), '{"image": "busybox"}'.encode("utf-32"),
    ],
    ids=lambda raw: repr(raw[:30]),
)  # fmt: skip
async def test_bodies_that_are_no_object(caisson: Caisson, raw: bytes) -> None:
    for path in ("/v1/containers", "/v1/registries"):
        error_of(await caisson.call("POST", path, raw=raw), 400, SCHEMA)
    error_of(await caisson.call("PATCH", "/v1/registries/nope", raw=raw), 400, SCHEMA)
    error_of(await caisson.call("POST", "/v1/images", raw=raw, who="admin"), 400, SCHEMA)
    await caisson.nothing_stored()


async def test_a_body_given_twice_over_is_read_as_json_reads_it(caisson: Caisson) -> None:
    made = await caisson.call("POST", "/v1/containers", raw=b'{"image": "nope", "image": "busybox"}')
    assert made.json()["image"] == "busybox"


DEEP = {"a": None}
for _ in range(850):
    DEEP = {"a": DEEP}  # type: ignore[dict-item]  # deeper and deeper


@pytest.mark.parametrize(
    "field", ["hints", "labels", "command", "environment", "image", "healthcheck", "bogus", "nets"]
)
async def test_deep_nesting_breaks_nothing(caisson: Caisson, field: str) -> None:
    value: Any = [DEEP] if field in ("command", "nets") else {"k": DEEP} if field in ("labels", "environment") else DEEP
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY} | {field: value})
    assert answer.status_code == (202 if field == "hints" else 400)


@pytest.mark.parametrize(
    "kind",
    [
        None, "", "text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/form-data",
        "application/jsonx", "text/json", "application/vnd.api+json", "application", "/", ";", "\xff",
    ],
)  # fmt: skip
async def test_wrong_content_types(caisson: Caisson, kind: str | None) -> None:
    for path in ("/v1/containers", "/v1/images", "/v1/registries"):
        headers = [(b"X-Auth-Token", (await caisson.token("admin")).encode())]
        headers += [] if kind is None else [(b"Content-Type", kind.encode("latin-1"))]
        client = caisson.running.client
        answer = await client.post(path, headers=headers, content=json.dumps({"image": BUSY}).encode())
        assert "application/json" in error_of(answer, 415, "unsupported-media-type")["title"]
    await caisson.nothing_stored()


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ; x=y"])
async def test_right_content_types(caisson: Caisson, kind: str) -> None:
    raw = json.dumps({"image": BUSY}).encode()
    answer = await caisson.call("POST", "/v1/containers", raw=raw, headers={"Content-Type": kind})
    assert answer.status_code == 202


# Sizes


async def test_a_body_over_the_limit(caisson: Caisson) -> None:
    limit = caisson.settings.max_body_bytes
    fits = json.dumps({"image": BUSY, "hints": {"a": ""}})
    fits = fits.replace('""', '"' + "x" * (limit - len(fits)) + '"')
    assert len(fits) == limit
    assert (await caisson.call("POST", "/v1/containers", raw=fits.encode())).status_code == 202
    for path, method in (("/v1/containers", "POST"), ("/v1/containers/x/stop", "POST"), ("/v1/registries/x", "PATCH")):
        answer = await caisson.call(method, path, raw=fits.encode() + b" ")
        assert str(limit) in error_of(answer, 413, "request-too-large")["title"]
        assert answer.headers["openstack-api-version"] == "container 1.40"
    for path in ("/v1/containers", "/identity/v3/auth/tokens"):
        headers = {"X-Auth-Token": await caisson.token("member"), "Content-Type": "application/json"}
        answer = await caisson.running.client.post(path, headers=headers, content=endless(limit))
        assert answer.status_code == 413


async def endless(limit: int) -> AsyncIterator[bytes]:
    """A body without a length. Whoever reads on after the limit finds out."""
    for _ in range(limit // 1000 + 1000):
        yield b" " * 1000
    raise AssertionError("the whole body was read")


# Text that cannot be stored


SPOILT = ["\0", "\ud800", "\udfff", "a\0b", "ok\ud83d"]


def escaped(body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize("text", SPOILT, ids=ascii)
async def test_nul_and_halves_of_pairs_in_bodies(caisson: Caisson, text: str) -> None:
    good: dict[str, Any] = {"image": BUSY}
    bodies: list[dict[str, Any]] = [
        *({field: text} for field in ("image", "name", "workdir", "hostname", "availability_zone", "registry", "host")),
        *({field: [text]} for field in ("command", "entrypoint", "security_groups")),
        *({field: {"k": text}} for field in ("environment", "labels", "hints")),
        *({field: {text: "v"}} for field in ("environment", "labels", "hints", "exposed_ports")),
        {"healthcheck": {"cmd": text}},
        {"nets": [{"network": text}]},
        {"mounts": [{"source": text, "destination": text}]},
        {"restart_policy": {"Name": text}},
        {text: "v"},
        {"hints": {"deep": [[{"k": [text]}]]}},
    ]
    for body in bodies:
        answer = await caisson.call("POST", "/v1/containers", raw=escaped(good | body))
        assert "Unicode" in error_of(answer, 400, SCHEMA)["title"]
    for fields in (
        {"domain": text},
        {"domain": "d", "name": text},
        {"domain": "d", "username": text, "password": text},
    ):
        for method, path in (("POST", "/v1/registries"), ("PATCH", "/v1/registries/x")):
            error_of(await caisson.call(method, path, raw=escaped({"registry": fields})), 400, SCHEMA)
    for path, sent in (("execute", {"command": text}), ("kill", {"signal": text}), ("stop", {"timeout": text})):
        error_of(await caisson.call("POST", f"/v1/containers/x/{path}", raw=escaped(sent)), 400, SCHEMA)
    sent = {"repo": text, "host": text}
    error_of(await caisson.call("POST", "/v1/images", raw=escaped(sent), who="admin"), 400, SCHEMA)
    await caisson.nothing_stored()


async def test_the_field_with_unstorable_text_is_named(caisson: Caisson) -> None:
    answer = await caisson.call("POST", "/v1/containers", raw=escaped({"image": BUSY, "environment": {"KEY": "\0"}}))
    assert "'KEY'" in error_of(answer, 400, SCHEMA)["title"]


async def test_what_only_looks_like_nul_is_text(caisson: Caisson) -> None:
    """A backslash, u0000: four characters more than none. And pairs that belong together."""
    command = ["sleep", "\\u0000", "\\ud800", "🐳", "\u2028"]
    made = await caisson.made(command=command, environment={"🐳": "\\u0000"})
    assert made["command"] == command
    assert made["environment"] == {"🐳": "\\u0000"}


@pytest.mark.parametrize("text", ["%00", "a%00b", "%00%00"])
async def test_nul_in_paths_and_queries(standing: Caisson, text: str) -> None:
    asked = [
        ("GET", f"/v1/containers/{text}"), ("DELETE", f"/v1/containers/{text}"), ("POST", f"/containers/{text}/start"),
        ("GET", f"/v1/containers/{text}/logs"), ("GET", f"/v1/containers/x/container_actions/{text}"),
        ("GET", f"/v1/registries/{text}"), ("GET", f"/v1/images/{text}"), ("GET", f"/v1/images/{text}/search"),
        ("GET", f"/containers/{text}"), ("GET", f"/container/v1/containers/{text}"), ("GET", f"/v1/{text}"),
        ("GET", f"/{text}"),
        *(("GET", f"/v1/containers?{name}={text}") for name in (*FILTERS, "marker", "limit", "all_projects", "expand")),
        *(("GET", f"/v1/registries?{name}={text}") for name in ("name", "domain", "username", "project_id", "marker")),
        ("GET", f"/v1/containers?{text}=1"), ("POST", f"/v1/containers/x/kill?signal={text}"),
        ("GET", f"/v1/containers/x/top?ps_args={text}"), ("GET", f"/v1/containers/x/logs?since={text}"),
        ("POST", f"/v1/containers/x/execute?command={text}"), ("DELETE", f"/v1/containers/x?force={text}"),
    ]  # fmt: skip
    for method, path in asked:
        answer = await standing.call(method, path)
        assert answer.status_code == 400, (method, path, answer.text)
        assert "Unicode" in answer.json()["errors"][0]["title"]
        assert (await standing.call(method, path, who="admin")).status_code == 400


@pytest.mark.parametrize("text", ["%FF", "%ED%A0%80", "%C0%80", "%F4%90%80%80", "%80", "%"])
async def test_bytes_that_are_no_text_in_paths_and_queries(standing: Caisson, text: str) -> None:
    for path in (f"/v1/containers/{text}", f"/v1/registries/{text}", f"/v1/containers/{text}/logs"):
        assert (await standing.call("GET", path)).status_code == 404
    for query in (f"name={text}", f"image={text}", f"status={text}"):
        assert (await standing.ok("GET", f"/v1/containers?{query}"))["containers"] == []


@pytest.mark.parametrize("number", ["9" * 30, "9" * 5000, "-1", "1e400", "0x10", "١"])
async def test_huge_and_strange_numbers_in_queries(standing: Caisson, number: str) -> None:
    for path in ("containers?limit=", "containers?memory=", "containers/x/stop?timeout=", "registries?limit="):
        method = "POST" if "stop" in path else "GET"
        answer = await standing.call(method, f"/v1/{path}{number}")
        assert answer.status_code in (200, 400), (path, answer.text)
        assert answer.status_code == 400 or ("limit" in path and number.isascii() and number.isdigit())


# Everything at once

PATH_WORDS = ("v1", "containers", "container", "images", "registries", "x", "start", "logs", "search", "", "..")
QUERY_WORDS = ("limit", "marker", "name", "run", "signal", "tail")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(ContainerCreate.model_fields)) | st.text(max_size=8), JSON, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fields=FIELDS,
    minor=st.integers(1, 40),
    query=st.sampled_from(["", "?run=1", "?run=x"]),
    who=st.sampled_from(["member", "admin"]),
)
async def test_any_json_is_accepted_or_refused(
    caisson: Caisson, fields: dict[str, Any], minor: int, query: str, who: str
) -> None:
    body = {"image": "127.0.0.1:1/never/there", **fields}
    answer = await caisson.call("POST", f"/v1/containers{query}", body, version=f"container 1.{minor}", who=who)
    assert answer.status_code in (202, 400, 403, 404, 501)
    if answer.status_code != 202:
        error_of(answer, answer.status_code, answer.json()["errors"][0]["code"].removeprefix("container."))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.lists(st.sampled_from(PATH_WORDS) | st.text(max_size=6), max_size=5),
    query=st.dictionaries(st.sampled_from(QUERY_WORDS) | st.text(max_size=5), st.text(max_size=8), max_size=3),
    method=st.sampled_from(["GET", "POST", "DELETE", "PATCH", "PUT"]),
    raw=st.none() | st.binary(max_size=40),
)  # fmt: skip
async def test_any_request_is_answered(
    standing: Caisson, path: list[str], query: dict[str, str], method: str, raw: bytes | None
) -> None:
    written = "/".join(quote(part.encode("utf-8", "replace"), safe="") for part in path)
    url = f"http://test/{written}?{urlencode(query, errors='replace')}"
    answer = await standing.call(method, url, raw=raw)
    assert answer.status_code < 500 or answer.status_code in (501, 503)
    assert "x-openstack-request-id" in answer.headers


async def test_many_refusals_at_once(caisson: Caisson) -> None:
    """Refusals share nothing that one of them could spoil for another."""
    bodies = [{"image": BUSY} | {field: value} for field, value, _ in BAD_FIELDS if field != "host"]
    await caisson.token("member")
    answers = await asyncio.gather(*(caisson.call("POST", "/v1/containers", body) for body in bodies))
    assert {answer.status_code for answer in answers} == {400}
    assert (await caisson.call("POST", "/v1/containers", {"image": BUSY})).status_code == 202

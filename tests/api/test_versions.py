"""Microversions at the edge: every form of the header, the headers of every answer, and what each version gates."""

from typing import Any

import httpx
import pytest

from app.versions import MAXIMUM
from tests.api.caisson import BUSY, Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEADER = "openstack-api-version"

ACCEPTED = {  # zun-api, section 1.3, as real Zun answered
    None: 1,
    "container latest": 40,
    "container LATEST": 40,
    "container Latest": 40,
    "container 1.1": 1,
    "container 1.20": 20,
    "container 1.40": 40,
    "container 1.05": 5,
    "container  1.30": 30,
    "  container 1.30 ": 30,
    "compute latest": 40,
    # What SDKs send that know the service by the name of its type.
    "application-container 1.40": 40,
    "application-container latest": 40,
    # Several services in one header, as the microversion guideline has it.
    "compute 2.1, container 1.12": 12,
    "container 1.12, compute 2.1": 12,
}
WRONG_SERVICE = (
    "compute 1.1",
    "1.5",
    "",
    " ",
    ",",
    "container",
    "latest",
    "container 1.1 1.2",
    "Container 1.1",
    "€ 1.1",
)
WRONG_VALUE = (
    "container 1", "container abc", "container 1.latest", "container -1.1", "container 1.-1", "container 1.1.1",
    "container 1.", "container .1", "container 1.١", "container 0x1.1", "container 1e0.1", "container " + "9" * 5000,
)  # fmt: skip
OUT_OF_RANGE = (
    "container 1.41",
    "container 1.0",
    "container 2.0",
    "container 0.1",
    "container 1.9999",
    "container 9.40",
)


def check_headers(answer: httpx.Response, minor: int) -> None:
    assert answer.headers[HEADER] == f"container 1.{minor}"
    assert answer.headers["openstack-api-minimum-version"] == "container 1.1"
    assert answer.headers["openstack-api-maximum-version"] == "container 1.40"
    assert answer.headers["vary"] == "OpenStack-API-Version"


@pytest.mark.parametrize("header", ACCEPTED)
async def test_a_version_is_chosen(standing: Caisson, header: str | None) -> None:
    answer = await standing.call("GET", "/v1/containers", version=header)
    assert answer.status_code == 200
    check_headers(answer, ACCEPTED[header])


@pytest.mark.parametrize("minor", range(1, MAXIMUM + 1))
async def test_every_version_is_served(standing: Caisson, minor: int) -> None:
    answer = await standing.call("GET", "/v1/containers", version=f"container 1.{minor}")
    assert answer.json().keys() == {"containers", "next"}
    check_headers(answer, minor)


async def _with_header(standing: Caisson, *values: str) -> httpx.Response:
    headers = [(b"X-Auth-Token", (await standing.token("member")).encode())]
    headers += [(HEADER.encode(), value.encode("utf-8")) for value in values]
    return await standing.running.client.get("/v1/containers", headers=headers)


@pytest.mark.parametrize("header", WRONG_SERVICE)
async def test_another_service_is_not_acceptable(standing: Caisson, header: str) -> None:
    answer = await _with_header(standing, header)
    error = error_of(answer, 406)
    assert error["title"] == "Not Acceptable"
    assert error["detail"] == "Invalid service type for OpenStack-API-Version header"
    check_headers(answer, 40)


@pytest.mark.parametrize("header", WRONG_VALUE)
async def test_what_is_no_version_is_not_acceptable(standing: Caisson, header: str) -> None:
    error = error_of(await _with_header(standing, header), 406)
    assert error["detail"] == "Invalid value for OpenStack-API-Version header"


@pytest.mark.parametrize("header", OUT_OF_RANGE)
async def test_a_version_out_of_range_is_told_the_range(standing: Caisson, header: str) -> None:
    answer = await _with_header(standing, header)
    error = error_of(answer, 406, "microversion-unsupported")
    assert error["title"] == "Requested microversion is unsupported"
    assert header.split()[1] in error["detail"]
    assert "1.1" in error["detail"]
    assert "1.40" in error["detail"]
    assert (error["min_version"], error["max_version"]) == ("1.1", "1.40")
    check_headers(answer, 40)


@pytest.mark.parametrize("values", [("container 1.5", "container 1.6"), ("compute 2.1", "container 1.5")])
async def test_a_header_given_twice_is_read_as_a_list(standing: Caisson, values: tuple[str, str]) -> None:
    answer = await _with_header(standing, *values)
    assert answer.status_code == 200
    check_headers(answer, 5)


async def test_bytes_that_are_no_text_are_not_acceptable(standing: Caisson) -> None:
    headers = [(b"X-Auth-Token", (await standing.token("member")).encode()), (HEADER.encode(), b"container \xff\xfe")]
    error_of(await standing.running.client.get("/v1/containers", headers=headers), 406)


async def test_the_token_is_asked_for_before_the_version(standing: Caisson) -> None:
    answer = await standing.call("GET", "/v1/containers", who=None, version="container 9.9")
    assert answer.status_code == 401
    assert HEADER not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/containers/nope", 404),
        ("GET", "/v1/nope", 404),
        ("PUT", "/v1/containers", 405),
        ("POST", "/v1/containers", 415),
        ("GET", "/v1/containers?limit=0", 400),
        ("GET", "/v1/images", 403),
    ],
)
async def test_errors_carry_the_version_too(standing: Caisson, method: str, path: str, status: int) -> None:
    answer = await standing.call(method, path, version="container 1.12")
    assert answer.status_code == status
    check_headers(answer, 12)


async def test_version_documents(standing: Caisson) -> None:
    root = await standing.call("GET", "/", who=None, version=None)
    version = {
        "id": "v1",
        "links": [{"href": "http://test/v1/", "rel": "self"}],
        "status": "CURRENT",
        "max_version": "1.40",
        "min_version": "1.1",
    }
    assert root.status_code == 200
    assert root.json()["versions"] == [version]
    assert root.json()["default_version"] == version
    assert root.json()["name"] == "OpenStack Zun API"
    assert HEADER not in root.headers

    for path in ("/v1", "/v1/"):
        answer = await standing.call("GET", path, who=None, version=None)
        assert answer.status_code == 200
        check_headers(answer, 1)
        document = answer.json()
        assert document["id"] == "v1"
        assert document["media_types"] == [
            {"base": "application/json", "type": "application/vnd.openstack.zun.v1+json"}
        ]
        assert document["containers"] == [
            {"href": "http://test/v1/containers/", "rel": "self"},
            {"href": "http://test/containers/", "rel": "bookmark"},
        ]
        assert set(document) == {
            "id", "media_types", "links", "services", "containers", "images", "networks", "hosts",
            "availability_zones", "capsules", "quotas", "quota_classes", "registries",
        }  # fmt: skip
    error_of(await standing.call("GET", "/v1", who=None, version="container 1.41"), 406, "microversion-unsupported")


# What versions gate. The second value is what is sent: it says something, so it is refused, not ignored.

FIELDS = {
    "auto_remove": (3, True),
    "hostname": (9, "h"),
    "healthcheck": (22, {"cmd": "true"}),
    "exposed_ports": (24, {"80/tcp": {}}),
    "mounts": (11, [{"source": "v", "destination": "/v"}]),
    "runtime": (5, "runc"),
    "privileged": (21, False),
    "registry": (31, "nope"),
}
UNKNOWN_BEFORE = {"host": (39, "fake-host"), "entrypoint": (40, ["echo"])}
# Refused for another reason at the version that has them: who asks may not, or nobody can.
NOT_ACCEPTED_HERE = {"mounts": 404, "runtime": 403, "privileged": 403, "registry": 404, "host": 403}


def _body(minor: int, **fields: Any) -> dict[str, Any]:
    return {"image": BUSY, "command": "sleep 1000" if minor < 20 else ["sleep", "1000"]} | fields


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_is_refused_before_its_version(caisson: Caisson, field: str) -> None:
    since, value = FIELDS[field]
    for minor in {1, since - 1}:
        answer = await caisson.call(
            "POST", "/v1/containers", _body(minor, **{field: value}), version=f"container 1.{minor}"
        )
        error = error_of(answer, 400, "invalid-param-in-version")
        assert field in error["title"]
        assert f"1.{minor}" in error["title"]
        assert f"1.{since}" in error["title"]
    await caisson.nothing_stored()
    answer = await caisson.call(
        "POST", "/v1/containers", _body(since, **{field: value}), version=f"container 1.{since}"
    )
    assert answer.status_code == NOT_ACCEPTED_HERE.get(field, 202), answer.text


@pytest.mark.parametrize("field", UNKNOWN_BEFORE)
async def test_a_field_is_unknown_before_its_version(caisson: Caisson, field: str) -> None:
    since, value = UNKNOWN_BEFORE[field]
    answer = await caisson.call(
        "POST", "/v1/containers", _body(since - 1, **{field: value}), version=f"container 1.{since - 1}"
    )
    error = error_of(answer, 400, "schema-validation-error")
    assert error["title"] == f"Additional properties are not allowed ('{field}' was unexpected)"
    await caisson.nothing_stored()
    answer = await caisson.call(
        "POST", "/v1/containers", _body(since, **{field: value}), version=f"container 1.{since}"
    )
    assert answer.status_code == NOT_ACCEPTED_HERE.get(field, 202), answer.text


@pytest.mark.parametrize("field", ["healthcheck", "exposed_ports", "mounts", "runtime"])
async def test_a_later_field_that_says_nothing_is_accepted(caisson: Caisson, field: str) -> None:
    answer = await caisson.call("POST", "/v1/containers", _body(1, **{field: None}), version="container 1.1")
    assert answer.status_code == 202, answer.text


async def test_the_command_is_a_string_until_1_19_and_a_list_from_1_20(caisson: Caisson) -> None:
    old: dict[str, Any] = {"version": "container 1.19"}
    refused: Any
    made = await caisson.ok("POST", "/v1/containers", {"image": BUSY, "command": "sh -c 'sleep 1000'"}, **old)
    assert made["command"] == ["sh", "-c", "sleep 1000"]
    for refused in (["sleep", "1"], 1, {"a": 1}, "an 'open quote"):
        answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "command": refused}, **old)
        assert "command" in error_of(answer, 400, "schema-validation-error")["title"]
    made = await caisson.ok("POST", "/v1/containers", {"image": BUSY, "command": None}, **old)
    assert made["command"] is None
    for refused in ("sleep 1", 1, {"a": 1}, [True], [["x"]], [None]):
        answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "command": refused})
        assert "command" in error_of(answer, 400, "schema-validation-error")["title"]
    made = await caisson.ok("POST", "/v1/containers", {"image": BUSY, "command": ["sleep", 1, 2.5]})
    assert made["command"] == ["sleep", "1", "2.5"]


@pytest.mark.parametrize(
    ("minor", "sent", "tty"),
    [
        (19, {"tty": True, "interactive": False}, True),
        (19, {"interactive": True}, False),
        (20, {"tty": True, "interactive": False}, False),
        (20, {"interactive": True}, True),
        (35, {"tty": True}, True),
        (36, {"tty": True, "interactive": False}, True),
        (36, {"interactive": True}, False),
    ],
)
async def test_tty_follows_interactive_from_1_20_to_1_35(
    caisson: Caisson, minor: int, sent: dict[str, bool], tty: bool
) -> None:
    made = await caisson.ok("POST", "/v1/containers", _body(minor, **sent), version=f"container 1.{minor}")
    assert made["tty"] is tty
    assert made["interactive"] is sent.get("interactive", False)


@pytest.mark.parametrize(("flag", "since"), [("force", 7), ("stop", 12)])
async def test_flags_of_delete_are_refused_before_their_version(caisson: Caisson, flag: str, since: int) -> None:
    uuid = (await caisson.made())["uuid"]
    before = f"container 1.{since - 1}"
    answer = await caisson.call("DELETE", f"/v1/containers/{uuid}?{flag}=True", version=before, who="admin")
    assert flag in error_of(answer, 400, "invalid-param-in-version")["title"]
    # Clients of all versions name both flags.
    answer = await caisson.call("DELETE", f"/v1/containers/{uuid}?force=False&stop=False", version="container 1.1")
    assert answer.status_code == 204


async def test_exposed_ports_exclude_security_groups_from_1_20(caisson: Caisson) -> None:
    both = {"security_groups": ["default"], "exposed_ports": {"80": {}}}
    error_of(await caisson.call("POST", "/v1/containers", _body(40, **both)), 400, "invalid-value")
    await caisson.nothing_stored()


async def test_answers_are_the_same_at_every_version(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True))["uuid"]
    newest = await caisson.show(uuid)
    oldest = await caisson.ok("GET", f"/v1/containers/{uuid}", version="container 1.1")
    ages = {"status_detail"}
    assert {k: v for k, v in oldest.items() if k not in ages} == {k: v for k, v in newest.items() if k not in ages}

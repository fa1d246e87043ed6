"""Magnum beside Zun on one port: version documents, microversions and errors, each in its own way."""

from typing import Any

import pytest

from tests.api.caisson import Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORD = "container-infrastructure-management"
NOWHERE = "/container-infra/v1/nowhere"
RESOURCES = {
    "clusters", "clustertemplates", "quotas", "certificates", "mservices", "stats", "federations", "credentials",
    "nodegroups",
}  # fmt: skip


def magnum_error(answer: Any, status: int, code: str = "client") -> dict[str, Any]:
    """The error object of an answer that must be in Magnum's envelope."""
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    assert set(error) == {"request_id", "code", "status", "title", "detail", "links"}
    assert (error["status"], error["code"], error["links"]) == (status, code, [])
    assert error["request_id"] == answer.headers["x-openstack-request-id"]
    assert error["title"]
    found: dict[str, Any] = error
    return found


@pytest.mark.parametrize(
    ("path", "version", "base"),
    [
        ("/", "container-infra latest", "http://test"),
        ("/", "container-infra nonsense", "http://test"),
        ("/container-infra", None, "http://test/container-infra"),
        ("/container-infra/", "container 1.1", "http://test/container-infra"),
    ],
)
async def test_the_root(standing: Caisson, path: str, version: str | None, base: str) -> None:
    answer = await standing.call("GET", path, who=None, version=version)
    document = answer.json()
    assert document["name"] == "OpenStack Magnum API"
    (listed,) = document["versions"]
    assert listed == {
        "id": "v1", "status": "CURRENT", "min_version": "1.1", "max_version": "1.14",
        "links": [{"href": f"{base}/v1/", "rel": "self"}],
    }  # fmt: skip
    assert "openstack-api-version" not in answer.headers
    assert (await standing.call("GET", listed["links"][0]["href"], who=None, version=None)).status_code == 200


@pytest.mark.parametrize(
    ("path", "version"),
    [("/v1", "container-infra 1.9"), ("/v1/", "container-infra 1.9"), ("/container-infra/v1/", "container-infra 1.9")],
)
async def test_version_one(standing: Caisson, path: str, version: str) -> None:
    answer = await standing.call("GET", path, who=None, version=version)
    document = answer.json()
    assert document.keys() == RESOURCES | {"id", "media_types", "links"}
    assert answer.headers["openstack-api-version"] == f"{WORD} 1.9"
    base = "http://test/container-infra" if "infra" in path else "http://test"
    assert document["clusters"] == [
        {"href": f"{base}/v1/clusters/", "rel": "self"}, {"href": f"{base}/clusters/", "rel": "bookmark"},
    ]  # fmt: skip
    assert document["nodegroups"][0]["href"] == f"{base}/v1/clusters/{{cluster_id}}/nodegroups"


async def test_zun_keeps_the_root(standing: Caisson) -> None:
    for version in (None, "container 1.40", "compute 2.1"):
        assert (await standing.ok("GET", "/", who=None, version=version))["name"] == "OpenStack Zun API"
    assert "containers" in await standing.ok("GET", "/v1", who=None, version=None)


ACCEPTED = {
    None: 1,
    "container-infra latest": 14,
    "container-infra LATEST": 14,
    "compute latest": 14,
    "container-infra 1.1": 1,
    "container-infra 1.14": 14,
    "container-infrastructure 1.7": 7,
    "container-infrastructure-management 1.11": 11,
    "compute 2.1, container-infra 1.9": 9,
}


@pytest.mark.parametrize("version", ACCEPTED)
async def test_a_version_is_chosen(standing: Caisson, version: str | None) -> None:
    answer = await standing.call("GET", NOWHERE, version=version)
    error = magnum_error(answer, 404, "")
    assert error["title"] == "Not Found"
    assert answer.headers["openstack-api-version"] == f"{WORD} 1.{ACCEPTED[version]}"
    assert answer.headers["openstack-api-minimum-version"] == f"{WORD} 1.1"
    assert answer.headers["openstack-api-maximum-version"] == f"{WORD} 1.14"
    assert answer.headers["vary"] == "OpenStack-API-Version"


@pytest.mark.parametrize(
    "version", ["1.5", "", "container 1.1", "compute 1.1", "container-infra", "Container-infra 1.1"]
)
async def test_another_service_is_not_acceptable(standing: Caisson, version: str) -> None:
    error = magnum_error(await standing.call("GET", NOWHERE, version=version), 406, "")
    assert error["detail"] == "Invalid service type for OpenStack-API-Version header"


@pytest.mark.parametrize("version", ["container-infra 1", "container-infra abc", "container-infra 1.2.3"])
async def test_what_is_no_number_is_not_acceptable(standing: Caisson, version: str) -> None:
    error = magnum_error(await standing.call("GET", NOWHERE, version=version), 406, "")
    assert error["detail"] == "Invalid value for OpenStack-API-Version header"


@pytest.mark.parametrize("number", ["1.0", "1.15", "2.0", "0.1", "1.9999"])
async def test_a_version_out_of_range(standing: Caisson, number: str) -> None:
    answer = await standing.call("GET", NOWHERE, version=f"container-infra {number}")
    assert answer.status_code == 406
    (error,) = answer.json()["errors"]
    assert set(error) == {"code", "title", "description", "min_version", "max_version", "links"}
    assert error["code"] == "magnum.microversion-unsupported"
    assert (error["min_version"], error["max_version"]) == ("1.1", "1.14")
    assert number in error["description"]
    assert answer.headers["openstack-api-version"] == f"{WORD} {number}"


async def test_a_bad_token_comes_before_a_bad_version(standing: Caisson) -> None:
    answer = await standing.call("GET", NOWHERE, who="nonsense", version="container-infra 9.9")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == 401


async def test_neither_api_serves_the_others_paths(standing: Caisson) -> None:
    answer = await standing.call("GET", "/container-infra/v1/containers", version="container-infra latest")
    magnum_error(answer, 404, "")
    error_of(await standing.call("GET", "/container/v1/clustertemplates"), 404)


async def test_text_that_cannot_be_stored_is_refused(standing: Caisson) -> None:
    answer = await standing.call("GET", f"{NOWHERE}?name=%00", version="container-infra latest")
    assert "query" in magnum_error(answer, 400)["detail"]

"""openapi.json is a true and complete description, and Swagger UI works without any other host."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.documents import EXAMPLES
from tests.api.caisson import BUSY, Caisson
from tests.api.routes import SAMPLES

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROBES = {"/healthcheck", "/livez", "/readyz"}
PUBLIC = {"/", "/v1", "/container-infra", "/container-infra/v1"} | PROBES
ERRORS = {"400", "401", "403", "404", "405", "406", "408", "409", "413", "415", "429", "431", "501", "502", "503"}


@pytest.fixture
async def document(standing: Caisson) -> dict[str, Any]:
    answer = await standing.call("GET", "/openapi.json", who=None, version=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


async def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"] == "Caisson"
    assert set(document) <= {"openapi", "info", "paths", "components", "servers", "tags", "security"}
    for reference in references(document):
        found: Any = document
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            found = found[part]
    for path, method, operation in operations(document):
        assert method in {"GET", "POST", "PUT", "PATCH", "DELETE"}
        assert operation["summary"]
        assert operation["description"]
        assert operation["responses"]
        parameters = operation.get("parameters", [])
        names = [(parameter["in"], parameter["name"]) for parameter in parameters]
        assert len(names) == len(set(names)), (method, path)
        in_path = {name for place, name in names if place == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), path
        assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")
        assert all(parameter["schema"] for parameter in parameters)
        assert all(response.get("description") or "$ref" in response for response in operation["responses"].values())
        if "requestBody" in operation:
            assert method in {"POST", "PUT", "PATCH"}


async def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {(method, path) for path, method, _ in operations(document)}
    served = {(method, path.replace(":path", "")) for method, path in SAMPLES}
    assert described == served | {("GET", path) for path in PUBLIC}


async def test_operation_ids_are_unique_and_plain(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert [name for name in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)] == []


async def test_every_operation_documents_its_errors(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        statuses = set(operation["responses"])
        assert "422" not in statuses
        if path in PUBLIC:
            versioned = {"406"} if path.endswith("/v1") else set()
            probe = {"503"} if path in PROBES else set()
            assert statuses == {"200", "400", "408", "413", "431"} | versioned | probe
            assert "security" not in operation
            continue
        assert statuses >= ERRORS
        assert len(statuses - ERRORS) == 1  # the one when all goes well
        assert operation["security"] == [{"token": []}]
        headers = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"]
        assert headers == ["OpenStack-API-Version"]
        for status in ERRORS:
            assert operation["responses"][status] == {"$ref": f"#/components/responses/{status}"}
    for status in ERRORS - {"401"}:
        content = document["components"]["responses"][status]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problems"}
    assert document["components"]["securitySchemes"]["token"] == {
        "type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "A Keystone token",
    }  # fmt: skip


async def test_every_body_and_every_answer_has_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert "examples" in content or "examples" in content["schema"], (method, path)
        for status in operation["responses"].keys() & {"200", "201", "202"}:
            content = operation["responses"][status]["content"]["application/json"]
            assert path in PUBLIC or "example" in content, (method, path)
        assert "content" not in operation["responses"].get("204", {})
    names = {operation["operationId"] for _, _, operation in operations(document)}
    assert EXAMPLES.keys() <= names


def examples_of(document: dict[str, Any], path: str, method: str) -> list[Any]:
    content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
    named = [example["value"] for example in content.get("examples", {}).values()]
    return named + list(content["schema"].get("examples", []))


async def test_the_examples_work(caisson: Caisson, document: dict[str, Any]) -> None:
    caisson.engine.add_image("busybox:1")
    for example in examples_of(document, "/v1/containers", "post"):
        uuid = (await caisson.ok("POST", "/v1/containers?run=true", example))["uuid"]
        await caisson.until(uuid, "Running")
    (example,) = examples_of(document, "/v1/registries", "post")
    made = await caisson.ok("POST", "/v1/registries", example)
    (example,) = examples_of(document, "/v1/registries/{ident}", "patch")
    await caisson.ok("PATCH", f"/v1/registries/{made['registry']['uuid']}", example)
    (example,) = examples_of(document, "/v1/images", "post")
    answer = await caisson.call("POST", "/v1/images", example, who="admin")
    assert "host" in answer.json()["errors"][0]["title"]  # the example's host is not this one


def shape(value: Any) -> Any:
    """Keys all the way down; what a list holds, once."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items() if not re.fullmatch(r"[0-9a-f-]{36}", key)}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None


async def test_the_answers_look_like_their_examples(caisson: Caisson) -> None:
    uuid = (await caisson.made(run=True, image=BUSY, command=["sleep", "9"]))["uuid"]
    await caisson.ok("POST", "/v1/registries", {"registry": {"domain": "d.example", "name": "reg"}})
    request = (await caisson.actions(uuid))[0].request_id
    asked = {
        "healthcheck": "/healthcheck",
        "list_containers": "/v1/containers",
        "show_container": f"/v1/containers/{uuid}",
        "container_top": f"/v1/containers/{uuid}/top",
        "container_stats": f"/v1/containers/{uuid}/stats",
        "list_container_actions": f"/v1/containers/{uuid}/container_actions",
        "show_container_action": f"/v1/containers/{uuid}/container_actions/{request}",
        "list_registries": "/v1/registries",
        "show_registry": "/v1/registries/reg",
    }
    for operation, path in asked.items():
        answer = shape(await caisson.ok("GET", path))
        assert answer == shape(EXAMPLES[operation]), operation


async def test_swagger_ui_loads_nothing_from_another_host(standing: Caisson) -> None:
    page = (await standing.call("GET", "/docs", who=None, version=None)).text
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page) == []
    loaded = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(loaded) == 3
    for path in (*loaded, "/openapi.json"):
        answer = await standing.call("GET", path, who=None, version=None)
        assert answer.status_code == 200
        assert len(answer.content) > 500
    assert "url: '/openapi.json'" in page
    assert '"validatorUrl": null' in page  # a badge that Swagger UI would fetch from its makers' host
    style = (await standing.call("GET", "/docs/swagger-ui.css", who=None, version=None)).text
    assert set(re.findall(r"""url\(\s*['"]?(.{5})""", style)) <= {"data:"}
    assert "@import" not in style


async def test_the_document_is_small_enough_to_be_sent_often(document: dict[str, Any]) -> None:
    assert len(json.dumps(document)) < 400_000

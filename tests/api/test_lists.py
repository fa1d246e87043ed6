"""Lists: filters, pages, order and links; lookups by uuid and by name."""

from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from app.models import Status
from tests.api.caisson import Caisson, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Rows that differ in every column that lists know; nulls among them.
ROWS: tuple[dict[str, Any], ...] = (
    {"name": "one", "status": "Running", "memory": 100, "cpu": 1.0, "created_at": 5.0, "hostname": "b"},
    {"name": "two", "status": "Stopped", "memory": 200, "cpu": 0.5, "created_at": 4.0, "task_state": "x"},
    {"name": "two", "status": "Error", "memory": None, "cpu": None, "created_at": 3.0, "auto_remove": True},
    {"name": "four", "status": "Running", "memory": 100, "cpu": 2.0, "created_at": 2.0, "hostname": "a"},
    {"name": "Five", "status": "Paused", "memory": 50, "cpu": 1.0, "created_at": 1.0, "user_id": "other"},
    {"name": "six", "status": "Created", "image": "other", "host": "elsewhere", "created_at": 9.0, "updated_at": 1.0},
)
SORT_KEYS = (
    "id", "uuid", "name", "project_id", "user_id", "image", "status", "task_state", "cpu", "memory", "disk", "host",
    "created_at", "updated_at", "workdir", "hostname", "auto_remove", "auto_heal", "interactive", "tty", "image_driver",
)  # fmt: skip


async def fill(caisson: Caisson) -> list[str]:
    """Six rows. Returns their uuids in the order of creation."""
    return [(await caisson.put(engine_ref=f"{number}" * 64, **row)).uuid for number, row in enumerate(ROWS)]


async def names(caisson: Caisson, query: str, **more: Any) -> list[str]:
    answer = await caisson.ok("GET", f"/v1/containers?{query}", **more)
    return [box["name"] for box in answer["containers"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["one", "two", "two", "four", "Five", "six"]),
        ("name=two", ["two", "two"]),
        ("name=Two", []),
        ("name=", []),
        ("status=Running", ["one", "four"]),
        ("status=running", []),
        ("status=Running&name=four", ["four"]),
        ("memory=100", ["one", "four"]),
        ("memory=0", []),
        ("user_id=other", ["Five"]),
        ("image=other", ["six"]),
        ("task_state=x", ["two"]),
        ("auto_remove=True", ["two"]),
        ("auto_remove=1", ["two"]),
        ("auto_remove=no&status=Running", ["one", "four"]),
        ("project_id=nobody", []),
        ("limit=2", ["one", "two"]),
        ("limit=", ["one", "two", "two", "four", "Five", "six"]),
        ("limit=999999999999", ["one", "two", "two", "four", "Five", "six"]),
        ("sort_dir=desc&limit=2", ["six", "Five"]),
        ("sort_key=created_at&limit=2", ["Five", "four"]),
        ("sort_key=memory&sort_dir=desc&limit=3", ["two", "four", "one"]),
        ("all_projects=", ["one", "two", "two", "four", "Five", "six"]),
        ("all_projects=False&name=one", ["one"]),
        ("resource_url=x&expand=y&name=one", ["one"]),
    ],
)
async def test_filters_and_order(caisson: Caisson, query: str, found: list[str]) -> None:
    await fill(caisson)
    assert await names(caisson, query) == found


async def test_the_host_filter_is_for_administrators(caisson: Caisson) -> None:
    await fill(caisson)
    error = error_of(await caisson.call("GET", "/v1/containers?host=elsewhere"), 403, "policy-not-authorized")
    assert "container:get_one:host" in error["title"]
    project = await caisson.project("alpha")
    query = f"host=elsewhere&all_projects=1&project_id={project}"
    assert await names(caisson, query, who="admin") == ["six"]


@pytest.mark.parametrize(
    ("query", "status", "code", "words"),
    [
        ("foo=1", 400, "invalid-value", ["foo"]),
        ("foo=1&bar=2&name=x", 400, "invalid-value", ["foo", "bar"]),
        ("limit=0", 400, "invalid-value", ["Limit", "positive"]),
        ("limit=-1", 400, "invalid-value", ["Limit"]),
        ("limit=abc", 400, "invalid-value", ["Limit"]),
        ("limit=1.5", 400, "invalid-value", ["Limit"]),
        ("limit=%D9%A1", 400, "invalid-value", ["Limit"]),
        ("limit=" + "9" * 6000, 200, "", []),
        ("marker=nope", 404, "container-not-found", ["nope"]),
        ("marker=00000000-0000-4000-8000-000000000000", 404, "container-not-found", ["00000000-0000"]),
        ("marker=" + "m" * 6000, 404, "container-not-found", []),
        ("sort_key=nope", 400, "invalid-parameter-value", ["sort_key", "nope"]),
        ("sort_key=environment", 400, "invalid-parameter-value", ["environment"]),
        ("sort_key=revision", 400, "invalid-parameter-value", ["revision"]),
        ("sort_dir=sideways", 400, "invalid-value", ["sideways", "asc", "desc"]),
        ("memory=abc", 400, "invalid-value", ["memory"]),
        ("memory=-1", 400, "invalid-value", ["memory"]),
        ("memory=99999999999999999999", 400, "invalid-value", ["memory"]),
        ("auto_remove=maybe", 400, "invalid-value", ["auto_remove", "maybe"]),
        ("all_projects=maybe", 400, "invalid-value", ["all_projects", "maybe"]),
        ("all_projects=True", 403, "policy-not-authorized", ["container:get_all_all_projects"]),
    ],
)
async def test_bad_queries(standing: Caisson, query: str, status: int, code: str, words: list[str]) -> None:
    answer = await standing.call("GET", f"/v1/containers?{query}")
    if status == 200:
        assert answer.status_code == 200
        return
    error = error_of(answer, status, code)
    assert [word for word in words if word not in error["title"]] == []


async def pages(caisson: Caisson, query: str) -> tuple[list[str], list[str]]:
    """Follow ``next`` to the end. Returns the uuids, and the links that were followed."""
    found: list[str] = []
    links: list[str] = []
    path: str | None = f"/v1/containers?{query}"
    while path is not None:
        answer = await caisson.ok("GET", path)
        found += [box["uuid"] for box in answer["containers"]]
        path = answer["next"]
        if path is not None:
            links.append(path)
            assert len(links) < 20
    return found, links


@pytest.mark.parametrize("key", SORT_KEYS)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_pages_hold_every_row_once_in_order(caisson: Caisson, key: str, direction: str) -> None:
    await fill(caisson)
    whole = await caisson.ok("GET", f"/v1/containers?sort_key={key}&sort_dir={direction}")
    in_order = [box["uuid"] for box in whole["containers"]]
    assert len(set(in_order)) == len(ROWS)
    for limit in (1, 2, 4):
        found, _ = await pages(caisson, f"sort_key={key}&sort_dir={direction}&limit={limit}")
        assert found == in_order


async def test_the_next_link_keeps_filters_and_order(caisson: Caisson) -> None:
    uuids = await fill(caisson)
    answer = await caisson.ok("GET", "/v1/containers?status=Running&limit=1&sort_key=name&all_projects=no")
    link = urlsplit(answer["next"])
    assert f"{link.scheme}://{link.netloc}{link.path}" == "http://test/v1/containers"
    assert parse_qs(link.query) == {
        "status": ["Running"],
        "all_projects": ["no"],
        "limit": ["1"],
        "sort_key": ["name"],
        "sort_dir": ["asc"],
        "marker": [uuids[3]],
    }
    found, _ = await pages(caisson, "status=Running&limit=1&sort_key=name")
    assert found == [uuids[3], uuids[0]]


async def test_there_is_a_next_link_only_after_a_full_page(caisson: Caisson) -> None:
    await fill(caisson)
    assert (await caisson.ok("GET", "/v1/containers?limit=7"))["next"] is None
    full = await caisson.ok("GET", "/v1/containers?limit=6")
    assert full["next"] is not None
    assert await caisson.ok("GET", full["next"]) == {"containers": [], "next": None}


async def test_another_projects_row_is_no_marker(caisson: Caisson) -> None:
    foreign = await caisson.put(project_id=await caisson.project("beta"))
    error_of(await caisson.call("GET", f"/v1/containers?marker={foreign.uuid}"), 404, "container-not-found")


async def test_lists_have_no_links_but_all_else(caisson: Caisson) -> None:
    uuids = await fill(caisson)
    (listed, *_) = (await caisson.ok("GET", "/v1/containers"))["containers"]
    shown = await caisson.show(uuids[0])
    del shown["links"]
    assert set(shown) == set(listed)


# Lookup


async def test_by_uuid_in_every_spelling_and_by_name(caisson: Caisson) -> None:
    box = await caisson.put(name="its.name", status=Status.STOPPED, engine_ref="r" * 64)
    uuid = UUID(box.uuid)
    for ident in (box.uuid, box.uuid.upper(), uuid.hex, f"{{{box.uuid}}}", f"urn:uuid:{box.uuid}", "its.name"):
        assert (await caisson.show(ident))["uuid"] == box.uuid


@pytest.mark.parametrize(
    "ident",
    ["nope", "00000000-0000-4000-8000-000000000000", "None", "%2e%2e", "a%2Fb", "n" * 5000, "%F0%9F%90%B3", "'"],
)
async def test_what_is_not_there(standing: Caisson, ident: str) -> None:
    error_of(await standing.call("GET", f"/v1/containers/{ident}"), 404, "" if "2F" in ident else "container-not-found")
    if "2F" not in ident:
        for method, action in (("POST", "start"), ("GET", "logs"), ("GET", "container_actions"), ("DELETE", "")):
            answer = await standing.call(method, f"/v1/containers/{ident}/{action}")
            error_of(answer, 404, "container-not-found")


async def test_two_of_one_name_are_ambiguous(caisson: Caisson) -> None:
    uuids = await fill(caisson)
    for method, action in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("GET", "/logs"), ("GET", "/top")):
        answer = await caisson.call(method, f"/v1/containers/two{action}")
        assert "uuid" in error_of(answer, 409, "conflict")["title"]
    assert (await caisson.show(uuids[1]))["name"] == "two"


async def test_a_name_belongs_to_its_project(caisson: Caisson) -> None:
    mine = await caisson.put(name="same")
    theirs = await caisson.put(name="same", project_id=await caisson.project("beta"))
    assert (await caisson.show("same"))["uuid"] == mine.uuid
    assert (await caisson.show("same", who="foreign"))["uuid"] == theirs.uuid
    error_of(await caisson.call("GET", f"/v1/containers/{theirs.uuid}"), 404, "container-not-found")
    error_of(await caisson.call("GET", f"/v1/containers/{mine.uuid}", who="foreign"), 404, "container-not-found")


async def test_administrators_reach_single_containers_of_every_project(caisson: Caisson) -> None:
    name = f"unique-{uuid4().hex}"
    box = await caisson.put(name=name, status=Status.STOPPED)
    for path in (box.uuid, name, f"{box.uuid}?all_projects=True"):
        assert (await caisson.show(path, who="admin"))["uuid"] == box.uuid
    assert await caisson.ok("GET", f"/v1/containers/{box.uuid}/container_actions", who="admin")
    # Their lists show their own project, unless they ask for all.
    assert name not in await names(caisson, "", who="admin")
    assert name in await names(caisson, f"all_projects=yes&name={name}", who="admin")


async def test_an_administrators_own_container_comes_first(caisson: Caisson) -> None:
    name = f"unique-{uuid4().hex}"
    one = await caisson.put(name=name)
    await caisson.put(name=name, project_id=await caisson.project("beta"))
    error_of(await caisson.call("GET", f"/v1/containers/{name}", who="admin"), 409, "conflict")
    made = await caisson.create(name=name, who="admin")
    assert (await caisson.show(name, who="admin"))["uuid"] == made["uuid"]
    assert (await caisson.show(one.uuid, who="admin"))["uuid"] == one.uuid
    await caisson.until(made["uuid"], "Created", who="admin")
    assert (await caisson.call("DELETE", f"/v1/containers/{name}", who="admin")).status_code == 204
    await caisson.until_gone(made["uuid"])
    assert (await caisson.show(one.uuid))["uuid"] == one.uuid


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_only_administrators_may_ask_for_all_projects(caisson: Caisson, method: str) -> None:
    box = await caisson.put(status=Status.STOPPED)
    error_of(await caisson.call(method, f"/v1/containers/{box.uuid}?all_projects=1"), 403, "policy-not-authorized")
    answer = await caisson.call(method, f"/v1/containers/{box.uuid}?all_projects=1", who="admin")
    assert answer.status_code in (200, 204)

"""Changing a container: rename, PATCH, resize_container, rebuild and commit."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.changes import sweep
from app.errors import Gone, Refused, Unavailable
from app.images import commit_name
from app.models import Container, Image
from tests.api.caisson import BUSY, Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


def path_of(box: dict[str, Any], verb: str = "") -> str:
    return f"/v1/containers/{box['uuid']}{verb and '/'}{verb}"


async def test_rename_until_1_13(caisson: Caisson) -> None:
    box = await caisson.made(name="before")
    renamed = await caisson.ok("POST", path_of(box, "rename?name=after"), version="container 1.13")
    assert (renamed["name"], renamed["uuid"]) == ("after", box["uuid"])
    assert (await caisson.show("after"))["updated_at"] is not None
    again = await caisson.call("POST", path_of(box, "rename"), {"name": "after"}, version="container 1.1")
    error_of(again, 409, "conflict")
    error_of(
        await caisson.call("POST", path_of(box, "rename?name=!"), version="container 1.1"),
        400,
        "schema-validation-error",
    )
    assert (await caisson.call("POST", path_of(box, "rename?name=other"), version="container 1.14")).status_code == 406
    assert (await caisson.show(box["uuid"]))["name"] == "after"


async def test_patch_changes_what_it_names_and_nothing_else(caisson: Caisson) -> None:
    box = await caisson.made(run=True, cpu=0.5, memory=64, environment={"A": "b"}, labels={"c": "d"})
    changed = await caisson.ok("PATCH", path_of(box), {"memory": "128"})
    assert (changed["cpu"], changed["memory"]) == (0.5, "128")
    changed = await caisson.ok("PATCH", path_of(box), {"cpu": "1.5", "name": "patched", "auto_heal": True})
    expected = box | {"cpu": 1.5, "memory": "128", "name": "patched", "auto_heal": True}
    times = ("updated_at", "status_detail")
    assert {k: v for k, v in changed.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}
    spec = caisson.engine.spec(UUID(box["uuid"]))
    assert (spec.cpu, spec.memory) == (1.5, 128)
    assert await caisson.ok("PATCH", path_of(box), {}) | {"status_detail": None} == changed | {"status_detail": None}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"cpu": 0.01}, "cpu"),
        ({"cpu": 99}, "cpu"),
        ({"memory": "1g"}, "memory"),
        ({"memory": 1}, "memory"),
        ({"memory": 9000}, "memory"),
        ({"name": "x"}, "name"),
        ({"auto_heal": "maybe"}, "auto_heal"),
        ({"image": BUSY}, "image"),
    ],
)
async def test_patch_names_what_is_wrong(caisson: Caisson, body: dict[str, Any], word: str) -> None:
    box = await caisson.put(status="Created", engine_ref="r" * 64)
    for method, verb in (("PATCH", ""), ("POST", "resize_container")):
        answer = await caisson.call(method, path_of({"uuid": box.uuid}, verb), body)
        assert word in error_of(answer, 400, "schema-validation-error")["title"]
    assert await caisson.actions(box.uuid) == []


async def test_patch_shows_what_the_engine_refused(caisson: Caisson) -> None:
    box = await caisson.made()
    assert "CPUs" in error_of(await caisson.call("PATCH", path_of(box), {"cpu": 16}), 409, "conflict")["title"]
    shown = await caisson.show(box["uuid"])
    assert (shown["cpu"], shown["status"]) == (box["cpu"], "Created")


async def test_patch_gives_up_on_an_engine_that_is_away(caisson: Caisson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routers.container_changes.UPDATE_SECONDS", 0.1)
    box = await caisson.made()
    caisson.engine.go_down()
    try:
        error_of(await caisson.call("PATCH", path_of(box), {"memory": 77}), 503, "engine-unavailable")
    finally:
        caisson.engine.come_up()
    await eventually(lambda: _settled(caisson, box["uuid"]), lambda: "still under way")


async def _settled(caisson: Caisson, uuid: str) -> bool:
    return not await caisson.unfinished(uuid)


async def test_resize_container_answers_at_once(caisson: Caisson) -> None:
    box = await caisson.made(memory=64)
    too_old = await caisson.call("POST", path_of(box, "resize_container"), {"memory": 65}, version="container 1.18")
    assert too_old.status_code == 406
    answer = await caisson.call("POST", path_of(box, "resize_container"), {"memory": 65})
    assert (answer.status_code, answer.json()["memory"]) == (202, "64")
    await caisson.until(box["uuid"], "Created")
    assert (await caisson.show(box["uuid"]))["memory"] == "65"


@pytest.mark.parametrize("run", [True, False])
async def test_rebuild_makes_it_anew(caisson: Caisson, run: bool) -> None:
    caisson.engine.add_image("other:2", command=("cat",))
    box = await caisson.made(run=run, command=[], name="rebuilt", interactive=True)
    assert box["command"] == ["sh"]
    before = await caisson.engine.find(UUID(box["uuid"]))
    assert before is not None
    await caisson.ok("POST", path_of(box, "rebuild"))
    same = await caisson.until(box["uuid"], "Running" if run else "Created")
    await caisson.ok("POST", path_of(box, "rebuild?image=other:2&image_driver=docker"))
    after = await caisson.until(box["uuid"], "Running" if run else "Created")
    assert (same["image"], after["image"], after["command"]) == (BUSY, "other:2", ["cat"])
    assert (after["name"], after["uuid"], after["addresses"]) == (box["name"], box["uuid"], box["addresses"])
    seen = await caisson.engine.find(UUID(box["uuid"]))
    assert seen is not None
    assert seen.ref != before.ref
    assert seen.image.startswith("other:2")


async def test_rebuild_from_an_image_that_is_not_there_leaves_the_container(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    before = await caisson.engine.find(UUID(box["uuid"]))
    await caisson.ok("POST", path_of(box, "rebuild"), {"image": "nowhere:1"})
    shown = await caisson.until(box["uuid"], "Error")
    assert "nowhere:1" in shown["status_reason"]
    assert shown["image"] == BUSY
    assert await caisson.engine.find(UUID(box["uuid"])) == before


async def test_rebuild_goes_on_after_the_engine_was_away_in_the_middle(caisson: Caisson) -> None:
    box: dict[str, Any] = {}
    for verb in ("remove", "create", "start"):
        for after in (False, True):
            box = await caisson.made(run=True)
            before = await caisson.engine.find(UUID(box["uuid"]))
            assert before is not None
            caisson.engine.fail_next(verb, Unavailable("cut off"), after=after)
            await caisson.ok("POST", path_of(box, "rebuild"))
            await caisson.until(box["uuid"], "Running")
            seen = await caisson.engine.find(UUID(box["uuid"]))
            assert seen is not None
            assert seen.ref != before.ref
    caisson.engine.fail_next("create", Gone("No such image"))
    await caisson.ok("POST", path_of(box, "rebuild"))
    await caisson.until(box["uuid"], "Running")


async def test_rebuild_heals_a_container_that_was_lost(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    caisson.engine.vanish(UUID(box["uuid"]))
    await caisson.until(box["uuid"], "Error")
    await caisson.ok("POST", path_of(box, "rebuild"))
    await caisson.until(box["uuid"], "Created")


async def committed(caisson: Caisson, box: dict[str, Any], query: str = "repository=mine&tag=2") -> Image:
    answer = await caisson.call("POST", path_of(box, f"commit?{query}"))
    assert answer.status_code == 202
    assert set(answer.json()) == {"uuid"}
    await caisson.until(box["uuid"], box["status"])
    (image,) = await caisson.running.rows(Image, Image.uuid == answer.json()["uuid"])
    return image


async def test_a_commit_runs_by_its_name_and_by_its_uuid(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    image = await committed(caisson, box)
    assert (image.repo, image.tag, image.status, image.project_id) == ("mine", "2", "Created", box["project_id"])
    for name in ("mine:2", image.uuid):
        copy = await caisson.made(run=True, image=name)
        assert copy["image"] == name
        assert caisson.engine.spec(UUID(copy["uuid"])).image == commit_name(image.uuid)
    newer = await committed(caisson, box)
    copy = await caisson.made(image="mine:2")
    assert caisson.engine.spec(UUID(copy["uuid"])).image == commit_name(newer.uuid)


async def test_a_commit_is_nobody_elses(caisson: Caisson) -> None:
    """Neither does another project get it under its name, nor under the engine's."""
    box = await caisson.made(run=True)
    image = await committed(caisson, box, f"repository={BUSY}&tag=latest")
    other = await caisson.made(who="foreign", image=BUSY)
    assert caisson.engine.spec(UUID(other["uuid"])).image == f"{BUSY}:latest"
    stolen = await caisson.create(who="foreign", image=image.uuid)
    await caisson.until(stolen["uuid"], "Error", who="foreign")
    for name in (commit_name(image.uuid), "CAISSON.invalid/commit", "caisson.invalid:80/commit:x"):
        answer = await caisson.call("POST", "/v1/containers", {"image": name}, who="foreign")
        assert "caisson.invalid" in error_of(answer, 400, "invalid-value")["title"]


@pytest.mark.parametrize(
    "query", ["", "repository=", "repository=UPPER", "repository=a:1", "repository=a&tag=!", "repository=a&other=1"]
)
async def test_commit_names_what_is_wrong(caisson: Caisson, query: str) -> None:
    box = await caisson.put(status="Running", engine_ref="r" * 64)
    assert (await caisson.call("POST", f"/v1/containers/{box.uuid}/commit?{query}")).status_code == 400
    assert await caisson.actions(box.uuid) == []


async def test_a_commit_that_fails_leaves_no_image(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    caisson.engine.fail_next("commit", Refused("no space left"))
    answer = await caisson.ok("POST", path_of(box, "commit?repository=mine"))
    shown = await caisson.until(box["uuid"], "Running")
    assert shown["status_reason"] == "no space left"
    assert await caisson.running.rows(Image, Image.uuid == answer["uuid"]) == []
    assert [action.state for action in await caisson.actions(box["uuid"])][-1] == "failed"


async def test_a_commit_that_is_being_made_is_not_run_yet(caisson: Caisson) -> None:
    """Nor is the public image of the same name in its place."""
    box = await caisson.made(run=True)
    caisson.engine.delay("commit", 60)
    try:
        answer = await caisson.ok("POST", path_of(box, "commit?repository=mine"))
        for name in ("mine", answer["uuid"]):
            refused = await caisson.call("POST", "/v1/containers", {"image": name})
            assert "still being committed" in error_of(refused, 409, "conflict")["title"]
    finally:
        caisson.engine.delay("commit", 0)
    await caisson.ok("DELETE", f"/v1/containers/{box['uuid']}?force=true", who="admin")
    await caisson.until_gone(box["uuid"])


async def test_a_commit_that_is_cut_off_is_made_once(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    caisson.engine.fail_next("commit", Unavailable("cut off"), after=True)
    before = caisson.engine.calls["commit"]
    image = await committed(caisson, box)
    assert image.status == "Created"
    assert caisson.engine.calls["commit"] == before + 1


async def test_a_commit_that_was_cancelled_is_swept(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    caisson.engine.fail_next("commit", Unavailable("away"), after=True)
    caisson.engine.delay("commit", 0.5, after=True)
    try:
        image = (await caisson.ok("POST", path_of(box, "commit?repository=mine")))["uuid"]
        await caisson.ok("DELETE", path_of(box) + "?stop=1")
    finally:
        caisson.engine.delay("commit", 0)
    await caisson.until_gone(box["uuid"])
    parts = caisson.running.gateway
    await sweep(caisson.engine.name, parts.database, parts.settings)
    parts.wake()

    async def gone() -> bool:
        return not await caisson.running.rows(Image, Image.uuid == image)

    await eventually(gone, lambda: "the image is still there")
    assert await caisson.engine.image(commit_name(image)) is None


async def test_deleting_a_commit_removes_it_from_the_host(caisson: Caisson) -> None:
    image = await committed(caisson, await caisson.made(run=True))
    assert await caisson.engine.image(commit_name(image.uuid)) is not None
    await caisson.ok("DELETE", f"/v1/images/{image.uuid}", who="admin")

    async def gone() -> bool:
        return not await caisson.running.rows(Image, Image.uuid == image.uuid)

    await eventually(gone, lambda: "the image is still there")
    assert await caisson.engine.image(commit_name(image.uuid)) is None


async def test_other_projects_containers_are_not_there(caisson: Caisson) -> None:
    box = await caisson.made()
    for method, verb, body in (
        ("PATCH", "", {"name": "theirs"}),
        ("POST", "resize_container", {"memory": 65}),
        ("POST", "rebuild", None),
        ("POST", "commit?repository=theirs", None),
    ):
        answer = await caisson.call(method, path_of(box, verb), body, who="foreign")
        error_of(answer, 404, "container-not-found")
        answer = await caisson.call(method, path_of(box, verb), body, who="reader")
        error_of(answer, 403, "policy-not-authorized")
    error_of(await caisson.call("PATCH", f"/v1/containers/{uuid4()}", {}), 404, "container-not-found")
    (row,) = await caisson.running.rows(Container, Container.uuid == box["uuid"])
    assert (row.name, row.memory) == (box["name"], int(box["memory"]))

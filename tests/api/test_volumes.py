"""Volumes of a project, and what containers mount."""

import asyncio
import base64
import io
import tarfile
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.engine import Ability, VolumeMount
from app.db import EVERYTHING
from app.errors import Refused, Taken, Unavailable
from app.models import Action, InjectedFile, Volume
from app.volumes import sweep
from tests.api.caisson import BUSY, Caisson, error_of, eventually
from tests.api.capsule import template

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = b"key=\x00\xffsecret\n"
CONFIG = {"type": "bind", "source": base64.b64encode(SECRET).decode(), "destination": "/etc/app/config"}


async def make(caisson: Caisson, name: str = "data", who: str = "member", **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = await caisson.ok("POST", "/v1/volumes", {"name": name, **more}, who=who)
    return made


async def held(caisson: Caisson) -> set[str]:
    """The volumes that the engine has of this test's projects."""
    projects = {await caisson.project("alpha"), await caisson.project("beta")}
    return {str(seen.uuid) for seen in await caisson.engine.volumes() if seen.project_id in projects}


async def file_in(caisson: Caisson, box: dict[str, Any], path: str) -> bytes:
    found = await caisson.ok("GET", f"/v1/containers/{box['uuid']}/get_archive?path={path}")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(found["data"]))) as tar:
        content = tar.extractfile(tar.getmembers()[0])
        assert content is not None
        return content.read()


async def delete(caisson: Caisson, box: dict[str, Any], who: str = "member") -> None:
    await caisson.ok("DELETE", f"/v1/containers/{box['uuid']}?stop=1", who=who)
    await caisson.until_gone(box["uuid"])


async def test_a_volume_is_made_shown_listed_and_deleted(caisson: Caisson) -> None:
    volume = await make(caisson)
    assert (volume["name"], volume["size"], volume["container_uuid"]) == ("data", None, None)
    for ident in ("data", volume["uuid"]):
        assert await caisson.ok("GET", f"/v1/volumes/{ident}") == volume
    assert await caisson.ok("GET", "/v1/volumes") == {"volumes": [volume], "next": None}
    assert await held(caisson) == set()
    error_of(await caisson.call("POST", "/v1/volumes", {"name": "data"}), 409, "volume-already-exists")
    theirs = await make(caisson, who="foreign")
    assert theirs["uuid"] != volume["uuid"]
    assert (await caisson.call("DELETE", "/v1/volumes/data")).status_code == 204
    error_of(await caisson.call("GET", "/v1/volumes/data"), 404, "volume-not-found")
    assert await caisson.ok("GET", "/v1/volumes/data", who="foreign") == theirs


async def test_a_project_has_so_many_volumes_whatever_comes_at_once(caisson: Caisson) -> None:
    project, limit = await caisson.project("alpha"), caisson.settings.maximum_volumes
    async with caisson.running.gateway.database.transaction(EVERYTHING) as session:
        for number in range(limit - 3):
            owner: dict[str, Any] = {
                "project_id": project,
                "user_id": "u",
                "backend": caisson.engine.name,
                "created_at": 1.0,
            }
            session.add(Volume(name=f"old-{number}", **owner))
            session.add(Volume(name=f"own-{number}", container_id=str(uuid4()), **owner))
    await caisson.token("member")
    answers = await asyncio.gather(*(caisson.call("POST", "/v1/volumes", {"name": f"v{n}"}) for n in range(8)))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 403: 5}
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert f"volumes (limit {limit}, in use {limit}, requested 1)" in error_of(refused, 403, "over-quota")["title"]
    await make(caisson, who="foreign")
    listed = (await caisson.ok("GET", "/v1/volumes?limit=1"))["volumes"]
    assert (await caisson.call("DELETE", f"/v1/volumes/{listed[0]['uuid']}")).status_code == 204
    await make(caisson, "another")
    mounted = {"image": BUSY, "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    body = template(mounted, volumes=[{"name": "kept", "cinder": {"size": 1}}])
    error_of(await caisson.call("POST", "/v1/capsules", body), 403, "over-quota")
    body = template(mounted, volumes=[{"name": "kept", "cinder": {"size": 1, "autoRemove": True}}])
    await caisson.ok("POST", "/v1/capsules", body)


async def test_what_is_in_a_volume_outlives_its_container(caisson: Caisson) -> None:
    volume = await make(caisson)
    mount = {"source": "data", "destination": "/data"}
    first = await caisson.made(run=True, mounts=[mount])
    assert caisson.engine.spec(UUID(first["uuid"])).mounts == (VolumeMount(UUID(volume["uuid"]), "/data"),)
    archive = base64.b64encode(_tar("kept", b"content")).decode()
    await caisson.ok("POST", f"/v1/containers/{first['uuid']}/put_archive?path=/data", {"data": archive})
    await caisson.ok("POST", f"/v1/containers/{first['uuid']}/rebuild")
    await caisson.until(first["uuid"], "Running")
    assert await file_in(caisson, first, "/data/kept") == b"content"
    error = error_of(await caisson.call("DELETE", "/v1/volumes/data"), 409, "volume-in-use")
    assert first["uuid"] in error["title"]
    await delete(caisson, first)
    second = await caisson.made(mounts=[{"source": volume["uuid"], "destination": "/other", "type": "volume"}])
    assert await file_in(caisson, second, "/other/kept") == b"content"
    await delete(caisson, second)
    assert await held(caisson) == {volume["uuid"]}
    caisson.engine.fail_next("remove_volume", Unavailable("away"))
    await caisson.ok("DELETE", "/v1/volumes/data")
    await eventually(lambda: _none_held(caisson), lambda: "the engine still has it")
    (action,) = await caisson.running.rows(Action, Action.resource_id == volume["uuid"])
    assert (action.verb, action.resource_kind) == ("delete", "volume")


def _tar(path: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(path)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


async def _none_held(caisson: Caisson) -> bool:
    return not await held(caisson)


async def test_a_volume_by_size_goes_with_its_container(caisson: Caisson) -> None:
    box = await caisson.made(run=True, mounts=[{"size": "2", "destination": "/data"}])
    (volume,) = (await caisson.ok("GET", "/v1/volumes"))["volumes"]
    assert (volume["size"], volume["container_uuid"]) == (2, box["uuid"])
    assert await held(caisson) == {volume["uuid"]}
    error_of(await caisson.call("DELETE", f"/v1/volumes/{volume['uuid']}"), 409, "volume-in-use")
    stolen = await caisson.call(
        "POST", "/v1/containers", {"image": "busybox", "mounts": [{"source": volume["uuid"], "destination": "/d"}]}
    )
    error_of(stolen, 404, "volume-not-found")
    caisson.engine.fail_next("remove_volume", Taken("in use"))
    await caisson.ok("DELETE", f"/v1/containers/{box['uuid']}?stop=1")
    await caisson.until(box["uuid"], "Error")
    await delete(caisson, box)
    assert await held(caisson) == set()
    assert (await caisson.ok("GET", "/v1/volumes"))["volumes"] == []


async def test_an_engine_without_limits_refuses_sizes(caisson: Caisson) -> None:
    engine = caisson.engine
    able, engine.abilities = engine.abilities, engine.abilities - {Ability.VOLUME_SIZE}
    try:
        for path, body in (
            ("/v1/volumes", {"name": "sized", "size": 1}),
            ("/v1/containers", {"image": "busybox", "mounts": [{"size": 1, "destination": "/data"}]}),
        ):
            title = error_of(await caisson.call("POST", path, body), 501, "unsupported")["title"]
            assert "volume_size" in title
            assert "/v1/volumes" in title
        await make(caisson)
        engine.abilities -= {Ability.VOLUMES}
        error_of(await caisson.call("POST", "/v1/volumes", {"name": "other"}), 501, "unsupported")
    finally:
        engine.abilities = able


async def test_another_projects_volume_is_not_there(caisson: Caisson) -> None:
    volume = await make(caisson)
    for source in ("data", volume["uuid"]):
        for who in ("foreign", "admin"):
            body = {"image": "busybox", "mounts": [{"source": source, "destination": "/data"}]}
            error_of(await caisson.call("POST", "/v1/containers", body, who=who), 404, "volume-not-found")
        error_of(await caisson.call("DELETE", f"/v1/volumes/{source}", who="foreign"), 404, "volume-not-found")
    assert (await caisson.ok("GET", "/v1/volumes", who="foreign"))["volumes"] == []


async def test_files_are_there_before_the_start_and_after_every_rebuild(caisson: Caisson) -> None:
    box = await caisson.made(run=True, mounts=[CONFIG])
    assert await file_in(caisson, box, "/etc/app/config") == SECRET
    await caisson.ok("POST", f"/v1/containers/{box['uuid']}/rebuild")
    await caisson.until(box["uuid"], "Running")
    assert await file_in(caisson, box, "/etc/app/config") == SECRET
    (file,) = await caisson.running.rows(InjectedFile, InjectedFile.container_id == box["uuid"])
    assert CONFIG["source"] not in file.content
    assert caisson.running.gateway.vault.open(file.content) == CONFIG["source"]
    (action, *_) = await caisson.actions(box["uuid"])
    assert CONFIG["source"] not in str(action.args)
    await delete(caisson, box)
    assert await caisson.running.rows(InjectedFile, InjectedFile.container_id == box["uuid"]) == []


async def test_what_was_lost_is_healed_with_all_that_it_mounts(caisson: Caisson) -> None:
    await make(caisson)
    mounts = [CONFIG, {"source": "data", "destination": "/data"}]
    box = await caisson.made(run=True, auto_heal=True, mounts=mounts)
    before = await caisson.engine.find(UUID(box["uuid"]))
    caisson.engine.vanish(UUID(box["uuid"]))

    async def healed() -> bool:
        seen = await caisson.engine.find(UUID(box["uuid"]))
        return seen is not None and before is not None and seen.ref != before.ref

    await eventually(healed, lambda: "it was not made again")
    await caisson.until(box["uuid"], "Running")
    assert await file_in(caisson, box, "/etc/app/config") == SECRET
    (mount,) = caisson.engine.spec(UUID(box["uuid"])).mounts
    assert mount.path == "/data"


async def test_a_volume_without_a_row_is_removed_when_the_log_knows_it(caisson: Caisson) -> None:
    volume, stranger = await make(caisson), uuid4()
    await caisson.ok("DELETE", "/v1/volumes/data")

    async def ended() -> bool:
        return not await caisson.unfinished(volume["uuid"])

    await eventually(ended, lambda: "it is still being removed")
    for uuid in (UUID(volume["uuid"]), stranger):
        await caisson.engine.create_volume(uuid, await caisson.project("alpha"), None)
    await sweep(caisson.engine, caisson.running.gateway.database)
    assert await held(caisson) == {str(stranger)}


async def test_no_start_without_its_files(caisson: Caisson) -> None:
    """Whatever is cut off between making and starting: the container never runs without them."""
    for error, after in ((Unavailable("cut off"), False), (Unavailable("cut off"), True)):
        caisson.engine.fail_next("put_archive", error, after=after)
        box = await caisson.made(run=True, mounts=[CONFIG])
        assert await file_in(caisson, box, "/etc/app/config") == SECRET
    caisson.engine.fail_next("put_archive", Refused("rootfs is marked read-only"))
    uuid = (await caisson.create(run=True, mounts=[CONFIG]))["uuid"]
    shown = await caisson.until(uuid, "Error")
    assert "read-only" in shown["status_reason"]
    await caisson.ok("POST", f"/v1/containers/{uuid}/start")
    assert await file_in(caisson, await caisson.until(uuid, "Running"), "/etc/app/config") == SECRET


@pytest.mark.parametrize(
    ("mounts", "word"),
    [
        ([{"destination": "/d"}], "either source or size"),
        ([{"source": "data", "size": 1, "destination": "/d"}], "either source or size"),
        ([{"source": "data"}], "destination"),
        ([{"source": "", "destination": "/d"}], "source"),
        ([{"type": "tmpfs", "source": "data", "destination": "/d"}], "type"),
        ([{"type": "bind", "size": 1, "destination": "/d"}], "source"),
        ([{"type": "bind", "source": "§", "destination": "/d"}], "source"),
        ([{**CONFIG, "destination": "/etc/hosts"}], "/etc/hosts"),
        ([{"source": "data", "destination": "d"}], "absolute"),
        ([{"source": "data", "destination": "/a/../b"}], "absolute"),
        ([{"source": "data", "destination": "/"}], "system"),
        ([{"source": "data", "destination": "//"}], "absolute"),
        ([{"source": "data", "destination": "/./"}], "system"),
        ([{"source": "data", "destination": "/proc/sys"}], "system"),
        ([{"source": "data", "destination": "/dev"}], "system"),
        ([{"source": "data", "destination": "/a\nb"}], "printable"),
        ([{"source": "data", "destination": "/" + "a" * 256}], "255"),
        ([{"source": "data", "destination": "/d"}, {"size": 1, "destination": "/d/"}], "two"),
        ([{"size": 0, "destination": "/d"}], "size"),
        ([{"size": 1000, "destination": "/d"}], "size"),
        ([{"size": "1g", "destination": "/d"}], "size"),
    ],
)
async def test_a_bad_mount_is_named(caisson: Caisson, mounts: list[dict[str, Any]], word: str) -> None:
    await make(caisson)
    answer = await caisson.call("POST", "/v1/containers", {"image": "busybox", "mounts": mounts})
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["errors"][0]["title"]
    assert (await caisson.ok("GET", "/v1/containers"))["containers"] == []
    assert len((await caisson.ok("GET", "/v1/volumes"))["volumes"]) == 1


async def test_what_is_refused_leaves_nothing(caisson: Caisson) -> None:
    """A later mount, or a later check, takes back what earlier ones stored."""
    mounts = [CONFIG, {"size": 1, "destination": "/d"}, {"source": str(uuid4()), "destination": "/e"}]
    answer = await caisson.call("POST", "/v1/containers", {"image": "busybox", "mounts": mounts})
    error_of(answer, 404, "volume-not-found")
    project = await caisson.project("alpha")
    assert await caisson.running.rows(Volume, Volume.project_id == project) == []
    assert await caisson.running.rows(InjectedFile, InjectedFile.project_id == project) == []
    await caisson.nothing_stored()

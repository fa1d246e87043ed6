"""Dedicated cores, health, and what only administrators or operators may ask of a container."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import select

from app.backends.engine import Ability
from app.db import EVERYTHING
from app.errors import Refused
from app.models import PinnedCore
from tests.api.caisson import BUSY, Caisson, error_of, eventually, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEDICATED = {"image": BUSY, "command": ["sleep", "9"], "cpu_policy": "dedicated", "cpu": 1}


async def pinned(caisson: Caisson) -> list[int]:
    async with caisson.running.gateway.database.reading(EVERYTHING) as session:
        return list((await session.exec(select(PinnedCore.number))).all())


async def test_a_dedicated_core_is_one_containers_alone(caisson: Caisson) -> None:
    """The engine has two cores, of which one stays for those that share; of several that ask at once one gets it."""
    await asyncio.gather(caisson.project("alpha"), caisson.project("beta"))
    answers = await asyncio.gather(
        *(caisson.call("POST", "/v1/containers", DEDICATED, who=who) for who in ("member", "foreign") * 3)
    )
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    assert len(accepted) == 1
    for answer in answers:
        if answer.status_code != 202:
            assert "0 of the host's 2 are left" in error_of(answer, 409, "conflict")["title"].replace(", and 0", " 0")
    box = accepted[0]
    assert box["cpu_policy"] == "dedicated"
    await caisson.until(box["uuid"], "Created", who="admin")
    assert tuple(caisson.engine.spec(UUID(box["uuid"])).cores) == (1,)
    assert await pinned(caisson) == [1]
    path = f"/v1/containers/{box['uuid']}"
    error_of(await caisson.call("PATCH", path, {"cpu": 2}, who="admin"), 400, "invalid-value")
    await caisson.ok("PATCH", path, {"cpu": 1, "memory": 64}, who="admin")
    await caisson.ok("DELETE", path, who="admin")
    await caisson.until_gone(box["uuid"])
    assert await pinned(caisson) == []
    await caisson.made(cpu_policy="shared", cpu=2)


async def test_an_engine_that_cannot_pin(caisson: Caisson) -> None:
    engine = caisson.engine
    able, engine.abilities = engine.abilities, engine.abilities - {Ability.PIN}
    try:
        title = error_of(await caisson.call("POST", "/v1/containers", DEDICATED), 501, "unsupported")["title"]
    finally:
        engine.abilities = able
    assert "shared" in title
    assert await pinned(caisson) == []


async def test_health_is_told(caisson: Caisson) -> None:
    box = await caisson.made(run=True, healthcheck={"cmd": "true", "interval": 1})
    detail = None

    async def told() -> bool:
        nonlocal detail
        detail = (await caisson.show(box["uuid"]))["status_detail"]
        return detail is not None

    await eventually(told, lambda: f"it is {detail}")
    assert str(detail).startswith("Up ")
    assert str(detail).endswith(" (starting)")


async def test_security_groups_until_1_14(caisson: Caisson) -> None:
    box = await caisson.made()

    async def ask(verb: str, name: str, version: str = "container 1.14") -> int:
        path = f"/v1/containers/{box['uuid']}/{verb}_security_group?name={name}"
        answer = await caisson.call("POST", path, version=version)
        await caisson.until(box["uuid"], "Created")
        return answer.status_code

    assert await ask("add", "nope") == 400
    assert await ask("remove", "default") == 400
    assert await ask("add", "default") == 202
    (group,) = (await caisson.show(box["uuid"]))["security_groups"]
    assert await ask("add", group) == 400
    assert await ask("remove", group) == 202
    assert (await caisson.show(box["uuid"]))["security_groups"] == []
    assert await ask("add", "default", "container 1.15") == 406
    assert [action.verb for action in await caisson.actions(box["uuid"])] == [
        "create", "add_security_group", "remove_security_group",
    ]  # fmt: skip


async def test_an_operator_may_allow_privileged_containers(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('"container:create:privileged": "role:admin or role:member"\n')
    async with running(f"sqlite+aiosqlite:///{tmp_path}/own.db", tmp_path, ("member",), policy_file=policy) as own:
        place = Caisson(own)
        box = await place.made(run=True, privileged=True)
        assert own.engine.spec(UUID(box["uuid"])).privileged
        assert (await place.show(box["uuid"], who="admin"))["privileged"] is True
        own.engine.fail_next("create", Refused("privileged mode is incompatible with user namespaces"))
        refused = await place.until((await place.create(privileged=True))["uuid"], "Error")
        assert "user namespaces" in refused["status_reason"]

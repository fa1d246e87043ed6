"""Quotas and quota classes, as administrators set them and as projects meet them."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.api.caisson import Caisson, error_of
from tests.api.capsule import template

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEFAULTS = {"containers": 40, "memory": 51200, "disk": 100, "cpu": 20}


async def path(caisson: Caisson, name: str = "alpha") -> str:
    return f"/v1/quotas/{await caisson.project(name)}"


async def test_defaults(caisson: Caisson) -> None:
    for who in ("reader", "member", "admin"):
        assert await caisson.ok("GET", await path(caisson), who=who) == DEFAULTS
        assert await caisson.ok("GET", f"{await path(caisson)}/defaults", who=who) == DEFAULTS


async def test_usage(caisson: Caisson) -> None:
    await caisson.made(cpu=0.5, memory=100)
    await caisson.made(cpu=0.25, memory=50)
    await caisson.made(who="foreign")
    for usages in ("True", "1", "False"):  # as with Zun, anything that is not empty
        used = await caisson.ok("GET", f"{await path(caisson)}?usages={usages}")
        assert used == {
            "containers": {"limit": 40, "in_use": 2},
            "memory": {"limit": 51200, "in_use": 150},
            "disk": {"limit": 100, "in_use": 0},
            "cpu": {"limit": 20, "in_use": 0.75},
        }
    assert await caisson.ok("GET", f"{await path(caisson)}?usages=") == DEFAULTS
    other = await caisson.ok("GET", f"{await path(caisson, 'beta')}?usages=1", who="admin")
    assert other["containers"]["in_use"] == 1


async def test_set_and_reset(caisson: Caisson) -> None:
    quota = await path(caisson)
    assert await caisson.ok("PUT", quota, {"containers": "3", "cpu": -1}, who="admin") == DEFAULTS | {
        "containers": 3, "cpu": -1,
    }  # fmt: skip
    assert await caisson.ok("PUT", quota, {"memory": "-1"}, who="admin") == DEFAULTS | {
        "containers": 3, "cpu": -1, "memory": -1,
    }  # fmt: skip
    assert (await caisson.ok("GET", quota))["containers"] == 3
    assert await caisson.ok("GET", f"{quota}/defaults") == DEFAULTS
    assert await caisson.ok("GET", await path(caisson, "beta"), who="foreign") == DEFAULTS
    answer = await caisson.call("DELETE", quota, who="admin")
    assert (answer.status_code, answer.json()) == (200, None)
    assert await caisson.ok("GET", quota) == DEFAULTS


@pytest.mark.parametrize("value", [-2, "-2", "x", "", 1.5, "1.5", None, True, [], 2**31, "9" * 30, "--1", "٣"])
async def test_a_value_that_is_none(caisson: Caisson, value: Any) -> None:
    for where in (await path(caisson), "/v1/quota_classes/odd"):
        answer = await caisson.call("PUT", where, {"containers": value}, who="admin")
        error = error_of(answer, 400, "invalid-quota-value")
        assert str(2**31 - 1) in error["title"]
    assert await caisson.ok("GET", await path(caisson)) == DEFAULTS


async def test_a_resource_that_is_none(caisson: Caisson) -> None:
    for where in (await path(caisson), "/v1/quota_classes/odd"):
        answer = await caisson.call("PUT", where, {"nope": 5}, who="admin")
        assert "nope" in error_of(answer, 400, "schema-validation-error")["title"]
        answer = await caisson.call("PUT", f"{where}?containers=5", {"containers": 5}, who="admin")
        assert "containers" in error_of(answer, 400, "schema-validation-error")["title"]


async def test_another_projects_quotas(caisson: Caisson) -> None:
    for rule, more in (("quota:get", ""), ("quota:get_default", "/defaults")):
        answer = await caisson.call("GET", await path(caisson, "beta") + more)
        assert rule in error_of(answer, 403, "policy-not-authorized")["title"]
    assert (await caisson.call("GET", "/v1/quotas")).status_code == 404


async def test_a_class_that_nobody_made_has_the_defaults_and_counts_for_nobody(caisson: Caisson) -> None:
    where = f"/v1/quota_classes/gold-{await caisson.project('alpha')}"
    assert await caisson.ok("GET", where, who="admin") == DEFAULTS
    assert await caisson.ok("PUT", where, {"containers": 0}, who="admin") == DEFAULTS | {"containers": 0}
    assert await caisson.ok("GET", where, who="admin") == DEFAULTS | {"containers": 0}
    assert await caisson.ok("GET", await path(caisson)) == DEFAULTS
    await caisson.create()


async def test_many_at_once_get_what_there_is(caisson: Caisson) -> None:
    await caisson.ok("PUT", await path(caisson), {"containers": 5, "cpu": -1}, who="admin")
    body = {"image": "busybox", "command": ["true"], "memory": 8}
    answers = await asyncio.gather(*(caisson.call("POST", "/v1/containers", body) for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {202: 5, 403: 15}
    refused = next(answer for answer in answers if answer.status_code == 403)
    title = error_of(refused, 403, "over-quota")["title"]
    assert title == "Quota exceeded for resources: containers (limit 5, in use 5, requested 1)"
    # Whoever deletes one may make another.
    first = next(answer.json() for answer in answers if answer.status_code == 202)
    await caisson.until(first["uuid"], "Created")
    await caisson.ok("DELETE", f"/v1/containers/{first['uuid']}")
    await caisson.until_gone(first["uuid"])
    await caisson.ok("POST", "/v1/containers", body)


async def test_growing_needs_what_is_there(caisson: Caisson) -> None:
    box = await caisson.made(cpu=0.5, memory=100)
    await caisson.ok("PUT", await path(caisson), {"memory": 150, "cpu": 1}, who="admin")
    for verb, where in (("PATCH", ""), ("POST", "/resize_container")):
        answer = await caisson.call(verb, f"/v1/containers/{box['uuid']}{where}", {"memory": 151, "cpu": 1.5})
        title = error_of(answer, 403, "over-quota")["title"]
        assert "memory (limit 150, in use 100, requested 51), cpu (limit 1, in use 0.5, requested 1)" in title
    changed = await caisson.ok("PATCH", f"/v1/containers/{box['uuid']}", {"memory": 150, "cpu": 1})
    assert (changed["memory"], changed["cpu"]) == ("150", 1.0)
    await caisson.ok("PUT", await path(caisson), {"memory": 10}, who="admin")
    await caisson.ok("PATCH", f"/v1/containers/{box['uuid']}", {"memory": 140})


async def test_members_of_capsules_count(caisson: Caisson) -> None:
    await caisson.ok("PUT", await path(caisson), {"containers": 1}, who="admin")
    await caisson.create()
    answer = await caisson.call("POST", "/v1/capsules", template(name="more"))
    assert "containers (limit 1, in use 1" in error_of(answer, 403, "over-quota")["title"]

"""A container's place on its project's network: listed, detached, attached again."""

from typing import Any

import pytest

from tests.api.caisson import Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def places(caisson: Caisson, uuid: str, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await caisson.ok("GET", f"/v1/containers/{uuid}/network_list", **more))["networks"]
    return found


async def done(caisson: Caisson, uuid: str) -> dict[str, Any]:
    async def ended() -> bool:
        return not await caisson.unfinished(uuid)

    await eventually(ended, lambda: "an action is under way")
    return await caisson.show(uuid)


async def test_the_list_has_two_shapes(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    ((network, (address,)),) = box["addresses"].items()
    fixed = {"subnet_id": address["subnet_id"], "version": 4, "ip_address": address["addr"]}
    assert await places(caisson, box["uuid"]) == [
        {"net_id": network, "port_id": address["port"], "fixed_ips": [fixed]},
    ]
    assert await places(caisson, box["uuid"], version="container 1.17") == [
        {"net_id": network, "port_id": address["port"], **fixed},
    ]
    assert await places(caisson, box["uuid"], who="admin") == await places(caisson, box["uuid"], who="reader")
    answer = await caisson.call("GET", f"/v1/containers/{box['uuid']}/network_list", version="container 1.12")
    assert answer.status_code == 406
    resting = await caisson.made()
    assert [place["fixed_ips"] for place in await places(caisson, resting["uuid"])] == [[]]
    assert await places(caisson, resting["uuid"], version="container 1.13") == []


@pytest.mark.parametrize("by", ["network=project", "network={net_id}", "port={port_id}"])
async def test_off_and_on_again(caisson: Caisson, by: str) -> None:
    box = await caisson.made(run=True)
    where = f"/v1/containers/{box['uuid']}"
    (place,) = await places(caisson, box["uuid"])
    answer = await caisson.call("POST", f"{where}/network_detach?{by.format(**place)}")
    assert (answer.status_code, answer.json()) == (202, None)
    assert (await done(caisson, box["uuid"]))["addresses"] == {}
    assert await places(caisson, box["uuid"]) == []
    assert "is not attached" in error_of(
        await caisson.call("POST", f"{where}/network_detach?{by.format(**place)}"), 400, "invalid-value"
    )["title"]  # fmt: skip
    # It stays off whatever becomes of it.
    for verb in ("reboot", "rebuild"):
        await caisson.ok("POST", f"{where}/{verb}")
        assert (await caisson.until(box["uuid"], "Running"))["addresses"] == {}
    answer = await caisson.call("POST", f"{where}/network_attach?{by.format(**place)}")
    assert (answer.status_code, answer.json()) == (200, None)
    shown = await done(caisson, box["uuid"])
    assert list(shown["addresses"]) == [place["net_id"]]
    assert len(await places(caisson, box["uuid"])) == 1
    answer = await caisson.call("POST", f"{where}/network_attach")
    assert "already attached" in error_of(answer, 400, "invalid-value")["title"]
    verbs = [row.verb for row in await caisson.actions(box["uuid"])]
    assert verbs == ["create", "network_detach", "reboot", "rebuild", "network_attach"]


@pytest.mark.parametrize(
    ("verb", "query", "status", "code", "said"),
    [
        ("attach", "network=a&port=b", 400, "schema-validation-error", "not both"),
        ("attach", "network=nowhere", 404, "network-not-found", "nowhere"),
        ("attach", "port=nobody", 404, "port-not-found", "nobody"),
        ("attach", "fixed_ip=10.0.0.300", 400, "schema-validation-error", "10.0.0.300"),
        ("attach", "fixed_ip=10.0.0.3", 400, "invalid-value", "chosen by the engine"),
        ("attach", "colour=red", 400, "schema-validation-error", "colour"),
        ("attach", "network=", 400, "schema-validation-error", "network"),
        ("detach", "", 400, "schema-validation-error", "exactly one"),
        ("detach", "network=project&port=b", 400, "schema-validation-error", "exactly one"),
        ("detach", "network=nowhere", 404, "network-not-found", "nowhere"),
        ("detach", "port=nobody", 404, "port-not-found", "nobody"),
        ("detach", "network=project&fixed_ip=10.0.0.3", 400, "schema-validation-error", "fixed_ip"),
    ],
)
async def test_refusals(caisson: Caisson, verb: str, query: str, status: int, code: str, said: str) -> None:
    box = await caisson.put()
    answer = await caisson.call("POST", f"/v1/containers/{box.uuid}/network_{verb}?{query}")
    assert said in error_of(answer, status, code)["title"]
    assert not await caisson.actions(box.uuid)


async def test_versions(caisson: Caisson) -> None:
    box = await caisson.put()
    for verb, first in (("attach", 8), ("detach", 6)):
        path = f"/v1/containers/{box.uuid}/network_{verb}?network=nowhere"
        assert (await caisson.call("POST", path, version=f"container 1.{first - 1}")).status_code == 406
        assert (await caisson.call("POST", path, version=f"container 1.{first}")).status_code == 404

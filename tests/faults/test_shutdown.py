"""SIGTERM: what runs is finished or handed back, and the exit code is 0."""

import time

from tests.faults.conftest import Place
from tests.faults.gateway import until

SHUTDOWN = 2.0  # seconds that running steps get


async def test_running_steps_finish(place: Place) -> None:
    gateway = await place.gateway()
    slow = await gateway.proxy.add(r"^POST /containers/create\?", "after", "delay", seconds=1.0)
    uuid = await gateway.create(place.image)
    await gateway.proxy.fired(slow)
    assert await gateway.terminate() == 0
    actions = await place.truth.actions()
    assert [(action["state"], action["attempts"]) for action in actions] == [("done", 1)]
    await gateway.start()
    await gateway.reaches(uuid, "Created")
    await place.truth.agree(gateway)


async def test_an_idle_gateway_ends_with_open_connections(place: Place) -> None:
    gateway = await place.gateway()
    assert (await gateway.request("GET", "/v1/containers")).status_code == 200
    assert await gateway.terminate() == 0
    assert "Traceback" not in gateway.log()


async def test_what_does_not_finish_is_handed_back(shared_place: Place) -> None:
    """To another replica, at once: the lease is long here, and does not have to end."""
    first, second = await shared_place.two_replicas(LEASE_SECONDS=600, SHUTDOWN_SECONDS=SHUTDOWN)
    rules = {
        gateway.pid: await gateway.proxy.add(r"^POST /containers/create\?", "before", "hold")
        for gateway in (first, second)
    }
    uuid = await first.create(shared_place.image, run=True)

    async def holder() -> list[int]:
        return [gateway.pid for gateway in (first, second) if await gateway.proxy.acted(rules[gateway.pid])]

    held = (await until(holder, "a replica to make the call"))[0]
    ending, staying = (first, second) if held == first.pid else (second, first)
    await staying.proxy.release(rules[staying.pid])
    began = time.monotonic()
    assert await ending.terminate() == 0
    print(f"ended after {time.monotonic() - began:.1f} s")
    await staying.reaches(uuid, "Running")
    actions = await shared_place.truth.agree(first, second)
    assert [action["attempts"] for action in actions] == [2]


async def test_an_engine_that_hangs_does_not_keep_it(place: Place) -> None:
    gateway = await place.gateway(SHUTDOWN_SECONDS=SHUTDOWN)
    silence = await gateway.proxy.add(".", "before", "hold", every=True)
    uuid = await gateway.create(place.image)

    async def begun() -> bool:
        return bool(await place.truth.actions(state="running"))

    await until(begun, "the step to begin")
    assert await gateway.terminate() == 0
    await gateway.proxy.release(silence)
    assert [action["state"] for action in await place.truth.actions()] == ["queued"]
    await gateway.start()
    await gateway.reaches(uuid, "Created")
    await place.truth.agree(gateway)

"""Neutron away, and SIGKILL, while containers come to its networks and leave them: no port and no bridge is left over.

The network service and the engine are behind proxies of their own.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.gateway import Gateway, Proxy, until
from tests.faults.truth import Truth
from tests.stack import debian
from tests.stack.keystone import SERVICE_PASSWORD, Keystone
from tests.stack.neutron import Neutron
from tests.stack.session import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = "faults-admin"
AWAY = "waiting: The network service (Neutron) cannot be reached."
REQUESTS = 90.0  # seconds for many containers at once: Neutron answers one call at a time


class Cloud:
    """A gateway on a real Neutron, and the truth about ports, bridges and containers."""

    def __init__(self, gateway: Gateway, truth: Truth, neutron: Neutron, keystone: Keystone, proxy: Proxy, image: str):
        self.gateway, self.truth, self.neutron, self.keystone = gateway, truth, neutron, keystone
        self.proxy, self.image = proxy, image
        self.networks: list[str] = []
        self._next = 0

    async def network(self) -> str:
        """A new network with a subnet."""
        self._next += 1
        token = await asyncio.to_thread(self.keystone.token, USER)
        name, cidr = f"n-{secrets.token_hex(3)}", f"10.97.{self._next}.0/24"
        net, _ = await asyncio.to_thread(self.neutron.network, token, name, cidr)
        self.networks.append(net["id"])
        return str(net["id"])

    async def box(self, *networks: str, wait: bool = True) -> str:
        """A container that runs on these networks."""
        nets = [{"network": network} for network in networks]
        uuid = await self.gateway.create(self.image, run=True, nets=nets)
        if wait:
            await self.gateway.reaches(uuid, "Running", REQUESTS)
        return uuid

    async def act(self, uuid: str, verb: str, network: str) -> None:
        """Have `network_attach` or `network_detach` accepted."""
        answer = await self.gateway.request("POST", f"/v1/containers/{uuid}/{verb}", params={"network": network})
        assert answer.status_code in (200, 202), answer.text

    async def is_on(self, uuid: str, *networks: str) -> None:
        """Wait until row, ports and engine say the same: a container runs on just these networks."""
        await self.gateway.reaches(uuid, "Running", REQUESTS)
        seen: Any = None

        async def so() -> bool:
            nonlocal seen
            row = await self.gateway.show(uuid)
            assert row is not None
            ports = {port["id"]: port for port in await self.ports(uuid)}
            shown = {net: [one["addr"] for one in places] for net, places in row["addresses"].items()}
            bound = {port["network_id"]: [ip["ip_address"] for ip in port["fixed_ips"]] for port in ports.values()}
            document = (await self.truth.docker.get(f"/containers/caisson-{uuid}/json")).json()
            places = document["NetworkSettings"]["Networks"]
            joined = {name.removeprefix("caisson-net-"): [place["IPAddress"]] for name, place in places.items()}
            seen = (shown, bound, joined, row["task_state"])
            return shown == bound == joined and set(shown) == set(networks) and len(ports) == len(networks)

        try:
            await until(so, "row, Neutron and engine to agree", REQUESTS)
        except Exception as error:
            error.add_note(f"row, ports, engine: {seen}, wanted {networks}")
            raise

    async def waits(self, uuid: str) -> None:
        """Wait until a container says that Neutron is away."""

        async def says() -> bool:
            row = await self.gateway.show(uuid)
            return row is not None and row["status_reason"] == AWAY

        await until(says, f"container {uuid} to say what it waits for")

    async def delete(self, *uuids: str) -> None:
        """Delete them and wait until nothing is left: no row, no port, no bridge."""
        await asyncio.gather(*(self.gateway.delete(uuid, force="true") for uuid in uuids))
        await self.nothing_left(*uuids)

    async def nothing_left(self, *uuids: str) -> None:
        for uuid in uuids:
            await self.gateway.reaches(uuid, None, REQUESTS)
            assert await self.ports(uuid) == []
        assert await self.bridges() == []

    async def ports(self, uuid: str) -> list[dict[str, Any]]:
        token = await asyncio.to_thread(self.keystone.token, "caisson")
        return await asyncio.to_thread(self.neutron.find, token, "port", device_id=uuid)

    async def bridges(self) -> list[str]:
        """The engine's networks for the networks of these tests."""
        filters = json.dumps({"label": ["caisson.network"]})
        listed = (await self.truth.docker.get("/networks", params={"filters": filters})).json()
        return [one["Name"] for one in listed if one["Labels"]["caisson.network"] in self.networks]

    async def away(self, line: str = "", when: str = "before") -> int:
        """Cut every call to Neutron, or those that match, from now on; `proxy.release` ends that."""
        return await self.proxy.add(line, when, "cut", every=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud(
    stack: Stack, keystone: Keystone, neutron: Neutron, docker_url: str, busybox_image: str
) -> AsyncIterator[Cloud]:
    debian.install(["nft"])
    database = f"sqlite+aiosqlite:///{stack.folder('database')}/caisson.db"
    proxy = Proxy(stack, neutron.url)
    region = keystone.region(f"http://{secrets.token_hex(4)}.invalid/v1", network=proxy.url)

    def login() -> tuple[str, str]:
        token = keystone.token(USER)
        return token, keystone.describe(token)["project"]["id"]

    identity: dict[str, Any] = {
        "KEYSTONE__URL": keystone.url,
        "KEYSTONE__USERNAME": "caisson",
        "KEYSTONE__PASSWORD": SERVICE_PASSWORD,
        "KEYSTONE__PROJECT_NAME": "service",
        "KEYSTONE__REGION": region,
        "PULL_POLICY": "ifnotpresent",
        "LEASE_SECONDS": 10,
    }
    gateway = Gateway(stack, database, docker_url, login=login, **identity)
    truth = Truth(database, docker_url)
    await gateway.start()
    made = Cloud(gateway, truth, neutron, keystone, proxy, busybox_image)
    yield made
    await gateway.close()
    proxy.close()
    for document in (await truth.engine_containers(gateway.project_id)).values():
        await truth.docker.delete(f"/containers/{document['Id']}", params={"force": "true", "v": "true"})
    for name in await made.bridges():
        await truth.docker.delete(f"/networks/{name}")
    await truth.close({gateway.project_id})


async def test_requests_are_refused_while_neutron_is_away(cloud: Cloud) -> None:
    """What has to be looked up there is answered with 503, and nothing is stored; what has not is accepted."""
    first, second = await cloud.network(), await cloud.network()
    box = await cloud.box(first)
    cut = await cloud.away()
    answers = [
        await cloud.gateway.request("POST", "/v1/containers", json={"image": cloud.image, "nets": nets})
        for nets in ([{"network": first}], [])
    ]
    for verb in ("network_attach", "network_detach"):
        path = f"/v1/containers/{box}/{verb}"
        answers.append(await cloud.gateway.request("POST", path, params={"network": second}))
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert "Neutron" in answer.text
    listed = (await cloud.gateway.request("GET", "/v1/containers")).json()["containers"]
    assert [row["uuid"] for row in listed] == [box]
    await cloud.gateway.delete(box, force="true")
    await cloud.waits(box)
    assert await cloud.ports(box)
    await cloud.proxy.release(cut)
    await cloud.nothing_left(box)


async def test_what_was_accepted_waits_for_neutron(cloud: Cloud) -> None:
    first, second = await cloud.network(), await cloud.network()
    settled = await cloud.box(first, second)
    joining = await cloud.box(first)
    # Accepted while Neutron answers, carried out when it does not.
    engine = cloud.gateway.proxy
    held = await engine.add(r"^GET /(containers|images)/.*json", "before", "hold", every=True)
    made = await cloud.box(first, wait=False)
    await cloud.act(joining, "network_attach", second)
    await cloud.act(settled, "network_detach", second)
    cut = await cloud.away()
    await engine.release(held)
    for uuid in (made, joining, settled):
        await cloud.waits(uuid)
    await cloud.proxy.release(cut)
    await cloud.is_on(made, first)
    await cloud.is_on(joining, first, second)
    await cloud.is_on(settled, first)
    for uuid in (made, joining, settled):
        assert ((await cloud.gateway.show(uuid)) or {})["status_reason"] is None
    await cloud.delete(made, joining, settled)


async def test_an_answer_of_neutron_that_is_lost(cloud: Cloud) -> None:
    """The port was made or removed all the same: it is found, and no second one made."""
    first, second = await cloud.network(), await cloud.network()
    box = await cloud.box(first)
    lost = await cloud.proxy.add("^POST /ports", "after", "cut")
    await cloud.act(box, "network_attach", second)
    await cloud.is_on(box, first, second)
    assert await cloud.proxy.acted(lost)
    gone = await cloud.proxy.add("^DELETE /ports", "after", "cut")
    await cloud.act(box, "network_detach", second)
    await cloud.is_on(box, first)
    assert await cloud.proxy.acted(gone)
    await cloud.proxy.release(lost, gone)
    await cloud.delete(box)


async def test_killed_while_containers_come(cloud: Cloud) -> None:
    """At each of these calls one of them; a port whose number is not known yet is told by its turn."""
    networks = [await cloud.network() for _ in range(4)]
    rules = await _hold(
        cloud,
        neutron=[("^POST /ports", "before"), ("^POST /ports", "after")],
        engine=[("^POST /containers/create", "after")],
    )
    uuids = [await cloud.box(network, wait=False) for network in networks[:3]]
    await cloud.gateway.proxy.fired(*rules[1])
    # Last, since only one bridge is made at a time.
    rules[1].append(await cloud.gateway.proxy.add("^POST /networks/create", "after", "hold"))
    uuids.append(await cloud.box(networks[3], wait=False))
    await _kill(cloud, rules)
    for uuid, network in zip(uuids, networks, strict=True):
        await cloud.is_on(uuid, network)
    await cloud.delete(*uuids)


async def test_killed_while_they_join_and_leave(cloud: Cloud) -> None:
    home, other = await cloud.network(), await cloud.network()
    joining = [await cloud.box(home) for _ in range(2)]
    leaving = [await cloud.box(home, other) for _ in range(3)]
    ports = [next(port for port in await cloud.ports(uuid) if port["network_id"] == other) for uuid in leaving]
    connect, disconnect = (f"^POST /networks/caisson-net-{other}/{verb}" for verb in ("connect", "disconnect"))
    rules = await _hold(
        cloud,
        neutron=[(f"^DELETE /ports/{ports[1]['id']}", "before"), (f"^DELETE /ports/{ports[2]['id']}", "after")],
        engine=[(connect, "before"), (connect, "after")],
    )
    for uuid in joining:
        await cloud.act(uuid, "network_attach", other)
    for uuid in leaving[1:]:
        await cloud.act(uuid, "network_detach", other)
    await cloud.proxy.fired(*rules[0])
    rules[1].append(await cloud.gateway.proxy.add(disconnect, "after", "hold"))
    await cloud.act(leaving[0], "network_detach", other)
    await _kill(cloud, rules)
    for uuid in joining:
        await cloud.is_on(uuid, home, other)
    for uuid in leaving:
        await cloud.is_on(uuid, home)
    await cloud.delete(*joining, *leaving)


async def test_killed_while_they_go(cloud: Cloud) -> None:
    networks = [await cloud.network() for _ in range(3)]
    uuids = [await cloud.box(network) for network in networks]
    ports = [(await cloud.ports(uuid))[0]["id"] for uuid in uuids]
    rules = await _hold(
        cloud,
        neutron=[(f"^DELETE /ports/{ports[0]}", "before"), (f"^DELETE /ports/{ports[1]}", "after")],
        engine=[(f"^DELETE /networks/caisson-net-{networks[2]}", "after")],
    )
    await asyncio.gather(*(cloud.gateway.delete(uuid, force="true") for uuid in uuids))
    await _kill(cloud, rules)
    await cloud.nothing_left(*uuids)


async def _hold(
    cloud: Cloud, *, neutron: Sequence[tuple[str, str]], engine: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int]]:
    """Hold these calls, each the first that comes so far: the numbers of the rules."""
    return (
        [await cloud.proxy.add(line, when, "hold") for line, when in neutron],
        [await cloud.gateway.proxy.add(line, when, "hold") for line, when in engine],
    )


async def _kill(cloud: Cloud, rules: tuple[list[int], list[int]]) -> None:
    """Kill the gateway once all have got so far, and start it again."""
    await cloud.proxy.fired(*rules[0])
    await cloud.gateway.proxy.fired(*rules[1])
    await cloud.gateway.kill()
    await cloud.proxy.release(*rules[0])
    await cloud.gateway.proxy.release(*rules[1])
    await cloud.gateway.start()

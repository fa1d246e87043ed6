"""Every call that a real Magnum was asked, asked of Caisson one after the other.

What differs on purpose stands in `ON_PURPOSE`, with the reason; docs/compatibility.md has the same table for readers.
"""

import re
from functools import partial
from pathlib import Path

import httpx
import pytest

from app.backends.driver import ClusterFailed
from tests.api.caisson import Caisson, eventually
from tests.contract.replay import Call, differences, recorded

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEMPLATE = "4ca15b18-0991-48fd-a86c-3c13ccc0b19d"
CLUSTER = "c4ed8546-a037-4d8f-b608-d9ccf25db9cc"
FAILS = "Magnum fails inside (500)"
DROPS = "Magnum answers and drops it, since the creation failed"
ON_PURPOSE: dict[str, tuple[int, str]] = {
    "template: swarm": (201, "Caisson still makes swarm clusters"),
    "template patch in use": (200, "a patch that changes nothing is none"),
    "cluster patch node_count": (400, DROPS),
    "cluster patch zero": (400, DROPS),
    "cluster patch remove": (400, DROPS),
    "resize": (400, DROPS),
    "upgrade": (400, FAILS),
    "quota create member": (403, FAILS),
    "collection PATCH": (405, "a list has no such method"),
    "collection DELETE": (405, "a list has no such method"),
    "collection OPTIONS": (405, "no CORS, so nothing to say to OPTIONS"),
}
LOOSE = ("stack_id", "cluster_id", "faults", "health_status")
"""A cluster whose creation failed has a handle here, says which node groups failed, and takes the health it is told."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"


async def test_recorded_calls(caisson: Caisson) -> None:
    # The templates that Magnum had at the start belonged to others, and there were no clusters.
    for cluster in (await caisson.ok("GET", "/v1/clusters", version=None, who="admin"))["clusters"]:
        await caisson.ok("DELETE", f"/v1/clusters/{cluster['uuid']}", version=None, who="admin")
    await eventually(partial(no_cluster, caisson), lambda: "clusters of other tests are still there", seconds=60)
    for row in (await caisson.ok("GET", "/v1/clustertemplates", version=None, who="admin"))["clustertemplates"]:
        await caisson.ok("DELETE", f"/v1/clustertemplates/{row['uuid']}", version=None, who="admin")
    ours = {
        "image_id": "busybox", "coe": "kubernetes", "flavor_id": "small", "master_flavor_id": "small",
        "keypair_id": "k", "external_network_id": "public",
    }  # fmt: skip
    await caisson.ok("POST", "/v1/clustertemplates", ours, version=None, who="admin")
    driver = caisson.running.driver()
    uuids, found = {TEMPLATE: TEMPLATE, CLUSTER: CLUSTER}, []
    for call in recorded("calls", "magnum"):
        sent = call.content("")
        path = call.path or "/"
        for theirs, own in uuids.items():
            path = path.replace(theirs, own)
            sent = sent.replace(theirs.encode(), own.encode()) if sent is not None else None
        version = call.headers.get("OpenStack-API-Version")
        if version is None and not re.search("cluster|mservices", path):
            continue  # that is Zun's root
        if creates := call.method == "POST" and call.path == "/v1/clusters" and call.status == 202:
            driver.fail_next("converge", ClusterFailed("Flavor m1.small does not have enough CPU"))
        if call.name == "delete":
            driver.freeze()
        headers = {name: value for name, value in call.headers.items() if name != "OpenStack-API-Version"}
        answer = await caisson.call(call.method, path, who=call.who, version=version, headers=headers, raw=sent)
        found += judge(call, answer)
        if call.name == "template create":
            uuids[TEMPLATE] = answer.json()["uuid"]
        if creates:
            uuids[CLUSTER] = answer.json()["uuid"]
            await failed(caisson, uuids[CLUSTER])
    driver.thaw()
    assert not found, "\n".join(found)


async def no_cluster(caisson: Caisson) -> bool:
    return not (await caisson.ok("GET", "/v1/clusters", version=None, who="admin"))["clusters"]


async def failed(caisson: Caisson, uuid: str) -> None:
    async def ended() -> bool:
        return not await caisson.unfinished(uuid)

    await eventually(ended, lambda: f"{uuid} does not fail")


def judge(call: Call, answer: httpx.Response) -> list[str]:
    if call.name in ON_PURPOSE:
        status = ON_PURPOSE[call.name][0]
        return [f"{call.name}: {answer.status_code} instead of {status}"] if answer.status_code != status else []
    return [f"{call.name}: {line} ({answer.text[:200]})" for line in differences(call, answer, LOOSE)]


async def test_every_difference_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert set(ON_PURPOSE) <= {call.name for call in recorded("calls", "magnum")}
    missing = [name for name, (_, reason) in ON_PURPOSE.items() if f"| {name} |" not in text or reason not in text]
    assert not missing

"""Every recorded call of Magnum's version documents and cluster templates, asked of Caisson one after the other.

What differs on purpose stands in `ON_PURPOSE`, with the reason; docs/compatibility.md has the same table for readers.
"""

from pathlib import Path

import pytest

from tests.api.caisson import Caisson
from tests.contract.replay import differences, recorded

pytestmark = pytest.mark.asyncio(loop_scope="session")

RECORDED_TEMPLATE = "4ca15b18-0991-48fd-a86c-3c13ccc0b19d"
ON_PURPOSE: dict[str, tuple[int, str]] = {
    "template: swarm": (201, "Caisson still makes swarm clusters"),
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"


async def test_recorded_calls(caisson: Caisson) -> None:
    # The templates that Magnum had at the start belonged to others.
    for row in (await caisson.ok("GET", "/v1/clustertemplates", version=None, who="admin"))["clustertemplates"]:
        await caisson.ok("DELETE", f"/v1/clustertemplates/{row['uuid']}", version=None, who="admin")
    ours = {
        "image_id": "busybox", "coe": "kubernetes", "flavor_id": "small", "master_flavor_id": "small",
        "keypair_id": "k", "external_network_id": "public",
    }  # fmt: skip
    await caisson.ok("POST", "/v1/clustertemplates", ours, version=None, who="admin")
    uuid, found = RECORDED_TEMPLATE, []
    for call in recorded("templates", "magnum"):
        path = call.path.replace(RECORDED_TEMPLATE, uuid) or "/"
        headers = {name: value for name, value in call.headers.items() if name != "OpenStack-API-Version"}
        version = call.headers.get("OpenStack-API-Version")
        if version is None and "cluster" not in path:
            continue
        sent = call.content("")
        answer = await caisson.call(call.method, path, who=call.who, version=version, headers=headers, raw=sent)
        if call.name in ON_PURPOSE:
            expected = ON_PURPOSE[call.name][0]
            if answer.status_code != expected:
                found.append(f"{call.name}: {answer.status_code} instead of {expected}")
            continue
        found += [f"{call.name}: {line} ({answer.text[:200]})" for line in differences(call, answer)]
        if call.name == "template create":
            uuid = answer.json()["uuid"]
    assert not found, "\n".join(found)


async def test_every_difference_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert set(ON_PURPOSE) <= {call.name for call in recorded("templates", "magnum")}
    missing = [name for name, (_, reason) in ON_PURPOSE.items() if f"| {name} |" not in text or reason not in text]
    assert not missing

"""Ways to hear of another project's things without asking for them: names in bodies and queries, figures, lists, kept
answers, tickets, actions and audit events."""

import json
import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.api.caisson import BUSY, Caisson, eventually
from tests.api.capsule import STAYS, template
from tests.api.routes import CLUSTERS, MAGNUM, NAME, OLD, SAMPLES, TEMPLATES, Things, things_of
from tests.api.test_isolation import absent, looks, statements
from tests.api.websocket import Refused, websocket

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOBODYS = "nowhere0"
"""A name as long as `NAME`, of nothing."""

_SHARED = {"name": "shared", "cinder": {"volumeID": "{volume}"}}
_MOUNTING = STAYS | {"volumeMounts": [{"name": "shared", "mountPath": "/data"}]}
NAMING: list[tuple[str, str, Any]] = [
    ("POST", "/v1/containers", {"image": BUSY, "mounts": [{"source": "{volume}", "destination": "/data"}]}),
    ("POST", "/v1/containers", {"image": BUSY, "registry": "{registry}"}),
    ("POST", "/v1/containers", {"image": BUSY, "availability_zone": "cluster:{cluster}"}),
    ("POST", "/v1/containers", {"image": BUSY, "nets": [{"network": "{project}"}]}),
    ("POST", "/v1/containers", {"image": BUSY, "nets": [{"port": "{box}"}]}),
    ("POST", "/v1/capsules", template(_MOUNTING, volumes=[_SHARED])),
    ("POST", "/v1/capsules", template() | {"availability_zone": "cluster:{cluster}"}),
    ("POST", CLUSTERS, {"cluster_template_id": "{template}", "name": "intruder"}),
    *(
        ("GET", f"{path}?marker={{{kind}}}", None)
        for path, kind in {
            "/v1/containers": "box",
            "/v1/capsules": "capsule",
            "/v1/volumes": "volume",
            "/v1/registries": "registry",
            TEMPLATES: "template",
            CLUSTERS: "cluster",
        }.items()
    ),
    ("GET", f"{MAGNUM}/stats?project_id={{project}}", None),
]
"""Requests that name another project's things elsewhere than in the path."""
LISTS = [path for method, path in SAMPLES if method == "GET" and "{" not in path]
FIGURES = ("/v1/quotas/{project}?usages=true", f"{MAGNUM}/stats", f"{MAGNUM}/quotas/{{project}}/Cluster")


async def same(
    alpha: Things,
    method: str,
    path: str,
    body: Any,
    theirs: dict[str, str],
    none: dict[str, str],
    version: str | None = None,
) -> None:
    """What is alpha's and what nobody has: beta gets the same answer in the same way."""
    await alpha.caisson.token("foreign")
    with statements() as of_absent:
        answer = await alpha.send(method, path, body, "foreign", version, **none)
    with statements() as of_foreign:
        told = await alpha.send(method, path, body, "foreign", version, **theirs)
    assert looks(told, theirs) == looks(answer, none), (method, path)
    assert of_foreign == of_absent, (method, path)
    assert told.status_code in (400, 403, 404, 409), (method, path, told.text)


async def test_naming_is_no_way_in(caisson: Caisson) -> None:
    alpha = await things_of(caisson)
    before = await alpha.snapshot()
    for method, path, body in NAMING:
        await same(alpha, method, path, body, alpha.ids, absent(alpha.ids))
        if "project" not in f"{path} {body}":
            named = dict.fromkeys(alpha.ids, NAME)
            await same(alpha, method, path, body, named, dict.fromkeys(alpha.ids, NOBODYS))
    assert await alpha.snapshot() == before
    for path in ("/v1/containers", "/v1/capsules", CLUSTERS):
        assert (await listed(alpha, path, "foreign")).json()[path.rpartition("/")[2]] == []


async def test_names_belong_to_a_project(caisson: Caisson) -> None:
    """Two projects call everything the same, and each means its own. Beta could not tell that alpha's are there."""
    alpha = await things_of(caisson)
    for route, (path, body) in SAMPLES.items():
        if "{" in path and route[1].startswith(("/v1/containers/", "/v1/capsules/", "/v1/volumes/", CLUSTERS)):
            named = dict.fromkeys(alpha.ids, NAME)
            await same(alpha, route[0], path, body, named, dict.fromkeys(alpha.ids, NOBODYS), OLD.get(route))
    beta = await things_of(caisson, "foreign")
    for things, who in ((alpha, "member"), (beta, "foreign")):
        for kind, path in {
            "box": "/v1/containers",
            "capsule": "/v1/capsules",
            "volume": "/v1/volumes",
            "registry": "/v1/registries",
            "template": TEMPLATES,
            "cluster": CLUSTERS,
        }.items():
            shown = (await alpha.send("GET", f"{path}/{NAME}", None, who)).json()
            assert shown.get("registry", shown)["uuid"] == things.ids[kind]


async def listed(alpha: Things, path: str, who: str) -> httpx.Response:
    return await alpha.send("GET", path, None, who)


async def test_lists_and_figures_are_a_projects_own(caisson: Caisson) -> None:
    """Also those that were kept from the last time, and those that an administrator of everything was shown."""
    alpha = await things_of(caisson)
    quiet = {path: await listed(alpha, path, "foreign") for path in LISTS}
    beta = await caisson.project("beta")
    figures = [await alpha.send("GET", path, None, "foreign", project=beta) for path in FIGURES]
    await alpha.send("POST", "/v1/containers", {"image": BUSY, "cpu": 1, "memory": 64}, "member")
    await alpha.send("POST", "/v1/volumes", {"name": "another"}, "member")
    for _ in range(2):
        for path in LISTS:
            for query in ("", "?all_projects=true"):
                await listed(alpha, path + query, "admin")
            mine = await listed(alpha, path, "member")
            told = await listed(alpha, path, "foreign")
            assert looks(told, {}) == looks(quiet[path], {}), path
            known = [ident for kind, ident in alpha.ids.items() if kind != "group" and ident in told.text]
            assert known == [], path
            assert mine.status_code == told.status_code
    again = [await alpha.send("GET", path, None, "foreign", project=beta) for path in FIGURES]
    assert [looks(answer, {}) for answer in again] == [looks(answer, {}) for answer in figures]
    mine = await alpha.send("GET", FIGURES[0], None, "member")
    assert mine.json() != again[0].json()


async def test_actions_and_commands_belong_to_their_container(caisson: Caisson) -> None:
    alpha = await things_of(caisson)
    box = await caisson.made(who="foreign", run=True)
    path = "/v1/containers/{box}/container_actions/{request}"
    own = {"box": box["uuid"]}
    await same(alpha, "GET", path, None, alpha.ids | own, absent(alpha.ids) | own)
    command = "/v1/containers/{box}/execute?command=sh&run=false&interactive=true"
    prepared = (await alpha.send("POST", command, None, "member")).json()["exec_id"]
    resize = "/v1/containers/{box}/execute_resize?exec_id={exec}&h=1&w=1"
    ids, none = own | {"exec": prepared}, own | {"exec": uuid4().hex * 2}
    await same(alpha, "POST", resize, None, ids, none)


async def test_a_ticket_opens_nothing_else(caisson: Caisson) -> None:
    """Neither another project's container, nor the same twice; refusals do not tell which it was."""
    mine = await caisson.made(run=True, interactive=True, tty=True, command=["cat"])
    theirs = await caisson.made(run=True, interactive=True, tty=True, command=["cat"], who="foreign")

    async def ticket(box: dict[str, Any], who: str) -> str:
        url: str = await caisson.ok("GET", f"/v1/containers/{box['uuid']}/attach", who=who)
        return parse_qs(urlsplit(url).query)["token"][0]

    async def refused(token: str, uuid: str) -> Any:
        with pytest.raises(Refused) as told:
            async with websocket(caisson.running.app, f"ws://test/container/websocket?token={token}&uuid={uuid}"):
                pass
        error = json.loads(told.value.body)["errors"][0]
        return told.value.status, error | {"request_id": ""}

    nothing = await refused("x" * 43, mine["uuid"])
    assert await refused(await ticket(mine, "member"), theirs["uuid"]) == nothing
    assert await refused(await ticket(theirs, "foreign"), mine["uuid"]) == nothing
    assert await refused(await ticket(mine, "member"), str(uuid4())) == nothing
    used = await ticket(mine, "member")
    async with websocket(caisson.running.app, f"ws://test/container/websocket?token={used}&uuid={mine['uuid']}"):
        pass
    assert await refused(used, mine["uuid"]) == nothing


async def test_a_commit_is_its_projects_image(caisson: Caisson) -> None:
    """By name and by uuid it is to others what no image is: something that cannot be pulled."""
    box = await caisson.made(run=True)
    commit = f"/v1/containers/{box['uuid']}/commit?repository={NAME}&tag=one"
    image = (await caisson.ok("POST", commit))["uuid"]

    async def there() -> bool:
        return not await caisson.unfinished(box["uuid"])

    await eventually(there, lambda: "the commit was not made")

    async def reason(image: str, who: str) -> str:
        made = await caisson.create(image=image, who=who)
        shown = await caisson.until(made["uuid"], "Created", "Error", who=who)
        told: str = f"{shown['status']} {shown['status_reason']}"
        return told.replace(image.partition(":")[0], "…")

    assert (await reason(f"{NAME}:one", "member")).startswith("Created")
    for told, none in ((f"{NAME}:one", f"{NOBODYS}:one"), (image, str(uuid4()))):
        assert await reason(told, "foreign") == await reason(none, "foreign")


async def test_audit_events_of_an_intruder_name_the_intruder_alone(
    caisson: Caisson, caplog: pytest.LogCaptureFixture
) -> None:
    alpha = await things_of(caisson)
    with caplog.at_level(logging.INFO, "caisson.audit.events"):
        caplog.clear()
        answer = await alpha.ask(("DELETE", "/v1/containers/{ident}"), "foreign")
    events = [json.loads(line) for line in caplog.messages if line.startswith("{")]
    (event,) = [one for one in events if one["request_id"] == answer.headers["x-openstack-request-id"]]
    assert event["outcome"] == "failure"
    assert event["initiator"]["project_id"] == await caisson.project("beta")
    assert alpha.ids["project"] not in json.dumps(event)

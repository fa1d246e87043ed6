"""Tenancy and roles, on all routes there are: a route that is missing here fails a test."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from app.archives import one_file
from app.policy import RULES, Allow, Who
from tests.api.caisson import BUSY, Caisson, Running, eventually
from tests.api.capsule import made, template

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLIC = {
    ("GET", path)
    for path in (
        "/", "/v1", "/container-infra", "/container-infra/v1", "/healthcheck", "/livez", "/readyz", "/openapi.json",
        "/docs",
    )
}  # fmt: skip
MOUNTED = {"/identity", "/docs"}  # checks tokens by itself; files that anybody may have

MAGNUM = "/container-infra/v1"
TEMPLATES = f"{MAGNUM}/clustertemplates"
CLUSTERS = f"{MAGNUM}/clusters"
GROUPS = f"{CLUSTERS}/{{ident}}/nodegroups"
_NAME = [{"op": "replace", "path": "/name", "value": "intruder"}]

# A good request for every route: what is in braces is replaced by something of project alpha's.
SAMPLES: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/v1/containers"): ("/v1/containers", None),
    ("POST", "/v1/containers"): ("/v1/containers", {"image": BUSY, "name": "intruder"}),
    ("GET", "/v1/containers/{ident}"): ("/v1/containers/{box}", None),
    ("DELETE", "/v1/containers/{ident}"): ("/v1/containers/{box}?stop=1", None),
    ("POST", "/v1/containers/{ident}/start"): ("/v1/containers/{box}/start", None),
    ("POST", "/v1/containers/{ident}/stop"): ("/v1/containers/{box}/stop", None),
    ("POST", "/v1/containers/{ident}/reboot"): ("/v1/containers/{box}/reboot", None),
    ("POST", "/v1/containers/{ident}/pause"): ("/v1/containers/{box}/pause", None),
    ("POST", "/v1/containers/{ident}/unpause"): ("/v1/containers/{box}/unpause", None),
    ("POST", "/v1/containers/{ident}/kill"): ("/v1/containers/{box}/kill", None),
    ("PATCH", "/v1/containers/{ident}"): ("/v1/containers/{box}", {"name": "intruder"}),
    ("POST", "/v1/containers/{ident}/rename"): ("/v1/containers/{box}/rename?name=intruder", None),
    **{
        ("POST", f"/v1/containers/{{ident}}/{verb}_security_group"): (
            f"/v1/containers/{{box}}/{verb}_security_group?name=default", None,
        )
        for verb in ("add", "remove")
    },
    ("POST", "/v1/containers/{ident}/resize_container"): ("/v1/containers/{box}/resize_container", {"memory": 99}),
    ("POST", "/v1/containers/{ident}/rebuild"): ("/v1/containers/{box}/rebuild", None),
    ("POST", "/v1/containers/{ident}/commit"): ("/v1/containers/{box}/commit?repository=intruder", None),
    ("GET", "/v1/containers/{ident}/get_archive"): ("/v1/containers/{box}/get_archive?path=/etc", None),
    ("POST", "/v1/containers/{ident}/put_archive"): (
        "/v1/containers/{box}/put_archive?path=/tmp", {"data": base64.b64encode(one_file("/intruder", b"")).decode()},
    ),
    ("POST", "/v1/containers/{ident}/execute"): ("/v1/containers/{box}/execute?command=true", None),
    ("POST", "/v1/containers/{ident}/execute_resize"): (
        f"/v1/containers/{{box}}/execute_resize?exec_id={'0' * 64}&h=1&w=1", None,
    ),
    ("GET", "/v1/containers/{ident}/attach"): ("/v1/containers/{box}/attach", None),
    ("POST", "/v1/containers/{ident}/resize"): ("/v1/containers/{box}/resize?h=1&w=1", None),
    ("GET", "/v1/containers/{ident}/logs"): ("/v1/containers/{box}/logs", None),
    ("GET", "/v1/containers/{ident}/top"): ("/v1/containers/{box}/top", None),
    ("GET", "/v1/containers/{ident}/stats"): ("/v1/containers/{box}/stats", None),
    ("GET", "/v1/containers/{ident}/container_actions"): ("/v1/containers/{box}/container_actions", None),
    ("GET", "/v1/containers/{ident}/container_actions/{request_id}"): (
        "/v1/containers/{box}/container_actions/{request}", None,
    ),
    ("GET", "/v1/capsules"): ("/v1/capsules", None),
    ("POST", "/v1/capsules"): ("/v1/capsules", template(name="intruder")),
    ("GET", "/v1/capsules/{ident}"): ("/v1/capsules/{capsule}", None),
    ("DELETE", "/v1/capsules/{ident}"): ("/v1/capsules/{capsule}", None),
    ("GET", "/v1/volumes"): ("/v1/volumes", None),
    ("POST", "/v1/volumes"): ("/v1/volumes", {"name": "intruder"}),
    ("GET", "/v1/volumes/{ident}"): ("/v1/volumes/{volume}", None),
    ("DELETE", "/v1/volumes/{ident}"): ("/v1/volumes/{volume}", None),
    ("GET", "/v1/images"): ("/v1/images", None),
    ("POST", "/v1/images"): ("/v1/images", {"repo": "lab/intruder", "host": "local-host"}),
    ("GET", "/v1/images/{name:path}/search"): ("/v1/images/x/search", None),
    ("GET", "/v1/images/{uuid}"): ("/v1/images/{image}", None),
    ("DELETE", "/v1/images/{uuid}"): ("/v1/images/{image}", None),
    ("GET", "/v1/registries"): ("/v1/registries", None),
    ("POST", "/v1/registries"): ("/v1/registries", {"registry": {"domain": "intruder.example"}}),
    ("GET", "/v1/registries/{ident}"): ("/v1/registries/{registry}", None),
    ("PATCH", "/v1/registries/{ident}"): ("/v1/registries/{registry}", {"registry": {"username": "intruder"}}),
    ("DELETE", "/v1/registries/{ident}"): ("/v1/registries/{registry}", None),
    ("GET", "/v1/containers/{ident}/network_list"): ("/v1/containers/{box}/network_list", None),
    ("POST", "/v1/containers/{ident}/network_attach"): ("/v1/containers/{box}/network_attach", None),
    ("POST", "/v1/containers/{ident}/network_detach"): ("/v1/containers/{box}/network_detach?network=project", None),
    ("POST", "/v1/networks"): ("/v1/networks", {"neutron_net_id": "intruder"}),
    ("DELETE", "/v1/networks/{neutron_net_id}"): ("/v1/networks/{box}", None),
    ("GET", "/v1/hosts"): ("/v1/hosts", None),
    ("GET", "/v1/hosts/{ident}"): ("/v1/hosts/local-host", None),
    ("GET", "/v1/services"): ("/v1/services", None),
    ("DELETE", "/v1/services"): ("/v1/services?host=local-host&binary=zun-compute", None),
    ("PUT", "/v1/services/enable"): ("/v1/services/enable?host=local-host&binary=zun-compute", None),
    ("PUT", "/v1/services/disable"): ("/v1/services/disable?host=local-host&binary=zun-compute", None),
    ("PUT", "/v1/services/force_down"): (
        "/v1/services/force_down?host=local-host&binary=zun-compute&forced_down=true", None,
    ),
    ("GET", "/v1/availability_zones"): ("/v1/availability_zones", None),
    ("GET", "/v1/quotas/{project}"): ("/v1/quotas/{project}", None),
    ("GET", "/v1/quotas/{project}/defaults"): ("/v1/quotas/{project}/defaults", None),
    ("PUT", "/v1/quotas/{project}"): ("/v1/quotas/{project}", {"containers": 1}),
    ("DELETE", "/v1/quotas/{project}"): ("/v1/quotas/{project}", None),
    ("GET", "/v1/quota_classes/{name}"): ("/v1/quota_classes/intruder", None),
    ("PUT", "/v1/quota_classes/{name}"): ("/v1/quota_classes/intruder", {"containers": 1}),
    ("GET", TEMPLATES): (TEMPLATES, None),
    ("GET", f"{TEMPLATES}/detail"): (f"{TEMPLATES}/detail", None),
    ("POST", TEMPLATES): (TEMPLATES, {"image_id": BUSY, "coe": "swarm", "name": "intruder"}),
    ("GET", f"{TEMPLATES}/{{ident}}"): (f"{TEMPLATES}/{{template}}", None),
    ("PATCH", f"{TEMPLATES}/{{ident}}"): (
        f"{TEMPLATES}/{{template}}", [{"op": "replace", "path": "/name", "value": "intruder"}],
    ),
    ("DELETE", f"{TEMPLATES}/{{ident}}"): (f"{TEMPLATES}/{{template}}", None),
    ("GET", CLUSTERS): (CLUSTERS, None),
    ("GET", f"{CLUSTERS}/detail"): (f"{CLUSTERS}/detail", None),
    ("POST", CLUSTERS): (CLUSTERS, {"cluster_template_id": "intruders", "name": "intruder"}),
    ("GET", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", None),
    ("GET", f"{CLUSTERS}/{{ident}}/events"): (f"{CLUSTERS}/{{cluster}}/events", None),
    ("PATCH", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", _NAME),
    ("DELETE", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", None),
    ("POST", f"{CLUSTERS}/{{ident}}/actions/resize"): (f"{CLUSTERS}/{{cluster}}/actions/resize", {"node_count": 2}),
    ("POST", f"{CLUSTERS}/{{ident}}/actions/upgrade"): (
        f"{CLUSTERS}/{{cluster}}/actions/upgrade", {"cluster_template": "intruders"},
    ),
    ("GET", GROUPS): (f"{CLUSTERS}/{{cluster}}/nodegroups", None),
    ("POST", GROUPS): (f"{CLUSTERS}/{{cluster}}/nodegroups", {"name": "intruder"}),
    ("GET", f"{GROUPS}/{{nodegroup}}"): (f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", None),
    ("PATCH", f"{GROUPS}/{{nodegroup}}"): (
        f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", [{"op": "replace", "path": "/max_node_count", "value": 9}],
    ),
    ("DELETE", f"{GROUPS}/{{nodegroup}}"): (f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", None),
    ("GET", f"{MAGNUM}/certificates/{{ident}}"): (f"{MAGNUM}/certificates/{{cluster}}", None),
    ("POST", f"{MAGNUM}/certificates"): (f"{MAGNUM}/certificates", {"cluster_uuid": "{cluster}", "csr": "x"}),
    ("PATCH", f"{MAGNUM}/certificates/{{ident}}"): (f"{MAGNUM}/certificates/{{cluster}}", None),
    ("PATCH", f"{MAGNUM}/credentials/{{ident}}"): (f"{MAGNUM}/credentials/{{cluster}}", None),
    ("GET", f"{MAGNUM}/quotas"): (f"{MAGNUM}/quotas", None),
    ("POST", f"{MAGNUM}/quotas"): (f"{MAGNUM}/quotas", {"project_id": "{project}", "hard_limit": 0}),
    ("GET", f"{MAGNUM}/quotas/{{project}}/{{resource}}"): (f"{MAGNUM}/quotas/{{project}}/Cluster", None),
    ("PATCH", f"{MAGNUM}/quotas/{{project}}/{{resource}}"): (f"{MAGNUM}/quotas/{{project}}/Cluster", {"hard_limit": 0}),
    ("DELETE", f"{MAGNUM}/quotas/{{project}}/{{resource}}"): (f"{MAGNUM}/quotas/{{project}}/Cluster", None),
    ("GET", f"{MAGNUM}/stats"): (f"{MAGNUM}/stats", None),
    ("GET", f"{MAGNUM}/mservices"): (f"{MAGNUM}/mservices", None),
    ("GET", f"{MAGNUM}/federations"): (f"{MAGNUM}/federations", None),
    ("GET", f"{MAGNUM}/federations/detail"): (f"{MAGNUM}/federations/detail", None),
    ("POST", f"{MAGNUM}/federations"): (f"{MAGNUM}/federations", {"name": "intruder"}),
    ("GET", f"{MAGNUM}/federations/{{ident}}"): (f"{MAGNUM}/federations/{{cluster}}", None),
    ("PATCH", f"{MAGNUM}/federations/{{ident}}"): (f"{MAGNUM}/federations/{{cluster}}", _NAME),
    ("DELETE", f"{MAGNUM}/federations/{{ident}}"): (f"{MAGNUM}/federations/{{cluster}}", None),
}  # fmt: skip
OLD = {
    ("POST", f"/v1/containers/{{ident}}/{verb}"): "container 1.13"
    for verb in ("rename", "add_security_group", "remove_security_group")
}
"""Versions to ask in, for what the newest does not have."""
UNREADABLE = {f"{MAGNUM}/certificates/{{ident}}": 403, f"{MAGNUM}/federations/{{ident}}": 404}
"""What a reader gets who did not make the cluster, and of what there is none."""
NAMING = {("POST", CLUSTERS): 404, ("POST", f"{MAGNUM}/certificates"): 400, ("POST", f"{MAGNUM}/federations"): 400}
"""What another project gets whose body names something that it cannot see."""


def routes(api: FastAPI) -> Iterator[tuple[str, str, Allow | None]]:
    """Method, path and guard of every route, nested routers included."""
    for context in iter_route_contexts(api.routes):
        if isinstance(context.original_route, Mount):
            assert context.path in MOUNTED
            continue
        assert isinstance(context.original_route, APIRoute)
        guards = [dependency.call for dependency in context.dependant.dependencies]
        guard = next((call for call in guards if isinstance(call, Allow)), None)
        for method in context.methods or ():
            yield method, context.path or "", guard


async def test_every_route_is_guarded_or_public(shared: Running) -> None:
    found = {(method, path): guard for method, path, guard in routes(shared.api)}
    assert {route for route, guard in found.items() if guard is None} == PUBLIC
    assert found.keys() - PUBLIC == SAMPLES.keys()


async def test_every_rule_that_a_route_checks_has_a_default(shared: Running) -> None:
    for _, path, guard in routes(shared.api):
        if guard is not None:
            for rule in (guard.rule, guard.on_request, guard.always):
                assert rule is None or rule in RULES, path


class Alpha:
    """A container, an image and a registry, and what is to be asked of them."""

    def __init__(self, caisson: Caisson, things: dict[str, str]) -> None:
        self.caisson = caisson
        self.things = things

    async def ask(self, route: tuple[str, str], who: str | None) -> tuple[int, str]:
        path, body = SAMPLES[route]
        newest = "container-infra latest" if path.startswith(MAGNUM) else "container latest"
        version = OLD.get(route, newest)
        if isinstance(body, dict) and path.startswith(MAGNUM):
            body = {
                key: value.format(**self.things) if isinstance(value, str) else value for key, value in body.items()
            }
        answer = await self.caisson.call(route[0], path.format(**self.things), body, who=who, version=version)
        return answer.status_code, answer.text

    async def snapshot(self) -> Any:
        """All that a foreigner could change."""
        box = await self.caisson.show(self.things["box"], who="admin")
        registry = await self.caisson.ok("GET", f"/v1/registries/{self.things['registry']}", who="admin")
        image = await self.caisson.ok("GET", f"/v1/images/{self.things['image']}", who="admin")
        capsule = await self.caisson.ok("GET", f"/v1/capsules/{self.things['capsule']}", who="admin")
        del capsule["containers"][0]["status_detail"]
        await self.caisson.ok("GET", f"/v1/volumes/{self.things['volume']}", who="admin")
        at = f"{TEMPLATES}/{self.things['template']}"
        template = await self.caisson.ok("GET", at, who="admin", version=None)
        cluster = await self.caisson.ok("GET", f"{CLUSTERS}/{self.things['cluster']}", who="admin", version=None)
        held = self.things["box"], self.things["capsule"], self.things["cluster"]
        actions = [(action.verb, action.state) for uuid in held for action in await self.caisson.actions(uuid)]
        return (
            {k: v for k, v in box.items() if k != "status_detail"},
            registry,
            image,
            capsule,
            template,
            cluster,
            actions,
        )


async def alpha_of(caisson: Caisson) -> Alpha:
    box = await caisson.made(run=True)
    request = (await caisson.actions(box["uuid"]))[0].request_id
    registry = await caisson.ok("POST", "/v1/registries", {"registry": {"domain": "alpha.example"}})
    caisson.engine.publish(f"lab/{box['uuid']}")
    repo = {"repo": f"lab/{box['uuid']}", "host": "local-host"}
    image = (await caisson.ok("POST", "/v1/images", repo, who="admin"))["uuid"]

    async def pulled() -> bool:
        return not await caisson.unfinished(image)

    await eventually(pulled, lambda: "the image is not there")
    things = {"box": box["uuid"], "request": request, "registry": registry["registry"]["uuid"], "image": image}
    things["volume"] = (await caisson.ok("POST", "/v1/volumes", {"name": "alphas"}))["uuid"]
    things["capsule"] = (await made(caisson))["uuid"]
    template = {"image_id": BUSY, "coe": "swarm", "name": "alphas"}
    things["template"] = (await caisson.ok("POST", TEMPLATES, template, version=None))["uuid"]
    cluster = {"cluster_template_id": things["template"], "name": "alphas"}
    things["cluster"] = (await caisson.ok("POST", CLUSTERS, cluster, version=None))["uuid"]
    things["group"] = "default-worker"

    async def complete() -> bool:
        return not await caisson.unfinished(things["cluster"])

    await eventually(complete, lambda: "the cluster is not there")
    things["project"] = await caisson.project("alpha")
    return Alpha(caisson, things)


async def test_nobody_gets_in_without_a_token(caisson: Caisson) -> None:
    alpha = await alpha_of(caisson)
    before = await alpha.snapshot()
    for route in SAMPLES:
        status, text = await alpha.ask(route, None)
        assert status == 401, route
        assert not [thing for thing in alpha.things.values() if thing in text]
    assert await alpha.snapshot() == before


async def test_readers_only_read(caisson: Caisson) -> None:
    alpha = await alpha_of(caisson)
    before = await alpha.snapshot()
    for method, path, guard in routes(caisson.running.api):
        if guard is None:
            continue
        status, text = await alpha.ask((method, path), "reader")
        reads = RULES[guard.rule] is Who.READER
        expected = UNREADABLE.get(path, 200) if reads else 403
        assert status == expected, (method, path, text)
        assert status != 403 or guard.rule in text
        assert method == "GET" or not reads
    assert await alpha.snapshot() == before


async def test_members_do_not_reach_what_is_for_administrators(caisson: Caisson) -> None:
    alpha = await alpha_of(caisson)
    for method, path, guard in routes(caisson.running.api):
        if guard is not None and RULES[guard.rule] is Who.ADMIN:
            status, text = await alpha.ask((method, path), "member")
            assert status == 403, (method, path)
            assert guard.rule in text


async def test_another_projects_things_do_not_exist(caisson: Caisson) -> None:
    alpha = await alpha_of(caisson)
    before = await alpha.snapshot()
    for route in SAMPLES:
        status, text = await alpha.ask(route, "foreign")
        single = "{" in SAMPLES[route][0]
        for_administrators = route[1].startswith(("/v1/images", "/v1/networks", "/v1/quotas", f"{MAGNUM}/quotas"))
        expected = ({404, 403} if for_administrators else {404}) if single else {200, 201, 202, 403}
        expected = {NAMING[route]} if route in NAMING else expected
        assert status in expected, (route, text)
        known = {alpha.things[name] for name in ("request", "image")} | {await caisson.project("alpha")}
        assert not [thing for thing in known if thing in text], route
    assert await alpha.snapshot() == before
    await caisson.ok("GET", f"/v1/containers/{alpha.things['box']}/container_actions/{alpha.things['request']}")


async def test_lists_hold_nothing_of_another_project(caisson: Caisson) -> None:
    alpha = await alpha_of(caisson)
    project = await caisson.project("alpha")
    for path in ("/v1/containers", "/v1/registries", "/v1/capsules"):
        for query in ("", f"?project_id={project}", "?name=alpha.example", "?all_projects=no"):
            answer = await caisson.ok("GET", path + query, who="foreign")
            assert answer[path.rpartition("/")[2]] == []
    answer = await caisson.call("GET", f"/v1/containers?marker={alpha.things['box']}", who="foreign")
    assert answer.status_code == 404


async def test_the_same_question_of_two_projects_has_two_answers(caisson: Caisson) -> None:
    """Answers may be kept: what one project asked for must not be another's answer."""
    mine = await caisson.made(name="same", run=True)
    for _ in range(2):
        assert (await caisson.show("same"))["uuid"] == mine["uuid"]
        assert (await caisson.call("GET", "/v1/containers/same", who="foreign")).status_code == 404
        assert len((await caisson.ok("GET", "/v1/containers"))["containers"]) == 1
        assert (await caisson.ok("GET", "/v1/containers", who="foreign"))["containers"] == []
    theirs = await caisson.made(name="same", who="foreign")
    for _ in range(2):
        assert (await caisson.show("same", who="foreign"))["uuid"] == theirs["uuid"]
        assert (await caisson.show("same"))["uuid"] == mine["uuid"]
    # And what an administrator may see is not shown to a member.
    assert "host" in await caisson.show(mine["uuid"], who="admin")
    assert "host" not in await caisson.show(mine["uuid"])


async def test_an_answer_is_new_after_every_change(caisson: Caisson) -> None:
    box = await caisson.made(name="fresh")
    for verb, status in (("start", "Running"), ("pause", "Paused"), ("unpause", "Running"), ("stop", "Stopped")):
        await caisson.show("fresh")
        await caisson.ok("GET", "/v1/containers")
        await caisson.ok("POST", f"/v1/containers/fresh/{verb}")
        await caisson.until("fresh", status)
        (listed,) = (await caisson.ok("GET", "/v1/containers"))["containers"]
        assert listed["status"] == status
    await caisson.ok("DELETE", "/v1/containers/fresh")
    await caisson.until_gone(box["uuid"])
    assert (await caisson.ok("GET", "/v1/containers"))["containers"] == []
    assert (await caisson.call("GET", "/v1/containers/fresh")).status_code == 404

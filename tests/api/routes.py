"""Every route there is, with a good request for it; and one thing of each kind in a project, to ask for."""

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from app.archives import one_file
from app.policy import Allow
from tests.api.caisson import BUSY, Caisson, eventually
from tests.api.capsule import template

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
_KEY = ec.generate_private_key(ec.SECP256R1())
_SUBJECT = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "intruder")])
CSR = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(_SUBJECT)
    .sign(_KEY, hashes.SHA256())
    .public_bytes(Encoding.PEM)
    .decode()
)
_NAME = [{"op": "replace", "path": "/name", "value": "intruder"}]

# A good request for every route: what is in braces is replaced by something of a project's.
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
    ("POST", CLUSTERS): (CLUSTERS, {"cluster_template_id": "{template}", "name": "intruder"}),
    ("GET", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", None),
    ("GET", f"{CLUSTERS}/{{ident}}/events"): (f"{CLUSTERS}/{{cluster}}/events", None),
    ("PATCH", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", _NAME),
    ("DELETE", f"{CLUSTERS}/{{ident}}"): (f"{CLUSTERS}/{{cluster}}", None),
    ("POST", f"{CLUSTERS}/{{ident}}/actions/resize"): (f"{CLUSTERS}/{{cluster}}/actions/resize", {"node_count": 2}),
    ("POST", f"{CLUSTERS}/{{ident}}/actions/upgrade"): (
        f"{CLUSTERS}/{{cluster}}/actions/upgrade", {"cluster_template": "{template}"},
    ),
    ("GET", GROUPS): (f"{CLUSTERS}/{{cluster}}/nodegroups", None),
    ("POST", GROUPS): (f"{CLUSTERS}/{{cluster}}/nodegroups", {"name": "intruder"}),
    ("GET", f"{GROUPS}/{{nodegroup}}"): (f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", None),
    ("PATCH", f"{GROUPS}/{{nodegroup}}"): (
        f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", [{"op": "replace", "path": "/max_node_count", "value": 9}],
    ),
    ("DELETE", f"{GROUPS}/{{nodegroup}}"): (f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}", None),
    ("GET", f"{MAGNUM}/certificates/{{ident}}"): (f"{MAGNUM}/certificates/{{cluster}}", None),
    ("POST", f"{MAGNUM}/certificates"): (f"{MAGNUM}/certificates", {"cluster_uuid": "{cluster}", "csr": CSR}),
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


NAME = "treasure"
"""How all things are called that can have a name."""


class Things:
    """One of each kind in somebody's project, by their ids, and what is asked of them."""

    def __init__(self, caisson: Caisson, ids: dict[str, str]) -> None:
        self.caisson = caisson
        self.ids = ids

    async def ask(self, route: tuple[str, str], who: str | None, **instead: str) -> httpx.Response:
        """The good request of a route; `instead` says which things others take the place of."""
        path, body = SAMPLES[route]
        return await self.send(route[0], path, body, who, OLD.get(route), **instead)

    async def send(
        self, method: str, path: str, body: Any, who: str | None, version: str | None = None, **instead: str
    ) -> httpx.Response:
        """A request whose path and body name things in braces, in the newest version unless it is said otherwise."""
        newest = "container-infra latest" if path.startswith(MAGNUM) else "container latest"
        ids = self.ids | instead
        return await self.caisson.call(
            method, path.format(**ids), filled(body, ids), who=who, version=version or newest
        )

    async def snapshot(self) -> Any:
        """All that somebody who has no business here could change."""
        shown = {}
        for kind, path in SHOWN.items():
            shown[kind] = (await self.send("GET", path, None, "admin")).json()
        del shown["box"]["status_detail"], shown["capsule"]["containers"][0]["status_detail"]
        held = self.ids["box"], self.ids["capsule"], self.ids["cluster"]
        return shown, [(one.verb, one.state) for uuid in held for one in await self.caisson.actions(uuid)]


SHOWN = {
    "box": "/v1/containers/{box}",
    "registry": "/v1/registries/{registry}",
    "image": "/v1/images/{image}",
    "capsule": "/v1/capsules/{capsule}",
    "volume": "/v1/volumes/{volume}",
    "template": f"{TEMPLATES}/{{template}}",
    "cluster": f"{CLUSTERS}/{{cluster}}",
    "group": f"{CLUSTERS}/{{cluster}}/nodegroups/{{group}}",
    "quotas": "/v1/quotas/{project}",
}


def filled(value: Any, ids: dict[str, str]) -> Any:
    """A body with ids in the place of what is in braces."""
    if isinstance(value, dict):
        return {key: filled(part, ids) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, ids) for part in value]
    return re.sub(r"{(\w+)}", lambda found: ids[found[1]], value) if isinstance(value, str) else value


def named_by(path: str, body: Any) -> set[str]:
    """The kinds of things that a request names."""
    return set(re.findall(r"{(\w+)}", f"{path} {body}"))


async def things_of(caisson: Caisson, who: str = "member") -> Things:
    """Make one of each kind, all of them called `NAME`."""

    async def made(path: str, body: Any) -> Any:
        version = "container-infra latest" if path.startswith(MAGNUM) else "container latest"
        return await caisson.ok("POST", path, body, who=who, version=version)

    box = await made("/v1/containers?run=true", {"image": BUSY, "command": ["sleep", "1000"], "name": NAME})
    capsule = await made("/v1/capsules", template(name=NAME))
    registry = await made("/v1/registries", {"registry": {"domain": "alpha.example", "name": NAME}})
    volume = await made("/v1/volumes", {"name": NAME})
    of_clusters = await made(TEMPLATES, {"image_id": BUSY, "coe": "swarm", "name": NAME})
    cluster = await made(CLUSTERS, {"cluster_template_id": of_clusters["uuid"], "name": NAME})
    group = await made_group(caisson, cluster["uuid"], who)
    caisson.engine.publish(f"lab/{box['uuid']}")
    image = await made_image(caisson, f"lab/{box['uuid']}")
    ids = {
        "box": box["uuid"],
        "request": (await caisson.actions(box["uuid"]))[0].request_id,
        "registry": registry["registry"]["uuid"],
        "image": image,
        "volume": volume["uuid"],
        "capsule": capsule["uuid"],
        "template": of_clusters["uuid"],
        "cluster": cluster["uuid"],
        "group": group,
        "project": box["project_id"],
    }

    async def idle() -> bool:
        return not any([await caisson.unfinished(uuid) for uuid in ids.values()])

    await eventually(idle, lambda: f"not everything was made: {ids}")
    return Things(caisson, ids)


async def made_group(caisson: Caisson, cluster: str, who: str) -> str:
    """A node group that can be deleted, once the cluster is there."""

    async def complete() -> bool:
        return not await caisson.unfinished(cluster)

    await eventually(complete, lambda: "the cluster is not there")
    path, body = f"{CLUSTERS}/{cluster}/nodegroups", {"name": NAME, "node_count": 1}
    made: str = (await caisson.ok("POST", path, body, who=who, version="container-infra latest"))["uuid"]
    return made


async def made_image(caisson: Caisson, repo: str) -> str:
    """An image that an administrator pulls."""
    body = {"repo": repo, "host": "local-host"}
    made: str = (await caisson.ok("POST", "/v1/images", body, who="admin"))["uuid"]
    return made

"""/openapi.json and Swagger UI at /docs, which loads nothing from another host."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from app import magnum_examples
from app.apis import MAGNUM, MINIMUM, Api, api_of

STATIC = Path(__file__).parent / "swagger-ui"


class Problem(BaseModel):
    """One error."""

    request_id: str = Field(examples=["req-2f3c5a04-3ff0-4d2e-8d0d-9b1c5a1c7b11"])
    code: str = Field(examples=["container.schema-validation-error"])
    status: int = Field(examples=[400])
    title: str = Field(examples=["Invalid input for field 'memory'. Value: '1'. It must be from 4 to 8192 MiB."])
    detail: str
    links: list[str]


class Problems(BaseModel):
    """The body of every error answer."""

    errors: list[Problem]


_MEANINGS = {
    400: "Bad input; the title names the field and the limit",
    403: "A policy rule said no",
    404: "Absent, or not yours",
    405: "No such method here",
    406: "The microversion asked for cannot be served",
    408: "The body did not come in time",
    409: "The status does not allow it, or a name is ambiguous",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "The project asks more than its share; Retry-After says when to come back",
    431: "The line and the headers of the request are too large",
    501: "The engine lacks the ability",
    502: "The engine failed",
    503: "Identity or engine cannot be reached",
}
_ERRORS: dict[str, dict[str, Any]] = {
    "401": {
        "description": "No token, or a bad one",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {"error": {"code": 401, "title": "Unauthorized", "message": "…"}},
            }
        },
    },
    **{
        str(status): {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problems"}}},
        }
        for status, text in _MEANINGS.items()
    },
}
"""The refusals, by status: the same everywhere, so operations refer to them. FastAPI is not told of them, or it would
make fourteen validators for each route, which takes a tenth of a second before the first answer."""
_PROBES = ("/healthcheck", "/livez", "/readyz")
_PUBLIC = ("/", "/v1", MAGNUM.root, MAGNUM.collection, *_PROBES)
_TO_ANYBODY = ("400", "408", "413", "431")
"""Refusals that do not ask who is calling."""

_UUID, _PROJECT = "3b1c7a52-6f0e-4a7e-9d3b-5f1f0c3f2a11", "28efb79e969e43a5b0b78ec14821c357"
_USER = "c902c727e25d41a3a07f73af83c0530d"
CONTAINER: dict[str, Any] = {
    "uuid": _UUID,
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/containers/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/containers/{_UUID}", "rel": "bookmark"},
    ],
    "user_id": _USER,
    "project_id": _PROJECT,
    "name": "pingtest",
    "image": "busybox:1",
    "image_driver": "docker",
    "command": ["ping", "-c", "4", "127.0.0.1"],
    "entrypoint": [],
    "status": "Running",
    "status_reason": None,
    "status_detail": "Up 2 seconds",
    "task_state": None,
    "cpu": 1.0,
    "cpu_policy": "shared",
    "memory": "512",
    "disk": 0,
    "environment": {},
    "labels": {},
    "workdir": None,
    "hostname": "9c1f0d2ab3de",
    "ports": [],
    "addresses": {
        "7d5a3c0e-8f57-5d0c-9f0e-1b2c3d4e5f60": [
            {
                "addr": "10.221.0.2",
                "version": 4,
                "port": "0d4b8e9c-51f7-5f4e-8a0a-6f7e8d9c0b1a",
                "subnet_id": "f1e2d3c4-b5a6-5798-8a9b-0c1d2e3f4a5b",
                "preserve_on_delete": False,
            }
        ]
    },
    "security_groups": [],
    "restart_policy": {},
    "healthcheck": {},
    "interactive": False,
    "tty": False,
    "auto_remove": False,
    "auto_heal": False,
    "registry_id": None,
    "created_at": "2026-01-31 09:05:07.123456",
    "updated_at": "2026-01-31 09:05:08.200317",
}
_FRESH = CONTAINER | {"status": "Creating", "status_detail": None, "addresses": None, "hostname": None, "ports": None}
_ACTION = {
    "action": "create",
    "container_uuid": _UUID,
    "request_id": "req-2f3c5a04-3ff0-4d2e-8d0d-9b1c5a1c7b11",
    "user_id": _USER,
    "project_id": _PROJECT,
    "start_time": "2026-01-31T09:05:07.123456",
    "finish_time": "2026-01-31T09:05:08.200317",
    "message": None,
}
_IMAGE = {
    "uuid": _UUID,
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/images/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/images/{_UUID}", "rel": "bookmark"},
    ],
    "image_id": "sha256:5f1f0c3f2a11",
    "repo": "127.0.0.1:5000/busybox",
    "tag": "1",
    "size": "1048576",
    "project_id": _PROJECT,
    "host": "cloud",
    "status": "Created",
    "status_reason": None,
}
_REGISTRY = {
    "uuid": _UUID,
    "user_id": _USER,
    "project_id": _PROJECT,
    "name": "lab",
    "domain": "registry.example:5000",
    "username": "puller",
    "password": "***",
}
_LINKS = {
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/registries/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/registries/{_UUID}", "rel": "bookmark"},
    ]
}
_MEMBER = {key: value for key, value in CONTAINER.items() if key != "links"} | {
    "name": "capsule-demo-nu-6",
    "image_driver": None,
    "restart_policy": {"MaximumRetryCount": "0", "Name": "always"},
    "addresses": {},
    "hostname": None,
}
_CAPSULE = {
    "uuid": _UUID,
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/capsules/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/capsules/{_UUID}", "rel": "bookmark"},
    ],
    "user_id": _USER,
    "project_id": _PROJECT,
    "name": "demo",
    "labels": {"app": "web"},
    "annotations": None,
    "status": "Running",
    "status_reason": None,
    "restart_policy": {"MaximumRetryCount": "0", "Name": "always"},
    "cpu": 0.5,
    "memory": "64",
    "addresses": CONTAINER["addresses"],
    "containers": [_MEMBER],
    "init_containers": [],
    "created_at": "2026-01-31 09:05:07.123456",
    "updated_at": "2026-01-31 09:05:08.200317",
}
_HOST = {
    "uuid": _UUID,
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/hosts/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/hosts/{_UUID}", "rel": "bookmark"},
    ],
    "hostname": "cloud",
    "mem_total": 16384,
    "mem_used": 512,
    "cpus": 4,
    "cpu_used": 1.0,
    "total_containers": 1,
    "architecture": "x86_64",
    "os_type": "linux",
    "os": "Debian GNU/Linux 13 (trixie)",
    "kernel_version": "6.12.0",
    "labels": {},
    "disk_total": 80,
    "disk_used": 0,
    "disk_quota_supported": False,
    "runtimes": ["runc"],
    "enable_cpu_pinning": False,
}
_SERVICE = {
    "id": 1,
    "host": "cloud",
    "binary": "zun-compute",
    "state": "up",
    "disabled": False,
    "disabled_reason": None,
    "forced_down": False,
    "last_seen_up": "2026-01-31T09:05:07.123456",
    "report_count": 7,
    "availability_zone": "nova",
    "created_at": "2026-01-31T09:05:07.123456",
    "updated_at": "2026-01-31T09:05:08.200317",
}
_QUOTAS = {"containers": 40, "memory": 51200, "disk": 100, "cpu": 20}
_FIXED = {"subnet_id": "7b9e1a8a-4a52-5f3a-9a57-0f6c1d1b2c33", "version": 4, "ip_address": "10.221.7.2"}
_VOLUME = {
    "uuid": _UUID,
    "links": [
        {"href": f"http://127.0.0.1:9517/v1/volumes/{_UUID}", "rel": "self"},
        {"href": f"http://127.0.0.1:9517/volumes/{_UUID}", "rel": "bookmark"},
    ],
    "name": "data",
    "size": None,
    "project_id": _PROJECT,
    "user_id": _USER,
    "container_uuid": None,
    "created_at": "2026-01-31 09:05:07.123456",
    "updated_at": None,
}
EXAMPLES: Mapping[str, Any] = {
    **magnum_examples.EXAMPLES,
    **{f"{operation}_quotas": _QUOTAS for operation in ("show", "show_default", "update")},
    **{f"{operation}_quota_class": _QUOTAS for operation in ("show", "update")},
    "delete_quotas": None,
    "create_network": {
        "uuid": _UUID,
        "name": "lab",
        "project_id": _PROJECT,
        "user_id": _USER,
        "network_id": "caisson-24d0a6a1-3b5f-5a63-8d0e-6d0a2a8e3c11",
        "neutron_net_id": "24d0a6a1-3b5f-5a63-8d0e-6d0a2a8e3c11",
    },
    "list_hosts": {"hosts": [_HOST], "next": None},
    "show_host": _HOST,
    "list_services": {"services": [_SERVICE]},
    **{
        f"{verb}_service": {"service": {key: _SERVICE[key] for key in ("host", "binary", *changed)}}
        for verb, changed in (
            ("enable", ("disabled", "disabled_reason")),
            ("disable", ("disabled", "disabled_reason")),
            ("force_down", ("forced_down",)),
        )
    },
    "delete_service": None,
    "list_availability_zones": {"availability_zones": [{"availability_zone": "nova"}], "next": None},
    "list_container_networks": {
        "networks": [
            {
                "net_id": "24d0a6a1-3b5f-5a63-8d0e-6d0a2a8e3c11",
                "port_id": "0c1c42b4-2a2e-5a0b-9f3c-9b9d9d0e7f51",
                "fixed_ips": [_FIXED],
            }
        ]
    },
    "attach_container_network": None,
    "detach_container_network": None,
    "list_capsules": {"capsules": [_CAPSULE], "next": None},
    "create_capsule": _CAPSULE | {"status": "Creating", "addresses": None, "updated_at": None},
    "show_capsule": _CAPSULE,
    "healthcheck": {"detailed": False, "reasons": ["OK"]},
    "list_containers": {"containers": [{k: v for k, v in CONTAINER.items() if k != "links"}], "next": None},
    "create_container": _FRESH,
    "show_container": CONTAINER,
    **{f"{verb}_container": None for verb in ("start", "stop", "reboot", "pause", "unpause", "kill", "rebuild")},
    "get_archive": {
        "data": "ZXRjL21vdGQ…",
        "stat": {"name": "motd", "size": 12, "mode": 420, "mtime": "2026-01-31T09:05:07Z", "linkTarget": ""},
    },
    "put_archive": None,
    "add_security_group": None,
    "remove_security_group": None,
    "list_volumes": {"volumes": [_VOLUME], "next": None},
    "create_volume": _VOLUME,
    "show_volume": _VOLUME,
    **{f"{verb}_container": CONTAINER for verb in ("rename", "update", "resize")},
    "commit_container": {"uuid": _UUID},
    "container_logs": "PING 127.0.0.1 (127.0.0.1): 56 data bytes\n",
    "execute_in_container": {"output": "hi\n", "exit_code": 0, "exec_id": None, "proxy_url": None},
    "attach_to_container": f"ws://127.0.0.1:9517/container/websocket?token=k3x...&uuid={_UUID}",
    "resize_container_terminal": None,
    "resize_exec_terminal": None,
    "container_top": {"Titles": ["UID", "PID", "CMD"], "Processes": [["root", "6149", "sleep 1000"]]},
    "container_stats": {
        "CONTAINER": "pingtest",
        "CPU %": 0.5,
        "MEM USAGE(MiB)": 1.0,
        "MEM LIMIT(MiB)": 512.0,
        "MEM %": 0.2,
        "BLOCK I/O(B)": "618496/0",
        "NET I/O(B)": "1572/0",
    },
    "list_container_actions": {"containerActions": [_ACTION]},
    "show_container_action": _ACTION
    | {
        "events": [
            {
                "event": "compute__do_container_create",
                "start_time": "2026-01-31T09:05:07.150000",
                "finish_time": "2026-01-31T09:05:08.200317",
                "result": "Success",
                "traceback": None,
            }
        ]
    },
    "list_images": {"images": [_IMAGE], "next": None},
    "pull_image": _IMAGE | {"image_id": None, "size": None, "status": "Creating"},
    "show_image": _IMAGE,
    "delete_image": None,
    "search_images": [
        {
            "name": "busybox",
            "description": "Busybox base image.",
            "is_automated": False,
            "metadata": {"is_official": True, "star_count": 3000},
        }
    ],
    "list_registries": {"registries": [_REGISTRY], "next": None},
    **{f"{verb}_registry": {"registry": _REGISTRY | _LINKS} for verb in ("create", "show", "update")},
}
"""What each operation answers when all goes well; by operation id."""
_UUID_KEY = re.compile(r"[0-9a-f-]{36}")
_MAPS = frozenset(
    {
        "annotations", "details", "environment", "labels", "labels_added", "labels_overridden", "labels_skipped",
        "node_labels", "health_status_reason", "healthcheck", "meta_labels", "restart_policy",
    }
)  # fmt: skip
"""Objects whose keys are data."""
_SOMETIMES = frozenset(
    {
        "ca_cert_type",
        "cluster_id",
        "entrypoint",
        "exposed_ports",
        "finish_time",
        "host",
        "links",
        "ports",
        "stat",
        "tty",
    }
)
"""Keys that an answer may lack: of later versions, or not known yet."""
_MORE: dict[str, dict[str, Any]] = {
    "image_driver": {"host": {}, "image_pull_policy": {}, "privileged": {}, "runtime": {}, "exposed_ports": {}},
    "init_containers": {"host": {}},
    "cluster_template_id": {"stack_id": {}},
    "csr": {"ca_cert_type": {"type": "string"}},
    **{
        kind: {"next": {"type": "string"}}
        for kind in ("clustertemplates", "clusters", "events", "nodegroups", "quotas")
    },
}
"""By a key that tells what an object is: what it has as well in old versions, or for whom the policy shows it."""
_OLD_CAPSULE = {key: value for key, value in _CAPSULE.items() if key not in ("name", "labels")} | {
    "meta_name": "demo",
    "meta_labels": {"app": "web"},
    "restart_policy": "always",
    "volumes_info": {},
    "capsule_version": "",
    "containers_uuids": [],
    "init_containers_uuids": [],
}
_OTHERWISE: Mapping[str, Any] = {
    "show_quotas": {name: {"in_use": 1, "limit": limit} for name, limit in _QUOTAS.items()},
    "show_cluster_quota": {"project_id": _PROJECT, "resource": "Cluster", "hard_limit": 20},
    "list_container_networks": {"networks": [{"net_id": "", "port_id": "", **_FIXED}]},
    "list_capsules": {"capsules": [_OLD_CAPSULE], "next": None},
    "create_capsule": _OLD_CAPSULE,
    "show_capsule": _OLD_CAPSULE,
}
"""What operations answer in old versions, when asked for more, or when there is less to say."""


def install(api: FastAPI) -> None:
    """Serve the documents of all routes that are registered by now."""
    api.openapi = lambda: _openapi(api)  # type: ignore[method-assign]  # FastAPI documents this way to extend it

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return api.openapi()

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Caisson API",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon-32x32.png",
            swagger_ui_parameters={
                "persistAuthorization": True,
                "tryItOutEnabled": True,
                "validatorUrl": None,  # or a badge would be fetched from a host elsewhere
            },
        )

    api.mount("/docs", StaticFiles(directory=STATIC))


def _openapi(api: FastAPI) -> dict[str, Any]:
    if api.openapi_schema is None:
        schema = get_openapi(title=api.title, summary=api.summary, version=api.version, routes=api.routes)
        schema["components"]["securitySchemes"] = {
            "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "A Keystone token"}
        }
        _, problems = models_json_schema([(Problems, "serialization")], ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= problems["$defs"]
        schema["components"]["responses"] = _ERRORS
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                _complete(operation, path)
                if (name := operation["operationId"]) in EXAMPLES:
                    shapes = [_shape(known[name]) for known in (EXAMPLES, _OTHERWISE) if name in known]
                    content = {"example": EXAMPLES[name], "schema": {"anyOf": shapes} if shapes[1:] else shapes[0]}
                    for status in operation["responses"].keys() & {"200", "201", "202"}:
                        operation["responses"][status]["content"] = {"application/json": content}
        _link(schema["paths"])
        api.openapi_schema = schema
    return api.openapi_schema


def _link(paths: dict[str, Any]) -> None:
    """What is made has a uuid, which goes into the paths below: links that tools can follow."""
    for path, methods in paths.items():
        for status in methods.get("post", {}).get("responses", {}).keys() & {"201", "202"}:
            made = methods["post"]["responses"][status]
            at = "registry/uuid" if path.endswith("/registries") else "uuid"
            below = {
                operation["operationId"]: {
                    "operationId": operation["operationId"],
                    "parameters": {found[1]: f"$response.body#/{at}"},
                }
                for other, operations in paths.items()
                if (found := re.match(rf"{re.escape(path)}/{{(ident|uuid)}}(/[^{{]*)?$", other))
                for operation in operations.values()
            }
            if below:
                made["links"] = below


def _shape(example: Any, name: str = "") -> dict[str, Any]:
    """The JSON schema of answers like this one: all its keys and no others; any value may be missing but a list."""
    match example:
        case dict() if name in _MAPS:
            return {"type": ["object", "null"]}
        case dict() if example and _UUID_KEY.fullmatch(next(iter(example))):
            return {"type": ["object", "null"], "additionalProperties": _shape(next(iter(example.values())))}
        case dict():
            own = {key: _shape(part, key) for key, part in example.items()}
            required = sorted(example.keys() - _SOMETIMES)
            more = {key: part for kind, parts in _MORE.items() if kind in example for key, part in parts.items()}
            return {
                "type": "object" if name in ("", "registry") else ["object", "null"],
                "properties": more | own,
                "required": required,
                "additionalProperties": False,
            }
        case list():
            return {"type": ["array", "null"] if name else "array", "items": _shape(example[0]) if example else {}}
        case str():
            return {"type": "string" if name in ("uuid", "") else ["string", "null"]}
        case bool():
            return {"type": ["boolean", "null"]}
        case int() | float():
            return {"type": ["number", "null"]}
    return {}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _complete(operation: dict[str, Any], path: str) -> None:
    """Refusals, security, the version header, and no 422: bad input is a 400 here."""
    operation["responses"].pop("422", None)
    operation["responses"].get("204", {}).pop("content", None)
    api = api_of(path)
    if path in _PUBLIC:
        answer = operation["responses"]["200"]
        versioned = ["406"] if path in ("/v1", MAGNUM.collection) else []
        operation["responses"] = {"200": answer} | _refusals(*_TO_ANYBODY, *versioned)
        if path in _PROBES:
            operation["responses"]["503"] = {**answer, "description": "Not so, and why"}
        return
    operation["responses"] |= _refusals(*_ERRORS)
    operation["security"] = [{"token": []}]
    operation.setdefault("parameters", []).append(
        {
            "name": "OpenStack-API-Version",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "default": f"{api.prefix} latest", "pattern": _versions(api)},
            "description": f"{api.prefix} 1.{MINIMUM} to {api.prefix} 1.{api.maximum}; 1.{MINIMUM} when absent",
        }
    )


def _versions(api: Api) -> str:
    """A pattern for the header's good values, but for lists of several services."""
    minors = "|".join(str(minor) for minor in range(MINIMUM, api.maximum + 1))
    return rf"^{api.prefix} (latest|1\.({minors}))$"

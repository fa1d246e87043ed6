"""A container as a pod of Kubernetes, and back: pure functions, no calls.

A pod that has ended cannot be started again, and one that is deleted leaves nothing. So each container is a config map
as well, which holds the pod that a start makes, and what was seen of the last one before it went.
"""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.backends.docker.shapes import (
    CAPABILITIES,
    LABEL_INSTALLATION,
    LABEL_PREFIX,
    LABEL_PROJECT,
    LABEL_UUID,
    check_labels,
)
from app.backends.engine import Address, ContainerSpec, ImageSeen, Seen, State
from app.errors import Refused

Document = Mapping[str, Any]

NAMESPACE = "caisson"
BOX = "box"
"""The name of a pod's one container."""

WANTED, ENDED, ERROR, EXEC = "caisson.wanted", "caisson.ended", "caisson.error", "caisson.exec."
"""Annotations of a config map: whether a pod is to run, what the last was, why none could be, prepared commands."""

GRACE = 30  # seconds that Kubernetes gives a pod which it ends by itself
_RESTARTS = {"no": "Never", "always": "Always", "unless-stopped": "Always", "on-failure": "OnFailure"}
_HOPELESS = (
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError",
)  # fmt: skip
_NEVER_BEGAN = ("StartError", "ContainerCannotRun")


def name(uuid: UUID) -> str:
    """What a container's pod and config map are called."""
    return f"caisson-{uuid}"


def config_map(uuid: UUID, spec: ContainerSpec, image: ImageSeen, installation: str | None) -> dict[str, Any]:
    """The wish, as it is kept. Raises Refused for what no pod can be asked for."""
    _check(spec)
    labels = {LABEL_UUID: str(uuid)}
    if installation is not None:
        labels[LABEL_INSTALLATION] = installation
    annotations = {LABEL_PROJECT: spec.project_id, WANTED: "no"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name(uuid), "namespace": NAMESPACE, "labels": labels, "annotations": annotations},
        "data": {
            "pod": json.dumps(pod(uuid, spec, labels)),
            "shown": json.dumps(
                {
                    "image": spec.image,
                    "command": list(spec.command or (() if spec.entrypoint else image.command)),
                    "entrypoint": list(spec.entrypoint or image.entrypoint),
                    "hostname": spec.hostname,
                    "ports": sorted({*(port.number for port in spec.ports), *image.ports}),
                }
            ),
        },
    }


def _check(spec: ContainerSpec) -> None:
    check_labels(spec.labels)
    fields = spec.only_on_hosts()
    if spec.restart.retries:
        fields.append("restart_policy: MaximumRetryCount")
    if fields:
        raise Refused(f"{fields[0]}: a pod cannot have it")


def pod(uuid: UUID, spec: ContainerSpec, labels: Mapping[str, str]) -> dict[str, Any]:
    """The pod that a start makes."""
    box: dict[str, Any] = {
        "name": BOX,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": _literal(value)} for key, value in spec.environment.items()],
        "stdin": spec.interactive,
        "tty": spec.tty,
        "ports": [
            {"containerPort": port.number, "protocol": port.protocol.upper()}
            | ({"hostPort": port.host_port} if port.host_port else {})
            for port in spec.ports
        ],
        # Limits alone would be what a node sets aside for it.
        "resources": {"limits": _limits(spec), "requests": {"cpu": "0", "memory": "0"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
        },
    }
    if spec.entrypoint:
        box["command"] = [_literal(word) for word in spec.entrypoint]
    if spec.command:
        box["args"] = [_literal(word) for word in spec.command]
    if spec.workdir:
        box["workingDir"] = spec.workdir
    if check := spec.healthcheck:
        box["readinessProbe"] = {
            "exec": {"command": ["sh", "-c", check.command]},
            "periodSeconds": check.interval or 30,
            "timeoutSeconds": check.timeout or 30,
            "failureThreshold": check.retries or 3,
        }
    body: dict[str, Any] = {
        "restartPolicy": _RESTARTS[spec.restart.name],
        "terminationGracePeriodSeconds": GRACE,
        # What a tenant's program is not told, and not let into.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [box],
    }
    if spec.hostname:
        body["hostname"] = spec.hostname
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(uuid),
            "namespace": NAMESPACE,
            "labels": dict(labels),
            "annotations": {f"{LABEL_PREFIX}label.{number}": f"{key}={value}"
                            for number, (key, value) in enumerate(sorted(spec.labels.items()))},
        },
        "spec": body,
    }  # fmt: skip


def _literal(text: str) -> str:
    """Kubernetes puts variables in the place of ``$(NAME)``; two dollars are one."""
    return text.replace("$(", "$$(")


def _limits(spec: ContainerSpec) -> dict[str, str]:
    limits = {}
    if spec.cpu:
        limits["cpu"] = f"{int(spec.cpu * 1000)}m"
    if spec.memory:
        limits["memory"] = f"{spec.memory}Mi"
    return limits


def ref_of(kept: Document) -> str:
    """Our name for a config map: its own id tells it from a later one of the same name."""
    return f"{kept['metadata']['labels'][LABEL_UUID]}_{kept['metadata']['uid']}"


def uuid_in(ref: str) -> UUID | None:
    """Whose ref this is."""
    try:
        return UUID(ref.partition("_")[0])
    except ValueError:
        return None


def status_of(found: Document) -> Document:
    """What a pod says of its one container."""
    statuses = found.get("status", {}).get("containerStatuses") or [{}]
    status: Document = statuses[0]
    return status


def is_over(found: Document) -> bool:
    """Whether a pod will not run again."""
    return found["status"].get("phase") in ("Succeeded", "Failed")


def trouble(found: Document) -> str:
    """Why a pod does not begin, in the words of the cluster; "" while it may."""
    waiting = status_of(found).get("state", {}).get("waiting") or {}
    if waiting.get("reason") in _HOPELESS:
        return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def unscheduled(found: Document) -> str:
    """Why no node takes a pod; "" when one does."""
    for one in found.get("status", {}).get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message", ""))
    return ""


def never_began(found: Document) -> str:
    """Why a pod that is over was never started; "" when it was."""
    ended = status_of(found).get("state", {}).get("terminated") or {}
    return str(ended.get("message", "")) if ended.get("reason") in _NEVER_BEGAN else ""


def ended(found: Document, log: bytes) -> dict[str, Any]:
    """What is kept of a pod that goes: how it ended, and the end of its log."""
    status = status_of(found)
    state = status.get("state", {})
    running = state.get("running") or {}
    over = state.get("terminated") or ({} if running else (status.get("lastState") or {}).get("terminated") or {})
    return {
        "exit_code": over.get("exitCode", 137),
        "reason": over.get("reason", ""),
        "started_at": over.get("startedAt") or running.get("startedAt") or found["status"].get("startTime"),
        "finished_at": over.get("finishedAt") or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "log": base64.b64encode(log).decode(),
    }


def happened(event: Document) -> tuple[UUID | None, str]:
    """Whose event of a watch it is, and what it says, in the words that Docker has."""
    found = event["object"]
    uuid = (found.get("metadata", {}).get("labels") or {}).get(LABEL_UUID)
    if uuid is None:
        return None, ""
    state = status_of(found).get("state", {})
    what = "die" if "terminated" in state else "start" if "running" in state else "create"
    return UUID(uuid), "destroy" if event["type"] == "DELETED" else what


def without_farewell(found: Document, part: bytes) -> bytes:
    """What comes of a log without what kubelet itself adds when the container is removed under the eyes of a reader."""
    ident = status_of(found).get("containerID", "").partition("://")[2]
    words = rb'rpc error: code = NotFound [^\n]*"%s": not found\Z' % re.escape(ident).encode()
    return re.sub(words, b"", part) if ident else part


def kept_log(kept: Document) -> bytes:
    """The log of the last pod, as far as it was kept."""
    noted = json.loads(kept["metadata"].get("annotations", {}).get(ENDED) or "{}")
    return base64.b64decode(noted.get("log", ""))


def seen(kept: Document, found: Document | None) -> Seen | None:
    """What a config map and its pod, if it has one, say; None for what is not ours."""
    meta = kept["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    shown = json.loads(kept.get("data", {}).get("shown") or "null")
    if LABEL_UUID not in labels or LABEL_PROJECT not in notes or shown is None:
        return None
    base: dict[str, Any] = {
        "ref": ref_of(kept),
        "uuid": UUID(labels[LABEL_UUID]),
        "project_id": notes[LABEL_PROJECT],
        **{key: tuple(value) if isinstance(value, list) else value for key, value in shown.items()},
    }
    if found is not None:
        return Seen(**base, **_facts(found))
    if noted := json.loads(notes.get(ENDED) or "null"):
        return Seen(**base, state=State.EXITED, **_times(noted), **_end(noted))
    if notes.get(WANTED) == "yes":
        return Seen(**base, state=State.EXITED, error="its pod is gone: it was deleted, or its node was lost")
    error = notes.get(ERROR, "")
    return Seen(**base, state=State.CREATED, error=error, exit_code=127 if "executable file not found" in error else 0)


def _facts(found: Document) -> dict[str, Any]:
    status = status_of(found)
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    if running := state.get("running"):
        facts: dict[str, Any] = {"state": State.RUNNING, "started_at": _moment(running.get("startedAt"))}
        if any("readinessProbe" in box for box in found["spec"]["containers"]):
            facts["health"] = "healthy" if status.get("ready") else "starting"
        address = found["status"].get("podIP")
        return facts | {"addresses": (Address("cluster", address),) if address else ()}
    if over := state.get("terminated"):
        if over.get("reason") in _NEVER_BEGAN:
            return {"state": State.CREATED, "exit_code": over["exitCode"], "error": over.get("message", "")}
        noted = {"exit_code": over["exitCode"], "reason": over.get("reason", ""), "started_at": over.get("startedAt"),
                 "finished_at": over.get("finishedAt")}  # fmt: skip
        return {"state": State.EXITED, **_times(noted), **_end(noted)}
    if found["status"].get("phase") == "Failed":  # evicted, for example, before its container was begun
        return {"state": State.EXITED, "error": found["status"].get("message", "")}
    error = trouble(found) or unscheduled(found)
    if last:
        noted = {"exit_code": last["exitCode"], "reason": last.get("reason", "")}
        noted |= {"started_at": last.get("startedAt"), "finished_at": last.get("finishedAt")}
        return {"state": State.RESTARTING, **_times(noted), **(_end(noted) | {"error": error})}
    return {"state": State.CREATED, "error": error}


def _end(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {"exit_code": noted["exit_code"], "oom_killed": noted["reason"] == "OOMKilled"}


def _times(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _moment(noted.get(key)) for key in ("started_at", "finished_at")}


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None

"""Ways out of a container, tried through every field that the API has: each is refused by its name, or is mere data."""

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.models import InjectedFile, Volume
from tests.api.caisson import BUSY, Caisson, error_of
from tests.api.capsule import template, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

POWERS = (
    "HostConfig", "Binds", "binds", "volumes_from", "tmpfs", "devices", "device_cgroup_rules", "cap_add", "CapAdd",
    "security_opt", "securityContext", "hostNetwork", "hostPID", "hostIPC", "hostUsers", "hostPath",
    "shareProcessNamespace", "pid_mode", "ipc_mode", "uts_mode", "userns_mode", "network_mode", "cgroup_parent",
    "cgroupns", "sysctls", "ulimits", "oom_score_adj", "oom_kill_disable", "extra_hosts", "runtimeClassName", "user",
    "stop_signal", "log_config", "storage_opt", "init",
)  # fmt: skip
"""Docker's, Docker Compose's and Kubernetes' words for what leads out."""


def container(*path: Any, **fields: Any) -> Callable[[str], tuple[str, Any]]:
    """A place in the body of a new container: with such a word there it is the second of what is returned."""

    def body(word: str) -> tuple[str, Any]:
        made: dict[str, Any] = {"image": BUSY, **fields}
        return "/v1/containers", _with(made, path, word)

    return body


def capsule(*path: Any, **fields: Any) -> Callable[[str], tuple[str, Any]]:
    """As `container`, in a capsule's template; `fields` are those of its container."""

    def body(word: str) -> tuple[str, Any]:
        made = template(
            {"image": BUSY, **fields},
            volumes=[{"name": "v1", "cinder": {"size": 1}}, {"name": "v2", "emptyDir": {}}],
        )
        return "/v1/capsules", _with(made, ("template", *path), word)

    return body


def _with(body: dict[str, Any], path: tuple[Any, ...], word: str) -> dict[str, Any]:
    body = copy.deepcopy(body)
    place: Any = body
    for step in path:
        place = place[step]
    place[word] = "host"
    return body


BOX = ("spec", "containers", 0)
PLACES = {
    "container": container(),
    "mount": container("mounts", 0, mounts=[{"source": "v", "destination": "/v"}]),
    "net": container("nets", 0, nets=[{"network": "n"}]),
    "health check": container("healthcheck", healthcheck={"cmd": "true"}),
    "restart policy": container("restart_policy", restart_policy={"Name": "always"}),
    "port": container("exposed_ports", "80/tcp", exposed_ports={"80/tcp": {}}),
    "capsule": capsule(),
    "capsule's metadata": capsule("metadata"),
    "capsule's spec": capsule("spec"),
    "capsule's container": capsule(*BOX),
    "capsule's resources": capsule(*BOX, "resources", resources={"requests": {}}),
    "capsule's requests": capsule(*BOX, "resources", "requests", resources={"requests": {}}),
    "capsule's port": capsule(*BOX, "ports", 0, ports=[{"containerPort": 80}]),
    "capsule's mount": capsule(*BOX, "volumeMounts", 0, volumeMounts=[{"name": "v1", "mountPath": "/v1"}]),
    "capsule's volume": capsule("spec", "volumes", 0),
    "capsule's cinder": capsule("spec", "volumes", 0, "cinder"),
    "capsule's emptyDir": capsule("spec", "volumes", 1, "emptyDir"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_no_body_has_a_word_for_the_hosts_powers(caisson: Caisson, place: str) -> None:
    for word in POWERS:
        path, body = PLACES[place](word)
        answer = await caisson.call("POST", path, body)
        assert answer.status_code == 400, word
        assert word in answer.text or place == "port"
    await caisson.nothing_stored()


async def test_no_query_has_one_either(caisson: Caisson) -> None:
    box = await caisson.made(run=True)
    path = f"/v1/containers/{box['uuid']}"
    for verb in ("stop?", "reboot?", "rebuild?", "kill?", "execute?command=id&", "commit?repository=r&"):
        answer = await caisson.call("POST", f"{path}/{verb}privileged=true")
        assert answer.status_code == 400, verb
        assert "privileged" in answer.text
    for field in ("privileged", "runtime", "labels", "mounts", "HostConfig"):
        answer = await caisson.call("PATCH", path, {"memory": "64", field: "x"})
        assert answer.status_code == 400, field
        assert field in answer.text


@pytest.mark.parametrize("who", ["member", "admin"])
@pytest.mark.parametrize("value", [True, "true"])
async def test_nobody_is_privileged(caisson: Caisson, who: str, value: Any) -> None:
    answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "privileged": value}, who=who)
    assert "container:create:privileged" in error_of(answer, 403, "policy-not-authorized")["title"]
    await caisson.nothing_stored()


EVIL = {
    "privileged": "true", "io.kubernetes.cri-o.userns-mode": "auto", "com.docker.security_opt": "seccomp=unconfined",
    "HostConfig": '{"Privileged": true}', "io.balena.features.kernel-modules": "1", "Caisson.uuid": "x",
    "run.oci.keep_original_groups": "1", "dev.gvisor.spec.mount.v.source": "/",
}  # fmt: skip
VARIABLES = {
    "LD_PRELOAD": "/tmp/evil.so", "PATH": "/tmp", "BASH_ENV": "/tmp/evil", "DOCKER_HOST": "unix:///var/run/docker.sock",
    "_LIBCONTAINER_INITTYPE": "setns", "CAISSON_POLICY_FILE": "/tmp/policy", "NVIDIA_VISIBLE_DEVICES": "all",
}  # fmt: skip


async def test_what_is_free_text_stays_text(caisson: Caisson) -> None:
    """The engine is asked for the same container as if nothing had been written there."""
    plain = await caisson.made(run=True, hostname="h")
    said = await caisson.made(
        run=True,
        hostname="h",
        labels=EVIL,
        environment=VARIABLES,
        hints={"privileged": True, "HostConfig": {"Privileged": True}, "pid_mode": "host", "network": "host"},
        command=["sleep", "--privileged", "-v", "/:/host", "--cap-add", "ALL"],
        workdir="/proc/1/root",
        healthcheck={"cmd": "nsenter -t 1 -m -- sh -c 'touch /evil'"},
    )
    one, other = (caisson.engine.spec(UUID(box["uuid"])) for box in (plain, said))
    data = ("labels", "environment", "command", "workdir", "healthcheck")
    assert other == replace(one, **{name: getattr(other, name) for name in data})
    assert (other.privileged, other.runtime, other.mounts, other.network) == (False, None, (), one.network)


async def test_what_is_free_text_in_a_capsule_stays_text(caisson: Caisson) -> None:
    body = template({"image": BUSY, "command": ["sleep", "1000"], "env": VARIABLES})
    body["template"]["metadata"] |= {"labels": EVIL, "annotations": EVIL}
    made = await caisson.ok("POST", "/v1/capsules", body)
    shown = await until(caisson, made["uuid"], "Running")
    spec = caisson.engine.spec(UUID(shown["containers"][0]["uuid"]))
    assert (spec.privileged, spec.runtime, spec.mounts, spec.labels) == (False, None, (), {})
    assert spec.group == UUID(made["uuid"])


PATHS = ("/", "/etc", "/var/run/docker.sock", "../../etc", "host", "/proc/1/root", "caisson-other")


async def test_no_folder_of_the_host_is_mounted(caisson: Caisson) -> None:
    """A source is a volume of the project, or the content of a file; a path is neither."""
    foreign = await caisson.ok("POST", "/v1/volumes", {"name": "theirs"}, who="foreign")
    for source in (*PATHS, foreign["uuid"], "theirs"):
        mount = {"source": source, "destination": "/mnt"}
        answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "mounts": [mount]})
        assert answer.status_code == 404, source
        cinder = {"name": "v1", "cinder": {"volumeID": source}}
        answer = await caisson.call("POST", "/v1/capsules", template({"image": BUSY}, volumes=[cinder]))
        assert answer.status_code in (400, 404), source
        file = {"type": "bind", "source": source, "destination": "/mnt/file"}
        answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "mounts": [file]})
        if answer.status_code == 400:
            assert "base64" in answer.text
            continue
        box = await caisson.until(answer.json()["uuid"], "Created")
        assert caisson.engine.spec(UUID(box["uuid"])).mounts == ()
        (kept,) = await caisson.running.rows(InjectedFile, InjectedFile.container_id == box["uuid"])
        content = caisson.running.gateway.vault.open(kept.content)
        assert base64.b64decode(content) == base64.b64decode(source)
    assert not await caisson.running.rows(Volume, Volume.project_id == await caisson.project("alpha"))

"""What a container is as a pod, and what is read of one."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.backends.engine import ContainerSpec, HealthCheck, ImageSeen, Port, Restart, Seen, State
from app.backends.kubernetes import pods
from app.errors import Refused

IMAGE = ImageSeen("sha256:1", 1, command=("sh",), entrypoint=("/init",), ports=(80,))
UUID_ = UUID("6a6a2f6e-2f3c-4a55-9d3b-111111111111")


def kept(spec: ContainerSpec | None = None, **notes: str) -> dict[str, Any]:
    made = pods.config_map(UUID_, spec or ContainerSpec("p", "busybox:1"), IMAGE, "here")
    made["metadata"] |= {"uid": "u1"}
    made["metadata"]["annotations"] |= {name.replace("_", "."): value for name, value in notes.items()}
    return made


def pod(phase: str = "Pending", last: dict[str, Any] | None = None, **state: Any) -> dict[str, Any]:
    status = {"state": state, "lastState": {"terminated": last} if last else {}, "ready": True}
    spec = {"containers": [{"name": "box"}]}
    return {"metadata": {}, "spec": spec, "status": {"phase": phase, "containerStatuses": [status]}}


def seen(document: dict[str, Any], found: dict[str, Any] | None = None) -> Seen:
    made = pods.seen(document, found)
    assert made is not None
    return made


def test_a_pod_is_told_nothing_of_the_cluster_and_its_words_are_taken_literally() -> None:
    spec = ContainerSpec(
        "p", "busybox:1", ["echo", "$(HOME)"], environment={"A": "$(B)"}, cpu=0.5, memory=64,
        ports=[Port(80, host_port=8080), Port(53, "udp")], restart=Restart("unless-stopped"),
        healthcheck=HealthCheck("true", interval=5),
    )  # fmt: skip
    made = pods.pod(UUID_, spec, {})["spec"]
    (box,) = made["containers"]
    assert (made["automountServiceAccountToken"], made["enableServiceLinks"], made["restartPolicy"]) == (
        False, False, "Always",
    )  # fmt: skip
    assert (box["args"], box["env"]) == (["echo", "$$(HOME)"], [{"name": "A", "value": "$$(B)"}])
    assert "command" not in box
    assert box["resources"] == {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "0", "memory": "0"}}
    assert box["ports"] == [
        {"containerPort": 80, "protocol": "TCP", "hostPort": 8080},
        {"containerPort": 53, "protocol": "UDP"},
    ]
    assert box["readinessProbe"]["periodSeconds"] == 5


@pytest.mark.parametrize(
    "wish",
    [
        {"privileged": True}, {"runtime": "runc"}, {"disk": 1}, {"network": "n"}, {"sealed": True}, {"cores": [1]},
        {"group": uuid4()}, {"restart": Restart("on-failure", 3)}, {"labels": {"caisson.uuid": "x"}},
    ],
)  # fmt: skip
def test_what_a_pod_cannot_have(wish: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        pods.config_map(UUID_, ContainerSpec("p", "busybox:1", **wish), IMAGE, None)


def test_before_its_first_start() -> None:
    made = seen(kept())
    assert (made.state, made.project_id, made.image) == (State.CREATED, "p", "busybox:1")
    assert (list(made.entrypoint), list(made.command), list(made.ports)) == (["/init"], ["sh"], [80])
    assert pods.uuid_in(made.ref) == UUID_


def test_an_image_that_cannot_be_pulled_says_so() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "busybox:1"'}
    made = seen(kept(), pod(waiting=waiting))
    assert (made.state, made.error) == (State.CREATED, 'ImagePullBackOff: Back-off pulling image "busybox:1"')


def test_a_pod_that_no_node_takes_says_so() -> None:
    found: dict[str, Any] = {"metadata": {}, "spec": {"containers": []}, "status": {"phase": "Pending"}}
    found["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]
    assert seen(kept(), found).error == "0/1 nodes are available"


def test_a_pod_that_runs_and_one_that_has_ended() -> None:
    made = seen(kept(), pod("Running", running={"startedAt": "2026-01-02T03:04:05Z"}))
    assert made.state is State.RUNNING
    assert made.started_at is not None
    over = {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": "2026-01-02T03:04:05Z",
        "finishedAt": "2026-01-02T03:04:06Z",
    }
    made = seen(kept(), pod("Failed", terminated=over))
    assert (made.state, made.exit_code, made.oom_killed) == (State.EXITED, 137, True)
    crashed = pod("Running", last=over, waiting={"reason": "CrashLoopBackOff"})
    assert seen(kept(), crashed).state is State.RESTARTING


def test_a_command_that_is_not_there() -> None:
    over = {"exitCode": 128, "reason": "StartError", "message": 'exec: "nothing": not found'}
    found = pod("Failed", terminated=over)
    assert (seen(kept(), found).state, seen(kept(), found).error) == (State.CREATED, over["message"])
    assert pods.never_began(found) == over["message"]


def test_what_is_kept_of_a_pod_that_went() -> None:
    over = {"exitCode": 3, "reason": "Error", "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "2026-01-02T03:04:06Z"}
    document = kept(caisson_ended=json.dumps(pods.ended(pod("Failed", terminated=over), b"the end\n")))
    made = seen(document)
    assert (made.state, made.exit_code, made.error) == (State.EXITED, 3, "")
    assert pods.kept_log(document) == b"the end\n"


def test_a_pod_that_others_took_away() -> None:
    made = seen(kept(caisson_wanted="yes"))
    assert (made.state, made.error) == (State.EXITED, "its pod is gone: it was deleted, or its node was lost")


def test_what_kubelet_adds_to_the_log_of_a_container_that_it_removes_is_not_the_containers() -> None:
    found = pod("Running", running={})
    found["status"]["containerStatuses"][0]["containerID"] = "containerd://c0ffee"
    words = b'rpc error: code = NotFound desc = an error occurred when try to find container "%s": not found'
    assert pods.without_farewell(found, b"last\n" + words % b"c0ffee") == b"last\n"
    for own in (words % b"decade", words % b"c0ffee" + b"\n"):
        assert pods.without_farewell(found, own) == own

"""What a container is as a service of a swarm, and what is read of one."""

from typing import Any
from uuid import UUID

import pytest

from app.backends.engine import ContainerSpec, ImageSeen, Port, Restart, Seen, State
from app.backends.swarm import shapes as swarm
from app.errors import Refused

IMAGE = ImageSeen("sha256:1", 1, command=("sh",), entrypoint=("/init",), ports=(80,))
UUID_ = UUID("6a6a2f6e-2f3c-4a55-9d3b-111111111111")
NODE = swarm.Node("n1", "default-worker-0", "10.0.0.3", up=True, fit=True, cpus=2, memory=1024, architecture="x86_64")


def service(**wishes: Any) -> dict[str, Any]:
    body = swarm.service_body(UUID_, ContainerSpec("p", "busybox:1", **wishes), IMAGE, "here", 50)
    return {"ID": "s1", "Version": {"Index": 1}, "Spec": body}


def task(number: int, state: str, *, container: str = "c", error: str = "") -> swarm.Task:
    document = {
        "ID": f"t{number}", "NodeID": "n1", "CreatedAt": f"2026-01-02T03:04:0{number}Z", "Spec": {},
        "Status": {
            "State": state, "Timestamp": "2026-01-02T03:04:09Z", "Err": error,
            "ContainerStatus": {"ContainerID": container, "ExitCode": 3} if container else {},
        },
    }  # fmt: skip
    (made,) = swarm.tasks([document])
    return made


def seen(found: dict[str, Any], tasks: list[swarm.Task], inside: swarm.Inside | None = None) -> Seen:
    made = swarm.seen(found, tasks, inside)
    assert made is not None
    return made


def test_a_service_runs_its_image_by_id_and_says_what_the_image_says() -> None:
    spec = service(ports=[Port(53, "udp", 5353)], cpu=0.5, memory=64)["Spec"]
    box = spec["TaskTemplate"]["ContainerSpec"]
    assert (box["Image"], box["Command"], box["Args"]) == ("sha256:1", ["/init"], ["sh"])
    assert box["CapabilityDrop"] == ["ALL"]
    assert spec["Mode"]["Replicated"]["Replicas"] == 0
    (port,) = spec["EndpointSpec"]["Ports"]
    assert (port["PublishedPort"], port["PublishMode"]) == (5353, "host")
    assert spec["TaskTemplate"]["Resources"]["Limits"] == {"Pids": 512, "NanoCPUs": 500000000, "MemoryBytes": 67108864}
    assert service(entrypoint=["/bin/cat"])["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"] == []


@pytest.mark.parametrize(
    ("name", "condition"),
    [("no", "none"), ("always", "any"), ("unless-stopped", "any"), ("on-failure", "on-failure")],
)
def test_restart_policies(name: str, condition: str) -> None:
    made = service(restart=Restart(name, 2 if name == "on-failure" else 0))
    assert made["Spec"]["TaskTemplate"]["RestartPolicy"]["Condition"] == condition
    assert swarm.restarts(made) == (name != "no")


@pytest.mark.parametrize("wish", [{"privileged": True}, {"disk": 1}, {"network": "n"}, {"labels": {"caisson.x": "y"}}])
def test_what_a_service_cannot_have(wish: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        service(**wish)


def test_started_parked_and_started_again() -> None:
    made = service()
    assert not swarm.is_wanted(made)
    for number in (1, 2):
        made["Spec"] = swarm.started(made)
        assert swarm.is_wanted(made)
        assert made["Spec"]["TaskTemplate"]["ForceUpdate"] == number
        made["Spec"] = swarm.parked(made)
        assert swarm.is_parked(made)
        assert not swarm.is_wanted(made)


def test_before_its_first_start() -> None:
    made = seen(service(), [])
    assert (made.state, made.ref, made.image, list(made.ports)) == (State.CREATED, "s1", "busybox:1", [80])


def test_a_task_that_no_node_takes() -> None:
    found = service()
    found["Spec"] = swarm.started(found)
    waiting = task(1, "pending", container="", error="no suitable node (host-mode port already in use on 1 node)")
    assert (seen(found, [waiting]).state, seen(found, [waiting]).error) == (State.CREATED, waiting.error)


def test_what_was_on_a_node_that_is_lost() -> None:
    down = swarm.Node("n1", "default-worker-0", "10.0.0.3", up=False, fit=False, cpus=2, memory=9, architecture="")
    old = task(1, "running")
    made = seen(service(), [old], swarm.Inside(old, down, None))
    assert (made.state, made.error) == (State.EXITED, "node default-worker-0 of the cluster is down")


def test_between_two_tasks_it_restarts() -> None:
    found = service(restart=Restart("always"))
    found["Spec"] = swarm.started(found)
    old, new = task(1, "failed"), task(2, "ready")
    made = seen(found, [old, new], swarm.Inside(old, NODE, None))
    assert (made.state, made.exit_code) == (State.RESTARTING, 3)

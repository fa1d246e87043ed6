"""OpenStack's own command, unmodified, against a served gateway with a real Keystone and a real engine."""

import re

import pytest

from tests.e2e.served import CommandError, Gateway
from tests.stack import images
from tests.stack.images import BUSYBOX
from tests.stack.registry import Registry

SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")


def test_the_main_job(gateway: Gateway) -> None:
    """Run a container that pings its network's gateway, list it, show it, read its log, delete it."""
    job = "ping -c 4 \"$(ip route | awk '/default/ {print $3}')\"; sleep 10"  # while the client lists it
    made = gateway.openstack_json("run", "--name", "pingtest", BUSYBOX, "sh", "-c", job)
    assert (made["name"], made["status"], made["command"]) == ("pingtest", "Creating", ["sh", "-c", job])
    gateway.become("pingtest", "Running")
    (listed,) = gateway.openstack_json("list")
    assert list(listed) == ["uuid", "name", "image", "status", "task_state", "addresses", "ports"]
    assert (listed["uuid"], listed["image"], listed["status"]) == (made["uuid"], BUSYBOX, "Running")
    assert re.fullmatch(r"10\.221\.\d+\.\d+", listed["addresses"])
    gateway.become("pingtest", "Stopped")
    shown = gateway.openstack_json("show", made["uuid"])
    assert (shown["name"], shown["status"], shown["memory"]) == ("pingtest", "Stopped", "512")
    log = gateway.openstack("logs", "pingtest")
    assert "4 packets transmitted, 4 packets received" in log
    assert log.startswith(f"PING {listed['addresses'].rpartition('.')[0]}.1 ")
    said = gateway.openstack("delete", "pingtest")
    assert said == "Request to delete container pingtest has been accepted.\n"
    gateway.become(made["uuid"], "Gone")
    assert gateway.openstack_json("list") == []


def test_every_change_of_state(gateway: Gateway) -> None:
    made = gateway.openstack_json("create", "--name", "walker", BUSYBOX, *SLEEPER)
    gateway.become("walker", "Created")
    for verb, reached, words in (
        ("start", "Running", ()),
        ("pause", "Paused", ()),
        ("unpause", "Running", ()),
        ("stop", "Stopped", ("--timeout", "5")),
        ("start", "Running", ()),
        ("restart", "Running", ("--timeout", "5")),
        ("kill", "Stopped", ("--signal", "SIGKILL")),
    ):
        assert "has been accepted" in gateway.openstack(verb, *words, "walker")
        gateway.become("walker", reached)
    # There is a sentence about the age once there is one, which is after a second.
    gateway.become("walker", "Stopped", also=lambda box: (box["status_detail"] or "").startswith("Exited(137) "))
    actions = gateway.openstack_json("action list", "walker")
    verbs = [action["action"] for action in actions]
    assert verbs == ["kill", "reboot", "start", "stop", "unpause", "pause", "start", "create"]
    one = gateway.openstack_json("action show", "walker", actions[0]["request_id"])
    assert (one["action"], one["container_uuid"], one["message"]) == ("kill", made["uuid"], None)
    assert [event["result"] for event in one["events"]] == ["Success"]


def test_what_happens_inside(gateway: Gateway) -> None:
    gateway.openstack("run", "--name", "inside", "--environment", "COLOUR=blue", BUSYBOX, *SLEEPER)
    gateway.become("inside", "Running")
    assert gateway.openstack("exec", "inside", "sh", "-c", "echo $COLOUR") == "blue\n\n"
    assert gateway.openstack("exec", "inside", "sh", "-c", "echo 'two words' | tr a-z A-Z") == "TWO WORDS\n\n"
    # The exit code of the command is that of the client.
    with pytest.raises(CommandError, match=r"exec inside false: 1\n"):
        gateway.openstack("exec", "inside", "false")
    stats = gateway.openstack_json("stats", "inside")
    assert stats["CONTAINER"] == "inside"
    assert 0 < stats["MEM USAGE(MiB)"] < stats["MEM LIMIT(MiB)"] == 512


def test_options_of_a_container_reach_it(gateway: Gateway) -> None:
    gateway.openstack(
        "run", "--name", "fitted", "--cpu", "0.5", "--memory", "64", "--workdir", "/var", "--hostname", "elsewhere",
        "--label", "team=blue", "--restart", "on-failure:2", "--entrypoint", "sh -c", BUSYBOX,
        "echo $(pwd) $(hostname); cat /sys/fs/cgroup/memory/memory.limit* /sys/fs/cgroup/memory.max; exec sleep 600",
    )  # fmt: skip
    shown = gateway.become("fitted", "Running")
    assert (shown["cpu"], shown["memory"], shown["workdir"]) == (0.5, "64", "/var")
    assert (shown["labels"], shown["hostname"]) == ({"team": "blue"}, "elsewhere")
    assert shown["restart_policy"] == {"Name": "on-failure", "MaximumRetryCount": "2"}
    assert shown["entrypoint"] == ["sh", "-c"]
    # Which of the two files is there depends on the kernel's version of control groups.
    log = gateway.openstack("logs", "fitted").splitlines()
    assert "/var elsewhere" in log
    assert str(64 * 1024 * 1024) in log


def test_refusals_are_told_in_a_sentence(gateway: Gateway) -> None:
    gateway.openstack("create", "--name", "resting", BUSYBOX)
    gateway.become("resting", "Created")
    for verb, words, sentence in (
        ("show", ("nobody",), "Container nobody could not be found. (HTTP 404)"),
        ("run", ("--memory", "2", BUSYBOX), "Invalid input for field 'memory'. Value: '2'."),
        ("run", ("--mount", "size=1,destination=/data", BUSYBOX), "make a volume without a size"),
        ("run", ("--privileged", BUSYBOX), "Policy doesn't allow container:create:privileged"),
        ("logs", ("--since", "yesterday", "resting"), "since"),
        ("exec", ("resting", "true"), "Created state (HTTP 409)"),
    ):
        with pytest.raises(CommandError) as refused:
            gateway.openstack(verb, *words)
        assert sentence in str(refused.value)
    # This one prints what went wrong and still ends with 0: so is the client.
    assert "Created state (HTTP 409)" in gateway.openstack("pause", "resting")


def test_the_oldest_version_of_the_api(gateway: Gateway) -> None:
    """There the command sends ``auto_remove`` all the same, which Zun refuses before 1.3, and so do we."""
    with pytest.raises(CommandError, match=r"auto_remove is only supported from version 1\.3"):
        gateway.openstack("run", BUSYBOX, "true", version="1.1")
    made = gateway.zun(version="1.1").containers.run(name="versioned", image=BUSYBOX, command=["echo", "two words"])
    assert made.command == ["echo", "two words"]
    gateway.become("versioned", "Stopped")
    assert gateway.openstack("logs", "versioned", version="1.1") == "two words\n\n"
    assert [box["name"] for box in gateway.openstack_json("list", version="1.1")] == ["versioned"]


@pytest.mark.parametrize("version", ["1.20", "1.40", "1.latest"])
def test_later_versions_of_the_api(gateway: Gateway, version: str) -> None:
    ident = gateway.openstack_json("run", "--name", "versioned", BUSYBOX, "echo", "two words", version=version)["uuid"]
    gateway.become(ident, "Stopped")
    assert gateway.openstack("logs", ident, version=version) == "two words\n\n"
    assert [box["uuid"] for box in gateway.openstack_json("list", version=version)] == [ident]


def test_images(gateway: Gateway, registry: Registry) -> None:
    name = registry.push(gateway.engine_url, "team/pulled:1")
    with pytest.raises(CommandError, match="image:pull"):
        gateway.openstack("image pull", name, "local")
    host = gateway.openstack_json("run", "--name", "anywhere", BUSYBOX, user="alpha-admin")["host"]
    made = gateway.openstack_json("image pull", name, host, user="alpha-admin")
    assert (made["repo"], made["tag"], made["host"]) == (f"{registry.host}/team/pulled", "1", host)

    token = gateway.keystone.token("alpha-admin")
    gateway.until(lambda: gateway.call("GET", f"/v1/images/{made['uuid']}", token).json()["image_id"] is not None)
    (listed,) = gateway.openstack_json("image list", user="alpha-admin")
    assert (listed["uuid"], listed["tag"]) == (made["uuid"], "1")
    assert int(listed["size"]) > 1_000_000
    shown = gateway.openstack_json("image show", made["uuid"], user="alpha-admin")
    assert shown["image_id"] == listed["image_id"]
    gateway.openstack("image delete", made["uuid"], user="alpha-admin")
    gateway.until(lambda: gateway.call("GET", f"/v1/images/{made['uuid']}", token).status_code == 404)
    # Docker searches its own Hub, or a registry of the old kind; what it says to this one comes back as it is.
    with pytest.raises(CommandError, match=r"HTTP 4\d\d|HTTP 50[1-4]"):
        gateway.openstack("image search", registry.host)


def test_a_private_registry(gateway: Gateway, private_registry: Registry) -> None:
    name = private_registry.push(gateway.engine_url, "team/secret:1")
    login = ["--username", str(private_registry.username), "--password", str(private_registry.password)]
    made = gateway.openstack_json("registry create", "--name", "ours", "--domain", private_registry.host, *login)
    assert (made["domain"], made["username"]) == (private_registry.host, "puller")
    assert str(private_registry.password) not in str(made)
    assert [entry["name"] for entry in gateway.openstack_json("registry list")] == ["ours"]

    # Without it the engine is turned away, with it the image comes.
    gateway.openstack("run", "--name", "stranger", name, "echo", "in")
    refused = gateway.become("stranger", "Error")
    assert "no basic auth credentials" in refused["status_reason"]
    gateway.openstack("run", "--name", "friend", "--registry", "ours", "team/secret:1", "echo", "in")
    friend = gateway.become("friend", "Stopped")
    assert friend["image"] == name
    assert gateway.openstack("logs", "friend") == "in\n\n"

    gateway.openstack("registry update", "--username", "nobody", "ours")
    assert gateway.openstack_json("registry show", "ours")["username"] == "nobody"
    images.remove(gateway.engine_url, name)
    gateway.openstack("run", "--name", "impostor", "--registry", "ours", "team/secret:1", "echo", "in")
    assert gateway.become("impostor", "Error")["status_reason"]
    # In use, it stays.
    assert "in use" in gateway.openstack("registry delete", "ours")
    gateway.clear()
    gateway.openstack("registry delete", "ours")
    assert gateway.openstack_json("registry list") == []
    images.remove(gateway.engine_url, name)

"""What a container may do: by what Docker says of it, and by what it finds when it tries."""

import re
from typing import Any
from uuid import uuid4

import pytest

from app.backends.docker.engine import make
from app.backends.engine import Ability, Port, Seen, State
from app.errors import Refused
from app.settings import BackendSettings, Settings
from tests.conformance.place import Place
from tests.stack.docker import client
from tests.stack.session import free_port

# Bits by number of CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT
# AUDIT_WRITE SETFCAP; see capabilities(7).
SAFE = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31))
MIB = 1024 * 1024


def inspected(url: str, seen: Seen) -> dict[str, Any]:
    """What Docker says of a container."""
    with client(url) as http:
        document: dict[str, Any] = http.get(f"/containers/{seen.ref}/json").raise_for_status().json()
        return document


async def test_the_strict_defaults_as_docker_tells_them(place: Place, docker_url: str) -> None:
    made = await place.engine.create(uuid4(), place.spec("sleep", "1000", cpu=0.5, memory=64))
    document = inspected(docker_url, made)
    host = document["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert "MKNOD" not in host["CapAdd"]
    assert "SYS_ADMIN" not in host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PidsLimit"] == 512
    assert host["NetworkMode"] == "none"
    assert (host["IpcMode"], host["PidMode"], host["UTSMode"]) == ("private", "", "")
    assert (host["Binds"], document["Mounts"], host["Devices"]) == (None, [], None)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "25600k", "max-file": "2"}}
    assert host["NanoCpus"] == 500_000_000
    assert host["CpuShares"] == 512
    assert host["Memory"] == host["MemorySwap"] == 64 * MIB
    assert document["Name"] == f"/caisson-{made.uuid}"
    labels = {name: value for name, value in document["Config"]["Labels"].items() if value}
    assert labels == {"caisson.uuid": str(made.uuid), "caisson.project": place.project}


async def test_no_limit_is_no_limit(place: Place, docker_url: str) -> None:
    made = await place.engine.create(uuid4(), place.spec("sleep", "1000", cpu=0.0, memory=0))
    host = inspected(docker_url, made)["HostConfig"]
    assert (host["NanoCpus"], host["CpuShares"], host["Memory"], host["MemorySwap"]) == (0, 0, 0, 0)


async def test_the_strict_defaults_as_the_container_finds_them(place: Place) -> None:
    seen = await place.run("cat", "/proc/self/status")
    await place.ended(seen.uuid)
    status = dict(re.findall(r"^(\w+):\s+(\S+)", (await place.log(seen.ref)).decode(), re.MULTILINE))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == SAFE
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


async def test_no_device_can_be_made_and_no_file_system_mounted(place: Place) -> None:
    seen = await place.run("sh", "-c", "mknod /tmp/disk b 8 0; mount -t tmpfs none /tmp; echo end")
    await place.ended(seen.uuid)
    log = await place.log(seen.ref)
    assert b"mknod: /tmp/disk: Operation not permitted" in log or b"mknod: not found" in log
    assert b"end\n" in log


async def test_the_number_of_processes_is_limited(place: Place) -> None:
    fork = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all"
    seen = await place.run("sh", "-c", fork, pids_limit=8)
    await place.ended(seen.uuid)
    assert b"can't fork: Resource temporarily unavailable" in await place.log(seen.ref)
    unlimited = await place.run("sh", "-c", fork)
    await place.ended(unlimited.uuid)
    assert await place.log(unlimited.ref) == b"all\n"


async def test_too_much_memory_is_the_end(place: Place) -> None:
    # dd takes its block size as memory, and writes to all of it. Its shell outlives it, for Docker forgets the kernel's
    # word about a process that is gone before that word was read.
    command = ("sh", "-c", "dd if=/dev/zero of=/dev/null bs=128M count=1; code=$?; sleep 3; exit $code")
    seen = await place.run(*command, memory=16)
    ended = await place.ended(seen.uuid)
    assert ended.oom_killed
    assert ended.exit_code == 137
    enough = await place.run(*command, memory=256)
    assert (await place.ended(enough.uuid)).exit_code == 0


async def test_ping_works_without_any_privilege(place: Place) -> None:
    seen = await place.run("ping", "-c", "1", "127.0.0.1")
    ended = await place.ended(seen.uuid)
    assert b"1 packets received" in await place.log(seen.ref)
    assert ended.exit_code == 0


async def test_the_log_is_bounded_and_keeps_its_end(place: Place, docker_url: str) -> None:
    engine = make("docker", BackendSettings(url=docker_url), Settings(log_max_mib=1))
    uuid = uuid4()
    write = f"yes {'x' * 1023} | head -c {4 * MIB}; echo end"
    made = await engine.create(uuid, place.spec("sh", "-c", write))
    await engine.start(made.ref)
    await place.ended(uuid)
    log = await place.log(made.ref)
    assert 0.4 * MIB < len(log) <= MIB
    assert log.endswith(b"end\n")
    await engine.close()


async def test_ports_are_published_on_the_settings_address_only(place: Place, docker_url: str) -> None:
    engine = make("docker", BackendSettings(url=docker_url), Settings(publish_address="127.0.0.9"))
    port = free_port()
    ports = [Port(80, host_port=port), Port(81)]
    made = await engine.create(uuid4(), place.spec("sleep", "1000", ports=ports))
    document = inspected(docker_url, made)
    assert document["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.9", "HostPort": str(port)}]}
    assert document["HostConfig"]["PublishAllPorts"] is False
    await engine.close()


async def test_only_who_asks_is_privileged(place: Place, docker_url: str) -> None:
    made = await place.engine.create(uuid4(), place.spec("sleep", "1000", privileged=True))
    host = inspected(docker_url, made)["HostConfig"]
    assert host["Privileged"] is True
    assert host["NetworkMode"] == "none"
    assert host["PidsLimit"] == 512


async def test_the_disk_is_refused_where_it_cannot_be_limited(place: Place) -> None:
    await place.engine.ping()
    if Ability.DISK_QUOTA in place.engine.abilities:
        seen = await place.run("dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=1100", disk=1)
        assert (await place.ended(seen.uuid)).exit_code == 1
    else:
        with pytest.raises(Refused, match="disk"):
            await place.engine.create(uuid4(), place.spec("true", disk=1))
        assert await place.mine() == []


async def test_limits_change_in_place(place: Place, docker_url: str) -> None:
    seen = await place.run("sleep", "1000", cpu=0.5, memory=64)
    update = place.engine.update  # type: ignore[attr-defined]
    await update(seen.ref, 0.25, 32)
    host = inspected(docker_url, seen)["HostConfig"]
    assert (host["NanoCpus"], host["CpuShares"]) == (250_000_000, 256)
    assert host["Memory"] == host["MemorySwap"] == 32 * MIB
    await update(seen.ref, 0.0, 0)
    info = await place.engine.ping()
    host = inspected(docker_url, seen)["HostConfig"]
    assert host["NanoCpus"] == info.cpus * 1_000_000_000
    assert host["Memory"] // MIB == info.memory


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"runtime": "no-such-runtime"}, "no-such-runtime"),
        ({"workdir": "not/absolute"}, "absolute path"),
        ({"workdir": "/etc/passwd"}, "not a directory"),
        ({"environment": {"": "x"}}, "environment variable"),
        ({"cpu": 1000.0}, "Range of CPUs"),
        ({"memory": 1}, "Minimum memory"),
    ],
)
async def test_wishes_that_docker_refuses(place: Place, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        await place.run("true", **wish)


@pytest.mark.parametrize("command", [["/etc"], ["/etc/passwd"], ["nul\0"]])
async def test_commands_that_cannot_start(place: Place, command: list[str]) -> None:
    made = await place.engine.create(uuid4(), place.spec(*command))
    with pytest.raises(Refused, match="OCI runtime create failed"):
        await place.engine.start(made.ref)
    assert (await place.seen(made.uuid)).state is State.CREATED

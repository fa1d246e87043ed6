"""Translation between Docker's words and Caisson's, where a real daemon cannot be made to say everything."""

import json
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.docker import shapes
from app.backends.docker.calls import translate
from app.backends.engine import ContainerSpec, HealthCheck, Port, Restart, State, VolumeMount
from app.errors import EngineBug, EngineError, Gone, Refused, RegistryDown, Taken, Unavailable

CONTAINER: dict[str, Any] = {
    "Id": "abc",
    "State": {
        "Status": "exited",
        "ExitCode": 137,
        "OOMKilled": True,
        "Error": "",
        "StartedAt": "2026-11-24T03:49:08.204884613Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
        "Health": {"Status": "none"},
    },
    "Config": {
        "Image": "busybox",
        "Cmd": None,
        "Entrypoint": "/init",
        "Hostname": "",
        "ExposedPorts": {"443/tcp": {}, "80/tcp": {}, "80/udp": {}},
        "Labels": {"caisson.uuid": "0ec63ce0-e065-449d-a762-26ed36a4a027", "caisson.project": "p"},
    },
    "HostConfig": {"Runtime": ""},
    "NetworkSettings": {
        "Networks": {
            "b": {"IPAddress": "10.0.0.2", "GlobalIPv6Address": "fd00::2"},
            "a": {"IPAddress": "", "GlobalIPv6Address": ""},
        }
    },
}


@pytest.mark.parametrize(
    ("status", "sentence", "kind"),
    [
        (404, "No such container: x", Gone),
        (404, "network caisson-x not found", Gone),
        (404, "manifest for busybox:none not found: manifest unknown: manifest unknown", Gone),
        (0, "manifest for timeout:x509 not found: manifest unknown: manifest unknown", Gone),
        (404, "pull access denied for x, repository does not exist or may require 'docker login': denied: no", Refused),
        (500, 'Head "http://127.0.0.1:5000/v2/x/manifests/1": no basic auth credentials', Refused),
        (500, "unauthorized: authentication required", Refused),
        (500, 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup r on 1.1.1.1:53: no such host', RegistryDown),
        (500, 'Get "https://r.example/v2/": x509: certificate signed by unknown authority', RegistryDown),
        (500, 'Get "https://r/v2/": http: server gave HTTP response to HTTPS client', RegistryDown),
        (500, "net/http: request canceled while waiting for connection (Client.Timeout exceeded)", RegistryDown),
        (0, "toomanyrequests: You have reached your pull rate limit.", RegistryDown),
        (0, "received unexpected HTTP status: 502 Bad Gateway", RegistryDown),
        (0, "no matching manifest for linux/arm64 in the manifest list entries", Refused),
        (409, "Conflict. The container name is already in use", Taken),
        (500, "driver failed: Bind for 127.0.0.1:80 failed: port is already allocated", Taken),
        (500, "listen tcp4 127.0.0.1:80: bind: address already in use", Taken),
        (500, "Container x is not paused", Taken),
        (403, "Pool overlaps with other one on this address space", Taken),
        (403, "cannot create network a (br-a): conflicts with network b: networks have overlapping IPv4", Taken),
        (403, "error while removing network: network x id y has active endpoints", Taken),
        (403, "operation not permitted", Refused),
        (400, "failed to create shim task: OCI runtime create failed: executable file not found in $PATH", Refused),
        (500, "failed to create shim task: OCI runtime create failed: environment variable name", Refused),
        (500, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option", Refused),
        (500, "ps: error: unknown gnu long option", Refused),
        (501, "not implemented", Refused),
        (500, "write /var/lib/docker/x: no space left on device", EngineBug),
        (500, "OCI runtime create failed: fork: resource temporarily unavailable", EngineBug),
        (500, "layer does not make sense", EngineBug),
        (409, "id already in use", Taken),
        (500, "id already in use", EngineBug),
        (500, f"task {'a' * 64}: already exists", EngineBug),
        (500, "failed to start shim: mkdir /run/x: file exists: unknown", EngineBug),
        (500, 'container x: driver "overlay2" failed to remove root filesystem: device or resource busy', EngineBug),
        (500, "write memory.limit_in_bytes: device or resource busy", Taken),
        (500, 'dial unix /run/containerd/containerd.sock: connect: connection refused": unavailable', Unavailable),
        (500, "grpc: the client connection is closing: unknown", Unavailable),
        (503, "the daemon is busy", Unavailable),
        (500, "", EngineBug),
    ],
)
def test_failures_by_status_and_sentence(status: int, sentence: str, kind: type[EngineError]) -> None:
    error = shapes.failure(status, f"{sentence}\n")
    assert type(error) is kind
    assert error.title == (sentence or "the engine answered 500 without a word")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), Unavailable),
        (ConnectionResetError("reset"), Unavailable),
        (KeyError("message"), EngineBug),
        (json.JSONDecodeError("what", "{", 1), EngineBug),
        (Gone("gone"), Gone),
    ],
)
def test_exceptions_are_translated(error: Exception, kind: type[EngineError]) -> None:
    assert type(translate(error)) is kind


@pytest.mark.parametrize(
    ("image", "domain", "name", "version"),
    [
        ("busybox", "docker.io", "busybox", "latest"),
        ("busybox:1.36", "docker.io", "busybox", "1.36"),
        ("team/tool", "docker.io", "team/tool", "latest"),
        ("localhost/tool", "localhost", "localhost/tool", "latest"),
        ("127.0.0.1:5000/team/tool:1", "127.0.0.1:5000", "127.0.0.1:5000/team/tool", "1"),
        ("r.example/a-b/c__d.e:V-1.x", "r.example", "r.example/a-b/c__d.e", "V-1.x"),
        ("tool@sha256:" + "a" * 64, "docker.io", "tool", "sha256:" + "a" * 64),
        ("[::1]:5000/tool:1@sha256:" + "a" * 64, "[::1]:5000", "[::1]:5000/tool", "sha256:" + "a" * 64),
    ],
)
def test_image_names(image: str, domain: str, name: str, version: str) -> None:
    assert shapes.image_name(image) == shapes.ImageName(domain, name, version)


@pytest.mark.parametrize(
    "image", ["", "A", "a b", "a:", "a:b:c", "../a", "a/./b", "a//b", "/a", "a/", "a?x=1", "ü", "a\n"]
)
def test_what_is_no_image_name(image: str) -> None:
    with pytest.raises(Refused, match="invalid reference format"):
        shapes.image_name(image)


def test_whose_credentials_they_are() -> None:
    assert shapes.is_domain("docker.io", "https://index.docker.io/v1/")
    assert shapes.is_domain("docker.io", "docker.io")
    assert shapes.is_domain("R.example:5000", "r.example:5000")
    assert not shapes.is_domain("r.example", "r.example:5000")
    assert not shapes.is_domain("docker.io", "r.example")
    assert not shapes.is_domain("r.example", "index.docker.io")


def test_a_container_as_inspected() -> None:
    seen = shapes.seen(CONTAINER)
    assert seen is not None
    assert seen.uuid == UUID("0ec63ce0-e065-449d-a762-26ed36a4a027")
    assert (seen.state, seen.exit_code, seen.oom_killed) == (State.EXITED, 137, True)
    assert seen.started_at is not None
    assert seen.started_at.isoformat() == "2026-11-24T03:49:08.204884+00:00"
    assert seen.finished_at is None
    assert (seen.command, seen.entrypoint) == ((), ("/init",))
    assert (seen.hostname, seen.runtime, seen.health) == (None, None, None)
    assert seen.ports == (80, 443)
    assert [(a.network, a.address, a.version) for a in seen.addresses] == [("b", "10.0.0.2", 4), ("b", "fd00::2", 6)]


@pytest.mark.parametrize(
    "labels", [None, {}, {"caisson.uuid": "x", "caisson.project": "p"}, {"caisson.uuid": str(uuid4())}]
)
def test_a_container_of_somebody_else(labels: dict[str, str] | None) -> None:
    assert shapes.seen(CONTAINER | {"Config": CONTAINER["Config"] | {"Labels": labels}}) is None


@pytest.mark.parametrize(
    ("status", "state"), [("configured", State.CREATED), ("stopped", State.EXITED), ("no word of ours", State.EXITED)]
)
def test_states_of_other_engines(status: str, state: State) -> None:
    seen = shapes.seen(CONTAINER | {"State": CONTAINER["State"] | {"Status": status}})
    assert seen is not None
    assert seen.state is state


def test_a_container_that_ran_and_is_called_created_has_ended() -> None:
    """So it is with a daemon that was killed while it started a container, and that container killed later."""
    never = {"Status": "created", "FinishedAt": "0001-01-01T00:00:00Z"}
    assert shapes.state_of(never) == State.CREATED
    assert shapes.state_of(never | {"FinishedAt": "2026-11-24T03:49:08.204884613Z"}) == State.EXITED


def test_project_networks_have_names_that_docker_takes() -> None:
    names = [shapes.network_name(project) for project in ("a" * 32, "a b", "a/b", "", "x" * 65, "-", "..")]
    assert len(set(names)) == len(names)
    assert names[0] == "caisson-" + "a" * 32
    assert all(name.replace("-", "").isalnum() and len(name) <= 72 for name in names[:-2])


def test_subnets_are_taken_in_turn_and_run_out() -> None:
    taken: list[IPv4Network] = []
    for _ in range(4):
        subnet = shapes.free_subnet("10.1.0.0/22", 24, taken, first=2)
        assert subnet is not None
        taken.append(IPv4Network(subnet))
    assert [str(subnet) for subnet in taken] == ["10.1.2.0/24", "10.1.3.0/24", "10.1.0.0/24", "10.1.1.0/24"]
    assert shapes.free_subnet("10.1.0.0/22", 24, taken, first=2) is None
    assert shapes.free_subnet("10.1.0.0/24", 24, [IPv4Network("10.0.0.0/8")], first=0) is None
    assert shapes.free_subnet("10.1.0.0/24", 16, [], first=0) is None


def test_routes_of_the_host() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert shapes.routes(table) == [IPv4Network("172.17.0.0/16")]
    assert shapes.routes("") == []


@pytest.mark.parametrize(
    ("driver", "backing", "options", "able"),
    [
        ("btrfs", "btrfs", "rw", True),
        ("zfs", "zfs", "rw", True),
        ("vfs", "extfs", "rw", False),
        ("overlay2", "extfs", "rw,prjquota", False),
        ("overlay2", "xfs", "rw,attr2", False),
        ("overlay2", "xfs", "rw,attr2,prjquota", True),
    ],
)
def test_which_storage_can_limit_the_disk(driver: str, backing: str, options: str, able: bool) -> None:
    document = {"Driver": driver, "DriverStatus": [["Backing Filesystem", backing]], "DockerRootDir": "/var/lib/docker"}
    mounts = "\n".join(
        [
            "1 0 8:1 / / rw - ext4 /dev/a rw",
            f"2 1 8:2 / /var/lib rw shared:1 - xfs /dev/b {options}",
            "3 1 8:3 / /var/li rw - xfs /dev/c rw,prjquota",
        ]
    )
    assert shapes.limits_disk(document, mounts) is able
    assert shapes.limits_disk(document, "") is (able and driver != "overlay2")


def test_versions_of_the_api() -> None:
    def version(oldest: str, newest: str) -> str:
        return shapes.api_version({"MinAPIVersion": oldest, "ApiVersion": newest})

    assert version("1.12", "1.41") == "v1.41"
    assert version("1.24", "1.47") == "v1.47"
    assert version("1.44", "1.60") == "v1.51"
    assert version("1.55", "1.60") == "v1.55"
    assert version("1.12", "1.40") == "v1.40"
    with pytest.raises(Refused, match=r"1\.39"):
        version("1.12", "1.39")


def measurement(**more: Any) -> dict[str, Any]:
    return {
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 4},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 1000, "limit": 4000, "stats": {"total_inactive_file": 400}},
        "blkio_stats": {"io_service_bytes_recursive": None},
        **more,
    }


def test_a_measurement() -> None:
    blocks = [{"op": "Read", "value": 5}, {"op": "write", "value": 7}, {"op": "read", "value": 1}]
    networks = {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 3, "tx_bytes": 4}}
    stats = shapes.stats(measurement(blkio_stats={"io_service_bytes_recursive": blocks}, networks=networks))
    assert stats.cpu_percent == 80.0
    assert (stats.memory_used, stats.memory_limit) == (600, 4000)
    assert (stats.block_read, stats.block_write, stats.net_rx, stats.net_tx) == (6, 7, 4, 6)


def test_a_measurement_on_unified_control_groups_and_at_the_very_start() -> None:
    memory = {"usage": 1000, "stats": {"inactive_file": 1200}}
    stats = shapes.stats(measurement(memory_stats=memory, precpu_stats={"cpu_usage": {"total_usage": 300}}))
    assert (stats.memory_used, stats.memory_limit, stats.cpu_percent) == (0, 0, 0.0)
    with pytest.raises(Taken, match="not running"):
        shapes.stats({"id": "abc", "memory_stats": {}})


def test_events() -> None:
    uuid = uuid4()
    attributes = {"Actor": {"Attributes": {"caisson.uuid": str(uuid)}}}
    event = shapes.event({"Action": "die", **attributes})
    assert event is not None
    assert (event.uuid, event.what, event.lost) == (uuid, "die", False)
    for action in ("exec_create: sh", "exec_start: sh", "exec_die", "top", "attach", "resize"):
        assert shapes.event({"Action": action, **attributes}) is None
    assert shapes.event({"Action": "die", "Actor": {"Attributes": {"caisson.uuid": "x"}}}) is None
    assert shapes.event({}) is None


@pytest.mark.parametrize("size", [1, 3, 8, 9, 1000])
def test_streams_are_put_together_however_they_are_cut(size: int) -> None:
    contents = [b"one", b"", b"x" * 70000, b"two\n"]
    stream = b"".join(bytes([1, 0, 0, 0]) + len(content).to_bytes(4) + content for content in contents)
    frames = shapes.Frames()
    parts = [part for at in range(0, len(stream), size) for part in frames.feed(stream[at : at + size])]
    assert parts == contents

    documents = [{"a": "x" * 70000}, {"b": 1}]
    stream = b"".join(json.dumps(document).encode() + b"\r\n" for document in documents)
    lines = shapes.Lines()
    assert [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])] == documents


def test_nothing_that_was_wished_is_dropped() -> None:
    """Every field of a wish changes what Docker is told."""
    plain = ContainerSpec("p", "busybox")
    other: dict[str, Any] = {
        "project_id": "q",
        "image": "alpine",
        "command": ["x"],
        "entrypoint": ["x"],
        "environment": {"A": "b"},
        "labels": {"a": "b"},
        "workdir": "/x",
        "hostname": "x",
        "cpu": 1.5,
        "memory": 64,
        "disk": 2,
        "pids_limit": 7,
        "restart": Restart("on-failure", 3),
        "healthcheck": HealthCheck("true", 1, 2, 3),
        "ports": [Port(80, "udp", 8080)],
        "interactive": True,
        "tty": True,
        "privileged": True,
        "runtime": "runsc",
        "network": "n",
        "mounts": [VolumeMount(uuid4(), "/data")],
        "cores": [1],
        "sealed": True,
    }
    # What a group means to a member is tested with groups, and places with networks: both need something to be there.
    assert set(other) == set(ContainerSpec.__dataclass_fields__) - {"group", "places"}
    uuid = uuid4()
    told = shapes.create_body(uuid, plain, 50, "127.0.0.1")
    for field, value in other.items():
        spec = ContainerSpec(**{"project_id": "p", "image": "busybox", field: value})
        assert shapes.create_body(uuid, spec, 50, "127.0.0.1") != told, field


text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
texts = st.dictionaries(text, text, max_size=4)


@given(st.lists(text, max_size=4), st.lists(text, max_size=2), texts, texts, text, text, text)
def test_what_a_tenant_writes_does_not_change_what_a_container_may_do(
    command: list[str], entrypoint: list[str], environment: dict[str, str], labels: dict[str, str],
    workdir: str, hostname: str, check: str,
) -> None:  # fmt: skip
    """Whatever stands in texts: the engine is told the same of the host, and our labels are ours."""
    uuid = uuid4()
    plain = shapes.create_body(uuid, ContainerSpec("p", "busybox"), 50, "127.0.0.1")
    spec = ContainerSpec(
        "p", "busybox", command, entrypoint, environment, labels, workdir, hostname, healthcheck=HealthCheck(check)
    )
    if any(key.startswith("caisson.") for key in labels):
        with pytest.raises(Refused, match="belong to Caisson"):
            shapes.create_body(uuid, spec, 50, "127.0.0.1")
        return
    body = shapes.create_body(uuid, spec, 50, "127.0.0.1")
    assert body["HostConfig"] == plain["HostConfig"]
    assert body.keys() - plain.keys() <= {"Cmd", "Entrypoint", "WorkingDir", "Hostname", "Healthcheck"}
    assert {**body["Labels"], **plain["Labels"]} == body["Labels"]
    assert body["Env"] == [f"{name}={value}" for name, value in environment.items()]
    assert body["Healthcheck"]["Test"] == ["CMD-SHELL", check]


def test_a_container_inherits_no_label_that_tells_whose_it_is() -> None:
    """Docker takes an image's labels where the container says nothing of its own."""
    plain = ContainerSpec("p", "busybox")
    said = shapes.create_body(uuid4(), plain, 50, "127.0.0.1")["Labels"]
    ours = {value for name, value in vars(shapes).items() if name.startswith("LABEL_") and name != "LABEL_PREFIX"}
    assert said.keys() == ours - {shapes.LABEL_VOLUME, shapes.LABEL_NETWORK}
    assert {said[name] for name in shapes.TELLING} == {""}

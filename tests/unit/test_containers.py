"""What a row becomes when the engine shows something, what the engine is asked for, and names without a Neutron."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import containers, names, networks
from app.backends.engine import Address, HealthCheck, Port, Restart, Seen, State
from app.containers import ALLOWED, changes_of, check_ability, check_state, spec_of
from app.errors import Invalid, NotFound, Unsupported, WrongState
from app.models import Container, Status
from app.settings import Settings
from tests.fake import FakeEngine

STARTED, ENDED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)
SEEN = Seen(ref="r" * 64, uuid=uuid4(), project_id="alpha", state=State.CREATED)


def box(**columns: Any) -> Container:
    row: dict[str, Any] = {
        "project_id": "alpha", "user_id": "u", "name": "n", "image": "busybox", "backend": "local", "created_at": 1.0,
    }  # fmt: skip
    return Container(**(row | columns))


def status_of(seen: Seen, **columns: Any) -> tuple[str, str | None]:
    changes = changes_of(box(**columns), seen)
    return changes["status"], changes["status_reason"]


@pytest.mark.parametrize(
    ("state", "before", "after"),
    [
        (State.CREATED, Status.CREATING, Status.CREATED),
        (State.CREATED, Status.CREATED, Status.CREATED),
        (State.CREATED, Status.REBUILDING, Status.CREATED),
        (State.CREATED, Status.ERROR, Status.ERROR),
        (State.CREATED, Status.RESTARTING, Status.ERROR),
        *((State.RUNNING, before, Status.RUNNING) for before in Status),
        (State.PAUSED, Status.RUNNING, Status.PAUSED),
        (State.RESTARTING, Status.RUNNING, Status.RESTARTING),
        (State.DEAD, Status.RUNNING, Status.DEAD),
        (State.EXITED, Status.RUNNING, Status.STOPPED),
        (State.EXITED, Status.ERROR, Status.STOPPED),
        (State.REMOVING, Status.DELETING, Status.STOPPED),
    ],
)
def test_status(state: State, before: Status, after: Status) -> None:
    assert status_of(replace(SEEN, state=state, started_at=STARTED, finished_at=ENDED), status=before)[0] == after


def test_reasons() -> None:
    assert status_of(replace(SEEN, error="no such file"), status="Error") == ("Error", "no such file")
    assert status_of(SEEN, status="Error", status_reason="kept") == ("Error", "kept")
    assert status_of(replace(SEEN, state=State.RUNNING), status_reason="old") == ("Running", None)
    ended = replace(SEEN, state=State.EXITED, exit_code=137, started_at=STARTED, finished_at=ENDED)
    assert status_of(ended) == ("Stopped", None)
    assert "not by a request here" in (status_of(ended, wanted_running=True)[1] or "")
    status, reason = status_of(replace(ended, oom_killed=True), memory=64)
    assert status == "Stopped"
    assert "64 MiB" in (reason or "")
    assert status_of(replace(ended, error="runtime failed", oom_killed=True))[1] == "runtime failed"


def test_what_the_engine_shows_is_taken_over() -> None:
    seen = replace(
        SEEN,
        state=State.EXITED,
        exit_code=3,
        started_at=STARTED,
        finished_at=ENDED,
        command=("sh",),
        entrypoint=("/init",),
        hostname="abc",
        runtime="runc",
        ports=(80,),
        addresses=(Address("net", "10.0.0.2"), Address("net", "fd00::2", 6)),
    )
    changes = changes_of(box(), seen)
    taken = {"engine_ref": "r" * 64, "command": ["sh"], "entrypoint": ["/init"], "hostname": "abc", "runtime": "runc"}
    assert {name: changes[name] for name in taken} == taken
    assert changes["ports"] == [80]
    assert (changes["started_at"], changes["finished_at"], changes["exit_code"]) == (
        STARTED.timestamp(), ENDED.timestamp(), 3,
    )  # fmt: skip
    ((network, entries),) = changes["addresses"].items()
    assert network == networks.network_id("alpha")
    assert [(entry["addr"], entry["version"]) for entry in entries] == [("10.0.0.2", 4), ("fd00::2", 6)]
    # What was asked for stays.
    changes = changes_of(box(command=["a"], entrypoint=["b"], hostname="mine"), seen)
    assert (changes["command"], changes["entrypoint"], changes["hostname"]) == (["a"], ["b"], "mine")
    assert changes_of(box(), SEEN)["exit_code"] is None


def test_looking_twice_changes_nothing() -> None:
    row = box()
    seen = replace(SEEN, state=State.RUNNING, started_at=STARTED, addresses=(Address("net", "10.0.0.2"),))
    for name, value in changes_of(row, seen).items():
        setattr(row, name, value)
    assert all(getattr(row, name) == value for name, value in changes_of(row, seen).items())


def test_the_engine_is_asked_for_what_the_row_says() -> None:
    settings = Settings(pids_limit=77)
    row = box(
        command=["a"], entrypoint=["b"], environment={"E": "1"}, labels={"l": "v"}, workdir="/w", hostname="h", cpu=0.5,
        memory=64, disk=2, restart_policy={"Name": "on-failure", "MaximumRetryCount": "3"},
        healthcheck={"test": "true", "interval": 5},
        exposed_ports=[{"number": 80, "protocol": "tcp", "host_port": 8080}],
        interactive=True, tty=True, privileged=True, runtime="runsc",
    )  # fmt: skip
    spec = spec_of(row, "net", settings)
    assert spec.image == "busybox:latest"
    assert (spec.command, spec.entrypoint, spec.environment, spec.labels) == (["a"], ["b"], {"E": "1"}, {"l": "v"})
    assert (spec.workdir, spec.hostname, spec.cpu, spec.memory, spec.disk) == ("/w", "h", 0.5, 64, 2)
    assert spec.restart == Restart("on-failure", 3)
    assert spec.healthcheck == HealthCheck("true", interval=5)
    assert spec.ports == [Port(80, "tcp", 8080)]
    assert (spec.interactive, spec.tty, spec.privileged, spec.runtime) == (True, True, True, "runsc")
    assert (spec.network, spec.pids_limit, spec.project_id) == ("net", 77, "alpha")


def test_a_row_that_says_little_asks_for_little() -> None:
    spec = spec_of(box(), None, Settings())
    assert (spec.command, spec.entrypoint, spec.environment, spec.labels, spec.ports) == ((), (), {}, {}, [])
    assert (spec.cpu, spec.memory, spec.disk, spec.network) == (0.0, 0, 0, None)
    assert (spec.restart, spec.healthcheck, spec.privileged) == (Restart(), None, False)
    assert spec.pids_limit == 512


@pytest.mark.parametrize("verb", ALLOWED)
def test_states(verb: str) -> None:
    shown = "delete" if verb.startswith("delete") else verb
    for status in Status:
        if status in ALLOWED[verb]:
            check_state(box(status=status), verb)
        else:
            with pytest.raises(WrongState, match=f"Cannot {shown} container .* in {status} state"):
                check_state(box(status=status), verb)


def test_what_an_engine_lacks_is_named_with_a_way_out() -> None:
    for verb, (ability, instead) in containers.NEEDS.items():
        check_ability(FakeEngine("full"), ability, verb, instead)
        with pytest.raises(Unsupported) as caught:
            check_ability(FakeEngine("poor", frozenset()), ability, verb, instead)
        for word in ("poor", ability.value, instead):
            assert word in caught.value.title


# Names without a Neutron


def test_networks_and_groups_have_stable_names() -> None:
    assert networks.network_id("alpha") == networks.network_id("alpha")
    ids = [
        function(project) for function in (networks.network_id, networks.security_group_id) for project in ("a", "b")
    ]
    assert len(set(ids)) == 4
    assert all(str(UUID(found)) == found for found in ids)
    one = networks.shown_addresses("a", "c1", [Address("n", "10.0.0.2")])
    two = networks.shown_addresses("a", "c2", [Address("n", "10.0.0.3")])
    (first,), (second,) = one.values(), two.values()
    assert first[0]["subnet_id"] == second[0]["subnet_id"]
    assert first[0]["port"] != second[0]["port"]
    assert networks.shown_addresses("a", "c1", []) == {}


def test_only_the_projects_own_network_can_be_asked_for() -> None:
    networks.check_nets("a", [])
    networks.check_nets("a", [{"network": "project"}])
    networks.check_nets("a", [{"network": networks.network_id("a")}])
    for nets in ([{"network": networks.network_id("b")}], [{"network": "x"}], [{"port": "p"}]):
        with pytest.raises(NotFound):
            networks.check_nets("a", nets)
    for nets in ([{"network": "project", "v4-fixed-ip": "10.0.0.9"}], [{"network": "project"}, {"network": "project"}]):
        with pytest.raises(Invalid, match="nets"):
            networks.check_nets("a", nets)


def test_generated_names() -> None:
    made = {names.generate() for _ in range(500)}
    assert len(made) > 100
    for name in made:
        match = re.fullmatch(r"([a-z]+)-(\d+)-container", name)
        assert match
        assert match[1] in names.GREEK
        assert 1 <= int(match[2]) <= 24
    assert len(names.GREEK) == 24

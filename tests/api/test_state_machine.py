"""Any sequence of requests and accidents: each is answered as the contract's table says, and rows equal the engine."""

import asyncio
import base64
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.archives import one_file
from app.backends.engine import State
from tests.api.caisson import Caisson, error_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Found = TypeVar("Found")
TAR = base64.b64encode(one_file("/note", b"hello")).decode()
ANY = "Created Running Stopped Paused Error"

# zun-api, sections 3.1 and 4.2: how a verb is asked for, from which statuses it is accepted, with which answer, and
# where it leads; without a goal the status stays.
VERBS: dict[str, tuple[str, str, Any, str, int, str | None]] = {
    "start": ("POST", "start", None, "Created Stopped Error", 202, "Running"),
    "stop": ("POST", "stop?timeout=1", None, "Running", 202, "Stopped"),
    "reboot": ("POST", "reboot?timeout=1", None, "Created Running Stopped Error", 202, "Running"),
    "pause": ("POST", "pause", None, "Running", 202, "Paused"),
    "unpause": ("POST", "unpause", None, "Paused", 202, "Running"),
    "kill": ("POST", "kill", None, "Running", 202, "Stopped"),
    "hup": ("POST", "kill?signal=HUP", None, "Running", 202, None),
    "rebuild": ("POST", "rebuild", None, "Created Running Stopped Error", 202, "Created"),
    "network_list": ("GET", "network_list", None, ANY, 200, None),
    "rename": ("POST", "rename", {"name": "{name}"}, ANY, 200, None),
    "patch": ("PATCH", "", {"memory": 99, "auto_heal": False}, "Created Running Stopped Paused", 200, None),
    "patch_name": ("PATCH", "", {"name": "{name}"}, "Created Running Stopped Paused", 200, None),
    "resize_container": ("POST", "resize_container", {"cpu": 0.5}, "Created Running Stopped Paused", 202, None),
    "commit": ("POST", "commit?repository=mine", None, "Running Stopped Paused", 202, None),
    "logs": ("GET", "logs", None, "Created Error Paused Running Stopped", 200, None),
    "execute": ("POST", "execute", {"command": "true"}, "Running", 200, None),
    "top": ("GET", "top", None, "Running", 200, None),
    "stats": ("GET", "stats", None, "Running", 200, None),
    "get_archive": ("GET", "get_archive?path=/tmp", None, "Created Paused Running Stopped", 200, None),
    "put_archive": ("POST", "put_archive?path=/tmp", {"data": TAR}, "Created Paused Running Stopped", 200, None),
}
OLD = {"rename": "container 1.13"}
STATES = {
    State.CREATED: "Created",
    State.RUNNING: "Running",
    State.PAUSED: "Paused",
    State.EXITED: "Stopped",
}
LOST = "Error"
"""The status of a container that its engine lost: nothing but a rebuild brings it back."""


class Life(RuleBasedStateMachine):
    """One container after another; `status` is what the contract says that it is now, None while there is none."""

    def __init__(self, caisson: Caisson, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.caisson = caisson
        self.loop = loop
        self.uuid = ""
        self.status: str | None = None
        self.attached = True
        self.names = 0
        self.refused: set[str] = set()  # the statuses in which all that is not allowed was asked for

    def wait(self, work: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    @initialize(run=st.booleans())
    def begin(self, run: bool) -> None:
        self.uuid = self.wait(self.caisson.made(run=run))["uuid"]
        self.status, self.attached = "Running" if run else "Created", True

    @rule(run=st.booleans())
    def create(self, run: bool) -> None:
        if self.status is None:
            self.begin(run)

    @rule(verb=st.sampled_from(sorted(VERBS)))
    def ask(self, verb: str) -> None:
        if self.status is not None:
            self.wait(self._ask(verb))

    async def _ask(self, verb: str) -> None:
        method, path, body, allowed, status, goal = VERBS[verb]
        self.names += 1
        if isinstance(body, dict):
            body = {key: f"name-{self.names}" if value == "{name}" else value for key, value in body.items()}
        whole = f"/v1/containers/{self.uuid}{path and '/'}{path}"
        answer = await self.caisson.call(method, whole, body, version=OLD.get(verb, "container 1.40"))
        if self.status not in allowed.split():
            error_of(answer, 409, "invalid-state-exception")
            return
        if self.status == LOST and verb == "logs":
            error_of(answer, 409, "conflict")
            return
        assert answer.status_code == status, answer.text
        if verb == "rebuild" and self.status == "Running":
            goal = "Running"
        if self.status == LOST and verb != "rebuild":
            goal = None
        self.status = goal or self.status
        await self.caisson.until(self.uuid, str(self.status))

    @rule(flags=st.sampled_from(["", "?stop=True", "?force=True"]))
    def delete(self, flags: str) -> None:
        if self.status is not None:
            self.wait(self._delete(flags))

    async def _delete(self, flags: str) -> None:
        allowed = {
            "": "Created Stopped Error",
            "?stop=True": "Created Stopped Error Running",
            "?force=True": ANY,
        }
        answer = await self.caisson.call("DELETE", f"/v1/containers/{self.uuid}{flags}", who="admin")
        if self.status not in allowed[flags].split():
            error_of(answer, 409, "invalid-state-exception")
            return
        assert answer.status_code == 204
        await self.caisson.until_gone(self.uuid)
        assert await self.caisson.engine.find(UUID(self.uuid)) is None
        self.status = None

    @rule()
    def leave_or_join_the_network(self) -> None:
        if self.status not in (None, LOST):
            self.wait(self._leave_or_join())

    async def _leave_or_join(self) -> None:
        """Allowed in every status, and never where it is already so."""
        verbs = {True: ("network_detach?network=project", 202), False: ("network_attach?network=project", 200)}
        wrong, _ = verbs[not self.attached]
        error_of(await self.caisson.call("POST", f"/v1/containers/{self.uuid}/{wrong}"), 400, "invalid-value")
        right, status = verbs[self.attached]
        assert (await self.caisson.call("POST", f"/v1/containers/{self.uuid}/{right}")).status_code == status
        self.attached = not self.attached
        await self.caisson.until(self.uuid, str(self.status))

    @rule(code=st.sampled_from([0, 3]))
    def it_ends_by_itself(self, code: int) -> None:
        if self.status == "Running":
            self.wait(self._end(code))
            self.status = "Stopped"
            self.wait(self.caisson.until(self.uuid, "Stopped"))

    async def _end(self, code: int) -> None:
        self.caisson.engine.exit(UUID(self.uuid), code)

    @rule()
    def the_engine_loses_it(self) -> None:
        if self.status not in (None, LOST):
            self.wait(self._vanish())
            self.status = LOST
            self.wait(self.caisson.until(self.uuid, LOST))

    async def _vanish(self) -> None:
        self.caisson.engine.vanish(UUID(self.uuid))

    @invariant()
    def rows_equal_the_engine(self) -> None:
        if self.status is not None:
            self.wait(self._compare())

    async def _compare(self) -> None:
        seen = await self.caisson.engine.find(UUID(self.uuid))
        shown = await self.caisson.show(self.uuid)
        assert shown["status"] == self.status
        assert bool(shown["addresses"]) == (self.attached and self.status in ("Running", "Paused"))
        assert (LOST if seen is None else STATES[seen.state]) == self.status
        if seen is not None:
            spec = self.caisson.engine.spec(UUID(self.uuid))
            assert (spec.cpu, str(spec.memory)) == (shown["cpu"], shown["memory"])

    @invariant()
    def what_the_table_does_not_allow_is_refused(self) -> None:
        if self.status is not None and self.status not in self.refused:
            self.refused.add(self.status)
            for verb, row in VERBS.items():
                if self.status not in row[3].split():
                    self.wait(self._ask(verb))

    def teardown(self) -> None:
        if self.status is not None:
            self.wait(self._delete("?force=True"))


async def test_any_life_of_a_container_follows_the_table(caisson: Caisson) -> None:
    loop = asyncio.get_running_loop()

    class Here(Life):
        def __init__(self) -> None:
            super().__init__(caisson, loop)

    few = settings(max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    await asyncio.to_thread(run_state_machine_as_test, Here, settings=few)
    await eventually(lambda: _nothing_under_way(caisson), lambda: "something is still under way")
    assert (await caisson.ok("GET", "/v1/containers"))["containers"] == []


async def _nothing_under_way(caisson: Caisson) -> bool:
    project = await caisson.project("alpha")
    return not [seen for seen in await caisson.engine.find_all() if seen.project_id == project]

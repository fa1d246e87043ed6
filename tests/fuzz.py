"""Requests that nobody thought of: schemathesis makes them from the description of both APIs, /openapi.json.

Every operation is asked with values that its description permits, with such as it does not, and in chains where the id
in one answer goes into the next request; by an administrator, a member and a reader of one project, in every
microversion. No answer may be a defect or tell a secret, and each has to be as it is described, refusals in the shape
of their API. What was found is kept and told at the end: one finding does not hide the next.
"""

import argparse
import asyncio
import logging
import os
import random
import re
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qsl

import httpx
import requests
import structlog
import uvicorn
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis.errors import Flaky
from schemathesis import Case, GenerationMode, openapi
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from app.apis import MAGNUM, ZUN
from app.server import Protocol
from app.settings import LimitSettings, QuotaSettings
from tests.api import caisson as place
from tests.api.capsule import template
from tests.api.routes import CLUSTERS, SAMPLES, TEMPLATES, filled, named_by
from tests.stack.session import free_port

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
SECONDS = 60  # for one answer; more is a finding
SECRET = "SENTINEL-fuzz"  # what no answer may hold
STEPS = 12  # requests of a chain, at most


class Fuzz:
    """Asks a served Caisson.

    Attributes:
        answers: how many there were of each status.
        reached: operations that did what was asked, once at least.
        chains: how many chains of requests were begun.
        findings: what was wrong with an answer, by operation and sentence: the request that shows it.
    """

    def __init__(self, url: str, tokens: Sequence[str], number: int) -> None:
        """`tokens` are an administrator's, a member's and a reader's of one project, or less; `number` is where chance
        begins."""
        self.answers: Counter[int] = Counter()
        self.reached: set[str] = set()
        self.findings: dict[tuple[str, str], str] = {}
        self.chains = 0
        self._url, self._tokens, self._number = url, tokens, number
        self._chance = random.Random(number)
        self._asking = tokens[0]
        self._session = requests.Session()
        document = httpx.get(f"{url}/openapi.json").raise_for_status().json()
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation.pop("security", None)  # each request has the token; tests/api/test_isolation.py is about others
        self._schema = openapi.from_dict(document)
        hosts = self._admin("GET", "/v1/hosts").json()["hosts"]
        self._ids = dict.fromkeys((*THINGS, "project"), "nothing") | {"host": hosts[0]["hostname"]}

    def ask_each(self, examples: int, below: str = "/") -> None:
        """Ask every operation below a path so often with good values, and as often with bad ones."""
        self._prepare()
        found = [operation.ok() for operation in self._schema.get_all_operations() if isinstance(operation, Ok)]
        for operation in sorted(found, key=lambda one: one.method.upper() == "DELETE"):
            if not operation.path.startswith(below):
                continue
            self._prepare(_kinds_of(operation))
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and not list(operation.iter_parameters()) and not operation.body:
                    continue
                self._ask(operation.as_strategy(generation_mode=mode), examples)

    def follow_links(self, chains: int) -> None:
        """At least so many chains of requests."""
        outer = self

        class Machine(self._schema.as_state_machine()):  # type: ignore[misc]  # made at run time
            def setup(self) -> None:
                outer.chains += 1
                if outer.chains % 10 == 1:
                    outer._prepare()

            def before_call(self, case: Case[Any]) -> None:
                if outer._chance.random() < 0.7:
                    outer._aim(case, at=case.path_parameters)

            def call(self, case: Case[Any], **more: Any) -> Any:
                return outer._call(case)

            def validate_response(self, response: Any, case: Case[Any], **more: Any) -> None:
                outer._look(case, response)

        while self.chains < chains:
            # What is there changes by itself meanwhile: where that leads to another chain, it begins anew.
            self._number += 1
            with suppress(Flaky):
                seed(self._number)(Machine).run(
                    settings=self._settings(chains - self.chains, stateful_step_count=STEPS)
                )

    def _ask(self, cases: Any, examples: int) -> None:
        @seed(self._number)
        @self._settings(examples)
        @given(case=cases)
        def ask(case: Case[Any]) -> None:
            if self._chance.random() < 0.7:
                self._aim(case)
            self._look(case, self._call(case))

        ask()

    def _aim(self, case: Case[Any], at: Mapping[str, Any] | None = None) -> None:
        """Let a request go far: a good one, of which one field is by chance, in one of the versions, often the newest.

        It is about what is there, or about `at`.
        """
        api = MAGNUM if case.operation.path.startswith(MAGNUM.collection) else ZUN
        minor = self._chance.choice((api.maximum, self._chance.randint(1, api.maximum)))
        case.headers["OpenStack-API-Version"] = f"{api.prefix} 1.{minor}"
        if (sample := _SAMPLES.get((case.method, case.operation.path))) is None:
            return
        target, body = sample
        path, _, query = target.format(**self._ids).partition("?")
        named = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", case.operation.path), path)
        assert named is not None, (path, case.operation.path)
        case.path_parameters.update(at or named.groupdict())
        part = self._chance.choice(("query", "body", "nothing"))
        case.query = self._mixed(dict(parse_qsl(query)), case.query if part == "query" else None)
        if body is not None:
            case.body = self._mixed(filled(body, self._ids), case.body if part == "body" else None)

    def _mixed(self, good: Any, other: Any) -> Any:
        """`good` with one field of `other`."""
        if not isinstance(other, dict) or not other or not isinstance(good, dict):
            return good
        field = self._chance.choice([*other])
        return good | {field: other[field]}

    def _prepare(self, kinds: Collection[str] = ()) -> None:
        """Things of these kinds, of each if none is said: what was asked before may have ended any of them."""
        for kind, (path, body) in THINGS.items():
            path = path.format(**self._ids)
            if (kinds and kind not in kinds) or self._admin("GET", f"{path}/{self._ids[kind]}").ok:
                continue
            self._make_room()
            made = self._admin("POST", path, filled(body, self._ids))
            if made.ok:
                thing = made.json().get("registry", made.json())
                self._ids[kind] = thing["uuid"]
                if kind == "box":
                    self._ids |= {"request": made.headers["X-Openstack-Request-Id"], "project": thing["project_id"]}
        if not kinds or "box" in kinds:
            self._wake(f"/v1/containers/{self._ids['box']}")

    def _make_room(self) -> None:
        """A host takes more, and the project may have more."""
        service = f"host={self._ids['host']}&binary=zun-compute"
        self._admin("PUT", f"/v1/services/enable?{service}")
        self._admin("PUT", f"/v1/services/force_down?{service}&forced_down=false")
        self._admin("DELETE", f"/v1/quotas/{self._ids['project']}")

    def _wake(self, box: str) -> None:
        """Let it run, if it can."""
        for verb in ("unpause", "start"):
            self._admin("POST", f"{box}/{verb}")
        for _ in range(50):
            shown = self._admin("GET", box).json()
            if shown.get("task_state") is None and shown.get("status") != "Creating":
                break
            time.sleep(0.1)

    def _admin(self, method: str, path: str, body: Any = None) -> requests.Response:
        api = MAGNUM if path.startswith(MAGNUM.collection) else ZUN
        headers = {"X-Auth-Token": self._tokens[0], "OpenStack-API-Version": f"{api.prefix} latest"}
        return self._session.request(method, f"{self._url}{path}", json=body, headers=headers, timeout=SECONDS)

    def _call(self, case: Case[Any]) -> Any:
        self._asking = self._chance.choice((self._tokens[0], self._chance.choice(self._tokens)))
        headers = {"X-Auth-Token": self._asking}
        try:
            return case.call(base_url=self._url, session=self._session, headers=headers, timeout=SECONDS)
        except requests.RequestException as error:
            self._found(case, f"no answer: {type(error).__name__}")
            reject()

    def _look(self, case: Case[Any], answer: Any) -> None:
        self.answers[answer.status_code] += 1
        if answer.status_code < 300:
            self.reached.add(case.operation.label)
            if self._asking in self._tokens[2:] and case.method != "GET":
                self._found(case, f"{answer.status_code} for a reader")
        if answer.status_code >= 500 and not _is_word_of_an_engine(answer):
            self._found(case, f"{answer.status_code} {answer.text[:300]}")
        if SECRET in answer.text:
            self._found(case, f"{answer.status_code} tells a secret: {answer.text[:300]}")
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._found(case, f"{answer.status_code} {failure}"[:600])

    def _found(self, case: Case[Any], sentence: str) -> None:
        self.findings.setdefault((case.operation.label, sentence), case.as_curl_command()[:1000])

    def _settings(self, examples: int, **more: Any) -> settings:
        return settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            **more,
        )


def _kinds_of(operation: Any) -> set[str]:
    """What a good request of it is about, and what that needs."""
    kinds = named_by(*_SAMPLES.get((operation.method.upper(), operation.path), ("", None))) & THINGS.keys()
    for kind in reversed(THINGS):
        if kind in kinds:
            kinds |= named_by(*THINGS[kind]) & THINGS.keys()
    return kinds or {"nothing"}


def _is_word_of_an_engine(answer: Any) -> bool:
    """Whether an answer from 500 on is no defect: an engine lacks an ability, or reaches no registry."""
    return answer.status_code == 501 or (answer.status_code == 503 and "registry" in answer.text)


_SAMPLES = {
    (method, path.replace(":path", "")): (target.replace("local-host", "{host}"), body)
    for (method, path), (target, body) in SAMPLES.items()
}
"""A good request of each operation, from all tests that need one."""
THINGS: dict[str, tuple[str, Any]] = {
    "box": ("/v1/containers", {"image": place.BUSY, "command": ["sh"], "tty": True, "interactive": True}),
    "capsule": ("/v1/capsules", template(name="fuzzed")),
    "volume": ("/v1/volumes", {"name": "fuzzed"}),
    "registry": ("/v1/registries", {"registry": {"domain": "fuzzed.example", "username": "fuzz", "password": SECRET}}),
    "image": ("/v1/images", {"repo": "lab/fuzzed", "host": "{host}"}),
    "template": (TEMPLATES, {"name": "fuzzed", "image_id": place.BUSY, "coe": "swarm"}),
    "cluster": (CLUSTERS, {"name": "fuzzed", "cluster_template_id": "{template}"}),
    "group": (f"{CLUSTERS}/{{cluster}}/nodegroups", {"name": "fuzzed"}),
}
"""What is there for requests to be about."""


@contextmanager
def served() -> Iterator[tuple[str, list[str]]]:
    """The URL of a Caisson in this process, on the engine in memory, and tokens as `Fuzz` wants them."""
    ready: Queue[tuple[uvicorn.Server, list[str]] | BaseException] = Queue()

    async def serve(folder: Path) -> None:
        options: dict[str, Any] = {
            "limits": LimitSettings(rate=1e6, burst=1e6),
            "quota": QuotaSettings(containers=-1, memory=-1, cpu=-1),
            "audit_file": folder / "audit.log",
        }
        url = f"sqlite+aiosqlite:///{folder}/caisson.db"
        try:
            async with place.running(url, folder, ("member", "reader"), **options) as running:
                tokens = await _people(running)
                running.engine.add_image(f"{place.BUSY}:1")
                config = uvicorn.Config(
                    running.app, port=port, lifespan="off", log_level="error", ws="none", http=Protocol
                )
                server = uvicorn.Server(config)
                ready.put((server, tokens))
                await server.serve()
        except BaseException as error:
            ready.put(error)
            raise

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=lambda: asyncio.run(serve(Path(folder))))
        thread.start()
        begun = ready.get()
        if isinstance(begun, BaseException):
            raise begun
        server, tokens = begun
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
                client.get(f"{url}/livez").raise_for_status()
            yield url, tokens
        finally:
            server.should_exit = True
            thread.join()


async def _people(running: place.Running) -> list[str]:
    admin = running.logins["admin"]
    asked = {"X-Auth-Token": admin, "X-Subject-Token": admin}
    shown = await running.client.get("/identity/v3/auth/tokens", headers=asked)
    project = shown.json()["token"]["project"]["id"]
    return [admin, *[await running.granted(project, role, role) for role in ("member", "reader")]]


def main() -> int:
    """What ``scripts/fuzz`` does. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="good and bad requests of each operation")
    parser.add_argument("--chains", type=int, default=100, help="chains of requests")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="where chance begins")
    parser.add_argument(
        "--url",
        help="a served Caisson, without /v1; OS_TOKEN has an administrator's token, or also a member's and a reader's",
    )
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with served() if wanted.url is None else nullcontext((wanted.url, os.environ["OS_TOKEN"].split())) as (url, tokens):
        fuzz = Fuzz(url, tokens, wanted.seed)
        fuzz.ask_each(wanted.examples)
        fuzz.follow_links(wanted.chains)
    for (operation, sentence), request in sorted(fuzz.findings.items()):
        print(f"{operation}: {sentence}\n    {request}\n")
    print(f"seed {wanted.seed}: {fuzz.answers.total()} requests, {fuzz.chains} chains, {len(fuzz.findings)} findings")
    print(f"operations that did what was asked: {len(fuzz.reached)}")
    print(f"answers: {dict(sorted(fuzz.answers.items()))}")
    return 1 if fuzz.findings else 0


if __name__ == "__main__":
    sys.exit(main())

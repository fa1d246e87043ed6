"""Requests that nobody thought of: schemathesis makes them from the description of both APIs, /openapi.json.

Every operation is asked with values that its description permits, with such as it does not, and in chains where the id
in one answer goes into the next request. No answer may be a defect, and each has to be as it is described. What was
found is kept and told at the end: one finding does not hide the next.
"""

import argparse
import asyncio
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import requests
import structlog
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from schemathesis import Case, GenerationMode, openapi
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from app.settings import LimitSettings, QuotaSettings
from tests.api import caisson as place
from tests.stack.session import free_port

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
ENGINES = {501}
"""Of the answers from 500 on, those that are no defect: the engine lacks an ability."""
ELSEWHERE = {501, 503}
"""The same where registries are asked that may not be reached."""
UNREAD = {400, 431}
"""What the server in front of the application answers, without a request id, to what it cannot read as a request."""
STEPS = 12  # requests of a chain, at most


class Fuzz:
    """Asks a served Caisson.

    Attributes:
        answers: how many there were of each status.
        chains: how many chains of requests were begun.
        findings: what was wrong with an answer, by operation and sentence: the request that shows it.
    """

    def __init__(self, url: str, token: str, number: int, permitted: set[int]) -> None:
        """`number` is where chance begins; `permitted` are statuses from 500 on that are no defect."""
        self.answers: Counter[int] = Counter()
        self.findings: dict[tuple[str, str], str] = {}
        self.chains = 0
        self._url, self._number, self._permitted = url, number, permitted
        self._session = requests.Session()
        self._headers = {"X-Auth-Token": token}
        document = httpx.get(f"{url}/openapi.json").raise_for_status().json()
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation.pop("security", None)  # each request has the token; tests/api/test_isolation.py is about others
        self._schema = openapi.from_dict(document)
        self._made: dict[str, str] = {}

    def ask_each(self, examples: int) -> None:
        """Ask every operation so often with good values, and as often with bad ones."""
        for path, body in THINGS.items():
            made = self._session.post(f"{self._url}{path}", json=body, headers=self._headers)
            if made.ok:
                self._made[path] = made.json().get("registry", made.json())["uuid"]
        for found in self._schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
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

            def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
                return {"base_url": outer._url, "session": outer._session, "headers": outer._headers}

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
        @given(case=cases, number=st.integers(0, 63))
        def ask(case: Case[Any], number: int) -> None:
            if number % 2:
                self._aim(case, number // 2)
            self._look(case, case.call(base_url=self._url, session=self._session, headers=self._headers))

        ask()

    def _aim(self, case: Case[Any], number: int) -> None:
        """Let a request go far: to what is there, in the newest version, and of its body one field is by chance."""
        collection = case.operation.path.partition("/{")[0]
        if case.path_parameters and case.method != "DELETE" and collection in self._made:
            case.path_parameters[next(iter(case.path_parameters))] = self._made[collection]
        word = "container-infra" if collection.startswith(_MAGNUM) else "container"
        case.headers["OpenStack-API-Version"] = f"{word} latest"
        if isinstance(case.body, dict) and case.body and case.operation.path in THINGS:
            field = sorted(case.body)[number % len(case.body)]
            case.body = {**THINGS[case.operation.path], field: case.body[field]}

    def _look(self, case: Case[Any], answer: Any) -> None:
        self.answers[answer.status_code] += 1
        if answer.status_code >= 500 and answer.status_code not in self._permitted:
            self._found(case, f"{answer.status_code} {answer.text[:300]}")
        if "x-openstack-request-id" not in answer.headers and answer.status_code in UNREAD:
            return
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


_MAGNUM = "/container-infra/v1"
THINGS: dict[str, Any] = {
    "/v1/containers": {"image": place.BUSY, "command": ["sleep", "1000"], "name": "fuzzed"},
    "/v1/capsules": {
        "template": {
            "kind": "capsule",
            "capsuleVersion": "beta",
            "metadata": {"name": "fuzzed"},
            "spec": {"containers": [{"image": place.BUSY, "command": ["sleep", "1000"]}]},
        }
    },
    "/v1/volumes": {"name": "fuzzed"},
    "/v1/registries": {"registry": {"domain": "fuzzed.example"}},
    f"{_MAGNUM}/clustertemplates": {"name": "fuzzed", "image_id": place.BUSY, "coe": "kubernetes"},
    f"{_MAGNUM}/clusters": {"name": "fuzzed", "cluster_template_id": "fuzzed"},
}
"""What is there for requests to be about: a body for each kind."""


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """The URL of a Caisson in this process, on the engine in memory, and a token of its administrator."""
    ready: Queue[tuple[uvicorn.Server, str] | BaseException] = Queue()

    async def serve(folder: Path) -> None:
        options: dict[str, Any] = {
            "limits": LimitSettings(rate=1e6, burst=1e6),
            "quota": QuotaSettings(containers=-1, memory=-1, cpu=-1),
            "audit_file": folder / "audit.log",
        }
        url = f"sqlite+aiosqlite:///{folder}/caisson.db"
        try:
            async with place.running(url, folder, (), **options) as running:
                running.engine.add_image(f"{place.BUSY}:1")
                config = uvicorn.Config(running.app, port=port, lifespan="off", log_level="error", ws="none")
                server = uvicorn.Server(config)
                ready.put((server, running.logins["admin"]))
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
        server, token = begun
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
                client.get(f"{url}/livez").raise_for_status()
            yield url, token
        finally:
            server.should_exit = True
            thread.join()


def main() -> int:
    """What ``scripts/fuzz`` does. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="good and bad requests of each operation")
    parser.add_argument("--chains", type=int, default=100, help="chains of requests")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="where chance begins")
    parser.add_argument("--url", help="a served Caisson, without /v1; its token stands in OS_TOKEN")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if wanted.url is None:
        with served() as (url, token):
            fuzz = Fuzz(url, token, wanted.seed, ENGINES)
            fuzz.ask_each(wanted.examples)
            fuzz.follow_links(wanted.chains)
    else:
        fuzz = Fuzz(wanted.url, os.environ["OS_TOKEN"], wanted.seed, ELSEWHERE)
        fuzz.ask_each(wanted.examples)
        fuzz.follow_links(wanted.chains)
    for (operation, sentence), request in sorted(fuzz.findings.items()):
        print(f"{operation}: {sentence}\n    {request}\n")
    print(f"seed {wanted.seed}: {fuzz.answers.total()} requests, {fuzz.chains} chains, {len(fuzz.findings)} findings")
    print(f"answers: {dict(sorted(fuzz.answers.items()))}")
    return 1 if fuzz.findings else 0


if __name__ == "__main__":
    sys.exit(main())

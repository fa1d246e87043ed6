"""What one project's flood does: to another's reads, alone and beside the flood of wrk in turns, and to memory."""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.served import PASSWORD, VERSIONS, Served

CONNECTIONS = 64  # of the flood
ROUNDS = 5
SECONDS = 4
PAUSE = 0.003  # seconds between two questions of the one that is not loud
PATH = "/v1/registries"
REGISTRIES = 50  # in the list that is read
LIMITS = {"CAISSON_LIMITS__RATE": "1000", "CAISSON_LIMITS__BURST": "2000"}
"""Those that operators get who set none."""
WRITES = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"registry": {"domain": "flood.test", "username": "u", "password": "p"}}'
"""


@dataclass(frozen=True)
class Project:
    """Somebody's project, and what is sent for it."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """p99 of the milliseconds until an answer, and of those that the server worked meanwhile, for whomever.

    The latter is of use where others have the processors as well.
    """

    passed: float
    worked: float


def compare(served: Served) -> Sequence[str]:
    """A line for each kind of flood."""
    quiet, loud = _project(served, "quiet"), _project(served, "loud")
    for project in (quiet, loud):
        for number in range(REGISTRIES):
            body = {"registry": {"domain": f"r{number}.test", "username": "u", "password": "p"}}
            httpx.post(f"{served.url}{PATH}", json=body, headers=project.headers).raise_for_status()
    floods = {"reads": "", "changes": WRITES}
    lines = [_beside(served, quiet, loud, kind, script) for kind, script in floods.items()]
    return [*lines, *(_memory(served, loud, kind, script) for kind, script in floods.items())]


def _beside(served: Served, quiet: Project, loud: Project, kind: str, script: str) -> str:
    alone, beside = list[Seen](), list[Seen]()
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does hits both alike
        alone.append(_ask(served, quiet))
        with _flood(f"{served.url}{PATH}", loud, script):
            beside.append(_ask(served, quiet))
    words = [f"p99 of a list beside another project's flood of {kind} on {CONNECTIONS} connections"]
    for name, what in (("passed", "ms"), ("worked", "ms of the server's processor")):
        one, other = (statistics.median(getattr(seen, name) for seen in each) for each in (alone, beside))
        words.append(f"{other:.2f} {what}, alone {one:.2f}, ratio {other / one:.2f} (aim <= 2)")
    return "; ".join(words)


def _memory(served: Served, loud: Project, kind: str, script: str) -> str:
    """Whether memory stays as it is while a flood goes on."""
    seen = []
    with _flood(f"{served.url}{PATH}", loud, script):
        for _ in range(5):
            time.sleep(10)
            seen.append(served.memory())
    after = ", ".join(f"{one:.0f}" for one in seen)
    return f"resident memory in a flood of {kind}, each ten seconds: {after} MiB (aim: flat)"


def _ask(served: Served, project: Project) -> Seen:
    """Ask for the list again and again. Raises RuntimeError when an answer is not 200."""
    passed, worked = list[float](), list[float]()
    address = urlsplit(served.url)
    connection = HTTPConnection(address.hostname or "", address.port)
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        spent, began = _processor(served.pid), time.perf_counter()
        connection.request("GET", PATH, headers=dict(project.headers))
        answer = connection.getresponse()
        answer.read()
        passed.append((time.perf_counter() - began) * 1000)
        worked.append(_processor(served.pid) - spent)
        if answer.status != 200:
            raise RuntimeError(f"GET {PATH}: {answer.status}")
        time.sleep(PAUSE)
    connection.close()
    return Seen(*(statistics.quantiles(each, n=100)[98] for each in (passed, worked)))


def _processor(pid: int) -> float:
    """Milliseconds that the main thread of a process, where its event loop is, has run."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


@contextmanager
def _flood(url: str, project: Project, script: str) -> Iterator[None]:
    words = [word for name, value in project.headers.items() for word in ("-H", f"{name}: {value}")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flood.lua"
        file.write_text(script)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d60s", "-s", str(file), *words, url]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            child.terminate()
            child.wait(10)


def _project(served: Served, name: str) -> Project:
    """A project of its own, and a token of its administrator."""
    admin = {"X-Auth-Token": served.token}
    with httpx.Client(base_url=f"{served.url}/identity/v3", headers=admin) as client:
        made = client.post("/projects", json={"project": {"name": name}}).raise_for_status().json()["project"]["id"]
        user = client.get("/auth/tokens", headers={"X-Subject-Token": served.token}).json()["token"]["user"]["id"]
        roles = client.get("/roles").json()["roles"]
        role = next(role["id"] for role in roles if role["name"] == "member")
        client.put(f"/projects/{made}/users/{user}/roles/{role}").raise_for_status()
        identity = {"methods": ["password"], "password": {"user": {"id": user, "password": PASSWORD}}}
        asked = {"auth": {"identity": identity, "scope": {"project": {"id": made}}}}
        token = client.post("/auth/tokens", json=asked).raise_for_status().headers["X-Subject-Token"]
    return Project({"X-Auth-Token": token, "OpenStack-API-Version": f"container {VERSIONS['container']}"})

"""What one project's flood does to another's reads: its p99 alone and beside the flood, in turns; by wrk."""

import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.reads import measure
from benchmarks.served import PASSWORD, VERSIONS, Served

CONNECTIONS = 64  # of the flood
ROUNDS = 3
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


def compare(served: Served) -> Sequence[str]:
    """A line for each kind of flood."""
    quiet, loud = _project(served, "quiet"), _project(served, "loud")
    for project in (quiet, loud):
        for number in range(REGISTRIES):
            body = {"registry": {"domain": f"r{number}.test", "username": "u", "password": "p"}}
            httpx.post(f"{served.url}/v1/registries", json=body, headers=project.headers).raise_for_status()
    return [_beside(served, quiet, loud, kind, script) for kind, script in (("reads", ""), ("changes", WRITES))]


def _beside(served: Served, quiet: Project, loud: Project, kind: str, script: str) -> str:
    alone, beside = list[float](), list[float]()
    url = f"{served.url}/v1/registries"
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does hits both alike
        alone.append(measure(url, 1, quiet.headers).p99)
        with _flood(url, loud, script):
            beside.append(measure(url, 1, quiet.headers).p99)
    one, other = statistics.median(alone), statistics.median(beside)
    what = f"p99 of a list beside another project's flood of {kind} on {CONNECTIONS} connections"
    return f"{what}: {other:.2f} ms; alone {one:.2f} ms; ratio {other / one:.2f} (aim <= 2)"


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

"""A swarm of one test: its driver is called until all is as wished, and the docker command talks to it."""

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx

from app.backends.docker.engine import DockerEngine
from app.backends.driver import ClusterSeen, ClusterSpec, Keys, NodeGroupSpec, Progress
from app.backends.nodes import NodeSeen
from app.backends.swarm.driver import SwarmDriver
from app.certificates import Authority, issue, make_authority
from tests.stack.debian import program
from tests.stack.images import BUSYBOX

SERVICE_PORT = 8080


def new_keys() -> Keys:
    """Secrets of a new cluster. A swarm has no use for but the first."""
    return Keys(make_authority("cluster"), make_authority("etcd"), make_authority("front-proxy"), accounts="")


@dataclass
class Swarm:
    """One cluster. `spec` is what it should be; change it and call `converge`."""

    engine: DockerEngine
    driver: SwarmDriver
    spec: ClusterSpec
    folder: Path
    texts: list[str] = field(default_factory=list)
    address: str = ""

    @classmethod
    def plan(
        cls,
        engine: DockerEngine,
        driver: SwarmDriver,
        folder: Path,
        image: str,
        masters: int,
        workers: int,
        **wish: Any,
    ) -> "Swarm":
        """A cluster that is not there yet."""
        groups = [
            NodeGroupSpec(uuid4(), "default-master", "master", masters, image, 1.0, 1024),
            NodeGroupSpec(uuid4(), "default-worker", "worker", workers, image, 1.0, 1024),
        ]
        wish = {"keys": new_keys(), "labels": {"preload_images": BUSYBOX}, **wish}
        spec = ClusterSpec(uuid4(), "project", "mine", "swarm", groups, **wish)
        return cls(engine, driver, spec, folder)

    # The driver

    async def converge(self, seconds: float = 150.0) -> list[str]:
        """Call the driver until it is done; what it said on the way."""
        self.driver.validate(self.spec)
        self.texts = []
        memo: dict[str, Any] = {}
        async with asyncio.timeout(seconds):
            while True:
                progress = await self.step(memo)
                if progress.done:
                    return self.texts
                self.texts.append(progress.text)
                memo = dict(progress.memo)
                await asyncio.sleep(progress.after)

    async def step(self, memo: Mapping[str, Any]) -> Progress:
        """One call. The memo is stored between two steps, as JSON."""
        return await self.driver.converge(self.spec, json.loads(json.dumps(memo)))

    def group(self, number: int, **changes: Any) -> None:
        """Change the wish for one group."""
        groups = list(self.spec.groups)
        groups[number] = replace(groups[number], **changes)
        self.spec = replace(self.spec, groups=groups)

    def add_group(self, name: str, count: int, **wishes: Any) -> None:
        """Wish for one more group."""
        first = self.spec.groups[0]
        group = replace(first, uuid=uuid4(), name=name, role="worker", count=count, **wishes)
        self.spec = replace(self.spec, groups=[*self.spec.groups, group])

    async def seen(self) -> ClusterSeen:
        """What the driver sees; there must be something."""
        found = await self.driver.observe(self.spec)
        assert found is not None
        return found

    async def nodes(self) -> dict[str, NodeSeen]:
        """The node containers by name."""
        return {node.name: node for node in await self.engine.nodes(self.spec.uuid)}

    async def healthy(self, seconds: float = 60.0) -> ClusterSeen:
        """Wait until every node is ready again, as whoever looks now and then would."""
        async with asyncio.timeout(seconds):
            while True:
                await self.driver.mend(self.spec)
                seen = await self.seen()
                if seen.healthy:
                    return seen
                await asyncio.sleep(0.2)

    # The docker command

    def docker(self, *command: str, authority: Authority | None = None, url: str = "") -> str:
        """What the docker command prints; it must succeed. The certificate is `authority`'s, else the cluster's."""
        done = self.try_docker(*command, authority=authority, url=url)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def try_docker(
        self, *command: str, authority: Authority | None = None, url: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker command on the cluster, as its user does."""
        assert self.spec.keys is not None
        signer = authority or self.spec.keys.cluster
        client = issue(signer, "somebody")
        (self.folder / "ca.pem").write_text(self.spec.keys.cluster.certificate)
        (self.folder / "cert.pem").write_text(client.certificate)
        (self.folder / "key.pem").write_text(client.key)
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "DOCKER_HOST": url or self.address}
        if self.spec.tls:
            environment |= {"DOCKER_TLS_VERIFY": "True", "DOCKER_CERT_PATH": str(self.folder)}
        argv = [str(program("docker")), *command]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def lets_in(self, authority: Authority, url: str = "") -> bool:
        """Whether the holder of a certificate of this authority gets an answer."""
        done = self.try_docker("version", authority=authority, url=url)
        if done.returncode:
            # TLS 1.3 tells a client late: it may be writing already.
            assert any(word in done.stderr for word in ("certificate", "connection reset", "broken pipe")), done.stderr
        return done.returncode == 0

    async def open(self) -> None:
        """Learn where the API is."""
        address = (await self.seen()).api_address
        assert address is not None
        self.address = address

    def members(self) -> dict[str, str]:
        """Names and states of the swarm's nodes, by ``docker node ls``."""
        listed = self.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        lines = [line.split() for line in listed.splitlines()]
        assert len({line[0] for line in lines}) == len(lines), listed
        return {line[0]: line[1] for line in lines}

    def serve(self, name: str, replicas: int) -> None:
        """A service that tells its host's name on a port of every node where it runs."""
        command = ("sh", "-c", "mkdir /w; hostname > /w/index.html; exec httpd -f -p 80 -h /w")
        self.docker(
            "service", "create", "--quiet", "--detach", "--name", name, "--replicas", str(replicas),
            "--endpoint-mode", "dnsrr", "--publish", f"mode=host,published={SERVICE_PORT},target=80",
            "--no-resolve-image", "--restart-delay", "500ms", "--stop-grace-period", "500ms", BUSYBOX, *command,
        )  # fmt: skip

    async def served(self, name: str, replicas: int, seconds: float = 60.0) -> None:
        """Wait until so many tasks run."""
        deadline = time.monotonic() + seconds
        while (counted := self.docker("service", "ls", "--filter", f"name={name}", "--format", "{{.Replicas}}")) != (
            f"{replicas}/{replicas}"
        ):
            errors = self.docker(
                "service", "ps", name, "--no-trunc", "--format", "{{.Node}} {{.CurrentState}} {{.Error}}"
            )
            assert time.monotonic() < deadline, f"{counted}\n{errors}"
            await asyncio.sleep(0.2)

    async def answers(self, nodes: Sequence[NodeSeen]) -> set[str]:
        """What the service says through each node."""
        async with httpx.AsyncClient(timeout=5.0) as http:
            urls = [f"http://{node.address}:{SERVICE_PORT}/" for node in nodes]
            return {(await http.get(url)).text.strip() for url in urls}


def left_of(cluster: UUID) -> str:
    """Containers, volumes and networks that the engine has of a cluster."""
    label = f"label=caisson.cluster={cluster}"
    commands = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
    asked = [[str(program("docker")), *command, "--quiet", "--filter", label] for command in commands]
    return "".join(subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in asked)

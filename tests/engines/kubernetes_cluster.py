"""A cluster of Kubernetes for tests: the driver called until it is done, and the real kubectl with a certificate."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from app.backends.docker import engine as docker
from app.backends.driver import ClusterSeen, ClusterSpec, Keys, NodeGroupSpec
from app.backends.kubernetes import driver as kubernetes
from app.backends.nodes import NodeHost, Nodes
from app.certificates import issue, make_authority, sign
from app.settings import BackendSettings, ClusterSettings, Settings
from tests.conformance.place import until
from tests.stack.kubernetes import kubectl

SECONDS = 150.0
"""Within which a cluster must be as it was asked to be."""

PODS = "caisson.local/pause:1"
"""The one image that every node has: a busybox."""


def group(name: str, role: str, count: int, image: str, **more: Any) -> NodeGroupSpec:
    """Nodes without a limit, unless it is asked for."""
    return NodeGroupSpec(
        uuid=uuid4(), name=name, role=role, count=count, image=image, **{"cpus": 0, "memory": 0, **more}
    )


def new_keys(name: str) -> Keys:
    """The secrets of a new cluster."""
    cluster, etcd, front = (make_authority(name) for _ in range(3))
    return Keys(cluster, etcd, front, issue(cluster, "accounts").key)


class Cluster:
    """One cluster; `spec` says what it should be."""

    def __init__(self, url: str, folder: Path, image: str, masters: int, workers: int, **more: Any) -> None:
        settings = Settings(clusters=ClusterSettings(publish_address=more.pop("publish_address", None)))
        engine = docker.make("local", BackendSettings(url=url), settings)
        assert isinstance(engine, Nodes)
        self.host: NodeHost = engine
        self.driver = kubernetes.make(engine, settings)
        self._folder = folder
        self.spec = ClusterSpec(
            uuid=uuid4(),
            project_id=uuid4().hex,
            name="demo",
            coe="kubernetes",
            groups=[
                group("default-master", "master", masters, image),
                group("default-worker", "worker", workers, image),
            ],
            keys=new_keys("demo"),
            **more,
        )

    def change(self, number: int, **wishes: Any) -> None:
        """Wish something else of one group."""
        groups = list(self.spec.groups)
        groups[number] = replace(groups[number], **wishes)
        self.spec = replace(self.spec, groups=groups)

    async def converge(self) -> list[str]:
        """Take steps until the cluster is as wished; the texts on the way."""
        self.driver.validate(self.spec)
        memo: Any = {}
        texts: list[str] = []
        async with asyncio.timeout(SECONDS):
            while True:
                progress = await self.driver.converge(self.spec, memo)
                # As it comes back from a database.
                memo = json.loads(json.dumps(progress.memo))
                if progress.text not in texts[-1:]:
                    texts.append(progress.text)
                if progress.done:
                    return texts
                await asyncio.sleep(progress.after)

    async def seen(self) -> ClusterSeen:
        """What the driver sees."""
        seen = await self.driver.observe(self.spec)
        assert seen is not None
        return seen

    async def remove(self) -> None:
        """Delete it, of which nothing may be left, and free connections."""

        async def gone() -> bool:
            return await self.driver.delete(self.spec.uuid)

        await until(gone)
        assert self.spec.uuid not in await self.host.clusters()
        await self.driver.close()
        await self.host.close()

    async def kubeconfig(self, name: str = "admin", groups: Sequence[str] = ("system:masters",)) -> Path:
        """A file as ``openstack coe cluster config`` writes it, with a certificate of the cluster's authority."""
        assert self.spec.keys is not None
        key = rsa.generate_private_key(65537, 2048)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in groups]
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
        signed = sign(self.spec.keys.cluster, request.public_bytes(serialization.Encoding.PEM).decode())
        form = serialization.PrivateFormat.TraditionalOpenSSL
        secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        ca = self.spec.keys.cluster.certificate
        server = (await self.seen()).api_address
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": server, "certificate-authority-data": _base64(ca.encode())}}
            ],
            "users": [
                {
                    "name": "u",
                    "user": {
                        "client-certificate-data": _base64(signed.encode()),
                        "client-key-data": _base64(secret),
                    },
                }
            ],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file = self._folder / f"{name}-{uuid4().hex[:6]}.json"
        file.write_text(json.dumps(document))
        return file


class Kubectl:
    """The program, as one user."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def fails(self, *arguments: str) -> str:
        """Its complaint."""
        done = await self._run(arguments, None)
        assert done.returncode != 0, done.stdout
        return done.stderr

    async def tries(self, *arguments: str, manifest: Any = None) -> bool:
        """Whether it succeeded."""
        return (await self._run(arguments, manifest)).returncode == 0

    async def __call__(self, *arguments: str, manifest: Any = None) -> str:
        """Its output; `manifest` is given to ``-f -``."""
        done = await self._run(arguments, manifest)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def json(self, *arguments: str) -> Any:
        """Its output as JSON."""
        return json.loads(await self(*arguments, "-o", "json"))

    async def _run(self, arguments: Sequence[str], manifest: Any) -> subprocess.CompletedProcess[str]:
        command = [str(kubectl()), f"--kubeconfig={self._config}", "--request-timeout=30s", *arguments]
        given = None if manifest is None else json.dumps(manifest)
        return await asyncio.to_thread(
            subprocess.run, command, input=given, capture_output=True, text=True, timeout=90, check=False
        )


def changed(config: Path, *, cluster: Path | None = None, server: str | None = None) -> Path:
    """The same user at the cluster of another file, or at another of its servers."""
    document = json.loads(config.read_text())
    if cluster is not None:
        document["clusters"] = json.loads(cluster.read_text())["clusters"]
    if server is not None:
        document["clusters"][0]["cluster"]["server"] = server
    file = config.with_name(f"changed-{config.name}")
    file.write_text(json.dumps(document))
    return file


def web(name: str, replicas: int) -> dict[str, Any]:
    """A deployment whose pods say their own name over HTTP, on different nodes where there are enough."""
    script = "mkdir -p /w; hostname > /w/index.html; echo started; exec httpd -f -p 8080 -h /w"
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": name}},
    }
    # Without it a pod counts as ready as soon as its shell runs.
    answers = {"httpGet": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}
    container = {"name": "web", "image": PODS, "command": ["/bin/sh", "-c", script], "readinessProbe": answers}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [spread],
                    "containers": [container],
                },
            },
        },
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()

"""The floor of a cluster: the same nodes, of the same image and with the same files, by plain ``docker`` commands."""

import asyncio
import io
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from app.backends.driver import ClusterSpec, Keys, NodeGroupSpec
from app.backends.kubernetes import view as kubernetes_view
from app.backends.kubernetes.api import Api, condition
from app.backends.kubernetes.trust import stages
from app.backends.nodes import NodeNetwork, NodeSpec
from app.backends.swarm import plan as swarm_plan
from app.certificates import issue, make_authority
from app.errors import EngineError

NETWORK = NodeNetwork("caisson-benchmark-cluster", "10.223.0.0/24", "10.223.0.1")
AS_NODES = (
    "--init", "--cgroupns", "private", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
    "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
    "--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm",
)  # fmt: skip
ASK_EVERY = 0.1  # seconds


class Direct:
    """A cluster of one master and `workers` workers; nodes have `cpus` cores and `memory` MiB."""

    def __init__(self, coe: str, image: str, workers: int, cpus: float, memory: int) -> None:
        self._coe = coe
        self._groups = [
            NodeGroupSpec(uuid4(), "default-master", "master", 1, image, cpus, memory),
            NodeGroupSpec(uuid4(), "default-worker", "worker", workers, image, cpus, memory),
        ]
        self._nodes: Sequence[NodeSpec] = ()

    async def make(self) -> None:
        """Make it, from new certificates until every node says that it is ready."""
        cluster, etcd, front = (make_authority(name) for name in ("cluster", "etcd", "front-proxy"))
        keys = Keys(cluster, etcd, front, accounts=issue(cluster, "accounts").key)
        spec = ClusterSpec(uuid4(), uuid4().hex, "benchmark", self._coe, self._groups, keys=keys)
        is_swarm = self._coe != "kubernetes"
        self._nodes = swarm_nodes(spec) if is_swarm else kubernetes_nodes(spec, keys)
        await docker("network", "create", "--subnet", NETWORK.subnet, NETWORK.name)
        await asyncio.gather(*(start(node) for node in self._nodes))
        await (begin_swarm(self._nodes, keys) if is_swarm else begin_kubernetes(self._nodes, keys))

    async def remove(self) -> None:
        """Remove nodes, volumes and network."""
        await docker("rm", "--force", *(container(node) for node in self._nodes))
        volumes = [volume(node, path) for node in self._nodes for path in node.volumes]
        await asyncio.gather(docker("volume", "rm", *volumes), docker("network", "rm", NETWORK.name))


def swarm_nodes(spec: ClusterSpec) -> list[NodeSpec]:
    """The nodes of a swarm, the manager first."""
    plan = swarm_plan.plan(spec, ())
    given = swarm_plan.addresses(plan, NETWORK)
    return [
        swarm_plan.node_spec(spec, wish.name, wish.group, given[wish.name], None, None) for wish in plan.wishes
    ]  # fmt: skip


def kubernetes_nodes(spec: ClusterSpec, keys: Keys) -> list[NodeSpec]:
    """The nodes of a cluster of Kubernetes, the control plane first."""
    view = kubernetes_view.look(spec, keys, NETWORK, (), {}, None)
    return [kubernetes_view.node_spec(view, wish, stages(keys)[0], None) for wish in view.missing]


async def start(node: NodeSpec) -> None:
    """Create a node, write its files, start it."""
    name, memory = container(node), f"{node.memory}m"
    variables = [word for pair in node.environment.items() for word in ("--env", "=".join(pair))]
    volumes = [word for path in node.volumes for word in ("--volume", f"{volume(node, path)}:{path}")]
    await docker(
        "create", *AS_NODES, "--name", name, "--hostname", node.name, "--network", NETWORK.name, "--ip", node.address,
        "--cpus", str(node.cpu), "--memory", memory, "--memory-swap", memory, *variables, *volumes,
        node.image, *node.command,
    )  # fmt: skip
    await docker("cp", "-", f"{name}:/", stdin=packed(node.files))
    await docker("start", name)


async def begin_swarm(nodes: Sequence[NodeSpec], keys: Keys) -> None:
    """Begin a swarm at the first node, let the others join, wait until all are ready."""
    manager, *workers = nodes
    with tempfile.TemporaryDirectory() as folder:
        login = certificates(Path(folder), keys)

        async def ask(node: NodeSpec, *words: str) -> str:
            return await docker("--host", f"tcp://{node.address}:{swarm_plan.TLS_PORT}", *login, *words)

        async def answers(node: NodeSpec) -> None:
            while True:
                try:
                    await ask(node, "version")
                    return
                except RuntimeError:
                    await asyncio.sleep(ASK_EVERY)

        await asyncio.gather(*map(answers, nodes))
        await ask(manager, "swarm", "init", "--advertise-addr", manager.address)
        token = (await ask(manager, "swarm", "join-token", "--quiet", "worker")).strip()
        place = f"{manager.address}:{swarm_plan.SWARM_PORT}"
        await asyncio.gather(*(ask(node, "swarm", "join", "--token", token, place) for node in workers))
        while True:
            if (await ask(manager, "node", "ls", "--format", "{{.Status}}")).split() == ["Ready"] * len(nodes):
                return
            await asyncio.sleep(ASK_EVERY)


def certificates(folder: Path, keys: Keys) -> list[str]:
    """Write a client's certificate; the options by which ``docker`` uses it."""
    client = issue(keys.cluster, "benchmark")
    texts = {"cacert": keys.cluster.certificate, "cert": client.certificate, "key": client.key}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return ["--tlsverify", *(f"--tls{name}={folder / name}" for name in texts)]


async def begin_kubernetes(nodes: Sequence[NodeSpec], keys: Keys) -> None:
    """Nodes join by themselves: wait until all are ready."""
    api = Api(f"https://{nodes[0].address}:6443", keys)
    try:
        while True:
            try:
                found = await api.nodes()
            except EngineError:
                found = {}
            if [condition(one)[0] for one in found.values()] == [True] * len(nodes):
                return
            await asyncio.sleep(ASK_EVERY)
    finally:
        await api.close()


def container(node: NodeSpec) -> str:
    """The name of a node's container."""
    return f"caisson-benchmark-{node.name}"


def volume(node: NodeSpec, path: str) -> str:
    """The name of one of its volumes."""
    return container(node) + path.replace("/", "-")


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar of files by absolute path, for root alone to read."""
    packing = io.BytesIO()
    with tarfile.open(fileobj=packing, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return packing.getvalue()


async def docker(*words: str, stdin: bytes | None = None) -> str:
    """What a ``docker`` command prints. Raises RuntimeError when it fails."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("docker", *words, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await child.communicate(stdin)
    if child.returncode:
        raise RuntimeError(f"docker {' '.join(words)}: {err.decode().strip()}")
    return out.decode()

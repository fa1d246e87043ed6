"""What a swarm will look like: names and addresses of its nodes, which of them leave, and what cannot be made at all.

Pure functions over a spec and what the engine shows.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from app.backends.docker import shapes
from app.backends.driver import MASTER, ClusterFailed, ClusterSpec, NodeGroupSpec
from app.backends.engine import State
from app.backends.nodes import NodeNetwork, NodeSeen, NodeSpec
from app.certificates import Authority, issue
from app.errors import Invalid, Refused
from app.settings import ClusterSettings

STATE = "/var/lib/docker"
CERTIFICATES = "/certs"
TLS_PORT, PLAIN_PORT = 2376, 2375
SWARM_PORT = 2377
OWN_PORTS = (SWARM_PORT, 4789, 7946)
"""What nodes talk to one another on."""

MOST_MANAGERS = 7
STRATEGIES = ("spread", "binpack", "random")
PRELOAD = "preload_images"
PROFILES = ("", "dind")
"""How nodes are started: a command that our own image and docker:dind understand alike."""

TRUST, PUBLISHED = "trust", "published"
"""Labels of nodes: the authorities that it trusts, that of its certificate first; the host's port for its API."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A node that there should be, and what there is of it."""

    name: str
    group: NodeGroupSpec
    seen: NodeSeen | None

    @property
    def manager(self) -> bool:
        return self.group.role == MASTER


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes that there should be, masters first, and those that are too many."""

    wishes: Sequence[Wish]
    surplus: Sequence[NodeSeen]

    @property
    def missing(self) -> list[Wish]:
        return [wish for wish in self.wishes if wish.seen is None]


def check(spec: ClusterSpec, settings: ClusterSettings) -> None:
    """Raises Invalid for a swarm that can never be made."""
    masters = spec.groups[0]
    if masters.count % 2 == 0 or not 1 <= masters.count <= MOST_MANAGERS:
        raise Invalid(f"master_count: a swarm has an odd number of managers, 1 to {MOST_MANAGERS}, not {masters.count}")
    nodes, room = sum(group.count for group in spec.groups), 2 ** (32 - settings.network_prefix) - 3
    if nodes > room:
        raise Invalid(f"node_count: a cluster's network has room for {room} nodes, masters included; these are {nodes}")
    if spec.network_driver not in (None, "", "docker"):
        raise Invalid(f"network_driver: a swarm has the networks of docker, not {spec.network_driver}")
    if spec.api_port in OWN_PORTS:
        raise Invalid(f"apiserver_port: {spec.api_port} is one that the nodes of a swarm talk to one another on")
    _check_labels(spec.labels, settings)
    for group in spec.groups:
        if group.node_taints:
            raise Invalid("node_taints: nodes of a swarm have none; use node_labels, and constraints of services")
        if group.profile not in PROFILES:
            raise Invalid(f"image {group.image}: its profile {group.profile!r} is none of a swarm's nodes")


def _check_labels(labels: Mapping[str, str], settings: ClusterSettings) -> None:
    strategy = labels.get("swarm_strategy", "spread")
    if strategy not in STRATEGIES:
        raise Invalid(f"label swarm_strategy: {strategy!r} is none of {', '.join(STRATEGIES)}")
    if strategy != "spread":
        raise Invalid(f"label swarm_strategy: swarm mode always spreads tasks, {strategy} is not to be had")
    for image in preloaded(labels):
        try:
            shapes.image_name(image)
        except Refused as error:
            raise Invalid(f"label {PRELOAD}: {error.title}") from error
        if image not in settings.preload:
            permitted = ", ".join(settings.preload) or "none"
            raise Invalid(f"label {PRELOAD}: {image} is not one that may be loaded into nodes; permitted: {permitted}")


def preloaded(labels: Mapping[str, str]) -> list[str]:
    """The images that each node has from the beginning."""
    return [image.strip() for image in labels.get(PRELOAD, "").split(",") if image.strip()]


def plan(spec: ClusterSpec, seen: Sequence[NodeSeen]) -> Plan:
    """Which nodes there should be. Of too many, those go that `leaving` names, who does not run, and the latest."""
    wishes: list[Wish] = []
    surplus: list[NodeSeen] = [node for node in seen if node.group not in {group.uuid for group in spec.groups}]
    for group in spec.groups:
        mine = sorted((node for node in seen if node.group == group.uuid), key=lambda node: _number(node.name))
        leaving = [node for node in mine if {node.name, node.ref, node.ref[:12], node.address} & set(group.leaving)]
        rest = [node for node in reversed(mine) if node not in leaving]
        rest.sort(key=lambda node: node.state is State.RUNNING)
        gone = [*leaving, *rest][: max(len(mine) - group.count, 0)]
        surplus += gone
        wishes += [Wish(node.name, group, node) for node in mine if node not in gone]
        names = _free_names(group, {node.name for node in seen})
        wishes += [Wish(next(names), group, None) for _ in range(group.count - len(mine))]
    return Plan(tuple(wishes), tuple(surplus))


def addresses(found: Plan, network: NodeNetwork) -> dict[str, str]:
    """An address for each missing node, by name. Raises ClusterFailed when there are too few."""
    taken = {wish.seen.address for wish in found.wishes if wish.seen} | {node.address for node in found.surplus}
    free = (str(host) for host in IPv4Network(network.subnet).hosts() if str(host) not in (*taken, network.gateway))
    given = {wish.name: next(free, "") for wish in found.missing}
    for wish in found.missing:
        if not given[wish.name]:
            raise ClusterFailed(
                f"node {wish.name}: no address is left in {network.subnet}", {wish.group.uuid: "no address"}
            )
    return given


def port(spec: ClusterSpec) -> int:
    """What a node's API listens on."""
    return spec.api_port or (TLS_PORT if spec.tls else PLAIN_PORT)


def authorities(spec: ClusterSpec) -> list[Authority]:
    """Whom nodes trust: the cluster's authority, and the previous one while it is being replaced. None without TLS."""
    if spec.keys is None or not spec.tls:
        return []
    return [spec.keys.cluster] if spec.keys.previous is None else [spec.keys.cluster, spec.keys.previous]


def fingerprint(authority: Authority) -> str:
    """A short name of an authority."""
    return hashlib.sha256(authority.certificate.encode()).hexdigest()[:16]


def trust(spec: ClusterSpec) -> str:
    """The label of a node that trusts whom it should."""
    return ",".join(map(fingerprint, authorities(spec)))


def outdated(spec: ClusterSpec, wish: Wish) -> bool:
    """Whether a node has to be replaced by one of another image, or with other certificates."""
    return wish.seen is not None and (
        wish.seen.image != wish.group.image or wish.seen.labels.get(TRUST, "") != trust(spec)
    )


def node_spec(
    spec: ClusterSpec, name: str, group: NodeGroupSpec, address: str, published: int | None, outside: str | None
) -> NodeSpec:
    """How the engine is to make a node; `published` is the port of the host `outside` that its API gets, if any."""
    hosts = [address, "127.0.0.1", name, "localhost", *([outside] if outside else [])]
    labels = {TRUST: trust(spec)} | ({} if published is None else {PUBLISHED: str(published)})
    return NodeSpec(
        cluster=spec.uuid,
        project_id=spec.project_id,
        name=name,
        group=group.uuid,
        image=group.image,
        address=address,
        cpu=group.cpus,
        memory=group.memory,
        command=_command(spec),
        environment=_environment(spec),
        volumes=[STATE],
        files=_files(spec, name, hosts),
        labels=labels,
        publish={} if published is None else {port(spec): published},
    )


def _command(spec: ClusterSpec) -> list[str]:
    command = ["dockerd", "--host", "unix:///var/run/docker.sock", "--host", f"tcp://0.0.0.0:{port(spec)}"]
    if authorities(spec):
        command += ["--tlsverify", "--tlscacert", f"{CERTIFICATES}/ca.pem"]
        command += ["--tlscert", f"{CERTIFICATES}/server.pem", "--tlskey", f"{CERTIFICATES}/server-key.pem"]
    else:
        command.append("--tls=false")  # said outright, else later versions wait before they start
    for server in spec.name_servers:
        command += ["--dns", server]
    if spec.insecure_registry:
        command += ["--insecure-registry", spec.insecure_registry]
    return command


def _environment(spec: ClusterSpec) -> dict[str, str]:
    proxies = {"HTTP_PROXY": spec.http_proxy, "HTTPS_PROXY": spec.https_proxy, "NO_PROXY": spec.no_proxy}
    return {name: value for name, value in proxies.items() if value}


def _files(spec: ClusterSpec, name: str, hosts: Sequence[str]) -> dict[str, bytes]:
    trusted = authorities(spec)
    if not trusted:
        return {}
    own = issue(trusted[0], name, hosts=hosts, server=True, client=False)
    return {
        f"{CERTIFICATES}/ca.pem": "".join(f"{authority.certificate}\n" for authority in trusted).encode(),
        f"{CERTIFICATES}/server.pem": f"{own.certificate}\n".encode(),
        f"{CERTIFICATES}/server-key.pem": own.key.encode(),
    }


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _free_names(group: NodeGroupSpec, taken: set[str]) -> Iterator[str]:
    """Host names for new nodes of a group, the lowest free number first."""
    stem = re.sub(r"[^a-z0-9]+", "-", group.name.lower()).strip("-")[:48]
    if stem != group.name:
        # What is left of two names may be the same.
        stem = f"{stem}-{group.uuid.hex[:4]}".strip("-")
    number = 0
    while True:
        if (name := f"{stem}-{number}") not in taken:
            yield name
        number += 1

"""What a cluster of Kubernetes will look like: ranges of addresses, names of nodes, and what differs between versions.

Pure functions over a spec; what cannot be made is refused here, by the name of the field or label.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from app.backends.driver import MASTER, ClusterSpec, NodeGroupSpec
from app.backends.nodes import NodeNetwork
from app.errors import Invalid

API_PORT = 6443
TAKEN_PORTS = (2379, 2380, 10248, 10249, 10250, 10256, 10257, 10259)
"""What other parts of a control plane listen on; with 30000 to 32767, where services may be published."""

PODS = IPv4Network("10.100.0.0/16")
PODS_PER_NODE = 24
SERVICES = IPv4Network("10.254.0.0/16")
MOST_MASTERS = 7
LARGEST_SERVICES = 12
SMALLEST_SERVICES = 27

RESERVED = 4
"""Addresses of a cluster's network that no node has: the first and the last, the engine's, and the API's."""

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)")
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = re.compile(rf"(?:{_NAME})?")
_KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a version of Kubernetes calls things. All differences between versions stand in `DIALECTS`."""

    eviction: str  # version of the API group policy
    master_labels: tuple[str, ...]
    master_taint: str
    kubelet_flags: tuple[str, ...]
    kubelet_settings: Mapping[str, object]


_SOCKET = "unix:///run/containerd/containerd.sock"
_MASTER = "node-role.kubernetes.io/master"
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_REMOTE = ("--container-runtime=remote", f"--container-runtime-endpoint={_SOCKET}")
_NOT_ROOT = {"featureGates": {"KubeletInUserNamespace": True}}
_ENDPOINT = {**_NOT_ROOT, "containerRuntimeEndpoint": _SOCKET, "localStorageCapacityIsolation": False}

DIALECTS: Sequence[tuple[int, Dialect]] = (
    (20, Dialect("v1beta1", (_MASTER, _CONTROL_PLANE), _MASTER, _REMOTE, {})),
    (22, Dialect("v1", (_MASTER, _CONTROL_PLANE), _MASTER, _REMOTE, _NOT_ROOT)),
    (24, Dialect("v1", (_CONTROL_PLANE,), _CONTROL_PLANE, _REMOTE, _NOT_ROOT)),
    (27, Dialect("v1", (_CONTROL_PLANE,), _CONTROL_PLANE, (), _ENDPOINT)),
    (31, Dialect("v1", (_CONTROL_PLANE,), _CONTROL_PLANE, (), {**_ENDPOINT, "failCgroupV1": False})),
)
"""From which minor version on a dialect is spoken."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The addresses of pods, of which each node has a part of its own, and of services."""

    pods: IPv4Network
    pods_per_node: int  # prefix length
    services: IPv4Network

    @property
    def api_service(self) -> IPv4Address:
        """The service called kubernetes."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        """Where pods look for the cluster's DNS."""
        return self.services[10]

    def of_node(self, number: int) -> IPv4Network:
        """The part of the node with this number in the cluster's network; see `has_node`."""
        return IPv4Network((self.pods.network_address + (number << (32 - self.pods_per_node)), self.pods_per_node))

    def has_node(self, number: int) -> bool:
        """Whether there is a part for the node with this number."""
        return number < 1 << (self.pods_per_node - self.pods.prefixlen)

    def to_labels(self) -> dict[str, str]:
        """For the labels of a node, from which `from_labels` reads them."""
        return {"pods": str(self.pods), "pods-per-node": str(self.pods_per_node), "services": str(self.services)}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> "Ranges | None":
        """The ranges that a cluster was made with; None when the labels say nothing of them."""
        if "pods" not in labels:
            return None
        return cls(IPv4Network(labels["pods"]), int(labels["pods-per-node"]), IPv4Network(labels["services"]))


def dialect(image: str) -> Dialect:
    """How to talk to the programs in a node image. Raises Invalid when its tag does not say which version they are."""
    minor = _version(image)[1]
    return [spoken for since, spoken in DIALECTS if since <= minor][-1]


def image_of(spec: ClusterSpec, group: NodeGroupSpec) -> str:
    """The image of a group's nodes: its own, with label kube_tag in the place of its tag when there is one."""
    tag = group.labels.get("kube_tag") or spec.labels.get("kube_tag")
    name, colon, _ = group.image.rpartition(":")
    return f"{name}:{tag}" if tag and colon else group.image


def ranges(labels: Mapping[str, str]) -> Ranges:
    """The ranges that a cluster's labels ask for. Raises Invalid by the name of the label."""
    name = "flannel_network_cidr" if labels.get("flannel_network_cidr") else "calico_ipv4pool"
    pods = _range(name, labels.get(name), PODS, 8, 28)
    services = _range("service_cluster_ip_range", labels.get("service_cluster_ip_range"), SERVICES,
                      LARGEST_SERVICES, SMALLEST_SERVICES)  # fmt: skip
    text = labels.get("flannel_network_subnetlen") or str(max(PODS_PER_NODE, pods.prefixlen))
    if not text.isdecimal() or len(text) > 2 or not max(16, pods.prefixlen) <= int(text) <= 28:
        raise Invalid(f"label flannel_network_subnetlen: {text!r}; a number from {max(16, pods.prefixlen)} to 28")
    if pods.overlaps(services):
        raise Invalid(f"label service_cluster_ip_range: {services} overlaps the range of pods, {pods}")
    return Ranges(pods, int(text), services)


def check(spec: ClusterSpec, pool: str, prefix: int) -> None:
    """Raise Invalid, by the name of field or label, for what can never be made.

    `pool` is the range that clusters' networks are cut from, `prefix` the length of one's.
    """
    masters = spec.groups[0]
    if masters.role != MASTER or masters.count not in range(1, MOST_MASTERS + 1, 2):
        raise Invalid(f"master_count: {masters.count}; an odd number from 1 to {MOST_MASTERS}")
    if not spec.tls:
        raise Invalid("tls_disabled: Kubernetes serves its API over TLS only")
    if spec.network_driver not in (None, "flannel"):
        raise Invalid(f"network_driver: {spec.network_driver} is not made here, only flannel")
    port = spec.api_port
    if port is not None and (not 1024 <= port < 30000 or port in TAKEN_PORTS):
        raise Invalid(f"apiserver_port: {port}; from 1024 to 29999, without {', '.join(map(str, TAKEN_PORTS))}")
    wanted = ranges(spec.labels)
    for label, range_ in (("flannel_network_cidr", wanted.pods), ("service_cluster_ip_range", wanted.services)):
        if range_.overlaps(IPv4Network(pool)):
            raise Invalid(f"label {label}: {range_} overlaps the range of nodes, {pool}")
    nodes = sum(group.count for group in spec.groups)
    room = min(1 << (32 - prefix), 1 << (wanted.pods_per_node - wanted.pods.prefixlen)) - RESERVED
    if nodes > room:
        raise Invalid(
            f"node_count: {nodes} nodes with the control planes; a network of /{prefix} (clusters.network_prefix) and "
            f"pods in {wanted.pods} with /{wanted.pods_per_node} each have room for {room}"
        )
    for group in spec.groups:
        _check_group(spec, group)


def api_port(spec: ClusterSpec) -> int:
    """The port of the API."""
    return spec.api_port or API_PORT


def node_names(spec: ClusterSpec, group: NodeGroupSpec, taken: Collection[str]) -> list[str]:
    """Names for the nodes that a group lacks, given the names of those that it has: the lowest free numbers."""
    stem = re.sub(r"[^a-z0-9-]+", "-", group.name.lower()).strip("-")[:40].strip("-")
    alike = [other.name for other in spec.groups if other.name != group.name]
    if stem != group.name or not stem or any(name.startswith(stem) for name in alike):
        stem = f"{stem}-{group.uuid.hex[:6]}".strip("-")
    free = (name for number in range(len(taken) + group.count) if (name := f"{stem}-{number}") not in taken)
    return [next(free) for _ in range(max(0, group.count - len(taken)))]


def addresses(network: NodeNetwork, taken: Collection[str]) -> list[str]:
    """The free addresses of nodes in a cluster's network, lowest first. The first of all is for the API's balancer."""
    reserved = {network.gateway, balancer_address(network), *taken}
    return [str(host) for host in IPv4Network(network.subnet).hosts() if str(host) not in reserved]


def balancer_address(network: NodeNetwork) -> str:
    """Where the API of a cluster with several control planes is found: the first that is not the engine's own."""
    return next(str(host) for host in IPv4Network(network.subnet).hosts() if str(host) != network.gateway)


def number_of(network: NodeNetwork, address: str) -> int:
    """Which address of the network this is, counted from the network's own."""
    return int(IPv4Address(address)) - int(IPv4Network(network.subnet).network_address)


def _check_group(spec: ClusterSpec, group: NodeGroupSpec) -> None:
    image = image_of(spec, group)
    major, minor, _ = _version(image)
    oldest = DIALECTS[0][0]
    if major != 1 or minor < oldest:
        raise Invalid(f"image: {image}; Kubernetes from v1.{oldest} on")
    for key, value in group.node_labels.items():
        _check_label("node_labels", key, value)
    for taint in group.node_taints:
        _check_label("node_taints", taint.get("key", ""), taint.get("value") or "")
        if taint.get("effect") not in EFFECTS:
            raise Invalid(f"node_taints: the effect {taint.get('effect')!r} is none of {', '.join(EFFECTS)}")


def _check_label(field: str, key: str, value: str) -> None:
    if not _KEY.fullmatch(key):
        raise Invalid(
            f"{field}: {key[:64]!r} is not a key that Kubernetes takes: [prefix/]name, of letters, digits, '-_.'"
        )
    if not _VALUE.fullmatch(value):
        raise Invalid(f"{field}: {value[:64]!r} of {key} may have up to 63 letters, digits and '-_.'")


def _range(label: str, text: str | None, default: IPv4Network, shortest: int, longest: int) -> IPv4Network:
    if not text:
        return default
    try:
        found = IPv4Network(text)
    except ValueError as error:
        raise Invalid(f"label {label}: {error}") from None
    if not found.is_private or not shortest <= found.prefixlen <= longest:
        raise Invalid(f"label {label}: {found}; a private range with a prefix from /{shortest} to /{longest}")
    return found


def _version(image: str) -> tuple[int, int, int]:
    found = _VERSION.match(image.rpartition(":")[2])
    if found is None:
        raise Invalid(f"image: {image}; the tag of a node image is its version of Kubernetes, as v1.20.2")
    return int(found[1]), int(found[2]), int(found[3])

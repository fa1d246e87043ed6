"""Names of networks, subnets and ports as the API shows them, when no Neutron is there to give any.

Every project has one network of its own. Its ids are derived from the project's, so that they need no row and stay the
same after the engine's network was removed and made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol
from uuid import NAMESPACE_URL, uuid5

from app.actions import Job, StepArgs
from app.backends.engine import Ability, Address, ContainerEngine, Networks
from app.errors import Invalid, NotFound, Unsupported
from app.hosts import CLUSTER_PREFIX
from app.models import Container

PROJECT_NETWORK = "project"
DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True)
class Attached:
    """A container's place on one network; `addresses` as in Zun's ``addresses``, none while it has none."""

    network: str
    port: str
    addresses: Sequence[Mapping[str, Any]]


class NetArgs(StepArgs):
    """What a keeper made of a request to attach or detach."""

    net: dict[str, Any]


class Keeper(Protocol):
    """Who keeps the books of networks: each project's own one is `OwnNetwork`'s here.

    `to_attach` and `to_detach` are asked in the request, outside of transactions, and answer what the action's step is
    given; `check` is asked once more when the container's row is locked. `attach` and `detach` run in the step, maybe
    twice, and return what the row becomes beside what the engine shows.
    """

    def attached(self, box: Container) -> Sequence[Attached]:
        """Where a container is."""
        ...

    async def to_attach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None, fixed_ip: str | None
    ) -> dict[str, Any]:
        """The place that is meant; without network and port the default.

        Raises NotFound, Conflict, Invalid; Unsupported when the container's engine cannot do it.
        """
        ...

    async def to_detach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None
    ) -> dict[str, Any]:
        """The place that is meant, by exactly one of the two. Raises as `to_attach`."""
        ...

    def check(self, box: Container, net: Mapping[str, Any], *, attach: bool) -> None:
        """Raises Invalid when the container is there already, or is not there."""
        ...

    async def attach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """Attach it. Raises EngineError, or what else says why not."""
        ...

    async def detach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """Detach it."""
        ...


class OwnNetwork:
    """The one network of a project. A row's `nets` are None on it, and empty once it was detached."""

    def attached(self, box: Container) -> Sequence[Attached]:
        """Its own network, unless it was detached, or is in a cluster, which has a network of its own."""
        if box.nets is not None or box.backend.startswith(CLUSTER_PREFIX):
            return []
        own = network_id(box.project_id)
        return [Attached(own, port_id(box.uuid), (box.addresses or {}).get(own, []))]

    async def to_attach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None, fixed_ip: str | None
    ) -> dict[str, Any]:
        """Raises NotFound, Invalid, Unsupported."""
        _check_engine(engine)
        _check_own(box, network, port)
        if fixed_ip is not None:
            _check_address(fixed_ip)
            raise Invalid(f"fixed_ip: {fixed_ip} cannot be had: addresses are chosen by the engine")
        return {"network": network_id(box.project_id)}

    async def to_detach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None
    ) -> dict[str, Any]:
        """Raises NotFound, Unsupported."""
        _check_engine(engine)
        _check_own(box, network, port)
        return {"network": network_id(box.project_id)}

    def check(self, box: Container, net: Mapping[str, Any], *, attach: bool) -> None:
        """Raises Invalid."""
        there = box.nets is None
        if attach == there:
            state = "is already attached to" if there else "is not attached to"
            raise Invalid(f"Container {box.uuid} {state} the network {net['network']}")

    async def attach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """Raises EngineError."""
        if isinstance(job.engine, Networks):
            await job.engine.join_network(ref, job.resource.project_id)
        return {"nets": None}

    async def detach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """Raises EngineError."""
        if isinstance(job.engine, Networks):
            await job.engine.leave_network(ref, job.resource.project_id)
        return {"nets": []}


OWN = OwnNetwork()


def _check_engine(engine: ContainerEngine) -> None:
    if Ability.NETWORK not in engine.abilities:
        raise Unsupported(f"The engine {engine.name!r} has no networks for projects (ability network)")


def _check_own(box: Container, network: str | None, port: str | None) -> None:
    if port is not None and port != port_id(box.uuid):
        raise NotFound(f"Port {port} could not be found.", code="port-not-found")
    if network is not None and network not in (network_id(box.project_id), PROJECT_NETWORK):
        raise NotFound(f"Network {network} could not be found.", code="network-not-found")


def _check_address(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise Invalid(f"fixed_ip: '{text[:64]}' is no IP address", code="schema-validation-error") from None


def port_id(container: str) -> str:
    """The uuid of a container's place on its project's network."""
    return _derived("port", container)


def network_id(project_id: str) -> str:
    """The uuid of a project's network."""
    return _derived("network", project_id)


def security_group_id(project_id: str) -> str:
    """The uuid of a project's one security group, ``default``."""
    return _derived("security-group", project_id)


def shown_addresses(project_id: str, container: str, seen: Sequence[Address]) -> dict[str, list[dict[str, Any]]]:
    """Zun's ``addresses`` (zun-api, section 4.9): empty while the container has none."""
    entries = [
        {
            "addr": address.address,
            "version": address.version,
            "port": port_id(container),
            "subnet_id": _derived(f"subnet-{address.version}", project_id),
            "preserve_on_delete": False,
        }
        for address in seen
    ]
    return {network_id(project_id): entries} if entries else {}


def shown_nets(nets: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Zun's ``addresses`` of networks of Neutron, from a row's ``nets`` (``app.attachments``)."""
    return {net["network"]: net["addresses"] for net in nets if net.get("addresses")}


def check_nets(project_id: str, nets: Sequence[dict[str, Any]]) -> None:
    """Only the project's own network can be asked for. Raises NotFound or Invalid, naming the network or port."""
    for net in nets:
        if "port" in net:
            raise NotFound(f"Port {net['port']} could not be found.", code="port-not-found")
        if net["network"] not in (network_id(project_id), PROJECT_NETWORK):
            raise NotFound(f"Network {net['network']} could not be found.", code="network-not-found")
        if fixed := net.get("v4-fixed-ip") or net.get("v6-fixed-ip"):
            raise Invalid(f"nets: the fixed address {fixed} cannot be had: addresses are chosen by the engine")
    if len(nets) > 1:
        raise Invalid("nets: a container can be on the project's network only once")


def check_groups(project_id: str, groups: Sequence[str]) -> list[str]:
    """Resolve security groups to ids; the only one is ``default``. Raises Invalid."""
    known = {DEFAULT_GROUP, security_group_id(project_id)}
    for group in groups:
        if group not in known:
            raise Invalid(f"Security group {group} not found.")
    return [security_group_id(project_id)] if groups else []


def _derived(kind: str, of: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"caisson:{kind}:{of}"))

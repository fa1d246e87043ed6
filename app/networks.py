"""Names of networks, subnets and ports as the API shows them, when no Neutron is there to give any.

Every project has one network of its own. Its ids are derived from the project's, so that they need no row and stay the
same after the engine's network was removed and made again.
"""

from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from app.backends.engine import Address
from app.errors import Invalid, NotFound

PROJECT_NETWORK = "project"
DEFAULT_GROUP = "default"


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
            "port": _derived("port", container),
            "subnet_id": _derived(f"subnet-{address.version}", project_id),
            "preserve_on_delete": False,
        }
        for address in seen
    ]
    return {network_id(project_id): entries} if entries else {}


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

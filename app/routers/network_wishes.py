"""What a request wishes of networks and security groups, looked up where the networks are: in Neutron or here."""

from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from fastapi import Request

from app import attachments, networks, wiring
from app.backends.engine import Ability
from app.containers import check_ability
from app.errors import Busy, Invalid
from app.models import Container, Status
from app.neutron import Neutron, connect
from app.policy import Tx
from app.routers.requests import gateway


async def callers_neutron(request: Request) -> Neutron | None:
    """Neutron as the caller sees it; None where the catalogue lists none. Raises Busy."""
    return await connect(gateway(request).catalogue, request.headers["x-auth-token"])


async def settle(
    request: Request, tx: Tx, box: Container, nets: Sequence[Mapping[str, str]], groups: Sequence[str]
) -> None:
    """Fill in a new container's networks and security groups.

    Raises NotFound, Conflict, Invalid, Forbidden, Unsupported, Busy; nothing is stored here or in Neutron.
    """
    for net in nets:
        check_fixed(net)
    neutron = await callers_neutron(request)
    if neutron is None:
        networks.check_nets(box.project_id, [dict(net) for net in nets])
        box.security_groups = networks.check_groups(box.project_id, groups) or None
    elif box.status != Status.ERROR:
        parts = gateway(request)
        engine = parts.engines.reach(box.backend)
        attachments.check_engine(engine, parts.settings)
        if groups or box.exposed_ports:
            attachments.check_groups_enforced(parts.settings)
        box.nets = await attachments.resolve(neutron, box.project_id, nets, lambda: permit_external(tx))
        box.security_groups = await attachments.resolve_groups(neutron, box.project_id, groups) or None
        await wiring.check_ranges(neutron, engine, parts.settings, [net["network"] for net in box.nets])


async def known_groups(request: Request, box: Container, groups: Sequence[str]) -> list[str]:
    """The ids of security groups that a container may have. Raises Invalid, Conflict, Unsupported, Busy."""
    engine = gateway(request).engines.reach(box.backend)
    check_ability(engine, Ability.NETWORK, "guard containers", "use the means of the cluster")
    if not box.nets:
        return networks.check_groups(box.project_id, groups)
    neutron = await callers_neutron(request)
    if neutron is None:
        raise Busy("The catalogue lists no network service (Neutron) any more.")
    attachments.check_groups_enforced(gateway(request).settings)
    return await attachments.resolve_groups(neutron, box.project_id, groups)


def permit_external(tx: Tx) -> None:
    """Raises Forbidden for those who may not use an external network."""
    tx.require("network:attach_external_network")


def check_fixed(net: Mapping[str, str]) -> None:
    """Raises Invalid for what is no address of its version."""
    for field, kind in (("v4-fixed-ip", IPv4Address), ("v6-fixed-ip", IPv6Address)):
        try:
            if field in net:
                kind(net[field])
        except AddressValueError:
            raise Invalid(f"nets: {field}: '{net[field][:64]}' is no such address") from None

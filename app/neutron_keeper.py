"""Attaching containers to networks of Neutron, and detaching them: see `app.networks.Keeper`."""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast

from app import attachments, firewall, plugging, wiring
from app.actions import Job
from app.backends.engine import ContainerEngine
from app.backends.wires import Wires
from app.catalogue import Catalogue
from app.errors import Busy, GatewayError, Invalid, Unavailable
from app.models import Container
from app.networks import OWN, Attached
from app.neutron import Neutron, connect
from app.settings import Settings


def _nobody() -> None:
    """A step asks for nothing that a rule forbids: the request was checked."""


class NeutronKeeper:
    """Neutron keeps the books; of containers without ``nets``, and where there is no Neutron, `OWN` does.

    `token` is the caller's, in a request. `permit_external` raises Forbidden for callers who may not use an external
    network.
    """

    def __init__(
        self,
        catalogue: Catalogue | None,
        settings: Settings,
        token: str | None = None,
        permit_external: Callable[[], None] = _nobody,
    ) -> None:
        self._catalogue = catalogue
        self._settings = settings
        self._token = token
        self._permit_external = permit_external

    def attached(self, box: Container) -> Sequence[Attached]:
        """See `Keeper`."""
        if not box.nets:
            return OWN.attached(box)
        return [Attached(net["network"], net["port"] or "", net["addresses"]) for net in box.nets]

    async def to_attach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None, fixed_ip: str | None
    ) -> dict[str, Any]:
        """See `Keeper`. Everything is looked up with the caller's token."""
        neutron = await self._neutron(box)
        if neutron is None:
            return await OWN.to_attach(engine, box, network, port, fixed_ip)
        attachments.check_engine(engine, self._settings)
        wanted: list[dict[str, str]] = []
        if network is not None or port is not None:
            wanted = [{"network": network} if network is not None else {"port": cast(str, port)}]
        if fixed_ip is not None:
            version = _version(fixed_ip)
            if not wanted or port is not None:
                raise Invalid("fixed_ip goes with network: a port has its addresses already")
            wanted[0][f"v{version}-fixed-ip"] = fixed_ip
        (net,) = await attachments.resolve(neutron, box.project_id, wanted, self._permit_external)
        await wiring.check_ranges(neutron, engine, self._settings, [net["network"]])
        return net

    async def to_detach(
        self, engine: ContainerEngine, box: Container, network: str | None, port: str | None
    ) -> dict[str, Any]:
        """See `Keeper`."""
        neutron = await self._neutron(box)
        if neutron is None:
            return await OWN.to_detach(engine, box, network, port)
        attachments.check_engine(engine, self._settings)
        for net in box.nets or ():
            if network == net["network"] or (port is not None and port == net["port"]):
                return dict(net)
        if network is not None:
            found = await attachments.named(neutron, "networks", "Network", network, box.project_id)
            return {"network": found["id"], "port": None, "preserve": False}
        found = await attachments.named(neutron, "ports", "Port", cast(str, port), box.project_id)
        return {"network": found["network_id"], "port": found["id"], "preserve": False}

    def check(self, box: Container, net: Mapping[str, Any], *, attach: bool) -> None:
        """See `Keeper`."""
        if "preserve" not in net:
            OWN.check(box, net, attach=attach)
            return
        there = next((one for one in box.nets or () if one["network"] == net["network"]), None)
        if there is not None and not attach and net["port"] not in (None, there["port"]):
            there = None
        if attach == (there is not None):
            state = "is already attached to" if there else "is not attached to"
            raise Invalid(f"Container {box.uuid} {state} the network {net['network']}")

    async def attach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """See `Keeper`. What the engine refuses leaves no port behind."""
        box: Container = job.resource
        if "preserve" not in net:
            return await OWN.attach(job, ref, net)
        neutron = await plugging.network_service(job)
        try:
            plugged = await attachments.plug(
                neutron, job.engine, job.settings, box.uuid, box.project_id, [dict(net)], box.security_groups
            )
            macs = [await cast(Wires, job.engine).join(ref, place) for place in plugged.places]
        except (Unavailable, Busy):
            raise
        except GatewayError:
            await self._give_back(job, neutron, net)
            raise
        await attachments.settle_macs(neutron, plugged.nets, macs)
        await firewall.enforce(neutron, job.engine)
        box.nets = [*(one for one in box.nets or () if one["network"] != net["network"]), *plugged.nets]
        box.security_groups = box.security_groups or plugged.groups
        return plugging.fields(box)

    async def detach(self, job: Job, ref: str, net: Mapping[str, Any]) -> dict[str, Any]:
        """See `Keeper`."""
        box: Container = job.resource
        if "preserve" not in net:
            return await OWN.detach(job, ref, net)
        neutron = await plugging.network_service(job)
        await cast(Wires, job.engine).leave(ref, net["network"])
        await self._give_back(job, neutron, net)
        await firewall.enforce(neutron, job.engine)
        box.nets = [one for one in box.nets or () if one["network"] != net["network"]]
        return {"nets": box.nets, **plugging.fields(box)}

    async def _neutron(self, box: Container) -> Neutron | None:
        return None if box.nets is None else await connect(self._catalogue, self._token)

    async def _give_back(self, job: Job, neutron: Neutron, net: Mapping[str, Any]) -> None:
        await attachments.unplug(neutron, job.resource.uuid, net["network"])
        await plugging.release(job, neutron, [net["network"]])


def _version(address: str) -> int:
    try:
        return ip_address(address).version
    except ValueError:
        raise Invalid(f"fixed_ip: '{address[:64]}' is no IP address", code="schema-validation-error") from None

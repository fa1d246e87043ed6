"""Steps on containers with networks of Neutron: before the engine makes one, when it runs, and when it is gone.

A container without ``nets`` is on its project's own network of the engine, and nothing here concerns it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from app import admin_networks, attachments, firewall, networks, wiring
from app.actions import Job
from app.backends.engine import Seen
from app.backends.wires import Attachment, Wires
from app.errors import Busy
from app.models import Container
from app.neutron import Neutron, connect


async def network_service(job: Job) -> Neutron:
    """Neutron, as Caisson's own user. Raises Busy when it is not there: the step is tried again."""
    neutron = await connect(job.catalogue)
    if neutron is None:
        raise Busy(
            "The catalogue lists no network service (Neutron) any more, and there are containers on its networks."
        )
    return neutron


async def plug(job: Job, box: Container) -> Sequence[Attachment]:
    """Ports and the engine's networks for every net of `box`; the row's fields follow. Nothing without nets."""
    if not box.nets:
        return ()
    neutron = await network_service(job)
    groups = box.security_groups
    if box.exposed_ports and job.settings.firewall != "none":
        opened = await attachments.expose(neutron, box.uuid, box.project_id, box.exposed_ports)
        groups = [opened, *(group for group in groups or () if group != opened)]
    plugged = await attachments.plug(neutron, job.engine, job.settings, box.uuid, box.project_id, box.nets, groups)
    box.nets, box.security_groups = plugged.nets, plugged.groups
    return plugged.places


async def join(job: Job, box: Container, seen: Seen, places: Sequence[Attachment]) -> None:
    """Connect a container to all its networks but the first, which it was made with."""
    if not places:
        return
    macs = [await cast(Wires, job.engine).join(seen.ref, place) for place in places]
    if any(mac.lower() != place.mac.lower() for mac, place in zip(macs, places, strict=True)):
        await attachments.settle_macs(await network_service(job), box.nets or (), macs)


async def guard(job: Job, box: Container) -> None:
    """Let the packets of a container pass that runs now, and has perhaps another interface than before."""
    if box.nets:
        await firewall.enforce(await network_service(job), job.engine)


async def unplug(job: Job, box: Container) -> None:
    """Give back what `plug` took, and what an attachment took that nobody got to store."""
    if box.nets is None:
        return
    neutron = await network_service(job) if box.nets else await connect(job.catalogue)
    if neutron is None:
        return
    await release(job, neutron, await attachments.unplug(neutron, box.uuid) | {net["network"] for net in box.nets})
    if box.exposed_ports:
        await attachments.unexpose(neutron, box.uuid, box.project_id)
    await firewall.enforce(neutron, job.engine)


async def release(job: Job, neutron: Neutron, networks: Iterable[str]) -> None:
    """Remove the engine's networks that nothing uses, but for those that an administrator made."""
    for network in sorted(networks):
        async with job.database.reading(job.scope) as session:
            wanted = await admin_networks.is_known(session, network)
        if not wanted:
            await wiring.drop_wire(neutron, job.engine, network)


def fields(box: Container) -> dict[str, Any]:
    """What `plug` changed of the row, for an outcome."""
    if not box.nets:
        return {}
    return {"nets": box.nets, "addresses": networks.shown_nets(box.nets), "security_groups": box.security_groups}

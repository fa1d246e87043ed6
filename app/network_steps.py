"""The steps that attach a container to a network, and detach it."""

from app.actions import Failed, Job, Outcome, step
from app.container_steps import look, outcome, refused
from app.errors import Busy, EngineError, GatewayError, Unavailable
from app.networks import Keeper, NetArgs
from app.neutron_keeper import NeutronKeeper


def keeper_of(job: Job) -> Keeper:
    """Who keeps the books of a container's networks."""
    return NeutronKeeper(job.catalogue, job.settings)


@step("container", "network_attach", args=NetArgs, doing="network_attaching")
async def network_attach(job: Job) -> Outcome:
    """Put the container on a network."""
    return await _change(job, attach=True)


@step("container", "network_detach", args=NetArgs, doing="network_detaching")
async def network_detach(job: Job) -> Outcome:
    """Take the container off a network."""
    return await _change(job, attach=False)


async def _change(job: Job, *, attach: bool) -> Outcome:
    seen = await look(job)
    if seen is None:
        return await outcome(job)
    keeper = keeper_of(job)
    try:
        changes = await (keeper.attach if attach else keeper.detach)(job, seen.ref, job.args.net)
    except (Unavailable, Busy):
        raise
    except EngineError as error:
        return await refused(job, error)
    except GatewayError as error:
        return Failed(error.title)
    return await outcome(job, **changes)

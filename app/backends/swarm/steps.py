"""One step of a swarm towards its spec: look at the nodes, do the first thing that is missing, say what it is.

The order: containers that run, engines that answer, one swarm of which all are members, members that are ready; then
nodes that are too many leave, and at last those of another image or with other certificates are replaced, masters
first. Who leaves or is replaced is drained before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from app.backends.driver import MASTER, ClusterFailed, ClusterSpec, Progress
from app.backends.engine import State, Tars
from app.backends.nodes import NodeHost, NodeSeen
from app.backends.swarm import plan as planning
from app.backends.swarm.api import Api, Apis, Contexts, Member, NodeError, Self
from app.backends.swarm.plan import Plan, Wish
from app.errors import EngineError, Gone, RegistryDown, Taken, Unavailable
from app.settings import ClusterSettings

PATIENCE = 90.0
"""Seconds that one and the same thing may be waited for."""
DRAIN_SECONDS = 30.0
"""Seconds that tasks get to leave a node which is drained."""
LOOK = 3.0
"""Seconds that a step itself waits for what comes soon."""
PAUSE = 0.05
STARTS = 3
"""How often a node is started that ends by itself, before the cluster fails."""
LOG_LINES = 8

WELL = "all is well"
OURS = "caisson/"
"""Names of images that are made here and never pulled."""
DRAINED = "caisson.drained"
"""Label of a member that we drained, and may hence activate again."""
GROUP_LABEL, ROLE_LABEL = "magnum.openstack.org/nodegroup", "magnum.openstack.org/role"

FIRST_PUBLISHED, PORTS_TRIED = 23760, 200

Found = TypeVar("Found")


class Steps:
    """What is known of one cluster in one step."""

    def __init__(self, host: NodeHost, settings: ClusterSettings, spec: ClusterSpec, contexts: Contexts) -> None:
        self._host = host
        self._spec = spec
        self._memo: dict[str, Any] = {}
        self._settings = settings
        self._apis = Apis(spec, contexts)
        self._plan = Plan((), ())
        self._selves: dict[str, Self] = {}
        self._members: dict[str, Member] = {}

    async def close(self) -> None:
        """Free connections."""
        await self._apis.close()

    async def converge(self, memo: Mapping[str, Any]) -> Progress:
        """See `ClusterDriver.converge`."""
        self._memo = {**memo}
        stages = (self._make, self._answer, self._join, self._ready, self._shrink, self._replace)
        return await self._first(stages)

    async def mend(self) -> str:
        """See `ClusterDriver.mend`: as `converge`, but nobody leaves, and nobody who answers is replaced.

        All at once, since managers take a node that came back as somebody else for well for a while.
        """
        stages = (self._make, self._answer, self._join, self._ready)
        progress, done = await self._first((self._well, *stages)), []
        while not progress.done and not progress.after and progress.text != WELL:
            done.append(progress.text)
            progress = await self._first(stages)
        return "; ".join(done)

    async def _first(self, stages: Sequence[Callable[[], Awaitable[str | None]]]) -> Progress:
        """Run stages up to the first that had something to do."""
        self._plan = planning.plan(self._spec, await self._host.nodes(self._spec.uuid))
        self._selves, self._members = {}, {}
        for stage in stages:
            try:
                text = await stage()
            except NodeError as error:
                text = await self._wait(error.title, [error.node])
            if text is not None:
                after = self._memo.pop("after", 0.0)
                if not after:
                    self._memo.pop("waiting", None)
                return Progress(False, text, after, self._memo)
        await self._host.drop_strays(self._spec.uuid)
        return Progress(True, memo={})

    async def _well(self) -> str | None:
        """Whether there is nothing to mend, by the word of one manager."""
        if self._plan.missing or any(seen.state is not State.RUNNING for seen in self._seen()):
            return None
        for wish in self._plan.wishes:
            if wish.manager and wish.seen is not None:
                try:
                    members = await self._apis.of(wish.seen).members()
                except NodeError:
                    continue
                ready = sorted(member.name for member in members if member.state == "ready")
                names = sorted([*(wish.name for wish in self._plan.wishes), *(s.name for s in self._plan.surplus)])
                return WELL if ready == names and len(members) == len(names) else None
        return None

    # Containers

    async def _make(self) -> str | None:
        """Every node has a container that runs."""
        missing, stopped = self._plan.missing, [seen for seen in self._seen() if seen.state is not State.RUNNING]
        if not missing and not stopped:
            return None
        for seen in stopped:
            if planning.outdated(self._spec, self._wish(seen)):
                return await self._abandon(seen)
            await self._count_start(seen)
        if missing:
            network = await self._host.ensure_node_network(self._spec.uuid, self._spec.project_id)
            given = planning.addresses(self._plan, network)
            await self._pull({wish.group.image for wish in missing})
            await self._each((wish, self._create(wish, given[wish.name])) for wish in missing)
        # Whoever made a node that never ran may have been killed before its files were written: it is made once more.
        unborn = [self._wish(seen) for seen in stopped if seen.started_at is None]
        await self._each((wish, self._create(wish, wish.seen.address)) for wish in unborn if wish.seen is not None)
        born = [seen for seen in stopped if seen.started_at is not None]
        await self._each((self._wish(seen), self._host.start_node(seen.ref)) for seen in born)
        names = [wish.name for wish in missing] + [seen.name for seen in stopped]
        return f"started {_list(names)}"

    async def _pull(self, images: Iterable[str]) -> None:
        for image in images:
            if await self._host.image(image) is None:
                if image.startswith(OURS):
                    # Whoever holds that name in a public registry is not us, and nodes are as good as the host's root.
                    raise ClusterFailed(f"image {image} is not in the engine: make it with scripts/node-image")
                try:
                    await self._host.pull(image, None)
                except (Gone, RegistryDown) as error:
                    raise ClusterFailed(f"image {image}: {error.title}") from error

    async def _create(self, wish: Wish, address: str) -> NodeSeen:
        outside = self._settings.publish_address
        ports: Iterable[int | None] = [None]
        if outside is not None and wish.manager and wish.name == self._plan.wishes[0].name:
            first = FIRST_PUBLISHED + self._spec.uuid.int % PORTS_TRIED
            ports = range(first, first + PORTS_TRIED)
        for published in ports:
            spec = planning.node_spec(self._spec, wish.name, wish.group, address, published, outside)
            made = await self._host.create_node(spec)
            try:
                await self._host.start_node(made.ref)
            except Taken as error:
                if published is None or "port is already allocated" not in error.title:
                    raise
                await self._host.remove_node(made.ref, keep_volumes=True)
                continue
            return made
        raise Taken(f"node {wish.name}: no port of {outside} from {FIRST_PUBLISHED} on is free for its API")

    async def _abandon(self, seen: NodeSeen) -> str:
        """Make way for a node as it should be, where the old one is of no use, as when it trusts nobody any more."""
        await self._host.remove_node(seen.ref, keep_volumes=True)
        return f"node {seen.name} does not answer, and is made anew"

    async def _count_start(self, seen: NodeSeen) -> None:
        """Raises ClusterFailed when a node ended by itself again and again."""
        starts = self._memo.setdefault("starts", {})
        starts[seen.name] = starts.get(seen.name, 0) + (seen.started_at is not None)
        if starts[seen.name] > STARTS:
            raise await self._failure(f"node {seen.name}: {why_stopped(seen)}, {STARTS + 1} times", [seen])

    # The swarm

    async def _answer(self) -> str | None:
        """Every node's engine answers."""
        seen = self._seen()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOOK
        while True:
            asked = [node for node in seen if node.name not in self._selves]
            said = await asyncio.gather(*(self._itself(node) for node in asked))
            silent = [error for error in said if error is not None]
            if not silent:
                return None
            if loop.time() > deadline:
                for error in silent:
                    if planning.outdated(self._spec, self._wish(error.node)):
                        return await self._abandon(error.node)
                return await self._wait(silent[0].title, [silent[0].node], after=0.2)
            await asyncio.sleep(PAUSE)

    async def _itself(self, node: NodeSeen) -> NodeError | None:
        try:
            self._selves[node.name] = await self._apis.of(node).itself()
        except NodeError as error:
            return error
        return None

    async def _join(self) -> str | None:
        """Every node is a member of one swarm, in its role; nobody else of ours is."""
        managers = self._managers()
        if not managers:
            return await self._begin()
        self._members = {member.id: member for member in await self._manager.members()}
        if text := await self._forget_lost():
            return text
        strangers = [seen for seen in self._seen() if self._is_stranger(seen)]
        await self._each((self._wish(seen), self._apis.of(seen).leave()) for seen in strangers)
        outside = strangers + [seen for seen in self._seen() if self._selves[seen.name].state == "inactive"]
        if not outside:
            return None
        tokens = await self._manager.tokens()
        masters = [seen for seen in outside if self._wish(seen).manager]
        # One manager at a time: each changes who has to agree on what comes next.
        joining = masters[:1] + [seen for seen in outside if seen not in masters]
        role = {True: tokens["Manager"], False: tokens["Worker"]}
        await self._each((self._wish(seen), self._enter(seen, managers, role)) for seen in joining)
        return f"{_list(seen.name for seen in joining)} joined the swarm"

    async def _enter(self, seen: NodeSeen, managers: Sequence[NodeSeen], tokens: Mapping[bool, str]) -> None:
        await self._apis.of(seen).join(managers, tokens[self._wish(seen).manager])

    async def _begin(self) -> str | None:
        """The first manager begins a swarm, unless there is one already that has lost its voice."""
        masters = [wish.seen for wish in self._plan.wishes if wish.manager and wish.seen]
        if mute := [seen for seen in masters if self._selves[seen.name].state != "inactive"]:
            itself = self._selves[mute[0].name]
            text = f"node {mute[0].name}: its swarm is {itself.state} {itself.error}".strip()
            return await self._wait(text, mute, after=0.2)
        await self._apis.of(masters[0]).init()
        return f"{masters[0].name} began the swarm"

    async def _forget_lost(self) -> str | None:
        """Strike off who came back as somebody else, or not at all."""
        # One that is about to come back does not know yet who it is.
        selves = {seen.name: self._selves[seen.name] for seen in self._seen()}
        known = {name: said.id for name, said in selves.items() if said.id or said.state == "inactive"}
        staying = selves.keys() | {seen.name for seen in self._plan.surplus}
        lost = [
            member
            for member in self._members.values()
            if known.get(member.name, member.id) != member.id or (member.state == "down" and member.name not in staying)
        ]
        for member in lost:
            if member.manager:
                await self._manager.change(member, Role="worker")
            await self._manager.forget(member)
        return f"struck {_list(member.name for member in lost)} off the swarm" if lost else None

    def _is_stranger(self, seen: NodeSeen) -> bool:
        """Whether a node is a member of a swarm that is not this one, or was struck off this one."""
        itself = self._selves[seen.name]
        return itself.state != "inactive" and itself.id != "" and itself.id not in self._members

    async def _ready(self) -> str | None:
        """Every member is ready, is labelled, takes tasks, and holds the images that it should."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOOK
        while problems := self._not_ready():
            if loop.time() > deadline:
                name, reason = next(iter(problems.items()))
                count = len(self._plan.wishes)
                text = f"{count - len(problems)} of {count} nodes are ready; node {name}: {reason}"
                return await self._wait(text, [seen for seen in self._seen() if seen.name in problems], after=0.2)
            await asyncio.sleep(PAUSE)
            await asyncio.gather(*(self._itself(seen) for seen in self._seen() if seen.name in problems))
            self._members = {member.id: member for member in await self._manager.members()}
        await asyncio.gather(*(self._dress(wish) for wish in self._plan.wishes))
        return await self._preload()

    def _not_ready(self) -> dict[str, str]:
        """Who is not, and why."""
        return {
            wish.name: reason
            for wish in self._plan.wishes
            if (reason := not_ready(wish.manager, self._member(wish), self._selves[wish.name]))
        }

    async def _dress(self, wish: Wish) -> None:
        """A member's labels are those of its group; one that we drained is active again when it was replaced."""
        member = self._member(wish)
        if member is None:
            return
        labels = {**wish.group.node_labels, GROUP_LABEL: wish.group.name, ROLE_LABEL: wish.group.role}
        kept = {key: value for key, value in member.labels.items() if key != DRAINED}
        if DRAINED in member.labels and not planning.outdated(self._spec, wish):
            await self._manager.change(member, Availability="active", Labels=kept | labels)
        elif any(member.labels.get(key) != value for key, value in labels.items()):
            await self._manager.change(member, Labels={**member.labels, **labels})

    async def _preload(self) -> str | None:
        for image in planning.preloaded(self._spec.labels):
            lacking = [
                seen
                for seen, has in zip(
                    self._seen(),
                    await asyncio.gather(*(self._apis.of(seen).has(image) for seen in self._seen())),
                    strict=True,
                )
                if not has
            ]
            if lacking:
                if not isinstance(self._host, Tars):
                    raise ClusterFailed(f"label {planning.PRELOAD}: this engine hands out no images")
                loads = [
                    (self._wish(seen), self._apis.of(seen).take(image, self._host.save(image))) for seen in lacking
                ]
                await self._each(loads)
                return f"loaded {image} into {_list(seen.name for seen in lacking)}"
        return None

    # Fewer nodes, other nodes

    async def _shrink(self) -> str | None:
        """Nodes that are too many leave: managers one at a time, others side by side."""
        surplus = self._plan.surplus
        managers = [seen for seen in surplus if any(m.name == seen.name and m.manager for m in self._members.values())]
        leaving = managers[:1] or list(surplus)
        if not leaving:
            return None
        members = [member for member in self._members.values() if member.name in {seen.name for seen in leaving}]
        if text := await self._drain(members):
            return text
        for member in members:
            if member.manager:
                await self._manager.change(member, Role="worker", Availability="drain")
                if await self._still_manages(member):
                    return await self._wait(f"node {member.name} hands over what a manager knows", leaving, after=0.2)
        await asyncio.gather(*(self._host.remove_node(seen.ref) for seen in leaving))
        await asyncio.gather(*(self._manager.forget(member) for member in members))
        return f"removed {_list(seen.name for seen in leaving)}"

    async def _still_manages(self, member: Member) -> bool:
        deadline = time.monotonic() + LOOK
        while any(one.id == member.id and one.manager for one in await self._manager.members()):
            if time.monotonic() > deadline:
                return True
            await asyncio.sleep(PAUSE)
        return False

    async def _replace(self) -> str | None:
        """Nodes of another image or with other certificates are made anew around their volumes, so many at a time."""
        old = [wish for wish in self._plan.wishes if planning.outdated(self._spec, wish)]
        if not old:
            return None
        group = old[0].group
        batch = [wish for wish in old if wish.group == group][: 1 if group.role == MASTER else max(group.batch, 1)]
        members = [member for wish in batch if (member := self._member(wish)) is not None]
        await self._pull({group.image})
        if text := await self._drain(members):
            return text
        for wish in batch:
            if wish.seen is not None:
                await self._host.remove_node(wish.seen.ref, keep_volumes=True)
        await self._each((wish, self._create(wish, wish.seen.address)) for wish in batch if wish.seen is not None)
        left = len(old) - len(batch)
        return (
            f"replaced {_list(wish.name for wish in batch)}, {left} more to come"
            if left
            else (f"replaced {_list(wish.name for wish in batch)}")
        )

    async def _drain(self, members: Sequence[Member]) -> str | None:
        """Let tasks move away, where there is another place for them; who takes too long is not waited for."""
        ids = {member.id for member in members}
        if not any(one.id not in ids and one.availability == "active" for one in self._members.values()):
            return None
        for member in members:
            if member.availability == "active":
                await self._manager.change(member, Availability="drain", Labels={**member.labels, DRAINED: "1"})
        names, loop = _list(member.name for member in members), asyncio.get_running_loop()
        deadline = loop.time() + LOOK
        ready = [member for member in members if member.state == "ready"]
        while sum(await asyncio.gather(*(self._manager.busy(member) for member in ready))):
            since = self._memo.setdefault("draining", {}).setdefault(names, time.time())
            if time.time() - since > DRAIN_SECONDS:
                break
            if loop.time() > deadline:
                return f"tasks leave {names}"
            await asyncio.sleep(PAUSE)
        self._memo.pop("draining", None)
        return None

    # How it works

    def _seen(self) -> list[NodeSeen]:
        """The nodes that there should be and are."""
        return [wish.seen for wish in self._plan.wishes if wish.seen is not None]

    def _wish(self, seen: NodeSeen) -> Wish:
        return next(wish for wish in self._plan.wishes if wish.name == seen.name)

    def _member(self, wish: Wish) -> Member | None:
        return self._members.get(self._selves[wish.name].id)

    def _managers(self) -> list[NodeSeen]:
        """Those whose engines can answer for the swarm."""
        return [seen for seen in self._seen() if (said := self._selves[seen.name]).state == "active" and said.manager]

    @property
    def _manager(self) -> Api:
        """Raises NodeError when nobody can answer for the swarm any more."""
        for seen in self._managers():
            return self._apis.of(seen)
        raise NodeError(self._seen()[0], Unavailable("its part of the swarm is not active"))

    async def _each(self, work: Iterable[tuple[Wish, Awaitable[Any]]]) -> None:
        """Side by side. What goes wrong for good fails the cluster, with the reason of each group."""
        pairs = list(work)
        results = await asyncio.gather(*(each for _, each in pairs), return_exceptions=True)
        faults: dict[Any, str] = {}
        for (wish, _), result in zip(pairs, results, strict=True):
            if isinstance(result, NodeError | Unavailable) or (
                isinstance(result, BaseException) and not isinstance(result, EngineError)
            ):
                raise result
            if isinstance(result, EngineError):
                log = "" if wish.seen is None else await self._host.node_log(wish.seen.ref, LOG_LINES)
                faults.setdefault(wish.group.uuid, _with_log(f"node {wish.name}: {result.title}", log))
        if faults:
            raise ClusterFailed("; ".join(faults.values()), faults)

    async def _wait(self, text: str, nodes: Sequence[NodeSeen], *, after: float = 0.5) -> str:
        """Come back later for this. Raises ClusterFailed when that has been so for too long."""
        key = nodes[0].name if nodes else text
        waiting = self._memo.get("waiting")
        if waiting is None or waiting[0] != key:
            waiting = self._memo["waiting"] = [key, time.time()]
        if time.time() - waiting[1] > PATIENCE:
            raise await self._failure(f"{text} (for {PATIENCE:g} seconds)", nodes)
        self._memo["after"] = after
        return text

    async def _failure(self, text: str, nodes: Sequence[NodeSeen]) -> ClusterFailed:
        faults = {node.group: _with_log(text, await self._host.node_log(node.ref, LOG_LINES)) for node in nodes}
        return ClusterFailed(next(iter(faults.values()), text), faults)


def why_stopped(seen: NodeSeen) -> str:
    """Why a node's container does not run; nothing when it does."""
    if seen.state is State.RUNNING:
        return ""
    memory = ", out of memory" if seen.oom_killed else ""
    return f"its container is {seen.state} (exit code {seen.exit_code}{memory}) {seen.error}".strip()


def not_ready(manager: bool, member: Member | None, itself: Self | None) -> str:
    """Why a node is not ready; nothing when it is. `itself` is None when it was not asked."""
    if itself is not None and itself.state != "active":
        return f"its part of the swarm is {itself.state} {itself.error}".strip()
    if member is None:
        return "it is no member of the swarm"
    if member.state != "ready":
        return f"{member.state} {member.message}".strip()
    if manager and not member.reachable:
        return "the other managers do not reach it"
    return ""


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _with_log(text: str, log: str) -> str:
    return f"{text}; its log ends: {log}" if log else text

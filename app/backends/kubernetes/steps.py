"""The steps of a cluster of Kubernetes, in order: each does one missing thing and says so, or finds nothing to do."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.backends.driver import ClusterFailed, Progress
from app.backends.engine import State
from app.backends.kubernetes import addons, files, k3s, plan
from app.backends.kubernetes.api import Api, ApiDown, Document, condition
from app.backends.kubernetes.trust import Trust, stages
from app.backends.kubernetes.view import (
    FIRST_PUBLISHED,
    LAST_PUBLISHED,
    ROLE,
    TRUST,
    View,
    Wish,
    is_publishing,
    node_spec,
)
from app.backends.nodes import NodeHost, NodeSeen
from app.errors import EngineError, Gone, Refused, Taken, Unavailable

SOON = 0.25
"""Seconds until something is looked at again that takes a few seconds."""

DRAIN_SECONDS = 90.0
"""How long a node waits for its pods to leave, before it goes without them."""

RESTARTS = 5
"""How often in a row a node may end by itself."""

DEATHS = 12
"""How often in a row a part of Kubernetes may end by itself, on one node, before the cluster is given up."""

OWN_IMAGES = "caisson/"
"""Images of these names are made on the host, and are in no registry."""

OWNED = "caisson/owned"
"""Annotation of a node: the labels and taints that its group gave it, which go when the group has them no more."""
DRAINED = "caisson/drained"
"""Annotation of a node that was cordoned here, not by its users."""


@dataclass(slots=True)
class Steps:
    """The steps of one look. `memo` is what is remembered until the next; `api` asks the cluster."""

    host: NodeHost
    view: View
    api: Api
    memo: dict[str, Any]
    _documents: dict[str, Document] = field(default_factory=dict)

    async def next(self) -> Progress:
        """Do the first thing that is missing."""
        steps: Sequence[Callable[[], Awaitable[Progress | None]]] = (
            self._make_missing,
            self._keep_running,
            self._serve,
            self._trust,
            self._mark,
            self._renew,
            self._release,
            self._settle,
            self._addons,
        )
        for step in steps:
            try:
                if progress := await step():
                    return progress
            except (ApiDown, Gone, Taken) as error:
                # The API is being started, or a node was stopped or removed since it was looked at.
                return self._go_on(error.title, 0.5)
        await self.host.drop_strays(self.view.spec.uuid)
        return Progress(True, f"{_count(len(self.view.nodes), 'node')} ready", memo=self.memo)

    async def mend(self) -> str:
        """Make nodes anew that are gone, with the volumes that they left; what was done. They join by themselves."""
        progress = await self._make_missing()
        return progress.text if progress else ""

    # Containers

    async def _make_missing(self) -> Progress | None:
        """Every node that is not there, side by side."""
        wishes = self.view.missing
        if not wishes:
            return None
        for wish in wishes:
            if not wish.address or not self.view.layout.has_room(wish.address):
                raise self._failed(wish.name, f"the cluster has no address left, of {self.view.layout.space}", wish)
            await self._have_image(wish)
        await asyncio.gather(*(self._make(wish) for wish in wishes))
        return self._go_on(f"{_names(wish.name for wish in wishes)}: started", SOON)

    async def _have_image(self, wish: Wish) -> None:
        image = plan.image_of(self.view.spec, wish.group)
        if await self.host.image(image) is not None:
            return
        if image.startswith(OWN_IMAGES):
            raise self._failed(
                wish.name, f"the image {image} is not there: scripts/node-image kubernetes makes it", wish
            )
        try:
            await self.host.pull(image, None)
        except Unavailable:
            raise
        except EngineError as error:
            raise self._failed(wish.name, f"the image {image} is not there: {error.title}", wish) from error

    async def _make(self, wish: Wish) -> None:
        """Make and start a node. Of the ports of the host for a published API, the first that is free is taken."""
        trusting = stages(self.view.layout.keys)[0]
        ports: Sequence[int | None] = [None]
        if is_publishing(self.view, wish):
            first = self.view.published or FIRST_PUBLISHED + self.view.spec.uuid.int % 9000
            ports = range(first, min(first + (1 if self.view.published else 50), LAST_PUBLISHED))
        for port in ports:
            try:
                # A dozen keys are made for it, which would keep everybody else waiting.
                spec = await asyncio.to_thread(node_spec, self.view, wish, trusting, port)
                made = await self.host.create_node(spec)
                await self.host.start_node(made.ref)
                return
            except Unavailable:
                raise
            except EngineError as error:
                if port is None or port == ports[-1] or "port" not in error.title:
                    raise self._failed(wish.name, error.title, wish) from error
                await self._forget(wish.name)
        raise self._failed(wish.name, "no port of the host is free to publish the API on", wish)

    async def _forget(self, name: str) -> None:
        for node in await self.host.nodes(self.view.spec.uuid):
            if node.name == name:
                await self.host.remove_node(node.ref)

    async def _keep_running(self) -> Progress | None:
        """Start what ended, or was never started; and give up on what does not stay."""
        down = [node for node in self.view.all if node.state != State.RUNNING]
        ended = [node for node in down if node.started_at is not None]
        # Whoever made a node that never ran may have been killed before its files were written: it is made once more.
        unborn = [node for node in down if node.started_at is None and node not in self.view.surplus]
        for node in ended:
            if self._ended(node) > RESTARTS:
                raise self._failed(node.name, await self._last_words(node))
        for node in ended:
            if node.state == State.EXITED:
                try:
                    await self.host.start_node(node.ref)
                except (Refused, Taken) as error:
                    raise self._failed(node.name, error.title) from error
        await asyncio.gather(*(self._make(self.view.wish_of(node)) for node in unborn))
        if names := [node.name for node in (*ended, *unborn)]:
            return self._go_on(f"{_names(names)}: started again", 1.0)
        return None

    def _ended(self, node: NodeSeen) -> int:
        """How often this node has ended, as far as it was seen: once for each of its starts."""
        starts: list[str] = self.memo.setdefault("ends", {}).setdefault(node.name, [])
        if (start := str(node.started_at)) not in starts:
            starts.append(start)
        return len(starts)

    # The API

    async def _serve(self) -> Progress | None:
        """Wait until the API and every control plane's part in it answer."""
        layout = self.view.layout
        asked = {"api": self.view.server}
        if len(layout.masters) > 1 and layout.outside is None:
            asked = {name: f"https://{address}:{layout.port}" for name, address in layout.masters.items()} | asked
        answers = dict(
            zip(asked, await asyncio.gather(*(self.api.ready(server) for server in asked.values())), strict=True)
        )
        wrong = {name: answer for name, answer in answers.items() if answer != "ok"}
        if not wrong:
            self.memo.pop("serve", None)
            return None
        since = self.memo.setdefault("serve", time.time())
        if time.time() - since > 15:
            for node in self.view.masters:
                await self._check_deaths(node)
        return self._go_on("; ".join(f"{name}: {answer}" for name, answer in wrong.items()), SOON)

    async def _check_deaths(self, node: NodeSeen) -> None:
        """Raise ClusterFailed when a part of Kubernetes ends on this node again and again."""
        words = await self.host.node_log(node.ref, 40)
        counts = [int(number) for number in re.findall(r" ended with \d+, (\d+) times in a row", words)]
        if counts and max(counts) >= DEATHS:
            raise self._failed(node.name, words)

    # Certificates

    async def _trust(self) -> Progress | None:
        """Take every node through the stages of trust: none goes on before all have come as far."""
        keys = self.view.layout.keys
        line = stages(keys)
        if any(group.profile == k3s.PROFILE for group in self.view.spec.groups):
            if keys.previous is not None:
                raise ClusterFailed("nodes of profile k3s keep the authority that they were made with")
            return None
        states = [trusting.state for trusting in line]
        nodes = self.view.nodes
        has = dict(zip([node.name for node in nodes], await asyncio.gather(*map(self._state, nodes)), strict=True))
        for number, trusting in enumerate(line):
            late = [node for node in nodes if has[node.name] not in states[number:]]
            if not late:
                continue
            masters = [node for node in late if node.labels.get(ROLE) == "master"]
            # Control planes one by one, so that the API of several is always there.
            turn = masters[:1] or late
            await asyncio.gather(*(self._change_trust(node, trusting) for node in turn))
            self.memo.setdefault("trust", {}).update({node.name: trusting.state for node in turn})
            return self._go_on(f"{_names(node.name for node in turn)}: new certificates", SOON)
        return None

    async def _state(self, node: NodeSeen) -> str:
        """The trust that a node has: as it was made with, when that is the last, else as its file says."""
        wanted = stages(self.view.layout.keys)[-1].state
        known = self.memo.get("trust", {}).get(node.name)
        if wanted in (known, node.labels.get(TRUST)):
            return wanted
        said = await self.host.run_in_node(node.ref, ["cat", files.STATE])
        return said.output.decode(errors="replace").strip()

    async def _change_trust(self, node: NodeSeen, trusting: Trust) -> None:
        master = node.labels.get(ROLE) == "master"
        changed = await asyncio.to_thread(
            files.trust_files, self.view.layout, node.name, node.address, trusting, master=master
        )
        await self.host.put_files(node.ref, changed)
        services = files.RESTARTED_MASTER if master else files.RESTARTED
        done = await self.host.run_in_node(node.ref, ["node-init", "restart", *services])
        if done.exit_code:
            raise Unavailable(f"{node.name}: {done.output.decode(errors='replace').strip()}")

    # Nodes as the API shows them

    async def _mark(self) -> Progress | None:
        """Give nodes the labels and taints of their groups, and forget those that the engine has no longer."""
        self._documents = await self.api.nodes()
        here = {node.name for node in self.view.nodes} | {wish.name for wish in self.view.missing}
        for name in self._documents.keys() - here:
            await self.api.delete_node(name)
        marked = []
        for node in self.view.staying:
            document = self._documents.get(node.name)
            if document is not None and (patch := marks(self.view, node, document)):
                # The cluster changes taints as well, and a list is written as a whole: on what was read, or not at all.
                patch["metadata"]["resourceVersion"] = document["metadata"]["resourceVersion"]
                with contextlib.suppress(Taken):
                    await self.api.patch_node(node.name, patch)
                marked.append(node.name)
        return self._go_on(f"{_names(marked)}: labels and taints") if marked else None

    async def _renew(self) -> Progress | None:
        """Make nodes anew that are of an old image or size: control planes first, then each group by its batch."""
        balancer = self.view.balancer
        if balancer is not None and self.view.is_outdated(balancer):
            wish = Wish(self.view.spec.groups[0], balancer.name, balancer.address, "balancer")
            return await self._replace(balancer, wish)
        masters = [node for node in self.view.staying if node.labels.get(ROLE) == "master"]
        if old := [node for node in masters if self.view.is_outdated(node)]:
            if waiting := await self._unready([node for node in masters if node not in old]):
                return self._go_on(waiting, SOON)
            return await self._replace(old[0], self.view.wish_of(old[0]))
        for group in self.view.spec.groups[1:]:
            nodes = [node for node in self.view.staying if self.view.groups[node.name] is group]
            old = [node for node in nodes if self.view.is_outdated(node)]
            if not old:
                continue
            if waiting := await self._unready([*masters, *(node for node in nodes if node not in old)]):
                return self._go_on(waiting, SOON)
            turn = old[: max(1, group.batch)]
            if waiting := await self._drain(turn):
                return self._go_on(waiting, 0.5)
            await asyncio.gather(*(self._replace(node, self.view.wish_of(node)) for node in turn))
            return self._go_on(f"{_names(node.name for node in turn)}: made anew", SOON)
        return None

    async def _replace(self, node: NodeSeen, wish: Wish) -> Progress:
        """A new container in the place of an old one. Its address is remembered first: a kill may come in between."""
        addresses: dict[str, str] = self.memo.setdefault("addresses", {})
        if node.name not in addresses:
            addresses[node.name] = node.address
            await self._have_image(wish)
            if wish.role != "worker":
                return self._go_on(f"{node.name}: will be made anew")
        await self.host.remove_node(node.ref, keep_volumes=True)
        await self._make(wish)
        return self._go_on(f"{node.name}: made anew", SOON)

    async def _release(self) -> Progress | None:
        """Let nodes go that are too many, after their pods have left."""
        surplus = self.view.surplus
        if not surplus:
            return None
        if lost := [node.name for node in surplus if node.labels.get(ROLE) == "master"]:
            raise ClusterFailed(f"the number of control planes does not change: {_names(lost)} would have to go")
        if waiting := await self._drain(surplus):
            return self._go_on(waiting, 0.5)
        for node in surplus:
            await self.api.delete_node(node.name)
        await asyncio.gather(*(self.host.remove_node(node.ref) for node in surplus))
        return self._go_on(f"{_names(node.name for node in surplus)}: removed")

    async def _drain(self, nodes: Sequence[NodeSeen]) -> str:
        """Cordon nodes and ask their pods to leave; what is still waited for, "" when they may go."""
        version = plan.dialect(plan.image_of(self.view.spec, self.view.spec.groups[0])).eviction
        began: dict[str, float] = self.memo.setdefault("drains", {})
        waiting = []
        for node in nodes:
            document = self._documents.get(node.name)
            if document is None or node.state != State.RUNNING or not condition(document)[0]:
                continue  # nobody is there to see its pods off
            since = began.setdefault(node.name, time.time())
            if not document["spec"].get("unschedulable"):
                cordon = {"spec": {"unschedulable": True}, "metadata": {"annotations": {DRAINED: "true"}}}
                await self.api.patch_node(node.name, cordon)
            pods = await self.api.pods_on(node.name)
            if not pods or time.time() - since > DRAIN_SECONDS:
                continue
            words = [word for word in await asyncio.gather(*(self.api.evict(pod, version) for pod in pods)) if word]
            first = pods[0]["metadata"]
            text = f"{node.name}: {_count(len(pods), 'pod')} still there, as {first['namespace']}/{first['name']}"
            waiting.append(f"{text} ({words[0]})" if words else text)
        return "; ".join(waiting)

    async def _settle(self) -> Progress | None:
        """Wait for every node to be ready, and let those take pods again that were drained to be made anew."""
        waiting = await self._unready(self.view.staying) or await self._unreached(self.view.staying)
        if waiting:
            if time.time() - self.memo.setdefault("settle", time.time()) > 15:
                for node in self.view.staying:
                    await self._check_deaths(node)
            return self._go_on(waiting, SOON)
        self.memo.pop("settle", None)
        return None

    async def _unready(self, nodes: Sequence[NodeSeen]) -> str:
        """What these nodes still lack, "" for nothing. One that is ready and was drained here takes pods again."""
        waiting = []
        for node in nodes:
            document = self._documents.get(node.name)
            if reason := why_not_ready(document, node.started_at):
                waiting.append(f"{node.name}: {reason}")
                continue
            for memory in ("addresses", "drains"):
                self.memo.get(memory, {}).pop(node.name, None)
            if document is not None and DRAINED in document["metadata"].get("annotations", {}):
                patch = {"spec": {"unschedulable": None}, "metadata": {"annotations": {DRAINED: None}}}
                await self.api.patch_node(node.name, patch)
        return "; ".join(waiting)

    async def _unreached(self, nodes: Sequence[NodeSeen]) -> str:
        """Which nodes the API server does not reach, "" for none."""
        answers = await asyncio.gather(*(self.api.kubelet(node.name) for node in nodes))
        return "; ".join(
            f"{node.name}: {answer}" for node, answer in zip(nodes, answers, strict=True) if answer != "ok"
        )

    async def _addons(self) -> Progress | None:
        """What runs in the cluster for its users."""
        if self.memo.get("addons"):
            return None
        self.memo["addons"] = True
        for path, document in addons.objects(self.view.layout):
            await self.api.apply(path, document)
        return None

    # Words

    def _go_on(self, text: str, after: float = 0.0) -> Progress:
        return Progress(False, text, after, self.memo)

    async def _last_words(self, node: NodeSeen) -> str:
        killed = ", killed for lack of memory" if node.oom_killed else ""
        said = node.error or f"ended with {node.exit_code}{killed}"
        return f"{said}\n{await self.host.node_log(node.ref)}".strip()

    def _failed(self, name: str, words: str, wish: Wish | None = None) -> ClusterFailed:
        group = wish.group if wish else self.view.groups.get(name, self.view.spec.groups[0])
        return ClusterFailed(f"{name}: {words}", {group.uuid: words})


def why_not_ready(document: Document | None, started_at: datetime | None) -> str:
    """Why a node is not ready, "" when it is; what it said before its last start does not count."""
    if document is None:
        return "it has not joined yet"
    ready, words, at = condition(document)
    if not ready:
        return words
    if at is None or (started_at is not None and at < started_at.replace(microsecond=0)):
        return "it has not said how it is since its start"
    return ""


def marks(view: View, node: NodeSeen, document: Document) -> dict[str, Any]:
    """What to change in a node's labels and taints so that they are as its group says; {} for nothing.

    What users gave it stays, and so do the taints by which Kubernetes says how it is.
    """
    group, spec = view.groups[node.name], view.spec
    master = node.labels.get(ROLE) == "master"
    labels = dict(group.node_labels) | {"magnum.openstack.org/role": group.role}
    if re.fullmatch(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", group.name, re.ASCII):
        labels["magnum.openstack.org/nodegroup"] = group.name
    if master:
        labels |= dict.fromkeys(plan.dialect(plan.image_of(spec, group)).master_labels, "")
    taints = files.wanted_taints(spec, group, master=master)
    wanted = json.dumps({"labels": sorted(labels), "taints": [[taint["key"], taint["effect"]] for taint in taints]})
    meta, here = document["metadata"], document["spec"].get("taints") or []
    owned = json.loads(meta.get("annotations", {}).get(OWNED, '{"labels": [], "taints": []}'))
    ours = [*owned["taints"], *([taint["key"], taint["effect"]] for taint in taints)]
    others = [taint for taint in here if [taint["key"], taint["effect"]] not in ours]
    has = {name: value for name, value in meta.get("labels", {}).items() if name in labels}
    unwanted = [name for name in owned["labels"] if name not in labels and name in meta.get("labels", {})]
    kept = [taint for taint in here if taint not in others]
    if has == labels and not unwanted and _same(kept, taints) and meta.get("annotations", {}).get(OWNED) == wanted:
        return {}
    change: dict[str, Any] = {
        "metadata": {"labels": {**labels, **dict.fromkeys(unwanted)}, "annotations": {OWNED: wanted}},
        "spec": {"taints": [*others, *taints]},
    }
    if not document["spec"].get("podCIDR"):
        # Known to its network already; kubelet looks at itself again as soon as it sees this.
        pods = str(view.layout.ranges.of_node(plan.number_of(view.layout.network, node.address)))
        change["spec"] |= {"podCIDR": pods, "podCIDRs": [pods]}
    return change


def _same(one: Sequence[Mapping[str, str]], other: Sequence[Mapping[str, str]]) -> bool:
    def key(taint: Mapping[str, str]) -> tuple[str, str, str]:
        return taint["key"], taint["effect"], taint.get("value", "")

    return sorted(map(key, one)) == sorted(map(key, other))


def _names(names: Any) -> str:
    return ", ".join(names)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

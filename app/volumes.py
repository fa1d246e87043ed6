"""Volumes of a project, and what a container mounts: volumes by name, one of its own by size, and injected files.

A named volume stays until it is deleted; the engine makes it when a container first needs it. One that was asked for
by `size` goes with its container. An injected file is kept encrypted and written anew whenever its container is made.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import structlog
from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, archives, containers, lookup
from app.actions import Asked, Done, Job, Outcome, step
from app.backends.engine import Ability, ContainerEngine, Copies, Seen, State, Volumes
from app.db import EVERYTHING, Database, take_turn
from app.errors import Conflict, Invalid, NotFound, QuotaExceeded
from app.models import UNFINISHED, Action, Capsule, Container, InjectedFile, Volume, new_uuid
from app.settings import Settings
from app.vault import Vault

log = structlog.get_logger("caisson.volumes")

COLUMNS = {name: col(getattr(Volume, name)) for name in ("id", "uuid", "name", "size", "created_at", "updated_at")}
KERNEL = ("/proc", "/sys", "/dev")
WRITTEN_BY_ENGINES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Wished:
    """One mount of a request: a volume by `source`, a new one by `size` in GiB, or a file by its `content`."""

    destination: str
    source: str | None = None
    size: int | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """One volume of a capsule: one that is there by `source`, else a new one, of `size` GiB at most unless None.

    A new one that is `kept` stays when the capsule is deleted.
    """

    name: str
    source: str | None = None
    size: int | None = None
    kept: bool = False


async def find(session: AsyncSession, ident: str, *, own_project: str | None = None, lock: bool = False) -> Volume:
    """By uuid or name, in the session's scope; a name means one in `own_project`. Raises NotFound."""
    own = None if own_project is None else col(Volume.project_id) == own_project
    row: Volume = await lookup.find(session, Volume, ident, "volume", code="volume-not-found", named=own, lock=lock)
    return row


async def accept(session: AsyncSession, volume: Volume, engine: ContainerEngine, settings: Settings) -> None:
    """Store a named volume. Raises Conflict when its project has the name, QuotaExceeded, Unsupported, Invalid."""
    check_engine(engine)
    if volume.size is not None:
        _check_size(volume.size, engine, settings, "size")
    await _take(session, volume.project_id, 1, settings)
    same = select(Volume.uuid).where(Volume.name == volume.name, Volume.project_id == volume.project_id)
    if (await session.exec(same)).first() is not None:
        raise Conflict(f"A volume with name {volume.name} exists already.", code="volume-already-exists")
    volume.created_at = await actions.clock(session)
    session.add(volume)


async def remove(session: AsyncSession, asked: Asked, volume: Volume) -> None:
    """Delete a volume whose row this session holds, and submit its removal from the engine.

    Raises Conflict while a container mounts it.
    """
    using = select(Container).where(Container.project_id == volume.project_id, col(Container.mounts).is_not(None))
    for box in await session.exec(using):
        if any(mount.get("volume") == volume.uuid for mount in box.mounts or ()):
            raise Conflict(f"Volume {volume.name} is in use by container {box.uuid}.", code="volume-in-use")
    now = await actions.clock(session)
    actions.submit(session, asked, "volume", volume, "delete", volume.backend, now)
    await session.delete(volume)


@step("volume", "delete")
async def delete(job: Job) -> Outcome:
    """Remove it from the engine. Its row is gone: while an engine refuses, this is tried again."""
    await cast(Volumes, job.engine).remove_volume(UUID(job.action.resource_id))
    return Done()


async def sweep(engine: ContainerEngine, database: Database) -> None:
    """Remove volumes from the engine that have no row, and that the log says were deleted; others are reported."""
    if not isinstance(engine, Volumes) or not (held := {str(seen.uuid) for seen in await engine.volumes()}):
        return
    async with database.reading(EVERYTHING) as session:
        held -= set((await session.exec(select(Volume.uuid).where(col(Volume.uuid).in_(held)))).all())
        query = select(Action.resource_id).where(
            col(Action.resource_id).in_(held), Action.resource_kind == "volume", col(Action.state).not_in(UNFINISHED)
        )
        deleted = set((await session.exec(query)).all())
    for uuid in held:
        if uuid not in deleted:
            log.warning("volume without a row", volume=uuid, backend=engine.name)
            continue
        await engine.remove_volume(UUID(uuid))
        log.info("orphan removed", volume=uuid)


async def mount(
    session: AsyncSession, box: Container, wishes: Sequence[Wished], engine: ContainerEngine, settings: Settings,
    vault: Vault,
) -> None:  # fmt: skip
    """Let `box`, which is being stored, mount what was wished; its rows are stored with it.

    Raises Invalid, NotFound, Conflict or Unsupported, naming the mount.
    """
    mounts: list[dict[str, Any]] = []
    for number, wish in enumerate(wishes):
        path = destination(wish.destination)
        if path in [mount["destination"] for mount in mounts]:
            raise Invalid(f"mounts: {path} is the destination of two of them")
        if wish.content is not None:
            mounts.append({"type": "bind", "destination": path})
            await _keep_file(session, box, path, wish.content, engine, vault)
            continue
        check_engine(engine)
        if wish.source is not None:
            volume = await find(session, wish.source, own_project=box.project_id, lock=True)
            if volume.project_id != box.project_id or volume.container_id is not None:
                raise NotFound(f"Volume {wish.source} could not be found.", code="volume-not-found")
            if volume.backend != box.backend:
                raise Conflict(f"Volume {volume.name} is on the engine {volume.backend!r}, not on {box.backend!r}.")
        else:
            _check_size(wish.size or 0, engine, settings, f"mounts[{number}].size")
            volume = _own(box, wish.size or 0)
            volume.created_at = await actions.clock(session)
            session.add(volume)
        mounts.append({"type": "volume", "volume": volume.uuid, "destination": path})
    box.mounts = mounts or None


def destination(path: str, field: str = "mounts: destination") -> str:
    """Where something is mounted, in its plainest spelling. Raises Invalid naming `field`."""
    plain = posixpath.normpath(path)
    if not path.startswith("/") or path.startswith("//") or ".." in path.split("/"):
        raise Invalid(f"{field} {path[:255]!r} must be an absolute path without ..")
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > 255 for part in path.split("/")):
        raise Invalid(f"{field}: a path has at most {LONGEST_PATH} bytes, each of its parts 255")
    if plain == "/" or any(plain == top or plain.startswith(f"{top}/") for top in KERNEL):
        raise Invalid(f"{field} {path[:255]!r} belongs to the system; use a folder of your own")
    if not path.isprintable():
        raise Invalid(f"{field} must be printable text")
    return plain


def is_injected(box: Container) -> bool:
    """Whether files are written into a container after it was made."""
    return any(mount["type"] == "bind" for mount in box.mounts or ())


async def prepare(job: Job, box: Container) -> None:
    """Make sure that the engine has the volumes of a container that is about to be made."""
    uuids = [str(mount.volume) for mount in containers.volumes_of(box)]
    if not uuids:
        return
    async with job.database.reading(job.scope) as session:
        rows = (await session.exec(select(Volume).where(col(Volume.uuid).in_(uuids)))).all()
    if missing := set(uuids) - {row.uuid for row in rows}:
        raise NotFound(f"Volume {missing.pop()} could not be found.", code="volume-not-found")
    for row in rows:
        await cast(Volumes, job.engine).create_volume(UUID(row.uuid), row.project_id, row.size)


async def inject(job: Job, box: Container, seen: Seen) -> None:
    """Write a container's files into it, unless it has been started already."""
    if seen.state != State.CREATED or not is_injected(box):
        return
    async with job.database.reading(job.scope) as session:
        files = (await session.exec(select(InjectedFile).where(InjectedFile.container_id == box.uuid))).all()
    for file in files:
        content = archives.decoded(job.vault.open(file.content), "content")
        tar = archives.one_file(file.destination, content)
        await cast(Copies, job.engine).put_archive(seen.ref, "/", tar)


async def share(session: AsyncSession, capsule: Capsule, wishes: Sequence[Shared], engine: ContainerEngine,
                settings: Settings) -> dict[str, str]:  # fmt: skip
    """The volumes of a capsule that is being stored, by the names of its template: their uuids.

    Raises Invalid, NotFound, Conflict or Unsupported, naming the volume, or QuotaExceeded.
    """
    found: dict[str, str] = {}
    await _take(session, capsule.project_id, sum(wish.kept for wish in wishes), settings)
    for wish in wishes:
        check_engine(engine)
        if wish.source is not None:
            volume = await find(session, wish.source, own_project=capsule.project_id, lock=True)
            if volume.project_id != capsule.project_id or volume.container_id is not None:
                raise NotFound(f"Volume {wish.source} could not be found.", code="volume-not-found")
            if volume.backend != capsule.backend:
                raise Conflict(f"Volume {volume.name} is on the engine {volume.backend!r}, not on {capsule.backend!r}.")
        else:
            if wish.size is not None:
                _check_size(wish.size, engine, settings, f"spec.volumes: {wish.name}: size")
            volume = _own(capsule, wish.size)
            if wish.kept:  # a volume of the project, as if it had been made before
                volume.container_id, volume.name = None, f"{capsule.name[:150]}-{wish.name[:90]}-{volume.uuid[:8]}"
            volume.created_at = await actions.clock(session)
            session.add(volume)
        found[wish.name] = volume.uuid
    return found


async def release(job: Job, box: Container | Capsule) -> None:
    """What goes with a container or a capsule that the engine no longer has: its own volumes and its files."""
    if not (box.volumes if isinstance(box, Capsule) else box.mounts):
        return
    async with job.database.reading(job.scope) as session:
        own = (await session.exec(select(Volume).where(Volume.container_id == box.uuid))).all()
    for volume in own:
        await cast(Volumes, job.engine).remove_volume(UUID(volume.uuid))
    async with job.database.transaction(job.scope) as session:
        if not await actions.holds(session, job):
            return
        for volume in await session.exec(select(Volume).where(Volume.container_id == box.uuid)):
            await session.delete(volume)
        for file in await session.exec(select(InjectedFile).where(InjectedFile.container_id == box.uuid)):
            await session.delete(file)


async def _keep_file(
    session: AsyncSession, box: Container, path: str, content: bytes, engine: ContainerEngine, vault: Vault
) -> None:
    containers.check_ability(engine, Ability.INJECT, "write files into new containers", "put them into the image")
    if path in WRITTEN_BY_ENGINES:
        raise Invalid(f"mounts: {path} is written by the engine")
    sealed = vault.seal(archives.encoded(content))
    session.add(InjectedFile(project_id=box.project_id, container_id=box.uuid, destination=path, content=sealed))


async def _take(session: AsyncSession, project_id: str, count: int, settings: Settings) -> None:
    """Let the project have `count` more named volumes, or raise QuotaExceeded; others of it wait here for the commit.

    Zun's quotas know no volumes, and their answers keep that shape: this limit is the installation's.
    """
    if count == 0:
        return
    await take_turn(session, f"volumes of {project_id}")
    query = select(func.count(col(Volume.id))).where(
        Volume.project_id == project_id, col(Volume.container_id).is_(None)
    )
    there, limit = (await session.exec(query)).one(), settings.maximum_volumes
    if there + count > limit:
        raise QuotaExceeded(
            f"Quota exceeded for resources: volumes (limit {limit}, in use {there}, requested {count}); "
            "delete one that is no longer needed"
        )


def _own(box: Container | Capsule, size: int | None) -> Volume:
    uuid = new_uuid()
    return Volume(
        uuid=uuid,
        project_id=box.project_id,
        user_id=box.user_id,
        name=uuid,
        size=size,
        backend=box.backend,
        container_id=box.uuid,
        created_at=0.0,
    )


def check_engine(engine: ContainerEngine) -> None:
    """Raises Unsupported when the engine keeps no volumes."""
    containers.check_ability(engine, Ability.VOLUMES, "keep volumes", "leave `mounts` out")


def _check_size(size: int, engine: ContainerEngine, settings: Settings, field: str) -> None:
    instead = "make a volume without a size (POST /v1/volumes) and mount it by its name"
    containers.check_ability(engine, Ability.VOLUME_SIZE, "limit a volume's size", instead)
    if not settings.minimum_disk <= size <= settings.maximum_disk:
        limits = f"from {settings.minimum_disk} to {settings.maximum_disk} GiB"
        raise Invalid(
            f"Invalid input for field '{field}'. Value: '{size}'. It must be {limits}.", code="schema-validation-error"
        )

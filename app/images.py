"""Images pulled to a host, private registries, and how an image reference is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import actions, lookup
from app.actions import Asked, Done, Failed, Job, Outcome, step
from app.backends.engine import RegistryLogin
from app.errors import Conflict, Invalid, NotFound
from app.models import Container, Image, Registry, Status
from app.settings import Settings
from app.vault import Vault

_REFERENCE = re.compile(
    r"(?:(?P<domain>(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/)?"
    r"(?P<path>[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)


OWN_DOMAIN = "caisson.invalid"
"""Commits bear names in it on their engine's host; no registry can have it."""

IMAGE_COLUMNS = {
    name: col(getattr(Image, name))
    for name in ("id", "uuid", "repo", "tag", "size", "host", "created_at", "updated_at")
}
REGISTRY_FILTERS = ("name", "domain", "username", "project_id", "user_id")
REGISTRY_COLUMNS = {
    name: col(getattr(Registry, name)) for name in ("id", "uuid", "created_at", "updated_at", *REGISTRY_FILTERS)
}


@dataclass(frozen=True, slots=True)
class Reference:
    """An image reference in Docker's grammar."""

    domain: str | None
    path: str
    tag: str | None
    digest: str | None

    @property
    def repo(self) -> str:
        """Everything before the tag."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def full(self) -> str:
        """The reference as an engine wants it: a digest wins over a tag, and without either the tag is latest."""
        if self.digest:
            return f"{self.repo}@{self.digest}"
        return f"{self.repo}:{self.tag or 'latest'}"


def parse(image: str, field: str = "image") -> Reference:
    """Read a reference. Raises Invalid naming `field`."""
    match = _REFERENCE.fullmatch(image)
    if match is None:
        raise Invalid(
            f"Invalid input for field '{field}'. Value: '{image[:255]}'. An image reference is "
            "[domain[:port]/]lower-case-name[:tag][@digest]",
            code="schema-validation-error",
        )
    if match["domain"] is None and match["path"] == "sha256":
        # To an engine that is an image's id: whoever knows one would run what another project may keep to itself.
        raise Invalid(f"{field}: an image is asked for by its name, not by its id", code="schema-validation-error")
    if (match["domain"] or "").partition(":")[0].lower() == OWN_DOMAIN:
        raise Invalid(f"{field}: names in {OWN_DOMAIN} are Caisson's own; ask for a commit by its name or uuid")
    return Reference(match["domain"], match["path"], match["tag"], match["digest"])


def commit_name(uuid: str) -> str:
    """What an engine calls the commit with this uuid.

    No name that somebody can ask for: projects share the engine's images, and neither may one project run another's
    commit, nor get it in place of a public image of the same name.
    """
    return f"{OWN_DOMAIN}/commit:{uuid}"


def cloud_name(image: str, digest: str) -> str:
    """What an engine calls an image of the image service. The digest tells its content: another one is another image.

    Nobody can ask for it by name either: who may run it is asked of the image service, for each container anew.
    """
    return f"{OWN_DOMAIN}/glance:{image}-{digest}"


def cloud_id(reference: str) -> str:
    """The image service's id in a `cloud_name`."""
    return reference.rpartition(":")[2][:36]


def engine_name(image: Image) -> str:
    """What the engine calls an image on its host."""
    return commit_name(image.uuid) if image.committed_from else parse(f"{image.repo}:{image.tag}").full


def reference(box: Container) -> str:
    """What the engine calls a container's image."""
    return box.image_ref or parse(box.image).full


async def use_commit(session: AsyncSession, box: Container) -> None:
    """Let `box` run a commit of its own project, when its image names one by name or uuid; the newest of the name.

    Raises Conflict while that is being made: the public image of the name is not what was asked for.
    """
    if box.image_driver == "glance":
        return
    box.image_ref = None
    asked_for = parse(box.image)
    if box.registry_id is not None or asked_for.digest:
        return
    named = (Image.uuid == box.image) | ((Image.repo == asked_for.repo) & (Image.tag == (asked_for.tag or "latest")))
    query = select(Image).where(
        named,
        Image.project_id == box.project_id,
        Image.backend == box.backend,
        col(Image.status).in_((Status.CREATING, Status.CREATED)),
        col(Image.committed_from).is_not(None),
    )
    if (found := (await session.exec(query.order_by(col(Image.id).desc()).limit(1))).first()) is None:
        return
    if found.status == Status.CREATING:
        raise Conflict(f"Image {box.image} is still being committed; ask again when the container's commit has ended.")
    box.image_ref = commit_name(found.uuid)


async def find_registry(session: AsyncSession, ident: str, *, own_project: str | None = None) -> Registry:
    """By uuid or name; in a session that sees all projects a name means the one in `own_project` first.

    Raises NotFound, or Conflict when the name is ambiguous.
    """
    row: Registry = await lookup.find(
        session, Registry, ident, "registry", code="registry-not-found", own_project=own_project
    )
    return row


async def use_registry(session: AsyncSession, box: Container, ident: str) -> None:
    """Let `box` pull with a registry's login, and from its domain when the image names none. Raises NotFound."""
    registry = await find_registry(session, ident)
    box.registry_id = registry.uuid
    if parse(box.image).domain is None:
        box.image = f"{registry.domain}/{box.image}"


async def remove_registry(session: AsyncSession, registry: Registry) -> None:
    """Delete it. Raises Conflict while a container refers to it."""
    using = await session.exec(select(Container.uuid).where(Container.registry_id == registry.uuid).limit(1))
    if (user := using.first()) is not None:
        raise Conflict(f"Registry {registry.uuid} is in use by container {user}.")
    await session.delete(registry)


def login(registry: Registry, vault: Vault) -> RegistryLogin | None:
    """The registry's credentials in clear, for one pull; None when it has none."""
    if registry.username is None:
        return None
    password = vault.open(registry.password) if registry.password else ""
    return RegistryLogin(registry.domain, registry.username, password)


async def accept_pull(session: AsyncSession, asked: Asked, image: Image, settings: Settings) -> None:
    """Store a wished image and the action that pulls it. Raises Conflict when the host has a row for it."""
    pulled = select(Image.uuid).where(col(Image.committed_from).is_(None))
    same = await session.exec(
        pulled.where(Image.repo == image.repo, Image.tag == image.tag, Image.host == image.host).limit(1)
    )
    if (found := same.first()) is not None:
        raise Conflict(
            f"Image {image.repo}:{image.tag} exists on host {image.host} already: {found}", code="image-already-exists"
        )
    image.created_at = now = await actions.clock(session)
    session.add(image)
    actions.submit(session, asked, "image", image, "pull", image.backend, now, deadline=now + settings.action_deadline)


async def accept_removal(session: AsyncSession, asked: Asked, image: Image, settings: Settings) -> None:
    """Submit the removal of an image, whose row this session holds, from its host."""
    now = await actions.clock(session)
    await actions.cancel_older(session, image.uuid, now)
    image.status = Status.DELETING
    actions.submit(
        session, asked, "image", image, "delete", image.backend, now, deadline=now + settings.action_deadline
    )


async def find_image(session: AsyncSession, uuid: str, *, lock: bool = False) -> Image:
    """By uuid. Raises NotFound."""
    query = select(Image).where(Image.uuid == uuid)
    row = (await session.exec(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFound(f"Image {uuid} could not be found.", code="image-not-found")
    return row


@step("image", "pull", doing="image_pulling", failed={"status": Status.ERROR})
async def pull(job: Job) -> Outcome:
    """Pull unless the engine holds it; an engine's refusal stays visible on the row."""
    image: Image = job.resource
    reference = parse(f"{image.repo}:{image.tag}").full
    await job.engine.pull(reference, None)
    seen = await job.engine.image(reference)
    if seen is None:
        return Failed(f"the engine pulled {reference} but does not show it")
    return Done({"image_id": seen.ref, "size": seen.size, "status": Status.CREATED, "status_reason": None})


@step("image", "delete", failed={"status": Status.ERROR})
async def delete(job: Job) -> Outcome:
    """Remove it from the host, then its row. An image in use stays, and says by what."""
    image: Image = job.resource
    if image.image_id is not None or image.committed_from is not None:
        await job.engine.remove_image(engine_name(image))
    return Done(remove=True)


def check_passwords(values: Sequence[str | None]) -> None:
    """Refuse what a registry login cannot carry."""
    for value in values:
        if value is not None and not value.isprintable():
            raise Invalid("registry: username and password must be printable text")

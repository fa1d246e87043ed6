"""Images of the cloud's image service, Glance: finding them as the caller, bringing them to an engine, keeping commits.

What a caller may see is asked with the caller's own token, while the request is there; that token is never stored. The
step that comes later fetches and uploads as Caisson's own user, whose role admin lets it read and fill every image.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID
from weakref import WeakValueDictionary

import httpx
import structlog
from sqlmodel import select

from app import images
from app.actions import Job
from app.backends.engine import Tars
from app.catalogue import Catalogue
from app.errors import Busy, Conflict, Forbidden, GatewayError, Invalid, NotFound, Unsupported
from app.models import Action, ActionState, Container

log = structlog.get_logger("caisson.glance")

SILENCE = 60.0
"""Seconds without a byte after which a transfer is given up."""

FORMAT = "docker"
DISK_FORMAT = "raw"
MOST_FOUND = 1000
DIGEST = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True, slots=True)
class CloudImage:
    """An image that can be run. `digest` tells its content; `shown` is all that Glance says of it."""

    id: str
    name: str
    digest: str
    shown: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Glance:
    """One image service. Every method raises Busy when it cannot be reached or is in trouble."""

    catalogue: Catalogue
    url: str

    async def find(self, ident: str, token: str) -> CloudImage:
        """The image that this caller means by an id or a name.

        Raises:
            NotFound: the caller sees none.
            Conflict: several have the name, or it has no content yet.
            Invalid: it is no container image.
        """
        found = await self.look_up(ident, token)
        if len(found) > 1:
            found = [image for image in found if image["container_format"] == FORMAT] or found
        if not found:
            raise NotFound(f"Image {ident} could not be found.", code="image-not-found")
        if len(found) > 1:
            raise Conflict(f"Multiple images exist with the name {ident}. Please use the image's id instead.")
        image = found[0]
        if image["container_format"] != FORMAT:
            raise Invalid(
                f"image: {ident} has the container format {image['container_format']}; only {FORMAT} can be run"
            )
        if image["status"] != "active":
            raise Conflict(f"Image {ident} is {image['status']}, not active yet.")
        digest = str(image.get("os_hash_value") or image.get("checksum") or "")
        if not DIGEST.fullmatch(digest):
            raise Conflict(f"Image {ident} has no checksum, so its content cannot be told.")
        return CloudImage(image["id"], image["name"], digest[:64], image)

    async def look_up(self, ident: str, token: str) -> list[dict[str, Any]]:
        """What this caller sees under an id or a name, of any kind."""
        if _is_uuid(ident):
            answer = await self._ask("GET", f"/v2/images/{ident.lower()}", token, fine=(404,))
            if answer.status_code == 200:
                return [answer.json()]
        answer = await self._ask("GET", "/v2/images", token, params={"name": f'in:"{_quoted(ident)}"'})
        return [image for image in answer.json()["images"] if image["name"] == ident]

    async def search(self, name: str, token: str, *, exact: bool) -> list[dict[str, Any]]:
        """The container images that this caller sees and whose name is `name`, or holds it."""
        query = {"container_format": FORMAT, "limit": "100", **({"name": f'in:"{_quoted(name)}"'} if exact else {})}
        found: list[dict[str, Any]] = []
        path, params = "/v2/images", query
        while len(found) < MOST_FOUND:
            answer = (await self._ask("GET", path, token, params=params)).json()
            found += [
                image for image in answer["images"] if name == image["name"] or (not exact and name in image["name"])
            ]
            if not answer.get("next"):
                break
            path, params = answer["next"], {}
        return found

    async def reserve(self, name: str, tags: list[str], token: str) -> str:
        """A record without content, which belongs to the caller; returns its id. Raises Forbidden, Invalid."""
        wish = {"name": name, "tags": tags, "container_format": FORMAT, "disk_format": DISK_FORMAT}
        answer = await self._ask("POST", "/v2/images", token, json=wish, fine=(400, 413))
        if answer.status_code != 201:
            raise Invalid(f"The image service does not accept the image: {_words(answer)}")
        return str(answer.json()["id"])

    async def status(self, image: str) -> str | None:
        """A record's status, None when it is gone; as Caisson's own user."""
        answer = await self._own("GET", f"/v2/images/{image}", fine=(404,))
        return None if answer.status_code == 404 else str(answer.json()["status"])

    async def forget(self, image: str) -> None:
        """Delete a record; absent is fine. As Caisson's own user."""
        await self._own("DELETE", f"/v2/images/{image}", fine=(404,))

    @asynccontextmanager
    async def content(self, image: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """An image's content, in pieces; as Caisson's own user. Raises NotFound."""
        token = await self.catalogue.own_token()
        for attempt in (1, 2):
            async with self._client(token) as http:
                try:
                    async with http.stream("GET", f"{self.url}/v2/images/{image}/file") as answer:
                        if answer.status_code == 401 and attempt == 1:
                            token = await self.catalogue.own_token(stale=token)
                            continue
                        if answer.status_code in (204, 404):
                            raise NotFound(f"Image {image} is gone from the image service.", code="image-not-found")
                        _check(answer)
                        yield _pieces(answer)
                        return
                except httpx.HTTPError as error:
                    raise _lost(error) from None

    async def fill(self, image: str, chunks: AsyncIterator[bytes]) -> None:
        """Give a record its content; as Caisson's own user. What `chunks` raises passes through.

        Raises:
            Conflict: it has content, or gets some at this moment.
            NotFound: the record is gone.
        """
        await self.status(image)  # so that a token that has ended is seen before the content is read
        headers = {"Content-Type": "application/octet-stream"}
        async with self._client(await self.catalogue.own_token()) as http:
            try:
                answer = await http.put(f"{self.url}/v2/images/{image}/file", content=chunks, headers=headers)
            except httpx.HTTPError as error:
                raise _lost(error) from None
        if answer.status_code == 404:
            raise NotFound(f"Image {image} is gone from the image service.", code="image-not-found")
        if answer.status_code == 409:
            raise Conflict(f"Image {image} cannot be filled: {_words(answer)}")
        if answer.status_code == 413:
            raise Invalid(f"The image service does not accept the image: {_words(answer)}")
        _check(answer)

    async def _own(self, method: str, path: str, *, fine: tuple[int, ...] = ()) -> httpx.Response:
        token = await self.catalogue.own_token()
        answer = await self._ask(method, path, token, fine=(401, *fine))
        if answer.status_code == 401:
            answer = await self._ask(method, path, await self.catalogue.own_token(stale=token), fine=fine)
        return answer

    async def _ask(
        self, method: str, path: str, token: str, *, fine: tuple[int, ...] = (), **options: Any
    ) -> httpx.Response:
        async with self._client(token) as http:
            try:
                answer = await http.request(method, f"{self.url}{path}", **options)
            except httpx.HTTPError as error:
                raise _lost(error) from None
        if answer.status_code not in fine:
            _check(answer)
        return answer

    def _client(self, token: str) -> httpx.AsyncClient:
        headers = {"X-Auth-Token": token, "User-Agent": "caisson"}
        return httpx.AsyncClient(verify=self.catalogue.trusted, timeout=SILENCE, headers=headers)


async def available(catalogue: Catalogue | None) -> Glance | None:
    """The image service of the catalogue, None without one. Raises Busy when the catalogue cannot be asked."""
    url = None if catalogue is None else await catalogue.endpoint("image")
    return None if catalogue is None or url is None else Glance(catalogue, url.removesuffix("/v2"))


async def connect(catalogue: Catalogue | None, field: str) -> Glance:
    """The image service of the catalogue. Raises Unsupported, naming the `field` that asks for it."""
    if (found := await available(catalogue)) is None:
        raise Unsupported(f"{field}: there is no image service (glance) in the catalogue; use the driver docker")
    return found


def use(box: Container, image: CloudImage) -> None:
    """Let `box` run an image that its owner has been found to see."""
    box.image_driver, box.image_ref = "glance", images.cloud_name(image.id, image.digest)


async def bring(job: Job, reference: str) -> None:
    """Let the engine hold an image of the image service, under the name `reference`.

    Raises NotFound when it is gone from there, Refused when it is no image that the engine can take.
    """
    service = await connect(job.catalogue, "image_driver")
    async with _bringing.setdefault((job.engine.name, reference), asyncio.Lock()):
        if await job.engine.image(reference) is not None:  # another container wanted it too
            return
        async with service.content(images.cloud_id(reference)) as chunks:
            await cast(Tars, job.engine).load(reference, chunks)


async def forget_cut_off(job: Job) -> None:
    """Remove what commits leave that a delete of their container cut off: empty records, copies on the engine's host.

    A record that got all its content stays.
    """
    async with job.database.reading(job.scope) as session:
        query = select(Action.args).where(
            Action.resource_id == job.resource.uuid, Action.verb == "commit", Action.state == ActionState.CANCELLED
        )
        records = [args["image"] for args in (await session.exec(query)).all() if args and args.get("cloud")]
    for record in records:
        service = await available(job.catalogue)
        if service is not None and await service.status(record) != "active":
            await service.forget(record)
        await job.engine.remove_image(images.commit_name(record))


_bringing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()


def _check(answer: httpx.Response) -> None:
    if answer.status_code < 300:
        return
    if answer.status_code in (401, 403):
        raise Forbidden("The image service does not allow this.")
    log.error("glance is in trouble", status=answer.status_code, url=str(answer.url))
    raise Busy("The image service cannot answer right now.")


def _lost(error: httpx.HTTPError) -> GatewayError:
    log.error("glance cannot be reached", error=repr(error))
    return Busy("The image service cannot be reached.")


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_bytes(1024 * 1024):
            yield piece
    except httpx.HTTPError as error:
        raise _lost(error) from None


def _words(answer: httpx.Response) -> str:
    """What Glance says in the page that it answers errors with."""
    return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())[:300]


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _is_uuid(ident: str) -> bool:
    try:
        return str(UUID(ident)) == ident.lower()
    except ValueError:
        return False

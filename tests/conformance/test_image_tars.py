"""Whole images as tars: out of an engine, into it, and what a hostile tar may not do."""

import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator

import pytest

from app.backends.engine import Ability, ImageSeen, Tars
from app.errors import Busy, Gone, Refused
from tests.conformance.place import Place
from tests.fake_images import archive, listing

pytestmark = pytest.mark.needs(Ability.IMAGE_TAR)


async def chunks(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def saved(place: Place, image: str) -> dict[str, bytes]:
    """The files of an image's tar."""
    assert isinstance(place.engine, Tars)
    content = b"".join([chunk async for chunk in place.engine.save(image)])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("zipped", [False, True])
async def test_an_image_goes_out_and_in_again_under_another_name(place: Place, path: str, zipped: bool) -> None:
    assert isinstance(place.engine, Tars)
    files = await saved(place, place.image)
    content = archive(files)
    for _ in range(2):
        await place.engine.load(path, chunks(gzip.compress(content) if zipped else content, 1000))
    there, taken = await place.engine.image(place.image), await place.engine.image(path)
    assert isinstance(there, ImageSeen)
    assert isinstance(taken, ImageSeen)
    assert (taken.ref, taken.command) == (there.ref, there.command)
    seen = await place.run("echo", "loaded", image=path)
    await place.engine.remove(seen.ref, force=True)
    await place.engine.remove_image(path)
    assert await place.engine.image(path) is None
    assert await place.engine.image(place.image) == there


async def test_a_name_without_a_tag_means_latest(place: Place, path: str) -> None:
    assert isinstance(place.engine, Tars)
    repository = path.partition(":")[0]
    await place.engine.load(repository, chunks(archive(await saved(place, place.image))))
    assert await place.engine.image(f"{repository}:latest") is not None
    await place.engine.remove_image(repository)
    assert await place.engine.image(repository) is None


async def test_names_in_a_tar_count_for_nothing(place: Place, path: str) -> None:
    assert isinstance(place.engine, Tars)
    files = await saved(place, place.image)
    (listed,) = json.loads(files["manifest.json"])
    stolen = path.replace("conformance", "stolen")
    files["manifest.json"] = json.dumps([{**listed, "RepoTags": [stolen]}]).encode()
    repository, _, tag = stolen.partition(":")
    files["repositories"] = json.dumps({repository: {tag: "0" * 64}}).encode()
    await place.engine.load(path, chunks(archive(files)))
    assert await place.engine.image(path) is not None
    assert await place.engine.image(stolen) is None
    await place.engine.remove_image(path)


async def test_what_is_no_image(place: Place, path: str) -> None:
    assert isinstance(place.engine, Tars)
    for content in (
        b"",
        b"no tar at all",
        bytes(1024),
        archive({"some.txt": b"x"}),
        archive({"manifest.json": b"not JSON"}),
        archive({"manifest.json": b"[]"}),
        archive({"manifest.json": json.dumps([{"Config": "a"}, {"Config": "b"}]).encode()}),
        archive({"manifest.json": listing("absent.json", path)}),
        archive(await saved(place, place.image)).rstrip(b"\0")[:-20],
    ):
        with pytest.raises(Refused):
            await place.engine.load(path, chunks(content))
        assert await place.engine.image(path) is None


async def test_a_source_that_fails_passes_through(place: Place, path: str) -> None:
    assert isinstance(place.engine, Tars)
    content = archive(await saved(place, place.image))

    async def broken() -> AsyncIterator[bytes]:
        yield content[:700]
        raise Busy("the source went away")

    with pytest.raises(Busy, match="went away"):
        await place.engine.load(path, broken())
    assert await place.engine.image(path) is None


async def test_saving_what_is_not_there(place: Place) -> None:
    assert isinstance(place.engine, Tars)
    with pytest.raises(Gone):
        async for _ in place.engine.save("conformance/no-such-image:1"):
            pass

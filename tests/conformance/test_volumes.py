"""Volumes: what a container writes there is there for the next."""

from uuid import UUID, uuid4

import pytest

from app.archives import one_file
from app.backends.engine import Ability, Copies, VolumeMount, Volumes, VolumeSeen
from app.errors import EngineError, Gone, Taken
from tests.conformance.place import Place

pytestmark = pytest.mark.needs(Ability.VOLUMES, Ability.COPY)


def volumes(place: Place) -> Volumes:
    assert isinstance(place.engine, Volumes)
    return place.engine


async def held(place: Place) -> list[VolumeSeen]:
    return [seen for seen in await volumes(place).volumes() if seen.project_id == place.project]


async def put(place: Place, ref: str, folder: str) -> None:
    assert isinstance(place.engine, Copies)
    await place.engine.put_archive(ref, folder, one_file("note", b"kept"))


async def has(place: Place, ref: str, path: str) -> bool:
    assert isinstance(place.engine, Copies)
    try:
        return (await place.engine.stat(ref, path)).size == len(b"kept")
    except Gone:
        return False


async def test_a_volume_outlives_its_containers(place: Place) -> None:
    volume = uuid4()
    for _ in range(2):
        await volumes(place).create_volume(volume, place.project, None)
    assert await held(place) == [VolumeSeen(volume, place.project)]
    mounts = (VolumeMount(volume, "/data"),)
    try:
        first = await place.run("sleep", "1000", mounts=mounts)
        await put(place, first.ref, "/data")
        await put(place, first.ref, "/tmp")
        with pytest.raises(Taken):
            await volumes(place).remove_volume(volume)
        await place.engine.remove(first.ref, force=True)
        second = await place.engine.create(uuid4(), place.spec(mounts=mounts))
        assert await has(place, second.ref, "/data/note")
        assert not await has(place, second.ref, "/tmp/note")
        with pytest.raises(Taken):
            await volumes(place).remove_volume(volume)
        await place.engine.remove(second.ref, force=True)
        assert await held(place) == [VolumeSeen(volume, place.project)]
    finally:
        await clear(place, volume)
    assert await held(place) == []


async def clear(place: Place, volume: UUID) -> None:
    for seen in await place.mine():
        await place.engine.remove(seen.ref, force=True)
    for _ in range(2):
        await volumes(place).remove_volume(volume)


async def test_a_volume_that_a_container_brought_along_is_ours(place: Place) -> None:
    """An engine may make what is missing: then with our labels, or it could never be found again."""
    volume = uuid4()
    await place.engine.create(uuid4(), place.spec(mounts=(VolumeMount(volume, "/data"),)))
    assert await held(place) == [VolumeSeen(volume, place.project)]
    await clear(place, volume)


async def test_a_size_is_kept_or_refused(place: Place) -> None:
    volume = uuid4()
    if Ability.VOLUME_SIZE in place.engine.abilities:
        await volumes(place).create_volume(volume, place.project, 1)
        assert await held(place) == [VolumeSeen(volume, place.project)]
        await volumes(place).remove_volume(volume)
    else:
        with pytest.raises(EngineError):
            await volumes(place).create_volume(volume, place.project, 1)
        await volumes(place).remove_volume(volume)
    assert await held(place) == []

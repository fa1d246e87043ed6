"""Limits in place, commits, and files in and out."""

import io
import tarfile
from secrets import token_hex
from uuid import uuid4

import pytest

from app.archives import one_file
from app.backends.engine import Ability, Commits, Copies, State
from app.errors import EngineError, Gone, Refused
from tests.conformance.place import Place

SLEEPER = ("sleep", "1000")


def copies(place: Place) -> Copies:
    assert isinstance(place.engine, Copies)
    return place.engine


async def content(place: Place, ref: str, path: str) -> bytes:
    """The file at `path`, taken out."""
    raw = b"".join([chunk async for chunk in copies(place).get_archive(ref, path)])
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        (member,) = tar.getmembers()
        assert member.name == path.rpartition("/")[2]
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


@pytest.mark.needs(Ability.COPY)
@pytest.mark.parametrize("state", [State.RUNNING, State.EXITED])
async def test_files_go_in_and_out(place: Place, state: State) -> None:
    await _in_and_out(place, state)


@pytest.mark.needs(Ability.COPY, Ability.INJECT, Ability.PAUSE)
@pytest.mark.parametrize("state", [State.CREATED, State.PAUSED])
async def test_files_go_in_and_out_of_what_has_not_started_or_is_frozen(place: Place, state: State) -> None:
    await _in_and_out(place, state)


async def _in_and_out(place: Place, state: State) -> None:
    uuid = uuid4()
    seen = await place.engine.create(uuid, place.spec(*SLEEPER))
    if state is not State.CREATED:
        await place.engine.start(seen.ref)
    if state is State.PAUSED:
        await place.engine.pause(seen.ref)  # type: ignore[attr-defined]  # every engine here can
    if state is State.EXITED:
        await place.engine.stop(seen.ref, 0)
    try:
        await copies(place).put_archive(seen.ref, "/tmp", one_file("note", b"content"))
        await copies(place).put_archive(seen.ref, "/", one_file("/etc/deep/er/note", b"deeper"))
        assert await content(place, seen.ref, "/tmp/note") == b"content"
        assert await content(place, seen.ref, "/etc/deep/er/note") == b"deeper"
        stat = await copies(place).stat(seen.ref, "/tmp/note")
        assert (stat.name, stat.size, stat.mode & 0o777, stat.link_target) == ("note", 7, 0o644, "")
        assert stat.mtime
        folder = await copies(place).stat(seen.ref, "/tmp")
        assert folder.mode & 1 << 31
        assert (await place.seen(uuid)).state is state
    finally:
        if state is State.PAUSED:
            await place.engine.unpause(seen.ref)  # type: ignore[attr-defined]


@pytest.mark.needs(Ability.COPY, Ability.INJECT)
async def test_paths_that_are_not_there(place: Place) -> None:
    seen = await place.engine.create(uuid4(), place.spec(*SLEEPER))
    await copies(place).put_archive(seen.ref, "/tmp", one_file("note", b"content"))
    with pytest.raises(Gone):
        await copies(place).stat(seen.ref, "/tmp/nothing")
    with pytest.raises(Gone):
        await content(place, seen.ref, "/tmp/nothing")
    with pytest.raises(Gone):
        await copies(place).put_archive(seen.ref, "/tmp/nothing", one_file("note", b""))
    with pytest.raises(Refused):
        await copies(place).put_archive(seen.ref, "/tmp/note", one_file("note", b""))


@pytest.mark.needs(Ability.COPY, Ability.COMMIT)
@pytest.mark.parametrize("ref", ["0" * 64, "../info"])
async def test_a_container_that_is_not_there(place: Place, ref: str) -> None:
    for call in (
        copies(place).stat(ref, "/"),
        content(place, ref, "/"),
        copies(place).put_archive(ref, "/", one_file("a", b"")),
        commits(place).commit(ref, name()),
    ):
        with pytest.raises(Gone):
            await call


def commits(place: Place) -> Commits:
    assert isinstance(place.engine, Commits)
    return place.engine


def name() -> str:
    return f"conformance.invalid/commit:{token_hex(6)}"


@pytest.mark.needs(Ability.COMMIT)
@pytest.mark.parametrize("running", [True, False])
async def test_a_commit_is_the_container_as_it_was(place: Place, running: bool) -> None:
    uuid, image = uuid4(), name()
    seen = await place.engine.create(uuid, place.spec(*SLEEPER, environment={"A": "b"}))
    await copies(place).put_archive(seen.ref, "/tmp", one_file("note", b"kept"))
    if running:
        await place.engine.start(seen.ref)
    try:
        made = await commits(place).commit(seen.ref, image)
        assert (await place.seen(uuid)).state is (State.RUNNING if running else State.CREATED)
        assert await place.engine.image(image) == made
        assert tuple(made.command) == SLEEPER
        copy = await place.engine.create(uuid4(), place.spec(image=image))
        assert await content(place, copy.ref, "/tmp/note") == b"kept"
        assert tuple(copy.command) == SLEEPER
        assert copy.uuid != uuid
        again = await commits(place).commit(seen.ref, image)
        assert await place.engine.image(image) == again
        await place.engine.remove(copy.ref, force=True)
    finally:
        await place.engine.remove_image(image)


@pytest.mark.needs(Ability.UPDATE)
async def test_limits_change_in_place(place: Place) -> None:
    seen = await place.run(*SLEEPER, cpu=0.5, memory=32)
    await place.engine.update(seen.ref, 1.0, 64)  # type: ignore[attr-defined]  # every engine here can
    with pytest.raises(EngineError):
        await place.engine.update(seen.ref, 1000.0, 64)  # type: ignore[attr-defined]
    assert (await place.seen(seen.uuid)).started_at == seen.started_at

"""Talking to what runs in a container: commands with input, terminals, attaching."""

import asyncio

import pytest

from app.backends.engine import Ability, Attaches, Execs, Pauses, Stream
from app.errors import Gone, Refused, Taken
from tests.conformance.place import Place, until

ABSENT = "0" * 64


async def heard(stream: Stream, wanted: bytes = b"") -> bytes:
    """All that comes until `wanted` is in it; without it, until the end."""
    found = b""
    async with asyncio.timeout(30):
        while not wanted or wanted not in found:
            chunk = await stream.read()
            if not chunk:
                break
            found += chunk
    assert wanted in found
    return found


@pytest.mark.needs(Ability.EXEC)
async def test_a_command_inside_whose_output_is_followed(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    exec_id = await place.engine.prepare_exec(seen.ref, ["sh", "-c", "echo one; echo two"], False)
    assert len(exec_id) == 64
    assert set(exec_id) <= set("0123456789abcdef")
    async with place.engine.open_exec(seen.ref, exec_id) as stream:
        await stream.write(b"nobody listens")
        assert await heard(stream) == b"one\ntwo\n"
        assert await stream.read() == b""


@pytest.mark.needs(Ability.EXEC)
async def test_a_command_inside_with_a_terminal(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    exec_id = await place.engine.prepare_exec(seen.ref, ["sh"], True)
    async with place.engine.open_exec(seen.ref, exec_id) as stream:
        # At once, as clients do.
        await place.engine.resize_exec(seen.ref, exec_id, 40, 120)
        await stream.write(b"stty size\n")
        await heard(stream, b"40 120\r\n")
        await place.engine.resize_exec(seen.ref, exec_id, 41, 121)
        await stream.write(b"stty size\n")
        await heard(stream, b"41 121\r\n")
        await stream.write(b"exit 3\n")
        await heard(stream)
    with pytest.raises(Taken):
        await place.engine.resize_exec(seen.ref, exec_id, 40, 120)


@pytest.mark.needs(Ability.EXEC)
async def test_a_terminal_speaks_utf_8(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    exec_id = await place.engine.prepare_exec(seen.ref, ["cat"], True)
    async with place.engine.open_exec(seen.ref, exec_id) as stream:
        await stream.write("Grüße, 世界\n".encode())
        # The terminal's echo, and cat's.
        while (found := await heard(stream, "世界\r\n".encode())).count("世界".encode()) < 2:
            found += await stream.read()
            break
        await stream.write(b"\x04")
        await heard(stream)


@pytest.mark.needs(Ability.EXEC)
async def test_an_exec_is_started_once_and_by_its_container_alone(place: Place) -> None:
    seen, other = await place.run("sleep", "1000"), await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    exec_id = await place.engine.prepare_exec(seen.ref, ["cat"], True)
    with pytest.raises(Gone):
        async with place.engine.open_exec(other.ref, exec_id):
            pass
    with pytest.raises(Gone):
        await place.engine.resize_exec(other.ref, exec_id, 24, 80)
    with pytest.raises(Gone):
        await place.engine.resize_exec(seen.ref, ABSENT, 24, 80)
    with pytest.raises(Gone):
        await place.engine.resize_exec(seen.ref, "../../info", 24, 80)
    with pytest.raises(Taken):
        await place.engine.resize_exec(seen.ref, exec_id, 24, 80)
    async with place.engine.open_exec(seen.ref, exec_id):
        with pytest.raises(Taken):
            async with place.engine.open_exec(seen.ref, exec_id):
                pass


@pytest.mark.needs(Ability.EXEC, Ability.PAUSE)
async def test_no_command_is_prepared_in_what_does_not_run(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    with pytest.raises(Refused):
        await place.engine.prepare_exec(seen.ref, [], True)
    exec_id = await place.engine.prepare_exec(seen.ref, ["cat"], True)
    assert isinstance(place.engine, Pauses)
    await place.engine.pause(seen.ref)
    with pytest.raises(Taken):
        await place.engine.prepare_exec(seen.ref, ["cat"], True)
    await place.engine.stop(seen.ref, 0)
    with pytest.raises(Taken):
        await place.engine.prepare_exec(seen.ref, ["cat"], True)
    with pytest.raises((Taken, Gone)):
        async with place.engine.open_exec(seen.ref, exec_id):
            pass
    with pytest.raises(Gone):
        await place.engine.prepare_exec(ABSENT, ["cat"], True)


@pytest.mark.needs(Ability.EXEC)
async def test_a_command_inside_ends_with_its_container(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    exec_id = await place.engine.prepare_exec(seen.ref, ["cat"], True)
    async with place.engine.open_exec(seen.ref, exec_id) as stream:
        reading = asyncio.create_task(heard(stream))
        await place.engine.stop(seen.ref, 0)
        assert await reading == b""


@pytest.mark.needs(Ability.EXEC)
async def test_hanging_up(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    engine = place.engine
    exec_id = await engine.prepare_exec(seen.ref, ["sleep", "999"], True)
    async with engine.open_exec(seen.ref, exec_id) as stream:
        await engine.hang_up(seen.ref, exec_id)
        assert await heard(stream) == b""

    async def ended() -> bool:
        try:
            await engine.resize_exec(seen.ref, exec_id, 24, 80)
        except Taken:
            return True
        return False

    await until(ended)
    await engine.hang_up(seen.ref, exec_id)


@pytest.mark.needs(Ability.ATTACH)
async def test_attaching_to_a_program_without_a_terminal(place: Place) -> None:
    seen = await place.run("cat", interactive=True)
    assert isinstance(place.engine, Attaches)
    async with place.engine.attach(seen.ref) as stream:
        await stream.write(b"one\n")
        assert await heard(stream, b"one\n") == b"one\n"
    # It runs on, and what it said is not said again.
    async with place.engine.attach(seen.ref) as stream:
        await stream.write(b"two\n")
        assert await heard(stream, b"two\n") == b"two\n"
        await place.engine.resize(seen.ref, 40, 120)
    assert await place.log(seen.ref) == b"one\ntwo\n"


@pytest.mark.needs(Ability.ATTACH)
async def test_attaching_to_a_terminal(place: Place) -> None:
    seen = await place.run("sh", interactive=True, tty=True)
    assert isinstance(place.engine, Attaches)
    async with place.engine.attach(seen.ref) as stream:
        await place.engine.resize(seen.ref, 40, 120)
        await stream.write(b"stty size\n")
        await heard(stream, b"40 120\r\n")
        await stream.write(b"exit\n")
        await heard(stream)
    await place.ended(seen.uuid)


@pytest.mark.needs(Ability.ATTACH)
async def test_attaching_ends_with_the_container(place: Place) -> None:
    seen = await place.run("cat", interactive=True, tty=True)
    assert isinstance(place.engine, Attaches)
    async with place.engine.attach(seen.ref) as stream:
        reading = asyncio.create_task(heard(stream))
        await place.engine.stop(seen.ref, 0)
        assert await reading == b""


@pytest.mark.needs(Ability.ATTACH)
async def test_two_are_attached_at_once(place: Place) -> None:
    seen = await place.run("cat", interactive=True)
    assert isinstance(place.engine, Attaches)
    async with place.engine.attach(seen.ref) as one, place.engine.attach(seen.ref) as two:
        await one.write(b"said\n")
        assert await heard(one, b"said\n") == await heard(two, b"said\n") == b"said\n"


@pytest.mark.needs(Ability.ATTACH, Ability.PAUSE)
async def test_nothing_is_attached_to_what_does_not_run(place: Place) -> None:
    seen = await place.run("cat", interactive=True, tty=True)
    assert isinstance(place.engine, Attaches)
    assert isinstance(place.engine, Pauses)
    await place.engine.pause(seen.ref)
    with pytest.raises(Taken):
        async with place.engine.attach(seen.ref):
            pass
    await place.engine.stop(seen.ref, 0)
    with pytest.raises(Taken):
        async with place.engine.attach(seen.ref):
            pass
    with pytest.raises(Taken):
        await place.engine.resize(seen.ref, 40, 120)
    with pytest.raises(Gone):
        async with place.engine.attach(ABSENT):
            pass
    with pytest.raises(Gone):
        await place.engine.resize(ABSENT, 40, 120)

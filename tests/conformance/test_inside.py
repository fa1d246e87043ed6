"""Logs, commands inside, measurements: what a container shows of its inside."""

import asyncio
from datetime import datetime

import pytest

from app.backends.engine import Ability, Execs, LogOptions, Measures, Pauses
from app.errors import Gone, Refused, Taken
from tests.conformance.place import Place, until

ABSENT = "0" * 64


async def test_the_log_of_a_command(place: Place) -> None:
    seen = await place.run("echo", "one", "two")
    await place.ended(seen.uuid)
    assert await place.log(seen.ref) == b"one two\n"
    assert await place.log(seen.ref, tail=0) == b""
    assert await place.log(seen.ref, tail=1) == b"one two\n"


@pytest.mark.needs(Ability.LOG_STREAMS)
async def test_output_and_errors_are_told_apart(place: Place) -> None:
    seen = await place.run("echo", "one", "two")
    await place.ended(seen.uuid)
    assert await place.log(seen.ref, stderr=False) == b"one two\n"
    assert await place.log(seen.ref, stdout=False) == b""


async def test_the_log_of_a_terminal(place: Place) -> None:
    seen = await place.run("echo", "one", tty=True)
    await place.ended(seen.uuid)
    assert (await place.log(seen.ref)).split() == [b"one"]


@pytest.mark.needs(Ability.LOG_STREAMS)
async def test_the_log_in_time(place: Place) -> None:
    seen = await place.run("echo", "first")
    ended = await place.ended(seen.uuid)
    await place.engine.start(seen.ref)

    async def wrote_again() -> bool:
        return await place.log(seen.ref) == b"first\nfirst\n"

    await until(wrote_again)
    assert ended.finished_at is not None
    since = ended.finished_at.timestamp()
    assert await place.log(seen.ref, since=since) == b"first\n"
    assert await place.log(seen.ref, since=since + 86400) == b""
    assert await place.log(seen.ref, since=0.0) == b"first\nfirst\n"
    assert await place.log(seen.ref, tail=1) == b"first\n"
    stamp, text = (await place.log(seen.ref, since=since, timestamps=True)).split(b" ")
    assert datetime.fromisoformat(stamp.decode()) >= ended.finished_at
    assert text == b"first\n"


async def test_a_log_without_any_stream(place: Place) -> None:
    seen = await place.run("echo", "one")
    with pytest.raises(Refused):
        await place.log(seen.ref, stdout=False, stderr=False)


async def test_following_a_log_until_the_end(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    following = asyncio.create_task(place.log(seen.ref, follow=True))
    await asyncio.sleep(0)
    assert not following.done()
    await place.engine.stop(seen.ref, 0)
    assert await asyncio.wait_for(following, 30) == b""


async def test_leaving_a_log_that_is_followed(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    log = place.engine.logs(seen.ref, LogOptions(follow=True))
    reader = asyncio.ensure_future(anext(log))
    await asyncio.sleep(0.05)
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    assert await place.log(seen.ref) == b""


@pytest.mark.needs(Ability.EXEC)
async def test_a_command_inside(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    done = await place.engine.execute(seen.ref, ["echo", "hello there"], 30)
    assert (done.output, done.exit_code) == (b"hello there\n", 0)
    assert (await place.engine.execute(seen.ref, ["false"], 30)).exit_code == 1


@pytest.mark.needs(Ability.EXEC)
async def test_an_unknown_command_inside(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    done = await place.engine.execute(seen.ref, ["no-such-command"], 30)
    assert done.exit_code in (126, 127)
    assert b"no-such-command" in done.output
    assert b"not found" in done.output


@pytest.mark.needs(Ability.EXEC, Ability.MEASURE)
async def test_a_command_inside_that_takes_too_long(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    with pytest.raises(Taken, match=r"0\.2 seconds"):
        await place.engine.execute(seen.ref, ["sh", "-c", "sleep 999; sleep 998"], 0.2)
    assert isinstance(place.engine, Measures)
    measures = place.engine

    async def alone() -> bool:
        return [process[-1] for process in (await measures.top(seen.ref, None)).processes] == ["sleep 1000"]

    # The engine is on this host: the command and what it started were killed.
    await until(alone)
    assert (await place.engine.execute(seen.ref, ["true"], 30)).exit_code == 0


@pytest.mark.needs(Ability.EXEC, Ability.PAUSE)
async def test_a_command_inside_of_what_does_not_run(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Execs)
    with pytest.raises(Refused):
        await place.engine.execute(seen.ref, [], 30)
    assert isinstance(place.engine, Pauses)
    await place.engine.pause(seen.ref)
    with pytest.raises(Taken):
        await place.engine.execute(seen.ref, ["true"], 30)
    await place.engine.stop(seen.ref, 0)
    with pytest.raises(Taken):
        await place.engine.execute(seen.ref, ["true"], 30)
    with pytest.raises(Gone):
        await place.engine.execute(ABSENT, ["true"], 30)


@pytest.mark.needs(Ability.MEASURE)
async def test_measuring(place: Place) -> None:
    seen = await place.run("sleep", "1000", memory=64)
    assert isinstance(place.engine, Measures)
    stats = await place.engine.stats(seen.ref)
    assert stats.cpu_percent >= 0
    assert 0 < stats.memory_used < stats.memory_limit == 64 * 1024 * 1024
    await place.engine.stop(seen.ref, 0)
    with pytest.raises(Taken):
        await place.engine.stats(seen.ref)
    with pytest.raises(Gone):
        await place.engine.stats(ABSENT)


@pytest.mark.needs(Ability.MEASURE)
async def test_processes(place: Place) -> None:
    seen = await place.run("sleep", "1000")
    assert isinstance(place.engine, Measures)
    top = await place.engine.top(seen.ref, None)
    assert "PID" in top.titles
    assert [process[-1] for process in top.processes] == ["sleep 1000"]
    assert all(len(process) == len(top.titles) for process in top.processes)
    with pytest.raises(Refused):
        await place.engine.top(seen.ref, "--no-such-option")
    await place.engine.stop(seen.ref, 0)
    with pytest.raises(Taken):
        await place.engine.top(seen.ref, None)
    with pytest.raises(Gone):
        await place.engine.top(ABSENT, None)

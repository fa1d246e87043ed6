"""Which host a container goes to, among two engines on one database."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app import actions, hosts
from app.backends import Engines
from app.backends.engine import Ability
from app.db import EVERYTHING, Database, Scope
from app.errors import NotFound
from app.hosts import Wish
from app.models import Container, Host
from app.settings import BackendSettings, Settings
from tests.api.caisson import BUSY
from tests.fake import CPUS, MEMORY, FakeEngine
from tests.stack.settable import Clock


class Site:
    """Two engines on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(url)
        backends = {"one": BackendSettings(), "two": BackendSettings(availability_zone="east")}
        self.settings = Settings(
            data_dir=folder, database_url=url, secret_key=SecretStr("key"), backends=backends, host_down_seconds=60
        )
        self.fakes = {"one": FakeEngine("one"), "two": FakeEngine("two", frozenset({Ability.KILL}))}
        self.engines = Engines(self.fakes)

    async def report(self) -> None:
        for name in await self.engines.ping():
            await hosts.report(self.database, self.engines, self.settings, name)
        self.engines.tried = True

    def restart(self, *, tried: bool) -> None:
        """Another replica, which no engine has answered."""
        self.engines = Engines(self.fakes)
        self.engines.tried = tried

    async def place(self, **wish: Any) -> hosts.Place:
        async with self.database.reading(Scope("alpha")) as session:
            return await hosts.place(session, self.engines, self.settings, Wish(**wish))

    async def change(self, backend: str, **columns: Any) -> None:
        async with self.database.transaction(EVERYTHING) as session:
            for row in await hosts.services(session):
                if row.backend == backend:
                    for name, value in columns.items():
                        setattr(row, name, value)

    async def put(self, backend: str, **columns: Any) -> None:
        row: dict[str, Any] = {
            "project_id": "other", "user_id": "u", "name": "x", "image": BUSY, "backend": backend, "created_at": 1.0,
        }  # fmt: skip
        async with self.database.transaction(EVERYTHING) as session:
            session.add(Container(**row, **columns))

    async def rows(self) -> list[Host]:
        async with self.database.reading(EVERYTHING) as session:
            return list(await hosts.services(session))


@pytest.fixture
async def site(schema_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(schema_url, tmp_path)
    await made.report()
    yield made
    await made.database.close()


async def test_the_least_loaded_host_of_any_project_is_chosen(site: Site) -> None:
    assert await site.place() == hosts.Place("one", "one-host")
    await site.put("one", cpu=0.5, memory=100)
    assert await site.place() == hosts.Place("two", "two-host")
    await site.put("two", cpu=1.0, memory=0)
    assert (await site.place()).backend == "one"
    await site.put("one", cpu=0.0, memory=MEMORY)
    assert (await site.place()).backend == "two"


async def test_what_a_container_needs_comes_before_load(site: Site) -> None:
    await site.put("one", cpu=1.5, memory=MEMORY)
    assert (await site.place()).backend == "two"
    assert (await site.place(needs=(Ability.DISK_QUOTA,))).backend == "one"
    # What none has is nobody's reason to choose.
    assert (await site.place(runtime="kata", cpu=CPUS + 1, memory=MEMORY + 1)).backend == "two"


async def test_zone_and_host_are_musts(site: Site) -> None:
    assert (await site.place(zone="east")).backend == "two"
    assert (await site.place(zone="nova")).backend == "one"
    assert (await site.place(host="two-host")).backend == "two"
    assert (await site.place(host="two")).backend == "two"
    assert (await site.place(host="two-host", zone="east")).reason is None
    for wish in ({"zone": "west"}, {"host": "two-host", "zone": "nova"}):
        place = await site.place(**wish)
        assert place.host is None
        assert f"no host in availability zone {wish['zone']}" in (place.reason or "")
    with pytest.raises(NotFound, match="three"):
        await site.place(host="three")


async def test_every_host_that_will_not_do_is_named(site: Site) -> None:
    await site.change("one", disabled=True, disabled_reason="moving")
    assert (await site.place()).backend == "two"
    site.restart(tried=True)
    await site.change("two", last_seen_up=1.0)
    place = await site.place()
    assert place.host is None
    assert "host one-host is disabled (moving); host two-host has been down for" in (place.reason or "")
    await site.report()
    assert (await site.place()).backend == "two"


async def test_nobody_is_down_before_it_was_asked(site: Site) -> None:
    """After a start the table is as old as the last run."""
    await site.change("one", last_seen_up=1.0)
    await site.change("two", last_seen_up=1.0)
    site.restart(tried=False)
    assert (await site.place()).reason is None


async def test_a_clock_that_is_set_takes_no_host_down(schema_url: str, clock: Clock, tmp_path: Path) -> None:
    site = Site(schema_url, tmp_path)
    await site.report()
    for ahead in (3600.0, 0.0, -3600.0):
        await clock.set(ahead)
        assert (await site.place()).reason is None
        await site.report()
        async with site.database.reading(EVERYTHING) as session:
            now = await actions.clock(session)
        assert all(abs(now - (row.last_seen_up or 0.0)) < 30 for row in await site.rows())
    await site.database.close()


async def test_two_engines_on_one_host_have_two_names(site: Site) -> None:
    third, fourth = FakeEngine("one"), FakeEngine("one")
    engines = Engines({"third": third, "fourth": fourth})
    await engines.ping()
    for name in ("third", "fourth"):
        await hosts.report(site.database, engines, site.settings, name)
    assert [row.hostname for row in await site.rows()] == ["one-host", "two-host", "one-host-third", "one-host-fourth"]


async def test_a_report_that_says_nothing_new_is_not_written(site: Site) -> None:
    before = [(row.report_count, row.last_seen_up) for row in await site.rows()]
    await site.report()
    assert [(row.report_count, row.last_seen_up) for row in await site.rows()] == before
    await site.change("one", last_seen_up=1.0)
    await site.report()
    assert [row.report_count for row in await site.rows()] == [2, 1]


async def test_an_installation_is_one_for_all_replicas(site: Site) -> None:
    first = await hosts.installation(site.database)
    other = Database(site.settings.database)
    try:
        assert await hosts.installation(other) == first
    finally:
        await other.close()

"""SQLite on a disk that is full: what was accepted is kept, the rest refused clearly, reads go on, then all does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.caisson import BUSY, Caisson, error_of, eventually, running
from tests.stack.disk import Disk, small


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with small(folder, 24) as made:
        yield made


async def test_a_full_disk_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    async with running(f"sqlite+aiosqlite:///{disk.folder}/caisson.db", tmp_path, ("member",)) as found:
        caisson = Caisson(found)
        uuid = (await caisson.made(run=True, name="before"))["uuid"]
        caisson.engine.delay("pause", 0.3)
        await caisson.ok("POST", f"/v1/containers/{uuid}/pause")

        async def paused() -> bool:
            seen = await caisson.engine.find_all()
            return [box.state for box in seen] == ["paused"]

        async def begun() -> bool:
            return caisson.engine.calls["pause"] > 0

        await eventually(begun, lambda: "the pause is not under way")
        disk.fill()
        stored = {"before"}
        refused: set[str] = set()
        while len(refused) < 3:  # pages that are free already may take some
            name = f"box-{len(stored)}-{len(refused)}"
            answer = await caisson.call("POST", "/v1/containers", {"image": BUSY, "name": name})
            if answer.status_code == 202:
                stored.add(name)
                continue
            assert "no space left" in error_of(answer, 503, "service-unavailable")["title"]
            assert int(answer.headers["retry-after"]) > 0
            refused.add(name)
        answer = await caisson.call("DELETE", f"/v1/containers/{uuid}?force=true", who="admin")
        error_of(answer, 503, "service-unavailable")
        await eventually(paused, lambda: "the engine was not told")  # and the outcome cannot be stored
        assert (await caisson.show(uuid))["task_state"] == "container_pausing"
        listed = (await caisson.ok("GET", "/v1/containers"))["containers"]
        assert {row["name"] for row in listed} == stored
        assert (await caisson.call("GET", "/readyz", who=None)).status_code == 200
        disk.free()
        await caisson.until(uuid, "Paused")
        assert [action.attempts for action in await caisson.actions(uuid)] == [1, 1], "an outcome was forgotten"
        await caisson.made(name="after")
        for row in listed:
            await caisson.until(row["uuid"], "Paused" if row["uuid"] == uuid else "Created")

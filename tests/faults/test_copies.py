"""A restored copy carries on."""

import asyncio
import shutil
import subprocess
from pathlib import Path

from tests.faults.conftest import Place
from tests.faults.gateway import Gateway
from tests.stack import debian
from tests.stack.session import Stack


async def test_a_restored_copy_carries_on(place: Place, stack: Stack, tmp_path: Path) -> None:
    """The copy is taken while an action is under way; what came of it afterwards is lost, and made again."""
    gateway = await place.gateway()
    running = await gateway.create(place.image, run=True)
    await gateway.reaches(running, "Running")
    body = {"registry": {"domain": "registry.test", "username": "u", "password": "kept"}}
    assert (await gateway.request("POST", "/v1/registries", json=body)).status_code == 201
    held = await gateway.proxy.add(r"^POST /containers/create\?", "before", "hold")
    queued = await gateway.create(place.image, run=True)
    await gateway.proxy.fired(held)

    kept = tmp_path / "kept"
    await asyncio.to_thread(_copy, place, gateway, kept)
    await gateway.kill()
    await gateway.proxy.release(held)
    await asyncio.to_thread(_restore, place, kept)

    await gateway.start()
    await gateway.reaches(queued, "Running")
    await gateway.reaches(running, "Running")
    shown = (await gateway.request("GET", "/v1/registries")).json()["registries"]
    assert [registry["domain"] for registry in shown] == ["registry.test"]
    checked = subprocess.run(gateway.command("check"), env=gateway.environment(), capture_output=True, text=True)
    assert "2 secrets are under the newest key" in checked.stdout
    await place.truth.agree(gateway)


def _copy(place: Place, gateway: Gateway, kept: Path) -> None:
    if place.database_url.startswith("sqlite"):
        subprocess.run(gateway.command("backup", str(kept)), env=gateway.environment(), check=True)
    else:
        url = place.database_url.replace("+asyncpg", "")
        program = debian.program("postgres").with_name("pg_dump")
        subprocess.run([program, "--format=custom", f"--file={kept}", url], check=True)


def _restore(place: Place, kept: Path) -> None:
    url = place.database_url.replace("+asyncpg", "")
    if url.startswith("sqlite"):
        database = Path(place.database_url.partition("///")[2])
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
        shutil.copy(kept / "caisson.db", database)
    else:
        program = debian.program("postgres").with_name("pg_restore")
        subprocess.run([program, "--clean", "--if-exists", f"--dbname={url}", kept], check=True)

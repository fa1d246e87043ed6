"""Ways out of a container, tried on a real Docker: to the host's network and files, and under others' labels."""

import asyncio
import io
import json
import re
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import pytest

from app.archives import one_file
from app.backends.docker.engine import DockerEngine, make
from app.backends.engine import Seen
from app.check import examine
from app.errors import EngineError
from app.settings import BackendSettings, Settings
from tests.conformance.place import Place, until
from tests.stack import debian, images
from tests.stack.docker import client

METADATA = "169.254.169.254"


def docker(place: Place) -> DockerEngine:
    assert isinstance(place.engine, DockerEngine)
    return place.engine


async def said(place: Place, seen: Seen, *command: str) -> str:
    """What a command in a container prints, whatever becomes of it."""
    return (await docker(place).execute(seen.ref, command, 60)).output.decode()


def host(*command: str) -> str:
    """What a command on the host prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
async def fenced(place: Place) -> Seen:
    """A container on its project's network."""
    debian.install(["nft"])
    network = await docker(place).ensure_network(place.project)
    return await place.run("sleep", "1000", network=network)


@pytest.fixture
async def unfenced(place: Place, docker_url: str) -> AsyncIterator[Seen]:
    """A container on a network that is not Caisson's: it shows that there is something to be kept from."""
    name = f"open-{token_hex(4)}"
    with client(docker_url) as http:
        http.post("/networks/create", json={"Name": name}).raise_for_status()
        seen = await place.run("sleep", "1000", network=name)
        yield seen
        await place.engine.remove(seen.ref, force=True)
        http.delete(f"/networks/{name}").raise_for_status()


@pytest.fixture
async def node(place: Place) -> AsyncIterator[Seen]:
    """A container where nodes of a cluster are."""
    debian.install(["nft"])
    cluster = uuid4()
    network = await docker(place).ensure_node_network(cluster, place.project)
    seen = await place.run("sleep", "1000", network=network.name)
    yield seen
    await place.engine.remove(seen.ref, force=True)
    assert await docker(place).remove_cluster(cluster)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[str]]]:
    """A server on every address of the host: its port, and the addresses that it was called at."""
    called: list[str] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.append(writer.get_extra_info("sockname")[0])
        writer.close()

    door = socket.create_server(("", 0))
    async with await asyncio.start_server(answer, sock=door):
        yield door.getsockname()[1], called


def addresses() -> set[str]:
    """The host's own."""
    links = json.loads(host("ip", "-json", "-4", "address"))
    return {entry["local"] for link in links for entry in link["addr_info"]} - {"127.0.0.1"}


async def test_the_host_is_not_reached(place: Place, fenced: Seen, unfenced: Seen) -> None:
    """Neither the gateway, nor an engine that listens on TCP, nor whatever else is there, at any of its addresses."""
    gateways = {re.sub(r"[0-9]+$", "1", seen.addresses[0].address) for seen in (fenced, unfenced)}
    assert gateways <= addresses()
    async with listening() as (port, called):
        call = " ".join(f"nc -w 1 {address} {port} </dev/null &" for address in sorted(addresses()))
        await said(place, unfenced, "sh", "-c", f"{call} wait")
        assert set(called) >= gateways
        called.clear()
        await said(place, fenced, "sh", "-c", f"{call} nc -w 1 127.0.0.1 {port} </dev/null & wait")
        assert called == []
    assert "docker.sock" not in await said(place, fenced, "sh", "-c", "cat /proc/mounts; ls /run /var/run")
    # It is the host's network all the same: who listens inside is reached from there.
    await docker(place).execute(fenced.ref, ["sh", "-c", "nc -l -p 80 -e echo well >/dev/null 2>&1 &"], 30)
    reader, writer = await until(lambda: _connected(fenced.addresses[0].address))
    assert await reader.read() == b"well\n"
    writer.close()


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    try:
        return await asyncio.open_connection(address, 80)
    except OSError:
        return None


@pytest.fixture
def metadata() -> Iterator[str]:
    """A machine beside the host at the address at which clouds tell secrets: the name of its network namespace."""
    name = f"cloud-{token_hex(3)}"
    near = f"{name}h"
    host("ip", "netns", "add", name)
    try:
        host("ip", "link", "add", near, "type", "veth", "peer", "name", "far", "netns", name)
        host("ip", "address", "add", "169.254.169.1/24", "dev", near)
        host("ip", "link", "set", near, "up")
        host("ip", "-n", name, "address", "add", f"{METADATA}/24", "dev", "far")
        host("ip", "-n", name, "link", "set", "far", "up")
        host("ip", "-n", name, "route", "add", "default", "via", "169.254.169.1")
        yield name
    finally:
        host("ip", "netns", "delete", name)


async def test_the_hosts_metadata_are_not_reached(
    place: Place, fenced: Seen, node: Seen, unfenced: Seen, metadata: str
) -> None:
    def pinged() -> int:
        names, values = re.findall(
            r"^Icmp: (.*)$", host("ip", "netns", "exec", metadata, "cat", "/proc/net/snmp"), re.M
        )
        return int(dict(zip(names.split(), values.split(), strict=True))["InEchos"])

    ping = ("ping", "-c", "1", "-W", "1", METADATA)
    assert "1 packets received" in await said(place, unfenced, *ping)
    before = pinged()
    assert before > 0
    for kept in (fenced, node):
        assert "0 packets received" in await said(place, kept, *ping)
    assert pinged() == before


async def test_the_fence_is_put_up_again_and_taken_down(place: Place, fenced: Seen) -> None:
    host("nft", "delete", "table", "inet", "caisson_fence")
    await docker(place).ensure_network(place.project)
    assert "table inet caisson_fence" in host("nft", "list", "tables")
    await place.engine.remove(fenced.ref, force=True)
    await docker(place).remove_network(place.project)
    links = [link["ifname"] for link in json.loads(host("ip", "-json", "link"))]
    # Other tests, and others' containers, may be behind it.
    assert any(name.startswith(("caip-", "caic-")) for name in links) == (
        "table inet caisson_fence" in host("nft", "list", "tables")
    )


async def test_the_operator_is_told_who_keeps_containers_from_the_host(docker_url: str, tmp_path: Path) -> None:
    debian.install(["nft"])
    backends = {"local": BackendSettings(url=docker_url)}
    for firewall, told in (("nftables", "by Caisson"), ("none", "by nobody, unless you do it")):
        settings = Settings.model_validate({"data_dir": tmp_path, "backends": backends, "firewall": firewall})
        found = [finding.text async for finding in examine(settings)]
        assert any(f"engine local: containers are kept from its host {told}" in text for text in found), found


async def test_there_is_no_other_way_to_the_internet_protocol(place: Place, fenced: Seen) -> None:
    """Projects' networks have no IPv6, so that nothing has to be filtered there."""
    assert "inet6" not in await said(place, fenced, "ip", "address", "show", "eth0")


async def test_an_image_does_not_say_whose_a_container_is(place: Place, docker_url: str) -> None:
    """Containers inherit labels of their images, and anybody can make one."""
    cluster, group, name = uuid4(), uuid4(), f"conformance/{token_hex(4)}:1"
    labels = {
        "caisson.uuid": uuid4(), "caisson.project": "victim", "caisson.installation": "victim", "caisson.group": group,
        "caisson.sealed": "1", "caisson.cluster": cluster, "caisson.cluster.project": "victim",
        "caisson.node": "default-master-0", "caisson.nodegroup": group,
    }  # fmt: skip
    images.build(docker_url, name, changes=[f'LABEL {key}="{value}"' for key, value in labels.items()])
    try:
        seen = await place.run("sleep", "1000", image=name)
        assert (seen.project_id, seen.group) == (place.project, None)
        engine = docker(place)
        assert cluster not in await engine.clusters()
        assert await engine.nodes(cluster) == []
        assert await engine.remove_cluster(cluster)
        assert (await place.seen(seen.uuid)).ref == seen.ref
        other = make("docker", BackendSettings(url=docker_url), Settings())
        other.installation = "victim"
        assert seen.uuid not in [found.uuid for found in await other.find_all()]
        await other.close()
    finally:
        for made in await place.mine():
            await place.engine.remove(made.ref, force=True)
        images.remove(docker_url, name)


async def test_links_in_an_image_do_not_lead_out(place: Place, docker_url: str, tmp_path: Path) -> None:
    """Files are written, and read, as the container would: `/out` is its own folder of that name, not the host's."""
    (tmp_path / "secret").write_text("of the host")
    made = await place.run("sh", "-c", f"mkdir -p {tmp_path}; ln -s {tmp_path} /out; exec sleep 1000")
    engine = docker(place)
    await until(lambda: _there(engine, made.ref, "/out"))
    await engine.put_archive(made.ref, "/out", one_file("evil", b"x"))
    await engine.put_archive(made.ref, "/", one_file("out/worse", b"x"))
    with suppress(EngineError):
        await engine.put_archive(made.ref, "/out/../../../../../../../..", one_file("caisson-evil", b"x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    assert not Path("/caisson-evil").exists()
    assert (await said(place, made, "ls", str(tmp_path))).split() == ["evil", "worse"]
    assert members(b"".join([part async for part in engine.get_archive(made.ref, "/out/")])) == {"evil", "worse"}


async def _there(engine: DockerEngine, ref: str, path: str) -> bool:
    try:
        await engine.stat(ref, path)
    except EngineError:
        return False
    return True


def members(archive: bytes) -> set[str]:
    """The names of files in an archive, without folders."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {Path(member.name).name for member in tar if not member.isdir()}


SWAP = """
mkdir -p /srv/real /srv/{name} $1; cd /srv
while :; do mv {name} aside; ln -s $1 {name}; rm {name}; mv aside {name}; done
"""


async def test_who_swaps_folders_for_links_gets_nowhere(place: Place, tmp_path: Path) -> None:
    """A process of the container changes the path while archives go in and out: they stay in the container."""
    target = tmp_path / "box"
    target.mkdir()
    (target / "secret").write_text("of the host")
    made = await place.run("sh", "-c", SWAP.format(name="box"), "sh", str(target))
    engine = docker(place)
    await until(lambda: _there(engine, made.ref, "/srv"))
    came, went = 0, 0
    for number in range(40):
        path = ("/srv/box", "/srv/box/.", "/srv/box/../box")[number % 3]
        with suppress(EngineError):
            await engine.put_archive(made.ref, path, one_file(f"file-{number}", b"x"))
            went += 1
        with suppress(EngineError, tarfile.TarError):
            got = b"".join([part async for part in engine.get_archive(made.ref, path)])
            came += 1
            assert b"of the host" not in got
    assert sorted(path.name for path in target.iterdir()) == ["secret"]
    assert came
    assert went
    inside = await said(place, made, "sh", "-c", f"ls /srv/* {target}")
    assert "file-" in inside


async def test_the_process_list_is_the_containers_own(place: Place) -> None:
    """`top` runs the host's ps, with arguments that the caller chooses."""
    made = await place.run("sh", "-c", "sleep 999 & exec sleep 1000")
    engine = docker(place)
    for arguments in (None, "aux", "-eo pid,args", "-eo pid,ppid,args --sort pid", "axo pid,command"):
        listed = await until(lambda arguments=arguments: _listed(engine, made.ref, arguments))  # type: ignore[misc]
        assert all("sleep 999" in line or "sleep 1000" in line for line in listed), arguments
    for arguments in ("-eo ppid=PID,args", "-eo args,ppid=PID"):
        with pytest.raises(EngineError):
            await engine.top(made.ref, arguments)


async def _listed(engine: DockerEngine, ref: str, arguments: str | None) -> list[str] | None:
    lines = [" ".join(process) for process in (await engine.top(ref, arguments)).processes]
    return lines if len(lines) == 2 else None

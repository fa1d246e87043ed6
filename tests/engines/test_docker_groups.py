"""Groups on a real engine: what members share, what others cannot reach, and how little a sandbox may do."""

from secrets import token_hex
from uuid import uuid4

import httpx
import pytest

from app.backends.docker import sandbox
from app.backends.engine import Execs, Groups, GroupSpec, Networks, Port, Seen
from tests.conformance.place import Place, until
from tests.stack import docker, images
from tests.stack.session import free_port

SERVE = ("sh", "-c", "echo shared > /tmp/index.html; httpd -f -p 8080 -h /tmp")
ASK = "echo 'GET / HTTP/1.0' | nc -w 2 {} {}"


async def group(place: Place, project: str, *ports: Port) -> Seen:
    """A running sandbox on the project's network."""
    assert isinstance(place.engine, Groups)
    assert isinstance(place.engine, Networks)
    network = await place.engine.ensure_network(project)
    made = await place.engine.create_group(uuid4(), GroupSpec(project, "pod", network, ports))
    await place.engine.start(made.ref)
    return await place.seen(made.uuid)


async def told(place: Place, seen: Seen, *command: str) -> tuple[int, str]:
    """The exit code and the output of a command inside."""
    assert isinstance(place.engine, Execs)
    done = await place.engine.execute(seen.ref, command, 30)
    return done.exit_code, done.output.decode()


async def asked(place: Place, seen: Seen, address: str, port: int) -> str:
    """What a server says to a container."""
    return (await told(place, seen, "sh", "-c", ASK.format(address, port)))[1]


async def serving(place: Place, seen: Seen) -> None:
    """Wait until a member reaches the server."""

    async def answers() -> bool:
        return "shared" in await asked(place, seen, "127.0.0.1", 8080)

    await until(answers)


async def test_members_talk_over_loopback_and_others_do_not_hear(place: Place) -> None:
    assert isinstance(place.engine, Networks)
    foreign = token_hex(16)
    pod, other = await group(place, place.project), await group(place, foreign)
    try:
        await place.run(*SERVE, group=pod.uuid)
        neighbour = await place.run("sleep", "1000", group=pod.uuid)
        await serving(place, neighbour)
        assert await told(place, neighbour, "hostname") == (0, "pod\n")
        # The same from a container of the project, by the sandbox's address; from another project not at all.
        address = pod.addresses[0].address
        friend = await place.run("sleep", "1000", network=await place.engine.ensure_network(place.project))
        assert "shared" in await asked(place, friend, address, 8080)
        stranger = await place.run("sleep", "1000", group=other.uuid, project_id=foreign)
        for tried in (address, "127.0.0.1"):
            assert "shared" not in await asked(place, stranger, tried, 8080)
        # Processes are not shared: nobody sees the neighbour's, or its environment.
        assert await told(place, neighbour, "sh", "-c", "grep -l [h]ttpd /proc/[0-9]*/cmdline") == (1, "")
    finally:
        for left in await place.engine.find_all():
            if left.project_id == foreign:
                await place.engine.remove(left.ref, force=True)
        await place.engine.remove_network(foreign)


async def test_a_sandbox_may_do_nothing(place: Place, docker_url: str) -> None:
    pod = await group(place, place.project)
    with docker.client(docker_url) as http:
        document = http.get(f"/containers/{pod.ref}/json").json()
        (process,) = http.get(f"/containers/{pod.ref}/top").json()["Processes"]
    host = document["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], [], False)
    assert (host["ReadonlyRootfs"], host["SecurityOpt"]) == (True, ["no-new-privileges"])
    assert document["Config"]["User"] == "65534:65534"
    assert "/pause" in process
    # It ends when it is told to, at once: an engine that shuts down does not wait for it.
    await place.engine.stop(pod.ref, 60)
    assert (await place.seen(pod.uuid)).exit_code == 0


async def test_the_image_is_ours(place: Place, docker_url: str) -> None:
    """An image of somebody else's under the sandbox's name is not run."""
    with docker.client(docker_url) as http:
        arch = http.get("/version").json()["Arch"]
        name, ident, _ = sandbox.image(sandbox.ARCHITECTURES[arch])
        http.delete(f"/images/{name}", params={"force": "true"})
        repository, _, tag = name.rpartition(":")
        http.post(f"/images/{place.image}/tag", params={"repo": repository, "tag": tag}).raise_for_status()
        pod = await group(place, place.project)
        assert http.get(f"/containers/{pod.ref}/json").json()["Image"] == ident
    images.build(docker_url)  # what others use is there as before


async def test_a_groups_port_is_published(place: Place) -> None:
    port = free_port()
    pod = await group(place, place.project, Port(8080, "tcp", port))
    member = await place.run(*SERVE, group=pod.uuid, ports=[Port(8080, "tcp", port)])
    await serving(place, member)
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{port}/")).text == "shared\n"


async def test_an_image_that_exposes_ports_can_be_a_member(place: Place, docker_url: str) -> None:
    name = f"caisson/exposes:{token_hex(4)}"
    images.build(docker_url, name, changes=["EXPOSE 80"])
    try:
        pod = await group(place, place.project)
        member = await place.run("sleep", "1000", group=pod.uuid, image=name)
        assert list(member.ports) == [80]
        await place.engine.remove(member.ref, force=True)
    finally:
        images.remove(docker_url, name)


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_image_is_the_same_each_time(architecture: str) -> None:
    name, ident, archive = sandbox.image(architecture)
    assert (name, ident, archive) == sandbox.image(architecture)
    assert len(sandbox.program(architecture)) < 300
    assert name == f"caisson/sandbox:{ident.partition(':')[2][:12]}"

"""Fixtures that bring real services. All are lazy: a test that asks for none starts nothing.

Services are shared by the whole session, also among the workers of pytest-xdist; what a fixture called ``private_…``
gives belongs to one test, which may stop or kill it.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from scripts.nodes import swarm
from tests.stack import docker, images
from tests.stack import glance as glance_service
from tests.stack import keystone as keystone_service
from tests.stack import kubernetes as kubernetes_stack
from tests.stack import neutron as neutron_service
from tests.stack import postgres as postgres_service
from tests.stack import registry as registry_service
from tests.stack.docker import PrivateDocker
from tests.stack.glance import Glance
from tests.stack.keystone import Keystone
from tests.stack.neutron import Neutron
from tests.stack.postgres import Postgres
from tests.stack.registry import Registry
from tests.stack.session import Stack

_STACK = pytest.StashKey[Stack]()

# Side by side these would only slow each other down, or share an engine's limits: one at a time, or file by file.
ONE_AT_A_TIME = frozenset({"faults", "tempest"})
# Sleeps for ten minutes: beside everything, and from the beginning.
ASLEEP = "tests/tempest/test_magnum_lane.py"
LONGEST = (ASLEEP, "faults", "tempest")
FILE_BY_FILE = frozenset({"conformance", "engines", "e2e"})


def pytest_configure(config: pytest.Config) -> None:
    """Opens the stack before any worker starts, so that all of them find the same one."""
    _forget_users_clouds()
    config.stash[_STACK] = Stack.open()


def _forget_users_clouds() -> None:
    """Clients look for a login in the environment and in the user's folder, where `scripts/run` leaves one."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        del os.environ[name]
    os.environ["OS_CLIENT_CONFIG_FILE"] = os.devnull


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops every service. The guard does the same if this is never reached."""
    if stack := config.stash.get(_STACK, None):
        stack.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tells xdist what must stay together. Not by its marks: it writes them where pytest 9.2 no longer reads."""
    return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out first what takes longest, then, as xdist does, what has most tests."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.partition("::")[0])
        folder = path.parts[1] if len(path.parts) > 1 else ""
        if str(path) == ASLEEP:
            return ASLEEP
        if folder in ONE_AT_A_TIME:
            return folder
        return str(path) if folder in FILE_BY_FILE else nodeid

    def _assign_work_unit(self, node: Any) -> None:
        for scope in reversed(LONGEST):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Stack:
    """The session's services, to start further ones."""
    return pytestconfig.stash[_STACK]


@pytest.fixture(scope="session")
def docker_url(stack: Stack) -> str:
    """``unix:///…`` of a Docker engine that others use too: remove what you make, and only that."""
    with stack.lock("docker"):
        return docker.engine(stack)


@pytest.fixture(scope="session")
def busybox_image(docker_url: str, stack: Stack) -> str:
    """The name of a small image in the engine of ``docker_url``; its command is a shell."""
    with stack.lock("busybox"):
        return images.build(docker_url)


@pytest.fixture(scope="session")
def swarm_image(docker_url: str, stack: Stack) -> str:
    """The image of a swarm's nodes."""
    with stack.lock("swarm-image"):
        return swarm.build(docker_url)[0]


@pytest.fixture(scope="session")
def next_swarm_image(docker_url: str, stack: Stack) -> str:
    """Another image of a swarm's nodes."""
    with stack.lock("swarm-image"):
        return swarm.build(docker_url, "caisson-test/node-swarm:next", "next")[0]


@pytest.fixture(scope="session")
def kubernetes_image(docker_url: str, stack: Stack) -> str:
    """The image of nodes of Kubernetes."""
    with stack.lock("kubernetes-image"):
        return kubernetes_stack.image(docker_url)


@pytest.fixture(scope="session")
def next_kubernetes_image(docker_url: str, kubernetes_image: str) -> str:
    """The same programs under the name of another version."""
    return kubernetes_stack.alias(docker_url, kubernetes_image, kubernetes_stack.NEXT)


@pytest.fixture(scope="session")
def registry(stack: Stack) -> Registry:
    """An image registry that asks for no password."""
    return registry_service.shared(stack)


@pytest.fixture(scope="session")
def private_registry(stack: Stack) -> Registry:
    """An image registry that wants the username and password it names (shared by the session all the same)."""
    name = "registry-with-password"
    return registry_service.connect(
        stack.shared(name, lambda: registry_service.start(stack, name, private=True)),
    )


@pytest.fixture(scope="session")
def postgres_server(stack: Stack) -> Postgres:
    """The PostgreSQL server of the session."""
    return Postgres(stack.shared("postgres", lambda: postgres_service.start(stack)))


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Callable[[], str]]:
    """Makes empty PostgreSQL databases: each call returns the URL of a new one, dropped after the test."""
    made: list[str] = []

    def create() -> str:
        name = f"test_{secrets.token_hex(6)}"
        url = postgres_server.create(name)
        made.append(name)
        return url

    yield create
    for name in made:
        postgres_server.drop(name)


@pytest.fixture
def private_postgres(stack: Stack) -> Iterator[Postgres]:
    """A PostgreSQL server of this test's own, which it may freeze, or crash by ``tests.stack.postgres.restart``."""
    server = Postgres(postgres_service.start(stack, f"postgres-{secrets.token_hex(4)}"))
    yield server
    stack.stop_by_name(server.service.name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/caisson.db"
    create: Callable[[], str] = request.getfixturevalue("postgres")
    return create()


@pytest.fixture(scope="session")
def keystone(stack: Stack) -> Keystone:
    """A real Keystone with Fernet tokens, seeded as :mod:`tests.stack.keystone` says."""
    return keystone_service.shared(stack)


@pytest.fixture(scope="session")
def glance(stack: Stack, keystone: Keystone) -> Glance:
    """A real Glance that asks the Keystone of ``keystone``."""
    return glance_service.shared(stack, keystone)


@pytest.fixture(scope="session")
def neutron(stack: Stack, keystone: Keystone) -> Neutron:
    """A real Neutron without agents that asks the Keystone of ``keystone``; its networks outlive a test."""
    return neutron_service.shared(stack, keystone)


@pytest.fixture(scope="session")
def keystone_jws(stack: Stack) -> Keystone:
    """A second Keystone with the same seed, whose tokens are JWS (ES256)."""
    name = "keystone-jws"
    return Keystone(stack.shared(name, lambda: keystone_service.start(stack, name, provider="jws")))


@pytest.fixture
def private_keystone(stack: Stack) -> Iterator[Callable[..., Keystone]]:
    """Starts Keystones of this test's own; takes the keywords of :func:`tests.stack.keystone.start`."""
    made: list[Keystone] = []

    def start(**options: Any) -> Keystone:
        made.append(Keystone(keystone_service.start(stack, f"keystone-{secrets.token_hex(4)}", **options)))
        return made[-1]

    yield start
    for server in made:
        stack.stop(server.service)


@pytest.fixture
def private_docker(stack: Stack) -> Iterator[PrivateDocker]:
    """A Docker daemon of this test's own with the busybox image; the test may stop, kill and freeze it."""
    engine = PrivateDocker(stack)
    images.build(engine.url)
    yield engine
    engine.close()

"""The gateway that the files of this folder share, each its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.served import Gateway, serve
from tests.stack.keystone import Keystone
from tests.stack.session import Stack


@pytest.fixture(scope="module")
def gateway(
    stack: Stack,
    keystone: Keystone,
    docker_url: str,
    busybox_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway with the session's Keystone and engine, for all tests of one file."""
    with serve(stack, tmp_path_factory.mktemp("gateway"), keystone, docker_url) as served:
        yield served
        served.clear()


@pytest.fixture(autouse=True)
def _no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves is removed before the next one lists containers."""
    yield
    if "gateway" in request.fixturenames:
        request.getfixturevalue("gateway").clear()

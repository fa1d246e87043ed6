"""Images: looking, pulling from registries with and without a password, removing."""

import socket
from dataclasses import replace

import pytest

from app.backends.engine import Ability, ImageSeen, Searches
from app.errors import Gone, Refused, RegistryDown, Taken
from tests.conformance.place import Place
from tests.stack.session import free_port


async def test_an_image_that_is_there(place: Place) -> None:
    image = await place.engine.image(place.image)
    assert image is not None
    assert image.ref
    assert image.size > 0


@pytest.mark.parametrize("name", ["no/such-image:1", "no-such-image", "no-such-image@sha256:" + "0" * 64])
async def test_an_image_that_is_not_there(place: Place, name: str) -> None:
    assert await place.engine.image(name) is None
    await place.engine.remove_image(name)


@pytest.mark.parametrize("name", ["", "No", "a b", "../containers/json", "a/../b", "a?b", "a#b", "a%2fb", "x" * 600])
async def test_what_is_no_name(place: Place, name: str) -> None:
    for call in (place.engine.image(name), place.engine.pull(name, None), place.engine.remove_image(name)):
        with pytest.raises(Refused, match="invalid reference format"):
            await call


async def test_pull_twice_and_remove_twice(place: Place, path: str) -> None:
    name, _ = place.publish(path, False)
    assert await place.engine.image(name) is None
    for _ in range(2):
        await place.engine.pull(name, None)
        assert isinstance(await place.engine.image(name), ImageSeen)
    seen = await place.run("echo", "pulled", image=name)
    assert seen.image == name
    with pytest.raises(Taken):
        await place.engine.remove_image(name)
    await place.engine.remove(seen.ref, force=True)
    for _ in range(2):
        await place.engine.remove_image(name)
        assert await place.engine.image(name) is None


async def test_pull_without_a_tag_takes_latest(place: Place, path: str) -> None:
    name, _ = place.publish(path.replace(":1", ":latest"), False)
    await place.engine.pull(name.removesuffix(":latest"), None)
    assert await place.engine.image(name) == await place.engine.image(name.removesuffix(":latest"))
    assert await place.engine.image(name) is not None
    await place.engine.remove_image(name)


async def test_pull_of_an_absent_tag_and_of_an_absent_image(place: Place, path: str) -> None:
    name, _ = place.publish(path, False)
    for absent in (name.replace(":1", ":2"), f"{place.registry}/conformance/absent:1"):
        with pytest.raises(Gone):
            await place.engine.pull(absent, None)
        assert await place.engine.image(absent) is None


async def test_pull_from_where_nobody_listens(place: Place) -> None:
    with pytest.raises(RegistryDown, match="connection refused"):
        await place.engine.pull(f"127.0.0.1:{free_port()}/nobody:1", None)


async def test_pull_with_credentials(place: Place, path: str) -> None:
    name, login = place.publish(path, True)
    assert login is not None
    assert login.password not in repr(login)
    for wrong in (None, replace(login, password="guessed"), replace(login, username="somebody")):
        with pytest.raises(Refused):
            await place.engine.pull(name, wrong)
        assert await place.engine.image(name) is None
    await place.engine.pull(name, login)
    assert await place.engine.image(name) is not None
    await place.engine.remove_image(name)


async def test_credentials_are_shown_to_their_own_registry_only(place: Place, path: str) -> None:
    _, login = place.publish(path, True)
    assert login is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = f"127.0.0.1:{listener.getsockname()[1]}/{path}"
        with pytest.raises(Refused, match="credentials"):
            await place.engine.pull(other, login)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.needs(Ability.SEARCH)
async def test_search(place: Place) -> None:
    assert isinstance(place.engine, Searches)
    term = place.index("team/tool")
    (found,) = await place.engine.search(term)
    assert found.name.endswith("team/tool")
    assert isinstance(found.stars, int)
    assert await place.engine.search(f"{term}-without-end") == []

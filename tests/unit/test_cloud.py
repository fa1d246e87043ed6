"""What clusters may be made of when the catalogue has a Nova, and when it answers badly."""

import ssl
from collections.abc import Iterator

import pytest

from app.cloud import Cloud, Size
from app.errors import Busy, Forbidden, Invalid, NotFound
from app.settings import ClusterSettings, Flavor
from tests.stack import nova

KNOWN = ClusterSettings(flavors={"listed": Flavor(cpus=1, memory=512)}, keypairs=["listed"])


class Catalogue:
    """Lists a Nova, and nothing else."""

    trusted = ssl.create_default_context()

    def __init__(self, url: str) -> None:
        self.url = url

    async def endpoint(self, service_type: str) -> str | None:
        return self.url if service_type == "compute" else None

    async def own_token(self, stale: str | None = None) -> str:
        return "own"


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Catalogue]:
    with nova.serve() as url:
        yield Catalogue(url)


async def test_flavors_are_novas_by_name_and_id(catalogue: Catalogue) -> None:
    cloud = Cloud(KNOWN, catalogue, nova.TOKEN)
    assert await cloud.flavor("m1.small") == await cloud.flavor("1") == Size(1.0, 2048, 20)
    assert await cloud.flavor("m1.medium") == await cloud.flavor("2") == Size(2.0, 4096, 40)
    assert await cloud.flavor(None) == Size()
    for name in ("listed", "nope"):  # the settings' list does not count beside a Nova
        with pytest.raises(Invalid, match=f"Unable to find flavor {name}"):
            await cloud.flavor(name)


async def test_key_pairs_are_novas(catalogue: Catalogue) -> None:
    cloud = Cloud(KNOWN, catalogue, nova.TOKEN)
    for name in (None, *nova.KEYPAIRS):
        await cloud.check_keypair(name)
    for name in ("listed", "nope"):
        with pytest.raises(NotFound, match=f"Unable to find keypair {name}"):
            await cloud.check_keypair(name)


async def test_without_a_nova_the_lists_hold() -> None:
    cloud = Cloud(KNOWN, None, "")
    assert await cloud.flavor("listed") == Size(1.0, 512, 0)
    await cloud.check_keypair("listed")
    with pytest.raises(NotFound, match="There are: listed"):
        await cloud.check_keypair("default")


async def test_a_nova_that_says_no_or_nothing(catalogue: Catalogue) -> None:
    for ask in (Cloud(KNOWN, catalogue, "bad").flavor, Cloud(KNOWN, catalogue, "bad").check_keypair):
        with pytest.raises(Forbidden, match="Nova"):
            await ask("default")
    for url in (catalogue.url + "/broken", "http://127.0.0.1:9/v2.1"):
        with pytest.raises(Busy, match="Nova"):
            await Cloud(KNOWN, Catalogue(url), nova.TOKEN).flavor("m1.small")

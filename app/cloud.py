"""What clusters may be made of: images, flavors, key pairs and networks, as one caller sees them.

A service that Keystone's catalogue lists is asked, with the caller's own token; for one that is not there the lists in
the settings hold. So every name is checked, with or without a cloud. No database may be open meanwhile.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from app import glance, neutron, nova
from app.catalogue import Catalogue
from app.errors import Conflict, Invalid, NotFound
from app.lookup import uuid_of
from app.settings import ClusterSettings


@dataclass(frozen=True, slots=True)
class Image:
    """An image for nodes: the name under which settings know what its nodes are made from, and its system."""

    name: str
    os_distro: str


@dataclass(frozen=True, slots=True)
class Size:
    """What a flavor gives each node: cores, MiB and GiB; 0 is no limit."""

    cpus: float = 0.0
    memory: int = 0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Cloud:
    """The cloud of one caller. Every method raises Busy when a service cannot answer, Forbidden when it will not."""

    known: ClusterSettings
    catalogue: Catalogue | None
    token: str

    async def image(self, ident: str) -> Image:
        """By name or id. Raises Invalid when it is not there or says no system, Conflict when several have the name."""
        service = await glance.available(self.catalogue)
        if service is None:
            listed = self.known.images.get(ident)
            if listed is None:
                raise Invalid(f"Image {ident} could not be found.{_choice('images', self.known.images)}")
            return Image(ident, listed.os_distro)
        found = await service.look_up(ident, self.token)
        if not found:
            raise Invalid(f"Image {ident} could not be found.")
        if len(found) > 1:
            raise Conflict(f"Multiple images exist with the name {ident}. Please use the image's id instead.")
        system = found[0].get("os_distro")
        if not system:
            raise Invalid(f"Image {ident} doesn't contain os_distro field.")
        names = [name for name in (ident, found[0]["name"], found[0]["id"]) if name in self.known.images]
        if not names:
            raise Invalid(f"Image {ident} is no image for nodes.{_choice('images', self.known.images)}")
        return Image(names[0], str(system))

    async def flavor(self, ident: str | None) -> Size:
        """By name or id; without limits of none. Raises Invalid when it is not there."""
        if ident is None:
            return Size()
        service = await nova.connect(self.catalogue, self.token)
        if service is None:
            listed = self.known.flavors.get(ident)
            if listed is None:
                raise Invalid(f"Unable to find flavor {ident}.{_choice('flavors', self.known.flavors)}")
            return Size(listed.cpus, listed.memory, listed.disk)
        found = await service.flavor(ident)
        if found is None:
            raise Invalid(f"Unable to find flavor {ident}.")
        return Size(float(found["vcpus"]), int(found["ram"]), int(found["disk"]))

    async def check_keypair(self, name: str | None) -> None:
        """Raises NotFound when the caller has none of this name."""
        if name is None:
            return
        service = await nova.connect(self.catalogue, self.token)
        if service is None and name not in self.known.keypairs:
            raise NotFound(f"Unable to find keypair {name}.{_choice('keypairs', self.known.keypairs)}")
        if service is not None and not await service.has_keypair(name):
            raise NotFound(f"Unable to find keypair {name}.")

    async def check_networks(self, *, external: str | None, fixed: str | None, subnet: str | None) -> None:
        """By name or id. Raises Invalid for one that is not there, Conflict when several have the name."""
        service = await neutron.connect(self.catalogue, self.token)
        for ident, noun, kind, filters in (
            (external, "external network", "networks", {"router:external": "True"}),
            (fixed, "fixed network", "networks", {}),
            (subnet, "fixed subnet", "subnets", {}),
        ):
            if ident is None:
                continue
            if service is None:
                if ident not in self.known.networks:
                    raise Invalid(f"Unable to find {noun} {ident}.{_choice('networks', self.known.networks)}")
                continue
            found: list[Any] = []
            if (uuid := uuid_of(ident)) is not None:
                found = await service.find(kind, id=uuid, **filters)
            found = found or await service.find(kind, name=ident, **filters)
            if not found:
                raise Invalid(f"Unable to find {noun} {ident}.")
            if len(found) > 1:
                raise Conflict(f"Multiple {noun}s exist with the name {ident}. Please use the id instead.")


def _choice(setting: str, names: Collection[str]) -> str:
    if not names:
        return f" This cloud has none: its administrator lists them in the setting clusters.{setting}."
    return f" There are: {', '.join(sorted(names)[:20])}."

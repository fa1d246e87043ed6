"""The parts of one running Caisson, handed to whoever serves requests. Made and taken apart in ``app.main``."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.auth import Authenticator
from app.backends import Drivers, Engines
from app.catalogue import Catalogue
from app.cluster_zones import Zones
from app.db import Database
from app.health import Health
from app.policy import Policy
from app.settings import Settings
from app.vault import Vault


@dataclass(frozen=True, slots=True)
class Gateway:
    """`wake` tells the local worker that an action was committed; losing it costs one poll.

    `catalogue` is None with the embedded identity, which lists no other service.
    """

    settings: Settings
    database: Database
    engines: Engines
    authenticator: Authenticator
    policy: Policy
    vault: Vault
    wake: Callable[[], None]
    zones: Zones
    health: Health
    catalogue: Catalogue | None = None
    drivers: Drivers = field(default_factory=Drivers)

"""What a step and a noun know of the cloud around Caisson: where its other services are, and who Caisson is to them."""

import ssl
from typing import Protocol


class Catalogue(Protocol):
    """The catalogue that the identity service gives Caisson's own user. Raises Busy when it cannot be asked.

    Attributes:
        trusted: what is trusted to speak for the other services.
    """

    trusted: ssl.SSLContext

    async def endpoint(self, service_type: str) -> str | None:
        """The address of a service such as ``image`` or ``network``, without a slash at its end; None without one."""
        ...

    async def own_token(self, stale: str | None = None) -> str:
        """A token of Caisson's own user; another one than `stale`, which a service has refused."""
        ...

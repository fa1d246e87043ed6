"""Container images without any registry: the system's static busybox, packed and imported into an engine."""

from collections.abc import Sequence
from urllib.parse import quote

import httpx

from scripts.newcomer import image as newcomer
from scripts.newcomer.engine import client
from tests.stack.session import StackError

BUSYBOX = "caisson/busybox:1"


def build(url: str, image: str = BUSYBOX, *, changes: Sequence[str] = (), files: dict[str, bytes] | None = None) -> str:
    """Makes a busybox image in the engine at ``url`` unless one of this name is there.

    Args:
        image: name and tag.
        changes: further Dockerfile instructions, such as ``USER nobody`` or ``ENTRYPOINT ["/bin/ping"]``.
        files: further files, by path without the leading slash; they make the image's content its own.

    Returns:
        The name.

    Raises:
        SetupError: the engine refused.
    """
    with client(url) as http:
        if not newcomer.is_there(http, image):
            tar = newcomer.root_file_system(newcomer.static_busybox(), files or {})
            newcomer.import_tar(http, image, tar, changes)
    return image


def remove(url: str, image: str) -> None:
    """Removes a name from the engine's images. Absent: fine."""
    with client(url) as http:
        http.delete(f"/images/{quote(image)}", params={"force": "true"})


def push(url: str, image: str, target: str, authorization: str | None = None) -> None:
    """Pushes an image of the engine to a registry under the name ``target`` (``host:port/name:tag``).

    The name is taken away from the engine again, so that running ``target`` has to pull it.

    Args:
        authorization: the value of ``X-Registry-Auth``, base64 of Docker's JSON.

    Raises:
        StackError: the engine or the registry refused.
    """
    repository, _, tag = target.rpartition(":")
    with client(url) as http:
        tagged = http.post(f"/images/{quote(image)}/tag", params={"repo": repository, "tag": tag})
        _check(tagged, f"tag of {target}")
        # The engine wants the header even when there is nothing to say.
        pushed = http.post(
            f"/images/{quote(repository)}/push",
            params={"tag": tag},
            headers={"X-Registry-Auth": authorization or "e30="},
        )
        _check(pushed, f"push of {target}")
    remove(url, target)


def _check(answer: httpx.Response, what: str) -> None:
    if answer.status_code >= 300 or newcomer.errors_of(answer):
        raise StackError(f"{what} failed: {answer.status_code} {answer.text}")

"""What clusters of Kubernetes in tests are made of: the node image, of programs built of Debian's source; kubectl.

The build takes ten minutes the first time and is kept in the cache. ``scripts/test`` begins it beside all else, at a
low priority; a test that needs it waits for it.
"""

import os
from pathlib import Path

from scripts.newcomer.engine import client
from scripts.nodes import kubernetes, kubernetes_binaries

VERSION = kubernetes_binaries.DEBIAN_VERSION
NEXT = "v1.20.3"
NAME = "caisson-test/node-kubernetes"
SECONDS = 2400.0
"""How long a test may wait for a build that others slow down."""


def image(url: str) -> str:
    """The name of the node image, in the engine at `url`; made when it is not there."""
    name, _ = kubernetes.build(url, kubernetes_binaries.from_debian(), tag=f"{NAME}:{VERSION}")
    return name


def alias(url: str, name: str, tag: str) -> str:
    """The same image under another tag."""
    repository = name.rpartition(":")[0]
    with client(url, 30.0) as http:
        http.post(f"/images/{name}/tag", params={"repo": repository, "tag": tag}).raise_for_status()
    return f"{repository}:{tag}"


def remove_alias(url: str, name: str) -> None:
    """Takes such a tag away."""
    with client(url, 30.0) as http:
        http.delete(f"/images/{name}").raise_for_status()


def kubectl() -> Path:
    """The program of that name."""
    return kubernetes_binaries.from_debian() / "kubectl"


def main() -> None:
    """Fills the cache."""
    os.nice(10)
    kubernetes_binaries.from_debian()
    kubernetes.debian(kubernetes_binaries.DEBIAN_SUITE)


if __name__ == "__main__":
    main()

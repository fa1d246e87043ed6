"""Nodes of the image ``rancher/k3s``: for who would rather pull an image than build one.

One program holds all of Kubernetes; it is given our authorities before it first starts. Not a part of the test runs,
which have no registry to pull from: see docs/kubernetes.md.
"""

import hashlib
import hmac

from app.backends.driver import NodeGroupSpec
from app.backends.kubernetes.files import DOMAIN, Layout, Recipe
from app.certificates import Authority

PROFILE = "k3s"

VOLUMES = ("/var/lib/rancher/k3s", "/var/lib/kubelet")
JOINING = "/etc/rancher/joining"
TLS = "/var/lib/rancher/k3s/server/tls"


def recipe(layout: Layout, group: NodeGroupSpec, name: str, address: str, *, master: bool) -> Recipe:
    """How such a node is started. There is one control plane; it keeps its state in SQLite."""
    common = ["--node-name", name, "--node-ip", address, "--token-file", JOINING]
    token = {JOINING: _token(layout).encode()}
    if not master:
        return Recipe(token, VOLUMES, ("agent", "--server", layout.server, *common))
    hosts = [address, *([layout.outside] if layout.outside else [])]
    command = [
        "server",
        *common,
        *(flag for host in hosts for flag in ("--tls-san", host)),
        *("--https-listen-port", str(layout.port)),
        *("--cluster-cidr", str(layout.ranges.pods)),
        *("--service-cidr", str(layout.ranges.services)),
        *("--cluster-dns", str(layout.ranges.dns_service)),
        *("--cluster-domain", DOMAIN),
        # All nodes share one network: nothing needs to be wrapped.
        *("--flannel-backend", "host-gw"),
        *("--disable", "traefik,servicelb,metrics-server"),
    ]
    keys = layout.keys
    files = {
        **token,
        **_authority("server-ca", keys.cluster),
        **_authority("client-ca", keys.cluster),
        **_authority("request-header-ca", keys.front_proxy),
        **_authority("etcd/peer-ca", keys.etcd),
        **_authority("etcd/server-ca", keys.etcd),
        f"{TLS}/service.key": keys.accounts.encode(),
    }
    return Recipe(files, VOLUMES, tuple(command))


def _authority(name: str, authority: Authority) -> dict[str, bytes]:
    return {f"{TLS}/{name}.crt": authority.certificate.encode(), f"{TLS}/{name}.key": authority.key.encode()}


def _token(layout: Layout) -> str:
    """What a node shows when it joins: a secret that follows from the cluster's others."""
    return hmac.new(layout.keys.accounts.encode(), layout.spec.uuid.bytes, hashlib.sha256).hexdigest()

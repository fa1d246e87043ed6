"""Certificates of a cluster of Kubernetes: who signs and who is trusted, also while an authority is being replaced."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization

from app.backends.driver import Keys
from app.certificates import Authority, Certified, issue

MASTERS = "system:masters"
"""The group that may do everything."""

ADMIN = "caisson"
"""The name that the driver itself bears in the cluster's records."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Who signs a node's certificates, and whose certificates it accepts."""

    signer: Authority
    trusted: tuple[Authority, ...]

    @property
    def bundle(self) -> str:
        """The trusted certificates, in PEM."""
        return "".join(f"{authority.certificate.strip()}\n" for authority in self.trusted)

    @property
    def state(self) -> str:
        """What a node that has this trust keeps in a file, so that it can be asked for it."""
        signer = hashlib.sha256(self.signer.certificate.strip().encode()).hexdigest()
        return f"{signer} {hashlib.sha256(self.bundle.encode()).hexdigest()}"


def stages(keys: Keys) -> Sequence[Trust]:
    """What every node passes through, one stage after the other, until it is as `keys` say.

    During a replacement each node trusts both authorities before any shows a certificate of the new one. Only when the
    old one is no longer in `keys`, and with it all that it signed, is it trusted no more.
    """
    new = keys.cluster
    if keys.previous is None:
        return (Trust(new, (new,)),)
    both = (new, keys.previous)
    return (Trust(keys.previous, both), Trust(new, both))


def admin(keys: Keys) -> Certified:
    """The driver's own certificate, signed by whom every node trusts at every stage."""
    return issue(keys.previous or keys.cluster, ADMIN, organizations=[MASTERS])


def admin_bundle(keys: Keys) -> str:
    """The authorities that may have signed what the cluster's API shows."""
    return stages(keys)[-1].bundle


def public_key(private: str) -> str:
    """The public part of a private key, both in PEM."""
    key = serialization.load_pem_private_key(private.encode(), None)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def kubeconfig(server: str, trust: Trust, certified: Certified) -> bytes:
    """Where the API is and who asks it, as every part of Kubernetes reads it."""
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "cluster", "cluster": {"server": server, "certificate-authority-data": _base64(trust.bundle)}}
        ],
        "users": [
            {
                "name": "user",
                "user": {
                    "client-certificate-data": _base64(certified.certificate),
                    "client-key-data": _base64(certified.key),
                },
            }
        ],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "context",
    }
    return json.dumps(document).encode()  # which is YAML, too


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()

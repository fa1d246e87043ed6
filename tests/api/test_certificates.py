"""Certificates of clusters by the API: the authorities, signing for clients, rotation, and for whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from app.policy import Policy
from tests.api.clusters import Clusters
from tests.api.test_magnum_versions import magnum_error

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def csr() -> str:
    """What the openstack command sends."""
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
        ]
    )
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM).decode()


def verified(client: str, authority: str) -> x509.Certificate:
    """The client's certificate, which the authority must have issued."""
    signed = x509.load_pem_x509_certificate(client.encode())
    signed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    return signed


@contextmanager
def policy(clusters: Clusters, folder: Path, text: str) -> Iterator[None]:
    """Within it the application has this policy file."""
    file = folder / "policy.yaml"
    file.write_text(f"{text}\n")
    gateway = clusters.caisson.running.gateway
    usual = gateway.policy
    object.__setattr__(gateway, "policy", Policy(file))
    try:
        yield
    finally:
        object.__setattr__(gateway, "policy", usual)


async def test_authorities_and_signing(clusters: Clusters, csr: str) -> None:
    uuid = await clusters.create()
    shown = {}
    for kind in ("", "kubernetes", "etcd", "front_proxy", "front-proxy"):
        found = await clusters.ok("GET", f"certificates/{uuid}" + (f"?ca_cert_type={kind}" if kind else ""))
        assert found.keys() == {"cluster_uuid", "pem", "links"}
        assert found["cluster_uuid"] == uuid
        assert found["links"][0]["href"] == f"http://test/v1/certificates/{uuid}"
        assert found["pem"].count("BEGIN CERTIFICATE") == 1
        assert found["pem"] == found["pem"].strip()
        shown[kind] = found["pem"]
    assert shown[""] == shown["kubernetes"]
    assert shown["front_proxy"] == shown["front-proxy"]
    assert len(set(shown.values())) == 3
    for ident in (uuid, "blue"):
        answer = await clusters.ask("POST", "certificates", {"cluster_uuid": ident, "csr": csr})
        assert answer.status_code == 201
        assert answer.json().keys() == {"cluster_uuid", "csr", "pem", "links"}
        assert (answer.json()["cluster_uuid"], answer.json()["csr"]) == (uuid, csr)
        signed = verified(answer.json()["pem"], shown[""])
        assert signed.subject.rfc4514_string() == "O=system:masters,CN=admin"
    body = {"cluster_uuid": uuid, "csr": csr, "ca_cert_type": "etcd"}
    answer = await clusters.ask("POST", "certificates", body)
    assert answer.json()["ca_cert_type"] == "etcd"
    verified(answer.json()["pem"], shown["etcd"])
    await clusters.until(uuid, "CREATE_COMPLETE")


async def test_what_is_refused(clusters: Clusters, csr: str) -> None:
    uuid = await clusters.made()
    for body, said in (
        ({"cluster_uuid": "nope", "csr": csr}, "Cluster nope"), ({"cluster_uuid": uuid, "csr": "junk"}, "csr"),
        ({"cluster_uuid": uuid}, "csr"), ({"csr": csr}, "cluster_uuid"), ({"cluster_uuid": uuid, "csr": ""}, "csr"),
        ({"cluster_uuid": uuid, "csr": csr, "bay_uuid": uuid}, "bay_uuid"), ({"cluster_uuid": uuid, "csr": 5}, "csr"),
        ({"cluster_uuid": uuid, "csr": "x" * 70_000}, "csr"),
        ({"cluster_uuid": uuid, "csr": csr, "ca_cert_type": 5}, "ca_cert_type"),
    ):  # fmt: skip
        assert said in magnum_error(await clusters.ask("POST", "certificates", body), 400)["detail"]
    for method in ("GET", "PATCH"):
        magnum_error(await clusters.ask(method, "certificates/nope"), 404)
    plain = await clusters.made(await clusters.template(tls_disabled=True))
    assert "TLS" in magnum_error(await clusters.ask("PATCH", f"certificates/{plain}"), 400)["detail"]
    credential = magnum_error(await clusters.ask("PATCH", f"credentials/{uuid}"), 400)
    assert "no credential" in credential["detail"]
    magnum_error(await clusters.ask("PATCH", "credentials/nope"), 404)


async def test_a_rotation_that_fails_is_gone_on_with(clusters: Clusters, csr: str) -> None:
    uuid = await clusters.made()
    old = (await clusters.ok("GET", f"certificates/{uuid}"))["pem"]
    clusters.driver.freeze()
    try:
        await clusters.ok("PATCH", f"certificates/{uuid}", headers={"Content-Type": "application/octet-stream"})
        assert (await clusters.show(uuid))["status"] == "UPDATE_IN_PROGRESS"
        new = (await clusters.ok("GET", f"certificates/{uuid}"))["pem"]
        assert new != old
        signed = await clusters.ok("POST", "certificates", {"cluster_uuid": uuid, "csr": csr})
        verified(signed["pem"], new)
    finally:
        clusters.driver.thaw()
    await clusters.until(uuid, "UPDATE_COMPLETE")


async def test_only_the_creator_and_whom_the_policy_names(clusters: Clusters, csr: str, tmp_path: Path) -> None:
    uuid = await clusters.made()
    for who, status in (("reader", 403), ("foreign", 404)):
        magnum_error(await clusters.ask("GET", f"certificates/{uuid}", who=who), status)
    body: dict[str, Any] = {"cluster_uuid": uuid, "csr": csr}
    magnum_error(await clusters.ask("POST", "certificates", body, who="reader"), 403)
    refused = magnum_error(await clusters.ask("GET", f"certificates/{uuid}", who="reader"), 403)
    assert "certificate:get" in refused["title"]
    assert "certificate:of_others" in refused["detail"]
    with policy(clusters, tmp_path, '"certificate:of_others": "role:reader"'):
        assert (await clusters.ok("GET", f"certificates/{uuid}", who="reader"))["cluster_uuid"] == uuid
        magnum_error(await clusters.ask("POST", "certificates", body, who="reader"), 403)


async def test_whom_the_policy_lets_be_one_of_kubernetes_own(clusters: Clusters, csr: str, tmp_path: Path) -> None:
    """The request is that of Magnum's client: its subject is in system:masters."""
    uuid = await clusters.made()
    body: dict[str, Any] = {"cluster_uuid": uuid, "csr": csr}
    with policy(clusters, tmp_path, '"certificate:create:system": "role:admin"'):
        refused = magnum_error(await clusters.ask("POST", "certificates", body), 400)
    assert "does not let you claim system:masters" in refused["title"]
    await clusters.ok("POST", "certificates", body)

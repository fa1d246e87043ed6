"""Certificate authorities of clusters: what they sign and what they refuse, judged by the library's own verifier."""

import contextlib
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st

from app.certificates import BACKDATED, LARGEST_REQUEST, VALIDITY, Authority, issue, make_authority, rotate, sign
from app.errors import Invalid

NOW = datetime(2026, 1, 31, 9, 5, 7, tzinfo=UTC)
AUTHORITY = make_authority("demo", NOW)
KEY = ec.generate_private_key(ec.SECP256R1())
WEAK_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505  (weak on purpose)
ADMIN = {NameOID.COMMON_NAME: "admin", NameOID.ORGANIZATION_NAME: "system:masters"}


def request(
    subject: dict[Any, str] | x509.Name = ADMIN,
    key: Any = KEY,
    digest: Any = hashes.SHA256(),  # noqa: B008  (a constant)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> str:
    if isinstance(subject, dict):
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject.items()])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def signed(csr: str, authority: Authority = AUTHORITY, **more: Any) -> x509.Certificate:
    pem = sign(authority, csr, **({"now": NOW} | more))
    assert pem == pem.strip()
    assert pem.count("BEGIN CERTIFICATE") == 1
    return x509.load_pem_x509_certificate(pem.encode())


def certificate_of(authority: Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate.encode())


def check_trust(certificate: x509.Certificate, *trusted: Authority, at: datetime = NOW) -> None:
    """Raises VerificationError unless one of `trusted` signed it and it is good for a TLS client."""
    policy = x509.verification.ExtensionPolicy
    verifier = (
        PolicyBuilder()
        .store(Store([certificate_of(authority) for authority in trusted]))
        .time(at)
        # The library's own policy is for the web, where every certificate has alternative names.
        .extension_policies(
            ca_policy=policy.permit_all().require_present(
                x509.BasicConstraints, x509.verification.Criticality.CRITICAL, None
            ),
            ee_policy=policy.permit_all().require_present(x509.KeyUsage, x509.verification.Criticality.CRITICAL, None),
        )
        .build_client_verifier()
    )
    verifier.verify(certificate, [])


def test_an_authority() -> None:
    found = certificate_of(AUTHORITY)
    assert found.subject == found.issuer
    assert found.subject.rfc4514_string() == "CN=demo"
    assert found.not_valid_before_utc == NOW - BACKDATED
    assert found.not_valid_after_utc == NOW + VALIDITY
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    found.verify_directly_issued_by(found)
    assert "PRIVATE" not in repr(AUTHORITY)
    assert certificate_of(make_authority("x" * 200)).subject.rfc4514_string() == f"CN={'x' * 64}"
    assert certificate_of(make_authority("ö" * 200)).subject.rfc4514_string() == f"CN={'ö' * 32}"


def test_a_clients_certificate() -> None:
    found = signed(request())
    assert found.subject.rfc4514_string() == "O=system:masters,CN=admin"
    assert found.issuer == certificate_of(AUTHORITY).subject
    assert found.public_key() == KEY.public_key()
    assert {extension.oid._name: extension.critical for extension in found.extensions} == {
        "basicConstraints": True, "keyUsage": True, "extendedKeyUsage": False, "subjectKeyIdentifier": False,
        "authorityKeyIdentifier": False,
    }  # fmt: skip
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    check_trust(found, AUTHORITY)
    assert signed(request()).serial_number != found.serial_number


def test_another_authority_is_not_trusted() -> None:
    with pytest.raises(VerificationError):
        check_trust(signed(request()), make_authority("demo", NOW))
    with pytest.raises(VerificationError):
        check_trust(signed(request()), AUTHORITY, at=NOW + VALIDITY + timedelta(days=1))


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (rsa.generate_private_key(65537, 2048), hashes.SHA512()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_strong_keys_are_taken(key: Any, digest: Any) -> None:
    found = signed(request(key=key, digest=digest))
    assert found.public_key() == key.public_key()
    found.verify_directly_issued_by(certificate_of(AUTHORITY))


@pytest.mark.parametrize(
    ("key", "digest", "said"),
    [
        (WEAK_KEY, hashes.SHA256(), "from 2048 to 8192 bits; this has 1024"),
        (rsa.generate_private_key(3, 2048), hashes.SHA256(), "exponent"),
        (ec.generate_private_key(ec.SECP224R1()), hashes.SHA256(), "secp224r1"),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256(), "secp256k1"),
        (dsa.generate_private_key(2048), hashes.SHA256(), "RSA"),
        (KEY, hashes.SHA224(), "sha224"),
    ],
    ids=["rsa1024", "exponent3", "p224", "k1", "dsa", "sha224"],
)
def test_weak_keys_are_refused(key: Any, digest: Any, said: str) -> None:
    with pytest.raises(Invalid, match=re.escape(said)):
        signed(request(key=key, digest=digest))


# Made with openssl req -new -subj /CN=admin, -sha1 on P-256 and -md5 with RSA: the library makes none any more.
OLD_REQUESTS = {
    "sha1": """-----BEGIN CERTIFICATE REQUEST-----
MIHKMHICAQAwEDEOMAwGA1UEAwwFYWRtaW4wWTATBgcqhkjOPQIBBggqhkjOPQMB
BwNCAAQYrpAyjKsBFCgQTYv5upvxQYcJjSE0OIRDYhdALpWFdgCp/2mx4jP8tPtZ
DEQxsC2/wImza3alg021HRrX9e9moAAwCQYHKoZIzj0EAQNJADBGAiEA1LRSJaxj
WPLEJhK0katQGyA03zR1aCaqxs3EQRS52UsCIQD6fhmhVJQqxRAP35JSQaxI9hQI
VOfBCeMKte1o1TTwdA==
-----END CERTIFICATE REQUEST-----""",
    "md5": """-----BEGIN CERTIFICATE REQUEST-----
MIICVTCCAT0CAQAwEDEOMAwGA1UEAwwFYWRtaW4wggEiMA0GCSqGSIb3DQEBAQUA
A4IBDwAwggEKAoIBAQDLhhd/VzQj5nZ9W5XQcGTxK7ilOUlQjII5B9yn7A/wQF0Q
Q407KCzIR2iAZa2JXIYVXWFA2g7yJjpeWBVD6LFxgDyTj+i0J16qkfRWo0FxtOF+
PULK2DMdFUbwZ1zkbod4NrHSmXN0z8HJO/nMGwbwmOZ91Gw0K1w/SfoJFnK4pM16
J+1qdDTUU5tFPxbIF3SUzz6ljbDfOD4iK5D3iOprA8nZ+Qw5j0AFnSH6leTjz+Ob
wOeQHDdtlL773tl8SY4qtlxG0ZrUAHBbdoESyZtC/3IB1GWAKD9dmgeos0uEJPn7
jOkoSUnuV+Ivs9akzjkdWO/ztMiFnEywbgszsgbJAgMBAAGgADANBgkqhkiG9w0B
AQQFAAOCAQEAhIuHbhwZONazcS6GsUygwMv5sva6l3EMGRcWo+Xn6lOkux4qaAZ8
vZl24XK5ZGbJMI70pjRnpls7HNzj/Q47ZQRJwXiaKB/hDWsExXEQA67p91B//itC
GVT4GbHXjN87GFsEJG2eblmigqQyOgjmczbHJjwVS8J/T3OfY4eCxVLiQQO4nliY
brYqegPPUH0uJzQsLm8jKbZJwd6ekgcXOsrfmClVoc0aOMRoUteeph1Ngbnv42gH
PD4vTPAPS0+si3Ek2BcndKN8bOua4PHgVTkWkWPai1540cqW2+l8/esWBkDC1ATe
sp+fegwnKMmOpTr5hSZPy/OOaAQmbmjibg==
-----END CERTIFICATE REQUEST-----""",
}


@pytest.mark.parametrize("digest", OLD_REQUESTS)
def test_hashes_that_are_broken_are_refused(digest: str) -> None:
    with pytest.raises(Invalid, match=f"signed with {digest}; use sha256"):
        signed(OLD_REQUESTS[digest])


def test_a_request_for_somebody_elses_key_is_refused() -> None:
    """The last bytes are the signature: without the key nobody can make a good one."""
    der = bytearray(x509.load_pem_x509_csr(request().encode()).public_bytes(serialization.Encoding.DER))
    found = bytes(der).find(b"admin")
    der[found : found + 5] = b"Admin"
    csr = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Invalid, match="its own key"):
        signed(csr)


REQUEST = request()
ASKED_FOR = (
    x509.BasicConstraints(ca=True, path_length=None),
    x509.SubjectAlternativeName([x509.DNSName("kubernetes.default")]),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]),
    x509.KeyUsage(True, False, False, False, False, True, True, False, False),
    x509.SubjectKeyIdentifier(b"\1" * 20),
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"),
)


@pytest.mark.parametrize("extension", ASKED_FOR, ids=lambda extension: type(extension).__name__)
def test_no_extension_is_copied(extension: x509.ExtensionType) -> None:
    plain = signed(request())
    found = signed(request(extensions=((extension, False),)))
    assert [x.value for x in found.extensions] == [x.value for x in plain.extensions]
    with pytest.raises(Invalid, match=re.escape(extension.oid.dotted_string)):
        signed(request(extensions=((extension, True),)))


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ({}, "common name"),
        ({NameOID.ORGANIZATION_NAME: "o"}, "common name"),
        ({NameOID.COMMON_NAME: " "}, "common name"),
        ({NameOID.COMMON_NAME: "demo"}, "authority itself"),
        (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.COMMON_NAME, "b")]),
            "no more than one",
        ),
    ],
)
def test_subjects_that_are_refused(subject: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        signed(request(subject))


def test_names_of_kubernetes_own_can_be_left_to_others() -> None:
    with pytest.raises(Invalid, match="does not let you claim system:masters"):
        signed(request(), system=False)
    with pytest.raises(Invalid, match="does not let you claim system:node:a"):
        signed(request({NameOID.COMMON_NAME: "system:node:a"}), system=False)
    check_trust(signed(request(), system=True), AUTHORITY)
    check_trust(signed(request({NameOID.COMMON_NAME: "joe"}), system=False), AUTHORITY)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    late = NOW + VALIDITY - timedelta(days=1)
    found = signed(request(), now=late)
    assert found.not_valid_after_utc == NOW + VALIDITY
    check_trust(found, AUTHORITY, at=late)
    with pytest.raises(Invalid, match="run out"):
        signed(request(), now=NOW + VALIDITY)


def test_rotation() -> None:
    before = signed(request())
    rotation = rotate(AUTHORITY, NOW)
    after = signed(request(), rotation.authority)
    assert certificate_of(rotation.authority).subject == certificate_of(AUTHORITY).subject
    assert certificate_of(rotation.authority).public_key() != certificate_of(AUTHORITY).public_key()
    check_trust(after, rotation.authority)
    for one, other in ((before, rotation.authority), (after, AUTHORITY)):
        with pytest.raises(VerificationError):
            check_trust(one, other)
        check_trust(one, rotation.authority, AUTHORITY)  # while the nodes change over
    trusted = x509.load_pem_x509_certificates(rotation.trusted.encode())
    assert trusted == [certificate_of(rotation.authority), certificate_of(AUTHORITY)]


@given(st.text())
def test_any_text_is_signed_or_refused(text: str) -> None:
    with pytest.raises(Invalid, match="csr"):
        signed(text)


KEYS: dict[str, Any] = {
    "P-256": KEY,
    "P-192": ec.generate_private_key(ec.SECP192R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA 1024": WEAK_KEY,
    "DSA": dsa.generate_private_key(2048),
}
SUBJECTS = st.lists(
    st.builds(
        x509.NameAttribute,
        st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME]),
        st.sampled_from(["admin", "demo", "system:masters", "system:node:a", "System:masters", " "])
        | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=9),
    ),
    max_size=4,
)


@settings(deadline=None)
@given(SUBJECTS, st.sampled_from(sorted(KEYS)), st.sets(st.sampled_from(ASKED_FOR)), st.booleans(), st.booleans())
def test_whatever_is_asked_for_only_key_and_subject_are_the_requests(
    names: list[x509.NameAttribute[str]], kind: str, asked_for: set[Any], critical: bool, system: bool
) -> None:
    subject, key = x509.Name(names), KEYS[kind]
    digest = None if kind == "Ed25519" else hashes.SHA256()
    try:
        found = signed(request(subject, key, digest, tuple((one, critical) for one in asked_for)), system=system)
    except Invalid:
        return
    assert kind in ("P-256", "Ed25519")
    assert not (critical and asked_for)
    assert found.subject == subject != certificate_of(AUTHORITY).subject
    assert system or not any(str(name.value).startswith("system:") for name in names)
    assert found.public_key() == key.public_key()
    plain = signed(request(key=key, digest=digest))
    assert [x.value for x in found.extensions] == [x.value for x in plain.extensions]


def test_a_huge_request_is_not_looked_at() -> None:
    with pytest.raises(Invalid, match=str(LARGEST_REQUEST)):
        signed("x" * (LARGEST_REQUEST + 1))


@settings(deadline=None)
@given(st.data())
def test_a_damaged_request_is_signed_or_refused(data: st.DataObject) -> None:
    """Whatever is changed in a good request: no other error, and never another's key or more rights."""
    text = REQUEST
    place = data.draw(st.integers(28, len(text) - 28))
    damaged = text[:place] + data.draw(st.characters(codec="ascii")) + text[place + 1 :]
    with contextlib.suppress(Invalid):
        found = signed(damaged)
        assert found.public_key() == KEY.public_key()
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=16))
def test_any_name_is_copied_as_it_is_or_refused(name: str) -> None:
    with contextlib.suppress(Invalid):
        found = signed(request({NameOID.COMMON_NAME: name}))
        assert found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name


def test_a_servers_certificate_is_for_its_addresses() -> None:
    made = issue(AUTHORITY, "node", hosts=["10.1.2.3", "node.test"], server=True, client=False, now=NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate.encode())
    store = Store([x509.load_pem_x509_certificate(AUTHORITY.certificate.encode())])
    judge = PolicyBuilder().store(store).time(NOW)
    for name in (x509.IPAddress(ip_address("10.1.2.3")), x509.DNSName("node.test")):
        judge.build_server_verifier(name).verify(certificate, [])
    with pytest.raises(VerificationError):
        judge.build_server_verifier(x509.IPAddress(ip_address("10.1.2.4"))).verify(certificate, [])
    with pytest.raises(VerificationError):
        judge.build_client_verifier().verify(certificate, [])
    key = serialization.load_pem_private_key(made.key.encode(), None)
    assert key.public_key() == certificate.public_key()
    assert "PRIVATE" not in repr(made)


def test_a_certificate_of_our_own_for_a_client() -> None:
    made = issue(AUTHORITY, "caisson", organizations=["system:masters"], now=NOW)
    (certificate,) = x509.load_pem_x509_certificates(made.certificate.encode())
    assert certificate.subject.rfc4514_string() == "CN=caisson,O=system:masters"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]

"""A cluster's certificate authorities: making one, signing a request for a client's certificate, and rotation.

Pure functions over PEM text; the caller keeps private keys sealed (`app.vault`) and decides who may ask. Shapes follow
magnum-api, section 9, but stricter: what a certificate may be used for is said here and never taken from the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.errors import Invalid

VALIDITY = timedelta(days=1825)
BACKDATED = timedelta(days=1)  # for nodes and clients whose clocks are behind
RSA_BITS = (2048, 8192)
LARGEST_REQUEST = 64 * 1024  # characters
LONGEST_NAME = 64  # bytes; what X.509 allows for a common name
SYSTEM = "system:"  # how the names of Kubernetes' own users and groups begin

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificate, and its private key, which is a secret (PKCS 8 in PEM)."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate of an end and its private key, which is a secret (PKCS 8 in PEM)."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new authority, and the certificates that nodes trust until every one of them has changed over."""

    authority: Authority
    trusted: str


def make_authority(name: str, now: datetime | None = None) -> Authority:
    """A self-signed authority for the cluster called `name`, on P-256, good for five years.

    It signs certificates of ends only: no authority below it is valid.
    """
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    common = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _pem_of_key(key))


def sign(authority: Authority, request: str, *, system: bool = True, now: datetime | None = None) -> str:
    """A client's certificate for a signing request in PEM; stripped PEM.

    Key and subject are the request's. Of its extensions none is copied: the certificate is for an end, for TLS clients.
    One that is marked critical is refused, since it would be left out. Without `system` the subject may not claim the
    names of Kubernetes' own users and groups. The certificate does not outlive its authority.

    Raises Invalid for a request that cannot be read or comes with its private key, whose signature is not by its key,
    whose key or hash is weak, or whose subject is not permitted; and when the authority itself has run out.
    """
    now = now or datetime.now(UTC)
    if "PRIVATE KEY" in request:
        raise Invalid("csr: it holds a private key, which nobody else may see: make another and send its request alone")
    asked = _read(request)
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    public_key = _strong_key(asked)
    _check_subject(asked.subject, issuer.subject, system)
    return _pem(_certify(authority, asked.subject, public_key, [ExtendedKeyUsageOID.CLIENT_AUTH], (), now))


def issue(
    authority: Authority,
    name: str,
    *,
    organizations: Sequence[str] = (),
    hosts: Sequence[str] = (),
    server: bool = False,
    client: bool = True,
    now: datetime | None = None,
) -> Certified:
    """A new key on P-256 and its certificate, for an end of our own: a node, or a part of what runs on it.

    `hosts` are the addresses and host names that a server is reached by. Raises Invalid when the authority has run out.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    certificate = _certify(authority, subject, key.public_key(), uses, hosts, now or datetime.now(UTC))
    return Certified(_pem(certificate), _pem_of_key(key))


def rotate(old: Authority, now: datetime | None = None) -> Rotation:
    """A new authority of the same name with a new key; nodes trust both until all have certificates of the new one."""
    issuer = x509.load_pem_x509_certificate(old.certificate.encode())
    name = issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    new = make_authority(str(name), now)
    return Rotation(new, f"{new.certificate}\n{old.certificate}")


def _certify(
    authority: Authority,
    subject: x509.Name,
    public_key: PublicKey,
    uses: Sequence[x509.ObjectIdentifier],
    hosts: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    """A certificate for an end. It does not outlive its authority."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    if issuer.not_valid_after_utc <= now:
        raise Invalid("The certificate authority of this cluster has run out: rotate it first.")
    key = serialization.load_pem_private_key(authority.key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("an authority's key is on an elliptic curve")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + VALIDITY, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_identifier_of(issuer), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return builder.sign(key, hashes.SHA256())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


_UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)  # fmt: skip


def _read(request: str) -> x509.CertificateSigningRequest:
    if len(request) > LARGEST_REQUEST:
        raise Invalid(f"csr: a signing request may have {LARGEST_REQUEST} characters")
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        signed = asked.is_signature_valid
        extensions = list(asked.extensions)
        digest = asked.signature_hash_algorithm
    except _UNREADABLE:
        raise Invalid("csr: this is not a certificate signing request in PEM that can be read") from None
    # First, since the library may call a signature with a weak hash a wrong one.
    if digest is not None and not isinstance(digest, _HASHES):
        raise Invalid(f"csr: signed with {digest.name}; use sha256, sha384 or sha512")
    if not signed:
        raise Invalid("csr: its signature was not made with its own key")
    for extension in extensions:
        if extension.critical:
            raise Invalid(f"csr: the critical extension {extension.oid.dotted_string} cannot be granted; leave it out")
    return asked


def _strong_key(asked: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = asked.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid("csr: its key is of no known kind") from None
    if isinstance(key, rsa.RSAPublicKey):
        least, most = RSA_BITS
        if not least <= key.key_size <= most:
            raise Invalid(f"csr: an RSA key must have from {least} to {most} bits; this has {key.key_size}")
        if key.public_numbers().e < 65537:
            raise Invalid("csr: the exponent of an RSA key must be 65537 or more")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            raise Invalid(f"csr: a key on {key.curve.name} is not taken; use P-256, P-384 or P-521")
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise Invalid("csr: keys are RSA, on a NIST curve, or Ed25519")


def _check_subject(subject: x509.Name, issuer: x509.Name, system: bool) -> None:
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not str(names[0].value).strip():
        raise Invalid("csr: the subject needs one common name (CN), and no more than one")
    if subject == issuer:
        raise Invalid("csr: the subject is that of the certificate authority itself")
    for attribute in subject:
        if not system and str(attribute.value).startswith(SYSTEM):
            raise Invalid(
                f"csr: the policy does not let you claim {str(attribute.value)[:64]}: names that begin with {SYSTEM} "
                "are Kubernetes' own"
            )


def _identifier_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _usage(
    *, digital_signature: bool = False, key_encipherment: bool = False, key_cert_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode().strip()

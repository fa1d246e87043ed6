"""Keystone when it is not there, broken or slow, and JWS tokens that are refused before it is asked.

The real Keystone's own answers are in tests/e2e/test_identity_keystone.py.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jose import jwt
from pydantic import SecretStr

from app.auth import EXPIRED_TOKEN, UNKNOWN_TOKEN
from app.errors import Busy, Invalid, Unauthorized
from app.keystone import Keystone
from app.settings import KeystoneSettings


class Peer:
    """A TCP server that answers every connection with the same bytes, or with nothing at all, and counts them."""

    def __init__(self, answer: bytes | None) -> None:
        self.connections = 0
        self._answer = answer
        self._held: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address while it listens."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v3"
        finally:
            server.close()
            for writer in self._held:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._held.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if self._answer is not None:
                writer.write(self._answer)
                await writer.drain()
                writer.close()


def http(status: str, headers: str = "", content: bytes = b"") -> bytes:
    """A whole HTTP answer."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n".encode() + content
    )


def settings(url: str, **more: Any) -> KeystoneSettings:
    return KeystoneSettings(url=url, username="caisson", password=SecretStr("svcpw"), **({"timeout": 5.0} | more))


@asynccontextmanager
async def keystone(url: str, **more: Any) -> AsyncIterator[Keystone]:
    source = Keystone(settings(url, **more))
    try:
        yield source
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("shown", "uri", "expected"),
    [
        ("http://127.0.0.1:35000/v3", None, "http://127.0.0.1:35000"),
        ("http://127.0.0.1:35000/v3/", None, "http://127.0.0.1:35000"),
        ("https://cloud/identity/v3", None, "https://cloud/identity"),
        ("http://inner/v3", "https://outer/identity/v3", "https://outer/identity"),
        ("http://inner/v3", "https://outer/", "https://outer"),
    ],
)
async def test_a_401_names_keystone_without_its_version(shown: str, uri: str | None, expected: str) -> None:
    async with keystone(shown, www_authenticate_uri=uri) as source:
        assert source.www_authenticate == f'Keystone uri="{expected}"'


# Nobody there


async def test_a_keystone_that_does_not_listen_means_busy() -> None:
    async with Peer(None).served() as url:
        pass
    async with keystone(url) as source:
        with pytest.raises(Busy):
            await source.validate("token")


async def test_a_name_that_does_not_exist_means_busy() -> None:
    async with keystone("http://keystone.invalid/v3") as source:
        with pytest.raises(Busy):
            await source.validate("token")


async def test_a_keystone_that_never_answers_means_busy_for_all_who_wait() -> None:
    peer = Peer(None)
    async with peer.served() as url, keystone(url, timeout=0.2) as source:
        results = await asyncio.gather(*(source.validate(f"token{n}") for n in range(10)), return_exceptions=True)
    assert [type(result) for result in results] == [Busy] * 10
    # They do not each try to log in, one after the other.
    assert peer.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        http("500 Internal Server Error"),
        http("502 Bad Gateway", content=b"<html>"),
        http("503 Service Unavailable"),
        http("429 Too Many Requests"),
        http("401 Unauthorized", content=b"{}"),
        http("403 Forbidden"),
        http("404 Not Found"),
        http("301 Moved Permanently", "Location: http://127.0.0.1:1/\r\n"),
        http("200 OK", content=b"not a Keystone"),
        http("201 Created", content=b"{}"),
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
    ids=lambda answer: answer.split(b"\r\n")[0].decode() or "nothing",
)
async def test_whatever_else_meets_our_own_login_is_never_the_users_fault(answer: bytes) -> None:
    async with Peer(answer).served() as url, keystone(url) as source:
        with pytest.raises(Busy):
            await source.validate("token")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b'{"token": null}', b'{"token": "x"}', b"\xff\xfe", b"{"], ids=repr
)
async def test_an_answer_without_a_token_object_means_busy(content: bytes) -> None:
    class Changing(Peer):
        """Lets us log in, and answers the question itself with nonsense."""

        async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            login = http("201 Created", "X-Subject-Token: own\r\n", b"{}")
            self._answer = http("200 OK", content=content) if self.connections else login
            await super()._accept(reader, writer)

    peer = Changing(None)
    async with peer.served() as url, keystone(url) as source:
        with pytest.raises(Busy):
            await source.validate("token")
    assert peer.connections == 2


@pytest.mark.parametrize("setting", ["ca_file", "jws_public_keys"])
async def test_a_file_that_is_not_there_is_named(setting: str, tmp_path: Path) -> None:
    path = tmp_path / "absent.pem"
    value = path if setting == "ca_file" else [path]
    with pytest.raises(Invalid, match="keystone"):
        Keystone(settings("http://127.0.0.1:1/v3", **{setting: value}))


# JWS


class Signer:
    """A key pair like Keystone's, and tokens like Keystone's."""

    def __init__(self, folder: Path, name: str = "public") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.public)

    def token(self, **claims: Any) -> str:
        now = int(time.time())
        standard = {"sub": "u1", "iat": now, "exp": now + 600, "openstack_methods": ["password"]}
        return str(jwt.encode(standard | claims, self.private, algorithm="ES256"))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def b64(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def unsigned(signer: Signer) -> str:
    return f"{b64({'alg': 'none', 'typ': 'JWT'})}.{signer.token().split('.')[1]}."


def unsigned_with_a_signature(signer: Signer) -> str:
    _, claims, signature = signer.token().split(".")
    return f"{b64({'alg': 'none'})}.{claims}.{signature}"


def by_another_key(signer: Signer) -> str:
    return Signer(signer.file.parent, "other").token()


def hmac_with_the_public_key(signer: Signer) -> str:
    """The classic confusion: the verifier's public key used as a shared secret."""
    _, claims, _ = signer.token().split(".")
    signing = f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{claims}"
    signature = hmac.new(signer.public, signing.encode(), hashlib.sha256).digest()
    return f"{signing}.{b64(signature)}"


def with_other_claims(signer: Signer) -> str:
    head, claims, signature = signer.token().split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return f"{head}.{b64(content | {'sub': 'somebody-else'})}.{signature}"


def with_a_broken_signature(signer: Signer) -> str:
    head, claims, signature = signer.token().split(".")
    return f"{head}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def with_a_header_of_lists(signer: Signer) -> str:
    _, claims, signature = signer.token().split(".")
    return f"{b64({'alg': ['ES256']})}.{claims}.{signature}"


def nested_until_a_parser_breaks(signer: Signer) -> str:
    _, claims, signature = signer.token().split(".")
    return f"{b64(b'[' * 11_000)}.{claims}.{signature}"


def without_expiry(signer: Signer) -> str:
    return str(jwt.encode({"sub": "u1"}, signer.private, algorithm="ES256"))


FORGERIES = [
    unsigned, unsigned_with_a_signature, by_another_key, hmac_with_the_public_key, with_other_claims,
    with_a_broken_signature, with_a_header_of_lists, nested_until_a_parser_breaks, without_expiry,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
async def test_a_forged_jws_is_refused_before_keystone_is_asked(signer: Signer, forge: Callable[[Signer], str]) -> None:
    peer = Peer(http("500 Internal Server Error"))
    async with peer.served() as url, keystone(url, jws_public_keys=[signer.file]) as source:
        with pytest.raises(Unauthorized, match=UNKNOWN_TOKEN):
            await source.validate(forge(signer))
    assert peer.connections == 0


async def test_an_expired_jws_is_refused_before_keystone_is_asked(signer: Signer) -> None:
    peer = Peer(http("500 Internal Server Error"))
    async with peer.served() as url, keystone(url, jws_public_keys=[signer.file]) as source:
        with pytest.raises(Unauthorized, match=EXPIRED_TOKEN):
            await source.validate(signer.token(exp=int(time.time()) - 1))
    assert peer.connections == 0


async def test_a_good_jws_by_any_of_the_keys_is_still_asked_about(signer: Signer, tmp_path: Path) -> None:
    older = Signer(tmp_path, "older")
    for one in (signer, older):
        peer = Peer(http("500 Internal Server Error"))
        async with peer.served() as url, keystone(url, jws_public_keys=[signer.file, older.file]) as source:
            with pytest.raises(Busy):
                await source.validate(one.token())
        assert peer.connections == 1


@pytest.mark.parametrize("token", ["gAAAAABfernet-like_token", "no.dots"])
async def test_what_is_no_jws_is_left_to_keystone(signer: Signer, token: str) -> None:
    peer = Peer(http("500 Internal Server Error"))
    async with peer.served() as url, keystone(url, jws_public_keys=[signer.file]) as source:
        with pytest.raises(Busy):
            await source.validate(token)
    assert peer.connections == 1


def rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_of_another_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("make", [rsa_key, key_of_another_curve, private_key, bytes])
def test_a_key_that_cannot_check_es256_is_refused_at_the_start(make: Callable[[], bytes], tmp_path: Path) -> None:
    file = tmp_path / "wrong.pem"
    file.write_bytes(make())
    with pytest.raises(Invalid, match="not a P-256 public key"):
        Keystone(settings("http://127.0.0.1:1/v3", jws_public_keys=[file]))

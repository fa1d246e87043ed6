"""Tokens that are signed: whatever comes instead of one is refused, and nothing else happens."""

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jose import jws

from app.auth import verified_claims
from app.errors import Unauthorized

_KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = _KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(time.time() + 3600) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CLAIMS = st.dictionaries(st.sampled_from(["exp", "sub", "iat", "nbf", "aud", "iss", "jti"]), JSON, max_size=5)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@given(st.text(max_size=40) | st.from_regex(r"[\w-]{0,20}\.[\w-]{0,20}\.[\w-]{86}"))
def test_any_text_is_no_token(token: str) -> None:
    with pytest.raises(Unauthorized):
        verified_claims(token, [PUBLIC])


@given(JSON | st.fixed_dictionaries({"alg": st.sampled_from(["ES256", "none", "HS256", "RS256"])}), CLAIMS | JSON)
def test_what_nobody_signed_is_no_token(header: Any, claims: Any) -> None:
    with pytest.raises(Unauthorized):
        verified_claims(f"{part(header)}.{part(claims)}.{'A' * 86}", [PUBLIC])


@given(CLAIMS)
def test_signed_claims_that_make_no_sense_are_no_token(claims: dict[str, Any]) -> None:
    """Only our key makes them, but claims of any shape: what counts has a holder and ends in the future."""
    token = jws.sign(json.dumps(claims).encode(), PRIVATE, algorithm="ES256")
    try:
        found = verified_claims(token, [PUBLIC])
    except Unauthorized:
        return
    assert isinstance(found["sub"], str)
    assert found["exp"] > time.time()

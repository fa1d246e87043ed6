"""Pure parts of what streams: where text may be cut, the JSON of a log, addresses."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Forbidden, Invalid
from app.routers.container_streams import json_text
from app.settings import Settings
from app.streams import address, check_origin, whole

TEXTS = ["", "plain\n", "é", "世界", "😀", '"\\\x00\x1b[0m\u2028', "a😀", "\ufffd"]
PIECES = st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([text.encode() for text in TEXTS])), max_size=12)


async def _written(pieces: Sequence[bytes]) -> list[bytes]:
    async def rest() -> AsyncIterator[bytes]:
        for piece in pieces[1:]:
            yield piece

    return [chunk async for chunk in json_text(pieces[0] if pieces else b"", rest())]


@given(PIECES)
def test_a_log_in_pieces_is_the_json_of_the_whole(pieces: list[bytes]) -> None:
    written = b"".join(asyncio.run(_written(pieces)))
    assert json.loads(written) == b"".join(pieces).decode(errors="replace")


@given(st.text(max_size=20), st.integers(0, 60))
def test_a_cut_is_never_within_a_character(text: str, at: int) -> None:
    data = text.encode()[:at]
    end = whole(data)
    assert text.startswith(data[:end].decode())
    assert len(data) - end < 4


@given(st.binary(max_size=40))
def test_what_waits_may_still_become_a_character(data: bytes) -> None:
    rest = data[whole(data) :]
    assert len(rest) < 4
    if rest:
        assert rest[0] >= 0xC0
        assert all(0x80 <= byte < 0xC0 for byte in rest[1:])


@pytest.mark.parametrize(
    ("base", "found"),
    [
        ("http://h", "ws://h:80/container/websocket?token=t&uuid=u"),
        ("https://h", "wss://h:443/container/websocket?token=t&uuid=u"),
        ("http://h:9517/", "ws://h:9517/container/websocket?token=t&uuid=u"),
        ("https://[2001:db8::1]/a/b/", "wss://[2001:db8::1]:443/a/b/container/websocket?token=t&uuid=u"),
    ],
)
def test_addresses_always_have_a_port(base: str, found: str) -> None:
    assert address(base, "t", "u", None) == found
    assert address(base, "t", "u", "e") == f"{found}&exec_id=e"


PARTS = [
    "http://", "https://", "//", "[", "]", "::1", "own.test", "OWN.test", "public.test", "horizon.test", "x", "@", ":",
    "80", "/", "\xff", " ",
]  # fmt: skip
ORIGINS = st.text(max_size=20) | st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join)
KNOWN = [
    (Settings(), "http", {"own.test"}),
    (
        Settings(public_url="https://public.test", allowed_origins=["horizon.test"]),
        "https",
        {"own.test", "public.test", "horizon.test"},
    ),
]


@given(st.lists(ORIGINS, max_size=2), st.sampled_from(KNOWN))
def test_only_pages_of_known_hosts_open_websockets(origins: list[str], known: tuple[Settings, str, set[str]]) -> None:
    settings, scheme, hosts = known
    headers = [(b"host", b"own.test:80"), *((b"origin", one.encode()) for one in origins)]
    try:
        check_origin({"type": "websocket", "scheme": "ws", "headers": headers}, settings)
    except Forbidden:
        return
    assert len(origins) < 2
    for origin in map(urlsplit, origins):
        assert (origin.scheme, origin.hostname in hosts) == (scheme, True)


@pytest.mark.parametrize("base", ["http://h:x", "ftp://h", "http://h:99999", "http://[h"])
def test_addresses_that_are_none(base: str) -> None:
    with pytest.raises(Invalid):
        address(base, "t", "u", None)

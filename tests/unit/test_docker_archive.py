"""Tars of images from strangers: nothing but the one name that Caisson gives reaches the engine."""

import io
import json
import tarfile
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.docker.archive import renamed
from app.errors import Refused

NAME = "caisson.invalid/glance:1"
LISTED = json.dumps([{"Config": "c.json", "RepoTags": ["busybox:latest"], "Layers": ["a/layer.tar"]}]).encode()


async def pieces(content: bytes, size: int = 512) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def through(content: bytes, size: int = 512) -> dict[str, list[bytes]]:
    """The files that an engine gets, in order, by name."""
    out = b"".join([chunk async for chunk in renamed(pieces(content, size), NAME)])
    files: dict[str, list[bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        for info in tar:
            taken = tar.extractfile(info) if info.isfile() else None
            files.setdefault(info.name, []).append(taken.read() if taken else b"")
    return files


def tar_of(*entries: tuple[str, bytes], form: int = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    """A tar; `fields` are set on its first entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (name, content) in enumerate(entries):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items() if number == 0 else ():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["manifest.json", "./manifest.json", "/manifest.json", "a/../manifest.json"])
async def test_only_our_list_is_left(name: str, form: int) -> None:
    long = "x" * 90 + "/" + "y" * 60
    files = await through(
        tar_of((name, LISTED), ("repositories", b"{}"), ("index.json", b"{}"), (long, b"kept"), form=form)
    )
    assert {key: len(found) for key, found in files.items()} == {"manifest.json": 1, long: 1}
    assert json.loads(files["manifest.json"][0]) == [json.loads(LISTED)[0] | {"RepoTags": [NAME]}]
    assert files[long] == [b"kept"]


async def test_a_name_in_an_extended_header_is_the_name() -> None:
    content = tar_of(("innocent", LISTED), form=tarfile.PAX_FORMAT, pax_headers={"path": "manifest.json"})
    assert list(await through(content)) == ["manifest.json"]
    hidden = tar_of(("manifest.json", LISTED)), tar_of(("index.json", b"{}"), pax_headers={"path": "kept"}, form=2)
    assert list(await through(hidden[0].rstrip(b"\0").ljust(1024, b"\0") + hidden[1])) == ["kept", "manifest.json"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["folder", "manifest.json", "index.json"])
async def test_links_and_devices_are_refused(name: str, kind: bytes) -> None:
    with pytest.raises(Refused, match="not accepted"):
        await through(tar_of((name, b""), ("other.json", LISTED), type=kind, linkname="other.json"))


async def test_a_layer_that_is_a_link_to_another_is_how_docker_saves() -> None:
    entries = tar_of(("b/layer.tar", b""), ("manifest.json", LISTED), type=tarfile.SYMTYPE, linkname="../a/layer.tar")
    assert list(await through(entries)) == ["b/layer.tar", "manifest.json"]


@given(st.binary(max_size=2000))
async def test_any_bytes_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(Refused, match="archive"):
        await through(content)


@given(st.data())
async def test_a_damaged_archive_is_refused_or_harmless(data: st.DataObject) -> None:
    content = bytearray(tar_of(("c.json", b"{}"), ("a/layer.tar", b"layer" * 200), ("manifest.json", LISTED)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        files = await through(bytes(content), data.draw(st.integers(1, 3000)))
    except Refused:
        return
    (listed,) = json.loads(files["manifest.json"][-1])
    assert listed["RepoTags"] == [NAME]


NINES = b"9" * 5000  # more than int() reads
RECORDS = st.sampled_from(
    [NINES + b" a=b\n", b"8 size=" + NINES, b"5011 size=" + NINES + b"\n", b"10 size=7\n", b"11 size=-1\n", b"6 a=b\n",
     b"22 path=manifest.json\n", b"\xc2\xb2 a=b\n"]
)  # fmt: skip


@given(st.lists(RECORDS | st.binary(max_size=20), max_size=3))
async def test_any_extended_header_is_refused_or_harmless(records: list[bytes]) -> None:
    extended = tar_of(("header", b"".join(records)), form=tarfile.USTAR_FORMAT, type=tarfile.XHDTYPE)
    content = extended.rstrip(b"\0")
    content += bytes(-len(content) % 512) + tar_of(("a/layer.tar", b"layer"), ("manifest.json", LISTED))
    try:
        files = await through(content)
    except Refused:
        return
    (listed,) = json.loads(files["manifest.json"][-1])
    assert listed["RepoTags"] == [NAME]


async def test_memory_stays_flat_even_for_what_was_packed_very_small() -> None:
    zipped = zlib.compressobj(wbits=31)
    size = 64 * 1024 * 1024
    head = tarfile.TarInfo("a/layer.tar")
    head.size = size
    packed = zipped.compress(head.tobuf()) + zipped.compress(bytes(size))
    packed += zipped.compress(tar_of(("manifest.json", LISTED))) + zipped.flush()
    assert len(packed) < 100_000
    tracemalloc.start()
    length = 0
    async for chunk in renamed(pieces(packed, 65536), NAME):
        length += len(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length > size
    assert peak < 8 * 1024 * 1024

"""What may be in an archive that goes into a container, and what comes out."""

import base64
import bz2
import gzip
import io
import lzma
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archives import decoded, one_file, repacked
from app.errors import Invalid


def packed(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these, each file with as many x as its size says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def read(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        return {found.name: found for found in tar.getmembers()}


def test_plain_members_come_through() -> None:
    sent = packed(
        member(".", tarfile.DIRTYPE, mode=0o755),
        member("./folder", tarfile.DIRTYPE, mode=0o700, uid=1000, gid=1001),
        member("folder//file", size=7, mode=0o4755, mtime=1_700_000_000.5, uid=5),
        member("folder/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("folder/hard", tarfile.LNKTYPE, linkname="folder/file"),
        member("ü" * 120, size=3),
    )
    found = read(repacked(sent))
    assert list(found) == [".", "folder", "folder/file", "folder/link", "folder/hard", "ü" * 120]
    file = found["folder/file"]
    assert (file.size, file.mode, file.mtime, file.uid) == (7, 0o4755, 1_700_000_000, 5)
    assert (found["folder"].mode, found["folder"].uid, found["folder"].gid) == (0o700, 1000, 1001)
    assert found["folder/link"].linkname == "/etc/passwd"
    assert found["folder/hard"].linkname == "folder/file"


def test_an_empty_archive_and_one_of_ours() -> None:
    assert read(repacked(packed())) == {}
    assert list(read(repacked(one_file("/etc/app/config", b"secret")))) == ["etc/app/config"]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("/etc/passwd")], "absolute"),
        ([member("../up")], "leads out"),
        ([member("a/../../up")], "leads out"),
        ([member("a/..")], "leads out"),
        ([member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "device node"),
        ([member("disk", tarfile.BLKTYPE, devmajor=8)], "device node"),
        ([member("pipe", tarfile.FIFOTYPE)], "named pipe"),
        ([member("odd", b"7")], "contiguous"),
        ([member("odd", b"Z")], "unknown type"),
        ([member("l", tarfile.SYMTYPE, linkname="/etc"), member("l/passwd", size=1)], "behind a symbolic link"),
        ([member("d/l", tarfile.SYMTYPE, linkname=".."), member("./d//l/x/y", size=1)], "behind a symbolic link"),
        ([member("h", tarfile.LNKTYPE, linkname="/etc/shadow")], "absolute"),
        ([member("h", tarfile.LNKTYPE, linkname="../shadow")], "leads out"),
        ([member("h", tarfile.LNKTYPE, linkname="elsewhere")], "came before"),
        (
            [member("l", tarfile.SYMTYPE, linkname="/etc/shadow"), member("h", tarfile.LNKTYPE, linkname="l")],
            "came before",
        ),
        ([member("a" * 256)], "255"),
        ([member("/".join(["a" * 100] * 50))], "4096"),
        ([member("s", tarfile.SYMTYPE, linkname="b" * 5000)], "4096"),
        ([member("late", mtime=2**40)], "time"),
        ([member("who", uid=2**31)], "owner"),
    ],
)
def test_what_must_not_be_in_it_is_named(members: list[tarfile.TarInfo], why: str) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        repacked(packed(member("good", size=1), *members))
    assert repr(members[-1].name[:200]) in refused.value.title


def test_a_sparse_file_is_refused() -> None:
    odd = packed(member("sparse", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}, size=1))
    with pytest.raises(Invalid, match="sparse"):
        repacked(odd)
    with pytest.raises(Invalid, match="sparse"):
        repacked(packed(member("sparse", tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT))


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archives_are_refused(squeeze: Any) -> None:
    with pytest.raises(Invalid, match="uncompressed"):
        repacked(squeeze(packed(member("a", size=2**20))))


@pytest.mark.parametrize("keep", [511, 513, 600, 1024])
def test_a_cut_off_archive_is_refused(keep: int) -> None:
    with pytest.raises(Invalid):
        repacked(packed(member("a", size=4000))[:keep])


def test_a_member_before_its_forerunner_is_refused() -> None:
    """A negative size would send a reader back, round and round."""
    archive = bytearray(packed(member("a", size=0), member("b", size=0)))
    archive[512 + 124 : 512 + 136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)
    checksum = sum(archive[512:660]) + sum(archive[668:1024]) + 8 * 32
    archive[660:668] = f"{checksum:06o}\0 ".encode()
    with pytest.raises(Invalid):
        repacked(bytes(archive))


names = st.text(st.sampled_from("ab./é"), min_size=1, max_size=12)
anything = st.builds(
    member,
    names,
    st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"S", b"x"]),
    size=st.integers(0, 600),
    linkname=names,
    mode=st.integers(0, 0o7777),
    mtime=st.integers(0, 2**34),
)


@given(st.lists(anything, max_size=6), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_whatever_passes_is_plain_and_passes_again(members: list[tarfile.TarInfo], format: int) -> None:
    try:
        sent = packed(*members, format=format)
        out = repacked(sent)
    except Invalid as refused:
        assert refused.title.startswith("data: ")  # noqa: PT017
        return
    assert repacked(out) == out
    links: set[str] = set()
    for name, found in read(out).items():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert found.type in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
        assert not any(name.startswith(f"{link}/") for link in links)
        if found.issym():
            links.add(name)
        if found.islnk():
            assert not found.linkname.startswith("/")
            assert ".." not in found.linkname.split("/")


@given(st.binary(max_size=3000), st.integers(0, 3000), st.integers(0, 255))
def test_noise_is_refused_or_read_but_never_fails(noise: bytes, at: int, flip: int) -> None:
    damaged = bytearray(packed(member("a", size=600), member("b" * 130, tarfile.SYMTYPE, linkname="c" * 120)))
    damaged[at % len(damaged)] ^= flip
    damaged[at : at + len(noise)] = noise
    for upload in (noise, bytes(damaged)):
        try:
            repacked(upload)
        except Invalid as refused:
            assert refused.title.startswith("data: ")  # noqa: PT017


@given(st.binary())
def test_base64_both_ways(content: bytes) -> None:
    assert decoded(base64.encodebytes(content).decode(), "data") == content


@pytest.mark.parametrize("text", ["a", "a===", "$$$$", "ä", "YQ"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(Invalid, match="'data'"):
        decoded(text, "data")

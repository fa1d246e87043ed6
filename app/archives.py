"""Tar archives on their way into a container: read by us, refused for what they have no business to hold, packed anew.

Only the new archive reaches an engine. It holds plain files, folders and links, each below the folder that it is
unpacked in, with owner, mode (setuid bits included: a container's owner may set them inside anyway, and they lead
nowhere without new privileges) and time; extended attributes are left behind. Engines unpack within the container's
root, so a symbolic link may point anywhere; but nothing may be written through one that the archive itself brings.
"""

import base64
import binascii
import io
import math
import tarfile

from app.errors import Invalid

MOST_MEMBERS = 100_000
MOST_SECONDS = 2**33  # times later than this, in the year 2242, are nobody's
KINDS = {
    tarfile.CHRTYPE: "a device node",
    tarfile.BLKTYPE: "a device node",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.CONTTYPE: "a contiguous file",
}
_UNREADABLE = (tarfile.TarError, ValueError, OverflowError, RecursionError, LookupError, OSError, TypeError)


def decoded(text: str, field: str) -> bytes:
    """Bytes from base64, line breaks allowed. Raises Invalid naming `field`."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(
            f"Invalid input for field '{field}'. It must be base64.", code="schema-validation-error"
        ) from None


def encoded(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()


def repacked(upload: bytes) -> bytes:
    """A plain archive with what `upload` holds. Raises Invalid naming the member that must not be.

    Takes as long as the upload is large: not for an event loop.
    """
    packed = io.BytesIO()
    links: set[str] = set()
    files: set[str] = set()
    try:
        # Without compression: what is unpacked is then never more than what was sent.
        with tarfile.open(fileobj=io.BytesIO(upload), mode="r:") as source:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target:
                count, reached = 0, -1
                while (member := source.next()) is not None:
                    count += 1
                    if count > MOST_MEMBERS:
                        raise Invalid(f"data: the archive has more than {MOST_MEMBERS} members")
                    if member.offset_data <= reached:
                        raise Invalid(f"data: member {_shown(member)}: it lies before the end of another")
                    reached = member.offset_data
                    plain = _plain(member, links, files)
                    content = source.extractfile(member) if plain.isreg() else None
                    if content is not None and len(body := content.read()) != plain.size:
                        raise Invalid(f"data: member {_shown(member)}: it ends too early, after {len(body)} bytes")
                    target.addfile(plain, io.BytesIO(body) if content is not None else None)
            if source.offset > len(upload) + tarfile.RECORDSIZE:
                raise Invalid("data: the archive ends too early")
    except _UNREADABLE as error:
        raise Invalid(f"data: this is no plain, uncompressed tar archive: {error}") from None
    return packed.getvalue()


def one_file(path: str, content: bytes) -> bytes:
    """An archive for the root folder with a single file, whose folders are made where they are missing."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target:
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size, member.mode = len(content), 0o644
        target.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _plain(member: tarfile.TarInfo, links: set[str], files: set[str]) -> tarfile.TarInfo:
    """The member with nothing but what may pass. `links` and `files` are those that came before it."""
    shown = _shown(member)
    name = _inside(member.name, shown, "name")
    if any(parent in links for parent in _parents(name)):
        raise Invalid(f"data: member {shown}: it lies behind a symbolic link of the same archive")
    plain = tarfile.TarInfo(name)
    if member.sparse is not None or member.type in KINDS:
        raise Invalid(f"data: member {shown} is {KINDS.get(member.type, 'a sparse file')}; take it out of the archive")
    if member.isdir():
        plain.type = tarfile.DIRTYPE
    elif member.issym():
        plain.type, plain.linkname = tarfile.SYMTYPE, _text(member.linkname, shown)
        links.add(name)
    elif member.islnk():
        plain.type, plain.linkname = tarfile.LNKTYPE, _inside(member.linkname, shown, "target")
        if plain.linkname not in files:
            raise Invalid(f"data: member {shown}: a hard link must point at a file that came before it in the archive")
    elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
        plain.size = member.size
        files.add(name)
    else:
        raise Invalid(f"data: member {shown} is of an unknown type")
    if not plain.issym():
        links.discard(name)
    if not plain.isreg():
        files.discard(name)
    if plain.islnk():
        files.add(name)
    if plain.size < 0 or not math.isfinite(member.mtime) or not 0 <= member.mtime < MOST_SECONDS:
        raise Invalid(f"data: member {shown}: its size or time makes no sense")
    if not (0 <= member.uid < 2**31 and 0 <= member.gid < 2**31):
        raise Invalid(f"data: member {shown}: its owner's number makes no sense")
    plain.mode, plain.uid, plain.gid, plain.mtime = member.mode & 0o7777, member.uid, member.gid, int(member.mtime)
    return plain


def _inside(name: str, shown: str, what: str) -> str:
    """A path below the folder that the archive is unpacked in, without detours."""
    _text(name, shown)
    if name.startswith("/"):
        raise Invalid(f"data: member {shown}: its {what} is absolute; it must lie below the path given")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Invalid(f"data: member {shown}: its {what} leads out of the path given")
    return "/".join(parts) or "."


def _text(name: str, shown: str) -> str:
    if not name or "\0" in name or len(name.encode(errors="surrogateescape")) > 4096:
        raise Invalid(f"data: member {shown}: a name must have from 1 to 4096 bytes")
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in name.split("/")):
        raise Invalid(f"data: member {shown}: each part of a path may have 255 bytes")
    return name


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _shown(member: tarfile.TarInfo) -> str:
    return repr(member.name[:200])

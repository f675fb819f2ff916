"""Tar archives: the members in the order in which they stand, read without going back.

POSIX (pax), ustar, GNU and the oldest archives are read, also several one after another. A member
is found by its header alone, so one that is broken costs what lies before the next header, and
reading can start at any member. A member is told by its name, its place among the archive's records
is that of its first record.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar 1.35,
"Basic Tar Format".
"""

import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from corpus.archives import STEP_BYTES, CorruptArchiveError, DecompressionBombError
from corpus.cursor import Cursor
from corpus.records import Damage, Record

_BLOCK_BYTES = tarfile.BLOCKSIZE
_MAGIC_AT, _MAGIC = 257, b"ustar"
# Names that are longer are not taken: Linux ends paths there, and every record notes its file's.
NAME_CHARACTERS = 4096
# Names and attributes that headers before a member's hold in all. Guess.
_ATTRIBUTES_BYTES = 2**20
# Of the attributes, the ones that are asked for.
_ASKED = ("path", "size")
_SPARSE = "GNU.sparse."
_ATTRIBUTES = {
    **dict.fromkeys((tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), "pax"),
    tarfile.GNUTYPE_LONGNAME: "name",
    **dict.fromkeys((tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE), "nothing"),
}

# Gives the records of a member: its name, and a cursor over what it holds.
ReadMember = Callable[[str, Cursor], Iterator[Record | Damage]]


class _Member(NamedTuple):
    """What the headers of a member say; `kind` is that of the last one."""

    name: str
    kind: bytes
    size_bytes: int
    is_sparse: bool

    @property
    def is_file(self) -> bool:
        """Tell whether it is a file with contents of its own."""
        return self.kind in tarfile.REGULAR_TYPES

    @property
    def stored_bytes(self) -> int:
        """Return what follows the header: known kinds that are no file have nothing there."""
        if not self.is_file and self.kind in tarfile.SUPPORTED_TYPES:
            return 0
        return -(-self.size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def read_tar(cursor: Cursor, read_member: ReadMember) -> Iterator[Record | Damage]:
    """Give the records of all members, numbered through, and a drop for every member that is none.

    Directories are passed over.
    """
    while (found := _next_member(cursor)) is not None:
        if isinstance(found, Damage):
            yield from _numbered(cursor, iter((found,)), cursor.offset)
        elif found.kind != tarfile.DIRTYPE:
            records = _records(cursor, found, read_member)
            padding = max(0, found.stored_bytes - found.size_bytes)
            end = cursor.offset + found.stored_bytes
            yield from _numbered(cursor, records, end, padding)
        else:
            cursor.skip(found.stored_bytes)


def _records(cursor: Cursor, member: _Member, read_member: ReadMember) -> Iterator[Record | Damage]:
    if member.is_sparse:
        return iter((Damage(1, "unread_member", f"{member.name}: a sparse file: unpack it"),))
    if not member.is_file:
        return iter((Damage(1, "member_no_file", f"{member.name}: a link, or another thing"),))
    contents = _contents(cursor, member)
    return read_member(member.name, Cursor(contents, growth=cursor.growth))


def _contents(cursor: Cursor, member: _Member) -> Iterator[bytes]:
    left = member.size_bytes
    while left:
        chunk = cursor.read(min(left, STEP_BYTES))
        if not chunk:
            raise CorruptArchiveError("the archive ends within the file")
        left -= len(chunk)
        yield chunk


def _numbered(
    cursor: Cursor, records: Iterator[Record | Damage], end: int, padding: int = 0
) -> Iterator[Record | Damage]:
    """Give the records of a member, the last one when the cursor stands behind the member.

    It may end before `end` by its padding, if the archive ends there.
    """
    held: Record | Damage | None = None
    cursor.is_inside = True
    try:
        for each in records:
            if held is not None:
                yield held
            cursor.position += 1
            held = each._replace(position=cursor.position)
        left = end - cursor.offset
        is_told = isinstance(held, Damage) and held.rule == "corrupt_archive"
        if left - cursor.skip(left) > padding and not is_told:
            raise CorruptArchiveError("the archive ends within the file")
    except (CorruptArchiveError, DecompressionBombError):
        if held is not None:
            yield held
        raise
    cursor.is_inside = False
    if held is not None:
        yield held


def _next_member(cursor: Cursor) -> _Member | Damage | None:
    """Read the headers of the next member; None at the end."""
    known: dict[str, str] = {}
    start, left = cursor.offset, _ATTRIBUTES_BYTES
    is_between = True
    while block := cursor.peek(_BLOCK_BYTES)[:_BLOCK_BYTES]:
        if is_between and not block.strip(b"\0"):
            cursor.skip(len(block))
            start = cursor.offset
            continue
        try:
            head = _parse(block)
            cursor.skip(len(block))
            what = _ATTRIBUTES.get(head.type)
            if what is None:
                return _member(head, known)
            is_between = False
            left -= head.size
            if left < 0:
                raise ValueError(f"more than {_ATTRIBUTES_BYTES} bytes of attributes")
            known |= _attributes(cursor, head.size, what)
        except (tarfile.HeaderError, ValueError) as error:
            return _garbage(cursor, start, str(error))
    return None if is_between else _garbage(cursor, start, "the archive ends within a header")


def _parse(block: bytes) -> tarfile.TarInfo:
    head = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if head.size < 0:
        raise ValueError(f"a size of {head.size}")
    return head


def _member(head: tarfile.TarInfo, known: dict[str, str]) -> _Member:
    name = known.get("path", head.name).encode("utf-8", "surrogateescape")
    size = int(known.get("size", head.size))
    if size < 0:
        raise ValueError(f"a size of {size}")
    is_sparse = head.type == tarfile.GNUTYPE_SPARSE or _SPARSE in known
    shown = name.decode("utf-8", "replace")[: NAME_CHARACTERS + 1]
    return _Member(shown, head.type, size, is_sparse)


def _attributes(cursor: Cursor, size: int, what: str) -> dict[str, str]:
    """Read what stands before a header, for the next one."""
    data = cursor.read(size)
    if len(data) < size:
        raise ValueError("the archive ends within a header")
    cursor.skip(-size % _BLOCK_BYTES)
    if what == "pax":
        return _pax(data)
    name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return {"path": name} if what == "name" else {}


def _pax(data: bytes) -> dict[str, str]:
    """Return what is asked for of a header's attributes, each "LENGTH KEY=VALUE" and a newline."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at)
        stop = at + int(data[at:space] if space > 0 else b"")
        if not space < stop <= len(data):
            raise ValueError("an attribute that does not end")
        key, _, value = data[space + 1 : stop - 1].partition(b"=")
        name = key.decode("utf-8", "replace")
        if name in _ASKED:
            found[name] = value.decode("utf-8", "surrogateescape")
        elif name.startswith(_SPARSE):
            found[_SPARSE] = ""
        at = stop
    return found


def _garbage(cursor: Cursor, start: int, why: str) -> Damage:
    """Go past blocks that are no header; where there is one is told by its magic and checksum."""
    while block := cursor.peek(_BLOCK_BYTES)[:_BLOCK_BYTES]:
        if block[_MAGIC_AT:].startswith(_MAGIC) and _is_header(block):
            break
        cursor.skip(len(block))
    size = cursor.offset - start
    return Damage(1, "invalid_record", f"{size} bytes that are no member of an archive: {why}")


def _is_header(block: bytes) -> bool:
    try:
        return _parse(block) is not None
    except (tarfile.HeaderError, ValueError):
        return False

"""Zip archives: the members in the order of the archive's directory.

A zip is read at any place, as tables are: its directory stands at the end, and is held whole, some
600 bytes a member. A member that is broken costs itself, an entry of the directory that cannot be
decoded costs the archive. Contents are checked by the archive's own checksums.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from corpus.archives import (
    MAX_RATIO,
    STEP_BYTES,
    CorruptArchiveError,
    DecompressionBombError,
    Growth,
)
from corpus.cursor import Cursor
from corpus.records import Damage, Record, bomb
from corpus.tables import Data
from corpus.tars import ReadMember

# General purpose bit flag 0 (APPNOTE.TXT 6.3.10, 4.4.4).
_ENCRYPTED = 1
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, RuntimeError, IndexError, OverflowError),
)
# The others, which are rare, zipfile decompresses without a bound, and by as large a dictionary as
# the archive says.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Members(NamedTuple):
    """Which members of a zip are read, by their numbers, and how many records stand before them."""

    start: int = 0
    stop: int | None = None
    position: int = 0


ALL = Members()


def sizes_of(data: Data) -> list[int]:
    """Return how many bytes each member takes in the archive; none for a broken one."""
    try:
        with _open(data) as archive:
            return [each.compress_size for each in archive.infolist()]
    except CorruptArchiveError:
        return []


def read_zip(
    data: Data, read_member: ReadMember, members: Members = ALL
) -> Iterator[Record | Damage]:
    """Give the records of members, numbered through, and a drop for every member that is none.

    Directories are passed over. An archive that grows beyond all that text can ends with a drop.
    """
    try:
        with _open(data) as archive:
            yield from _read(archive, data, read_member, members)
    except CorruptArchiveError as error:
        yield Damage(members.position + 1, "corrupt_archive", str(error))


def count_records(data: Data, read_member: ReadMember, runs: Iterable[Members]) -> list[int]:
    """Count the records and drops that runs of members give; the directory is read once."""
    with _open(data) as archive:
        return [sum(1 for _ in _read(archive, data, read_member, run)) for run in runs]


def _read(
    archive: zipfile.ZipFile, data: Data, read_member: ReadMember, members: Members
) -> Iterator[Record | Damage]:
    size = data.size()
    growth = Growth(lambda: size)
    position = members.position
    infos = archive.infolist()[members.start : members.stop]
    found = (_records(archive, info, data, read_member, growth) for info in infos)
    try:
        for each in chain.from_iterable(found):
            position += 1
            yield each._replace(position=position)
    except DecompressionBombError as error:
        yield bomb(position + 1, error.ratio, MAX_RATIO)


def _open(data: Data) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(data)
    except _BROKEN as error:
        if data.failure is not None:
            raise data.failure from None
        raise CorruptArchiveError(str(error)) from error


def _records(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    data: Data,
    read_member: ReadMember,
    growth: Growth,
) -> Iterator[Record | Damage]:
    name = info.filename
    if name.endswith("/"):
        return iter(())
    if stat.S_ISLNK(info.external_attr >> 16):
        return iter((Damage(1, "member_no_file", f"{name}: a link"),))
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        why = "encrypted" if info.flag_bits & _ENCRYPTED else f"compression {info.compress_type}"
        return iter((Damage(1, "unread_member", f"{name}: {why}: unpack it"),))
    contents = growth.count(_contents(archive, info, data))
    return read_member(name, Cursor(contents, growth=growth))


def _contents(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: Data) -> Iterator[bytes]:
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(STEP_BYTES):
                yield chunk
    except _BROKEN as error:
        if data.failure is not None:
            raise data.failure from None
        raise CorruptArchiveError(str(error)) from error

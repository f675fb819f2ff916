"""Large files in pieces: several tasks read one file, and together they give exactly its records.

`survey` reads a file once and notes where pieces start: at a record (`position` counts the lines or
records before it), found again by decompressing from the last place where that is possible, `skip`
bytes on. Such a place is any byte of an uncompressed file, any block of a bzip2 file, and the start
of a member of a gzip, zstd, xz or lz4 file. Where members are long, as where there is one only,
pieces start within them, too: to decompress what lies before takes a fraction of what cleaning the
piece does, as long as pieces grow with it. Parquet and Arrow files are split between row groups and
batches, tar and zip archives between the files that they hold. Pieces follow from path, content and
the size asked for only.

Every piece carries the SHA-256 of the raw bytes it is read from, and `survey` that of the file: so
each task checks what it read without reading all.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import accumulate, pairwise
from typing import NamedTuple

from corpus.archives import CorruptArchiveError, DecompressionBombError, InputFile
from corpus.cursor import Cursor
from corpus.delimited import read_header
from corpus.files import checksum, is_remote, size_bytes
from corpus.formats import SEEKING, WHOLE
from corpus.readers import PLAIN, read_from, read_members, read_records, until_broken
from corpus.records import Damage, ReadOptions, Record
from corpus.tables import Data, groups_of, open_table, read_table
from corpus.zips import Members, count_records, read_zip, sizes_of

# What a piece is at least, as a share of what is decompressed up to its end in its member: what
# comes before it costs a third of cleaning it, or less. Guesses, by what decompressing takes
# (BENCHMARKS.md, Reading) and cleaning. What is remote is read as often as it is decompressed.
_SHARES = {"gzip": 1 / 16, "zstd": 1 / 32, "lz4": 1 / 32, "xz": 1 / 3}
_REMOTE_SHARE = 1 / 4


class Piece(NamedTuple):
    """Records of a file: raw bytes `start` to `stop`, decompressed bytes `skip` to `skip + length`.

    `length` is None for what goes to the end of the file. In a table, `skip` and `length` count row
    groups or batches, in a zip its files, and the raw bytes are the whole file's.
    """

    start: int
    stop: int | None
    skip: int
    length: int | None
    position: int
    checksum: str
    header: tuple[str, ...] | None = None


class _Mark(NamedTuple):
    """Where a piece can start: raw and decompressed bytes of the boundary, and of the record.

    A boundary is sharp where the raw bytes before it give all before the record. Otherwise `taken`
    bytes do, and have this checksum.
    """

    raw: int
    given: int
    offset: int
    position: int
    is_sharp: bool = True
    taken: int = 0
    checksum: str = ""


def survey(
    path: str, form: str, piece_bytes: int, max_record_bytes: int, options: ReadOptions = PLAIN
) -> tuple[tuple[Piece, ...], str]:
    """Return the pieces of a file, each of about so many raw bytes, and its SHA-256."""
    if form in SEEKING:
        return _survey_seeking(path, form, (piece_bytes, max_record_bytes), options)
    with closing(InputFile(path, threads=os.cpu_count() or 1)) as file:
        header = _header(path, form, max_record_bytes, options.encoding)
        marks = _marks(file, form, (piece_bytes, max_record_bytes), options)
        of_file = file.checksum()
    return tuple(_pieces(path, marks, header, of_file)), of_file


def _header(path: str, form: str, max_bytes: int, encoding: str) -> tuple[str, ...] | None:
    if form not in ("csv", "tsv"):
        return None
    with closing(InputFile(path)) as file:
        try:
            delimiter = "," if form == "csv" else "\t"
            found = read_header(Cursor(file.chunks()), delimiter, max_bytes, encoding)
        except (CorruptArchiveError, DecompressionBombError):
            return None
    return tuple(found) if found is not None else None


def _marks(file: InputFile, form: str, sizes: tuple[int, int], options: ReadOptions) -> list[_Mark]:
    """Find where pieces start; a bomb, or a format of one record, is one piece."""
    piece_bytes, max_record_bytes = sizes
    marks = [_Mark(0, 0, 0, 0)]
    if form in WHOLE:
        return marks
    cursor = Cursor(file.chunks(), growth=file.growth)
    at = last = 0
    share, size = _least_share(file), size_bytes(file.path)
    # What comes before the header row of a table cannot be read by itself.
    headed = form not in ("csv", "tsv")
    try:
        for each in read_from(cursor, form, max_record_bytes, options):
            at = _last_boundary(file, at, cursor.offset)
            raw, given = file.boundaries[at] if file.codec else (cursor.offset, cursor.offset)
            headed = headed or isinstance(each, Record) or each.rule == "invalid_record"
            reached = max(raw, file.reached) if file.codec in _SHARES else raw
            least = max(piece_bytes, share * (reached - raw))
            is_far = reached - last >= least and size - reached >= share * (reached - raw)
            if is_far and headed and not cursor.is_inside and cursor.peek(1):
                # Blocks of bzip2 follow each other within a byte.
                is_sharp = cursor.offset == given and file.codec != "bzip2"
                place = (raw, given, cursor.offset, cursor.position, is_sharp)
                marks.append(_Mark(*place, *file.read_so_far()))
                last = reached
    except CorruptArchiveError:
        pass
    except DecompressionBombError:
        return marks[:1]
    return marks


def _least_share(file: InputFile) -> float:
    """Return the share of a codec whose members can be long; blocks of bzip2 cannot."""
    share = _SHARES.get(file.codec or "")
    if share is None:
        return 0.0
    return max(share, _REMOTE_SHARE) if is_remote(file.path) else share


def _last_boundary(file: InputFile, at: int, offset: int) -> int:
    """Return the number of the last boundary at or before a decompressed byte."""
    while at + 1 < len(file.boundaries) and file.boundaries[at + 1][1] <= offset:
        at += 1
    return at


def _pieces(
    path: str, marks: list[_Mark], header: tuple[str, ...] | None, of_file: str
) -> Iterator[Piece]:
    for mark, after in zip(marks, [*marks[1:], None], strict=True):
        stop, found = (None, of_file) if after is None else _end(after)
        yield Piece(
            mark.raw,
            stop,
            mark.offset - mark.given,
            None if after is None else after.offset - mark.offset,
            mark.position,
            checksum(path, mark.raw, stop) if mark.raw or not found else found,
            header if mark.position else None,
        )


def _end(after: _Mark) -> tuple[int, str]:
    """Return by which raw byte all before a record is given, and the checksum up to there."""
    if after.is_sharp:
        return after.raw, ""
    return after.taken, after.checksum


def _survey_seeking(
    path: str, form: str, sizes: tuple[int, int], options: ReadOptions
) -> tuple[tuple[Piece, ...], str]:
    of_file = checksum(path)
    whole = (Piece(0, None, 0, None, 0, of_file),)
    piece_bytes, max_record_bytes = sizes
    with closing(InputFile(path)) as file:
        try:
            data = open_table(file)
        except (CorruptArchiveError, DecompressionBombError):
            return whole, of_file
        with closing(data):
            if form == "zip":
                runs = _runs_of_members(data, piece_bytes)
                members = [Members(start, start + length) for start, length in runs]
                reader = read_members(max_record_bytes, options)
                counts = count_records(data, reader, members) if runs else []
            else:
                runs, counts = _runs_of_groups(groups_of(data, form), piece_bytes, data.size())
    if not runs:
        return whole, of_file
    return tuple(
        Piece(0, None, start, length, position, of_file)
        for (start, length), position in zip(runs, accumulate(counts, initial=0), strict=False)
    ), of_file


def _runs_of_groups(
    groups: list[int], piece_bytes: int, size: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return runs of row groups or batches, each its first and how many, and the rows of each."""
    step = max(1, len(groups) * piece_bytes // max(size, 1))
    runs = [(start, min(step, len(groups) - start)) for start in range(0, len(groups), step)]
    return runs, [sum(groups[start : start + length]) for start, length in runs]


def _runs_of_members(data: Data, piece_bytes: int) -> list[tuple[int, int]]:
    """Return runs of a zip's files, each its first and how many."""
    starts = [0]
    held = 0
    sizes = sizes_of(data)
    for number, size in enumerate(sizes):
        if held >= piece_bytes:
            starts.append(number)
            held = 0
        held += size
    return [
        (start, stop - start) for start, stop in pairwise([*starts, len(sizes)]) if stop > start
    ]


def open_piece(path: str, form: str, piece: Piece) -> InputFile:
    """Open the raw bytes of a piece; its `checksum` is to be that of the piece."""
    if form in SEEKING:
        return InputFile(path)
    codec = None
    if piece.start:
        with closing(InputFile(path)) as file:
            codec = file.codec or ""
    return InputFile(path, piece.start, piece.stop, codec)


def read_piece(
    file: InputFile, form: str, piece: Piece, max_record_bytes: int, options: ReadOptions = PLAIN
) -> Iterator[Record | Damage]:
    """Give the records of a piece with the positions they have in the whole file."""
    if form in SEEKING:
        yield from _read_groups(file, form, piece, max_record_bytes, options)
        return
    header = list(piece.header) if piece.header is not None else None
    chunks = _clip(file.chunks(), piece.skip, piece.length)
    cursor = Cursor(chunks, piece.position, file.growth)
    is_last = piece.length is None
    records = read_from(cursor, form, max_record_bytes, options, header, is_last)
    yield from until_broken(cursor, records)


def _clip(chunks: Iterator[bytes], skip: int, length: int | None) -> Iterator[bytes]:
    for chunk in chunks:
        part = chunk[skip:]
        skip -= min(skip, len(chunk))
        if length is not None:
            part = part[:length]
            length -= len(part)
        if part:
            yield part
        if length == 0:
            return


def _read_groups(
    file: InputFile, form: str, piece: Piece, max_record_bytes: int, options: ReadOptions
) -> Iterator[Record | Damage]:
    if piece.length is None:
        yield from read_records(file, form, max_record_bytes, options)
        return
    groups = (piece.skip, piece.skip + piece.length, piece.position)
    with closing(open_table(file)) as data:
        if form == "zip":
            reader = read_members(max_record_bytes, options)
            yield from read_zip(data, reader, Members(*groups))
        else:
            yield from read_table(data, form, options, max_record_bytes, groups)

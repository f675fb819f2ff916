"""CSV and TSV with a header row: rows become records, broken rows drops with their line.

CSV is RFC 4180: a quoted field may hold newlines, so rows are cut by the `csv` module, which is fed
line by line and no more than a record may hold. TSV is the IANA's text/tab-separated-values: it has
no quoting, and a quotation mark is a character like any other.

A quote that nobody closed makes a row of all that follows. Such a row is given up: its first line
is a drop, and the lines it took are read again, each by itself. Hardly anything is lost by that:
within quotes a line means the same wherever the quote was opened, so a row of many lines that began
at one of them would come to the same bad end, if that is not the limit. Only the last line, which
was the bad end, may begin a row of many lines. So a line is read three times at most, however many
stray quotes a file has.
"""

import codecs
import csv
import sys
from collections.abc import Iterator
from typing import NamedTuple

from corpus.archives import CorruptArchiveError, DecompressionBombError
from corpus.cursor import Cursor
from corpus.records import (
    UTF_8,
    Damage,
    ReadOptions,
    Record,
    columns_of,
    invalid_utf8,
    record_of,
    too_long,
)

# What separates fields in files that are called CSV or TSV.
_DELIMITERS = ",;\t|"
_OPENS = "a quoted field that opens here"


class _TooLongError(Exception):
    """A row goes on beyond the limit; holds the bytes so far."""


class _Line(NamedTuple):
    """A line with its number; of one beyond the limit only the size."""

    number: int
    data: bytes | int


class _Row(NamedTuple):
    """The fields of a row, and the line where it starts."""

    line: int
    fields: list[str]


class _Rows:
    """Cuts rows from a cursor."""

    def __init__(self, cursor: Cursor, delimiter: str, max_bytes: int, encoding: str) -> None:
        self._cursor = cursor
        self._max_bytes = max_bytes
        self._delimiter = delimiter
        self._encoding = encoding
        self._undecodable: UnicodeDecodeError | None = None

    def __iter__(self) -> Iterator[_Row | Damage]:
        """Give the rows, and damage in the place of what is none."""
        while (line := self._next()) is not None:
            found, taken = self._row(line)
            if taken:
                yield from self._settled(found, taken)
            elif found is not None:
                yield found

    def _settled(
        self, found: _Row | Damage | None, taken: list[_Line | None]
    ) -> Iterator[_Row | Damage]:
        """Give a row that was given up, and then what becomes of the lines that it took.

        Nothing is given before all of them are settled, so that reading can go on from where the
        cursor stands then, as pieces of a file do. What is held till then is bounded too.
        """
        settled = [found]
        start = self._cursor.offset
        while taken:
            *within, last = taken
            settled += [self._row(line, True)[0] for line in within if line is not None]
            if last is None:
                break
            try:
                is_full = self._cursor.offset - start > self._max_bytes
                found, taken = self._row(last, is_full)
            except (CorruptArchiveError, DecompressionBombError):
                yield from (each for each in settled if each is not None)
                raise
            settled.append(found)
            taken = [] if is_full else taken
        yield from (each for each in settled if each is not None)

    def _row(
        self, first: _Line, is_alone: bool = False
    ) -> tuple[_Row | Damage | None, list[_Line | None]]:
        """Return what begins with a line, nothing where it is blank.

        With it come the lines that were taken in vain, the one that was the end of it last, or None
        for the file's end. A line that is read alone takes no others.
        """
        if isinstance(first.data, int):
            return too_long(first.number, first.data, self._max_bytes), []
        if not first.data.strip() or (first.number == 1 and first.data == codecs.BOM_UTF8):
            return None, []
        taken: list[_Line | None] = []
        self._undecodable = None
        try:
            if self._delimiter == "\t":
                fields = self._text(first).rstrip("\r\n").split("\t")
            else:
                fields = next(csv.reader(self._texts(first, taken, is_alone), strict=True))
        except _TooLongError as error:
            damage = too_long(first.number, int(error.args[0]), self._max_bytes)
            return damage._replace(detail=f"bytes, and {_OPENS} has not ended"), taken
        except csv.Error as error:
            if self._undecodable is None or taken:
                return Damage(first.number, "invalid_csv", _why(error, taken)), taken
        if self._undecodable is not None:
            return invalid_utf8(first.number, self._undecodable), []
        return _Row(first.number, fields), []

    def _texts(self, first: _Line, taken: list[_Line | None], is_alone: bool) -> Iterator[str]:
        line: _Line | None = first
        held = 0
        while line is not None:
            held += line.data if isinstance(line.data, int) else len(line.data) + 1
            if isinstance(line.data, int) or held > self._max_bytes + 1:
                raise _TooLongError(held)
            yield self._text(line)
            line = None if is_alone else self._next()
            taken.append(line)

    def _text(self, line: _Line) -> str:
        """Decode a line; where that fails its row still ends where it ends, and is no record."""
        assert isinstance(line.data, bytes)
        try:
            text = line.data.decode(self._encoding)
        except UnicodeDecodeError as error:
            self._undecodable = self._undecodable or error
            text = line.data.decode(self._encoding, "replace")
        return (text.removeprefix("\ufeff") if line.number == 1 else text) + "\n"

    def _next(self) -> _Line | None:
        data = self._cursor.until(b"\n", self._max_bytes)
        if data is None:
            return None
        self._cursor.position += 1
        return _Line(self._cursor.position, data)


def _why(error: csv.Error, taken: list[_Line | None]) -> str:
    """Say why a row is none, which may have been found some lines below."""
    if not taken:
        return str(error)
    last = taken[-1]
    return f"{_OPENS} never ends" if last is None else f"{_OPENS}: {error} in line {last.number}"


def read_delimited(
    cursor: Cursor, delimiter: str, options: ReadOptions, max_bytes: int, header: list[str] | None
) -> Iterator[Record | Damage]:
    """Give the rows of a table; the header is its first row where none is given."""
    # The module's own limit of 131,072 characters is for the whole process and below a document's.
    csv.field_size_limit(sys.maxsize)
    names, twice = columns_of(header or [], options)
    for row in _Rows(cursor, delimiter, max_bytes, options.encoding):
        if isinstance(row, Damage):
            yield row
        elif header is None:
            header = row.fields
            names, twice = columns_of(header, options)
        elif len(row.fields) != len(header):
            detail = f"fields{_hint(header, delimiter)}"
            yield Damage(
                row.line, "invalid_csv", detail, float(len(row.fields)), float(len(header))
            )
        elif twice is not None:
            yield Damage(row.line, "invalid_record", twice)
        else:
            found = record_of(dict(zip(names, row.fields, strict=True)), row.line, options)
            if isinstance(found, Damage):
                found = found._replace(detail=found.detail + _hint(header, delimiter))
            yield found


def _hint(header: list[str], delimiter: str) -> str:
    """Say so where a header looks as if its fields were separated by something else."""
    others = "".join(each for each in _DELIMITERS if each in header[0] and each != delimiter)
    if len(header) > 1 or not others:
        return ""
    return f": the header is one field with {others!r} in it: separate fields by {delimiter!r}"


def read_header(
    cursor: Cursor, delimiter: str, max_bytes: int, encoding: str = UTF_8
) -> list[str] | None:
    """Return the first readable row of a table, None where it has none."""
    csv.field_size_limit(sys.maxsize)
    rows = _Rows(cursor, delimiter, max_bytes, encoding)
    return next((row.fields for row in rows if isinstance(row, _Row)), None)

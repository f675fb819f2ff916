"""CSV and TSV with a header row: rows become records, broken rows drops with their line.

CSV is RFC 4180: a quoted field may hold newlines, so rows are cut by the `csv` module, which is fed
line by line and no more than a record may hold. TSV is the IANA's text/tab-separated-values: it has
no quoting, and a quotation mark is a character like any other.
"""

import csv
import sys
from collections.abc import Iterator

from corpus.cursor import Cursor
from corpus.records import (
    UTF_8,
    Damage,
    ReadOptions,
    Record,
    invalid_utf8,
    record_of,
    too_long,
)

# What separates fields in files that are called CSV or TSV.
_DELIMITERS = ",;\t|"


class _TooLongError(Exception):
    """A row goes on beyond the limit; holds the bytes so far."""


class _Rows:
    """Cuts rows from a cursor; `line` is where the last one starts."""

    def __init__(self, cursor: Cursor, delimiter: str, max_bytes: int, encoding: str) -> None:
        self.line = 0
        self._cursor = cursor
        self._max_bytes = max_bytes
        self._held = 0
        self._delimiter = delimiter
        self._encoding = encoding

    def next(self) -> list[str] | None:
        """Return the next row, None at the end; raises what `csv` and UTF-8 raise."""
        self._held = 0
        self.line = self._cursor.position + 1
        if self._delimiter == "\t":
            line = next(self._lines(), None)
            return None if line is None else line.rstrip("\r\n").split("\t")
        return next(csv.reader(self._lines(), strict=True), None)

    def _lines(self) -> Iterator[str]:
        while (line := self._cursor.until(b"\n", self._max_bytes)) is not None:
            self._cursor.position += 1
            self._held += line if isinstance(line, int) else len(line) + 1
            if isinstance(line, int) or self._held > self._max_bytes + 1:
                raise _TooLongError(self._held)
            if self._held == len(line) + 1 and not line.strip():
                self.line = self._cursor.position + 1
                self._held = 0
                continue
            text = line.decode(self._encoding)
            if self._cursor.position == 1:
                text = text.removeprefix("\ufeff")
            yield text + "\n"


def read_delimited(
    cursor: Cursor, delimiter: str, options: ReadOptions, max_bytes: int, header: list[str] | None
) -> Iterator[Record | Damage]:
    """Give the rows of a table; the header is its first row where none is given."""
    # The module's own limit of 131,072 characters is for the whole process and below a document's.
    csv.field_size_limit(sys.maxsize)
    rows = _Rows(cursor, delimiter, max_bytes, options.encoding)
    while True:
        try:
            row = rows.next()
        except _TooLongError as error:
            yield too_long(rows.line, int(error.args[0]), max_bytes)
            continue
        except UnicodeDecodeError as error:
            yield invalid_utf8(rows.line, error)
            continue
        except csv.Error as error:
            yield Damage(rows.line, "invalid_csv", str(error))
            continue
        if row is None:
            return
        if header is None:
            header = row
        elif len(row) != len(header):
            detail = f"fields{_hint(header, delimiter)}"
            yield Damage(rows.line, "invalid_csv", detail, float(len(row)), float(len(header)))
        else:
            found = record_of(dict(zip(header, row, strict=True)), rows.line, options)
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
    while True:
        try:
            return rows.next()
        except (_TooLongError, UnicodeDecodeError, csv.Error):
            continue

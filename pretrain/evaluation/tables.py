"""Tables of examples: TSV, CSV, JSON Lines, and lines that begin with their label.

TSV has no quoting, as GLUE's files have none; CSV is RFC 4180. A table's columns are found by its
header or by number; the keys of a JSON object by name. Blank lines are no rows.
"""

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from corpus.records import names_shown
from pretrain.evaluation.records import NOT_TEXT, WRONG_COLUMNS, Record, lines_of, usual
from pretrain.evaluation.tasks import ROLES, Column, Task, candidates

# What a role's column is called where the task does not say; `datasets` of the field use these.
USUAL_NAMES: dict[str, Column] = {
    "text": ("text", "sentence"),
    "words": ("words", "tokens"),
    "tags": ("tags", "ner_tags"),
    "context": ("context", "article"),
    "impossible": ("impossible", "is_impossible"),
    "id": ("id", "idx", "guid"),
    "label": ("label", "answer"),
}
# Without these an example is none; a pair is needed where the task names its column.
_REQUIRED = ("text", "pair", "words", "question", "context", "options")
_TARGETS = ("label", "tags", "answers")

Row = tuple[int, list[str] | None]


def table_records(task: Task, name: str, data: bytes, labelled: bool) -> Iterator[Record]:
    """Give the rows of a TSV or CSV file as records."""
    rows = _csv_rows(task, name, data) if task.format == "csv" else _tsv_rows(task, data)
    header: list[str] | None = None
    if task.header:
        header = next((fields for _, fields in rows if fields is not None), None)
        if header is None:
            raise ValueError(f"{name} is empty: expected a header of columns")
    body = list(rows)
    widths = [len(fields) for _, fields in body if fields is not None]
    if not widths:
        return
    width = len(header) if header is not None else usual(widths)
    places = _places(task, name, header, width, labelled)
    names = _names_shown(task, places, header or ())
    for number, fields in body:
        place = f"{name}:{number}"
        if fields is None:
            yield Record(place, {}, NOT_TEXT)
        elif len(fields) != width:
            yield Record(place, {}, WRONG_COLUMNS)
        else:
            yield Record(place, {role: fields[at] for role, at in places.items()}, names=names)


def _tsv_rows(task: Task, data: bytes) -> Iterator[Row]:
    for number, line in lines_of(data, task.encoding):
        if line is None:
            yield number, None
        elif line.strip():
            yield number, line.split("\t")


def _csv_rows(task: Task, name: str, data: bytes) -> Iterator[Row]:
    # The module's own limit of 131,072 characters is for the whole process.
    csv.field_size_limit(sys.maxsize)
    try:
        text = data.decode(task.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not {task.encoding} at byte {error.start:,}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}:{start} is not CSV: {error}") from None


def _places(
    task: Task, name: str, header: list[str] | None, width: int, labelled: bool
) -> dict[str, int]:
    """Find the column of each role; a missing one is an error unless the example needs it not."""
    places = {}
    for role in ROLES[task.kind]:
        column = task.columns.get(role, USUAL_NAMES.get(role, role))
        at = _column(column, header, width)
        needed = role in task.columns or role == "text"
        if at is not None:
            places[role] = at
        elif needed and (labelled or role not in _TARGETS):
            has = ", ".join(header) if header is not None else f"{width} columns"
            raise ValueError(
                f"{name} has no column {_spelt(column)} for {role}: it has {has}; set columns"
            )
    return places


def _column(column: Column, header: Sequence[str] | None, width: int) -> int | None:
    for each in candidates(column):
        if header is not None and each in header:
            return header.index(str(each))
        if isinstance(each, int) and each < width:
            return each
    return None


def _spelt(column: Column) -> str:
    return " or ".join(str(each) for each in candidates(column))


def json_records(task: Task, name: str, data: bytes, first: int = 1) -> Iterator[Record]:
    """Give the lines of a JSON Lines file, or of a portion of it, as records."""
    for number, line in lines_of(data, task.encoding, first):
        place = f"{name}:{number}"
        if line is None:
            yield Record(place, {}, NOT_TEXT)
        elif line.strip():
            try:
                yield object_record(task, place, orjson.loads(line))
            except orjson.JSONDecodeError:
                yield Record(place, {}, "not JSON")


def object_record(task: Task, place: str, found: Any) -> Record:  # noqa: ANN401 - any JSON
    """Give the values of a JSON object, or of a row of `datasets`, by their roles."""
    if not isinstance(found, dict):
        return Record(place, {}, "not a JSON object")
    roles = {}
    for role in ROLES[task.kind]:
        column = task.columns.get(role, USUAL_NAMES.get(role, role))
        key = next((each for each in candidates(column) if each in found), None)
        if key is not None:
            roles[role] = found[key]
        elif role in _REQUIRED and (role != "pair" or role in task.columns):
            return Record(place, {}, f"no {role}", _names_shown(task, (), found))
    return Record(place, roles, names=_names_shown(task, roles, found))


def _names_shown(task: Task, roles: Iterable[str], names: Iterable[Any]) -> tuple[str, ...]:
    """Give the names of columns where a role that makes an example has none of them."""
    made_of = {role for role in ROLES[task.kind] if role in (*_REQUIRED, *_TARGETS)}
    if made_of - set(roles) <= {"pair"} - task.columns.keys():
        return ()
    return names_shown(names)


def labelled_lines(task: Task, name: str, data: bytes, labelled: bool) -> Iterator[Record]:
    """Give lines as records: a label up to the first space or tab, then the text.

    Where no label is asked for, the line is the text.
    """
    for number, line in lines_of(data, task.encoding):
        place = f"{name}:{number}"
        if line is None:
            yield Record(place, {}, NOT_TEXT)
        elif not line.strip():
            continue
        elif labelled:
            label, *rest = line.lstrip(" \t").replace("\t", " ", 1).split(" ", 1)
            yield Record(place, {"label": label, "text": "".join(rest)})
        else:
            yield Record(place, {"text": line})

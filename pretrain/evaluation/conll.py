"""Sentences of tagged words in columns, as CoNLL-2003 has them: a word a line, blank lines between.

Columns are parted by tabs where a line has one, else by spaces. A sentence with a line of another
number of columns than the file's is a fault; so the rest of a file with a broken line is used.
"""

from collections.abc import Iterator

from pretrain.evaluation.records import NOT_TEXT, WRONG_COLUMNS, Record, lines_of, usual
from pretrain.evaluation.tasks import Column, Task, candidates

DOCUMENT_BOUNDARY = "-DOCSTART-"

# A line's number and columns; None where it is not in its encoding.
Row = tuple[int, list[str] | None]


def conll_records(task: Task, name: str, data: bytes, labelled: bool) -> Iterator[Record]:
    """Give sentences as records; a boundary of documents is one, with that as its fault.

    The tags are in the last column unless the task says otherwise.
    """
    sentences = list(_sentences(data, task.encoding))
    widths = [len(fields) for rows in sentences for _, fields in rows if fields is not None]
    if not widths:
        return
    width = usual(widths)
    words = _number(task.columns.get("words", 0))
    tags = _number(task.columns.get("tags", width - 1)) if labelled else None
    if max(words, tags or 0) >= width or (labelled and words == tags):
        raise ValueError(
            f"{name} has {width} columns, expected the word in {words} and the tag in {tags}, "
            "numbered from 0: set the columns of the task"
        )
    for rows in sentences:
        yield _record(name, rows, width, (words, tags))


def _sentences(data: bytes, encoding: str) -> Iterator[list[Row]]:
    """Cut at blank lines and after document boundaries."""
    held: list[Row] = []
    for number, line in lines_of(data, encoding):
        fields = None if line is None else _fields(line)
        boundary = bool(fields) and fields is not None and fields[0] == DOCUMENT_BOUNDARY
        if held and (boundary or fields == []):
            yield held
            held = []
        if boundary:
            yield [(number, fields)]
        elif fields != []:
            held.append((number, fields))
    if held:
        yield held


def _fields(line: str) -> list[str]:
    """Return the columns of a line, none of a blank one."""
    # Not split() without arguments: a word may be another kind of space.
    if "\t" in line:
        return line.split("\t") if line.strip(" \t") else []
    return [each for each in line.split(" ") if each]


def _record(name: str, rows: list[Row], width: int, columns: tuple[int, int | None]) -> Record:
    place = f"{name}:{rows[0][0]}"
    table: list[list[str]] = []
    for number, fields in rows:
        if fields is None:
            return Record(f"{name}:{number}", {}, NOT_TEXT)
        if fields[0] == DOCUMENT_BOUNDARY:
            return Record(place, {}, DOCUMENT_BOUNDARY)
        if len(fields) != width:
            return Record(f"{name}:{number}", {}, WRONG_COLUMNS)
        table.append(fields)
    words, tags = columns
    roles = {"words": [fields[words] for fields in table]}
    if tags is not None:
        roles["tags"] = [fields[tags] for fields in table]
    return Record(place, roles)


def _number(column: Column) -> int:
    return next(each for each in candidates(column) if isinstance(each, int))

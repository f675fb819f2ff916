"""Sentences of tagged words in columns, as CoNLL-2003 has them: a word a line, blank lines between.

Columns are parted by tabs where a line has one, else by spaces. A sentence with a line of another
number of columns than the file's is a fault; so the rest of a file with a broken line is used.
"""

from collections.abc import Iterator

from pretrain.evaluation.records import NOT_TEXT, WRONG_COLUMNS, Line, Record, lines_of, usual
from pretrain.evaluation.tasks import Column, Task, candidates

DOCUMENT_BOUNDARY = "-DOCSTART-"


def conll_records(task: Task, name: str, data: bytes, labelled: bool) -> Iterator[Record]:
    """Give sentences as records; a boundary of documents is one, with that as its fault.

    The tags are in the last column unless the task says otherwise.
    """
    sentences = list(_sentences(data, task.encoding))
    widths = [len(_fields(line.text)) for lines in sentences for line in lines if line.text]
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
    for lines in sentences:
        yield _record(f"{name}:{lines[0].number}", lines, width, (words, tags))


def _sentences(data: bytes, encoding: str) -> Iterator[list[Line]]:
    """Cut at blank lines and after document boundaries."""
    held: list[Line] = []
    for line in lines_of(data, encoding):
        boundary = line.text is not None and line.text.startswith(DOCUMENT_BOUNDARY)
        if held and (boundary or (line.text is not None and not line.text.strip(" \t"))):
            yield held
            held = []
        if boundary:
            yield [line]
        elif line.text is None or line.text.strip(" \t"):
            held.append(line)
    if held:
        yield held


def _fields(line: str) -> list[str]:
    # Not split() without arguments: a word may be another kind of space.
    return line.split("\t") if "\t" in line else [each for each in line.split(" ") if each]


def _record(place: str, lines: list[Line], width: int, columns: tuple[int, int | None]) -> Record:
    if lines[0].text is not None and lines[0].text.startswith(DOCUMENT_BOUNDARY):
        return Record(place, {}, DOCUMENT_BOUNDARY)
    if any(line.text is None for line in lines):
        return Record(place, {}, NOT_TEXT)
    rows = [(line.number, _fields(line.text or "")) for line in lines]
    file = place.rpartition(":")[0]
    for number, fields in rows:
        if len(fields) != width:
            return Record(f"{file}:{number}", {}, WRONG_COLUMNS)
    words, tags = columns
    roles = {"words": [fields[words] for _, fields in rows]}
    if tags is not None:
        roles["tags"] = [fields[tags] for _, fields in rows]
    return Record(place, roles)


def _number(column: Column) -> int:
    return next(each for each in candidates(column) if isinstance(each, int))

"""Evaluation files as examples: what of a benchmark's file a corpus must not contain.

An example is a list of texts. What a file is goes by its name, without `.gz` and `.zst`:

- `.jsonl`, `.ndjson`: one example a line. Of JSON every string at any depth is a text.
- `.json`: JSON lines, or one document: in SQuAD's layout one example a paragraph with its
  questions, else one an element of its list or of the only list in it, or one in all.
- `.csv`, `.tsv`: one example a row, every cell a text; TSV without quoting, as GLUE's.
- `.parquet`: one example a row, every string at any depth a text.
- token columns: sentences that end at blank lines, the first column joined by spaces. Known by
  content: all lines have as many columns, and the last is a tag (`O`, `B-PER`). By `.conllu`, the
  second column.
- everything else: one example a line.

Tokens of the Penn Treebank's kind are put back so that words compare: `do n't` is `don't`, `-LRB-`
is nothing. A file that is not UTF-8 is read as Windows-1252, or Latin-1 where it is not that
either. Examples are numbered from 1; a header is a row.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lists import plain_name, unpack

# Raised by hand when the same file gives other texts.
VERSION = 1

# Of a file, to tell token columns and what is no text. Guesses.
_SNIFFED_LINES, _SNIFFED_BYTES = 1000, 2**16
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_NEGATION = re.compile(r"(?<=\w) (n't)\b", re.IGNORECASE)
_BRACKET = re.compile(r"-[LR][RCS]B-", re.IGNORECASE)


def read_examples(name: str, data: bytes) -> Iterator[list[str]]:
    """Give the texts of every example of a file; `ValueError` names file and line."""
    plain = unpack(name, data)
    if plain_name(name).endswith(".parquet"):
        examples = _parquet(name, plain)
    elif b"\0" in plain[:_SNIFFED_BYTES]:
        raise ValueError(f"{name} holds zero bytes: it is neither Parquet by its name nor text")
    else:
        examples = _split(name, _decode(plain))
    for example in examples:
        yield [_BRACKET.sub(" ", _NEGATION.sub(r"\1", each)) for each in example]


def _decode(data: bytes) -> str:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _split(name: str, text: str) -> Iterator[list[str]]:
    plain = plain_name(name)
    if plain.endswith((".jsonl", ".ndjson")):
        return _json_lines(name, text)
    if plain.endswith(".json"):
        return _json(name, text)
    lines = text.removesuffix("\n").split("\n")
    if plain.endswith(".conllu"):
        return _sentences(lines, 1)
    if _has_token_columns(lines):
        return _sentences(lines, 0)
    if plain.endswith(".csv"):
        return _rows(name, text)
    return (line.split("\t") if plain.endswith(".tsv") else [line] for line in lines)


def _parquet(name: str, data: bytes) -> Iterator[list[str]]:
    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{name}: not Parquet: {error}") from None
    return (list(_strings(row)) for row in rows)


def _json_lines(name: str, text: str) -> Iterator[list[str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield list(_strings(orjson.loads(line)))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{name}, line {number}: not JSON: {error}") from None


def _json(name: str, text: str) -> Iterator[list[str]]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        yield from _json_lines(name, text)
        return
    for element in _elements(document):
        yield list(_strings(element))


def _elements(document: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    """Return the examples of a JSON document."""
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 else [document]
    if not isinstance(document, list):
        return [document]
    articles = [each for each in document if isinstance(each, dict)]
    if articles and all(isinstance(each.get("paragraphs"), list) for each in articles):
        return [paragraph for each in articles for paragraph in each["paragraphs"]]
    return document


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _rows(name: str, text: str) -> Iterator[list[str]]:
    # The module's own limit of 131,072 characters is for the whole process and below an example's.
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from rows
    except csv.Error as error:
        raise ValueError(f"{name}, line {rows.line_num}: not CSV: {error}") from None


def _has_token_columns(lines: list[str]) -> bool:
    rows = [line.split() for line in lines[:_SNIFFED_LINES] if _is_token(line)]
    widths = {len(row) for row in rows}
    return len(widths) == 1 and widths.pop() > 1 and all(_TAG.fullmatch(row[-1]) for row in rows)


def _is_token(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("-DOCSTART-", "# "))


def _sentences(lines: list[str], column: int) -> Iterator[list[str]]:
    for blank, group in groupby(lines, lambda line: not line.strip()):
        rows = [line.split() for line in group if _is_token(line)]
        if rows and not blank:
            yield [" ".join(row[column] for row in rows if len(row) > column)]

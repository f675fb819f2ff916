"""Evaluation files as examples: what of a benchmark's file a corpus must not contain.

An example is a list of texts. By name (without `.gz`, `.zst`): `.jsonl` and `.ndjson` give one
example a line; `.json` is one document, or JSON lines where it is none; `.csv` and `.tsv` give one
example a row (TSV without quoting, as GLUE's), every cell a text; everything else one a line. Files
of token columns are known by their content: all lines have as many columns, two or more, and the
last is a tag (`O`, `B-PER`), or by `.conllu`; sentences end at blank lines and are the first column
(of CoNLL-U, the second) joined by spaces. Of JSON, every string at any depth is a text. A JSON
document in SQuAD's layout gives one example a paragraph (its context and its questions), another
one an element of its list or of the only list in it, or is one example itself.

Tokens of the Penn Treebank's kind are put back so that words compare: `do n't` is `don't`, `-LRB-`
is nothing. A file that is not UTF-8 is read as Windows-1252, or Latin-1 where it is not that
either. Examples are numbered from 1; a header is a row.
"""

import csv
import io
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import orjson

from pipeline.lists import plain_name, unpack

# Raised by hand when the same file gives other texts.
VERSION = 1

_SNIFFED_LINES = 1000  # of a file, to tell token columns; a guess
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_NEGATION = re.compile(r"(?<=\w) (n't)\b", re.IGNORECASE)
_BRACKET = re.compile(r"-[LR][RCS]B-", re.IGNORECASE)


def read_examples(name: str, data: bytes) -> Iterator[list[str]]:
    """Give the texts of every example of a file; `ValueError` names file and line."""
    text = _decode(unpack(name, data))
    for example in _split(name, text):
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

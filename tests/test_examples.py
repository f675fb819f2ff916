"""Evaluation files as examples: every format, by name or content, and files that cannot be read."""

import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.examples import read_examples

SQUAD = b"""{"version": "2", "data": [{"title": "T", "paragraphs": [
 {"context": "one", "qas": [{"question": "two", "answers": [{"text": "three"}]}]},
 {"context": "four", "qas": []}]}]}"""
CONLL = b"""-DOCSTART- -X- O O

EU NNP I-NP B-ORG
rejects VBZ I-VP O

Peter NNP I-NP B-PER
"""
CONLLU = b"# text = I am\n1\tI\tI\tPRON\n2\tam\tbe\tAUX\n\n1\tYes\tyes\tINTJ\n"


@pytest.mark.parametrize(
    ("name", "data", "examples"),
    [
        ("a.jsonl", b'{"a": "x", "b": [1, {"c": "y"}]}\n\n"z"\n', [["x", "y"], ["z"]]),
        ("a.json", b'{"a": "x"}\n{"a": "y"}\n', [["x"], ["y"]]),
        ("a.json", b'[{"a": "x"}, {"a": "y"}]', [["x"], ["y"]]),
        ("a.json", b'{"version": "1", "rows": [{"a": "x"}, "y"]}', [["x"], ["y"]]),
        ("a.json", b'{"a": "x", "b": "y"}', [["x", "y"]]),
        ("a.json", SQUAD, [["one", "two", "three"], ["four"]]),
        ("a.tsv", b'label\ttext\n1\t"x\n', [["label", "text"], ["1", '"x']]),
        ("a.csv", b'label,text\n1,"x,\ny"\n', [["label", "text"], ["1", "x,\ny"]]),
        ("a.txt", b"one line\n\nanother", [["one line"], [""], ["another"]]),
        ("eng.testa", CONLL, [["EU rejects"], ["Peter"]]),
        ("ner.tsv", b"EU\tB-ORG\nis\tO\n\nIt\tO\n", [["EU is"], ["It"]]),
        ("a.conllu", CONLLU, [["I am"], ["Yes"]]),
        ("a.txt", "caf\u00e9 \u2019".encode("cp1252"), [["caf\u00e9 \u2019"]]),
        ("a.txt", b"\x81", [["\x81"]]),
        ("a.txt", b"He do n't ( -LRB- ) ca n't", [["He don't (   ) can't"]]),
        ("A.TXT.gz", gzip.compress(b"x", mtime=0), [["x"]]),
        ("a.txt.zst", zstandard.compress(b"x"), [["x"]]),
    ],
)
def test_files_are_read_as_examples(name: str, data: bytes, examples: list[list[str]]) -> None:
    assert list(read_examples(name, data)) == examples


def test_a_long_field_of_csv_is_read() -> None:
    """Where nothing else in the process has raised the limit of the csv module before."""
    before = csv.field_size_limit(131_072)
    try:
        rows = list(read_examples("a.csv", b"label,text\n1," + b"x" * 131_073))
    finally:
        csv.field_size_limit(before)
    assert rows == [["label", "text"], ["1", "x" * 131_073]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": ', "a.jsonl, line 2: not JSON"),
        ("a.json", b'{"a": ', "a.json, line 1: not JSON"),
        ("a.csv", b'a,"b\n', "a.csv, line 1: not CSV"),
        ("a.parquet", b"plain", "a.parquet: not Parquet"),
        ("a.zip", b"PK\x03\x04\0", "a.zip holds zero bytes"),
        ("a.txt.gz", b"plain", r"a.txt.gz cannot be decompressed"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_examples(name, data))


def test_rows_of_parquet_are_examples() -> None:
    stream = io.BytesIO()
    rows = [{"question": "q", "answers": {"text": ["a", "b"]}, "label": 1}, {"question": None}]
    pq.write_table(pa.Table.from_pylist(rows), stream)
    assert list(read_examples("a.parquet", stream.getvalue())) == [["q", "a", "b"], []]

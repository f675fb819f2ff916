"""Every file of the development data goes in: all of its rows come out, as records or as drops.

How many rows a file has was counted independently; its MANIFEST.tsv says so.
"""

import csv
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from corpus.archives import InputFile
from corpus.formats import sniff_format
from corpus.readers import read_records
from corpus.records import AUTO, Damage, ReadOptions, Record

LIMIT = 64 * 2**20
# No format of ours: merges of a vocabulary, columns of tokens.
NOT_DOCUMENTS = ("bpe/vocab.bpe", "finetune/ner/")
# Files in many encodings, by names that say the language: no format by name or first bytes.
ENCODINGS = "multilingual/udhr-original-encodings.zip"
# Where the text of a record lies, by the beginning of the path, if not in "text".
TEXT_KEYS = {
    "finetune/zh/csl": "abst",
    "finetune/zh/": "sentence",
    "finetune/rte/": "sentence1",
    "finetune/sst2/train": "sentence",
    "finetune/sst2/": "content",
    "neardup/mrpc": "#1 String",
    "neardup/gutenberg-editions.pairs": "id_a",
    "web/readability-pages": "html",
}
# Their first row is not a header, but is taken for one.
NO_HEADER = ("finetune/cola/", "neardup/wikisplit")


def rows_of(data: Path, under: str) -> list[tuple[str, int]]:
    """Give the files of a directory and their rows, by the manifest."""
    with (data / "MANIFEST.tsv").open() as stream:
        listed = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["path"], int(row["rows"])) for row in listed if row["path"].startswith(under)]


def read_all(data: Path, path: str, members: str = AUTO) -> list[Record | Damage]:
    """Read a file in the format that is found for it."""
    key = next((key for start, key in TEXT_KEYS.items() if path.startswith(start)), "text")
    file = InputFile(str(data / path))
    options = ReadOptions(text_key=key, members=members)
    found = list(read_records(file, sniff_format(str(data / path)), LIMIT, options))
    file.close()
    return found


def is_table(path: str) -> bool:
    return ".jsonl" in path or ".tsv" in path


@pytest.mark.parametrize("under", ["finetune/", "multilingual/", "neardup/", "prose/", "web/"])
def test_all_rows_of_tables_are_records(shared_data: Path, under: str) -> None:
    """JSON lines and tables: as many records as rows, at the positions 1, 2, 3 and so on."""
    for path, rows in rows_of(shared_data, under):
        if not is_table(path):
            continue
        found = read_all(shared_data, path)
        headless = path.startswith(NO_HEADER)
        assert len(found) == rows - headless, path
        expected = Damage if headless else Record
        assert {type(each) for each in found} == {expected}, path


def test_every_record_of_an_archive_is_a_record_or_a_drop(shared_data: Path) -> None:
    """Web archives hold requests and revisits too; the manifest counts responses of a few only."""
    kinds = Counter[str]()
    for path, rows in rows_of(shared_data, "web/warc"):
        found = read_all(shared_data, path)
        assert len(found) >= rows, path
        assert [each.position for each in found] == list(range(1, len(found) + 1)), path
        kinds.update(type(each).__name__ for each in found)
    assert kinds["Record"] == 199
    assert kinds["Damage"] > 1000


def test_a_dump_gives_its_pages(shared_data: Path) -> None:
    (path, rows), = rows_of(shared_data, "prose/enwiki")  # fmt: skip
    found = read_all(shared_data, path)
    assert len(found) == rows
    assert sum(isinstance(each, Record) for each in found) == 106


def test_files_of_no_known_format_are_refused_by_name(shared_data: Path) -> None:
    files = [path for path, _ in rows_of(shared_data, "")]
    strange = [path for path in files if path.startswith(NOT_DOCUMENTS)]
    assert len(strange) == 6
    for path in strange:
        with pytest.raises(ValueError, match=f"{re.escape(path)} .*: set the source's format"):
            sniff_format(str(shared_data / path))


def test_a_zip_gives_its_files_or_their_names(shared_data: Path, tmp_path: Path) -> None:
    (_, rows), = rows_of(shared_data, ENCODINGS)  # fmt: skip
    unread = read_all(shared_data, ENCODINGS)
    assert Counter(getattr(each, "rule", None) for each in unread) == {"member_unknown": rows}

    read = read_all(shared_data, ENCODINGS, members="text")
    with zipfile.ZipFile(shared_data / ENCODINGS) as unpacked:
        unpacked.extractall(tmp_path)
        names = [each for each in unpacked.namelist() if not each.endswith("/")]
    assert len(read) == len(names) == rows
    for number, (name, each) in enumerate(zip(names, read, strict=True), 1):
        file = InputFile(str(tmp_path / name))
        (alone,) = read_records(file, "text", LIMIT)
        file.close()
        if isinstance(alone, Damage):
            assert each == alone._replace(position=number, detail=f"{name}: {alone.detail}")
        else:
            assert isinstance(each, Record)
            assert (each.text, each.meta) == (alone.text, f'{{"archive_member":"{name}"}}')
    assert sum(isinstance(each, Record) for each in read) == 141


def test_one_json_value_is_counted_line_by_line(shared_data: Path) -> None:
    """What is JSON but no JSON lines: each line is a drop with its place, none is lost."""
    files = [path for path, _ in rows_of(shared_data, "web/mojibake")]
    assert len(files) == 5
    for path in files:
        lines = (shared_data / path).read_text().splitlines()
        found = read_all(shared_data, path)
        assert {type(each) for each in found} == {Damage}
        assert [each.position for each in found] == [
            number for number, line in enumerate(lines, 1) if line.strip()
        ]

"""Documents come back from rows of every format, and what is wrong with rows is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpus.files import writing
from corpus.shards import Sequences, Shard, shard_schema, write_blocks
from corpus.tokenizer import Tokenizer, build_definition
from pipeline.formats import Documents, lay_documents, write_rows
from pipeline.rows import document_rows, document_tokens, find_broken_rows, row_texts
from pipeline.split import split_sentences

FORMATS = (
    "full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair",
)  # fmt: skip
TOKENIZER = Tokenizer(build_definition([]))
TEXTS = [f"One of {n}. Two: \u00e9\u4f60. " + "Three and more. " * (n % 4) for n in range(30)]
TEXTS += ["Short."]
TEXTS[7] = "One sentence that is longer than any row of the shards that hold it, twice as long"
SIZE = 40


def rows_of(packing: str) -> Sequences:
    pieces = [split_sentences(text) for text in TEXTS]
    ids = TOKENIZER.encode([sentence for each in pieces for sentence in each])
    flat = np.array([token for each in ids for token in each], np.uint16)
    documents = Documents(
        flat, np.zeros(len(flat), np.bool_), np.cumsum([0, *map(len, ids)]),
        np.cumsum([0, *map(len, pieces)]),
    )  # fmt: skip
    (rows,) = write_rows(documents, lay_documents(documents, packing, SIZE), packing, SIZE)
    return rows


def shard_of(directory: Path, rows: Sequences, packing: str) -> Shard:
    path = directory / "train-00000.arrow"
    with writing(str(path)) as stream:
        write_blocks(stream, [rows], shard_schema(SIZE, np.uint16, "f" * 64, packing))
    return Shard(str(path))


@pytest.mark.parametrize("packing", FORMATS)
def test_documents_come_back(tmp_path: Path, packing: str) -> None:
    shard = shard_of(tmp_path, rows_of(packing), packing)
    assert list(find_broken_rows(shard, TOKENIZER.mask_id)) == []
    found = list(document_tokens(shard))
    assert [TOKENIZER.decode(ids.tolist()) for ids, _ in found] == TEXTS
    assert [len(starts) for _, starts in found] == [len(text.encode()) for text in TEXTS]
    held: dict[int, list[int]] = {}
    pieces = shard.pieces()
    for row in range(shard.rows):
        documents, starts, stops, begins = shard.pieces_of(row)
        here = pieces.rows == row
        assert np.array_equal(documents, pieces.documents[here])
        assert np.array_equal(starts, pieces.starts[here])
        assert np.array_equal(stops, pieces.stops[here])
        assert np.array_equal(begins, pieces.offsets[here] == 0)
        for number, text in row_texts(shard, row, TOKENIZER):
            assert text.strip("\ufffd") in TEXTS[number]
            held.setdefault(number, []).append(row)
    for number, runs in enumerate(document_rows(shard)):
        rows = [row for first, last in runs for row in range(first, last + 1)]
        assert rows == sorted(set(held[number]))


@pytest.mark.parametrize("packing", FORMATS)
@pytest.mark.parametrize("damage", ["padding", "end", "start", "special", "mask"])
def test_a_broken_row_is_named(tmp_path: Path, packing: str, damage: str) -> None:
    rows = rows_of(packing)
    ids, lengths = rows.token_ids.copy(), rows.lengths.copy()
    row = int(np.flatnonzero((lengths < SIZE - 2) & (lengths > 5))[-1])
    frame = f"row {row} is not <s> ... </s> and padding"
    inside = f"row {row} has a special token inside a document"
    if damage == "padding":
        ids[row, lengths[row] + 1] = 2
    elif damage == "end":
        lengths[row] -= 1
    elif damage == "start":
        ids[row, 0] = 2
    else:
        ids[row, 3] = 2 if damage == "special" else TOKENIZER.mask_id
    shard = shard_of(tmp_path, replace(rows, token_ids=ids, lengths=lengths), packing)
    if damage == "special" and packing in ("best-fit", "segment-pair", "sentence-pair"):
        with pytest.raises(ValueError, match="pieces"):
            list(find_broken_rows(shard, TOKENIZER.mask_id))
        return
    complaints = list(find_broken_rows(shard, TOKENIZER.mask_id))
    assert (frame if damage in ("padding", "end", "start") else inside) in complaints


@pytest.mark.parametrize("packing", FORMATS)
def test_a_changed_token_is_seen(tmp_path: Path, packing: str) -> None:
    rows = rows_of(packing)
    ids = rows.token_ids.copy()
    ids[5, 2] = 100 if ids[5, 2] != 100 else 101
    shard = shard_of(tmp_path, replace(rows, token_ids=ids), packing)
    found = [TOKENIZER.decode(ids.tolist()) for ids, _ in document_tokens(shard)]
    assert sum(text != kept for text, kept in zip(found, TEXTS, strict=True)) == 1

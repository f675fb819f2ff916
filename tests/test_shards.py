"""A shard opens everywhere, gives its rows back and is the same bytes for the same rows."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.files import remove_tree, write_bytes, writing
from corpus.shards import (
    FORMAT_VERSION,
    PAIRED,
    REORDERED,
    ROWS_PER_BATCH,
    Provenance,
    Sequences,
    Shard,
    shard_schema,
    token_dtype,
    write_blocks,
    write_shard,
)

LENGTH = 8


def some_rows(rows: int, dtype: npt.DTypeLike = np.uint16, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, rows)
    starts = [np.sort(rng.choice(np.arange(1, LENGTH), count, replace=False)) for count in counts]
    return Sequences(
        rng.integers(0, np.iinfo(dtype).max, (rows, LENGTH), dtype=dtype, endpoint=True),
        rng.integers(2, LENGTH + 1, rows).astype(np.int32),
        rng.random((rows, LENGTH)) < 0.5,
        np.concatenate([np.empty(0, np.uint16), *starts]).astype(np.uint16),
        np.cumsum([0, *counts]).astype(np.int32),
    )


def encode(sequences: Sequences, dtype: npt.DTypeLike = np.uint16) -> bytes:
    stream = io.BytesIO()
    write_shard(stream, sequences, shard_schema(LENGTH, dtype, "f" * 64, "full-sentences"))
    return stream.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train-00000.arrow"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize(
    "rows", [0, 1, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 1, 2 * ROWS_PER_BATCH + 5]
)
def test_rows_come_back(path: Path, rows: int, dtype: npt.DTypeLike) -> None:
    written = some_rows(rows, dtype)
    path.write_bytes(encode(written, dtype))
    shard = Shard(str(path))
    assert (shard.rows, shard.sequence_length) == (rows, LENGTH)
    assert shard.tokenizer_fingerprint == "f" * 64
    every = np.arange(rows)
    found = shard.token_ids(every)
    assert (found == written.token_ids).all()
    assert not rows or found.dtype == dtype
    assert (shard.lengths == written.lengths).all()
    assert (shard.word_starts(every) == written.word_starts).all()
    for row in range(rows):
        start, stop = written.document_offsets[row : row + 2]
        assert shard.document_starts(row).tolist() == written.document_starts[start:stop].tolist()


def test_rows_in_any_order_across_the_batches(path: Path) -> None:
    written = some_rows(3 * ROWS_PER_BATCH)
    path.write_bytes(encode(written))
    shard = Shard(str(path))
    rows = [ROWS_PER_BATCH, 0, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, 3 * ROWS_PER_BATCH - 1]
    assert (shard.token_ids(rows) == written.token_ids[rows]).all()
    assert (shard.word_starts(rows) == written.word_starts[rows]).all()


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_refused(path: Path, row: int) -> None:
    path.write_bytes(encode(some_rows(5)))
    with pytest.raises(IndexError, match=f"has 5 rows, row {row} was asked for"):
        Shard(str(path)).token_ids([0, row])


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3))
def test_equal_rows_are_equal_bytes(before: int, rows: int, seed: int) -> None:
    """Also where the arrays are views into others, whose neighbours must not leak into padding."""
    written = some_rows(rows, seed=seed)
    around = some_rows(before, seed=seed + 1)
    offset = len(around.document_starts)
    view = Sequences(
        np.asfortranarray(np.concatenate([around.token_ids, written.token_ids]))[before:],
        np.concatenate([around.lengths, written.lengths])[before:],
        np.concatenate([around.word_starts, written.word_starts])[before:],
        np.concatenate([around.document_starts, written.document_starts])[offset:],
        np.concatenate([around.document_offsets, written.document_offsets])[before + 1 :],
    )
    assert encode(view) == encode(written)


def test_other_rows_are_other_bytes() -> None:
    rows = some_rows(20)
    whole = encode(rows)
    for field in ("token_ids", "lengths", "word_starts", "document_starts"):
        values = getattr(rows, field).copy()
        values.flat[-1] ^= 1
        fields: dict[str, Any] = rows.__dict__ | {field: values}
        assert encode(Sequences(**fields)) != whole


def test_a_shard_is_an_uncompressed_stream_without_nulls(path: Path) -> None:
    path.write_bytes(encode(some_rows(ROWS_PER_BATCH + 10)))
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        batches = list(reader)
        assert [batch.num_rows for batch in batches] == [ROWS_PER_BATCH, 10]
        assert not any(column.null_count for batch in batches for column in batch.columns)
        assert all(not field.nullable for field in reader.schema)
        assert reader.schema.metadata == {
            b"format_version": str(FORMAT_VERSION).encode(), b"tokenizer": b"f" * 64,
            b"sequence_length": b"8", b"format": b"full-sentences",
        }  # fmt: skip
        total = sum(batch.nbytes for batch in batches)
    assert total < path.stat().st_size < total + 4096


def test_datasets_opens_a_shard(path: Path) -> None:
    written = some_rows(ROWS_PER_BATCH + 3)
    path.write_bytes(encode(written))
    opened = datasets.Dataset.from_file(str(path))
    assert len(opened) == ROWS_PER_BATCH + 3
    for row in (0, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 2):
        assert opened[row]["token_ids"] == written.token_ids[row].tolist()
        assert opened[row]["length"] == written.lengths[row]
        assert opened[row]["word_starts"] == written.word_starts[row].tolist()


def with_columns(rows: Sequences, packing: str) -> Sequences:
    """Add what a format carries besides."""
    count, rng = len(rows.lengths), np.random.default_rng(1)
    pieces = np.cumsum([0, *rng.integers(1, 4, count)]).astype(np.int32)
    numbers = rng.integers(0, 2**32, (2, pieces[-1]), dtype=np.uint32)
    fields: dict[str, Any] = dict(rows.__dict__)
    if packing in PAIRED:
        fields["next_sentence"] = rng.integers(0, 3, count).astype(np.uint8)
    if packing in REORDERED:
        fields["provenance"] = Provenance(pieces, *numbers)
    return Sequences(**fields)


@pytest.mark.parametrize(
    ("packing", "columns"),
    [
        ("full-sentences", []),
        ("doc-sentences", []),
        ("stream", []),
        ("best-fit", ["piece_documents", "piece_offsets"]),
        ("segment-pair", ["next_sentence", "piece_documents", "piece_offsets"]),
        ("sentence-pair", ["next_sentence", "piece_documents", "piece_offsets"]),
    ],
)
def test_every_format_opens_without_a_copy(path: Path, packing: str, columns: list[str]) -> None:
    rows = with_columns(some_rows(ROWS_PER_BATCH + 3), packing)
    schema = shard_schema(LENGTH, np.uint16, "f" * 64, packing)
    with writing(str(path)) as stream:
        write_shard(stream, rows, schema)
    assert schema.names == ["token_ids", "length", "document_starts", "word_starts", *columns]
    before = pa.total_allocated_bytes()
    shard = Shard(str(path))
    views = shard._token_views
    assert pa.total_allocated_bytes() == before
    assert not any(view.flags.owndata or view.flags.writeable for view in views)
    assert shard.packing == packing
    assert (shard.token_ids(range(shard.rows)) == rows.token_ids).all()
    opened = datasets.Dataset.from_file(str(path))
    assert opened.column_names == schema.names
    for row in (0, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 2):
        if rows.next_sentence is not None:
            assert (
                shard.next_sentence[row] == rows.next_sentence[row] == opened[row]["next_sentence"]
            )
        if rows.provenance is not None:
            start, stop = rows.provenance.row_offsets[row : row + 2]
            assert opened[row]["piece_documents"] == rows.provenance.documents[start:stop].tolist()
            assert opened[row]["piece_offsets"] == rows.provenance.offsets[start:stop].tolist()


def test_blocks_are_the_rows_one_after_another() -> None:
    """Where each block but the last is a multiple of a batch, blocks do not show."""
    whole = some_rows(2 * ROWS_PER_BATCH + 7)
    schema = shard_schema(LENGTH, np.uint16, "f" * 64, "stream")
    first = ROWS_PER_BATCH
    ends, starts = whole.document_offsets, whole.document_starts
    blocks = [
        Sequences(whole.token_ids[:first], whole.lengths[:first], whole.word_starts[:first],
                  starts[: ends[first]], ends[: first + 1]),
        Sequences(whole.token_ids[first:], whole.lengths[first:], whole.word_starts[first:],
                  starts[ends[first] :], ends[first:] - ends[first]),
    ]  # fmt: skip
    streams = [io.BytesIO(), io.BytesIO()]
    write_shard(streams[0], whole, schema)
    write_blocks(streams[1], iter(blocks), schema)
    assert streams[0].getvalue() == streams[1].getvalue()


def test_pieces_by_hand(path: Path) -> None:
    """`<s> a b </s> c </s>` and `<s> c </s> . . .`: c goes on in the second row at its place 1."""
    rows = Sequences(
        np.array([[0, 10, 11, 2, 12, 2, 1, 1], [0, 13, 2, 1, 1, 1, 1, 1]], np.uint16),
        np.array([6, 3], np.int32),
        np.zeros((2, 8), np.bool_),
        np.array([1, 4], np.uint16),
        np.array([0, 2, 2], np.int32),
    )
    path.write_bytes(encode(rows))
    shard = Shard(str(path))
    assert [column.tolist() for column in shard.pieces()] == [
        [0, 0, 1], [1, 4, 1], [3, 5, 2], [0, 1, 1], [0, 0, 1],
    ]  # fmt: skip
    assert [shard.segment_starts(row).tolist() for row in (0, 1)] == [[0, 4], [0]]


def test_a_remote_shard_is_read_whole() -> None:
    remote = "memory://test-shards/train-00000.arrow"
    written = some_rows(10)
    write_bytes(remote, encode(written))
    assert (Shard(remote).token_ids(range(10)) == written.token_ids).all()
    remove_tree("memory://test-shards")


def test_a_truncated_shard_is_named(path: Path) -> None:
    data = encode(some_rows(ROWS_PER_BATCH + 10))
    reader = pa.ipc.open_stream(source := pa.BufferReader(data))
    reader.read_next_batch()
    between_batches, end = source.tell(), len(data)
    for size in (0, 1, 100, between_batches, end // 2, end - 100, end - 9, end - 8, end - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"train-00000\.arrow is not a whole shard"):
            Shard(str(path))


def test_a_missing_shard_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match=r"train-00000\.arrow is not a whole shard"):
        Shard(str(path))


@pytest.mark.parametrize("metadata", [None, {"format_version": "99"}])
def test_another_format_version_is_refused(path: Path, metadata: dict[str, str] | None) -> None:
    schema = pa.schema([("token_ids", pa.list_(pa.uint16(), LENGTH))], metadata=metadata)
    with writing(str(path)) as stream, pa.ipc.new_stream(stream, schema):
        pass
    found = "none" if metadata is None else "99"
    with pytest.raises(ValueError, match=f"has format version {found}, expected {FORMAT_VERSION}"):
        Shard(str(path))


def test_ids_are_as_narrow_as_the_vocabulary_allows() -> None:
    assert token_dtype(300) is np.uint16
    assert token_dtype(2**16) is np.uint16
    assert token_dtype(2**16 + 1) is np.uint32

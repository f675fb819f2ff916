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
from stage_helpers import unhurried

from corpus.files import remove_tree, write_bytes, writing
from corpus.shards import (
    FORMAT_VERSION,
    ROWS_PER_BATCH,
    Sequences,
    Shard,
    shard_schema,
    token_dtype,
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


@unhurried
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

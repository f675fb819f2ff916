"""Shards: fixed-length sequences in one uncompressed Arrow IPC stream, opened without a copy.

A row is one sequence: token ids (padded to the sequence length), the number of real tokens, the
positions at which documents begin and a bit a token that says where words begin. The stream format
is what both `pyarrow` memory-maps and `datasets.Dataset.from_file` opens; the file format is not.
Record batches have a fixed row count and no nulls, and arrays are built anew before writing, so
that equal rows are equal bytes.

Reading maps the file and gives numpy views; random access costs one page fault, nothing is parsed
a row. A remote shard is read whole into memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import is_remote, read_bytes

FORMAT_VERSION = 1
# What closes an Arrow IPC stream; without it a cut between two batches would go unseen.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
ROWS_PER_BATCH = 1024  # guess: 1 MiB of ids at 512 tokens; small beside a shard, large beside a row

TokenIds = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Sequences:
    """Packed rows in memory, the unit that pack writes and audit reads.

    token_ids: [rows, sequence_length]; lengths: [rows], real tokens; word_starts: bool
    [rows, sequence_length]; document_starts: positions, all rows one after another;
    document_offsets: [rows + 1], where each row's part of document_starts begins.
    """

    token_ids: TokenIds
    lengths: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    document_starts: npt.NDArray[np.uint16]
    document_offsets: npt.NDArray[np.int32]


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the narrowest unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def shard_schema(
    sequence_length: int, dtype: npt.DTypeLike, tokenizer_fingerprint: str, packing: str
) -> pa.Schema:
    """Return the schema of a shard with its metadata."""
    token_type = pa.from_numpy_dtype(dtype)
    return pa.schema(
        [
            _required("token_ids", pa.list_(_required("item", token_type), sequence_length)),
            _required("length", pa.int32()),
            _required("document_starts", pa.list_(_required("item", pa.uint16()))),
            _required("word_starts", pa.list_(_required("item", pa.bool_()), sequence_length)),
        ],
        metadata={
            "format_version": str(FORMAT_VERSION),
            "tokenizer": tokenizer_fingerprint,
            "sequence_length": str(sequence_length),
            "format": packing,
        },
    )


def _required(name: str, arrow_type: pa.DataType) -> pa.Field:
    return pa.field(name, arrow_type, nullable=False)


def write_shard(stream: BinaryIO, sequences: Sequences, schema: pa.Schema) -> None:
    """Write rows as record batches of `ROWS_PER_BATCH`; the last one may be shorter."""
    rows = len(sequences.lengths)
    with pa.ipc.new_stream(stream, schema) as writer:
        for start in range(0, rows, ROWS_PER_BATCH):
            writer.write_batch(_batch(sequences, start, min(start + ROWS_PER_BATCH, rows), schema))


def _batch(sequences: Sequences, start: int, stop: int, schema: pa.Schema) -> pa.RecordBatch:
    def fixed(name: str, values: npt.NDArray[np.generic]) -> pa.Array:
        field = schema.field(name)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), field.type.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)

    offsets = sequences.document_offsets[start : stop + 1]
    starts = sequences.document_starts[offsets[0] : offsets[-1]]
    columns = [
        fixed("token_ids", sequences.token_ids[start:stop]),
        pa.array(np.array(sequences.lengths[start:stop], np.int32)),
        pa.ListArray.from_arrays(
            pa.array(np.asarray(offsets - offsets[0], np.int32)),
            pa.array(np.array(starts, np.uint16)),
            type=schema.field("document_starts").type,
        ),
        fixed("word_starts", sequences.word_starts[start:stop]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class Shard:
    """One shard opened for reading; rows are numpy views of the mapped file."""

    def __init__(self, path: str) -> None:
        """Map a local shard, or read a remote one; `ValueError` names a damaged one."""
        self.path = path
        try:
            source = pa.BufferReader(read_bytes(path)) if is_remote(path) else pa.memory_map(path)
            with pa.ipc.open_stream(source) as reader:
                self.schema = reader.schema
                self.batches: list[pa.RecordBatch] = list(reader)
            source.seek(source.size() - len(_END_OF_STREAM))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("its end is missing")
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a whole shard: {error}") from error
        metadata = self.schema.metadata or {}
        found = metadata.get(b"format_version", b"none").decode()
        if found != str(FORMAT_VERSION):
            raise ValueError(f"{path} has format version {found}, expected {FORMAT_VERSION}")
        self.tokenizer_fingerprint: str = metadata[b"tokenizer"].decode()
        self.sequence_length = int(metadata[b"sequence_length"])
        self.rows = sum(batch.num_rows for batch in self.batches)

    @cached_property
    def _token_views(self) -> list[TokenIds]:
        return [
            batch.column("token_ids")
            .flatten()
            .to_numpy(zero_copy_only=True)
            .reshape(-1, self.sequence_length)
            for batch in self.batches
        ]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Real tokens of every row, special tokens included: int32 [rows]."""
        parts = [batch.column("length").to_numpy() for batch in self.batches]
        return np.concatenate([np.empty(0, np.int32), *parts])

    def token_ids(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> TokenIds:
        """Gather rows: [len(rows), sequence_length]; `IndexError` for one that is not there."""
        views = self._token_views
        dtype = views[0].dtype if views else np.dtype(np.uint16)
        gathered = np.empty((len(rows), self.sequence_length), dtype)
        for i, row in enumerate(rows):
            if not 0 <= row < self.rows:
                raise IndexError(f"{self.path} has {self.rows} rows, row {row} was asked for")
            gathered[i] = views[row // ROWS_PER_BATCH][row % ROWS_PER_BATCH]
        return gathered

    def document_starts(self, row: int) -> npt.NDArray[np.uint16]:
        """Return the positions in a row at which documents begin."""
        column = self.batches[row // ROWS_PER_BATCH].column("document_starts")
        return column[row % ROWS_PER_BATCH].values.to_numpy()  # type: ignore[no-any-return]

    def word_starts(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Gather the word-start bits of rows: bool [len(rows), sequence_length]."""
        gathered = np.empty((len(rows), self.sequence_length), np.bool_)
        for i, row in enumerate(rows):
            column = self.batches[row // ROWS_PER_BATCH].column("word_starts")
            gathered[i] = column[row % ROWS_PER_BATCH].values.to_numpy(zero_copy_only=False)
        return gathered

"""Shards: fixed-length sequences in one uncompressed Arrow IPC stream, opened without a copy.

A row is one sequence: token ids (padded to the sequence length), the number of real tokens, the
positions at which documents begin and a bit a token that says where words begin. Rows of pairs also
say whether the second half follows the first, and where rows do not lie in the order of the text,
each piece names its document and its place in it. The metadata names the format. The stream format
is what both `pyarrow` memory-maps and `datasets.Dataset.from_file` opens; the file format is not.
Record batches have a fixed row count and no nulls, and arrays are built anew before writing, so
that equal rows are equal bytes.

Reading maps the file and gives numpy views; random access costs one page fault and a copy, nothing
is parsed a row. A remote shard is read whole into memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from corpus.files import RemoteError, is_remote, read_bytes
from corpus.tokenizer import BOS_ID, EOS_ID, LEADING_SPECIALS

FORMAT_VERSION = 1
# What closes an Arrow IPC stream; without it a cut between two batches would go unseen.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
ROWS_PER_BATCH = 1024  # guess: 1 MiB of ids at 512 tokens; small beside a shard, large beside a row

# Formats with two halves a row; those whose rows are not in the order of the text; and those in
# which every piece is a sequence of its own.
PAIRED = ("segment-pair", "sentence-pair")
REORDERED = (*PAIRED, "best-fit")
SEPARATE = ("doc-sentences", "best-fit")


def separators(packing: str) -> tuple[int, ...]:
    """Return the special tokens between two pieces of a row."""
    if packing in SEPARATE:
        return EOS_ID, BOS_ID
    return (EOS_ID, EOS_ID) if packing in PAIRED else (EOS_ID,)


TokenIds = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]


class Provenance(NamedTuple):
    """What the pieces of rows are, where the order of the rows does not tell.

    row_offsets: [rows + 1], where each row's pieces begin; documents: their numbers in the order of
    packing; offsets: the places of their first tokens in them.
    """

    row_offsets: npt.NDArray[np.int32]
    documents: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]


class Pieces(NamedTuple):
    """The parts of documents that a shard's rows hold, in the order of the rows.

    rows; starts and stops: places in the row; documents: their numbers in the order of packing,
    empty ones not counted; offsets: the places of their first tokens in them.
    """

    rows: Int64s
    starts: Int64s
    stops: Int64s
    documents: Int64s
    offsets: Int64s


class RowPieces(NamedTuple):
    """The parts of documents in one row, in its order; `begins` tells where documents begin.

    documents: their numbers in the order of packing; starts and stops: places in the row.
    """

    documents: Int64s
    starts: Int64s
    stops: Int64s
    begins: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sequences:
    """Packed rows in memory, the unit that pack writes and audit reads.

    token_ids: [rows, sequence_length]; lengths: [rows], real tokens; word_starts: bool
    [rows, sequence_length]; document_starts: positions, all rows one after another;
    document_offsets: [rows + 1], where each row's part of document_starts begins; next_sentence:
    [rows], for pairs: 1 where the second half follows the first, 0 where it is of another document,
    2 where there is none; provenance: for formats of `REORDERED`.
    """

    token_ids: TokenIds
    lengths: npt.NDArray[np.int32]
    word_starts: npt.NDArray[np.bool_]
    document_starts: npt.NDArray[np.uint16]
    document_offsets: npt.NDArray[np.int32]
    next_sentence: npt.NDArray[np.uint8] | None = None
    provenance: Provenance | None = None


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the narrowest unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def shard_schema(
    sequence_length: int, dtype: npt.DTypeLike, tokenizer_fingerprint: str, packing: str
) -> pa.Schema:
    """Return the schema of a shard with its metadata."""
    token_type = pa.from_numpy_dtype(dtype)
    fields = [
        _required("token_ids", pa.list_(_required("item", token_type), sequence_length)),
        _required("length", pa.int32()),
        _required("document_starts", pa.list_(_required("item", pa.uint16()))),
        _required("word_starts", pa.list_(_required("item", pa.bool_()), sequence_length)),
    ]
    if packing in PAIRED:
        fields.append(_required("next_sentence", pa.uint8()))
    if packing in REORDERED:
        numbers = pa.list_(_required("item", pa.uint32()))
        fields += [_required("piece_documents", numbers), _required("piece_offsets", numbers)]
    return pa.schema(
        fields,
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
    write_blocks(stream, [sequences], schema)


def write_blocks(stream: BinaryIO, blocks: Iterable[Sequences], schema: pa.Schema) -> None:
    """Write blocks of rows, all but the last of a multiple of `ROWS_PER_BATCH` rows."""
    with pa.ipc.new_stream(stream, schema) as writer:
        for sequences in blocks:
            rows = len(sequences.lengths)
            for start in range(0, rows, ROWS_PER_BATCH):
                stop = min(start + ROWS_PER_BATCH, rows)
                writer.write_batch(_batch(sequences, start, stop, schema))


def _batch(sequences: Sequences, start: int, stop: int, schema: pa.Schema) -> pa.RecordBatch:
    def fixed(name: str, values: npt.NDArray[np.generic]) -> pa.Array:
        field = schema.field(name)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), field.type.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)

    def lists(
        name: str, offsets: npt.NDArray[np.int32], values: npt.NDArray[np.generic]
    ) -> pa.Array:
        field = schema.field(name)
        ends = offsets[start : stop + 1]
        return pa.ListArray.from_arrays(
            pa.array(np.asarray(ends - ends[0], np.int32)),
            pa.array(np.array(values[ends[0] : ends[-1]]), field.type.value_type),
            type=field.type,
        )

    columns = [
        fixed("token_ids", sequences.token_ids[start:stop]),
        pa.array(np.array(sequences.lengths[start:stop], np.int32)),
        lists("document_starts", sequences.document_offsets, sequences.document_starts),
        fixed("word_starts", sequences.word_starts[start:stop]),
    ]
    if sequences.next_sentence is not None:
        columns.append(pa.array(np.array(sequences.next_sentence[start:stop], np.uint8)))
    if sequences.provenance is not None:
        row_offsets, documents, places = sequences.provenance
        columns.append(lists("piece_documents", row_offsets, documents))
        columns.append(lists("piece_offsets", row_offsets, places))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class Columns(NamedTuple):
    """A shard's file as ids and as lengths, and where in each a batch's values begin.

    Row r is of batch r // ROWS_PER_BATCH, `sequence_length` ids or one length a row.
    """

    ids: TokenIds
    id_firsts: Int64s
    lengths: npt.NDArray[np.int32]
    length_firsts: Int64s


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
            source.seek(0)
            self._file: pa.Buffer = source.read_buffer()
        except RemoteError:  # a network that fails says nothing about the shard
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a whole shard: {error}") from error
        metadata = self.schema.metadata or {}
        found = metadata.get(b"format_version", b"none").decode()
        if found != str(FORMAT_VERSION):
            raise ValueError(f"{path} has format version {found}, expected {FORMAT_VERSION}")
        self.tokenizer_fingerprint: str = metadata[b"tokenizer"].decode()
        self.sequence_length = int(metadata[b"sequence_length"])
        self._item = np.dtype(self.schema.field("token_ids").type.value_type.to_pandas_dtype())
        self.packing: str = metadata[b"format"].decode()
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
    def columns(self) -> Columns:
        """What kernels gather rows from; nothing is copied.

        It holds a number a batch and none a row: a rank of a long run has thousands of shards open.
        """
        return Columns(
            self._as(self._item),
            self._firsts("token_ids", self._item.itemsize),
            self._as(np.dtype(np.int32)),
            self._firsts("length", 4),
        )

    @cached_property
    def _word_firsts(self) -> Int64s:
        return self._firsts("word_starts", 1)

    def _firsts(self, name: str, item_bytes: int) -> Int64s:
        """Where a column of each batch begins in the file, in items."""
        columns = [batch.column(name) for batch in self.batches]
        if self.batches and isinstance(columns[0], pa.FixedSizeListArray):
            columns = [each.flatten() for each in columns]
        places = [each.buffers()[1].address - self._file.address for each in columns]
        return np.array(places, np.int64) // item_bytes

    def _as(self, item: "np.dtype[Any]") -> npt.NDArray[Any]:
        return np.frombuffer(self._file, item, self._file.size // item.itemsize)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Real tokens of every row, special tokens included: int32 [rows]."""
        parts = [batch.column("length").to_numpy() for batch in self.batches]
        return np.concatenate([np.empty(0, np.int32), *parts])

    @cached_property
    def next_sentence(self) -> npt.NDArray[np.uint8]:
        """For pairs, whether the second half follows: [rows], see `Sequences`."""
        parts = [batch.column("next_sentence").to_numpy() for batch in self.batches]
        return np.concatenate([np.empty(0, np.uint8), *parts])

    def token_ids(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> TokenIds:
        """Gather rows: [len(rows), sequence_length]; `IndexError` for one that is not there."""
        chosen = self.checked(rows)
        firsts = self.columns.id_firsts[chosen // ROWS_PER_BATCH]
        places = firsts + chosen % ROWS_PER_BATCH * self.sequence_length
        return self._gather(self._item, places, self.sequence_length)

    def checked(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Int64s:
        """Return numbers of rows as an array; `IndexError` for one that is not there."""
        chosen = np.asarray(rows, np.int64)
        outside = chosen[(chosen < 0) | (chosen >= self.rows)]
        if len(outside):
            raise IndexError(f"{self.path} has {self.rows} rows, row {outside[0]} was asked for")
        return chosen

    def _gather(self, item: "np.dtype[Any]", places: Int64s, width: int) -> npt.NDArray[Any]:
        """Copy stretches of the file: every place is a row of a view with a stride of one item."""
        if not len(places):
            return np.empty((0, width), item)
        return sliding_window_view(self._as(item), width)[places]

    def document_starts(self, row: int) -> npt.NDArray[np.uint16]:
        """Return the positions in a row at which documents begin."""
        column = self.batches[row // ROWS_PER_BATCH].column("document_starts")
        return column[row % ROWS_PER_BATCH].values.to_numpy()  # type: ignore[no-any-return]

    def word_starts(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Gather the word-start bits of rows: bool [len(rows), sequence_length]."""
        chosen = self.checked(rows)
        firsts = self._word_firsts[chosen // ROWS_PER_BATCH] * 8
        places = firsts + chosen % ROWS_PER_BATCH * self.sequence_length  # in bits
        # A row may begin within a byte; the last one is followed by at least the stream's end.
        held = self._gather(np.dtype(np.uint8), places // 8, self.sequence_length // 8 + 2)
        bits = np.unpackbits(held, axis=1, bitorder="little").view(np.bool_)
        gathered = np.empty((len(places), self.sequence_length), np.bool_)
        for shift in range(8):
            begun = places % 8 == shift
            gathered[begun] = bits[begun, shift : shift + self.sequence_length]
        return gathered

    def segment_starts(self, row: int) -> Int64s:
        """Return where the parts of a row begin that attention may keep apart, the first at 0.

        Where every piece is a sequence of its own it begins with its `<s>`; else a document begins
        after its separator. The halves of a pair are one part.
        """
        if self.packing in SEPARATE:
            return np.flatnonzero(self.token_ids([row])[0] == BOS_ID)
        starts = self.document_starts(row).astype(np.int64)
        inner = starts[starts > 1] if self.packing not in PAIRED else starts[:0]
        return np.concatenate([np.zeros(1, np.int64), inner])

    def pieces(self) -> Pieces:
        """Find every part of a document, with the document it is of and its place in it.

        `ValueError` where the rows do not hold the pieces that they list.
        """
        rows, starts, stops, begins = self._stretches()
        if self.packing in REORDERED:
            documents = self._numbers("piece_documents")
            offsets = self._numbers("piece_offsets")
            self._check_listed(len(documents), len(rows))
        else:
            documents = np.cumsum(begins) - 1
            before = np.cumsum(stops - starts) - (stops - starts)
            offsets = before - before[np.flatnonzero(begins)][documents]
        return Pieces(rows, starts, stops, documents, offsets)

    def pieces_of(self, row: int) -> RowPieces:
        """Find the parts of documents of one row, without a look at the tokens of the others.

        `ValueError` where the row does not hold the pieces that it lists.
        """
        (ids,) = self.token_ids([row])
        edges = np.flatnonzero(np.diff(ids >= len(LEADING_SPECIALS), prepend=False, append=False))
        starts, stops = edges[::2], edges[1::2]
        number, at = divmod(row, ROWS_PER_BATCH)
        if self.packing in REORDERED:
            names = ("piece_documents", "piece_offsets")
            columns = [self.batches[number].column(name)[at].values.to_numpy() for name in names]
            documents, offsets = (column.astype(np.int64) for column in columns)
            self._check_listed(len(documents), len(starts))
            return RowPieces(documents, starts, stops, offsets == 0)
        begun = 0  # documents that begin in rows before this one
        for batch in self.batches[: number + 1]:
            offsets = batch.column("document_starts").offsets.to_numpy()
            begun += int(offsets[at if batch is self.batches[number] else -1] - offsets[0])
        begins = np.isin(starts, self.document_starts(row))
        return RowPieces(begun + np.cumsum(begins) - 1, starts, stops, begins)

    def _check_listed(self, listed: int, held: int) -> None:
        if listed != held:
            raise ValueError(
                f"{self.path} lists {listed} pieces, its rows hold {held}: "
                "see `python -m pipeline audit STORE`, then delete the shard and build it again"
            )

    def _numbers(self, name: str) -> Int64s:
        parts = [batch.column(name).flatten().to_numpy() for batch in self.batches]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)

    def _stretches(self) -> tuple[Int64s, Int64s, Int64s, npt.NDArray[np.bool_]]:
        """Find the stretches of text between special tokens, and which of them begin a document."""
        found = [np.empty((4, 0), np.int64)]
        for number, (ids, batch) in enumerate(zip(self._token_views, self.batches, strict=True)):
            text = np.zeros((len(ids), self.sequence_length + 1), np.int8)
            text[:, :-1] = ids >= len(LEADING_SPECIALS)
            edges = np.diff(text, axis=1, prepend=np.int8(0))
            rows, starts = np.nonzero(edges == 1)
            column = batch.column("document_starts")
            marks = np.zeros(text.shape, np.bool_)
            marks[column.value_parent_indices().to_numpy(), column.flatten().to_numpy()] = True
            home = rows + number * ROWS_PER_BATCH
            found.append(np.stack([home, starts, np.nonzero(edges == -1)[1], marks[rows, starts]]))
        rows, starts, stops, begins = np.concatenate(found, axis=1)
        return rows, starts, stops, begins.astype(np.bool_)

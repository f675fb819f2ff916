"""Pairs: which documents may be alike, and which of them verifiably are.

*Group* takes one range of the index's key space and finds the members of each bucket. *Verify*
compares the shingle sets of the candidates themselves (or, as an option, their signatures) and
keeps the pairs at or above the threshold. Documents with identical shingle sets share every band
and have similarity 1: they collapse to one before pairs are formed. No bucket is cut, and nothing
depends on the number of partitions.

Group holds one range of keys and the pairs of it; verify holds a block of texts. A bucket of n
different sets costs n^2/2 comparisons.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import is_remote, join, read_bytes
from corpus.recipe import Dedup
from pipeline.jobs import Output
from pipeline.signatures import EXACT_BAND, ID_BAND, SET_BAND, shingle_sets, sign, write_arrow

# Raised by hand when the edges of a corpus change.
VERSION = 1

# Text that a block of verification holds. Guess: a gigabyte of working set.
_BLOCK_BYTES = 64 * 2**20
_PAIRS_PER_BLOCK = 4_000_000

# A document is (part number, row) packed into one integer, part first.
ROW_BITS = 32

PAIR_SCHEMA = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
VERIFIED_SCHEMA = pa.schema([*PAIR_SCHEMA, ("shared", pa.int64()), ("total", pa.int64())])
MEMBER_SCHEMA = pa.schema([("document", pa.uint64())])

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


def open_arrow(path: str) -> pa.Table:
    """Open one of our Arrow files, mapped where it is local; `ValueError` names a damaged one."""
    try:
        source = pa.BufferReader(read_bytes(path)) if is_remote(path) else pa.memory_map(path)
        return pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its snapshot's directory and refresh again"
        ) from error


def group_partition(
    root: str, name: str, partition: int, partitions: int, parts: Sequence[str]
) -> Output:
    """Find the candidate pairs and the members of shared values in one range of the key space."""
    keys = _read_range(root, partition, partitions, parts)
    members = _members_of_shared_values(keys)
    left, right = _candidate_pairs(root, keys, parts)
    paths = (f"work/group/{name}.members.arrow", f"work/group/{name}.pairs.arrow")
    write_arrow(join(root, paths[0]), pa.table([members], schema=MEMBER_SCHEMA))
    write_arrow(join(root, paths[1]), pa.table([left, right], schema=PAIR_SCHEMA))
    return Output(paths, {"pairs": len(left), "members": len(members)})


class _Keys(NamedTuple):
    """Keys of a range in order, each with its band and its document."""

    key: UInt64s
    band: npt.NDArray[np.uint8]
    document: UInt64s


def _read_range(root: str, partition: int, partitions: int, parts: Sequence[str]) -> _Keys:
    low = partition * 2**64 // partitions
    high = (partition + 1) * 2**64 // partitions - 1
    key, band, document = [], [], []
    for number, part in enumerate(parts):
        table = open_arrow(join(root, f"index/{part}.keys.arrow"))
        values = column_values(table, "key")
        start = np.searchsorted(values, np.uint64(low), side="left")
        stop = np.searchsorted(values, np.uint64(high), side="right")
        key.append(values[start:stop])
        band.append(column_values(table, "band")[start:stop])
        rows = column_values(table, "row")[start:stop].astype(np.uint64)
        document.append(rows | np.uint64(number << ROW_BITS))
    keys = _Keys(np.concatenate(key), np.concatenate(band), np.concatenate(document))
    order = np.lexsort((keys.document, keys.band, keys.key))
    return _Keys(keys.key[order], keys.band[order], keys.document[order])


def column_values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column of numbers as one array."""
    column = table[name]
    if not column.num_chunks:
        return np.empty(0, column.type.to_pandas_dtype())
    return column.combine_chunks().to_numpy()  # type: ignore[no-any-return]


def _buckets(keys: _Keys) -> Iterator[slice]:
    """Give the runs of two or more documents with one band and key."""
    if not len(keys.key):
        return
    new = np.ones(len(keys.key), bool)
    new[1:] = (keys.key[1:] != keys.key[:-1]) | (keys.band[1:] != keys.band[:-1])
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], len(keys.key))
    large = stops - starts > 1
    for start, stop in zip(starts[large], stops[large], strict=True):
        yield slice(int(start), int(stop))


def _members_of_shared_values(keys: _Keys) -> UInt64s:
    shared = [
        keys.document[bucket]
        for bucket in _buckets(keys)
        if keys.band[bucket.start] in (SET_BAND, EXACT_BAND, ID_BAND)
    ]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *shared]))


def _candidate_pairs(root: str, keys: _Keys, parts: Sequence[str]) -> tuple[UInt64s, UInt64s]:
    """Pair the documents of every MinHash bucket, one document standing for each shingle set."""
    wanted = [bucket for bucket in _buckets(keys) if keys.band[bucket.start] < SET_BAND]
    documents = np.concatenate(
        [np.empty(0, np.uint64), *(keys.document[bucket] for bucket in wanted)]
    )
    set_hashes = _Hashes(root, parts, documents)
    found: list[UInt64s] = [np.empty((0, 2), np.uint64)]
    held = 0
    for bucket in wanted:
        # Members come in order, so the first of each set is the least, in every bucket the same.
        distinct = {set_hashes[document]: document for document in keys.document[bucket][::-1]}
        standing = np.sort(np.fromiter(distinct.values(), np.uint64))
        for i in range(len(standing) - 1):
            pairs = np.empty((len(standing) - 1 - i, 2), np.uint64)
            pairs[:, 0], pairs[:, 1] = standing[i], standing[i + 1 :]
            found.append(pairs)
            held += len(pairs)
            if held > _PAIRS_PER_BLOCK:
                found, held = [np.unique(np.concatenate(found), axis=0)], 0
    unique = np.unique(np.concatenate(found), axis=0)
    return unique[:, 0].copy(), unique[:, 1].copy()


class _Hashes:
    """The shingle-set hashes of the documents asked for, read from the index part by part."""

    def __init__(self, root: str, parts: Sequence[str], documents: UInt64s) -> None:
        self._hashes: dict[int, bytes] = {}
        for part, rows in rows_by_part(documents):
            path = join(root, f"index/{parts[part]}.documents.arrow")
            values = open_arrow(path)["set_hash"].take(pa.array(rows)).to_pylist()
            for row, value in zip(rows.tolist(), values, strict=True):
                self._hashes[part << ROW_BITS | row] = value

    def __getitem__(self, document: np.uint64) -> bytes:
        return self._hashes[int(document)]


def rows_by_part(documents: UInt64s) -> Iterator[tuple[int, Int64s]]:
    """Give the distinct rows asked of each part, in order."""
    unique = np.unique(documents)
    numbers = unique >> np.uint64(ROW_BITS)
    for number in np.unique(numbers):
        rows = unique[numbers == number] & np.uint64(2**ROW_BITS - 1)
        yield int(number), rows.astype(np.int64)


def verify_partition(
    root: str, name: str, config: Dedup, parts: Sequence[str], groups: Sequence[str]
) -> Output:
    """Compare the candidate pairs that fall to this task and keep those above the threshold."""
    left, right = _pairs_of(root, groups.index(name), config.partitions, groups)
    verified: list[dict[str, int]] = []
    for start, stop in _blocks(root, parts, left, right):
        verified += _compare(root, parts, left[start:stop], right[start:stop], config)
    path = f"work/verify/{name}.arrow"
    write_arrow(join(root, path), pa.Table.from_pylist(verified, schema=VERIFIED_SCHEMA))
    return Output((path,), {"compared": len(left), "verified": len(verified)})


def _pairs_of(
    root: str, partition: int, partitions: int, groups: Sequence[str]
) -> tuple[UInt64s, UInt64s]:
    """Return this task's share of all pairs, once each, however many bands they share."""
    mine = [np.empty((0, 2), np.uint64)]
    for group in groups:
        table = open_arrow(join(root, f"work/group/{group}.pairs.arrow"))
        pairs = np.stack(
            [column_values(table, "left"), column_values(table, "right")], axis=1
        ).astype("u8")
        # Neighbouring rows fall to one task, so that it reads few row groups.
        block = (pairs[:, 0] >> np.uint64(10)) % np.uint64(partitions)
        mine.append(pairs[block == partition])
    unique = np.unique(np.concatenate(mine), axis=0)
    return unique[:, 0].copy(), unique[:, 1].copy()


def _blocks(
    root: str, parts: Sequence[str], left: UInt64s, right: UInt64s
) -> Iterator[tuple[int, int]]:
    """Cut pairs into runs whose documents hold a bounded amount of text."""
    sizes: dict[int, int] = {}
    for part, rows in rows_by_part(np.concatenate([left, right])):
        table = open_arrow(join(root, f"index/{parts[part]}.documents.arrow"))
        texts = table["text_bytes"].take(pa.array(rows)).to_pylist()
        for row, size in zip(rows.tolist(), texts, strict=True):
            sizes[part << ROW_BITS | row] = size
    start, held, seen = 0, 0, set[int]()
    for i, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        if held > _BLOCK_BYTES:
            yield start, i
            start, held, seen = i, 0, set()
        for document in pair:
            if document not in seen:
                seen.add(document)
                held += sizes[document]
    if start < len(left):
        yield start, len(left)


def _compare(
    root: str, parts: Sequence[str], left: UInt64s, right: UInt64s, config: Dedup
) -> list[dict[str, int]]:
    values: dict[int, UInt64s] = {}
    for document, text in _read_texts(root, parts, np.concatenate([left, right])):
        if config.verify == "exact":
            values[document], _ = shingle_sets([text], config.ngram)
        else:
            values[document] = sign([text], config).signatures[0]
    verified = []
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        if config.verify == "exact":
            shared = len(np.intersect1d(values[one], values[other], assume_unique=True))
            total = len(values[one]) + len(values[other]) - shared
        else:
            shared, total = int((values[one] == values[other]).sum()), len(values[one])
        if shared / total >= config.threshold:
            verified.append({"left": one, "right": other, "shared": shared, "total": total})
    return verified


def _read_texts(root: str, parts: Sequence[str], documents: UInt64s) -> Iterator[tuple[int, str]]:
    for part, rows in rows_by_part(documents):
        texts = read_rows(join(root, f"clean/{parts[part]}.parquet"), rows, "text")
        for row, text in zip(rows.tolist(), texts, strict=True):
            yield part << ROW_BITS | row, text


def read_rows(path: str, rows: Int64s, column: str) -> Iterable[Any]:
    """Read single rows of a column of a Parquet file, opening only their row groups."""
    with pq.ParquetFile(path if not is_remote(path) else pa.BufferReader(read_bytes(path))) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < stop)] - start
            if len(inside):
                values = file.read_row_group(group, columns=[column])[column]
                yield from values.take(pa.array(inside)).to_pylist()
            start = stop

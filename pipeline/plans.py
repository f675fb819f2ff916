"""Which shards a delivery has: how many its tokens fill, and what of a tokens file lies in each.

Which documents those are is arithmetic (corpus/membership.py).
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from corpus.membership import SPLITS, ShardPlan, cut_split, find_range, split_range
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.index import Int64s, UInt64s, look_at
from pipeline.stretch import Stretched


def plan_shards(
    tree: Tree, snapshot: str, parts_by_source: dict[str, list[str]], config: Pack, token_bytes: int
) -> list[ShardPlan]:
    """Cut every (source, split) of a delivery into shards of about the wished size."""
    plans = []
    ranges = [split_range(split, config.validation_fraction) for split in SPLITS]
    for source in sorted(parts_by_source):
        counted = look_at(
            tree, lambda part: _count_ranges(tree, part, ranges), parts_by_source[source]
        )
        for number, split in enumerate(SPLITS):
            low, high = ranges[number]
            if low == high:
                continue
            tokens, documents = (sum(part[number][n] for part in counted) for n in range(2))
            shards = min(documents, -(-tokens * token_bytes // config.shard_size_bytes))
            # One at least: a take-down may bring back a document where there was none.
            plans += cut_split((snapshot, source, split), max(1, shards), config)
    return plans


def _count_ranges(
    tree: Tree, part: str, ranges: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Count the tokens and documents that a part has in some ranges of hashes."""
    counts = []
    file, hashes = _open_tokens(tree, part)
    for low, high in ranges:
        start, stop = find_range(hashes, low, high)
        file.need_offsets("token_ids", start, stop)
        offsets = offsets_of(file.table["token_ids"], start, stop)
        counts.append((int(offsets[-1] - offsets[0]), stop - start))
    return counts


def _open_tokens(tree: Tree, part: str) -> tuple[Stretched, UInt64s]:
    file = Stretched(tree.find(f"tokens/{part}.arrow"))
    file.need(["hash"], 0, len(file.table))
    return file, file.table["hash"].to_numpy()


def open_range(tree: Tree, part: str, low: int, high: int) -> tuple[pa.Table, int, int]:
    """Open the tokens of a part; return them with the first row of a hash range and its end.

    Of a remote file the rows of the range are there, and the hashes.
    """
    file, hashes = _open_tokens(tree, part)
    start, stop = find_range(hashes, low, high)
    file.need(file.table.column_names, start, stop)
    return file.table, start, stop


def offsets_of(column: pa.ChunkedArray, start: int, stop: int) -> Int64s:
    """Return the offsets of a list column's rows from start to stop, into its values."""
    return (
        column.chunk(0).offsets.to_numpy()[start : stop + 1] if stop > start else np.zeros(1, int)
    )

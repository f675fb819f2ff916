"""Which shards a delivery has: how many its tokens fill, and what of a tokens file lies in each.

Which documents those are is arithmetic (corpus/membership.py).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from corpus.membership import SPLITS, ShardPlan, cut_split, find_range, split_range
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.index import Int64s, open_arrow


def plan_shards(
    tree: Tree, snapshot: str, parts_by_source: dict[str, list[str]], config: Pack, token_bytes: int
) -> list[ShardPlan]:
    """Cut every (source, split) of a delivery into shards of about the wished size."""
    plans = []
    for source in sorted(parts_by_source):
        for split in SPLITS:
            low, high = split_range(split, config.validation_fraction)
            if low == high:
                continue
            tokens, documents = _count_range(tree, parts_by_source[source], low, high)
            shards = min(documents, -(-tokens * token_bytes // config.shard_size_bytes))
            # One at least: a take-down may bring back a document where there was none.
            plans += cut_split((snapshot, source, split), max(1, shards), config)
    return plans


def _count_range(tree: Tree, parts: Sequence[str], low: int, high: int) -> tuple[int, int]:
    tokens = documents = 0
    for part in parts:
        table, start, stop = open_range(tree, part, low, high)
        offsets = offsets_of(table["token_ids"], start, stop)
        documents += stop - start
        tokens += int(offsets[-1] - offsets[0])
    return tokens, documents


def open_range(tree: Tree, part: str, low: int, high: int) -> tuple[pa.Table, int, int]:
    """Open the tokens of a part; return them with the first row of a hash range and its end."""
    table = open_arrow(tree.find(f"tokens/{part}.arrow"))
    return table, *find_range(table["hash"].to_numpy(), low, high)


def offsets_of(column: pa.ChunkedArray, start: int, stop: int) -> Int64s:
    """Return the offsets of a list column's rows from start to stop, into its values."""
    return (
        column.chunk(0).offsets.to_numpy()[start : stop + 1] if stop > start else np.zeros(1, int)
    )

"""Which shards a delivery has, and which documents lie in each: arithmetic on hashes of ids.

A document is dealt by a hash of its id: the lowest `validation_fraction` of the hash space is the
validation split, the rest is train, and each split is cut into equal ranges, its shards. So which
documents a shard holds depends on nothing but their ids and the number of shards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.index import Int64s, open_arrow

SPLITS = ("train", "validation")
_HASH_SPACE = 2**64


class ShardPlan(NamedTuple):
    """One shard: where it lies and the range of document hashes [low, high) that it holds."""

    snapshot: str
    source: str
    split: str
    number: int
    low: int
    high: int

    @property
    def name(self) -> str:
        """Name of the shard's task; no label holds a plus sign."""
        return f"{self.snapshot}+{self.source}+{self.split}-{self.number:05d}"

    @property
    def path(self) -> str:
        """Path of the shard below the snapshot."""
        return f"shards/{self.snapshot}/{self.source}/{self.split}-{self.number:05d}.arrow"


def split_range(split: str, validation_fraction: float) -> tuple[int, int]:
    """Return the range of document hashes [low, high) of a split."""
    cut = int(validation_fraction * _HASH_SPACE)
    return (0, cut) if split == "validation" else (cut, _HASH_SPACE)


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


def cut_split(place: tuple[str, str, str], shards: int, config: Pack) -> list[ShardPlan]:
    """Cut the hashes of one (snapshot, source, split) into equal ranges, its shards."""
    low, high = split_range(place[2], config.validation_fraction)
    bounds = [low + (high - low) * number // shards for number in range(shards)] + [high]
    return [ShardPlan(*place, n, *bounds[n : n + 2]) for n in range(shards)]


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
    hashes = table["hash"].to_numpy()
    start = int(np.searchsorted(hashes, np.uint64(low)))
    stop = len(hashes) if high == _HASH_SPACE else int(np.searchsorted(hashes, np.uint64(high)))
    return table, start, stop


def offsets_of(column: pa.ChunkedArray, start: int, stop: int) -> Int64s:
    """Return the offsets of a list column's rows from start to stop, into its values."""
    return (
        column.chunk(0).offsets.to_numpy()[start : stop + 1] if stop > start else np.zeros(1, int)
    )


def document_ids(tree: Tree, parts: Sequence[str], low: int, high: int) -> list[str]:
    """Return the ids of the documents of a hash range in packing order."""
    found: list[tuple[int, str]] = []
    for part in parts:
        table, start, stop = open_range(tree, part, low, high)
        rows = table.slice(start, stop - start)
        found += zip(rows["hash"].to_pylist(), rows["id"].to_pylist(), strict=True)
    return [identity for _, identity in sorted(found)]

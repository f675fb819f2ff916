"""Which shards a delivery has: how many its tokens fill, and what of a tokens file lies in each.

Which documents those are is arithmetic (corpus/membership.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.membership import (
    HASH_SPACE,
    SPLITS,
    ShardPlan,
    cut_split,
    find_range,
    split_range,
    tokens_path,
)
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.index import Int64s, UInt64s, look_at
from pipeline.stretch import Stretched


class TokenFiles(NamedTuple):
    """Files that hold the tokens of a delivery's source: all of its documents, each once.

    They come in runs of `ranges`, of which each covers one of as many equal ranges of the hashes.
    """

    paths: tuple[str, ...]
    ranges: int = 1

    def within(self, low: int, high: int) -> list[str]:
        """Return those that may hold a document of a range of hashes."""
        covered = pairwise(cut_hashes(self.ranges))
        chosen = [first < high and low < stop for first, stop in covered]
        return [path for n, path in enumerate(self.paths) if chosen[n % self.ranges]]


def cut_hashes(ranges: int) -> list[int]:
    """Cut all hashes into equal ranges: [ranges + 1] bounds."""
    return [HASH_SPACE * number // ranges for number in range(ranges + 1)]


def plan_shards(
    tree: Tree, parts: Mapping[tuple[str, str], Sequence[str]], config: Pack, token_bytes: int
) -> list[ShardPlan]:
    """Cut every (snapshot, source, split) into shards of about the wished size."""
    plans = []
    ranges = [split_range(split, config.validation_fraction) for split in SPLITS]
    for delivered, names in sorted(parts.items()):
        counted = look_at(tree, lambda name: _count_ranges(tree, tokens_path(name), ranges), names)
        for number, split in enumerate(SPLITS):
            low, high = ranges[number]
            if low == high:
                continue
            tokens, documents = (sum(part[number][n] for part in counted) for n in range(2))
            shards = min(documents, -(-tokens * token_bytes // config.shard_size_bytes))
            # One at least: a take-down may bring back a document where there was none.
            plans += cut_split((*delivered, split), max(1, shards), config)
    return plans


def _count_ranges(
    tree: Tree, path: str, ranges: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Count the tokens and documents that a tokens file has in some ranges of hashes."""
    counts = []
    file, hashes = _open_tokens(tree, path)
    for low, high in ranges:
        start, stop = find_range(hashes, low, high)
        file.need_offsets("token_ids", start, stop)
        offsets = offsets_of(file.table["token_ids"], start, stop)
        counts.append((int(offsets[-1] - offsets[0]), stop - start))
    return counts


def _open_tokens(tree: Tree, path: str) -> tuple[Stretched, UInt64s]:
    file = Stretched(tree.find(path))
    file.need(["hash"], 0, len(file.table))
    return file, file.table["hash"].to_numpy()


def open_range(tree: Tree, path: str, low: int, high: int) -> tuple[pa.Table, int, int]:
    """Open a tokens file; return them with the first row of a hash range and its end.

    Of a remote file the rows of the range are there, and the hashes.
    """
    file, hashes = _open_tokens(tree, path)
    start, stop = find_range(hashes, low, high)
    file.need(file.table.column_names, start, stop)
    return file.table, start, stop


def offsets_of(column: pa.ChunkedArray, start: int, stop: int) -> Int64s:
    """Return the offsets of a list column's rows from start to stop, into its values."""
    return (
        column.chunk(0).offsets.to_numpy()[start : stop + 1] if stop > start else np.zeros(1, int)
    )

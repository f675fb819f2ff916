"""From sequence numbers to rows: sources mixed by weight, each passing over its rows by itself.

Without weights all shards are one source. With them number n goes to a source by arithmetic: the
first of weights w1, w2, ... takes floor(n w1 / W) of the first n numbers, W their sum; the rest are
counted anew and dealt to the others in the same way. So any W numbers in a row hold exactly w of
each source, any stretch differs from its share by less than (sources - 1), at least 1, and any
number is reached in constant time. A source's own index m is index m % N of pass m // N over its
N rows, and a keyed bijection turns it into a row (`dataset.permute`).

`shuffle_shards` is for stores that are larger than the cache: in each pass the shards are put into
a keyed order, and rows are shuffled only within so many neighbours of it. Any number is still
reached without going through those before it, in the logarithm of the number of shards.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from corpus.snapshots import ShardEntry
from pretrain.config import DataPlan
from pretrain.dataset import Int64s, derive_keys, permute

# Other modules use 1 to 4.
_ORDER_DOMAIN = 1
_SOURCE_DOMAIN = 16
_SHARD_DOMAIN = 17
_WINDOW_DOMAIN = 18


class Places(NamedTuple):
    """Where sequences lie: rows of the split, and the passes of their sources, both [n]."""

    rows: Int64s
    passes: Int64s


class Layout(NamedTuple):
    """The shards of one pass over a source.

    shards: numbers of the shards in the order of the pass; ends: rows up to the end of each, [k];
    windows: rows up to the end of each stretch that is shuffled together.
    """

    shards: Int64s
    ends: Int64s
    windows: Int64s


def interleave(numbers: Int64s, weights: Sequence[int]) -> tuple[Int64s, Int64s]:
    """Deal numbers to weights: which one each goes to, and how many it had before.

    Weights 2 and 1 -> sources 0 1 0 repeated: of n numbers the first takes floor(2n / 3).
    """
    homes = np.full(len(numbers), -1, np.int64)
    own = np.array(numbers, np.int64)
    left = sum(weights)
    for home, weight in enumerate(weights):
        open_ = homes < 0
        cycles, rest = np.divmod(own[open_], left)
        before = cycles * weight + rest * weight // left
        taken = (rest + 1) * weight // left > rest * weight // left
        homes[open_] = np.where(taken, home, -1)
        own[open_] = np.where(taken, before, own[open_] - before)
        left -= weight
        if left == 0:
            break
    return homes, own


class Source:
    """Some of a split's shards with an endless order of their rows."""

    def __init__(self, plan: DataPlan, entries: Sequence[ShardEntry], name: str | None) -> None:
        """Take the shards of a source, or all of them where `name` is None."""
        self.plan = plan
        self._rows = np.array([entry.rows for entry in entries], np.int64)
        self._firsts = np.cumsum(self._rows) - self._rows
        self._sizes = [entry.size_bytes for entry in entries]
        own = [name in (None, entry.source) and entry.rows > 0 for entry in entries]
        self._shards = np.flatnonzero(own)
        self.count = int(self._rows[self._shards].sum())
        digest = hashlib.sha256((name or "").encode()).digest()
        self._salt = [] if name is None else [int.from_bytes(digest[:7], "big")]
        self.layout = lru_cache(maxsize=4)(self._layout)

    def _key(self, domain: int, *counters: int) -> int:
        parts = [np.array([each], np.int64) for each in (*self._salt, *counters)]
        return int(derive_keys(self.plan.seed, domain, *parts)[0])

    def _layout(self, one: int) -> Layout:
        shards = self._shards
        if self.plan.shuffle_shards is not None:
            count = len(shards)
            shards = shards[permute(np.arange(count), count, self._key(_SHARD_DOMAIN, one))]
        ends = np.cumsum(self._rows[shards])
        together = self.plan.shuffle_shards or len(shards)
        last = np.arange(together - 1, len(shards) + together - 1, together)
        return Layout(shards, ends, ends[np.minimum(last, len(shards) - 1)])

    def places(self, own: Int64s) -> Places:
        """Turn own indices into rows of the split."""
        passes, indices = np.divmod(own, self.count)
        rows = np.empty_like(indices)
        for one in np.unique(passes).tolist():
            chosen = passes == one
            rows[chosen] = self._rows_of_pass(indices[chosen], one)
        return Places(rows, passes)

    def _rows_of_pass(self, indices: Int64s, one: int) -> Int64s:
        shards, ends, windows = self.layout(one)
        homes = np.searchsorted(windows, indices, side="right")
        shuffled = np.empty_like(indices)
        for window in np.unique(homes).tolist():
            chosen = homes == window
            first = int(windows[window - 1]) if window else 0
            size = int(windows[window]) - first
            key = self._window_key(one, window)
            shuffled[chosen] = first + permute(indices[chosen] - first, size, key)
        at = np.searchsorted(ends, shuffled, side="right")
        return self._firsts[shards[at]] + shuffled - (ends[at] - self._rows[shards[at]])

    def _window_key(self, one: int, window: int) -> int:
        if self.plan.shuffle_shards is not None:
            return self._key(_WINDOW_DOMAIN, one, window)
        return self._key(_SOURCE_DOMAIN if self._salt else _ORDER_DOMAIN, one)

    def shards_from(self, first: int, last: int, windows: int) -> list[int]:
        """List the shards of the indices `first` to `last`, in the order of their windows.

        Those of the window of `last` and of the next ones are among them, `windows` in all.
        """
        one, index = divmod(first, self.count)
        windows += self._window_number(last) - self._window_number(first)
        found: list[int] = []
        while windows:
            layout = self.layout(one)
            window = int(np.searchsorted(layout.windows, index, side="right"))
            together = self.plan.shuffle_shards or len(layout.shards)
            taken = min(windows, len(layout.windows) - window)
            part = layout.shards[window * together : (window + taken) * together]
            found += part.tolist()
            windows -= taken
            one, index = one + 1, 0
        return found

    def _window_number(self, own: int) -> int:
        """Count the windows before that of an index, over all passes."""
        one, index = divmod(own, self.count)
        together = self.plan.shuffle_shards or len(self._shards)
        window = np.searchsorted(self.layout(one).windows, index, side="right")
        return one * -(-len(self._shards) // together) + int(window)

    def largest_sizes(self, windows: int) -> list[int]:
        """Give the sizes in bytes of as many shards as so many windows in a row have, at most."""
        together = self.plan.shuffle_shards or len(self._shards)
        sizes = sorted((self._sizes[at] for at in self._shards), reverse=True)
        return sizes[: windows * together]


class Order:
    """The order of training over one split, as its plan says."""

    def __init__(self, plan: DataPlan, entries: Sequence[ShardEntry]) -> None:
        """Find the sources; `ValueError` where the weights do not fit them."""
        weights = dict(plan.mixing)
        if weights:
            _check_sources(weights, entries)
        self.plan = plan
        used = {name: weight for name, weight in weights.items() if weight}
        self.weights = tuple(used.values()) or (1,)
        self.names: tuple[str | None, ...] = tuple(used) or (None,)
        self.sources = [Source(plan, entries, name) for name in self.names]

    def places(self, numbers: Int64s) -> Places:
        """Turn sequence numbers into rows."""
        if len(self.sources) == 1:
            return self.sources[0].places(numbers)
        homes, own = interleave(numbers, self.weights)
        rows, passes = np.empty_like(own), np.empty_like(own)
        for home, source in enumerate(self.sources):
            chosen = homes == home
            rows[chosen], passes[chosen] = source.places(own[chosen])
        return Places(rows, passes)

    def shards_from(self, first: int, last: int, windows: int) -> list[int]:
        """List the shards of the sequences `first` to `last`, source by source.

        Of each source the window of its last one and the next ones are among them, `windows` in
        all; a shard may stand twice.
        """
        found: list[int] = []
        befores, afters = self._dealt(first), self._dealt(last + 1)
        for source, before, after in zip(self.sources, befores, afters, strict=True):
            found += source.shards_from(before, max(before, after - 1), windows)
        return found

    def _dealt(self, number: int) -> list[int]:
        """Count how many of the sequences before a number each source has (see `interleave`)."""
        found, left = [], sum(self.weights)
        for weight in self.weights:
            found.append(number * weight // left)
            number, left = number - found[-1], left - weight
        return found

    def largest_sizes(self, windows: int) -> list[int]:
        """Bound number and sizes of the shards of so many windows in a row, of every source."""
        return [size for source in self.sources for size in source.largest_sizes(windows)]


def _check_sources(weights: dict[str, int], entries: Sequence[ShardEntry]) -> None:
    rows: dict[str, int] = {}
    for entry in entries:
        rows[entry.source] = rows.get(entry.source, 0) + entry.rows
    if set(weights) != set(rows):
        raise ValueError(
            f"pretrain.mixing names the sources {sorted(weights)}, the snapshot has "
            f"{sorted(rows)}: give each of those a weight, 0 leaves it out"
        )
    for name, weight in weights.items():
        if weight and not rows[name]:
            raise ValueError(f"pretrain.mixing wants rows of {name}, which has none to train on")

"""The order of training as arithmetic: which rows of the shards a step takes, on which rank.

Sequences are numbered without end: step k of batches of B takes numbers [kB, (k+1)B). With N rows
in the train shards, number n is index n % N of pass n // N, and a keyed bijection of [0, N) (one
key a pass) turns the index into a row. So every row comes once a pass, nothing is shuffled in
memory, and any step is reached in constant time, at 0.1 to 0.2 microseconds a sequence (measured:
10^6 rows, one core of an AMD EPYC with AVX2, 2026-11). The bijection is a Feistel network over the
next larger power of four, walked until it lands below N (Black and Rogaway 2002, "Ciphers with
arbitrary finite domains").

Rank arithmetic is here too, in `Shares` alone. Sources and windows of shards are in mixing.py, the
cache of remote shards in cache.py, masks in masking.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.files import checksum, exists, is_remote, size_bytes
from corpus.shards import PAIRED, Shard
from corpus.snapshots import ShardEntry, Snapshot, Tree
from pretrain.cache import Copy, ShardCache, Wanted, retried
from pretrain.kernels import GOLDEN, MIX_1, MIX_2, copy_rows, walk_feistel

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

# A balanced Feistel network of four good rounds is indistinguishable from a random permutation
# (Luby and Rackoff 1988); four more cost little and make up for halves of a few bits.
_FEISTEL_ROUNDS = 8


def mix64(values: UInt64s) -> UInt64s:
    """Scramble 64-bit integers by a bijection in which every input bit reaches every output bit."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= MIX_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= MIX_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def derive_keys(seed: int, domain: int, *counters: Int64s) -> UInt64s:
    """Hash (seed, domain, counters...) into one 64-bit key an element."""
    keys = np.array([domain], np.uint64)
    for part in (np.array([seed], np.int64), *counters):
        keys = mix64(keys ^ mix64(part.astype(np.uint64) + GOLDEN))
    return keys


def permute(indices: Int64s, size: int, key: int) -> Int64s:
    """Map [0, size) onto itself by the bijection that `key` names."""
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    rounds = np.arange(1, _FEISTEL_ROUNDS + 1, dtype=np.uint64) * GOLDEN
    round_keys = mix64(rounds + np.uint64(key))
    permuted = np.empty(len(indices), np.int64)
    walk_feistel(indices, np.uint64(size), half_bits, round_keys, permuted)
    return permuted


@dataclass(frozen=True)
class Shares:
    """How a batch is divided: equal, contiguous slots for every rank, in equal microbatches.

    10 sequences, 4 ranks, at most 2 a microbatch -> 3 slots a rank, 2 microbatches of 2. Every
    rank runs the same number of equally shaped microbatches (ZeRO 2 and 3 would hang otherwise);
    slots beyond the batch or the rank's share are surplus and hold -1. `fixed_rows` is for batches
    whose size changes: their microbatches have that many rows, whatever the size.
    """

    batch_sequences: int
    world_size: int
    max_microbatch: int
    fixed_rows: int | None = None

    @property
    def rank_sequences(self) -> int:
        """Slots of a rank."""
        return -(-self.batch_sequences // self.world_size)

    @property
    def microbatches(self) -> int:
        """Microbatches that every rank runs for one batch."""
        return -(-self.rank_sequences // (self.fixed_rows or self.max_microbatch))

    @property
    def microbatch_sequences(self) -> int:
        """Rows of a microbatch: the fewest that the number of microbatches allows."""
        return self.fixed_rows or -(-self.rank_sequences // self.microbatches)

    def offsets(self, rank: int) -> Int64s:
        """Give a rank's places in the batch: [microbatches, microbatch_sequences], -1 surplus."""
        start = rank * self.rank_sequences
        stop = min(start + self.rank_sequences, self.batch_sequences)
        places = np.full(self.microbatches * self.microbatch_sequences, -1, np.int64)
        places[: max(0, stop - start)] = np.arange(start, max(start, stop))
        return places.reshape(self.microbatches, self.microbatch_sequences)


class Read(NamedTuple):
    """Rows as they are copied out.

    tokens: [rows, sequence_length]; lengths: real tokens, [rows]; word_starts: bits that say where
    words begin, [rows, sequence_length]; next_sentence: what a pair's second half is, [rows], see
    `corpus.shards.Sequences`. The last two only where asked for, pairs where there are any.
    """

    tokens: Int32s
    lengths: Int32s
    word_starts: Bools | None
    next_sentence: npt.NDArray[np.uint8] | None


class Rows:
    """All rows of one split: its shards one after another, in the order of the manifest.

    Local shards are opened at once, remote ones when a row of theirs is asked for: from the cache,
    or whole into memory.
    """

    def __init__(
        self,
        tree: Tree,
        entries: Sequence[ShardEntry],
        snapshot: Snapshot,
        cache: ShardCache | None = None,
    ) -> None:
        """Open the shards; `ValueError` names one that is missing, truncated or foreign."""
        self.sequence_length = snapshot.sequence_length
        self.entries = tuple(entries)
        self._snapshot, self._cache = snapshot, cache
        self._paths = [tree.find(entry.path) for entry in self.entries]
        self._opened: dict[int, Shard] = {}
        self._copies: dict[int, Copy] = {}
        self._kept: frozenset[int] = frozenset()
        self._is_brief = False
        self._packing: str | None = None
        self._ends = np.cumsum([entry.rows for entry in self.entries], dtype=np.int64)
        self.count = int(self._ends[-1]) if self.entries else 0
        for at, path in enumerate(self._paths):
            if not is_remote(path):
                self._shard(at)

    @property
    def is_cached(self) -> bool:
        """Whether shards come from a cache."""
        return self._cache is not None and any(map(is_remote, self._paths))

    @property
    def packing(self) -> str:
        """The format of the rows."""
        if self._packing is None:
            self._packing = self._shard(0).packing if self.entries else ""
        return self._packing

    def expect(self, needed: Sequence[int], kept: Sequence[int]) -> None:
        """Fetch cached shards in the background, in their order, and keep some of them at hand.

        The others are let go of at once, or as soon as their rows are read. What would take more
        room than there is waits: it would take that of what is needed before.
        """
        if self._cache is None:
            return
        self._kept = frozenset(kept)
        for at in set(self._copies) - self._kept:
            self._let_go(at)
        size, missing = 0, []
        for at in dict.fromkeys(needed):
            size += self.entries[at].size_bytes
            if size > self._cache.max_bytes:
                break
            if at not in self._opened and is_remote(self._paths[at]):
                missing.append(Wanted(self._paths[at], self.entries[at]))
        self._cache.prefetch(missing)

    def be_brief(self) -> None:
        """Hold remote shards in memory only while they are read: for a single batch."""
        self._is_brief = True

    def _let_go(self, at: int) -> None:
        if at in self._copies:
            del self._opened[at]
            self._copies.pop(at).close()
        elif self._is_brief and is_remote(self._paths[at]):
            del self._opened[at]

    def _shard(self, at: int) -> Shard:
        if at not in self._opened:
            self._opened[at] = self._open(at)
            self._packing = self._opened[at].packing
        return self._opened[at]

    def _open(self, at: int) -> Shard:
        path, entry = self._paths[at], self.entries[at]
        if not is_remote(path):
            _check_size(path, entry)
            return _checked(Shard(path), entry, self._snapshot)
        if self._cache is None:
            return _checked(retried(path, partial(_read_whole, path)), entry, self._snapshot)
        self._copies[at] = self._cache.fetch(Wanted(path, entry))
        return _checked(Shard(self._copies[at].path), entry, self._snapshot)

    def locate(self, row: int) -> tuple[ShardEntry, int]:
        """Tell in which shard a row lies, and at which row of it."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return self.entries[at], row - int(self._ends[at]) + self.entries[at].rows

    def number_of(self, path: str, row: int) -> int:
        """Tell the number of a row of a shard: what `locate` undoes."""
        paths = [entry.path for entry in self.entries]
        if path not in paths:
            raise ValueError(f"{path} is no shard of snapshot {self._snapshot.label}")
        at = paths.index(path)
        return int(self._ends[at]) - self.entries[at].rows + row

    def open(self, row: int) -> tuple[Shard, int]:
        """Open the shard in which a row lies; the row of it comes along."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return self._shard(at), row - int(self._ends[at]) + self.entries[at].rows

    def gather(self, rows: Int64s) -> tuple[Int32s, Int32s]:
        """Copy rows out: token ids [len(rows), sequence_length] and real tokens [len(rows)]."""
        found = self.read(rows)
        return found.tokens, found.lengths

    def read(self, rows: Int64s, words: bool = False, pairs: bool = False) -> Read:
        """Copy rows out, on request with where words begin and with what second halves are.

        Each shard is opened once, those that are needed soonest first.
        """
        shape = (len(rows), self.sequence_length)
        tokens, lengths = np.empty(shape, np.int32), np.empty(len(rows), np.int32)
        word_starts = np.empty(shape, np.bool_) if words else None
        next_sentence = None
        for shard, local, targets in self._by_shard(rows):
            copy_rows(shard.columns, shard.checked(local), targets, (tokens, lengths))
            if word_starts is not None:
                word_starts[targets] = shard.word_starts(local)
            if pairs and shard.packing in PAIRED:
                if next_sentence is None:
                    next_sentence = np.empty(len(rows), np.uint8)
                next_sentence[targets] = shard.next_sentence[local]
        return Read(tokens, lengths, word_starts, next_sentence)

    def _by_shard(self, rows: Int64s) -> Iterator[tuple[Shard, Int64s, Int64s]]:
        """Sort rows by shard: (shard, rows in it, their places among the rows asked for)."""
        homes = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(homes, kind="stable")
        cuts = np.flatnonzero(np.diff(homes[order])) + 1
        parts = np.split(order, cuts) if len(order) else []
        for targets in sorted(parts, key=lambda each: int(each[0])):
            home = int(homes[targets[0]])
            yield (
                self._shard(home),
                rows[targets] - (self._ends[home] - self.entries[home].rows),
                targets,
            )
            if home not in self._kept:
                self._let_go(home)


def open_rows(store: str, snapshot: Snapshot, split: str, cache: ShardCache | None = None) -> Rows:
    """Open one split of a snapshot for reading by row."""
    entries = [entry for entry in snapshot.shards if entry.split == split]
    return Rows(snapshot.tree(store), entries, snapshot, cache)


def verify_shards(store: str, snapshot: Snapshot, rank: int, world_size: int) -> None:
    """Compare this rank's part of the shards with their checksums in the manifest.

    A read that fails is tried again as in the cache; an error names the shard.
    """
    tree = snapshot.tree(store)
    for entry in snapshot.shards[rank::world_size]:
        path = tree.find(entry.path)
        retried(path, partial(_check_file, path, entry))


_REMEDY = "see `python -m pipeline audit STORE`, then delete the shard and build it again"


def _check_file(path: str, entry: ShardEntry) -> None:
    _check_size(path, entry)
    found = checksum(path)
    if found != entry.checksum:
        raise ValueError(
            f"shard {path} has checksum {found}, its manifest says {entry.checksum}: {_REMEDY}"
        )


def _check_size(path: str, entry: ShardEntry) -> None:
    if not is_remote(path) and not exists(path):  # of a remote one the read tells (`retried`)
        raise ValueError(f"shard {path} is missing, its manifest lists it: {_REMEDY}")
    found = size_bytes(path)
    if found != entry.size_bytes:
        raise ValueError(
            f"shard {path} holds {found:,} bytes, its manifest says {entry.size_bytes:,}: {_REMEDY}"
        )


def _read_whole(path: str) -> Shard:
    """Read a remote shard into memory; `OSError` where reading failed, which may be tried again."""
    try:
        return Shard(path)
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


def _checked(shard: Shard, entry: ShardEntry, snapshot: Snapshot) -> Shard:
    found = (shard.rows, shard.sequence_length, shard.tokenizer_fingerprint)
    expected = (entry.rows, snapshot.sequence_length, snapshot.tokenizer)
    if found != expected:
        raise ValueError(
            f"shard {shard.path} holds (rows, sequence length, tokenizer) {found}, "
            f"its manifest says {expected}: {_REMEDY}"
        )
    return shard

"""Canaries: pairs of known similarity that measure how many near-duplicates the search finds.

A bug in shingles, permutations, band keys or the candidate search loses duplicates without a trace:
a pair that is never compared leaves no record. So pairs of made-up texts, whose exact similarity
follows from how they were made, take the same way (`sign`, then keys sorted by value, then
documents with one key in one band), and the share found is held against what `rows` and `bands`
promise, 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.2).

Texts. No word comes twice within a pair, so a pair with `shared` and `total` shingles has exactly
that similarity by the reference definition too. The copy replaces single words: one destroys
`ngram` shingles, or fewer near the start, so every number of destroyed shingles can be had. One
pair in sixteen is written in characters without spaces. Words are arithmetic on (seed, pair,
place): no random generator, the same texts everywhere. Different pairs share no shingle, which
makes the pairs independent.

Statistics. A bin's count is a sum of independent events of unequal, known chances; its distribution
(Poisson-binomial) is computed exactly, one convolution an event.

All of it stays in memory: nothing enters an index, a graph, a count or a manifest. Cost: 0.8 s of
CPU for the default 32 bands of 8 rows and 5,120 pairs, most of it for making texts, 1.9 s for 250
bands of 2 (measured: process time, one core of a busy machine of two, 2026-11-21); it grows with
bands x rows and with words a shingle.

How fine: with the default configuration a search that loses one band in four stops the job, one in
eight warns, one in sixteen goes unseen; in benchmarks/recall.py, with 20 times the pairs, this
puts three of ten bins outside (measured once). Not seen at all: permutations that have one
multiplier and differ in their addends only (the mean recall stays what it should be), shingles made
in another sound way. Not covered: pairs below 0.5 (few are found, by design), verification,
partitions, the index on disk, documents longer than some hundred words.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline.jobs import Output
from pipeline.kernels import UInt8s, UInt32s, UInt64s
from pipeline.signatures import sign

logger = logging.getLogger(__name__)

# Raised by hand when texts, bins or statistics change.
VERSION = 1
# Which canaries: with 60 seeds and the default configuration 3 of 300 bins lay outside their 99 %
# interval, as they should; the first seed whose default has none outside is taken, so that a
# warning means something. Measured 2026-11 on permutations of 32 bits.
_SEED = 1

Floats = npt.NDArray[np.float64]

# Takes keys in order of (key, band, document); gives the left and the right of each candidate pair.
Search = Callable[[UInt64s, UInt8s, UInt64s], tuple[UInt64s, UInt64s]]

# From one half, below which the default finds under one pair in eight, in steps that ten lines of a
# report hold; per cent, so that a pair's bin is decided between integers.
BINS = tuple((low, low + 5) for low in range(50, 100, 5))
# A recall of one half is then known to 6 points at 99 %.
PAIRS_PER_BIN = 512
# DESIGN.md, Duplicates 7.
WARN_CHANCE, STOP_CHANCE = 1e-2, 1e-9

# Sixteen of each: two letters are a syllable, four bits each; NFC and lower case already.
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiouyáéíóúäöüàè"
# The greatest prime below 2^32 (four syllables), and the greatest number of one-character words
# below that is prime: modulo a prime, multiples of anything do not repeat.
_WORD_PRIME, _CHARACTER_PRIME = 4_294_967_291, 63_611
# CJK unified ideographs of Unicode 1.1 and extension B of Unicode 3.1: 63,613 code points.
_CHARACTER_BLOCKS = (range(0x4E00, 0x9FA6), range(0x20000, 0x2A6D7))
# So that the default number of pairs has each character once, also where a shingle is one word.
_UNSPACED_EVERY = 16


class Canary(NamedTuple):
    """Two texts of which `shared` of `total` different shingles are common."""

    left: str
    right: str
    shared: int
    total: int


class Bin(NamedTuple):
    """What was found of the pairs with similarity_low <= similarity < similarity_high.

    expected: mean of the count in theory; curve: theory at the middle of the bin;
    found_low, found_high: the counts that a 99 % interval holds;
    chance: two-sided probability of a count as far out as `found`.
    """

    similarity_low: float
    similarity_high: float
    pairs: int
    found: int
    expected: float
    curve: float
    found_low: int
    found_high: int
    chance: float


def candidate_pairs(key: UInt64s, band: UInt8s, document: UInt64s) -> tuple[UInt64s, UInt64s]:
    """Return each pair of documents with a common key in a common band, once, smaller one left.

    The arrays are in order of (key, band, document). Work and memory: keys plus pairs.
    """
    found = [np.empty((0, 2), np.uint64)]
    first, distance = np.arange(len(key)), 0
    while len(first):
        # Equal keys lie in runs: whoever has no partner at one distance has none further on.
        distance += 1
        first = first[first + distance < len(key)]
        other = first + distance
        same = (key[first] == key[other]) & (band[first] == band[other])
        first = first[same]
        found.append(np.stack([document[first], document[first + distance]], axis=1))
    unique = np.unique(np.concatenate(found), axis=0)
    return unique[:, 0].copy(), unique[:, 1].copy()


def measure(
    config: Dedup,
    find_pairs: Search = candidate_pairs,
    *,
    bins: Sequence[tuple[int, int]] = BINS,
    pairs_per_bin: int = PAIRS_PER_BIN,
    seed: int = _SEED,
) -> list[Bin]:
    """Sign canaries, search their keys for candidates, and count what was found in each bin.

    bins: least similarity and its upper bound, in per cent.
    """
    return [
        _measure_bin(
            config, find_pairs, bounds, canaries(config.ngram, bounds, first, pairs_per_bin, seed)
        )
        for bounds, first in zip(
            bins, range(0, len(bins) * pairs_per_bin, pairs_per_bin), strict=True
        )
    ]


def _measure_bin(
    config: Dedup, find_pairs: Search, bounds: tuple[int, int], pairs: Sequence[Canary]
) -> Bin:
    signed = sign([text for pair in pairs for text in (pair.left, pair.right)], config)
    left, right = find_pairs(*_in_order(signed.keys))
    # Pair n is documents 2n and 2n + 1.
    ours = (left ^ np.uint64(1)) == right
    found = len(np.unique(left[ours] >> np.uint64(1)))
    similarities = np.array([pair.shared / pair.total for pair in pairs])
    chances = recall_curve(similarities, config)
    two_sided = two_sided_tails(count_distribution(chances))
    inside = np.flatnonzero(two_sided > WARN_CHANCE)
    low, high = bounds
    return Bin(
        similarity_low=low / 100,
        similarity_high=high / 100,
        pairs=len(pairs),
        found=found,
        expected=float(chances.sum()),
        curve=float(recall_curve(np.array([(low + high) / 200]), config)[0]),
        found_low=int(inside[0]),
        found_high=int(inside[-1]),
        chance=float(two_sided[found]),
    )


def _in_order(keys: UInt64s) -> tuple[UInt64s, UInt8s, UInt64s]:
    """Turn keys [documents, bands] into sorted (key, band, document), as an index holds them."""
    documents, bands = keys.shape
    key = keys.T.ravel()
    band = np.repeat(np.arange(bands, dtype=np.uint8), documents)
    document = np.tile(np.arange(documents, dtype=np.uint64), bands)
    order = np.lexsort((document, band, key))
    return key[order], band[order], document[order]


def check(bins: Sequence[Bin]) -> None:
    """Warn of every bin outside its 99 % interval; `ValueError` for one beyond all chance.

    Canaries and permutations are fixed, so one configuration gives one outcome, today and next
    week. Of all configurations, up to one in ten has one of its ten bins outside by chance alone
    and then warns always; a warning that came with another version or library is a change.
    """
    for each in bins:
        if each.chance <= WARN_CHANCE:
            logger.warning("canaries outside the interval: %s", describe(each))
    worst = min(bins, key=lambda each: each.chance)
    if worst.chance < STOP_CHANCE:
        raise ValueError(
            f"the search for near-duplicates is broken: of canaries with {describe(worst)}; "
            "nothing it finds can be trusted: reinstall maskline and its pinned libraries, or "
            "undo the last change to pipeline/signatures.py or pipeline/pairs.py"
        )


def describe(measured: Bin) -> str:
    """Put a bin into one line."""
    found, expected = (100 * n / measured.pairs for n in (measured.found, measured.expected))
    return (
        f"similarity {measured.similarity_low:.2f} to {measured.similarity_high:.2f}, "
        f"{measured.found:,} of {measured.pairs:,} found ({found:.1f} %), "
        f"expected {measured.expected:,.1f} ({expected:.1f} %), "
        f"99 % interval {measured.found_low:,} to {measured.found_high:,}, "
        f"chance {measured.chance:.2g}"
    )


def to_json(bins: Sequence[Bin]) -> list[dict[str, Any]]:
    """Return the bins for a report: every field, and the measured recall."""
    return [{**each._asdict(), "recall": each.found / each.pairs} for each in bins]


def from_json(bins: Sequence[Mapping[str, Any]]) -> list[Bin]:
    """Read the bins of a report back."""
    return [Bin(**{name: each[name] for name in Bin._fields}) for each in bins]


def recall_curve(similarities: Floats, config: Dedup) -> Floats:
    """Return the chance of sharing at least one band, for similarities below 1."""
    curve: Floats = -np.expm1(config.bands * np.log1p(-(similarities**config.rows)))
    return curve


def count_distribution(chances: Floats) -> Floats:
    """Return the probability of each count of independent events (Poisson-binomial): [events + 1].

    Every term is positive, so the smallest tail is as precise as the chances are.
    """
    counts = np.zeros(len(chances) + 1)
    counts[0] = 1
    for events, chance in enumerate(chances, 1):
        counts[1 : events + 1] = counts[1 : events + 1] * (1 - chance) + counts[:events] * chance
        counts[0] *= 1 - chance
    return counts


def two_sided_tails(counts: Floats) -> Floats:
    """Return twice the smaller tail of each count, the count itself included, at most 1."""
    at_most, at_least = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    tails: Floats = np.minimum(1, 2 * np.minimum(at_most, at_least))
    return tails


def canaries(
    ngram: int, bounds: tuple[int, int], first: int, count: int, seed: int
) -> list[Canary]:
    """Make the pairs numbered from `first`, their similarities spread over a bin (per cent)."""
    low, high = bounds
    assert 50 <= low < high <= 100, bounds
    # At least two numbers of destroyed shingles fall into the bin, for its width and any position.
    least = 400 // (high - low)
    longest = least + least // 2
    # From similarity 1/2 up, at most a third of the shingles changes: no pair needs more words.
    stride = longest + longest // 2 + ngram
    drawn = _draw(range(first, first + count), stride, seed)
    pairs = []
    for number in range(first, first + count):
        shingles = least + number % (longest - least + 1)
        # (shingles - destroyed) / (shingles + destroyed) is at least low and below high.
        fewest = shingles * (100 - high) // (100 + high) + 1
        most = shingles * (100 - low) // (100 + low)
        destroyed = fewest + number % (most - fewest + 1)
        pairs.append(_canary(drawn[number], shingles, destroyed, ngram))
    return pairs


def _draw(pairs: range, stride: int, seed: int) -> dict[int, UInt32s]:
    """Return `stride` words of every pair, no two alike: code points [words, letters]."""
    unspaced = [pair for pair in pairs if pair % _UNSPACED_EVERY == 0]
    spaced = [pair for pair in pairs if pair % _UNSPACED_EVERY]
    places = [pair // _UNSPACED_EVERY for pair in unspaced]
    characters = _spell_characters(_numbers(places, stride, seed, _CHARACTER_PRIME))
    words = _spell_words(_numbers(spaced, stride, seed, _WORD_PRIME))
    drawn = zip((*unspaced, *spaced), (*characters, *words), strict=True)
    return dict(drawn)


def _numbers(pairs: Sequence[int], stride: int, seed: int, prime: int) -> UInt64s:
    """Return the numbers of the words of pairs: [pairs, stride]."""
    factors, starts = [], []
    for pair in pairs:
        # Once all words were had, the next lap steps over them otherwise: no neighbours meet again.
        lap, place = divmod(pair, max(1, prime // stride))
        factors.append([1 + (_seed_number(seed) + lap) % (prime - 1)])
        starts.append([place * stride])
    shape = (len(pairs), 1)
    words = np.array(starts, np.uint64).reshape(shape) + np.arange(stride, dtype=np.uint64)
    # Both are below 2^32 or about it, so no product is beyond 64 bits.
    numbers = words * np.array(factors, np.uint64).reshape(shape) % np.uint64(prime)
    return np.asarray(numbers, np.uint64)


@lru_cache(maxsize=8)
def _seed_number(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"canaries:{seed}".encode()).digest()[:8], "big")


@lru_cache(maxsize=1)
def _syllables() -> UInt32s:
    syllables = [[ord(consonant), ord(vowel)] for consonant in _CONSONANTS for vowel in _VOWELS]
    return np.array(syllables, np.uint32)


def _spell_words(numbers: UInt64s) -> UInt32s:
    """Spell words of four syllables and a space: [..., 9]."""
    shifts = np.array([24, 16, 8, 0], np.uint64)
    spelt = np.full((*numbers.shape, 9), ord(" "), np.uint32)
    syllables = _syllables()[numbers[..., None] >> shifts & np.uint64(255)]
    spelt[..., :8] = syllables.reshape(*numbers.shape, 8)
    return spelt


def _spell_characters(numbers: UInt64s) -> UInt32s:
    """Spell words of one character: [..., 1]."""
    first, second = _CHARACTER_BLOCKS
    later = numbers + np.uint64(second.start - len(first))
    found = np.where(numbers < len(first), numbers + np.uint64(first.start), later)
    return found.astype(np.uint32)[..., None]


def _canary(drawn: UInt32s, shingles: int, destroyed: int, ngram: int) -> Canary:
    places = replaced_places(shingles, destroyed, ngram)
    length = shingles + ngram - 1
    left, right = drawn[:length], drawn[:length].copy()
    right[places] = drawn[length : length + len(places)]
    return Canary(_text(left), _text(right), shingles - destroyed, shingles + destroyed)


def _text(words: UInt32s) -> str:
    return words.astype("<u4").tobytes().decode("utf-32-le").rstrip(" ")


def replaced_places(shingles: int, destroyed: int, ngram: int) -> list[int]:
    """Return the words to replace so that exactly `destroyed` of a text's shingles change.

    10 shingles of 3 words, 5 destroyed -> words 1 (shingles 0 and 1) and 6 (shingles 4, 5 and 6).
    """
    whole, rest = divmod(destroyed, ngram)
    untouched = shingles - destroyed
    starts = [rest + untouched * (2 * n + 1) // (2 * whole) + n * ngram for n in range(whole)]
    return [rest - 1] * (rest > 0) + [start + ngram - 1 for start in starts]


def measure_recall(_tree: Tree, _task: str, config: Dedup) -> Output:
    """Send near-duplicates of known similarity through signing and search, aside of the data."""
    return Output((), {"bins": to_json(measure(config))})


def measured_with() -> dict[str, Any]:
    """Return what a measured recall depends on beside the lineage."""
    return {"version": VERSION} | {name: version(name) for name in ("numba", "numpy")}

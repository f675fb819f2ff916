"""Finds documents that hold examples of evaluation files, by their word n-grams.

As in GPT-3's report (Brown et al. 2020, arXiv 2005.14165, appendix C): 13 words in a row, whatever
their case and punctuation; words are those of shingles (`pipeline/signatures.py`), so in scripts
without spaces every character is one. A text of an example that is shorter counts whole, if it has
at least 8 words (that appendix's least n); a shorter one says too little, and examples of only such
texts are counted as too short to find. A document that shares an n-gram with any example goes.

N-grams are 64-bit hashes: over a whole corpus of W words, N n-grams are met falsely some
N W / 2^64 times, 0.05 for a million n-grams and 10^12 words. A filter of the first 8 words of all
n-grams keeps most of a corpus from the binary search; memory is 16 to 20 bytes an n-gram, and the
speed some 200 MB/s on one core with 400,000 n-grams, 150 with 1.8 million (2026-11,
`benchmarks/lists.py`). An n-gram of several examples names the first.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import orjson
import pyarrow as pa

from pipeline.examples import VERSION as EXAMPLES_VERSION
from pipeline.examples import read_examples
from pipeline.kernels import (
    GOLDEN,
    SPECIAL_CAPITALS,
    Int64s,
    UInt8s,
    UInt32s,
    UInt64s,
    mix,
    word_hashes,
)
from pipeline.lists import filter_of, fingerprint_of, may_hold, place_of
from pipeline.rules import Failure
from pipeline.signatures import letter_table, normalize
from pipeline.spans import bytes_of

# Raised by hand when another document is found, or the list is written otherwise.
VERSION = 1
_VERSIONS = [VERSION, EXAMPLES_VERSION]

# Brown et al. 2020, appendix C: n is between 8 and 13 words.
_MIN_WORDS = 8
_DOTTED, _SIGMA = (each.encode() for each in SPECIAL_CAPITALS)


@dataclass(frozen=True, eq=False)
class Contamination:
    """The n-grams of evaluation examples.

    hashes: sorted uint64; origins: uint32, the example of each, counted through all files;
    filter: uint64, of every n-gram and its first words, see `filter_of`;
    sizes: the word counts of n-grams, the largest first; starts: the examples before each file, and
    of all files; too_short: of each file, the examples without an n-gram.
    """

    names: tuple[str, ...]
    ngram: int
    hashes: UInt64s
    origins: UInt32s
    filter: UInt64s
    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    too_short: tuple[int, ...]

    @classmethod
    def build(cls, files: Sequence[tuple[str, bytes]], ngram: int) -> "Contamination":
        """Read evaluation files by name and content; `ValueError` names a bad line."""
        hashes, origins = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        heads = [np.empty(0, np.uint64)]
        starts, too_short, sizes = [0], list[int](), set[int]()
        for name, data in files:
            examples = list(read_examples(name, data))
            found, first_words, counts, lengths = _ngrams_of(examples, ngram)
            hashes.append(found)
            heads.append(first_words)
            origins.append(np.repeat(np.arange(len(examples)), counts) + starts[-1])
            sizes |= lengths
            starts.append(starts[-1] + len(examples))
            silent = [examples[n] for n in np.flatnonzero(counts == 0)]
            too_short.append(sum(any(map(str.strip, texts)) for texts in silent))
        distinct, first = np.unique(np.concatenate(hashes), return_index=True)
        return cls(
            names=tuple(name for name, _ in files),
            ngram=ngram,
            hashes=distinct,
            origins=np.concatenate(origins)[first].astype(np.uint32),
            filter=filter_of(np.unique(np.concatenate([*hashes, *heads]))),
            sizes=tuple(sorted(sizes, reverse=True)),
            starts=tuple(starts),
            too_short=tuple(too_short),
        )

    @classmethod
    def parse(cls, data: bytes) -> "Contamination":
        """Read what `to_bytes` wrote; `ValueError` where it is damaged."""
        try:
            head, rest = data.split(b"\n", 1)
            fields = orjson.loads(head)
            if fields.pop("versions") != _VERSIONS:
                raise ValueError("it was written by another version")
            count, words = fields.pop("ngrams"), fields.pop("filter_words")
            if len(rest) != 12 * count + 8 * words:
                expected = 12 * count + 8 * words
                raise ValueError(f"{len(rest)} bytes of n-grams, expected {expected}")
            hashes = np.frombuffer(rest, "<u8", count)
            bits = np.frombuffer(rest, "<u8", words, 8 * count)
            origins = np.frombuffer(rest, "<u4", count, 8 * (count + words))
            lists = {key: tuple(fields.pop(key)) for key in _LISTS}
            return cls(hashes=hashes, origins=origins, filter=bits, ngram=fields["ngram"], **lists)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is no list of evaluation n-grams: {error}") from None

    def to_bytes(self) -> bytes:
        """Write the n-grams in canonical form: one JSON line, hashes, filter, origins."""
        head = {key: getattr(self, key) for key in _LISTS}
        head |= {"versions": _VERSIONS, "ngram": self.ngram}
        head |= {"ngrams": len(self.hashes), "filter_words": len(self.filter)}
        line = orjson.dumps(head, option=orjson.OPT_SORT_KEYS)
        arrays = (
            self.hashes.astype("<u8"),
            self.filter.astype("<u8"),
            self.origins.astype("<u4"),
        )
        return line + b"\n" + b"".join(array.tobytes() for array in arrays)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the n-grams in canonical form."""
        return fingerprint_of(self.to_bytes())

    def find(self, texts: pa.Array) -> list[Failure | None]:
        """Return of every text in NFC which example it holds, or None; the value is how often."""
        found: list[Failure | None] = [None] * len(texts)
        if not len(self.hashes) or not len(texts):
            return found
        listed = (self.hashes, self.filter)
        sizes = np.array([min(_MIN_WORDS, self.ngram), *self.sizes], np.int64)
        shared, first = _find(_lowerable(texts), letter_table(), sizes, listed)
        for n in np.flatnonzero(shared).tolist():
            found[n] = Failure("contaminated", int(shared[n]), 1, self._describe(int(first[n])))
        return found

    def _describe(self, place: int) -> str:
        origin = int(self.origins[place])
        file = bisect_right(self.starts, origin) - 1
        return f"example {origin - self.starts[file] + 1} of {self.names[file]}"


_LISTS = ("names", "sizes", "starts", "too_short")


def _ngrams_of(examples: list[list[str]], ngram: int) -> tuple[UInt64s, UInt64s, Int64s, set[int]]:
    """Return the n-grams of examples in order and their heads, counts by example, and sizes."""
    texts = [normalize(text).encode() for example in examples for text in example]
    ends = np.cumsum([0, *map(len, texts)])
    data = np.frombuffer(b"".join(texts), np.uint8)
    least = min(_MIN_WORDS, ngram)
    hashes, heads, lengths, owners = _collect(data, ends, letter_table(), least, ngram)
    example_of = np.repeat(np.arange(len(examples)), [len(example) for example in examples])
    counts = np.bincount(example_of[owners], minlength=len(examples))
    return hashes, heads, counts, set(np.unique(lengths).tolist())


def _lowerable(texts: pa.Array) -> tuple[UInt8s, Int64s]:
    """Return the bytes of texts that a table of characters can lower, in lower case if need be."""
    data, ends = bytes_of(texts)
    if not _has_special_capital(data[ends[0] : ends[-1]]):
        return data, ends
    return bytes_of(pa.array([normalize(text) for text in texts.to_pylist()], pa.large_string()))


@numba.njit(cache=True)
def _has_special_capital(data: UInt8s) -> bool:
    """Tell whether there is a capital that a table cannot lower; all take two bytes."""
    found = False
    for i in range(len(data) - 1):
        dotted = (data[i] == _DOTTED[0]) & (data[i + 1] == _DOTTED[1])
        found |= dotted | ((data[i] == _SIGMA[0]) & (data[i + 1] == _SIGMA[1]))
    return found


@numba.njit(cache=True)
def _prefixes(count: int, words: UInt64s, prefixes: UInt64s) -> None:
    """Write the polynomial of every prefix of the words: that of an n-gram is a difference."""
    for i in range(count):
        prefixes[i + 1] = prefixes[i] * np.uint64(GOLDEN) + mix(words[i])


@numba.njit(cache=True)
def _power(size: int) -> np.uint64:
    power = np.uint64(1)
    for _ in range(size):
        power *= np.uint64(GOLDEN)
    return power


@numba.njit(cache=True)
def _longest(ends: Int64s) -> int:
    longest = 0
    for t in range(len(ends) - 1):
        longest = max(longest, ends[t + 1] - ends[t])
    return longest


@numba.njit(cache=True)
def _collect(
    data: UInt8s, ends: Int64s, letters: UInt32s, least: int, ngram: int
) -> tuple[UInt64s, UInt64s, Int64s, Int64s]:
    """Return the n-grams of texts, the hash of each one's first words, its size and its text."""
    words = np.empty(_longest(ends) + 1, np.uint64)
    prefixes = np.zeros(len(words) + 1, np.uint64)
    hashes, heads = np.empty(len(data), np.uint64), np.empty(len(data), np.uint64)
    lengths, owners = np.empty(len(data), np.int64), np.empty(len(data), np.int64)
    total = 0
    for t in range(len(ends) - 1):
        count = word_hashes(data, ends[t], ends[t + 1], letters, words)
        _prefixes(count, words, prefixes)
        size = min(count, ngram)
        if size < least:
            continue
        power = _power(size)
        for i in range(count - size + 1):
            hashes[total] = mix(prefixes[i + size] - prefixes[i] * power)
            heads[total] = mix(prefixes[i + least] - prefixes[i] * _power(least))
            lengths[total], owners[total] = size, t
            total += 1
    return hashes[:total], heads[:total], lengths[:total], owners[:total]


@numba.njit(cache=True)
def _find(
    text: tuple[UInt8s, Int64s],
    letters: UInt32s,
    sizes: Int64s,
    listed: tuple[UInt64s, UInt64s],
) -> tuple[Int64s, Int64s]:
    """Return of every text how many of its n-grams are listed, and the place of the first.

    `sizes` begins with how many of its first words the filter holds of every n-gram.
    """
    data, ends = text
    hashes, bits = listed
    words = np.empty(_longest(ends) + 1, np.uint64)
    prefixes = np.zeros(len(words) + 1, np.uint64)
    places = np.empty(len(words), np.int64)
    shared = np.zeros(len(ends) - 1, np.int64)
    first = np.full(len(ends) - 1, -1, np.int64)
    powers = [_power(size) for size in sizes]
    for t in range(len(ends) - 1):
        count = word_hashes(data, ends[t], ends[t + 1], letters, words)
        _prefixes(count, words, prefixes)
        candidates = 0
        for i in range(count - sizes[0] + 1):
            # Without a branch, so that the memory of several words is awaited at once.
            places[candidates] = i
            head = mix(prefixes[i + sizes[0]] - prefixes[i] * powers[0])
            candidates += may_hold(bits, head)
        for i in places[:candidates]:
            for n in range(1, len(sizes)):
                if i + sizes[n] > count:
                    continue
                value = mix(prefixes[i + sizes[n]] - prefixes[i] * powers[n])
                place = place_of(hashes, value) if may_hold(bits, value) else -1
                if place >= 0:
                    shared[t] += 1
                    first[t] = place if first[t] < 0 else first[t]
    return shared, first

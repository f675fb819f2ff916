"""Which texts hold a listed word: C4's rule on bad words, with the user's own list.

A page with any word of a list goes: Raffel et al. 2020, section 2.2. A file of the list is UTF-8,
one word or phrase a line; `#` begins no comment, for it may begin a word. Case does not matter. As
in `c4_utils.py` of tensorflow/datasets a word stands whole where no letter, digit or underscore
touches it; combining marks belong to the letter before them here, and a word with a letter of a
script that writes no spaces may stand anywhere, as datatrove's `c4_filters.py` has it for Chinese,
Japanese and Thai. One list serves all languages: what is harmless in another language is no entry.

The words are a trie, walked from every character where one can begin. Cost: 6 ms a megabyte of
prose with 800 words of it (`benchmarks/lists.py`, 2026-11), and 9 MB of tables. The reference is
`find_words` of `pipeline/reference.py`.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import orjson

from pipeline.code_points import CODE_POINTS
from pipeline.kernels import SINGLE, Int64s, UInt8s, UInt32s, character_at
from pipeline.lists import fingerprint_of, unpack
from pipeline.signatures import letter_table

# Raised by hand when another word is found, or the list is written otherwise.
VERSION = 1

Int32s = npt.NDArray[np.int32]

# Of a character: it touches a word. The other bits are its lower case.
_JOINS = np.uint32(SINGLE)
_FINAL_SIGMA, _SIGMA = 0x3C2, 0x3C3  # which a capital becomes depends on its place in a word
# What ends at a node of the trie; of the reach, at it or below.
_NOTHING, _WHOLE, _ANYWHERE = range(3)


class Held(NamedTuple):
    """What texts hold of a list, [texts]: at how many places a word stands, and the first of them.

    first: its character, counted from 0; word: its number in the list. Both are -1 without one.
    """

    counts: Int64s
    first: Int64s
    word: Int64s


class _Trie(NamedTuple):
    """Nodes in the order they were made; the root is 0, and no edge leads to it.

    root: the node of a first character, as it stands in texts, or 0: int32 [code points];
    starts: where a node's edges begin: int32 [nodes + 1]; letters, targets: of every edge, its
    character in lower case, in order, and its node; ends, reach: uint8 [nodes]; word: int32
    [nodes], the number of the word that ends there.
    """

    root: Int32s
    starts: Int32s
    letters: UInt32s
    targets: Int32s
    ends: UInt8s
    reach: UInt8s
    word: Int32s


@dataclass(frozen=True)
class BadWords:
    """Sorted distinct words in lower case."""

    words: tuple[str, ...]

    @classmethod
    def build(cls, files: Sequence[tuple[str, bytes]]) -> "BadWords":
        """Read lists by name and content; `ValueError` names one without words or not in UTF-8."""
        found = set[str]()
        for name, data in files:
            try:
                text = unpack(name, data).decode().removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} is no list of words in UTF-8: {error}") from None
            mine = {word for line in text.splitlines() if (word := " ".join(line.split()))}
            if not mine:
                raise ValueError(f"{name} holds no word: leave it out of clean.c4_bad_words")
            found |= mine
        return cls(tuple(sorted({fold(unicodedata.normalize("NFC", word)) for word in found})))

    @classmethod
    def parse(cls, data: bytes) -> "BadWords":
        """Read what `to_bytes` wrote; `ValueError` where it is damaged."""
        try:
            fields = orjson.loads(data)
            if fields["version"] != VERSION:
                raise ValueError("it was written by another version")
            return cls(tuple(fields["words"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is no list of bad words: {error}") from None

    def to_bytes(self) -> bytes:
        """Write the words in canonical form."""
        return orjson.dumps({"version": VERSION, "words": self.words})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the words in canonical form."""
        return fingerprint_of(self.to_bytes())

    def find(self, data: UInt8s, ends: Int64s) -> Held:
        """Look through texts in NFC that lie one after another."""
        return Held(*_find((data, ends), _table(), self._trie))

    def describe(self, held: Held, row: int) -> str:
        """Say which word a text holds first, and where."""
        return f"{self.words[held.word[row]]!r} at character {held.first[row] + 1}"

    @cached_property
    def _trie(self) -> _Trie:
        children: list[dict[int, int]] = [{}]
        word_of: dict[int, int] = {}
        for number, word in enumerate(self.words):
            node = 0
            for code in map(ord, word):
                if code not in children[node]:
                    children[node][code] = len(children)
                    children.append({})
                node = children[node][code]
            word_of[node] = number
        ends = [
            (_ANYWHERE if is_unspaced(self.words[word_of[node]]) else _WHOLE)
            if node in word_of
            else _NOTHING
            for node in range(len(children))
        ]
        reach = list(ends)
        for node in reversed(range(len(children))):  # a child is made after its parent
            reach[node] = max([reach[node], *(reach[child] for child in children[node].values())])
        edges = [sorted(each.items()) for each in children]
        first = np.zeros(CODE_POINTS, np.int32)
        first[list(children[0])] = list(children[0].values())
        return _Trie(
            first[_table() & ~_JOINS],
            np.cumsum([0, *map(len, edges)], dtype=np.int32),
            np.array([code for each in edges for code, _ in each], np.uint32),
            np.array([child for each in edges for _, child in each], np.int32),
            np.array(ends, np.uint8),
            np.array(reach, np.uint8),
            np.array([word_of.get(node, -1) for node in range(len(children))], np.int32),
        )


def fold(text: str) -> str:
    """Lower a text character by character, so that places stay; both small sigmas are one."""
    table = _table()
    return "".join(chr(table[ord(each)] & ~_JOINS) for each in text)


def joins(character: str) -> bool:
    """Tell whether a character beside a word makes it part of a longer one."""
    return bool(_table()[ord(character)] & _JOINS)


def is_unspaced(word: str) -> bool:
    """Tell whether a word holds a letter of a script that writes no spaces."""
    letters = letter_table()
    return any(letters[ord(each)] >= SINGLE for each in word)


@lru_cache(maxsize=1)
def _table() -> UInt32s:
    """Tabulate of every code point its lower case, and whether it touches a word beside it."""
    letters = letter_table()
    codes = np.arange(len(letters), dtype=np.uint32)
    lowered = np.where(letters == 0, codes, letters & ~_JOINS)
    lowered[_FINAL_SIGMA] = _SIGMA
    touches = (letters > 0) & (letters < SINGLE)
    touches[ord("_")] = True
    marks = np.where(touches, _JOINS, np.uint32(0))
    return np.bitwise_or(lowered, marks, dtype=np.uint32)


@numba.njit(cache=True)
def _find(
    text: tuple[UInt8s, Int64s], table: UInt32s, trie: _Trie
) -> tuple[Int64s, Int64s, Int64s]:
    data, ends = text
    counts = np.zeros(len(ends) - 1, np.int64)
    first, word = np.full(len(counts), -1, np.int64), np.full(len(counts), -1, np.int64)
    for t in range(len(counts)):
        i, stop, place, touched = ends[t], ends[t + 1], 0, False
        while i < stop:
            code, width = character_at(data, i)
            node = trie.root[code]
            if node and not (touched and trie.reach[node] < _ANYWHERE):
                found = _walk(data, (i + width, stop), (node, touched), table, trie)
                counts[t] += found >= 0
                if found >= 0 and first[t] < 0:
                    first[t], word[t] = place, found
            touched = table[code] >= _JOINS
            i += width
            place += 1
    return counts, first, word


@numba.njit(cache=True)
def _walk(
    data: UInt8s, span: tuple[int, int], begun: tuple[int, bool], table: UInt32s, trie: _Trie
) -> int:
    """Return the number of the shortest word that begins with a node's character, or -1."""
    i, stop = span
    node, touched = begun
    while True:
        code, width = character_at(data, i) if i < stop else (0, 1)
        seen = table[code]
        whole = not touched and (i >= stop or seen < _JOINS)
        if trie.ends[node] == _ANYWHERE or (trie.ends[node] == _WHOLE and whole):
            return int(trie.word[node])
        low, high = trie.starts[node], trie.starts[node + 1]
        wanted = seen & ~_JOINS
        while low < high and trie.letters[low] < wanted:  # few, but at the root
            low += 1
        if i >= stop or low == high or trie.letters[low] != wanted:
            return -1
        node = trie.targets[low]
        i += width

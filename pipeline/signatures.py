"""Shingles, MinHash signatures and band keys; the loops over bytes are in `pipeline/kernels.py`.

A shingle is `ngram` words in a row; a word is a maximal run of letters, digits and marks of the
normalized (lower-case) text, and in scripts that write no spaces every character is a word of its
own. Words and shingles are 64-bit hashes, so two different shingles are taken for one with
probability of about 2^-64; `reference_shingles` is the readable definition that audits and tests
use.

MinHash by permutations a*x + b modulo 2^32 of the upper halves of the shingles (Broder 1997;
Dietzfelbinger et al. 1997), then `bands` keys of `rows` minima each. Halves that meet by chance
raise an estimate by about (shingles of one text) / 2^33: 0.0001 for a million words, far below the
standard error of 0.025. Sets and verification on texts keep all 64 bits. Documents with fewer
words than a shingle have no set, no signature and no band: they take part in exact deduplication
only.

The index of a part is two Arrow files: its documents (hashes, word counts) and its keys sorted by
value, so that any partition of the key space is one contiguous range of it.
"""

import hashlib
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.files import writing
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline.code_points import CODE_POINTS, tabulate
from pipeline.kernels import (
    SINGLE,
    SPECIAL_CAPITALS,
    Int64s,
    UInt32s,
    UInt64s,
    band_keys,
    distinct,
    minima,
    shingle_lists,
)
from pipeline.keys import (
    EXACT_BAND,
    ID_BAND,
    INDEX_SCHEMA,
    KEY_SCHEMA,
    SET_BAND,
    salt_of,
)
from pipeline.preference import PREFERENCE_BYTES, preferences, scope_of

# Raised by hand when a hash, a signature or a key changes.
VERSION = 3

# Scripts that write no spaces between words, by the first word of a character's Unicode name.
_UNSPACED = frozenset(
    ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO", "TIBETAN")
)
_SEPARATOR, _WORD, _SINGLE = 0, 1, 2
_BATCH_BYTES = 2**20  # of normalized text; keeps a batch's shingles in the cache's neighbourhood
_PERMUTATION_SEED = 0x6D61736B6C696E65  # "maskline" in ASCII


class Signed(NamedTuple):
    """The shingle sets and band keys of a batch of texts.

    shingles: sorted distinct hashes, all texts one after another; offsets: [texts + 1];
    keys: [texts, bands], meaningless for a text without shingles.
    """

    shingles: UInt64s
    offsets: Int64s
    signatures: UInt32s
    keys: UInt64s


def normalize(text: str) -> str:
    """Return the text as shingles see it; the words of the exact hash's text are the same."""
    return unicodedata.normalize("NFC", text).lower()


def character_class(character: str) -> int:
    """Tell separator, word character and one-character word apart."""
    if not (character.isalnum() or unicodedata.category(character).startswith("M")):
        return _SEPARATOR
    name = unicodedata.name(character, "").split(" ", 1)[0]
    return _SINGLE if name in _UNSPACED else _WORD


@lru_cache(maxsize=1)
def letter_table() -> UInt32s:
    """Tabulate what `shingle_lists` sees in each code point: lower case and class in one number."""
    return tabulate(np.zeros(CODE_POINTS, np.uint32), _letter)


def _letter(character: str) -> int:
    lower = character.lower()
    kind = _SEPARATOR if len(lower) > 1 else character_class(lower)
    return (0, ord(lower[0]), ord(lower[0]) | SINGLE)[kind]


@lru_cache(maxsize=4)
def permutations(count: int) -> tuple[UInt32s, UInt32s]:
    """Return odd multipliers and addends, drawn by a fixed hash: uint32 [count] each."""
    draws = [
        int.from_bytes(hashlib.sha256(f"{_PERMUTATION_SEED}:{n}".encode()).digest()[:8], "big")
        for n in range(count)
    ]
    multipliers = np.array([draw >> 32 | 1 for draw in draws], np.uint32)
    return multipliers, np.array([draw & 0xFFFFFFFF for draw in draws], np.uint32)


def reference_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    """Return the set of word n-grams, written for reading; empty where there are too few words."""
    words: list[str] = []
    joined = False
    for character in normalize(text):
        kind = character_class(character)
        if kind == _WORD and joined:
            words[-1] += character
        elif kind != _SEPARATOR:
            words.append(character)
        joined = kind == _WORD
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def _composed(text: str) -> str:
    """Return the text in NFC, and in lower case where a table of characters could not lower it."""
    composed = unicodedata.normalize("NFC", text)
    if not composed.isascii() and any(each in composed for each in SPECIAL_CAPITALS):
        return composed.lower()
    return composed


def shingle_sets(texts: list[str], ngram: int) -> tuple[UInt64s, Int64s]:
    """Return the sorted distinct shingles of texts, one after another, and [texts + 1] offsets."""
    encoded = [_composed(text).encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    shingles, offsets = shingle_lists(data, ends, letter_table(), ngram)
    bounds = offsets.tolist()
    for start, stop in pairwise(bounds):
        shingles[start:stop].sort()  # numpy's own sort is vectorised, numba's is not
    return distinct(shingles, offsets)


def sign(texts: list[str], config: Dedup) -> Signed:
    """Compute the shingle sets, signatures and band keys of a batch of texts."""
    shingles, offsets = shingle_sets(texts, config.ngram)
    signatures = minima(shingles, offsets, *permutations(config.bands * config.rows))
    return Signed(shingles, offsets, signatures, band_keys(signatures, config.bands, config.rows))


def set_hash(shingles: UInt64s) -> bytes | None:
    """Hash a whole shingle set: 16 bytes, or None for an empty one."""
    if not len(shingles):
        return None
    return hashlib.sha256(shingles.astype("<u8").tobytes()).digest()[:16]


def write_index(tree: Tree, name: str, documents: pa.Table, config: Dedup) -> list[str]:
    """Write the index of a part of documents; return its two paths."""
    texts: list[str] = documents["text"].to_pylist()
    set_hashes: list[bytes | None] = []
    keys = [np.empty((0, config.bands), np.uint64)]
    for batch in _batches(texts):
        signed = sign(batch, config)
        spans = zip(signed.offsets[:-1], signed.offsets[1:], strict=True)
        set_hashes += [set_hash(signed.shingles[start:stop]) for start, stop in spans]
        keys.append(signed.keys)
    index = pa.table(
        {
            "id": documents["id"],
            "file": documents["file"],
            "position": documents["position"],
            "text_hash": documents["text_hash"],
            "set_hash": pa.array(set_hashes, pa.binary(16)),
            "text_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
            "preference": pa.array(preferences(documents, config), pa.binary(PREFERENCE_BYTES)),
        },
        schema=INDEX_SCHEMA,
    )
    paths = [f"index/{name}.documents.arrow", f"index/{name}.keys.arrow"]
    write_arrow(tree.own(paths[0]), index)
    sorted_keys = _sorted_keys(index, np.concatenate(keys), salt_of(_scope(documents, config)))
    write_arrow(tree.own(paths[1]), sorted_keys)
    return paths


def _batches(texts: list[str]) -> list[list[str]]:
    batches: list[list[str]] = []
    size = _BATCH_BYTES
    for text in texts:
        if size >= _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    return batches


def _scope(documents: pa.Table, config: Dedup) -> str:
    if not len(documents):
        return ""
    return scope_of(documents["snapshot"][0].as_py(), documents["source"][0].as_py(), config)


def _sorted_keys(index: pa.Table, band_keys: UInt64s, salt: np.uint64) -> pa.Table:
    has_set = np.array([value is not None for value in index["set_hash"].to_pylist()], bool)
    rows = np.arange(len(index), dtype=np.uint32)
    columns = [
        (band_keys[has_set, band], band, rows[has_set]) for band in range(band_keys.shape[1])
    ]
    set_hashes = [value for value in index["set_hash"].to_pylist() if value is not None]
    ids = [hashlib.sha256(value.encode()).digest() for value in index["id"].to_pylist()]
    columns += [
        (_leading(set_hashes), SET_BAND, rows[has_set]),
        (_leading(index["text_hash"].to_pylist()), EXACT_BAND, rows),
        (_leading(ids), ID_BAND, rows),
    ]
    key = np.concatenate([column[0] for column in columns]) ^ salt
    band = np.concatenate([np.full(len(values), band, np.uint8) for values, band, _ in columns])
    row = np.concatenate([column[2] for column in columns])
    order = np.lexsort((row, band, key))
    return pa.table([key[order], band[order], row[order]], schema=KEY_SCHEMA)


def _leading(hashes: list[bytes]) -> UInt64s:
    return np.array([int.from_bytes(value[:8], "big") for value in hashes], np.uint64)


def write_arrow(path: str, table: pa.Table) -> None:
    """Commit a table as an uncompressed Arrow IPC file."""
    with writing(path) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table.combine_chunks())

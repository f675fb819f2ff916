"""Encode: the kept documents of a part become token ids with sentence and word starts.

Sentences are those of `pipeline/sentences.py`, which cuts a text only where GPT-2's splitting into
words always cuts too: so documents are encoded whole, and the bytes that each token stands for,
added up, say at which token a sentence starts. That sum must end at each cut and at the end of
every document, else the job stops. A tokenizer that splits words in another way encodes sentence by
sentence.

A word starts at a token that begins with white space, and after one that ends with it: what a mask
takes for one. The words that are counted, for drift, are those of `pipeline/reference.py`: in a
script without spaces every letter is one. Rows are sorted by the hash that deals documents to
shards, so a shard is one range of every file.

Every part compares its first documents in that order, a sample by hash, with the reference
encoder. Text stays in Arrow's buffers from Parquet to the tokens file; a third of the time is
gigatoken's, the rest is reading, digests and cutting (`python -m benchmarks.encoding`).
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import KEPT_COLUMNS, deal_hash, digest_table, format_digest
from corpus.encoding import FlatEncoder, Tokens, encode_by_reference
from corpus.membership import tokens_path
from corpus.shards import token_dtype
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import Tokenizer, stored_tokenizer
from pipeline.characters import LETTER, SPACE, UNSPACED, class_table
from pipeline.clean import kept_mask
from pipeline.jobs import Output
from pipeline.kernels import Int64s, UInt8s, character_at
from pipeline.parquet import read_columns
from pipeline.sentences import sentence_cuts
from pipeline.signatures import write_arrow
from pipeline.spans import bytes_of
from pipeline.wide import HIGH, ONES, eight

# Raised by hand when ids, sentence starts, word starts or the count of words change.
VERSION = 4


# Text that is encoded in one go; the working arrays take some ten times it. Guess.
_BATCH_BYTES = 8 * 2**20
_BLOCK = 32  # bytes that are looked at together for words
BEGINS, ENDS = 1, 2  # of a token: it begins, or ends, with white space
# Text of each part that the reference encodes too: 8 ms of it at 2 MB/s.
CHECKED_BYTES = 16 * 2**10


class Texts(NamedTuple):
    """UTF-8 texts one after another, cut into sentences.

    offsets: [texts + 1] places in `data`; cuts: places in `data` at which every sentence but the
    first of each text starts; cut_offsets: [texts + 1] which of them are a text's.
    """

    data: UInt8s
    offsets: Int64s
    cuts: Int64s
    cut_offsets: Int64s


class Encoded(NamedTuple):
    """Texts as a tokens file holds them.

    token_ids: all texts' one after another; token_offsets: [texts + 1]; sentence_starts: positions
    within the text's tokens; sentence_offsets: [texts + 1]; word_starts: one for each token; words:
    how many the texts have.
    """

    token_ids: npt.NDArray[Any]
    token_offsets: Int64s
    sentence_starts: npt.NDArray[np.uint32]
    sentence_offsets: Int64s
    word_starts: npt.NDArray[np.bool_]
    words: int


def cut_texts(data: UInt8s, offsets: Int64s) -> Texts:
    """Cut texts into their sentences."""
    return Texts(data, offsets, *sentence_cuts(data, offsets))


class Encoder:
    """Encodes documents with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Prepare the tables of the bytes that tokens stand for."""
        self.flat = FlatEncoder(tokenizer)
        self.tokenizer = tokenizer
        self._lengths = tokenizer.token_sizes()
        begins, ends = tokenizer.spaces()
        # One table, small enough for the second cache: the size above two bits.
        self._shapes = (self._lengths << 2 | begins * BEGINS | ends * ENDS).astype(np.uint32)
        self._dtype = token_dtype(tokenizer.vocab_size)

    def encode(self, texts: Texts) -> Encoded:
        """Encode texts; `ValueError` where a cut is inside a token or bytes are lost."""
        whole = self.tokenizer.splits_as_gpt2
        tokens = self.flat.encode(*texts[:2]) if whole else self._encode_sentences(texts)
        starts = np.empty(len(tokens.ids), np.bool_)
        sentences = np.empty(len(texts.cuts) + len(texts.offsets) - 1, np.uint32)
        wrong = _place_starts(tokens, texts, self._shapes, sentences, starts)
        if wrong >= 0:
            raise ValueError(
                f"text {wrong} of a batch: the bytes of its tokens ({self.flat.library}) do not "
                "end where its sentences and the text end"
            )
        offsets = texts.cut_offsets + np.arange(len(texts.offsets))
        ids = tokens.ids.astype(self._dtype)
        words = _count_words(*texts[:2], class_table())
        return Encoded(ids, tokens.offsets, sentences, offsets, starts, words)

    def check(self, texts: Texts, encoded: Encoded, names: list[str]) -> None:
        """Compare the first of these texts with the reference; `ValueError` names a difference."""
        if self.flat.is_reference:
            return
        for n, high in _sample(texts):
            low = int(texts.offsets[n])
            bounds = np.array([low, high], np.int64)
            expected = encode_by_reference(self.tokenizer, texts.data, bounds).ids
            found = encoded.token_ids[slice(*encoded.token_offsets[n : n + 2])]
            if high < texts.offsets[n + 1]:
                found = found[: len(expected)]
            if not np.array_equal(found, expected):
                raise ValueError(self._explain(names[n], found, expected))

    def _encode_sentences(self, texts: Texts) -> Tokens:
        bounds = np.sort(np.concatenate([texts.offsets, texts.cuts]))
        pieces = self.flat.encode(texts.data, bounds)
        first = texts.cut_offsets + np.arange(len(texts.offsets))
        return Tokens(pieces.ids, pieces.offsets[first])

    def _explain(self, name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
        common = min(len(found), len(expected))
        differs = found[:common] != expected[:common]
        at = int(differs.argmax()) if differs.any() else common
        place = int(self._lengths[expected[:at]].sum())
        return (
            f"document {name}, byte {place}: {self.flat.library} gives the ids "
            f"{found[at : at + 3].tolist()}, tokenizers gives {expected[at : at + 3].tolist()}: "
            "report it to gigatoken, and uninstall it here to encode with tokenizers alone"
        )


def _sample(texts: Texts) -> Iterator[tuple[int, int]]:
    """Give the texts to check, each with the place up to which: a sentence's start, or its end."""
    left = CHECKED_BYTES
    for n, (low, high) in enumerate(zip(texts.offsets[:-1], texts.offsets[1:], strict=True)):
        if left <= 0:
            return
        cuts = texts.cuts[texts.cut_offsets[n] : texts.cut_offsets[n + 1]]
        stop = int(min([high, *cuts[cuts >= low + left][:1]]))
        left -= stop - int(low)
        yield n, stop


@numba.njit(cache=True)
def _place_starts(tokens, texts, shapes, sentence_starts, word_starts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill in where sentences and words start; return a text that does not fit, or -1."""
    ids, token_offsets = tokens
    _, offsets, cuts, cut_offsets = texts
    for text in range(len(offsets) - 1):
        first, cut, stop = token_offsets[text], cut_offsets[text], cut_offsets[text + 1]
        place, after_space = offsets[text], True
        sentence_starts[cut + text] = 0
        for n in range(first, token_offsets[text + 1]):
            shape = np.int64(shapes[ids[n]])
            if cut < stop and cuts[cut] == place:
                cut += 1
                sentence_starts[cut + text] = n - first
            word_starts[n] = after_space or shape & BEGINS != 0
            after_space = shape & ENDS != 0
            place += shape >> 2
        if cut < stop or place != offsets[text + 1]:
            return text
    return -1


@numba.njit(cache=True)
def _count_words(data: UInt8s, offsets: Int64s, classes: UInt8s) -> int:
    """Count the words of texts as `words_of` in `pipeline/reference.py` defines them."""
    words = 0
    for text in range(len(offsets) - 1):
        place, stop = offsets[text], offsets[text + 1]
        inside = letter = 0  # letter: the classes of the last one in this run
        while place < stop:
            if not letter & UNSPACED and place + _BLOCK <= stop:
                found = _count_plain(data, place, inside)
                if found >= 0:
                    words, place = words + found, place + _BLOCK
                    inside, letter = _last_of_run(data, place, classes, letter)
                    continue
            end = min(place + _BLOCK, stop)
            while place < end:
                code, width = character_at(data, place)
                kind, place = classes[code], place + width
                cut = kind & LETTER and letter and (kind | letter) & UNSPACED
                words += 1 if not kind & SPACE and (cut or not inside) else 0
                inside = 0 if kind & SPACE else 1
                letter = inside * (kind if kind & LETTER else letter)
    return words


@numba.njit(cache=True, forceinline=True)
def _at_least(chunk: np.uint64, byte: int) -> np.uint64:
    """Set the highest bit of each byte that is as large; all of them are below 0x80."""
    return (chunk + np.uint64(0x80 - byte) * ONES) & HIGH


@numba.njit(cache=True, forceinline=True)
def _count_plain(data: UInt8s, place: int, inside: int) -> int:
    """Count the words that start in a block of plain text, -1 where it is none.

    Plain is ASCII without those control characters that are no white space.
    """
    strange, count, before = np.uint64(0), 0, np.uint64(inside << 7)
    for n in range(place, place + _BLOCK, 8):
        chunk = eight(data, n)
        ink = _at_least(chunk, 0x21)
        known = _at_least(chunk, 0x1C) | (_at_least(chunk, 0x09) & ~_at_least(chunk, 0x0E))
        strange |= (chunk & HIGH) | (HIGH & ~known)
        starts = ink & ~(ink << np.uint64(8) | before)
        count += int((starts >> np.uint64(7)) * ONES >> np.uint64(56))
        before = ink >> np.uint64(56)
    return -1 if strange else count


@numba.njit(cache=True, forceinline=True)
def _last_of_run(data: UInt8s, stop: int, classes: UInt8s, letter: int) -> tuple[int, int]:
    """Tell whether a block of ASCII ends inside a run, and the run's last letter's classes."""
    if classes[data[stop - 1]] & SPACE:
        return 0, 0
    for n in range(1, _BLOCK + 1):
        kind = classes[data[stop - n]]
        if kind & LETTER:
            return 1, kind
        if kind & SPACE:
            return 1, 0
    return 1, letter


@lru_cache(maxsize=2)
def open_encoder(store: str, fingerprint: str) -> Encoder:
    """Open the encoder of a store's tokenizer; the process keeps it."""
    # A task has one core, also where the reference encodes.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return Encoder(stored_tokenizer(tokenizer_root(store, fingerprint), fingerprint))


def tokens_schema(vocab_size: int) -> pa.Schema:
    """Return the schema of a tokens file; `corpus.membership` reads the first two columns alone."""
    ids = pa.from_numpy_dtype(token_dtype(vocab_size))
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("hash", pa.uint64(), nullable=False),
            pa.field("token_ids", pa.large_list(ids), nullable=False),
            pa.field("sentence_starts", pa.large_list(pa.uint32()), nullable=False),
            pa.field("word_starts", pa.large_list(pa.bool_()), nullable=False),
        ]
    )


def encode_part(tree: Tree, _task: str, name: str, tokenizer: tuple[str, str]) -> Output:
    """Encode the kept documents of one part with a store's tokenizer (store, fingerprint)."""
    documents = read_columns(tree.find(f"clean/{name}.parquet"), KEPT_COLUMNS)
    mask = kept_mask(tree, name, len(documents))
    table, counts = encode_documents(documents, mask, open_encoder(*tokenizer))
    path = tokens_path(name)
    write_arrow(tree.own(path), table)
    return Output((path,), {"name": name, **counts})


def encode_documents(
    documents: pa.Table, mask: npt.NDArray[np.bool_], encoder: Encoder
) -> tuple[pa.Table, dict[str, Any]]:
    """Encode the documents that a mask keeps; return what a tokens file holds, and its counts."""
    # In one chunk, as `take` would join them anew for every batch.
    documents = documents.combine_chunks()
    kept, hashes = _deal(documents["id"], mask)
    batches, digest, text_bytes, words = [], 0, 0, 0
    for start, stop in _cut_rows(documents["text"], kept):
        batch = documents.take(kept[start:stop])
        texts = cut_texts(*bytes_of(batch["text"]))
        encoded = encoder.encode(texts)
        if not start:
            encoder.check(texts, encoded, batch["id"].to_pylist())
        batches.append(tokens_table(batch["id"], hashes[start:stop], encoded))
        digest += digest_table(batch, KEPT_COLUMNS)
        text_bytes += int(texts.offsets[-1] - texts.offsets[0])
        words += encoded.words
    schema = tokens_schema(encoder.tokenizer.vocab_size)
    table = pa.concat_tables([schema.empty_table(), *(batch.cast(schema) for batch in batches)])
    return table, {
        "documents": len(kept),
        "tokens": sum(len(chunk.values) for chunk in table["token_ids"].chunks),
        "words": words,
        "text_bytes": text_bytes,
        "kept_digest": format_digest(digest),
    }


def _deal(ids: pa.ChunkedArray, kept: npt.NDArray[np.bool_]) -> tuple[pa.Array, pa.Array]:
    """Return the kept rows in the order of the hash that deals them, and their hashes."""
    found = ids.filter(pa.array(kept))
    hashes = pa.array([deal_hash(each) for each in found.to_pylist()], pa.uint64())
    keys = pa.table({"hash": hashes, "id": found})
    order = pc.sort_indices(keys, sort_keys=[("hash", "ascending"), ("id", "ascending")])
    return pa.array(np.flatnonzero(kept)).take(order), hashes.take(order)


def _cut_rows(texts: pa.ChunkedArray, rows: pa.Array) -> Iterator[tuple[int, int]]:
    """Cut rows into batches of bounded text: from which to which of them."""
    sizes = pc.binary_length(texts).to_numpy()[rows.to_numpy()].astype(np.int64)
    ends, start = np.cumsum(sizes), 0
    while start < len(rows):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _BATCH_BYTES, side="right")))
        yield start, stop
        start = stop


def tokens_table(ids: pa.ChunkedArray, hashes: pa.Array, encoded: Encoded) -> pa.Table:
    """Return documents as a tokens file holds them, but for the types of its schema."""
    return pa.table(
        {
            "id": ids,
            "hash": hashes,
            "token_ids": _lists(encoded.token_ids, encoded.token_offsets),
            "sentence_starts": _lists(encoded.sentence_starts, encoded.sentence_offsets),
            "word_starts": _lists(encoded.word_starts, encoded.token_offsets),
        }
    )


def _lists(values: npt.NDArray[Any], offsets: Int64s) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))

"""Byte-level BPE from word counts: the merges that `tokenizers`' BpeTrainer learns from the text.

At each step the most frequent pair of neighbours, among equals that of the least ids, is merged
wherever it occurs in every word. As in the reference, a heap holds the pairs under counts that may
have fallen since, which are put right when they come up; a pair knows the words it was seen in.

A pair comes to be in the one step that makes its younger token, and its count only falls after
that: so pairs rarer than the least frequency are forgotten at once, and no two merges spell the
same token. Memory follows the distinct words, not the text. Counts have 64 bits, the reference's
32. Measured: 100 MB of prose, 50,265 tokens (`python -m benchmarks.bpe`).
"""

import heapq

import numba
import numpy as np
import numpy.typing as npt

from corpus.tokenizer import LEADING_SPECIALS, byte_alphabet
from pipeline.kernels import GOLDEN
from pipeline.word_counts import Counted

Pairs = npt.NDArray[np.int32]

# A pair's key holds the left token above the right one.
_SHIFT = 32
_FIRST_ROOM = 1 << 10  # pairs that a step has room for; it doubles. Any size would do.


def learn_merges(words: Counted, merges: int, min_frequency: int) -> list[tuple[str, str]]:
    """Learn at most so many merges, as pairs of tokens in GPT-2's alphabet."""
    alphabet = byte_alphabet()
    tokens = [*LEADING_SPECIALS, *sorted(alphabet.values())]
    ids = {token: position for position, token in enumerate(tokens)}
    by_byte = np.array([ids[alphabet[byte]] for byte in range(256)], np.int32)
    begin, end = words.offsets[0], words.offsets[-1]
    symbols, starts = by_byte[words.data[begin:end]], words.offsets - begin
    # A merge takes a token away; what can be learned bounds the tables, whatever is asked for.
    limits = (len(tokens), min(merges, len(symbols)), min_frequency)
    lefts, rights = _learn(symbols, starts, words.counts.copy(), limits).T.tolist()
    learned = []
    for left, right in zip(lefts, rights, strict=True):
        learned.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens), "two merges made one token"
    return learned


# The arrays that the loops share, in tuples:
# words    symbols: all words' tokens, one word after another; starts, stops: [words] where each
#          word's begin and end in them, which draws nearer as tokens merge; counts: [words]
# table    of pairs: keys, counts, begins and ends of their words in `places`; index: entries by the
#          hash of their keys; places: numbers of words; sizes: how much of keys and places is used
# found    pairs formed in a step: their slots in `dense`, keys and words, as they were met
# dense    by slot: counts of the step, entries in the table, and the last word they were met in


@numba.njit(cache=True)
def _learn(symbols, starts, counts, limits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the pairs that are merged, in order: [merges, 2]."""
    tokens, merges, least = limits
    words = (symbols, starts[:-1], starts[1:].copy(), counts)
    room = _FIRST_ROOM
    found = (np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32))
    heap = [(0, 0, 0)]
    heap.pop()
    table = _first_pairs(words, heap, tokens, least)
    learned = np.empty((merges, 2), np.int32)
    slots = 2 * (tokens + merges)
    dense = (np.zeros(slots, np.int64), np.full(slots, -1), np.full(slots, -1))
    for step in range(merges):
        entry = _pop(heap, table[1], least)
        if entry < 0:
            return learned[:step]
        left, right = table[0][entry] >> _SHIFT, table[0][entry] & ((1 << _SHIFT) - 1)
        learned[step, 0], learned[step, 1] = left, right
        triple = (left, right, tokens + step)
        count, found = _merge(entry, triple, words, (found, dense, table))
        table = _keep(found, count, dense, table, heap, least)
    return learned


@numba.njit(cache=True)
def _first_pairs(words, heap, tokens, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the table of the pairs of bytes: they are counted, then given their words."""
    symbols, starts, stops, counts = words
    slots = tokens * tokens
    totals, homes, last = np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.full(slots, -1)
    for word in range(len(starts)):
        for i in range(starts[word] + 1, stops[word]):
            slot = np.int64(symbols[i - 1]) * tokens + symbols[i]
            homes[slot] += _note(totals, last, slot, word, counts[word])
    frequent = np.flatnonzero(totals >= least)
    table = _new_table(len(frequent), homes[frequent].sum())
    keys, table_counts, begins, ends, index, places, sizes = table
    entries = np.full(slots, -1)
    for slot in frequent:
        entry = entries[slot] = sizes[0]
        keys[entry], table_counts[entry] = slot // tokens << _SHIFT | slot % tokens, totals[slot]
        begins[entry] = ends[entry] = sizes[1]
        sizes[0], sizes[1] = sizes[0] + 1, sizes[1] + homes[slot]
        index[_find(index, keys, keys[entry])] = entry
        heapq.heappush(heap, (-totals[slot], keys[entry], entry))
    last[:] = -1
    for word in range(len(starts)):
        for i in range(starts[word] + 1, stops[word]):
            slot = np.int64(symbols[i - 1]) * tokens + symbols[i]
            entry = entries[slot]
            if entry >= 0 and last[slot] != word:
                last[slot] = places[ends[entry]] = word
                ends[entry] += 1
    return table


@numba.njit(cache=True, forceinline=True)
def _note(totals, last, slot, word, weight):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count a pair that is formed; return 1 where this word had none of it so far."""
    totals[slot] += weight
    first = last[slot] != word
    last[slot] = word
    return 1 if first else 0


@numba.njit(cache=True)
def _merge(entry, triple, words, tables):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Merge a pair in all its words, from left to right; note what is formed, lower what is gone.

    What is formed, and how much of it, is returned: a word forms no more pairs than it has tokens.
    Arrays are taken out of their tuples once: that costs more than the merging of one word.
    """
    left, right, merged = triple
    symbols, starts, stops, counts = words
    (slots, new_keys, new_words), (totals, _, last), table = tables
    keys, table_counts, begins, ends, index, places, _ = table
    # A plain 0 would have its own type, and everything it goes into be compiled twice.
    count = np.int64(0)
    for at in range(begins[entry], ends[entry]):
        word = places[at]
        weight, stop = counts[word], stops[word]
        out = i = starts[word]
        start = out
        if count + stop - start > len(slots):
            room = 2 * len(slots) + stop - start
            slots, new_keys = _extend(slots, room), _extend(new_keys, room)
            new_words = _extend(new_words, room)
        while i < stop:
            if i + 1 == stop or symbols[i] != left or symbols[i + 1] != right:
                symbols[out] = symbols[i]
                out += 1
                i += 1
                continue
            if out > start:
                before = np.int64(symbols[out - 1])
                if before == merged:
                    totals[2 * left + 1] -= weight
                else:
                    _lower(index, keys, table_counts, before << _SHIFT | left, weight)
                slot = 2 * before
                slots[count], new_keys[count] = slot, before << _SHIFT | merged
                new_words[count] = word
                count += _note(totals, last, slot, word, weight)
            if i + 2 < stop:
                after = np.int64(symbols[i + 2])
                _lower(index, keys, table_counts, right << _SHIFT | after, weight)
                slot = 2 * after + 1
                slots[count], new_keys[count] = slot, merged << _SHIFT | after
                new_words[count] = word
                count += _note(totals, last, slot, word, weight)
            symbols[out] = merged
            out += 1
            i += 2
        stops[word] = out
    return count, (slots, new_keys, new_words)


@numba.njit(cache=True, forceinline=True)
def _lower(index, keys, counts, key, weight):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    entry = index[_find(index, keys, key)]
    if entry >= 0:
        counts[entry] -= weight


@numba.njit(cache=True)
def _pop(heap, counts, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take the entry of the first pair off the heap; -1 where all are rarer than the least."""
    while len(heap) > 0:
        negative, key, entry = heap[0]
        if counts[entry] < least:
            heapq.heappop(heap)
        elif counts[entry] != -negative:
            heapq.heapreplace(heap, (-counts[entry], key, entry))
        else:
            heapq.heappop(heap)
            return entry
    return -1


@numba.njit(cache=True)
def _keep(found, count, dense, table, heap, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Enter the pairs of a step that are frequent enough, each with its words; clear the step."""
    slots, new_keys, new_words = found
    totals, entries, last = dense
    table = _make_room(table, count)
    keys, counts, begins, ends, index, places, sizes = table
    first = sizes[0]
    for n in range(count):
        slot = slots[n]
        if totals[slot] >= least and entries[slot] < 0:
            entry = entries[slot] = sizes[0]
            keys[entry], counts[entry], ends[entry] = new_keys[n], totals[slot], 0
            sizes[0] += 1
            heapq.heappush(heap, (-counts[entry], keys[entry], entry))
        if entries[slot] >= 0:
            ends[entries[slot]] += 1
    for entry in range(first, sizes[0]):
        begins[entry] = sizes[1]
        sizes[1] += ends[entry]
        ends[entry] = begins[entry]
    for n in range(count):
        entry = entries[slots[n]]
        if entry >= 0:
            places[ends[entry]] = new_words[n]
            ends[entry] += 1
    for n in range(count):
        totals[slots[n]], entries[slots[n]], last[slots[n]] = 0, -1, -1
    if 2 * sizes[0] > len(index):
        index, first = np.full(8 * sizes[0], -1, np.int64), 0
    for entry in range(first, sizes[0]):
        index[_find(index, keys, keys[entry])] = entry
    return keys, counts, begins, ends, index, places, sizes


@numba.njit(cache=True)
def _find(index, keys, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the place of the index that holds a pair's entry, or would."""
    # The upper half of the product, as a share of the index: no division.
    place = (np.uint64(key) * np.uint64(GOLDEN)) >> np.uint64(32)
    at = np.int64((place * np.uint64(len(index))) >> np.uint64(32))
    while index[at] >= 0 and keys[index[at]] != key:
        at += 1
        if at == len(index):
            at = np.int64(0)
    return at


@numba.njit(cache=True)
def _new_table(room, words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    empty = np.empty(room, np.int64)
    index = np.full(4 * room + 1, -1, np.int64)
    places, sizes = np.empty(words, np.int32), np.zeros(2, np.int64)
    return empty, empty.copy(), empty.copy(), empty.copy(), index, places, sizes


@numba.njit(cache=True)
def _make_room(table, more):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return a table with room for so many more entries and places."""
    keys, counts, begins, ends, index, places, sizes = table
    if sizes[0] + more > len(keys):
        room = 2 * len(keys) + more
        keys, counts = _extend(keys, room), _extend(counts, room)
        begins, ends = _extend(begins, room), _extend(ends, room)
    if sizes[1] + more > len(places):
        places = _extend(places, 2 * len(places) + more)
    return keys, counts, begins, ends, index, places, sizes


@numba.njit(cache=True)
def _extend(array, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    larger = np.empty(room, array.dtype)
    larger[: len(array)] = array
    return larger

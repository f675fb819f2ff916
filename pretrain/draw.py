"""The draw of masks, a row at a time, compiled by numba: a hash a slot instead of one a token.

Every draw is splitmix64 at a counter of the row's key, so no state goes from row to row. A set of
positions is a string of bits. What each way of masking means is told in masking.py; a plain version
of all of them, which this one equals bit by bit, is tests/mask_reference.py.

Cost a row of 512 on one core of an AMD EPYC with AVX2 (benchmarks/masking.py, 2026-11): fixed 0.62
microseconds, Bernoulli 0.72, spans 2.0, whole words 1.6.
"""

import numba
import numpy as np

from corpus.tokenizer import UNK_ID
from pretrain.bits import WIDTH, begin_bits, lowest, marked_bits, special_bits, trailing_zeros
from pretrain.kernels import GOLDEN, mix

MASKINGS = ("fixed", "bernoulli", "whole-word", "span")
_FIXED, _BERNOULLI, _WHOLE_WORD, _SPAN = range(4)

# Counters of a row's hash: 0 rounds the number of labels, 1 + i is the i-th draw, and
# 2^16 + 1 + p decides what becomes of position p. A row is shorter than 2^16 tokens.
DRAW_COUNTER = 1
ACTION_COUNTER = 2**16 + 1
# Draws of spans that a row is given a label: enough where half the row is masked. A guess.
SPAN_TRIES = 8

_ZERO, _ONE, _WIDTH = np.uint64(0), np.uint64(1), np.uint64(WIDTH)
_WORD_BITS, _TRIES = np.uint64(63), np.uint64(SPAN_TRIES)
_LOW_32, _HIGH_32, _SIX = np.uint64(2**32 - 1), np.uint64(32), np.uint64(6)
_DRAW, _ACTION = np.uint64(DRAW_COUNTER), np.uint64(ACTION_COUNTER)
# The first entry that may be masked, or drawn at random.
_FIRST = np.uint64(UNK_ID + 1)
_FIRST_SHIFTED = _FIRST << _HIGH_32


@numba.njit(cache=True, nogil=True, inline="always")
def _below(draw, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Scale a hash's upper half to [0, size)."""
    return ((draw >> _HIGH_32) * np.uint64(size)) >> _HIGH_32


@numba.njit(cache=True, nogil=True, inline="always")
def _set(bits, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    bits[at >> _SIX] |= _ONE << (at & _WORD_BITS)


@numba.njit(cache=True, nogil=True, inline="always")
def _has(bits, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return (bits[at >> _SIX] >> (at & _WORD_BITS)) & _ONE


@numba.njit(cache=True, nogil=True)
def _find_specials(row, length, mask_id, skip):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """List the positions that are never masked."""
    count = 0
    for start in range(0, length, WIDTH):
        found = special_bits(row, start, length, mask_id)
        while found:
            skip[count] = start + np.int64(trailing_zeros(found))
            count += 1
            found &= found - _ONE
    return count


@numba.njit(cache=True, nogil=True)
def _choose_fixed(key, real, count, marks, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw `count` of `real` ranks without replacement (Floyd; Bentley, CACM 30(9), 1987).

    A mark is a byte: to note a rank in its bit would wait for the one before in the same number.
    """
    counter = key
    top = np.uint64(real) - count
    for _ in range(count):
        counter += GOLDEN
        rank = _below(mix(counter), top + _ONE)
        marks[top if marks[rank] else rank] = 1
        top += _ONE
    for word in range(len(bits)):
        bits[word] = marked_bits(marks, WIDTH * word)
    marks[:] = 0


@numba.njit(cache=True, nogil=True)
def _choose_bernoulli(key, row, length, rule, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw each position by itself; a hash serves two, its upper half the first."""
    parts, mask_id = rule[0], np.int32(rule[3])
    for word in range((length + WIDTH - 1) // WIDTH):
        start = WIDTH * word
        places = min(WIDTH, length - start)
        counter = key + (_DRAW + np.uint64(start // 2)) * GOLDEN
        found = np.uint64(0)
        for pair in range((places + 1) // 2):
            draw = mix(counter)
            counter += GOLDEN
            both = np.uint64((draw >> _HIGH_32) < parts)
            both |= np.uint64((draw & _LOW_32) < parts) << _ONE
            found |= both << np.uint64(2 * pair)
        bits[word] = found & lowest(places) & ~special_bits(row, start, length, mask_id)


@numba.njit(cache=True, nogil=True)
def _find_words(row, length, mask_id, begins, words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """List the words of a row as start and stop: runs of ordinary tokens, cut where words begin."""
    count, start, after_special = _ZERO, _ZERO, _ONE
    is_open = False
    for first in range(0, length, WIDTH):
        specials = special_bits(row, first, length, mask_id)
        starts = begin_bits(begins, first, length) | (specials << _ONE) | after_special
        starts &= ~specials
        after_special = specials >> _WORD_BITS
        left = starts | specials
        left &= lowest(length - first)
        while left:
            at = np.uint64(first) + trailing_zeros(left)
            if is_open:
                words[count] = (start << _HIGH_32) | at
                count += _ONE
            is_open = bool(starts & left & (_ZERO - left))
            left &= left - _ONE
            start = at
    if is_open:
        words[count] = (start << _HIGH_32) | np.uint64(length)
        count += _ONE
    return count


@numba.njit(cache=True, nogil=True)
def _choose_words(key, words, found, left, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Go through the words in random order, taking each that fits into the labels left."""
    counter = key
    for draw in range(found):
        if left == 0:
            break
        counter += GOLDEN
        chosen = draw + _below(mix(counter), found - draw)
        word = words[chosen]
        words[chosen] = words[draw]
        start, stop = word >> _HIGH_32, word & _LOW_32
        if stop - start <= left:
            left -= stop - start
            for at in range(start, stop):
                _set(bits, at)


@numba.njit(cache=True, nogil=True)
def _choose_spans(key, given, left, lengths, bits, heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw spans of whole words until no label is left; `heads` notes where each begins.

    A draw that begins in a span is drawn again; one that reaches another, a special token or the
    last label is cut before it.
    """
    words, found = given
    counter = key
    for _ in range(_TRIES * left if found else _ZERO):
        counter += GOLDEN
        draw = mix(counter)
        word = _below(draw, found)
        head = end = words[word] >> _HIGH_32
        wanted = _ONE + np.uint64(np.searchsorted(lengths, draw & _LOW_32, side="right"))
        for at_word in range(word, min(word + wanted, found)):
            start, stop = words[at_word] >> _HIGH_32, words[at_word] & _LOW_32
            if start != end or stop - start > left or _has(bits, start):
                break
            left -= stop - start
            for at in range(start, stop):
                _set(bits, at)
                heads[at] = head
            end = stop
        if left == 0:
            break


@numba.njit(cache=True, nogil=True)
def _emit(key, bits, moved, rule, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write slots, labels and what the model sees, in the order of positions; return how many.

    `moved` is (skip, heads): bits are ranks among the positions that `skip` does not name, and the
    fate of a token is drawn at its head where there are any. Places are unsigned throughout, so
    that none is asked whether it counts from the end.
    """
    skip, heads = moved
    row, slots, labels = out
    leave, change, mask_id = rule[1], rule[2], np.int32(rule[3])
    ordinary = rule[3] - _FIRST
    used, passed, base = np.uint64(0), np.uint64(0), np.uint64(0)
    room = np.uint64(len(slots))
    special = np.uint64(skip[0])
    for word in range(len(bits)):
        left = bits[word]
        bits[word] = 0
        while left and used < room:
            at = base + trailing_zeros(left) + passed
            left &= left - _ONE
            while special <= at:
                passed += _ONE
                at += _ONE
                special = np.uint64(skip[passed])
            draw = mix(key + (_ACTION + at) * GOLDEN)
            fate = draw >> _HIGH_32
            if len(heads):
                fate = mix(key + (_ACTION + np.uint64(heads[at])) * GOLDEN) >> _HIGH_32
            truth = row[at]
            slots[used], labels[used] = at, truth
            used += _ONE
            random = np.int32(((draw & _LOW_32) * ordinary + _FIRST_SHIFTED) >> _HIGH_32)
            shown = random if fate < change else mask_id
            shown = truth if fate < leave else shown
            row[at] = shown
        base += _WIDTH
    return used


@numba.njit(cache=True, nogil=True)
def draw_masks(masking, rows, rule, lengths, out, ignored):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Mask rows in place.

    rows: (lengths, keys, word starts), the last only for words and spans; rule: (mask, leave,
    leave + random parts of 2^32, id of <mask>), uint64; lengths: thresholds of span lengths; out:
    (tokens that become inputs, slots, labels); unused slots get position 0 and label `ignored`.
    """
    inputs = out[0]
    reals, keys, begins = rows
    size = inputs.shape[1]
    mask_id = np.int32(rule[3])
    bits = np.zeros(size // WIDTH + 1, np.uint64)
    marks = np.zeros(WIDTH * len(bits) if masking == _FIXED else 0, np.uint8)
    skip, heads = np.empty(size + 1, np.int32), np.empty(size if masking == _SPAN else 0, np.int32)
    words = np.empty(size, np.uint64)  # start x 2^32 + stop
    for at in range(len(inputs)):
        row, key = inputs[at], keys[at]
        specials = 0
        if masking == _BERNOULLI:
            _choose_bernoulli(key, row, reals[at], rule, bits)
        else:
            specials = _find_specials(row, reals[at], mask_id, skip)
            real = reals[at] - specials
            count = (rule[0] * np.uint64(real) + (mix(key) & _LOW_32)) >> _HIGH_32
        if masking in (_WHOLE_WORD, _SPAN):
            found = _find_words(row, reals[at], mask_id, begins[at], words)
            if masking == _SPAN:
                _choose_spans(key, (words, found), count, lengths, bits, heads)
            else:
                _choose_words(key, words, found, count, bits)
            specials = 0
        elif masking != _BERNOULLI:
            _choose_fixed(key, real, count, marks, bits)
        skip[specials] = size  # no position is past it
        slots, labels = out[1][at], out[2][at]
        used = _emit(key, bits, (skip, heads), rule, (row, slots, labels))
        slots[used:], labels[used:] = 0, ignored

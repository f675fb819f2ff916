"""The draw of masks, a row at a time, compiled by numba: a hash a slot instead of one a token.

Every draw is splitmix64 at a counter of the row's key, so no state goes from row to row. A set of
positions is a string of bits. What each way of masking means is told in masking.py; a plain version
of all of them, which this one equals bit by bit, is tests/mask_reference.py.

Cost a row of 512 on one core of an AMD EPYC with AVX2 (benchmarks/masking.py, other work beside it,
2026-11): fixed 1.0 microseconds, Bernoulli 1.3, spans 3.6, whole words 4.4.
"""

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from corpus.tokenizer import UNK_ID
from pretrain.kernels import GOLDEN, mix

MASKINGS = ("fixed", "bernoulli", "whole-word", "span")
_BERNOULLI, _WHOLE_WORD, _SPAN = 1, 2, 3

# Counters of a row's hash: 0 rounds the number of labels, 1 + i is the i-th draw, and
# 2^16 + 1 + p decides what becomes of position p. A row is shorter than 2^16 tokens.
DRAW_COUNTER = 1
ACTION_COUNTER = 2**16 + 1
# Draws of spans that a row is given a label: enough where half the row is masked. A guess.
SPAN_TRIES = 8

_ONE, _WORD_BITS = np.uint64(1), np.uint64(63)
_LOW_32, _HIGH_32, _SIX = np.uint64(2**32 - 1), np.uint64(32), np.uint64(6)
_DRAW, _ACTION = np.uint64(DRAW_COUNTER), np.uint64(ACTION_COUNTER)
# The first entry that may be masked, or drawn at random.
_FIRST = np.uint64(UNK_ID + 1)
_FIRST_SHIFTED = _FIRST << _HIGH_32
_LAST_SPECIAL = np.uint32(UNK_ID)


def _code_trailing_zeros(typingctx: Any, value: Any) -> Any:  # noqa: ANN401
    """Count the zeros below the lowest bit that is set."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), codegen


_trailing_zeros: Any = intrinsic(_code_trailing_zeros)


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


@numba.njit(cache=True, nogil=True, inline="always")
def _is_special(token, mask_id):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return (np.uint32(token) <= _LAST_SPECIAL) | (token == mask_id)


@numba.njit(cache=True, nogil=True)
def _find_specials(row, length, mask_id, skip):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """List the positions that are never masked."""
    count = 0
    for start in range(0, length, 64):
        size = min(64, length - start)
        block = row[start : start + size]
        found = np.uint64(0)
        for at in range(size):
            found |= np.uint64(_is_special(block[at], mask_id)) << np.uint64(at)
        while found:
            skip[count] = start + np.int64(_trailing_zeros(found))
            count += 1
            found &= found - _ONE
    return count


@numba.njit(cache=True, nogil=True)
def _choose_fixed(key, real, count, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw `count` of `real` ranks without replacement (Floyd; Bentley, CACM 30(9), 1987)."""
    counter = key
    for draw in range(count):
        top = np.uint64(real - count + draw)
        counter += GOLDEN
        rank = _below(mix(counter), top + _ONE)
        _set(bits, top if _has(bits, rank) else rank)


@numba.njit(cache=True, nogil=True)
def _choose_bernoulli(key, row, length, rule, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw each position by itself; a hash serves two, its upper half the first."""
    parts, mask_id, last = rule[0], np.int32(rule[3]), len(row) - 1
    for word in range((length + 63) // 64):
        found = np.uint64(0)
        for pair in range(32 * word, min(32 * word + 32, (length + 1) // 2)):
            draw = mix(key + (_DRAW + np.uint64(pair)) * GOLDEN)
            first, second = 2 * pair, min(2 * pair + 1, last)
            hit = ((draw >> _HIGH_32) < parts) & ~_is_special(row[first], mask_id)
            next_hit = ((draw & _LOW_32) < parts) & ~_is_special(row[second], mask_id)
            next_hit &= 2 * pair + 1 < length
            both = np.uint64(hit) | (np.uint64(next_hit) << _ONE)
            found |= both << np.uint64(first & 63)
        bits[word] = found


@numba.njit(cache=True, nogil=True)
def _find_words(row, length, mask_id, begins, words):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """List the words of a row as (start, stop): runs of ordinary tokens, cut where words begin."""
    count, inside = 0, False
    for at in range(length):
        if _is_special(row[at], mask_id):
            inside = False
            continue
        if begins[at] or not inside:
            words[0, count] = at
            count += 1
            inside = True
        words[1, count - 1] = at + 1
    return count


@numba.njit(cache=True, nogil=True)
def _choose_words(key, words, found, left, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Go through the words in random order, taking each that fits into the labels left."""
    counter = key
    for draw in range(found):
        if left == 0:
            break
        counter += GOLDEN
        chosen = draw + np.int64(_below(mix(counter), found - draw))
        start, stop = words[0, chosen], words[1, chosen]
        words[:, chosen] = words[:, draw]
        if stop - start <= left:
            left -= stop - start
            for at in range(start, stop):
                _set(bits, np.uint64(at))


@numba.njit(cache=True, nogil=True)
def _choose_spans(key, given, left, lengths, bits, heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw spans of whole words until no label is left; `heads` notes where each begins.

    A draw that begins in a span is drawn again; one that reaches another, a special token or the
    last label is cut before it.
    """
    words, found = given
    counter = key
    for _ in range(SPAN_TRIES * left if found else 0):
        counter += GOLDEN
        draw = mix(counter)
        word = np.int64(_below(draw, found))
        head = words[0, word]
        wanted = 1 + np.searchsorted(lengths, draw & _LOW_32, side="right")
        for at_word in range(word, min(word + wanted, found)):
            start, stop = words[0, at_word], words[1, at_word]
            apart = at_word > word and start != words[1, at_word - 1]
            if apart or stop - start > left or _has(bits, np.uint64(start)):
                break
            left -= stop - start
            for at in range(start, stop):
                _set(bits, np.uint64(at))
                heads[at] = head
        if left == 0:
            break


@numba.njit(cache=True, nogil=True)
def _emit(key, bits, moved, rule, row, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write slots, labels and what the model sees, in the order of positions; return how many.

    `moved` is (skip, heads): bits are ranks among the positions that `skip` does not name, and the
    fate of a token is drawn at its head where there are any.
    """
    skip, heads = moved
    inputs, slots, labels = out
    leave, change, mask_id = rule[1], rule[2], np.int32(rule[3])
    ordinary = rule[3] - _FIRST
    used, passed, room = 0, 0, slots.shape[1]
    special = skip[0]
    for word in range(len(bits)):
        left = bits[word]
        bits[word] = 0
        while left and used < room:
            at = 64 * word + np.int64(_trailing_zeros(left)) + passed
            left &= left - _ONE
            while special <= at:
                passed += 1
                at += 1
                special = skip[passed]
            draw = mix(key + (_ACTION + np.uint64(at)) * GOLDEN)
            fate = draw >> _HIGH_32
            if len(heads):
                fate = mix(key + (_ACTION + np.uint64(heads[at])) * GOLDEN) >> _HIGH_32
            truth = inputs[row, at]
            slots[row, used], labels[row, used] = at, truth
            used += 1
            random = np.int32(((draw & _LOW_32) * ordinary + _FIRST_SHIFTED) >> _HIGH_32)
            shown = random if fate < change else mask_id
            shown = truth if fate < leave else shown
            inputs[row, at] = shown
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
    bits = np.zeros(size // 64 + 1, np.uint64)
    skip, heads = np.empty(size + 1, np.int32), np.empty(size if masking == _SPAN else 0, np.int32)
    words = np.empty((2, size), np.int64)
    for at in range(len(inputs)):
        row, key = inputs[at], keys[at]
        specials = 0
        if masking == _BERNOULLI:
            _choose_bernoulli(key, row, reals[at], rule, bits)
        else:
            specials = _find_specials(row, reals[at], mask_id, skip)
            real = reals[at] - specials
            count = np.int64((rule[0] * np.uint64(real) + (mix(key) & _LOW_32)) >> _HIGH_32)
        if masking in (_WHOLE_WORD, _SPAN):
            found = _find_words(row, reals[at], mask_id, begins[at], words)
            if masking == _SPAN:
                _choose_spans(key, (words, found), count, lengths, bits, heads)
            else:
                _choose_words(key, words, found, count, bits)
            specials = 0
        elif masking != _BERNOULLI:
            _choose_fixed(key, real, count, bits)
        skip[specials] = size  # no position is past it
        used = _emit(key, bits, (skip, heads), rule, at, out)
        for slot in range(used, out[1].shape[1]):
            out[1][at, slot], out[2][at, slot] = 0, ignored

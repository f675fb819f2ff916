"""Partners: the two halves of a row in the pair formats, and whether one follows the other.

SEGMENT-PAIR and SENTENCE-PAIR of the RoBERTa paper (arXiv 1907.11692, section 4.2): a row is
`<s> A </s></s> B </s>`, and in half of the rows B is what follows A in its document, in the other
half it comes from another one. The paper draws the other half anew; here nothing may be lost or
doubled, so partners are exchanged. A document is cut into units (sentences; or runs of whole
sentences of at most half a row), its units are taken by twos, and of the couples as many exchange
their second halves as makes half of the rows random. Which couples, and with whom, is drawn by a
counter-based hash, so a shard is a pure function of its documents.

The couples that exchange are sorted by document and their second halves shifted by at least as many
places as any document has couples: then no A meets its own document. A unit without a neighbour
(the last of an odd number; one beside a long one) takes one of another document, longer ones than
half a row stand alone, as does one that is left over. Only a sentence longer than a row is split.
Rows of single sentences are short: choose a sequence length for them.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.kernels import GOLDEN, Int64s, UInt8s, UInt64s

# The values of a row's next_sentence.
OTHER, NEXT, ALONE = 0, 1, 2

# What each draw is for, in the counter-based hash.
_WHICH, _ORDER, _SHIFT = 1, 2, 3


def lay_pairs(
    sentences: Int64s, documents: Int64s, segments: bool, sequence_length: int
) -> tuple[Int64s, Int64s, Int64s, Int64s, UInt8s]:
    """Pair the sentences, or segments, of documents.

    sentences: [n + 1] token offsets; documents: [m + 1] sentence offsets. Returns the row, the
    first and the last token offset and the document of every piece, and next_sentence of the rows.
    """
    room = sequence_length - 4
    bounds, homes = _split_long(sentences, documents, sequence_length - 2)
    if segments:
        bounds, homes = _join_short(bounds, homes, room // 2)
    first, second, label = _choose(np.diff(bounds), homes, room)
    order = np.argsort(first, kind="stable")
    first, second, label = first[order], second[order], label[order]
    units = np.stack([first, second], 1).reshape(-1)
    rows = np.repeat(np.arange(len(first)), 2)
    there = units >= 0
    units, rows = units[there], rows[there]
    return rows, bounds[units], bounds[units + 1], homes[units], label.astype(np.uint8)


def _split_long(sentences: Int64s, documents: Int64s, limit: int) -> tuple[Int64s, Int64s]:
    """Split sentences longer than a row; return [n + 1] bounds and the document of each."""
    lengths = np.diff(sentences)
    counts = -(-lengths // limit)
    homes = np.repeat(np.arange(len(documents) - 1), np.diff(documents))
    sources = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(sources)) - (np.cumsum(counts) - counts)[sources]
    starts = sentences[sources] + within * limit
    return np.concatenate([starts, sentences[-1:]]), homes[sources]


def _join_short(bounds: Int64s, homes: Int64s, limit: int) -> tuple[Int64s, Int64s]:
    """Join neighbours of a document into runs of at most `limit` tokens, or of one sentence."""
    opens = np.zeros(len(homes), np.bool_)
    _open_runs(bounds, homes, limit, opens)
    starts = np.flatnonzero(opens)
    return np.concatenate([bounds[starts], bounds[-1:]]), homes[starts]


@numba.njit(cache=True)
def _open_runs(bounds, homes, limit, opens):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    start = 0
    for unit in range(len(homes)):
        fits = bounds[unit + 1] - bounds[start] <= limit
        if unit == 0 or homes[unit] != homes[start] or not fits:
            opens[unit] = True
            start = unit


def _choose(lengths: Int64s, homes: Int64s, room: int) -> tuple[Int64s, Int64s, Int64s]:
    """Choose the halves of every row, -1 where there is no second one, and their labels."""
    coupled = np.zeros(len(lengths), np.bool_)
    taken = np.zeros(len(lengths), np.bool_)
    _couple(lengths, homes, room, coupled, taken)
    couples, singles = np.flatnonzero(coupled), np.flatnonzero(~taken)
    short = lengths <= room // 2
    met, partners, left = _pair_singles(singles[short[singles]], homes)
    alone = np.concatenate([left, singles[~short[singles]]])
    wanted = max(0, (len(couples) - len(met)) // 2)
    exchanged = _draw(couples[short[couples] & short[couples + 1]], homes, wanted)
    kept = couples[~np.isin(couples, exchanged)]
    rows = [
        (exchanged, _exchange(exchanged, homes), OTHER),
        (met, partners, OTHER),
        (kept, kept + 1, NEXT),
        (alone, np.full(len(alone), -1), ALONE),
    ]
    return (
        np.concatenate([first for first, _, _ in rows]),
        np.concatenate([second for _, second, _ in rows]),
        np.concatenate([np.full(len(first), label) for first, _, label in rows]),
    )


@numba.njit(cache=True)
def _couple(lengths, homes, room, coupled, taken):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take neighbours of a document by twos where both fit into a row."""
    unit = 0
    while unit + 1 < len(lengths):
        fits = lengths[unit] + lengths[unit + 1] <= room
        if homes[unit] == homes[unit + 1] and fits:
            coupled[unit] = taken[unit] = taken[unit + 1] = True
            unit += 1
        unit += 1


def _pair_singles(singles: Int64s, homes: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Pair units of different documents: the first half with the second; return who is left."""
    half = len(singles) // 2
    first, second = singles[:half], singles[half : 2 * half]
    differ = homes[first] != homes[second]
    left = np.concatenate([first[~differ], second[~differ], singles[2 * half :]])
    return first[differ], second[differ], left


def _draw(couples: Int64s, homes: Int64s, wanted: int) -> Int64s:
    """Draw the couples that exchange, of no document more than half of them."""
    hashes = _hash(_WHICH, couples)
    chosen = couples[np.argsort(hashes, kind="stable")[:wanted]]
    counts = np.bincount(homes[chosen])
    others = len(chosen) - int(counts.max(initial=0))
    if others < len(chosen) - others:
        of_largest = np.flatnonzero(homes[chosen] == counts.argmax())
        chosen = np.delete(chosen, of_largest[others:])
    return np.sort(chosen)


def _exchange(couples: Int64s, homes: Int64s) -> Int64s:
    """Return the second half for the first of every couple, of another document."""
    if not len(couples):
        return couples
    documents = homes[couples]
    shuffled = couples[np.lexsort((_hash(_ORDER, couples), documents))] + 1
    most = int(np.bincount(documents).max())
    choices = np.uint64(len(couples) - 2 * most + 1)
    shift = most + int(_hash(_SHIFT, np.array([len(couples)]))[0] % choices)
    return np.roll(shuffled, -shift)


def _hash(purpose: int, counters: npt.NDArray[Any]) -> UInt64s:
    """Hash counters by splitmix64 (Steele, Lea and Flood 2014), a stream for each purpose."""
    value = (counters.astype(np.uint64) * np.uint64(4) + np.uint64(purpose)) * np.uint64(GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))

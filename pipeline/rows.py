"""Rows: what a shard says of its documents, read back from its rows in any format.

Every format holds each token of a document once, in pieces; sorted by their places the pieces are
the document again. That, and that nothing but the format's separators stands between pieces, is
what audit rests on. One pass over the shard, in arrays.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from corpus.shards import REORDERED, Pieces, Shard, separators
from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from pipeline.index import Int64s

# Pieces whose rows are read together: some MB. Guess.
_PIECES_AT_A_TIME = 4096


def document_rows(shard: Shard) -> list[list[tuple[int, int]]]:
    """Return the rows that hold each document of a shard, as runs from a first to a last row."""
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    pieces = shard.pieces()
    for row, document in zip(pieces.rows.tolist(), pieces.documents.tolist(), strict=True):
        mine = runs[document]
        if mine and row <= mine[-1][1] + 1:
            mine[-1] = mine[-1][0], row
        else:
            mine.append((row, row))
    return [runs[document] for document in sorted(runs)]


def row_texts(shard: Shard, row: int, tokenizer: Tokenizer) -> Iterator[tuple[int, str]]:
    """Decode the pieces of a row, each with the number of its document."""
    pieces = shard.pieces_of(row)
    (ids,) = shard.token_ids([row])
    for document, start, stop in zip(*pieces[:3], strict=True):
        yield int(document), tokenizer.decode(ids[start:stop].tolist())


def document_tokens(shard: Shard) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Give the token ids and word starts of every document of a shard, in packing order."""
    pieces = shard.pieces()
    order = np.lexsort((pieces.offsets, pieces.documents))
    bounds = np.flatnonzero(np.diff(pieces.documents[order], prepend=-1, append=-1))
    first = 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + _PIECES_AT_A_TIME, side="right")) - 1
        last = max(last, first + 1)
        mine = order[bounds[first] : bounds[last]]
        rows, at = np.unique(pieces.rows[mine], return_inverse=True)
        held = shard.token_ids(rows), shard.word_starts(rows)
        spans = list(zip(at.tolist(), pieces.starts[mine], pieces.stops[mine], strict=True))
        for low, high in pairwise((bounds[first : last + 1] - bounds[first]).tolist()):
            ids, words = (np.concatenate([e[n, a:b] for n, a, b in spans[low:high]]) for e in held)
            yield ids, words
        first = last


def find_broken_rows(shard: Shard, mask_id: int) -> Iterator[str]:
    """Name the rows that are not as their format has them."""
    pieces = shard.pieces()
    for row in np.flatnonzero(~_framed(shard, pieces)):
        yield f"row {row} is not <s> ... </s> and padding"
    for row in np.union1d(_wrongly_parted(shard, pieces), _rows_with(shard, mask_id)):
        yield f"row {row} has a special token inside a document"


def _framed(shard: Shard, pieces: Pieces) -> npt.NDArray[np.bool_]:
    """Tell of every row whether it is `<s>`, text to the last `</s>`, and padding."""
    firsts = np.full(shard.rows, -1, np.int64)
    lasts = np.full(shard.rows, -1, np.int64)
    firsts[pieces.rows[::-1]] = pieces.starts[::-1]
    lasts[pieces.rows] = pieces.stops
    framed: npt.NDArray[np.bool_] = (firsts == 1) & (lasts == shard.lengths - 1)
    for low, ids in _blocks(shard):
        within = np.arange(ids.shape[1]) < shard.lengths[low : low + len(ids), None]
        ends = np.clip(shard.lengths[low : low + len(ids)] - 1, 0, ids.shape[1] - 1)
        closed = (ids[:, 0] == BOS_ID) & (ids[np.arange(len(ids)), ends] == EOS_ID)
        framed[low : low + len(ids)] &= closed & (within | (ids == PAD_ID)).all(axis=1)
    return framed


def _wrongly_parted(shard: Shard, pieces: Pieces) -> Int64s:
    """Return the rows in which something else than the format's separator stands between pieces.

    Where rows are in the order of the text, two pieces of a row are also of two documents.
    """
    wanted = np.array(separators(shard.packing))
    beside = np.flatnonzero(pieces.rows[1:] == pieces.rows[:-1])
    rows: Int64s = pieces.rows[beside]
    gaps = pieces.starts[beside + 1] - pieces.stops[beside]
    wrong = gaps != len(wanted)
    if shard.packing not in REORDERED:
        wrong |= pieces.documents[beside + 1] == pieces.documents[beside]
    for low, ids in _blocks(shard):
        first, last = np.searchsorted(rows, [low, low + len(ids)])
        places = pieces.stops[beside[first:last]][:, None] + np.arange(len(wanted))
        found = ids[rows[first:last, None] - low, np.minimum(places, ids.shape[1] - 1)]
        wrong[first:last] |= (found != wanted).any(axis=1)
    return np.asarray(rows[wrong])


def _rows_with(shard: Shard, token: int) -> Int64s:
    found = [low + np.flatnonzero((ids == token).any(axis=1)) for low, ids in _blocks(shard)]
    return np.concatenate([np.empty(0, np.int64), *found])


def _blocks(shard: Shard) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
    """Give the token ids of a batch of rows after another, with the first row's number."""
    low = 0
    for batch in shard.batches:
        yield low, shard.token_ids(np.arange(low, low + batch.num_rows))
        low += batch.num_rows

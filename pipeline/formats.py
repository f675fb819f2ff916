"""Formats: which tokens lie in which row.

The four input formats of the RoBERTa paper (arXiv 1907.11692, section 4.2), whole blocks and whole
documents. A format is a layout: pieces of documents, in the order in which rows hold them. One
writer turns a layout into rows.

    full-sentences  `<s> A </s> B </s>`        contiguous whole sentences, across documents
    doc-sentences   `<s> A </s><s> B </s>`     the same, each document a sequence of its own
    stream          `<s> A </s> B </s>`        contiguous tokens, across documents and sentences
    best-fit        `<s> A </s><s> B </s>`     whole documents, the fullest row that has room
    segment-pair    `<s> A </s></s> B </s>`    two runs of sentences (partners.py)
    sentence-pair   `<s> A </s></s> B </s>`    two sentences (partners.py)

In the paper a row of DOC-SENTENCES holds one document and batches grow where rows are short. Here a
row carries several, each as its own `<s> ... </s>`, so that a batch has as many tokens as any
other; attention is kept within them by where `<s>` stands. Rows in the order of the text are as few
as whole sentences allow: closing a row only where the next sentence does not fit is optimal.

Best fit goes by decreasing length (Johnson 1973) within a shard, and only a document longer than a
row is split: Ding et al. 2024, "Fewer Truncations Improve Language Modeling". It takes a search
tree over the room that rows have left, so its cost is n log(sequence length). What stays open then
is filled from documents that are split anyhow, as far as there are any.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from corpus.shards import (
    PAIRED,
    REORDERED,
    ROWS_PER_BATCH,
    Provenance,
    Sequences,
    TokenIds,
    separators,
)
from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID
from pipeline.kernels import Int64s
from pipeline.partners import lay_pairs

Bools = npt.NDArray[np.bool_]

_NO_OPENER = PAD_ID  # what never opens anything
_NO_LABELS = np.empty(0, np.uint8)
# A hole of at least this part of a row is worth a fragment of a long document. A guess: web pages
# fill 99.9 % of rows of 512 with it, 99.3 % without; smaller ones would make more fragments.
_FRAGMENTS = 16


class Documents(NamedTuple):
    """Documents in the order of packing.

    token_ids and word_starts: all tokens; sentences: [n + 1] token offsets of the sentences;
    documents: [m + 1] sentence offsets of the documents.
    """

    token_ids: TokenIds
    word_starts: Bools
    sentences: Int64s
    documents: Int64s

    @property
    def bounds(self) -> Int64s:
        """Token offsets of the documents: [m + 1]."""
        return self.sentences[self.documents]


class Layout(NamedTuple):
    """Pieces of documents in the order in which rows hold them.

    rows: ascending, none left out; starts and stops: token offsets; documents: their numbers;
    next_sentence: [rows] for pairs, else empty.
    """

    rows: Int64s
    starts: Int64s
    stops: Int64s
    documents: Int64s
    next_sentence: npt.NDArray[np.uint8]

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return int(self.rows[-1]) + 1 if len(self.rows) else 0


def lay_documents(documents: Documents, packing: str, sequence_length: int) -> Layout:
    """Lay documents into rows of a format.

    Length 8, full-sentences, documents [[a b] [c d e]] and [[f]] -> `<s> a b c d e </s> <pad>`,
    `<s> f </s> <pad> ...`: the separator and f would need two more places than there are.
    """
    if packing in PAIRED:
        segments = packing == "segment-pair"
        pairs = lay_pairs(documents.sentences, documents.documents, segments, sequence_length)
        return Layout(*pairs)
    if packing == "best-fit":
        return _lay_best_fit(documents, sequence_length)
    return _lay_in_order(documents, packing, sequence_length)


def write_rows(
    documents: Documents, layout: Layout, packing: str, sequence_length: int
) -> Iterator[Sequences]:
    """Give the rows of a layout in blocks, so that memory does not grow with their padding."""
    bounds = documents.bounds
    numbers = np.cumsum(np.diff(bounds) > 0) - 1  # empty documents leave no trace
    given = documents.token_ids, documents.word_starts
    # What stands between the `</s>` of one piece and the next piece of a row, where anything does.
    opener = (*separators(packing), _NO_OPENER)[1]
    for low in range(0, layout.row_count, ROWS_PER_BATCH):
        high = min(low + ROWS_PER_BATCH, layout.row_count)
        first, last = np.searchsorted(layout.rows, [low, high])
        rows, starts, stops, homes = (column[first:last] for column in layout[:4])
        ids = np.empty((high - low, sequence_length), documents.token_ids.dtype)
        words = np.zeros(ids.shape, np.bool_)
        places, lengths = np.empty(len(rows), np.int64), np.zeros(len(ids), np.int32)
        _write_block(given, (rows - low, starts, stops), (ids, words, places, lengths), opener)
        within = starts - bounds[homes]
        begins = within == 0
        labels = provenance = None
        if packing in PAIRED:
            labels = layout.next_sentence[low:high]
        if packing in REORDERED:
            pieces = numbers[homes].astype(np.uint32), within.astype(np.uint32)
            provenance = Provenance(_offsets(rows - low, len(ids)), *pieces)
        document_starts = places[begins].astype(np.uint16)
        offsets = _offsets(rows[begins] - low, len(ids))
        yield Sequences(ids, lengths, words, document_starts, offsets, labels, provenance)


def _offsets(rows: Int64s, count: int) -> npt.NDArray[np.int32]:
    """Return where each row's entries begin among entries sorted by row: [count + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int32)


@numba.njit(cache=True)
def _write_block(given, layout, out, opener):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    token_ids, word_starts = given
    rows, starts, stops = layout
    ids, words, places, lengths = out
    for piece in range(len(rows)):
        row = rows[piece]
        at = lengths[row]
        if at == 0:
            ids[row, 0] = BOS_ID
            at = 1
        elif opener != _NO_OPENER:
            ids[row, at] = opener
            at += 1
        places[piece] = at
        size = stops[piece] - starts[piece]
        ids[row, at : at + size] = token_ids[starts[piece] : stops[piece]]
        words[row, at : at + size] = word_starts[starts[piece] : stops[piece]]
        ids[row, at + size] = EOS_ID
        lengths[row] = at + size + 1
    for row in range(len(lengths)):
        ids[row, lengths[row] :] = PAD_ID


def _lay_in_order(documents: Documents, packing: str, sequence_length: int) -> Layout:
    """Lay full-sentences, doc-sentences and stream: the order of the rows is that of the text."""
    keep = packing != "stream"
    sentences = documents.sentences if keep else documents.bounds
    ends = documents.documents if keep else np.arange(len(documents.documents))
    joint = len(separators(packing))
    # A row is closed only before a sentence that does not fit, so two neighbouring rows together
    # hold more than one row's places; a document adds at most one joint and one piece.
    count = len(documents.documents)
    most = 2 * (len(documents.token_ids) + joint * count) // (sequence_length - 2) + 2 + count
    out = np.empty((4, most), np.int64)
    used = _fill_rows(sentences, ends, (sequence_length, joint, keep), out)
    rows, starts, stops, numbers = out[:, :used]
    return Layout(rows, starts, stops, numbers, _NO_LABELS)


@numba.njit(cache=True)
def _fill_rows(sentences, document_ends, form, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    size, joint, keep = form
    limit = size - 1  # the last place is for </s>
    row, at, used = 0, 0, 0  # at: the next free place of the row; 0 where it is not open
    for document in range(len(document_ends) - 1):
        fresh = True
        for sentence in range(document_ends[document], document_ends[document + 1]):
            start, stop = sentences[sentence], sentences[sentence + 1]
            while start < stop:
                joined = joint if fresh and at > 0 else 0
                room = limit - at - joined
                whole = keep and stop - start <= limit - 1
                if at > 0 and (room < stop - start if whole else room < 1):
                    row, at = row + 1, 0
                    continue
                if at == 0 or fresh:
                    at = at + joined if at > 0 else 1
                    out[0, used], out[1, used], out[3, used] = row, start, document
                    used += 1
                    fresh = False
                taken = min(stop - start, limit - at)
                at += taken
                start += taken
                out[2, used - 1] = start
    return used


def _lay_best_fit(documents: Documents, sequence_length: int) -> Layout:
    """Lay whole documents, the longest first, each into the fullest row that has room for it."""
    bounds, room = documents.bounds, sequence_length - 2
    counts = -(-np.diff(bounds) // room)
    numbers = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    starts = bounds[numbers] + (np.arange(len(numbers)) - firsts[numbers]) * room
    stops = np.minimum(starts + room, bounds[numbers + 1])
    longest_first = np.argsort(starts - stops, kind="stable")
    homes = np.empty(len(starts), np.int64)
    _fit(stops - starts + 2, longest_first, sequence_length, homes)
    blocks = np.flatnonzero((counts[numbers] > 1) & (stops - starts == room))
    pieces = _spread_blocks(np.stack([homes, starts, stops, numbers]), blocks, sequence_length)
    # Rows in the order of their first pieces, pieces in the order of the text.
    homes, starts, stops, numbers = pieces[:, np.argsort(pieces[1], kind="stable")]
    _, first = np.unique(homes, return_index=True)
    rank = np.zeros(int(homes.max(initial=-1)) + 1, np.int64)
    rank[homes[np.sort(first)]] = np.arange(len(first))
    rows = rank[homes]
    order = np.argsort(rows, kind="stable")
    return Layout(rows[order], starts[order], stops[order], numbers[order], _NO_LABELS)


def _spread_blocks(pieces: Int64s, blocks: Int64s, sequence_length: int) -> Int64s:
    """Fill the places that rows have left from whole rows of documents that are split anyhow."""
    left = sequence_length - 2 - np.bincount(pieces[0], pieces[2] - pieces[1] + 2).astype(np.int64)
    least = max(1, sequence_length // _FRAGMENTS)
    holes = np.flatnonzero(left >= least)
    holes = holes[np.argsort(-left[holes], kind="stable")]
    out = np.empty((4, len(holes) + 2 * len(blocks)), np.int64)
    spread, used = _fill_holes(pieces[:, blocks], holes, left[holes], least, out)
    return np.concatenate([np.delete(pieces, blocks[:spread], axis=1), out[:, :used]], axis=1)


@numba.njit(cache=True)
def _fill_holes(blocks, holes, left, least, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Cut blocks into the holes, the largest first, while holes not begun hold all of the next."""
    unbegun, room, hole, used = left.sum(), 0, -1, 0
    for block in range(blocks.shape[1]):
        start, stop = blocks[1, block], blocks[2, block]
        if unbegun < stop - start:
            return block, used
        while start < stop:
            if room < least and room < stop - start:
                hole += 1
                room = left[hole]
                unbegun -= room
            taken = min(stop - start, room)
            if 0 < stop - start - taken < least:  # too short a rest: leave more, if half at most
                taken = max(stop - start - least, (stop - start + 1) // 2)
            out[0, used], out[1, used] = holes[hole], start
            out[2, used], out[3, used] = start + taken, blocks[3, block]
            used += 1
            start += taken
            room -= taken + 2
    return blocks.shape[1], used


@numba.njit(cache=True)
def _fit(sizes, order, sequence_length, homes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Find a row for every piece; `sizes` count a piece's own `<s>` and `</s>`."""
    leaves = 1
    while leaves <= sequence_length:
        leaves *= 2
    # open_rows[leaves + r] counts the rows with r places left, each inner node its leaves.
    open_rows = np.zeros(2 * leaves, np.int64)
    newest = np.full(sequence_length + 1, -1, np.int64)  # by places left; `below` goes on from it
    below = np.empty(len(sizes), np.int64)
    rows = 0
    for piece in order:
        left = _least_room(open_rows, leaves, sizes[piece])
        if left < 0:
            left, row = sequence_length, rows
            rows += 1
        else:
            row = newest[left]
            newest[left] = below[row]
            _count(open_rows, leaves + left, -1)
        homes[piece] = row
        left -= sizes[piece]
        below[row] = newest[left]
        newest[left] = row
        _count(open_rows, leaves + left, 1)


@numba.njit(cache=True)
def _count(tree, node, change):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    while node > 0:
        tree[node] += change
        node //= 2


@numba.njit(cache=True)
def _least_room(tree, leaves, wanted):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the least room of at least `wanted` that a row has left, or -1."""
    node = leaves + wanted
    while tree[node] == 0:
        while node % 2 == 1:  # a right child: what is larger lies above
            node //= 2
        if node == 0:
            return -1
        node += 1
    while node < leaves:
        node = 2 * node if tree[2 * node] else 2 * node + 1
    return node - leaves

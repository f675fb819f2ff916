"""Each token lies in one row; rows are what the format promises, and as few as it allows."""

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from format_helpers import (
    BOS,
    EOS,
    FORMATS,
    PAD,
    SENTENCES,
    SIZES,
    gather_documents,
    lay_out,
    pack_documents,
    reopen,
    rows_of,
    starts_of,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.shards import PAIRED, REORDERED, ROWS_PER_BATCH, SEPARATE
from pipeline import formats, partners
from pipeline.formats import lay_documents, write_rows

# Sentence lengths of documents, a row of 8 places, and where documents begin.
HAND_CASES = [
    ("full-sentences", [
        # The docstring's example: separator and f would need two more places.
        ([[2, 3], [1]], ["<abcde>.", "<f>....."], [[1], [1]]),
        # Documents cross with a separator between them.
        ([[2], [2]], ["<ab>cd>."], [[1, 4]]),
        ([[2], [3], [1]], ["<ab>cde>", "<f>....."], [[1, 4], [1]]),
        ([[1], [1], [1]], ["<a>b>c>."], [[1, 3, 5]]),
        # A sentence that fills a row exactly, alone and with others.
        ([[6]], ["<abcdef>"], [[1]]),
        ([[6], [6]], ["<abcdef>", "<ghijkl>"], [[1], [1]]),
        ([[2, 4], [1]], ["<abcdef>", "<g>....."], [[1], [1]]),
        # What does not fit opens the next row, even where most of it would fit.
        ([[3, 4]], ["<abc>...", "<defg>.."], [[1], []]),
        # Only a sentence longer than a row is split; it fills rows and its tail stays open.
        ([[7]], ["<abcdef>", "<g>....."], [[1], []]),
        ([[2, 8]], ["<abcdef>", "<ghij>.."], [[1], []]),
        ([[15], [1]], ["<abcdef>", "<ghijkl>", "<mno>p>."], [[1], [], [5]]),
        ([[3], [7]], ["<abc>de>", "<fghij>."], [[1, 5], []]),
        # No place for the separator and one token: the next document opens a row.
        ([[5], [7]], ["<abcde>.", "<fghijk>", "<l>....."], [[1], [1], []]),
        ([[4], [7]], ["<abcd>e>", "<fghijk>"], [[1, 6], []]),
        # Documents of one token, and without one.
        ([[1]], ["<a>....."], [[1]]),
        ([[], [1], [0], [1]], ["<a>b>..."], [[1, 3]]),
    ]),
    ("doc-sentences", [
        ([[2], [2]], ["<ab><cd>"], [[1, 5]]),
        ([[2], [3]], ["<ab>....", "<cde>..."], [[1], [1]]),
        ([[2, 2], [1, 1]], ["<abcd>..", "<ef>...."], [[1], [1]]),
        ([[1], [1], [1]], ["<a><b>..", "<c>....."], [[1, 4], [1]]),
        ([[3, 4], [1]], ["<abc>...", "<defg>..", "<h>....."], [[1], [], [1]]),
        ([[7], [1]], ["<abcdef>", "<g><h>.."], [[1], [4]]),
        ([[2], [7]], ["<ab><cd>", "<efghi>."], [[1, 5], []]),
    ]),
    ("stream", [
        ([[3, 4]], ["<abcdef>", "<g>....."], [[1], []]),
        ([[2], [2]], ["<ab>cd>."], [[1, 4]]),
        ([[3], [3, 4]], ["<abc>de>", "<fghij>."], [[1, 5], []]),
        ([[2, 2], [2]], ["<abcd>e>", "<f>....."], [[1, 6], []]),
        ([[5], [2]], ["<abcde>.", "<fg>...."], [[1], [1]]),
        ([[20]], ["<abcdef>", "<ghijkl>", "<mnopqr>", "<st>...."], [[1], [], [], []]),
    ]),
    ("best-fit", [
        # The longest first, then the second; the third goes where less is left over.
        ([[2], [4], [1]], ["<ab><g>.", "<cdef>.."], [[1, 5], [1]]),
        ([[2], [3, 3], [1, 1]], ["<ab><ij>", "<cdefgh>"], [[1, 5], [1]]),
        # Only a document longer than a row is split.
        ([[3], [3], [3]], ["<abc>...", "<def>...", "<ghi>..."], [[1], [1], [1]]),
        ([[7], [1]], ["<abcdef>", "<g><h>.."], [[1], [4]]),
        ([[1], [8]], ["<a><hi>.", "<bcdefg>"], [[1], [1]]),
        # Holes that together hold a whole row of such a document are filled with it.
        ([[3], [3], [3], [3], [3], [3], [12]],
         ["<abc><s>", "<def><t>", "<ghi><u>", "<jkl><v>", "<mno><w>", "<pqr><x>", "<yzABCD>"],
         [[1, 6], [1], [1], [1], [1], [1], []]),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("packing", "lengths", "rows", "starts"),
    [(packing, *case) for packing, cases in HAND_CASES for case in cases],
)
def test_rows_by_hand(
    packing: str, lengths: list[list[int]], rows: list[str], starts: list[list[int]]
) -> None:
    sequences = pack_documents(lay_out(lengths), packing, 8)
    assert rows_of(sequences) == rows
    assert starts_of(sequences) == starts
    assert sequences.lengths.tolist() == [len(row.rstrip(".")) for row in rows]


@pytest.mark.parametrize("packing", FORMATS)
def test_nothing_gives_no_rows(packing: str) -> None:
    cases: tuple[list[list[int]], ...] = ([], [[]], [[0], [0, 0]])
    for lengths in cases:
        shard = reopen(lay_out(lengths), packing, 8)
        assert shard.rows == 0
        assert [len(column) for column in shard.pieces()] == [0] * 5
        if packing in PAIRED:
            assert len(shard.next_sentence) == 0


LENGTHS = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=6), min_size=1, max_size=12)


def reference_rows(lengths: Sequence[Sequence[int]], size: int) -> list[list[tuple[int, int]]]:
    """Lay sentences greedily, written for reading: rows of (document, tokens)."""
    rows: list[list[tuple[int, int]]] = []
    room = 0
    for document, sentences in enumerate(lengths):
        for sentence in sentences:
            left = sentence
            while left:
                separator = int(bool(rows) and rows[-1][-1][0] != document)
                fits = sentence if sentence <= size - 2 else 1
                if not rows or room < separator + min(left, fits):
                    rows.append([])
                    room, separator = size - 2, 0
                taken = min(left, room - separator)
                rows[-1].append((document, taken))
                room -= taken + separator
                left -= taken
    return rows


@settings(max_examples=80)
@given(LENGTHS, st.integers(8, 14))
@example([[6, 7], [1], [13], [1, 1]], 8)
def test_packing_is_the_greedy_reference(lengths: list[list[int]], size: int) -> None:
    documents = lay_out(lengths)
    sequences = pack_documents(documents, "full-sentences", size)
    rows = reference_rows(lengths, size)
    at = begun = 0
    for row, expected in enumerate(rows):
        ids = [BOS]
        words = [False]
        starts: list[int] = []
        previous = None
        for document, taken in expected:
            if previous is not None and document != previous:
                ids.append(EOS)
                words.append(False)
            if document == begun:
                starts.append(len(ids))
                begun += 1
            ids += documents.token_ids[at : at + taken].tolist()
            words += documents.word_starts[at : at + taken].tolist()
            at += taken
            previous = document
        ids.append(EOS)
        words += [False] * (size - len(words))
        assert sequences.token_ids[row].tolist() == ids + [PAD] * (size - len(ids))
        assert sequences.lengths[row] == len(ids)
        assert sequences.word_starts[row].tolist() == words
        assert starts_of(sequences)[row] == starts
    assert len(sequences.lengths) == len(rows)
    assert at == len(documents.token_ids)
    assert begun == len(lengths)


@settings(max_examples=80)
@given(LENGTHS, st.integers(8, 14))
def test_what_the_format_promises(lengths: list[list[int]], size: int) -> None:
    """Each token once and in order; no sentence split that fits; no row closed too early."""
    documents = lay_out(lengths)
    sequences = pack_documents(documents, "full-sentences", size)
    assert (sequences.lengths <= size).all()
    place: dict[int, int] = {}
    rows = []
    for row, (ids, length) in enumerate(zip(sequences.token_ids, sequences.lengths, strict=True)):
        real = [int(token) for token in ids[1 : length - 1] if token >= 10]
        rows.append(real)
        place |= dict.fromkeys(real, row)
    assert [token for row in rows for token in row] == documents.token_ids.tolist()
    firsts = set(documents.sentences[documents.documents[:-1]].tolist())
    for start, stop in pairwise(documents.sentences.tolist()):
        tokens = documents.token_ids[start:stop].tolist()
        if len(tokens) <= size - 2:
            assert place[tokens[0]] == place[tokens[-1]]
        row = place[tokens[0]]
        if row and rows[row][0] == tokens[0]:
            need = 1 if len(tokens) > size - 2 else len(tokens)
            assert sequences.lengths[row - 1] + (start in firsts) + need > size


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(1, 13), min_size=1, max_size=4), min_size=1, max_size=25),
    st.sampled_from([8, 9]),
    st.sampled_from(FORMATS),
)
@example([[1, 6]] * 30, 8, "full-sentences")
@example([[6], [1]] * 30, 8, "doc-sentences")
@example([[1], [6]] * 30, 8, "full-sentences")
@example([[5, 2]] * 30, 8, "doc-sentences")
@example([[1]] * 50, 8, "doc-sentences")
@example([[7]] * 40, 8, "stream")
@example([[5], [7]] * 40, 8, "full-sentences")
@example([[1], [5]] * 40, 8, "stream")
def test_the_bounds_on_rows_hold(lengths: list[list[int]], size: int, packing: str) -> None:
    """Plain Python checks every index, which the compiled loops do not."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in KERNELS:
            for name in names:
                patch.setattr(module, name, getattr(module, name).py_func)
        checked = pack_documents(lay_out(lengths), packing, size)
    compiled = pack_documents(lay_out(lengths), packing, size)
    for field in ("token_ids", "lengths", "word_starts", "document_starts", "document_offsets"):
        assert (getattr(checked, field) == getattr(compiled, field)).all()


KERNELS = (
    (formats, ("_fill_rows", "_write_block", "_fit", "_count", "_least_room", "_fill_holes")),
    (partners, ("_open_runs", "_couple")),
)


@settings(max_examples=100)
@given(SENTENCES, SIZES, st.sampled_from(FORMATS))
@example([[6, 7], [1], [13], [1, 1]], 8, "best-fit")
def test_no_token_is_lost_or_doubled(lengths: list[list[int]], size: int, packing: str) -> None:
    documents = lay_out(lengths)
    shard = reopen(documents, packing, size)
    found = gather_documents(shard)
    bounds = [(a, b) for a, b in pairwise(documents.bounds.tolist()) if a < b]
    assert list(found) == list(range(len(bounds)))
    for pieces, (start, stop) in zip(found.values(), bounds, strict=True):
        ends = np.cumsum([0, *(len(ids) for _, ids, _ in pieces)])
        assert [offset for offset, _, _ in pieces] == ends[:-1].tolist()
        joined = [token for _, ids, _ in pieces for token in ids]
        assert joined == documents.token_ids[start:stop].tolist()
        words = [word for _, _, each in pieces for word in each]
        assert words == documents.word_starts[start:stop].tolist()


@settings(max_examples=80)
@given(SENTENCES, SIZES, st.sampled_from(FORMATS))
def test_what_stands_between_pieces(lengths: list[list[int]], size: int, packing: str) -> None:
    """A row is `<s> A </s> [opener] B </s>` and padding; no word starts on what is no text."""
    shard = reopen(lay_out(lengths), packing, size)
    pieces = shard.pieces()
    between = [EOS, BOS] if packing in SEPARATE else [EOS, EOS] if packing in PAIRED else [EOS]
    for row in range(shard.rows):
        ids = shard.token_ids([row])[0].tolist()
        mine = pieces.rows == row
        bounds = list(zip(pieces.starts[mine], pieces.stops[mine], strict=True))
        assert ids[: bounds[0][0]] == [BOS]
        for (_, stop), (start, _) in pairwise(bounds):
            assert ids[stop:start] == between
        end = bounds[-1][1]
        assert ids[end:] == [EOS] + [PAD] * (size - end - 1)
        assert shard.lengths[row] == end + 1
        begins = (pieces.offsets[mine] == 0).tolist()
        starts = [start for (start, _), first in zip(bounds, begins, strict=True) if first]
        assert shard.document_starts(row).tolist() == starts
        text = np.isin(np.arange(size), [p for start, stop in bounds for p in range(start, stop)])
        assert not shard.word_starts([row])[0][~text].any()
        assert shard.segment_starts(row).tolist() == expected_segments(packing, bounds)


def expected_segments(packing: str, bounds: list[tuple[int, int]]) -> list[int]:
    """Return where attention may be cut: before a `<s>`, after a separator, nowhere in a pair."""
    if packing in PAIRED:
        return [0]
    return [0] + [start - (packing in SEPARATE) for start, _ in bounds[1:]]


@settings(max_examples=80)
@given(SENTENCES, SIZES, st.sampled_from([each for each in FORMATS if each != "stream"]))
def test_only_what_is_longer_than_a_row_is_split(
    lengths: list[list[int]], size: int, packing: str
) -> None:
    """A sentence; in best-fit a document."""
    documents = lay_out(lengths)
    shard = reopen(documents, packing, size)
    pieces = shard.pieces()
    units = documents.bounds if packing == "best-fit" else documents.sentences
    bounds = documents.bounds[:-1][np.diff(documents.bounds) > 0]
    cuts = bounds[pieces.documents] + pieces.offsets
    for start, stop in pairwise(units.tolist()):
        inside = ((cuts > start) & (cuts < stop)).any()
        assert not inside or stop - start > size - 2


def fewest_rows(lengths: Sequence[Sequence[int]], size: int, joint: int, keep: bool) -> int:
    """Try all ways of cutting the text into rows of whole sentences."""
    flat = [(document, length) for document, each in enumerate(lengths) for length in each]
    homes = [document for document, length in flat for _ in range(length)]
    cuts, at = {0}, 0
    for _, length in flat:
        free = not keep or length > size - 2
        cuts |= set(range(at, at + length + 1)) if free else {at, at + length}
        at += length

    @cache
    def rows_from(start: int) -> int:
        if start == len(homes):
            return 0
        found = []
        for stop in range(start + 1, min(len(homes), start + size - 2) + 1):
            touched = len(set(homes[start:stop]))
            if stop in cuts and 2 + stop - start + joint * (touched - 1) <= size:
                found.append(1 + rows_from(stop))
        return min(found)

    return rows_from(0)


@settings(max_examples=100)
@given(LENGTHS, SIZES, st.sampled_from(["full-sentences", "doc-sentences", "stream"]))
def test_no_other_cut_needs_fewer_rows(lengths: list[list[int]], size: int, packing: str) -> None:
    joint = 2 if packing == "doc-sentences" else 1
    rows = lay_documents(lay_out(lengths), packing, size).row_count
    assert rows == fewest_rows(lengths, size, joint, packing != "stream")


@settings(max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(8, 20))
def test_best_fit_is_best_fit_decreasing(lengths: list[int], size: int) -> None:
    """The readable algorithm, a list of what every row has left, gives as full rows, or more."""
    chunks = [min(size - 2, length - at) for length in lengths for at in range(0, length, size - 2)]
    left: list[int] = []
    for need in sorted((chunk + 2 for chunk in chunks), reverse=True):
        fitting = [n for n, room in enumerate(left) if room >= need]
        if not fitting:
            left.append(size - need)
        else:
            left[min(fitting, key=lambda n: left[n])] -= need
    sequences = pack_documents(lay_out([[length] for length in lengths]), "best-fit", size)
    assert len(sequences.lengths) <= len(left)
    if max(lengths) <= size - 2:
        assert sorted(sequences.lengths.tolist()) == sorted(size - room for room in left)


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 60), max_size=9),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_holes_are_filled_by_whole_blocks(
    holes: list[int], blocks: int, least: int, more: int
) -> None:
    """Blocks go in order while holes hold them; no fragment is under half a hole's least."""
    size = least + more
    left = np.array(sorted((hole for hole in holes if hole >= least), reverse=True), np.int64)
    given = np.array([[0, n * size, (n + 1) * size, n] for n in range(blocks)]).T
    out = np.empty((4, len(left) + 2 * blocks), np.int64)
    fill: Any = formats._fill_holes
    spread, used = fill.py_func(given, np.arange(len(left)), left, least, out)
    rows, starts, stops, numbers = out[:, :used]
    assert [0, *stops] == [*starts, spread * size]
    assert (starts // size == numbers).all()
    assert ((stops - 1) // size == numbers).all()
    filled = np.bincount(rows, stops - starts + 2, minlength=len(left))
    assert (filled <= left + 2).all()
    assert (stops - starts >= least // 2).all()
    assert spread == blocks or size > left[rows.max(initial=-1) + 1 :].sum()


@pytest.mark.parametrize("packing", FORMATS)
def test_the_longest_rows_and_documents(packing: str) -> None:
    """A document of ten million tokens, one of one token, and rows as long as there are."""
    sentence = 25_000 if packing == "sentence-pair" else 25
    documents = lay_out([[sentence] * (10_000_000 // sentence), [1]], first=300)
    sequences = pack_documents(documents, packing, 65_535)
    special = sequences.token_ids < 300
    assert int((~special).sum()) == 10_000_001
    if packing not in REORDERED:
        assert (sequences.token_ids[~special] == documents.token_ids).all()
    assert len(sequences.document_starts) == 2
    if packing not in PAIRED:
        assert len(sequences.lengths) == 153


@pytest.mark.parametrize("packing", ["stream", "best-fit"])
@pytest.mark.parametrize("size", [128, 512, 2048, 8192])
def test_fill_of_whole_blocks_and_documents(packing: str, size: int) -> None:
    """Of four million tokens of short documents, no more than one place in 200 is padding."""
    rng = np.random.default_rng(5)
    lengths = np.maximum(1, rng.lognormal(5.5, 1, 10_000)).astype(int)
    documents = lay_out(lengths[:, None].tolist())
    layout = lay_documents(documents, packing, size)
    blocks = write_rows(documents, layout, packing, size)
    real = sum(int(block.lengths.sum()) for block in blocks)
    assert real / (layout.row_count * size) >= 0.995


@pytest.mark.parametrize("packing", FORMATS)
def test_blocks_are_the_rows(packing: str) -> None:
    """Rows of three blocks, with what each has of starts, labels and pieces."""
    documents = lay_out([[3, 4, 2], [9], [1, 1, 1, 1]] * 1000)
    shard = reopen(documents, packing, 12)
    assert shard.rows > 2 * ROWS_PER_BATCH
    assert {batch.num_rows for batch in shard.batches[:-1]} == {ROWS_PER_BATCH}
    found = gather_documents(shard)
    assert len(found) == 3000
    joined = [token for pieces in found.values() for _, ids, _ in pieces for token in ids]
    assert joined == documents.token_ids.tolist()


GOLDEN = {
    "full-sentences": "2e45808e5dbafaa1", "doc-sentences": "b0dfeeedb0034b4d",
    "stream": "c2fddebacdede510", "best-fit": "e9a3b7a3d1a9b86b",
    "segment-pair": "522162070977eb01", "sentence-pair": "92b84967beaad1c7",
}  # fmt: skip


@pytest.mark.parametrize("packing", FORMATS)
def test_rows_stay_what_they_are(packing: str) -> None:
    """A change of these digests is a change of shards: it needs another `pack.VERSION`."""
    sizes = [n * 7919 % 23 + 1 for n in range(2000)]
    bounds = np.cumsum([n % 5 + 1 for n in range(600)])
    documents = lay_out([sizes[a:b] for a, b in pairwise([0, *bounds])])
    digest = hashlib.sha256()
    for block in write_rows(documents, lay_documents(documents, packing, 32), packing, 32):
        columns: list[npt.NDArray[Any]]
        columns = [block.token_ids, block.lengths, block.word_starts, block.document_starts]
        columns += [] if block.next_sentence is None else [block.next_sentence]
        columns += [] if block.provenance is None else list(block.provenance)
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[packing]

"""Pairs hold what their labels say, half of them random, and no sentence is split that fits."""

import numpy as np
import pytest
from format_helpers import SENTENCES, SIZES, lay_out, pack_documents, reopen, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.shards import PAIRED
from pipeline.partners import ALONE, NEXT, OTHER

PAIR_CASES = [
    # A run is at most four tokens here, half of what a row of 12 has for text.
    ("segment-pair", [[2, 2, 3]], ["<abcd>>efg>."], [NEXT]),
    ("segment-pair", [[3], [2]], ["<abc>>de>..."], [OTHER]),
    ("segment-pair", [[3]], ["<abc>......."], [ALONE]),
    # A long sentence goes with a short neighbour, and with no stranger.
    ("segment-pair", [[5, 3]], ["<abcde>>fgh>"], [NEXT]),
    ("segment-pair", [[5], [3]], ["<abcde>.....", "<fgh>......."], [ALONE, ALONE]),
    # Only a sentence longer than a row is split; the rest of it follows the first part.
    ("segment-pair", [[11]], ["<abcdefghij>", "<k>........."], [ALONE, ALONE]),
    ("segment-pair", [[11, 3, 2]], ["<abcdefghij>", "<klmn>>op>.."], [ALONE, NEXT]),
    ("sentence-pair", [[2, 2, 3]], ["<ab>>cd>....", "<efg>......."], [NEXT, ALONE]),
    ("sentence-pair", [[1], [1], [1]], ["<a>>b>......", "<c>........."], [OTHER, ALONE]),
    # One document has no stranger to exchange with.
    ("sentence-pair", [[1, 1, 1, 1]], ["<a>>b>......", "<c>>d>......"], [NEXT, NEXT]),
    # Two couples of two documents would exchange both or none: half of them cannot.
    ("sentence-pair", [[1, 1], [1, 1]], ["<a>>b>......", "<c>>d>......"], [NEXT, NEXT]),
    ("sentence-pair", [[1, 1], [1], [1], [], [1, 1]],
     ["<a>>b>......", "<c>>d>......", "<e>>f>......"], [NEXT, OTHER, NEXT]),
]  # fmt: skip


@pytest.mark.parametrize(("packing", "lengths", "rows", "labels"), PAIR_CASES)
def test_pairs_by_hand(
    packing: str, lengths: list[list[int]], rows: list[str], labels: list[int]
) -> None:
    sequences = pack_documents(lay_out(lengths), packing, 12)
    assert rows_of(sequences) == rows
    assert sequences.next_sentence is not None
    assert sequences.next_sentence.tolist() == labels


@settings(max_examples=80)
@given(SENTENCES, SIZES, st.sampled_from(PAIRED))
def test_labels_are_true(lengths: list[list[int]], size: int, packing: str) -> None:
    shard = reopen(lay_out(lengths), packing, size)
    pieces = shard.pieces()
    for row, label in enumerate(shard.next_sentence.tolist()):
        mine = np.flatnonzero(pieces.rows == row)
        documents, offsets = pieces.documents[mine], pieces.offsets[mine]
        if label == ALONE:
            assert len(mine) == 1
            continue
        assert len(mine) == 2
        assert (documents[0] == documents[1]) == (label == NEXT)
        if label == NEXT:
            assert offsets[1] == offsets[0] + pieces.stops[mine[0]] - pieces.starts[mine[0]]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 4))
def test_half_of_the_pairs_are_random(counts: list[int], length: int) -> None:
    """To one row, unless most couples are of one document or most units have no neighbour."""
    sequences = pack_documents(lay_out([[length] * count for count in counts]), "sentence-pair", 12)
    assert sequences.next_sentence is not None
    labels = np.bincount(sequences.next_sentence, minlength=3)
    couples, odd = sum(count // 2 for count in counts), sum(count % 2 for count in counts)
    wanted = max(0, couples - odd // 2) // 2
    assert labels[ALONE] == odd % 2
    assert labels[OTHER] <= odd // 2 + wanted
    largest = max(counts) // 2
    if wanted >= 2 * largest:
        assert labels[OTHER] == odd // 2 + wanted
        assert odd // 2 > couples or abs(labels[OTHER] - labels[NEXT]) <= 1


def test_partners_are_spread() -> None:
    """Couples of one document exchange with several others, and not always the same half does."""
    sequences = pack_documents(lay_out([[1] * 10] * 200), "sentence-pair", 12)
    assert sequences.next_sentence is not None
    assert sequences.provenance is not None
    labels = sequences.next_sentence
    assert np.bincount(labels, minlength=3).tolist() == [500, 500, 0]
    halves = sequences.provenance.documents.reshape(-1, 2)[labels == OTHER]
    distances = (halves[:, 1].astype(int) - halves[:, 0]) % 200
    assert distances.min() > 0
    by_document = np.bincount(halves[:, 0], minlength=200)
    assert by_document.min() < 2 < by_document.max()

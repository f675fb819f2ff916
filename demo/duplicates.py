"""Picks one near-duplicate of a snapshot and lays it beside its witness, differences visible.

The pair shown comes from two packages, is alike to less than 0.95 and short enough to be read: a
library that carries an older copy of another one, say. What the corpus pipeline decided is taken as
it stands in the snapshot; nothing is compared anew but the words to highlight.
"""

from difflib import SequenceMatcher
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from corpus.snapshots import Snapshot, Tree

# How long the shorter text of a shown pair should be: enough to see what it is about, little enough
# to read. A guess.
_WANTED_CHARACTERS = 450
# An equal stretch that is longer keeps this many words at either end.
_WORDS_AT_EDGES = 8


class Pair(NamedTuple):
    """A dropped near-duplicate, the survivor it is like, and how alike they are."""

    id: str
    text: str
    witness_id: str
    witness_text: str
    similarity: float


class Piece(NamedTuple):
    """A stretch of words that both texts have, or that only this one has."""

    text: str
    differs: bool


def find_pair(tree: Tree, snapshot: Snapshot) -> Pair | None:
    """Choose the pair to show; None where the snapshot has no near-duplicate."""
    rows = [
        row
        for entry in snapshot.files
        if entry.path.startswith("duplicates/")
        for row in pq.read_table(tree.find(entry.path)).to_pylist()
        if row["method"] == "minhash"
    ]
    if not rows:
        return None
    telling = [row for row in rows if row["similarity"] < 0.95 and _package(row) != _witness(row)]
    candidates = telling or rows
    ids = {row[key] for row in candidates for key in ("id", "witness_id")}
    texts = _read_texts(tree, snapshot, ids)
    pairs = [
        Pair(row["id"], texts[row["id"]], row["witness_id"], texts[row["witness_id"]],
             row["similarity"])
        for row in candidates
    ]  # fmt: skip
    return min(pairs, key=lambda pair: (abs(len(pair.text) - _WANTED_CHARACTERS), pair.id))


def _package(row: dict[str, Any]) -> str:
    return str(row["id"]).split("/")[1]


def _witness(row: dict[str, Any]) -> str:
    return str(row["witness_id"]).split("/")[1]


def _read_texts(tree: Tree, snapshot: Snapshot, ids: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for entry in snapshot.files:
        if entry.path.startswith("clean/"):
            table = pq.read_table(
                tree.find(entry.path), columns=["id", "text"], filters=[("id", "in", ids)]
            )
            texts |= {row["id"]: row["text"] for row in table.to_pylist()}
    return texts


def compare(text: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Cut two texts into pieces by words, long equal stretches shortened.

    "a b c", "a x c" -> [a, b (differs), c], [a, x (differs), c]
    """
    words, others = text.split(), other.split()
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    for tag, start, stop, other_start, other_stop in matcher.get_opcodes():
        stretches = words[start:stop], others[other_start:other_stop]
        for found, stretch in zip(pieces, stretches, strict=True):
            if stretch:
                shown = _shorten(stretch) if tag == "equal" else " ".join(stretch)
                found.append(Piece(shown, tag != "equal"))
    return pieces


def _shorten(words: list[str]) -> str:
    if len(words) <= 2 * _WORDS_AT_EDGES + 4:
        return " ".join(words)
    return " ".join([*words[:_WORDS_AT_EDGES], "[...]", *words[-_WORDS_AT_EDGES:]])

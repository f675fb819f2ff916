"""Audit of shards: every kept document is encoded again, and stands in its shard as it was encoded.

First part by part: each document's tokens file is what encoding gives once more, and its tokens
decoded are its text. Then shard by shard: the documents of its range of hashes, taken from the
tokens files and put in order here, are what its rows hold, ids and word starts, and nothing else
is between them. Packed again they give the rows of the shard, in this order, with these starts and
labels.

A task holds one part, or one shard with its documents.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import KEPT_COLUMNS, add_digests
from corpus.membership import (
    SPLITS,
    ShardPlan,
    cut_split,
    parts_by_delivery,
    planned_shards,
    tokens_path,
)
from corpus.recipe import Pack
from corpus.shards import Shard
from corpus.snapshots import Part, ShardEntry, Snapshot, Tree
from corpus.tokenizer import Tokenizer
from pipeline.encode import encode_documents, open_encoder
from pipeline.explain import Store
from pipeline.formats import Documents
from pipeline.jobs import Pool
from pipeline.pack import Dealt, read_documents, write_shard
from pipeline.parquet import read_table
from pipeline.rows import document_tokens, find_broken_rows
from pipeline.spans import bytes_of
from pipeline.stretch import open_arrow

_Delivered = tuple[str, str]  # snapshot and source


class _Facts(NamedTuple):
    """What every shard of a snapshot has to agree with, and the store with its tokenizer."""

    store: str
    tokenizer: str
    vocab_size: int
    pack: Pack


def check_shards(store: Store, pool: Pool, not_checked: list[str]) -> Iterator[str]:
    """Encode every kept document again, and compare what the shards hold of it."""
    snapshot = store.snapshot
    facts = _Facts(store.root, snapshot.tokenizer, snapshot.vocab_size, store.recipe.pack)
    parts = snapshot.part_list()
    counts: list[dict[str, Any]] = []
    wrong: set[_Delivered] = set()
    encoded = pool.map("encode", _encode_again, parts, store.tree, facts)
    for part, (problems, counted) in zip(parts, encoded, strict=True):
        yield from problems
        counts.append(counted)
        if problems:
            wrong.add((part.snapshot, part.source))
    yield from _check_kept(snapshot, counts)
    names: dict[_Delivered, list[str]] = {(e.snapshot, e.source): [] for e in snapshot.shards}
    names |= parts_by_delivery(snapshot)
    not_checked += [f"shards of {'/'.join(e)}, as a tokens file is wrong" for e in sorted(wrong)]
    plans = [each for place in names if place not in wrong for each in _plans(store, place)]
    tokens = 0
    for problems, held in pool.map("shards", _check_shard, plans, store.tree, names, facts):
        yield from problems
        tokens += held
    if not wrong and tokens != snapshot.counts.tokens:
        yield f"the shards hold {tokens} tokens, the manifest says {snapshot.counts.tokens}"


def _check_kept(snapshot: Snapshot, counts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Compare what was encoded with what the manifest says was kept."""
    kept, expected = sum(each["documents"] for each in counts), snapshot.counts.documents_kept
    if kept != expected:
        yield f"there are {kept} kept documents, expected {expected}"
    if add_digests(each["kept_digest"] for each in counts) != snapshot.kept_digest:
        yield "the kept rows have another digest than the manifest says"


def _encode_again(part: Part, tree: Tree, facts: _Facts) -> tuple[list[str], dict[str, Any]]:
    """Encode the kept documents of a part; return what is wrong with its tokens, and counts."""
    encoder = open_encoder(facts.store, facts.tokenizer)
    documents = read_table(tree.find(f"clean/{part.name}.parquet"))
    gone = read_table(tree.find(f"duplicates/{part.name}.parquet"), columns=["row"])
    mask = np.ones(len(documents), np.bool_)
    rows = gone["row"].to_numpy()
    mask[rows[(rows >= 0) & (rows < len(mask))]] = False  # others were told as no documents
    table, counts = encode_documents(documents.select(KEPT_COLUMNS), mask, encoder)
    path = tokens_path(part.name)
    problems = []
    if not table.equals(open_arrow(tree.find(path))):
        problems.append(
            f"{path}: its documents encoded again give other tokens, sentences or words"
        )
    problems += [
        f"{path}: {identity} decodes to another text than was kept"
        for identity in _misspelt(table, documents.filter(pa.array(mask)), encoder.tokenizer)
    ]
    return problems, counts


def _misspelt(tokens: pa.Table, kept: pa.Table, tokenizer: Tokenizer) -> list[str]:
    """Return the ids of documents whose tokens' bytes are not those of their text."""
    found = []
    for batch in tokens.to_batches():
        rows = pc.index_in(batch["id"], kept["id"].combine_chunks())
        lists = batch["token_ids"]
        given = lists.values.to_numpy(), lists.offsets.to_numpy()
        same = _spell(*given, tokenizer.spelt, bytes_of(kept["text"].take(rows)))
        found += batch["id"].filter(pa.array(~same)).to_pylist()
    return found


@numba.njit(cache=True)
def _spell(ids, offsets, spelt, texts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Tell of lists of ids whether their entries' bytes are those of the texts: bool [lists]."""
    (pieces, begins), (data, ends) = spelt, texts
    same = np.ones(len(offsets) - 1, np.bool_)
    for text in range(len(same)):
        place, stop = ends[text], ends[text + 1]
        for n in range(offsets[text], offsets[text + 1]):
            begin, size = begins[ids[n]], begins[ids[n] + 1] - begins[ids[n]]
            if place + size > stop:
                same[text] = False
                break
            for i in range(size):
                same[text] &= pieces[begin + i] == data[place + i]
            place += size
        same[text] &= place == stop
    return same


def _plans(store: Store, delivered: _Delivered) -> list[tuple[ShardPlan, ShardEntry | None]]:
    """Return the shards of a delivery's source with their ranges; None for a split without any."""
    config = store.recipe.pack
    planned = planned_shards(store.snapshot, delivered, config)
    there = {entry.split for _, entry in planned}
    empty = [cut_split((*delivered, each), 1, config)[0] for each in SPLITS if each not in there]
    return [*planned, *((plan, None) for plan in empty)]


def _check_shard(
    given: tuple[ShardPlan, ShardEntry | None],
    tree: Tree,
    names: Mapping[_Delivered, Sequence[str]],
    facts: _Facts,
) -> tuple[list[str], int]:
    """Compare a shard with the tokens of its documents; return what is wrong and its tokens."""
    plan, entry = given
    paths = [tokens_path(name) for name in names[plan.snapshot, plan.source]]
    dealt = read_documents(tree, paths, plan.low, plan.high)
    wanted = list(_documents(dealt))
    if entry is None:
        return [_lost(each) for each, *_ in wanted], 0
    problems: list[str] = []
    lost: list[str] = []
    tokens = 0
    try:
        shard = Shard(tree.find(entry.path))
        found = list(document_tokens(shard))
        tokens = sum(len(ids) for ids, _ in found)
        tokenizer = open_encoder(facts.store, facts.tokenizer).tokenizer
        problems += _check_form(shard, entry, facts)
        problems += find_broken_rows(shard, tokenizer.mask_id)
        problems += _compare(wanted, found, tokenizer)
        lost = [_lost(identity) for identity, *_ in wanted[len(found) :]]
        if not problems and not lost and not _is_as_packed(shard, dealt.documents, facts):
            problems.append(
                "its documents packed again give other rows, starts or labels, or in another order"
            )
    except ValueError as error:
        problems.append(f"its rows cannot be read: {error}")
    return [*(f"{entry.path}: {each}" for each in problems), *lost], tokens


def _compare(
    wanted: Sequence[tuple[str, Any, Any]],
    found: Sequence[tuple[Any, Any]],
    tokenizer: Tokenizer,
) -> Iterator[str]:
    """Compare the documents of a shard with their tokens: ids and word starts."""
    if len(found) != len(wanted):
        yield f"holds {len(found)} documents, expected {len(wanted)}"
    for (identity, *kept), held in zip(wanted, found, strict=False):
        if not all(map(np.array_equal, kept, held)):
            text, other = (tokenizer.decode(ids.tolist()) for ids in (kept[0], held[0]))
            what = "has other tokens or word starts than its text"
            if text != other:
                what = "decodes to another text than was kept"
            yield f"{identity} {what}"


def _is_as_packed(shard: Shard, documents: Documents, facts: _Facts) -> bool:
    """Tell whether a shard has the rows that its documents give."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "again.arrow")
        with path.open("wb") as stream:
            write_shard(stream, documents, facts.pack, (facts.tokenizer, facts.vocab_size))
        again = Shard(str(path))
        # Of rows and not of bytes, which another version of Arrow may lay out in another way.
        same = map(pa.RecordBatch.equals, again.batches, shard.batches)
        return again.rows == shard.rows and all(same)


def _lost(identity: str) -> str:
    return f"{identity}: was kept and is in no shard"


def _documents(dealt: Dealt) -> Iterator[tuple[str, Any, Any]]:
    """Give ids, token ids and word starts of documents."""
    ids, words = dealt.documents.token_ids, dealt.documents.word_starts
    for identity, (low, high) in zip(
        dealt.ids.to_pylist(), pairwise(dealt.documents.bounds.tolist()), strict=True
    ):
        yield identity, ids[low:high], words[low:high]


def _check_form(shard: Shard, entry: ShardEntry, facts: _Facts) -> Iterator[str]:
    if shard.tokenizer_fingerprint != facts.tokenizer:
        yield f"was made with the tokenizer {shard.tokenizer_fingerprint}"
    if shard.rows != entry.rows or shard.sequence_length != facts.pack.sequence_length:
        yield f"has {shard.rows} rows of {shard.sequence_length}"

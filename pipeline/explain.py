"""Explain and show: what a store holds, what became of one document, what a row says.

A document is found through the index, whose keys hold a hash of every id, so a lookup reads a few
pages of each part of its source and one row group. A shard's documents are not listed anywhere:
they are those whose hash falls into its range, in the order of the hashes, and rows.py tells which
row holds which of them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from corpus.documents import deal_hash
from corpus.forgotten import hash_id, read_forgotten
from corpus.recipe import Recipe
from corpus.shards import Shard
from corpus.snapshots import Part, ShardEntry, Snapshot, Tree, open_snapshot, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.clean import read_table
from pipeline.index import Corpus, KeySearch, open_index, read_row
from pipeline.pack import ShardPlan, cut_split, document_ids
from pipeline.preference import scope_of
from pipeline.rows import document_rows, row_texts
from pipeline.signatures import ID_BAND, salt_of
from pipeline.tallies import funnel

_EXCERPT_CHARACTERS = 400


class Store(NamedTuple):
    """A snapshot opened for reading, with where its files lie."""

    root: str
    tree: Tree
    snapshot: Snapshot

    @property
    def recipe(self) -> Recipe:
        """The recipe that made the snapshot."""
        return Recipe.model_validate(self.snapshot.recipe)

    @property
    def corpus(self) -> Corpus:
        """All parts, none of them settled."""
        return Corpus(self.snapshot.part_list(), 0)


def open_store(store: str, label: str | None = None) -> Store:
    """Open a snapshot of a store, or the newest one."""
    snapshot = open_snapshot(store, label)
    return Store(store, snapshot.tree(store), snapshot)


def shard_plan(store: Store, entry: ShardEntry) -> ShardPlan:
    """Return the hash range of a shard, from its number and how many shards its split has."""
    place = (entry.snapshot, entry.source, entry.split)
    siblings = [
        other.path
        for other in store.snapshot.shards
        if (other.snapshot, other.source, other.split) == place
    ]
    plans = cut_split(place, len(siblings), store.recipe.pack)
    return plans[sorted(siblings).index(entry.path)]


def shard_documents(store: Store, entry: ShardEntry) -> list[str]:
    """Return the ids of a shard's documents in packing order."""
    plan = shard_plan(store, entry)
    parts = [
        part.name
        for part in store.snapshot.parts
        if (part.snapshot, part.source) == (entry.snapshot, entry.source)
    ]
    return document_ids(store.tree, parts, plan.low, plan.high)


def explain(store: Store, identity: str) -> Iterator[str]:
    """Give the story of every record that has this id, as lines of text."""
    source = identity.split("/", 1)[0]
    parts = [part for part in store.snapshot.part_list() if part.source == source]
    dropped = [row for part in parts for row in _drops(store, part, identity)]
    documents = list(_documents(store, identity))
    if not dropped and not documents:
        if hash_id(identity) in read_forgotten(store.root).ids:
            yield f"{identity}: was taken down and stays out of this store"
            return
        raise ValueError(f"{store.root} knows no document {identity}")
    gone = {_place(row) for row in dropped}
    for row in dropped:
        yield from _explain_drop(store, row, documents)
    for row in documents:
        if _place(row) not in gone:
            yield from _explain_kept(store, row)


def _place(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["snapshot"], row["file"], row["position"]


def _drops(store: Store, part: Part, identity: str) -> Iterator[dict[str, Any]]:
    for kind in ("", ".dedup"):
        path = store.tree.find(f"dropped/{part.name}{kind}.parquet")
        yield from read_table(path, filters=[("id", "==", identity)]).to_pylist()


def _documents(store: Store, identity: str) -> Iterator[dict[str, Any]]:
    """Find every document with this id that passed the rules."""
    source = identity.split("/", 1)[0]
    key = np.uint64(int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big"))
    for part in store.snapshot.part_list():
        if part.source != source:
            continue
        salt = salt_of(scope_of(part.snapshot, part.source, store.recipe.dedup))
        found = KeySearch(store.tree, Corpus((part,), 0)).matching(0, np.array([key ^ salt]))
        for row in found.document[found.band == ID_BAND].tolist():
            if open_index(store.tree, part)["id"][row].as_py() == identity:
                yield read_row(store.tree.find(f"clean/{part.name}.parquet"), row)


def _explain_drop(
    store: Store, drop: dict[str, Any], documents: list[dict[str, Any]]
) -> Iterator[str]:
    yield _title(drop)
    yield f"  dropped in {drop['stage']} by {drop['rule']}" + _compared(drop)
    if drop["detail"]:
        yield f"  {drop['detail']}"
    if drop["witness_id"] is None:
        return
    place = (drop["witness_snapshot"], drop["witness_file"], drop["witness_position"])
    yield (
        f"  in favour of {drop['witness_id']} ({place[0]}: {place[1]}, record {place[2]}), "
        "which stays"
    )
    for row in documents:
        if _place(row) == _place(drop):
            yield from _excerpt("dropped", row["text"])
    for row in _documents(store, drop["witness_id"]):
        if _place(row) == place:
            yield from _excerpt("kept", row["text"])


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['id']} ({row['snapshot']}: {row['file']}, record {row['position']})"


def _compared(drop: dict[str, Any]) -> str:
    if drop["value"] is None:
        return ""
    limit = "" if drop["threshold"] is None else f", threshold {drop['threshold']:g}"
    return f": value {drop['value']:.6g}{limit}"


def _excerpt(title: str, text: str) -> Iterator[str]:
    more = f" ... ({len(text):,} characters)" if len(text) > _EXCERPT_CHARACTERS else ""
    yield f"  {title}: {text[:_EXCERPT_CHARACTERS]!r}{more}"


def _explain_kept(store: Store, row: dict[str, Any]) -> Iterator[str]:
    yield _title(row)
    yield f"  kept, {len(row['text']):,} characters"
    entry = shard_of(store, row["snapshot"], row["source"], row["id"])
    ordinal = shard_documents(store, entry).index(row["id"])
    runs = document_rows(Shard(store.tree.find(entry.path)))[ordinal]
    rows = ", ".join(f"{first} to {last}" for first, last in runs)
    yield f"  packed in {entry.path}, rows {rows}"
    yield from _excerpt("text", row["text"])


def shard_of(store: Store, snapshot: str, source: str, identity: str) -> ShardEntry:
    """Return the shard that holds a kept document."""
    position = deal_hash(identity)
    for entry in store.snapshot.shards:
        plan = shard_plan(store, entry)
        mine = (entry.snapshot, entry.source) == (snapshot, source)
        if mine and plan.low <= position < plan.high:
            return entry
    raise ValueError(f"{store.root} has no shard for {identity}: run `python -m pipeline audit`")


def show(store: Store) -> Iterator[str]:
    """Give what a store holds, as lines of text."""
    snapshot = store.snapshot
    counts = snapshot.counts
    yield f"snapshot     {snapshot.label}"
    yield f"deliveries   {', '.join(snapshot.deliveries)}"
    yield f"fingerprint  {snapshot.fingerprint}"
    yield f"tokenizer    {snapshot.tokenizer} ({snapshot.vocab_size:,} entries)"
    yield f"documents    {counts.documents_in:,} in, {counts.documents_kept:,} kept"
    yield f"tokens       {counts.tokens:,}"
    yield f"sequences    {counts.sequences:,} of {snapshot.sequence_length} tokens"
    for source, entry in funnel(snapshot.parts).items():
        kept = entry["documents"]
        yield f"source {source}: {kept + sum(entry['dropped'].values()):,} in, {kept:,} kept"
        for rule, count in entry["dropped"].items():
            yield f"    {count:>9,} dropped by {rule}"
    for shard in snapshot.shards:
        yield f"{shard.path}  {shard.rows:,} rows, {shard.size_bytes:,} bytes"


def show_row(store: Store, place: str) -> Iterator[str]:
    """Decode one row, named as `SNAPSHOT/SOURCE/SPLIT-00000:ROW`, document by document."""
    name, _, number = place.rpartition(":")
    entries = {entry.path: entry for entry in store.snapshot.shards}
    path = f"shards/{name}.arrow"
    if path not in entries or not number.isdigit():
        raise ValueError(
            f"{place} is no row: write SNAPSHOT/SOURCE/SPLIT-00000:ROW as `show` lists them"
        )
    shard = Shard(store.tree.find(path))
    row = int(number)
    if row >= shard.rows:
        raise ValueError(f"{path} has {shard.rows} rows, there is no row {row}")
    names = shard_documents(store, entries[path])
    tokenizer = open_tokenizer(tokenizer_root(store.root, store.snapshot.tokenizer))
    length = int(shard.lengths[row])
    yield f"{place}: {length} tokens, {shard.sequence_length - length} padding"
    for document, text in row_texts(shard, row, tokenizer):
        yield f"  {names[document]}: {text!r}"

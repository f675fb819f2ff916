"""Explain and show: what a store holds, what became of one document, what a row says.

A document is found through the index, whose keys hold a hash of every id, so a lookup reads a few
pages of each part of its source and one row group. One that a rule dropped has no key; its row is
looked for in the drop tables, which are sorted by id, so that their statistics leave one row group
a part to be read. Which documents a shard holds corpus/membership.py tells, and the shard itself
which row holds which of them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from corpus.documents import deal_hash
from corpus.forgotten import hash_id, read_forgotten
from corpus.members import META_KEY
from corpus.membership import documents_of, part_names, planned_shards, shard_plan, tokens_path
from corpus.recipe import Recipe
from corpus.shards import REORDERED, Shard
from corpus.snapshots import Part, ShardEntry, Snapshot, Tree, open_snapshot, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.index import Corpus, Int64s, KeySearch, array_values, column_values, open_index
from pipeline.keys import ID_BAND, salt_of
from pipeline.parquet import read_row, rows_where
from pipeline.preference import scope_of
from pipeline.rows import row_texts
from pipeline.stretch import open_arrow
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


def explain(store: Store, identity: str) -> Iterator[str]:
    """Give the story of every record that has this id, as lines of text."""
    documents = list(_documents(store, identity))
    dropped = list(_drops(store, identity, {name for name, _ in documents}))
    if not dropped and not documents:
        listed = read_forgotten(store.root)
        if hash_id(identity) in listed.ids:
            yield f"{identity}: was taken down and stays out of this store"
            return
        source, slash, _ = identity.partition("/")
        if slash and source in listed.sources:
            yield f"{identity}: its source {source} was taken down and stays out of this store"
            return
        hint = "" if slash else ": ids read SOURCE/KEY"
        raise ValueError(f"{store.root} knows no document {identity}{hint}")
    gone = {_place(row) for row in dropped}
    rows = [row for _, row in documents]
    for row in dropped:
        yield from _explain_drop(store, row, rows)
    for row in rows:
        if _place(row) not in gone:
            yield from _explain_kept(store, row)


def _place(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["snapshot"], row["file"], row["position"]


def _parts_of(store: Store, identity: str) -> list[Part]:
    source = identity.split("/", 1)[0]
    return [part for part in store.snapshot.part_list() if part.source == source]


def _drops(store: Store, identity: str, passed: set[str]) -> Iterator[dict[str, Any]]:
    """Give the drop rows of an id; `passed` names the parts that have it in their index.

    Only a document that passed the rules can be a duplicate.
    """
    for part in _parts_of(store, identity):
        for kind in ("", ".dedup") if part.name in passed else ("",):
            path = store.tree.find(f"dropped/{part.name}{kind}.parquet")
            yield from rows_where(path, "id", identity)


def _documents(store: Store, identity: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every document with this id that passed the rules, each with the name of its part."""
    config = store.recipe.dedup
    key = np.uint64(int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big"))
    for part in _parts_of(store, identity):
        salt = salt_of(scope_of(part.snapshot, part.source, config))
        wanted = key ^ salt
        search = KeySearch(store.tree, Corpus((part,), 0), (int(wanted), int(wanted) + 1))
        keys = search.matching(0, np.array([wanted]))
        for row in keys.document[keys.band == ID_BAND].tolist():
            if open_index(store.tree, part)["id"][row].as_py() == identity:
                yield part.name, read_row(store.tree.find(f"clean/{part.name}.parquet"), row)


def _explain_drop(
    store: Store, drop: dict[str, Any], documents: list[dict[str, Any]]
) -> Iterator[str]:
    yield _title(drop)
    yield f"  dropped in {drop['stage']} by {drop['rule']}" + compared(drop)
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
    found = (row for _, row in _documents(store, drop["witness_id"]))
    witness = next((row for row in found if _place(row) == place), None)  # the parts after are left
    if witness:
        yield from _excerpt("kept", witness["text"])


def _title(row: Mapping[str, Any]) -> str:
    place = f"{row['snapshot']}: {row['file']}, record {row['position']}"
    member = orjson.loads(row.get("meta") or "{}").get(META_KEY)
    return f"{row['id']} ({place}, {member})" if member else f"{row['id']} ({place})"


def compared(drop: Mapping[str, Any]) -> str:
    """Say which value a rule compared with which threshold, where it did."""
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
    shard = Shard(store.tree.find(entry.path))
    runs = _runs(shard, _ordinal(store, entry, row["id"]))
    rows = ", ".join(f"{first} to {last}" for first, last in runs)
    yield f"  packed in {entry.path}, rows {rows}"
    yield from _excerpt("text", row["text"])


def shard_of(store: Store, snapshot: str, source: str, identity: str) -> ShardEntry:
    """Return the shard that holds a kept document."""
    position = deal_hash(identity)
    for plan, entry in planned_shards(store.snapshot, (snapshot, source), store.recipe.pack):
        if plan.low <= position < plan.high:
            return entry
    raise ValueError(f"{store.root} has no shard for {identity}: run `python -m pipeline audit`")


def _ordinal(store: Store, entry: ShardEntry, identity: str) -> int:
    """Return how many documents of a shard lie before this one."""
    position, low = np.uint64(deal_hash(identity)), np.uint64(shard_plan(store.snapshot, entry).low)
    before, is_there = 0, False
    for name in part_names(store.snapshot, entry):
        table = open_arrow(store.tree.find(tokens_path(name)))
        hashes = column_values(table, "hash")
        begin, start = np.searchsorted(hashes, np.array([low, position])).tolist()
        stop = int(np.searchsorted(hashes, position, side="right"))
        equal = table["id"].slice(start, stop - start).to_pylist()
        before += start - begin + sum(each < identity for each in equal)
        is_there |= identity in equal
    if not is_there:
        raise ValueError(
            f"{store.root} has no tokens for {identity}: run `python -m pipeline audit`"
        )
    return before


def _runs(shard: Shard, ordinal: int) -> list[tuple[int, int]]:
    """Return the rows that hold a document, as runs from a first to a last row; reads no tokens."""
    if shard.packing in REORDERED:
        home, document = _listed(shard, "piece_documents")
        rows = np.unique(home[document == ordinal])
        breaks = np.flatnonzero(np.diff(rows) > 1)
        firsts, lasts = rows[np.append(0, breaks + 1)], rows[np.append(breaks, len(rows) - 1)]
        return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
    home, start = _listed(shard, "document_starts")
    if ordinal + 1 == len(home):
        return [(int(home[ordinal]), shard.rows - 1)]
    # A document ends where the next begins: in the row before, if that begins a row.
    last = home[ordinal + 1] - (start[ordinal + 1] == 1)
    return [(int(home[ordinal]), int(last))]


def _listed(shard: Shard, name: str) -> tuple[Int64s, Int64s]:
    """Return the values of a list column of a shard, and the row of each."""
    columns = [batch.column(name) for batch in shard.batches]
    counts = np.concatenate([np.diff(array_values(column.offsets)) for column in columns])
    values = np.concatenate([array_values(column.flatten()) for column in columns])
    return np.repeat(np.arange(shard.rows), counts), values.astype(np.int64)


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
            f"{place} is no row of this snapshot: write SNAPSHOT/SOURCE/SPLIT-00000:ROW, with one "
            "of the shards that `show` lists"
        )
    shard = Shard(store.tree.find(path))
    row = int(number)
    if row >= shard.rows:
        raise ValueError(f"{path} has the rows 0 to {shard.rows - 1}, there is no row {row}")
    tokenizer = open_tokenizer(tokenizer_root(store.root, store.snapshot.tokenizer))
    pieces = list(row_texts(shard, row, tokenizer))
    numbers = [document for document, _ in pieces]
    documents = documents_of(store.tree, store.snapshot, entries[path], numbers)
    length = int(shard.lengths[row])
    yield f"{place}: {length} tokens, {shard.sequence_length - length} padding"
    for document, (_, text) in zip(documents, pieces, strict=True):
        yield f"  {document.id}: {text!r}"

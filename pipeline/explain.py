"""Explain and show: what a store holds, what became of one document, what a row says.

A shard's documents are not listed anywhere: they are those whose hash falls into its range, in the
order of the hashes, and the row's document starts say where each begins.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from corpus.documents import deal_hash
from corpus.files import join, read_bytes
from corpus.recipe import Recipe
from corpus.shards import Shard, TokenIds
from corpus.snapshots import ShardEntry, Snapshot, open_snapshot, snapshot_root, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.clean import read_table
from pipeline.pack import ShardPlan, document_ids, split_range

_EXCERPT_CHARACTERS = 400


class Store(NamedTuple):
    """A snapshot opened for reading, with the directory it lies in."""

    root: str
    path: str
    snapshot: Snapshot

    @property
    def recipe(self) -> Recipe:
        """The recipe that made the snapshot."""
        return Recipe.model_validate(self.snapshot.recipe)

    def parts(self, kind: str, source: str | None = None) -> list[str]:
        """Return the paths of one kind of file (`clean`, `tokens`, ...) of a source or of all."""
        return [
            entry.path
            for entry in self.snapshot.files
            if entry.path.startswith(f"{kind}/")
            and (source is None or part_source(entry.path) == source)
        ]


def open_store(store: str) -> Store:
    """Open the newest snapshot of a store."""
    snapshot = open_snapshot(store)
    return Store(store, snapshot_root(store, snapshot.label), snapshot)


def part_name(path: str) -> str:
    """Return the part that a file belongs to: `clean/a-0f-00000.parquet` -> `a-0f-00000`."""
    name = path.partition("/")[2]
    return name.removesuffix(".parquet").removesuffix(".arrow").removesuffix(".dedup")


def part_source(path: str) -> str:
    """Return the source that a file belongs to."""
    return part_name(path).rsplit("-", 2)[0]


def shard_plan(store: Store, entry: ShardEntry) -> ShardPlan:
    """Return the hash range of a shard, from its number and how many shards its split has."""
    siblings = [
        other
        for other in store.snapshot.shards
        if (other.source, other.split) == (entry.source, entry.split)
    ]
    number = [other.path for other in siblings].index(entry.path)
    low, high = split_range(entry.split, store.recipe.pack.validation_fraction)
    first = low + (high - low) * number // len(siblings)
    last = low + (high - low) * (number + 1) // len(siblings)
    return ShardPlan(entry.source, entry.split, number, first, last)


def shard_documents(store: Store, entry: ShardEntry) -> list[str]:
    """Return the ids of a shard's documents in packing order."""
    plan = shard_plan(store, entry)
    parts = [part_name(path) for path in store.parts("tokens", entry.source)]
    return document_ids(store.path, parts, plan.low, plan.high)


def document_rows(shard: Shard) -> list[tuple[int, int]]:
    """Return the first and the last row of every document of a shard, in packing order."""
    begins: list[tuple[int, int]] = []
    for row in range(shard.rows):
        begins += [(row, int(start)) for start in shard.document_starts(row)]
    ends = [row - 1 if start == 1 else row for row, start in begins[1:]] + [shard.rows - 1]
    return [(begin[0], end) for begin, end in zip(begins, ends, strict=True)]


def explain(store: Store, identity: str) -> Iterator[str]:
    """Give the story of every record that has this id, as lines of text."""
    source = identity.split("/", 1)[0]
    dropped = list(_find(store, "dropped", source, identity))
    clean = list(_find(store, "clean", source, identity))
    if not dropped and not clean:
        raise ValueError(f"{store.root} knows no document {identity}")
    gone = {(row["file"], row["position"]) for row in dropped}
    for row in dropped:
        yield from _explain_drop(store, row, clean)
    for row in clean:
        if (row["file"], row["position"]) not in gone:
            yield from _explain_kept(store, row)


def _find(store: Store, kind: str, source: str, identity: str) -> Iterator[dict[str, Any]]:
    for path in store.parts(kind, source):
        full = join(store.path, path)
        yield from read_table(full, filters=[("id", "==", identity)]).to_pylist()


def _explain_drop(store: Store, drop: dict[str, Any], clean: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{drop['id']} ({drop['file']}, record {drop['position']})"
    yield f"  dropped in {drop['stage']} by {drop['rule']}" + _compared(drop)
    if drop["detail"]:
        yield f"  {drop['detail']}"
    if drop["witness_id"] is None:
        return
    place = (drop["witness_id"], drop["witness_file"], drop["witness_position"])
    yield f"  in favour of {place[0]} ({place[1]}, record {place[2]}), which stays"
    for row in clean:
        if (row["file"], row["position"]) == (drop["file"], drop["position"]):
            yield from _excerpt("dropped", row["text"])
    for row in _find(store, "clean", place[0].split("/", 1)[0], place[0]):
        if (row["file"], row["position"]) == place[1:]:
            yield from _excerpt("kept", row["text"])


def _compared(drop: dict[str, Any]) -> str:
    if drop["value"] is None:
        return ""
    limit = "" if drop["threshold"] is None else f", threshold {drop['threshold']:g}"
    return f": value {drop['value']:.6g}{limit}"


def _excerpt(title: str, text: str) -> Iterator[str]:
    more = f" ... ({len(text):,} characters)" if len(text) > _EXCERPT_CHARACTERS else ""
    yield f"  {title}: {text[:_EXCERPT_CHARACTERS]!r}{more}"


def _explain_kept(store: Store, row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['id']} ({row['file']}, record {row['position']})"
    yield f"  kept, {len(row['text']):,} characters"
    entry = _shard_of(store, row["id"])
    ordinal = shard_documents(store, entry).index(row["id"])
    first, last = document_rows(Shard(join(store.path, entry.path)))[ordinal]
    yield f"  packed in {entry.path}, rows {first} to {last}"
    yield from _excerpt("text", row["text"])


def _shard_of(store: Store, identity: str) -> ShardEntry:
    source, position = identity.split("/", 1)[0], deal_hash(identity)
    for entry in store.snapshot.shards:
        plan = shard_plan(store, entry)
        if entry.source == source and plan.low <= position < plan.high:
            return entry
    raise ValueError(f"{store.root} has no shard for {identity}: run `python -m pipeline audit`")


def show(store: Store) -> Iterator[str]:
    """Give what a store holds, as lines of text."""
    snapshot = store.snapshot
    counts = snapshot.counts
    yield f"snapshot     {snapshot.label}"
    yield f"fingerprint  {snapshot.fingerprint}"
    yield f"tokenizer    {snapshot.tokenizer} ({snapshot.vocab_size:,} entries)"
    yield f"documents    {counts.documents_in:,} in, {counts.documents_kept:,} kept"
    yield f"tokens       {counts.tokens:,}"
    yield f"sequences    {counts.sequences:,} of {snapshot.sequence_length} tokens"
    funnel = orjson.loads(read_bytes(join(store.path, "stats.json")))
    for source, entry in funnel.items():
        kept = entry.get("documents", 0)
        yield f"source {source}: {kept + sum(entry['dropped'].values()):,} in, {kept:,} kept"
        for rule, count in entry["dropped"].items():
            yield f"    {count:>9,} dropped by {rule}"
    for shard in snapshot.shards:
        yield f"{shard.path}  {shard.rows:,} rows, {shard.size_bytes:,} bytes"


def show_row(store: Store, place: str) -> Iterator[str]:
    """Decode one row, named as `SOURCE/SPLIT-00000:ROW`, document by document."""
    name, _, number = place.rpartition(":")
    entries = {entry.path: entry for entry in store.snapshot.shards}
    path = f"shards/{name}.arrow"
    if path not in entries or not number.isdigit():
        raise ValueError(f"{place} is no row: write SOURCE/SPLIT-00000:ROW as `show` lists them")
    shard = Shard(join(store.path, path))
    row = int(number)
    if row >= shard.rows:
        raise ValueError(f"{path} has {shard.rows} rows, there is no row {row}")
    before = sum(len(shard.document_starts(earlier)) for earlier in range(row))
    names = shard_documents(store, entries[path])
    tokenizer = open_tokenizer(tokenizer_root(store.root, store.snapshot.tokenizer))
    length = int(shard.lengths[row])
    yield f"{place}: {length} tokens, {shard.sequence_length - length} padding"
    for stretch in row_stretches(shard, row):
        before += stretch.begins
        yield f"  {names[before - 1]}: {tokenizer.decode(stretch.token_ids.tolist())!r}"


class Stretch(NamedTuple):
    """The part of a row that belongs to one document, and whether the document begins there."""

    begins: bool
    token_ids: TokenIds


def row_stretches(shard: Shard, row: int) -> Iterator[Stretch]:
    """Cut a row into its documents' parts, without separators and other special tokens.

    `<s> a b </s> c d </s> <pad>` with document starts [4] -> a b (continued), c d (begins).
    """
    ids, length = shard.token_ids([row])[0], int(shard.lengths[row])
    starts = shard.document_starts(row).tolist()
    bounds = starts if starts[:1] == [1] else [1, *starts]
    for start, stop in pairwise([*bounds, length]):
        yield Stretch(start in starts, ids[start : stop - 1])

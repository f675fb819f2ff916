"""Audit: recompute what a snapshot claims, from raw inputs to packed tokens.

Five kinds of proof, each by a path of its own rather than the one that made the data: every file
against its checksum; every input read and cleaned again, so that each document and each drop of a
rule stands where it should; every duplicate compared with its surviving witness by the readable
reference; all survivors that share a band compared with each other, none of which may be alike;
every document decoded from the shards and compared with its kept text.

It reads everything once and holds an id and two hashes a kept document.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from corpus.archives import InputFile
from corpus.documents import (
    DROP_SCHEMA,
    DUPLICATE_SCHEMA,
    KEPT_COLUMNS,
    add_digests,
    digest_rows,
    digest_table,
    format_digest,
    text_hash,
)
from corpus.files import checksum, exists, join, list_names, size_bytes
from corpus.forgotten import Forgotten, read_forgotten
from corpus.readers import read_records
from corpus.recipe import Dedup
from corpus.shards import Shard
from corpus.snapshots import Input, Part, ShardEntry, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.chain import open_chain
from pipeline.clean import Cleaner, Origin, input_name
from pipeline.dedup import read_nodes
from pipeline.explain import Store, shard_documents
from pipeline.index import KeySearch, UInt64s, find_buckets
from pipeline.keys import SET_BAND
from pipeline.order import find_alike
from pipeline.pairs import Candidates, compare, find_candidates
from pipeline.parquet import read_table
from pipeline.preference import preferences, scope_of
from pipeline.rows import document_texts, find_broken_rows
from pipeline.signatures import reference_shingles, sign

logger = logging.getLogger(__name__)

_Place = tuple[str, str, str, int]
_NOT_IN_MANIFEST = ("snapshot.json",)


class Audit(NamedTuple):
    """What an audit found: what is wrong, and what it could not check."""

    problems: list[str]
    not_checked: list[str]


def audit(store: Store) -> Audit:
    """Check everything; later checks are left out where files are already damaged."""
    logger.info("audit: checksums")
    problems = list(_check_files(store))
    if problems:
        return Audit(problems, ["all beyond the checksums, as files are damaged"])
    not_checked: list[str] = []
    logger.info("audit: inputs and rules")
    problems += _check_inputs(store, not_checked)
    logger.info("audit: counts")
    problems += _check_counts(store)
    logger.info("audit: duplicates")
    problems += _check_duplicates(store)
    logger.info("audit: survivors")
    problems += _check_survivors(store)
    logger.info("audit: shards")
    problems += _check_shards(store)
    return Audit(problems, not_checked)


def _check_files(store: Store) -> Iterator[str]:
    entries = store.snapshot.all_files
    for entry in entries:
        full = store.tree.find(entry.path)
        if not exists(full):
            yield f"{entry.path}: is missing"
        elif (size := size_bytes(full)) != entry.size_bytes:
            yield f"{entry.path}: has {size} bytes, the manifest says {entry.size_bytes}"
        elif (found := checksum(full)) != entry.checksum:
            yield f"{entry.path}: has checksum {found}, the manifest says {entry.checksum}"
    listed = {entry.path for entry in entries if entry.home == store.snapshot.label}
    for name in list_names(store.tree.root):
        if name not in listed and name not in _NOT_IN_MANIFEST and not name.startswith("records/"):
            yield f"{name}: is not in the manifest"
    directory = tokenizer_root(store.root, store.snapshot.tokenizer)
    if not exists(join(directory, "tokenizer.json")):
        yield f"{directory}: holds no tokenizer.json"
    elif (fingerprint := open_tokenizer(directory).fingerprint) != store.snapshot.tokenizer:
        yield f"{directory}: the tokenizer has fingerprint {fingerprint}"


def _check_inputs(store: Store, not_checked: list[str]) -> Iterator[str]:
    """Clean every input again and compare documents and drops with what is stored."""
    forgotten = read_forgotten(store.root)
    for source in store.snapshot.inputs:
        if not exists(source.path):
            not_checked.append(f"{source.source}: {source.name} is not at {source.path} any more")
            continue
        file = InputFile(source.path)
        expected = _clean_again(file, source, (store, forgotten))
        if file.checksum() != source.checksum:
            not_checked.append(f"{source.source}: {source.name} is another file by now")
        else:
            yield from _compare_input(store, source, expected)
        file.close()


def _clean_again(file: InputFile, source: Input, given: tuple[Store, Forgotten]) -> tuple[int, int]:
    store, forgotten = given
    config = store.recipe.clean
    records = read_records(file, source.format, config.max_record_bytes, source.options)
    origin = Origin(source.snapshot, source.source, source.name)
    documents = drops = 0
    cleaner = Cleaner(origin, open_chain(store.root, config), forgotten)
    for part in cleaner.parts(records):
        documents += digest_table(part.documents(), KEPT_COLUMNS)
        drops += digest_table(part.dropped(), DROP_SCHEMA.names)
    return documents, drops


def _compare_input(store: Store, source: Input, expected: tuple[int, int]) -> Iterator[str]:
    columns = (list(KEPT_COLUMNS), list(DROP_SCHEMA.names))
    prefix = input_name(source)
    for kind, names, wanted in zip(("clean", "dropped"), columns, expected, strict=True):
        found = 0
        for part in store.snapshot.parts:
            if part.name.rpartition("-")[0] == prefix:
                path = store.tree.find(f"{kind}/{part.name}.parquet")
                found += digest_table(read_table(path, columns=names), names)
        if format_digest(found) != format_digest(wanted):
            yield f"{source.source}: {source.name} read again gives other {kind} rows than stored"


def _check_counts(store: Store) -> Iterator[str]:
    """Count and digest kept and dropped rows and compare with the manifest."""
    counted: Counter[str] = Counter()
    digests = []
    for table in _drop_tables(store):
        counted.update(table["rule"].to_pylist())
        digests.append(format_digest(digest_table(table, DROP_SCHEMA.names)))
    manifest = store.snapshot.counts
    if dict(counted) != manifest.documents_dropped:
        yield f"dropped rows by rule are {dict(counted)}, expected {manifest.documents_dropped}"
    if add_digests(digests) != store.snapshot.dropped_digest:
        yield "the dropped rows have another digest than the manifest says"
    kept = 0
    digests = []
    for _, documents, gone in _clean_parts(store):
        kept += len(documents) - len(gone)
        mask = pa.array([row not in gone for row in range(len(documents))], pa.bool_())
        digests.append(format_digest(digest_table(documents.filter(mask), KEPT_COLUMNS)))
    if kept != manifest.documents_kept:
        yield f"there are {kept} kept documents, expected {manifest.documents_kept}"
    if add_digests(digests) != store.snapshot.kept_digest:
        yield "the kept rows have another digest than the manifest says"
    if manifest.documents_in != manifest.documents_kept + sum(manifest.documents_dropped.values()):
        yield f"in is not kept + dropped: {manifest}"


def _drop_tables(store: Store) -> Iterator[pa.Table]:
    for part in store.snapshot.parts:
        for kind in ("", ".dedup"):
            yield read_table(store.tree.find(f"dropped/{part.name}{kind}.parquet"))


def _clean_parts(store: Store) -> Iterator[tuple[Part, pa.Table, set[int]]]:
    """Give every part with its documents and the rows of it that were dropped as duplicates."""
    for part in store.snapshot.part_list():
        path = store.tree.find(f"duplicates/{part.name}.parquet")
        gone = set(read_table(path, columns=["row"])["row"].to_pylist())
        yield part, read_table(store.tree.find(f"clean/{part.name}.parquet")), gone


class _Text(NamedTuple):
    """A document that takes part in a duplicate."""

    text: str
    order: tuple[Any, ...]
    scope: str
    kept: bool


def _check_duplicates(store: Store) -> Iterator[str]:
    """Check every duplicate against its witness, and that each has its drop row."""
    rows = [
        row
        for part in store.snapshot.parts
        for row in read_table(store.tree.find(f"duplicates/{part.name}.parquet")).to_pylist()
    ]
    yield from _check_drop_rows(store, rows)
    wanted = {_place(row, prefix) for row in rows for prefix in ("", "witness_")}
    texts = _read_texts(store, wanted)
    for row in rows:
        own, witness = _place(row, ""), _place(row, "witness_")
        what = f"{own[0]} ({own[2]}, record {own[3]}), duplicate of {witness[0]}"
        if own not in texts or witness not in texts:
            yield f"{what}: there is no such document"
        elif not texts[witness].kept:
            yield f"{what}: its witness did not survive"
        else:
            yield from _check_pair(what, row, (texts[own], texts[witness]), store.recipe.dedup)


def _check_drop_rows(store: Store, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    names = [name for name in DUPLICATE_SCHEMA.names if name != "row"]
    expected = digest_rows([row[name] for name in names] for row in rows)
    columns = [{"method": "rule", "similarity": "value"}.get(name, name) for name in names]
    found = 0
    for table in _drop_tables(store):
        found += digest_table(table.filter(pa.compute.equal(table["stage"], "dedup")), columns)
    if format_digest(found) != format_digest(expected):
        yield "the drop rows of deduplication are not the rows of its duplicates"


def _place(row: dict[str, Any], prefix: str) -> _Place:
    snapshot, file, position = (row[f"{prefix}{key}"] for key in ("snapshot", "file", "position"))
    return row[f"{prefix}id"], snapshot, file, position


def _read_texts(store: Store, wanted: set[_Place]) -> dict[_Place, _Text]:
    config = store.recipe.dedup
    texts: dict[_Place, _Text] = {}
    for part, documents, gone in _clean_parts(store):
        columns = (documents[n].to_pylist() for n in ("id", "snapshot", "file", "position"))
        rows = [row for row, place in enumerate(zip(*columns, strict=True)) if place in wanted]
        chosen = documents.take(pa.array(rows, pa.int64()))
        scope = scope_of(part.snapshot, part.source, config)
        better = preferences(chosen, config)
        for row, fields, preference in zip(rows, chosen.to_pylist(), better, strict=True):
            place, text = _place(fields, ""), fields["text"]
            order = (part.position, preference, text_hash(text), place[0], *place[2:])
            texts[place] = _Text(text, order, scope, row not in gone)
    return texts


def _check_pair(
    what: str, row: dict[str, Any], pair: tuple[_Text, _Text], config: Dedup
) -> Iterator[str]:
    own, witness = pair
    if own.scope != witness.scope:
        yield f"{what}: they are not to be compared, dedup.scope is {config.scope}"
    if witness.order >= own.order:
        yield f"{what}: its witness comes after it in the order"
    if row["method"] == "same_id" and row["id"] != row["witness_id"]:
        yield f"{what}: their ids differ"
    if row["method"] == "exact" and text_hash(own.text) != text_hash(witness.text):
        yield f"{what}: their normalized texts differ"
    if row["method"] == "minhash":
        found = _similarity(own.text, witness.text, config)
        if found != row["similarity"] or found < config.threshold:
            yield (
                f"{what}: their similarity is {found!r}, stored is {row['similarity']!r}, "
                f"the threshold {config.threshold}"
            )


def _similarity(text: str, other: str, config: Dedup) -> float:
    if config.verify == "signature":
        first, second = (sign([each], config).signatures[0] for each in (text, other))
        return int((first == second).sum()) / len(first)
    one, two = (reference_shingles(each, config.ngram) for each in (text, other))
    return len(one & two) / len(one | two)


def _check_survivors(store: Store) -> Iterator[str]:
    """Show that no two survivors with one id, text or shingle set, or alike, share a band."""
    corpus = store.corpus
    search = KeySearch(store.tree, corpus)
    for low, high in search.rounds(0, 2**64):
        buckets = find_buckets(search.survivors(search.read(low, high)), np.uint64(0))
        values = buckets.band >= SET_BAND
        for number in np.unique(buckets.number[values]).tolist():
            chosen = buckets.document[buckets.number == number]
            yield f"{_ids(store, chosen)}: survive with one id, text or set of shingles"
        candidates = find_candidates(store.tree, corpus, buckets.where(~values))
        for left, right, similarity in _alike(store, candidates):
            names = _ids(store, np.array([left, right], np.uint64))
            yield f"{names}: survive with similarity {similarity:.4f}"


def _alike(store: Store, candidates: Candidates) -> Iterator[tuple[int, int, float]]:
    given = store.tree, store.corpus
    for found in candidates.pairs():
        rows = compare(*given, (found[:, 0], found[:, 1]), store.recipe.dedup)
        yield from ((left, right, shared / total) for left, right, shared, total in rows.tolist())
    yield from find_alike(*given, store.recipe.dedup, candidates.large)


def _ids(store: Store, documents: UInt64s) -> str:
    nodes = read_nodes(store.tree, store.recipe.dedup, store.corpus, documents)
    return " and ".join(node.id for node in nodes)


def _check_shards(store: Store) -> Iterator[str]:
    """Decode every document from the shards and compare it with its kept text."""
    tokenizer = open_tokenizer(tokenizer_root(store.root, store.snapshot.tokenizer))
    unseen: dict[tuple[str, str], bytes] = {}
    for part, documents, gone in _clean_parts(store):
        columns = zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True)
        for row, (identity, text) in enumerate(columns):
            if row not in gone:
                unseen[part.snapshot, identity] = _digest(text)
    tokens = 0
    for entry in store.snapshot.shards:
        shard = Shard(store.tree.find(entry.path))
        yield from _check_rows(shard, entry, store, tokenizer.mask_id)
        names = shard_documents(store, entry)
        texts = list(document_texts(shard, tokenizer))
        tokens += sum(length for _, length in texts)
        if len(texts) != len(names):
            yield f"{entry.path}: holds {len(texts)} documents, expected {len(names)}"
        for identity, (text, _) in zip(names, texts, strict=False):
            if unseen.pop((entry.snapshot, identity), None) != _digest(text):
                yield f"{entry.path}: {identity} decodes to another text than was kept"
    for _, identity in sorted(unseen):
        yield f"{identity}: was kept and is in no shard"
    if tokens != store.snapshot.counts.tokens:
        yield f"the shards hold {tokens} tokens, the manifest says {store.snapshot.counts.tokens}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _check_rows(shard: Shard, entry: ShardEntry, store: Store, mask_id: int) -> Iterator[str]:
    if shard.tokenizer_fingerprint != store.snapshot.tokenizer:
        yield f"{entry.path}: was made with the tokenizer {shard.tokenizer_fingerprint}"
    if shard.rows != entry.rows or shard.sequence_length != store.snapshot.sequence_length:
        yield f"{entry.path}: has {shard.rows} rows of {shard.sequence_length}"
    for complaint in find_broken_rows(shard, mask_id):
        yield f"{entry.path}: {complaint}"

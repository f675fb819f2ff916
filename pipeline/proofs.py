"""Audit: recompute what a snapshot claims, from raw inputs to packed tokens.

Six kinds of proof: every file against its checksum; every input read and cleaned again, so that
each document and each drop of a rule stands where it should; every document signed again; every
duplicate compared with its surviving witness by the readable reference; all survivors that share a
band compared with each other, none of which may be alike (audit_dedup.py); every kept document
encoded again and compared with its tokens, and both, ids and word starts, with what the shards hold
of it, which is also decoded and compared with the text.

It reads inputs, shards and duplicates once and the documents several times. It holds one part of
them, two digests an input, an id and two hashes a kept document, and what audit_dedup.py says it
holds.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.archives import InputFile
from corpus.documents import (
    DIGEST_MODULUS,
    DROP_SCHEMA,
    KEPT_COLUMNS,
    add_digests,
    digest_rows,
    digest_table,
    format_digest,
)
from corpus.files import checksum, exists, join, list_names, size_bytes
from corpus.forgotten import Forgotten, read_forgotten
from corpus.readers import read_records
from corpus.shards import Shard
from corpus.snapshots import Input, Part, ShardEntry, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.audit_dedup import check_duplicates, check_index, check_survivors, drop_tables
from pipeline.chain import open_chain
from pipeline.clean import Cleaner, Origin
from pipeline.cuts import Read, join_inputs, of_file
from pipeline.encode import Encoder, encode_documents
from pipeline.explain import Store, shard_documents
from pipeline.parquet import read_table
from pipeline.rows import document_tokens, find_broken_rows
from pipeline.stretch import open_arrow
from pipeline.takedown import find_affected

logger = logging.getLogger(__name__)

_Place = tuple[str, str, str, int]
_NOT_IN_MANIFEST = ("snapshot.json",)
# What cleaning makes of an input, and the columns that are compared.
_TABLES: dict[str, Sequence[str]] = {"clean": KEPT_COLUMNS, "dropped": DROP_SCHEMA.names}
_PLACE = ("snapshot", "source", "file")
# Digests of rows by the place of their file.
_Digests = dict[tuple[str, str, str], int]


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
    problems += _check_takedowns(store)
    logger.info("audit: inputs and rules")
    problems += _check_inputs(store, not_checked)
    logger.info("audit: counts")
    problems += _check_counts(store)
    logger.info("audit: signatures")
    wrong = list(check_index(store))
    if wrong:
        problems += wrong
        not_checked.append("duplicates and survivors, as their index is wrong")
    else:
        problems += _check_dedup(store)
    logger.info("audit: shards")
    problems += _check_shards(store)
    return Audit(problems, not_checked)


def _check_dedup(store: Store) -> Iterator[str]:
    logger.info("audit: duplicates")
    yield from check_duplicates(store)
    logger.info("audit: survivors")
    yield from check_survivors(store)


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


def _check_takedowns(store: Store) -> Iterator[str]:
    forgotten = read_forgotten(store.root)
    if not forgotten.is_empty:
        for name in find_affected(store.snapshot, store.tree, forgotten):
            yield (
                f"part {name}: holds documents that were taken down: where the command that does "
                "it was killed, run it again; the next refresh finishes it too"
            )


def _check_inputs(store: Store, not_checked: list[str]) -> Iterator[str]:
    """Clean every input again and compare documents and drops with what is stored."""
    stored = {kind: _digest_stored(store, kind) for kind in _TABLES}
    again = _Again(store, read_forgotten(store.root))
    for group in join_inputs(store.snapshot.inputs):
        wanted, checksums = again.clean([each for each in group if exists(each.path)])
        for source in group:
            name = f"{source.source}: {source.name}"
            place = source.snapshot, source.source, source.name
            found = {kind: digests.pop(place, 0) for kind, digests in stored.items()}
            if source.name not in checksums:
                not_checked.append(f"{name} is not at {source.path} any more")
            elif checksums[source.name] != source.checksum:
                not_checked.append(f"{name} is another file by now")
            else:
                odd = [kind for kind in _TABLES if found[kind] != wanted[kind][place]]
                yield from (
                    f"{name} read again gives other {kind} rows than stored" for kind in odd
                )
    for _, source_name, file in sorted(set().union(*stored.values())):
        yield f"{source_name}: there are rows of {file}, which is no input"


class _Again(NamedTuple):
    """Cleans inputs of a store once more."""

    store: Store
    forgotten: Forgotten

    def clean(self, inputs: Sequence[Input]) -> tuple[dict[str, _Digests], dict[str, str]]:
        """Return the digests of the rows of some inputs by kind, and the files' checksums by name.

        All are of one delivery and source.
        """
        wanted: dict[str, _Digests] = {kind: defaultdict(int) for kind in _TABLES}
        checksums: dict[str, str] = {}
        if inputs:
            origin = Origin(inputs[0].snapshot, inputs[0].source)
            chain = open_chain(self.store.root, self.store.recipe.clean)
            cleaner = Cleaner(origin, chain, self.forgotten)
            for part in cleaner.parts(self._read(inputs, checksums)):
                _add_digests(wanted["clean"], part.documents(), KEPT_COLUMNS)
                _add_digests(wanted["dropped"], part.dropped(), DROP_SCHEMA.names)
        return wanted, checksums

    def _read(self, inputs: Sequence[Input], checksums: dict[str, str]) -> Iterator[Read]:
        limit = self.store.recipe.clean.max_record_bytes
        for source in inputs:
            with closing(InputFile(source.path)) as file:
                records = read_records(file, source.format, limit, source.options)
                yield from of_file(source.name, records)
                checksums[source.name] = file.checksum()


def _digest_stored(store: Store, kind: str) -> _Digests:
    """Return the digests of the rows that are stored of a kind."""
    found: _Digests = defaultdict(int)
    for part in store.snapshot.parts:
        path = store.tree.find(f"{kind}/{part.name}.parquet")
        _add_digests(found, read_table(path, columns=[*_TABLES[kind]]), _TABLES[kind])
    return found


def _add_digests(found: _Digests, table: pa.Table, columns: Sequence[str]) -> None:
    """Add the digests of rows to those of their files."""
    places = zip(*(table[name].to_pylist() for name in _PLACE), strict=True)
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for place, row in zip(places, rows, strict=True):
        found[place] = (found[place] + digest_rows([row])) % DIGEST_MODULUS


def _check_counts(store: Store) -> Iterator[str]:
    """Count and digest dropped rows and compare with the manifest, which has to add up."""
    counted: Counter[str] = Counter()
    digests = []
    for table in drop_tables(store):
        counted.update(table["rule"].to_pylist())
        digests.append(format_digest(digest_table(table, DROP_SCHEMA.names)))
    manifest = store.snapshot.counts
    if dict(counted) != manifest.documents_dropped:
        yield f"dropped rows by rule are {dict(counted)}, expected {manifest.documents_dropped}"
    if add_digests(digests) != store.snapshot.dropped_digest:
        yield "the dropped rows have another digest than the manifest says"
    if manifest.documents_in != manifest.documents_kept + sum(manifest.documents_dropped.values()):
        yield f"in is not kept + dropped: {manifest}"


def _clean_parts(store: Store) -> Iterator[tuple[Part, pa.Table, set[int]]]:
    """Give every part with its documents and the rows of it that were dropped as duplicates."""
    for part in store.snapshot.part_list():
        path = store.tree.find(f"duplicates/{part.name}.parquet")
        gone = set(read_table(path, columns=["row"])["row"].to_pylist())
        yield part, read_table(store.tree.find(f"clean/{part.name}.parquet")), gone


def _check_shards(store: Store) -> Iterator[str]:
    """Compare every document in the shards with its kept text and with its tokens."""
    tokenizer = open_tokenizer(tokenizer_root(store.root, store.snapshot.tokenizer))
    unseen: dict[tuple[str, str], tuple[bytes, bytes]] = {}
    yield from _encode_again(store, Encoder(tokenizer), unseen)
    tokens = 0
    for entry in store.snapshot.shards:
        shard = Shard(store.tree.find(entry.path))
        yield from _check_rows(shard, entry, store, tokenizer.mask_id)
        names = shard_documents(store, entry)
        found = list(document_tokens(shard))
        tokens += sum(len(ids) for ids, _ in found)
        if len(found) != len(names):
            yield f"{entry.path}: holds {len(found)} documents, expected {len(names)}"
        for identity, (ids, starts) in zip(names, found, strict=False):
            text, encoded = unseen.pop((entry.snapshot, identity), (b"", b""))
            if text != _digest(tokenizer.decode(ids.tolist())):
                yield f"{entry.path}: {identity} decodes to another text than was kept"
            elif encoded != _digest_tokens(ids, starts):
                yield f"{entry.path}: {identity} has other tokens or word starts than its text"
    for _, identity in sorted(unseen):
        yield f"{identity}: was kept and is in no shard"
    if tokens != store.snapshot.counts.tokens:
        yield f"the shards hold {tokens} tokens, the manifest says {store.snapshot.counts.tokens}"


def _encode_again(
    store: Store, encoder: Encoder, digests: dict[tuple[str, str], tuple[bytes, bytes]]
) -> Iterator[str]:
    """Encode every kept document again, compare it with its tokens file, note what it has to be.

    What is kept is counted and digested on the way, and compared with the manifest.
    """
    parts = []
    for part, documents, gone in _clean_parts(store):
        mask = np.ones(len(documents), np.bool_)
        mask[list(gone)] = False
        table, counts = encode_documents(documents.select(KEPT_COLUMNS), mask, encoder)
        parts.append(counts)
        kept = documents.filter(pa.array(mask))
        path = f"tokens/{part.name}.arrow"
        if not table.equals(open_arrow(store.tree.find(path))):
            yield f"{path}: its documents encoded again give other tokens, sentences or words"
        texts = dict(zip(kept["id"].to_pylist(), kept["text"].to_pylist(), strict=True))
        for batch in table.to_batches():
            lists = (batch["token_ids"], batch["word_starts"])
            rows = zip(*(each.to_numpy(zero_copy_only=False) for each in lists), strict=True)
            for identity, (ids, starts) in zip(batch["id"].to_pylist(), rows, strict=True):
                known = _digest(texts[identity]), _digest_tokens(ids, starts)
                digests[part.snapshot, identity] = known
    kept, expected = sum(part["documents"] for part in parts), store.snapshot.counts.documents_kept
    if kept != expected:
        yield f"there are {kept} kept documents, expected {expected}"
    if add_digests(part["kept_digest"] for part in parts) != store.snapshot.kept_digest:
        yield "the kept rows have another digest than the manifest says"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _digest_tokens(ids: npt.NDArray[Any], starts: npt.NDArray[np.bool_]) -> bytes:
    return hashlib.sha256(ids.astype(np.uint32).tobytes() + np.packbits(starts).tobytes()).digest()


def _check_rows(shard: Shard, entry: ShardEntry, store: Store, mask_id: int) -> Iterator[str]:
    if shard.tokenizer_fingerprint != store.snapshot.tokenizer:
        yield f"{entry.path}: was made with the tokenizer {shard.tokenizer_fingerprint}"
    if shard.rows != entry.rows or shard.sequence_length != store.snapshot.sequence_length:
        yield f"{entry.path}: has {shard.rows} rows of {shard.sequence_length}"
    for complaint in find_broken_rows(shard, mask_id):
        yield f"{entry.path}: {complaint}"

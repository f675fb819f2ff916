"""Audit: recompute what a snapshot claims, from raw inputs to packed tokens.

Six kinds of proof: every file against its checksum; every input read and cleaned again, so that
each document and each drop of a rule stands where it should (audit_inputs.py); every document
signed again; every duplicate compared with its surviving witness by the readable reference; all
survivors that share a band compared with each other, none of which may be alike (audit_dedup.py);
every kept document encoded again and compared with its tokens, and these, ids and word starts, with
what the shards hold of it, which is also decoded and compared with the text (audit_shards.py).

All of it is done in tasks of bounded size, which a `Pool` runs here or on Ray; nothing is written,
so an audit that was killed begins anew. It reads small inputs, shards and duplicates once, large
inputs and the documents several times.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from corpus.documents import DROP_SCHEMA, digest_table, format_digest
from corpus.files import checksum, exists, join, list_names, size_bytes
from corpus.forgotten import read_forgotten
from corpus.snapshots import FileEntry, Part, ShardEntry, Snapshot, Tree, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.audit_dedup import check_duplicates, check_index, check_survivors, drop_tables
from pipeline.audit_inputs import check_inputs
from pipeline.audit_shards import check_shards
from pipeline.explain import Store
from pipeline.jobs import HERE, Pool, in_runs
from pipeline.takedown import find_affected

logger = logging.getLogger(__name__)

_NOT_IN_MANIFEST = ("snapshot.json",)
# Kept text, or raw files, that one process has audited by the time that Ray would have saved what
# its start takes: on two cores 100 MB take 16 s without it and 22 with it, 1.7 GB 154 and 89.
_SMALL_BYTES = 256 * 2**20


class Audit(NamedTuple):
    """What an audit found: what is wrong, and what it could not check."""

    problems: list[str]
    not_checked: list[str]


def audit(store: Store, pool: Pool = HERE) -> Audit:
    """Check everything; later checks are left out where files are already damaged."""
    logger.info("audit: checksums")
    problems = list(_check_files(store, pool))
    if problems:
        return Audit(problems, ["all beyond the checksums, as files are damaged"])
    not_checked: list[str] = []
    problems += _check_takedowns(store, pool)
    logger.info("audit: inputs and rules")
    problems += check_inputs(store, pool, not_checked)
    logger.info("audit: counts")
    problems += _check_counts(store, pool)
    logger.info("audit: signatures")
    wrong = list(check_index(store, pool))
    if wrong:
        problems += wrong
        not_checked.append("duplicates and survivors, as their index is wrong")
    else:
        problems += _check_dedup(store, pool)
    logger.info("audit: shards")
    problems += check_shards(store, pool, not_checked)
    return Audit(problems, not_checked)


def workers_for(snapshot: Snapshot) -> int | None:
    """Return how many workers an audit takes where none are named: `None` is one a CPU."""
    kept_bytes = sum(part.text_bytes for part in snapshot.parts)
    raw_bytes = sum(source.size_bytes for source in snapshot.inputs)
    return 1 if max(kept_bytes, raw_bytes) < _SMALL_BYTES else None


def _check_dedup(store: Store, pool: Pool) -> Iterator[str]:
    logger.info("audit: duplicates")
    yield from check_duplicates(store, pool)
    logger.info("audit: survivors")
    yield from check_survivors(store, pool)


def _check_files(store: Store, pool: Pool) -> Iterator[str]:
    entries = store.snapshot.all_files
    runs = in_runs(entries, lambda entry: entry.size_bytes)
    for problems in pool.map("checksums", _check_some, runs, store.tree):
        yield from problems
    listed = {entry.path for entry in entries if entry.home == store.snapshot.label}
    for name in list_names(store.tree.root):
        if name not in listed and name not in _NOT_IN_MANIFEST and not name.startswith("records/"):
            yield f"{name}: is not in the manifest"
    directory = tokenizer_root(store.root, store.snapshot.tokenizer)
    if not exists(join(directory, "tokenizer.json")):
        yield f"{directory}: holds no tokenizer.json"
    elif (fingerprint := open_tokenizer(directory).fingerprint) != store.snapshot.tokenizer:
        yield f"{directory}: the tokenizer has fingerprint {fingerprint}"


_Entry = FileEntry | ShardEntry


def _check_some(entries: Sequence[_Entry], tree: Tree) -> list[str]:
    return [problem for entry in entries for problem in _check_file(entry, tree.find(entry.path))]


def _check_file(entry: _Entry, full: str) -> Iterator[str]:
    if not exists(full):
        yield f"{entry.path}: is missing"
    elif (size := size_bytes(full)) != entry.size_bytes:
        yield f"{entry.path}: has {size} bytes, the manifest says {entry.size_bytes}"
    elif (found := checksum(full)) != entry.checksum:
        yield f"{entry.path}: has checksum {found}, the manifest says {entry.checksum}"


def _check_takedowns(store: Store, pool: Pool) -> Iterator[str]:
    forgotten = read_forgotten(store.root)
    if not forgotten.is_empty:
        for name in find_affected(store.snapshot, store.tree, forgotten, pool):
            yield (
                f"part {name}: holds documents that were taken down: where the command that does "
                "it was killed, run it again; the next refresh finishes it too"
            )


def _check_counts(store: Store, pool: Pool) -> Iterator[str]:
    """Count and digest dropped rows and compare with the manifest, which has to add up."""
    counted: Counter[str] = Counter()
    digest = 0
    for rules, digested in pool.map("drops", _count_drops, store.snapshot.part_list(), store.tree):
        counted.update(rules)
        digest += digested
    manifest = store.snapshot.counts
    if dict(counted) != manifest.documents_dropped:
        yield f"dropped rows by rule are {dict(counted)}, expected {manifest.documents_dropped}"
    if format_digest(digest) != store.snapshot.dropped_digest:
        yield "the dropped rows have another digest than the manifest says"
    if manifest.documents_in != manifest.documents_kept + sum(manifest.documents_dropped.values()):
        yield f"in is not kept + dropped: {manifest}"


def _count_drops(part: Part, tree: Tree) -> tuple[Counter[str], int]:
    """Count the drop rows of a part by rule, and digest them."""
    table = pa.concat_tables(drop_tables(tree, part))
    return Counter(table["rule"].to_pylist()), digest_table(table, DROP_SCHEMA.names)

"""Learns the list of boilerplate: lines that many kept documents of a store hold.

It reads the kept documents of the newest snapshot, so the list belongs into a recipe whose store is
a new one: duplicates count once, and the text is what cleaning left of it. Three stages of small
tasks: count the documents of every line's hash, part by part, as sorted runs; merge the runs by
ranges of the hash; then, of the hashes that are common, count the lines themselves, so that lines
that share a hash stay apart and no line is listed by chance. A line counts once a document.

Memory is a part's lines (16 bytes each), a range of all runs, and the common lines. The files of
the stages lie beside the list until it is written; the same command again goes on after a kill.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import (
    absolute,
    check_absolute_in_job,
    is_remote,
    open_reader,
    read_bytes,
    remove_tree,
    write_bytes,
)
from corpus.recipe import Recipe
from corpus.snapshots import Snapshot, Tree, open_snapshot
from pipeline.boilerplate import VERSION, Boilerplate, hash_lines
from pipeline.clean import kept_mask
from pipeline.index import column_values
from pipeline.jobs import Output, Stages, Task
from pipeline.kernels import Int64s, UInt64s
from pipeline.signatures import write_arrow
from pipeline.spans import bytes_of
from pipeline.stretch import open_arrow

# Entries of all runs that one merging task holds: 16 bytes each and as much to sort. Guess.
_ENTRIES_A_MERGE = 2**24
_BATCH_ROWS = 1024  # documents read at a time: a row group of ours

_RUN_SCHEMA = pa.schema([("hash", pa.uint64()), ("documents", pa.int64())])


def boilerplate(recipe: Recipe, out: str, min_documents: int) -> Iterator[str]:
    """Learn the lines that at least so many kept documents of the recipe's store hold.

    Write them to `out`; give lines of text that say what was found.
    """
    if min_documents < 2:
        raise ValueError(
            f"min_documents is {min_documents}: a line of one document repeats nothing"
        )
    for kind, path in (("store", recipe.store), ("list", out)):
        check_absolute_in_job(kind, path)
    if not is_remote(out) and Path(out).is_dir():
        raise ValueError(f"{out} is a directory, expected a file to write the list to")
    snapshot = open_snapshot(recipe.store)
    stages = Stages(_work_tree(recipe.store, snapshot, out), recipe.workers)
    try:
        learned = _learn(snapshot, stages, min_documents)
    finally:
        stages.close()
    write_bytes(out, learned.to_bytes())
    remove_tree(stages.root)
    kept = snapshot.counts.documents_kept
    yield f"{len(learned.lines):,} lines are in {min_documents:,} or more of {kept:,} documents"
    for line in sorted(learned.lines, key=lambda line: (-learned.lines[line], line))[:10]:
        yield f"{learned.lines[line]:>9,}  {line[:80]}"
    yield f"wrote {out} {learned.fingerprint}"


def _work_tree(store: str, snapshot: Snapshot, out: str) -> Tree:
    """Return a tree that reads the snapshot's documents and writes beside the list."""
    tree = snapshot.tree(absolute(store))
    paths = [
        path
        for part in snapshot.parts
        for path in (f"clean/{part.name}.parquet", f"duplicates/{part.name}.parquet")
    ]
    homes = {path: tree.find(path).removesuffix(f"/{path}") for path in paths}
    return Tree(f"{absolute(out)}.work", homes)


def _learn(snapshot: Snapshot, stages: Stages, min_documents: int) -> Boilerplate:
    parts = [part.name for part in snapshot.part_list()]
    identity = _identity(snapshot.fingerprint, min_documents)
    counted = stages.run(
        "count", [Task(f"{part}-{identity}", count_part, (part,)) for part in parts]
    )
    runs = [path for record in counted.values() for path in _paths(record.files)]
    entries = sum(record.counts["lines"] for record in counted.values())
    shares = 1 + entries // _ENTRIES_A_MERGE
    merging = [
        Task(f"{n:05d}-of-{shares:05d}-{identity}", merge, (runs, (n, shares), min_documents))
        for n in range(shares)
    ]
    merged = stages.run("merge", merging)
    common = [path for record in merged.values() for path in _paths(record.files)]
    spelling = [Task(f"{part}-{identity}", spell_part, (part, common)) for part in parts]
    spelled = stages.run("spell", spelling)
    total: Counter[str] = Counter()
    for record in spelled.values():
        for path in _paths(record.files):
            total.update(orjson.loads(read_bytes(stages.tree.own(path))))
    head = {"min_documents": min_documents, "snapshot": snapshot.fingerprint, "version": VERSION}
    lines = {line: count for line, count in total.items() if count >= min_documents}
    return Boilerplate(head, lines)


def _identity(fingerprint: str, min_documents: int) -> str:
    return hashlib.sha256(f"{fingerprint}:{min_documents}:{VERSION}".encode()).hexdigest()[:16]


def _paths(files: Sequence[dict[str, str]]) -> list[str]:
    return [entry["path"] for entry in files]


def kept_batches(tree: Tree, part: str) -> Iterator[pa.Array]:
    """Give the texts of a part's kept documents."""
    path = tree.find(f"clean/{part}.parquet")
    done = 0
    with open_reader(path) as stream:
        file = pq.ParquetFile(stream)
        mask = kept_mask(tree, part, file.metadata.num_rows)
        for batch in file.iter_batches(_BATCH_ROWS, columns=["text"]):
            yield batch["text"].filter(pa.array(mask[done : done + len(batch)]))
            done += len(batch)


def count_part(tree: Tree, task: str, part: str) -> Output:
    """Count in how many documents of a part each line's hash is; write a sorted run."""
    found = [np.empty(0, np.uint64)]
    for texts in kept_batches(tree, part):
        lines = hash_lines(*bytes_of(texts))
        found.append(_once_a_document(lines.owners, lines.hashes)[1])
    hashes, documents = np.unique(np.concatenate(found), return_counts=True)
    return _write_run(tree, f"count/{task}.arrow", hashes, documents)


def _once_a_document(owners: Int64s, hashes: UInt64s) -> tuple[Int64s, UInt64s]:
    """Return the places of the first of equal lines of each document, and their hashes."""
    order = np.lexsort((hashes, owners))
    repeated = (np.diff(owners[order]) == 0) & (np.diff(hashes[order]) == 0)
    places = order[np.concatenate([np.ones(min(1, len(order)), bool), ~repeated])]
    return places, hashes[places]


def _write_run(tree: Tree, path: str, hashes: UInt64s, documents: Int64s) -> Output:
    write_arrow(tree.own(path), pa.table([hashes, documents], schema=_RUN_SCHEMA))
    return Output((path,), {"lines": len(hashes)})


def merge(
    tree: Tree, task: str, runs: Sequence[str], share: tuple[int, int], min_documents: int
) -> Output:
    """Add up runs in one of so many equal ranges of the hash; keep what enough documents hold."""
    number, total = share
    low, high = (number << 64) // total, ((number + 1) << 64) // total - 1
    hashes, documents = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for path in runs:
        run = open_arrow(tree.own(path))
        values = column_values(run, "hash")
        start = np.searchsorted(values, np.uint64(low), "left")
        stop = np.searchsorted(values, np.uint64(high), "right")
        hashes.append(values[start:stop])
        documents.append(column_values(run, "documents")[start:stop])
    distinct, places = np.unique(np.concatenate(hashes), return_inverse=True)
    added = np.zeros(len(distinct), np.int64)
    np.add.at(added, places, np.concatenate(documents))
    common = added >= min_documents
    return _write_run(tree, f"merge/{task}.arrow", distinct[common], added[common])


def spell_part(tree: Tree, task: str, part: str, common: Sequence[str]) -> Output:
    """Count in how many documents of a part each line with a common hash is, as it is spelt."""
    columns = [column_values(open_arrow(tree.own(path)), "hash") for path in common]
    wanted = np.concatenate([np.empty(0, np.uint64), *columns])
    counts: Counter[str] = Counter()
    for texts in kept_batches(tree, part):
        data, ends = bytes_of(texts)
        lines = hash_lines(data, ends)
        chosen = np.flatnonzero(_among(lines.hashes, wanted))
        spans = zip(lines.starts[chosen].tolist(), lines.stops[chosen].tolist(), strict=True)
        spelled = [data[start:stop].tobytes().decode() for start, stop in spans]
        counts.update(
            line for _, line in set(zip(lines.owners[chosen].tolist(), spelled, strict=True))
        )
    path = f"spell/{task}.json"
    write_bytes(tree.own(path), orjson.dumps(counts, option=orjson.OPT_SORT_KEYS))
    return Output((path,), {"lines": len(counts)})


def _among(values: UInt64s, listed: UInt64s) -> npt.NDArray[np.bool_]:
    """Tell which values are among sorted ones."""
    if not len(listed):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(listed, values), len(listed) - 1)
    return np.asarray(listed[places] == values)

"""What held a document that was taken down, and how its text leaves the disk.

`find_holdings` lists every snapshot and every packed sequence that held one of the documents.
`purge` marks each of those snapshots withdrawn and then deletes from their directories what holds
the text: documents, excerpts, index, tokens, shards and reports, and whatever a killed command left
behind. Killed itself, it is finished by running it again. `out_of_reach` names what no command of
ours can clean: raw inputs, the tokenizer's merges, the list of repeated lines, checkpoints and what
was exported from them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from corpus.files import exists, join, list_names, remove, remove_tree
from corpus.forgotten import COVERED_BY, Forgotten, read_forgotten
from corpus.lease import holding
from corpus.shards import Shard
from corpus.snapshots import (
    Snapshot,
    list_snapshots,
    open_snapshot,
    read_manifest,
    snapshot_root,
    withdraw,
)
from pipeline.clean import input_name, kept_mask
from pipeline.explain import Store, shard_documents, shard_of
from pipeline.nearest import nearest_path
from pipeline.parquet import read_table
from pipeline.rows import document_rows

_REPORTS = ("report.html", "stats.json")


class Holding(NamedTuple):
    """Where a document of the list is or was packed: rows of a shard of some snapshots."""

    document: str
    snapshots: tuple[str, ...]
    shard: str
    first_row: int
    last_row: int


def find_holdings(store: str, forgotten: Forgotten) -> Iterator[Holding]:
    """Give the packed sequences of every snapshot that hold a document of the list."""
    found: dict[tuple[str, str, int, int], list[str]] = defaultdict(list)
    shard_rows: dict[str, tuple[dict[str, int], list[list[tuple[int, int]]]]] = {}
    for snapshot in _manifests(store):
        view = Store(store, snapshot.tree(store), snapshot)
        for row in _covered(view, forgotten):
            entry = shard_of(view, row["snapshot"], row["source"], row["id"])
            path = view.tree.find(entry.path)
            if not exists(path):
                continue  # purged before
            if path not in shard_rows:
                order = {name: n for n, name in enumerate(shard_documents(view, entry))}
                shard_rows[path] = order, document_rows(Shard(path))
            order, rows = shard_rows[path]
            for first, last in rows[order[row["id"]]]:
                found[row["id"], f"{entry.home}/{entry.path}", first, last].append(snapshot.label)
    for (identity, shard, first, last), labels in sorted(found.items()):
        yield Holding(identity, tuple(labels), shard, first, last)


def _manifests(store: str) -> Iterator[Snapshot]:
    for label in list_snapshots(store):
        snapshot = read_manifest(store, label)
        assert snapshot is not None
        yield snapshot


def _covered(view: Store, forgotten: Forgotten) -> Iterator[dict[str, str]]:
    """Give the kept documents of a snapshot that are on the list."""
    for part in view.snapshot.parts:
        path = view.tree.find(f"clean/{part.name}.parquet")
        if not exists(path):
            continue  # purged before
        columns = ["id", "source", "url", "text_hash", "snapshot"]
        rows = read_table(path, columns=columns).to_pylist()
        covered = [n for n, row in enumerate(rows) if forgotten.covers(row)]
        if covered:
            kept = kept_mask(view.tree, part.name, len(rows))
            yield from (rows[n] for n in covered if kept[n])


def purge(store: str) -> list[str]:
    """Delete what holds the text of forgotten documents; return the labels withdrawn.

    Nobody else may be at work: the files of a command in progress look like those of a killed one.
    """
    newest = open_snapshot(store)
    with holding(store, f"purge after {newest.label}"):
        return _purge(store, open_snapshot(store), read_forgotten(store))


def _purge(store: str, successor: Snapshot, forgotten: Forgotten) -> list[str]:
    withdrawn, doomed = [], set()
    for snapshot, holds in _find_doomed(store, successor, forgotten):
        withdraw(store, snapshot.label, successor.label)
        withdrawn.append(snapshot.label)
        doomed |= holds | {(snapshot.label, name) for name in _REPORTS}
    for home, path in sorted(doomed):
        remove(join(snapshot_root(store, home), path))
    complete = set(list_snapshots(store))
    for label in {name.split("/")[0] for name in list_names(join(store, "snapshots"))} - complete:
        remove_tree(snapshot_root(store, label))
    return withdrawn


def labels_that_hold(store: str, forgotten: Forgotten) -> list[str]:
    """Return the older snapshots on whose files the text of a document of the list still is."""
    return [
        snapshot.label
        for snapshot, holds in _find_doomed(store, open_snapshot(store), forgotten)
        if any(exists(join(snapshot_root(store, home), path)) for home, path in holds)
    ]


def _find_doomed(
    store: str, successor: Snapshot, forgotten: Forgotten
) -> Iterator[tuple[Snapshot, set[tuple[str, str]]]]:
    """Give each other snapshot that held a document of the list, with the files that hold it."""
    needed = {(each.home, each.path) for each in successor.all_files}
    for snapshot in _manifests(store):
        if snapshot.label != successor.label:
            holds = set(_holding_files(store, snapshot, forgotten)) - needed
            if holds:
                yield snapshot, holds


def _holding_files(
    store: str, snapshot: Snapshot, forgotten: Forgotten
) -> Iterator[tuple[str, str]]:
    """Give the files (home, path) of a snapshot that hold a document of the list."""
    view = Store(store, snapshot.tree(store), snapshot)
    homes = {each.path: each.home for each in snapshot.all_files}
    for part in snapshot.parts:
        clean, excerpts = f"clean/{part.name}.parquet", nearest_path(part.name)
        texts = [name for name in (clean, excerpts) if name in homes]
        # One that is missing was purged before, by a command that was killed.
        if any(not exists(view.tree.find(name)) or _holds(view, name, forgotten) for name in texts):
            names = [*texts, f"tokens/{part.name}.arrow"]
            names += [f"index/{part.name}.{kind}.arrow" for kind in ("documents", "keys")]
            yield from ((homes[name], name) for name in names)
    for row in _covered(view, forgotten):
        entry = shard_of(view, row["snapshot"], row["source"], row["id"])
        yield entry.home, entry.path


def out_of_reach(store: str, snapshots: Iterable[Snapshot], forgotten: Forgotten) -> Iterator[str]:
    """Name what may still hold a trace of the documents and is not ours to delete."""
    inputs, runs, tokenizers, lines = set(), set(), set(), set()
    for snapshot in snapshots:
        view = Store(store, snapshot.tree(store), snapshot)
        kept, dropped = (
            {
                part.name.rpartition("-")[0]
                for part in snapshot.parts
                if _holds(view, path_of(part.name), forgotten)
            }
            for path_of in ("clean/{}.parquet".format, nearest_path)
        )
        inputs |= {each.path for each in snapshot.inputs if input_name(each) in kept | dropped}
        if kept:
            tokenizers.add(join(store, "tokenizer", snapshot.tokenizer))
            learned = snapshot.recipe.get("clean", {}).get("boilerplate")
            lines |= {join(store, "lists", learned)} if learned else set()
            run = snapshot.recipe.get("pretrain", {}).get("run")
            runs |= {run} if run else set()
    yield from (f"raw input {path}" for path in sorted(inputs))
    yield from (f"merges of the tokenizer {path}" for path in sorted(tokenizers))
    yield from (f"lines learned from documents, word for word, in {path}" for path in sorted(lines))
    yield from (f"checkpoints in {path}, and what was exported from them" for path in sorted(runs))
    yield "checkpoints and exports of runs that this store does not know"


def _holds(view: Store, name: str, forgotten: Forgotten) -> bool:
    """Tell whether a table has a document of the list; one that is not there has none."""
    path = view.tree.find(name)
    if not exists(path):
        return False
    return any(map(forgotten.covers, read_table(path, columns=[*COVERED_BY]).to_pylist()))

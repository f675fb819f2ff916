"""What held a document that was taken down, and how its text leaves the disk.

`find_holdings` lists every snapshot and every packed sequence that held one of the documents.
`purge` marks each snapshot that still has their text withdrawn and then deletes what holds text
(documents, excerpts, index, tokens, shards, reports) of all withdrawn snapshots, but for files that
one which stays lists too, and whatever a killed command left behind. So a shard that is left has
its tokens beside it, for the next take-down to look into. Killed itself, it is finished by running
it again. `out_of_reach` names what no command of ours can clean: raw inputs, the tokenizer's
merges, the list of repeated lines, checkpoints and what was exported from them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from corpus.files import exists, join, list_names, remove, remove_tree
from corpus.forgotten import COVERED_BY, Forgotten, read_forgotten
from corpus.lease import holding
from corpus.shards import Shard
from corpus.snapshots import (
    Snapshot,
    is_withdrawn,
    list_snapshots,
    open_snapshot,
    read_manifest,
    snapshot_root,
    withdraw,
)
from pipeline.clean import kept_mask
from pipeline.explain import Store, shard_documents, shard_of
from pipeline.nearest import nearest_path
from pipeline.parquet import read_table
from pipeline.rows import document_rows

_REPORTS = ("report.html", "stats.json")
# Files whose names begin so hold text, or tell of it.
_TEXTS = ("clean/", "nearest/", "index/", "tokens/", "shards/", *_REPORTS)
_TEXTS_OF_A_PART = ("clean/{}.parquet".format, nearest_path)


# What decides which documents of a part are kept, and what was found in such files.
_DOCUMENTS = ("clean", "duplicates")
_Looked = dict[tuple[str, ...], list[tuple[dict[str, str], bool]]]


class Holding(NamedTuple):
    """Where a document of the list is or was packed: rows of a shard of some snapshots."""

    document: str
    snapshots: tuple[str, ...]
    shard: str
    first_row: int
    last_row: int


def find_holdings(store: str, forgotten: Forgotten) -> Iterator[Holding]:
    """Give the packed sequences of every snapshot that hold a document of the list.

    They are looked for in the snapshots that open; a withdrawn one has no shards but theirs.
    """
    lists: dict[tuple[str, str], list[str]] = defaultdict(list)
    looked: _Looked = {}
    found = set()
    opened: dict[tuple[str, str], tuple[dict[str, int], list[list[tuple[int, int]]]]] = {}
    for snapshot in _manifests(store):
        for entry in snapshot.shards:
            lists[entry.home, entry.path].append(snapshot.label)
        if is_withdrawn(store, snapshot.label):
            continue
        view = Store(store, snapshot.tree(store), snapshot)
        for row in (row for row, is_kept in covered_by(view, forgotten, looked) if is_kept):
            entry = shard_of(view, row["snapshot"], row["source"], row["id"])
            shard = entry.home, entry.path
            if shard not in opened:
                order = {name: n for n, name in enumerate(shard_documents(view, entry))}
                opened[shard] = order, document_rows(Shard(view.tree.find(entry.path)))
            order, rows = opened[shard]
            found |= {(row["id"], shard, first, last) for first, last in rows[order[row["id"]]]}
    for identity, shard, first, last in sorted(found):
        yield Holding(identity, tuple(lists[shard]), "/".join(shard), first, last)


def _manifests(store: str) -> Iterator[Snapshot]:
    """Give all manifests, one at a time: each names every file of its corpus."""
    found = (read_manifest(store, label) for label in list_snapshots(store))
    return (each for each in found if each is not None)


def _open_ones(store: str) -> Iterator[Snapshot]:
    """Give the snapshots that are not withdrawn."""
    return (each for each in _manifests(store) if not is_withdrawn(store, each.label))


def covered_by(
    view: Store, forgotten: Forgotten, looked: _Looked | None = None
) -> Iterator[tuple[dict[str, str], bool]]:
    """Give the documents of a snapshot that are on the list, and whether each is kept.

    `looked` remembers what was found in files, of which snapshots share nearly all.
    """
    known = {} if looked is None else looked
    for part in view.snapshot.parts:
        paths = tuple(view.tree.find(f"{kind}/{part.name}.parquet") for kind in _DOCUMENTS)
        if paths not in known:
            known[paths] = list(_covered_in(view, part.name, forgotten))
        yield from known[paths]


def _covered_in(
    view: Store, part: str, forgotten: Forgotten
) -> Iterator[tuple[dict[str, str], bool]]:
    columns = [*COVERED_BY, "snapshot"]
    documents = read_table(view.tree.find(f"clean/{part}.parquet"), columns=columns)
    covered = forgotten.which(documents)
    if covered.any():
        kept = kept_mask(view.tree, part, documents.num_rows)[covered]
        rows = documents.select(["id", "source", "snapshot"]).filter(covered).to_pylist()
        yield from zip(rows, kept.tolist(), strict=True)


def purge(store: str) -> list[str]:
    """Delete what holds the text of forgotten documents; return the labels withdrawn by now.

    Nobody else may be at work: the files of a command in progress look like those of a killed one.
    """
    newest = open_snapshot(store)
    with holding(store, f"purge after {newest.label}"):
        return _purge(store, open_snapshot(store), read_forgotten(store))


def _purge(store: str, successor: Snapshot, forgotten: Forgotten) -> list[str]:
    for label in labels_that_hold(store, forgotten):
        withdraw(store, label, successor.label)
    for path in _left_over(store):
        remove(path)
    complete = list_snapshots(store)
    names = list_names(join(store, "snapshots"))
    for label in {name.split("/")[0] for name in names} - set(complete):
        remove_tree(snapshot_root(store, label))
    return [label for label in complete if is_withdrawn(store, label)]


def _left_over(store: str) -> list[str]:
    """List what is there of withdrawn snapshots' text and no other snapshot needs."""
    needed, doomed = set[tuple[str, str]](), set[tuple[str, str]]()
    for snapshot in _manifests(store):
        files = {(each.home, each.path) for each in snapshot.all_files}
        if is_withdrawn(store, snapshot.label):
            doomed |= files | {(snapshot.label, name) for name in _REPORTS}
        else:
            needed |= files
    root = join(store, "snapshots")
    there = {tuple(name.split("/", 1)) for name in list_names(root)}
    gone = ((home, path) for home, path in (doomed - needed) & there if path.startswith(_TEXTS))
    return sorted(join(root, home, path) for home, path in gone)


def labels_that_hold(store: str, forgotten: Forgotten) -> list[str]:
    """Return the older snapshots on whose files the text of a document of the list still is."""
    newest = open_snapshot(store).label
    looked: dict[str, bool] = {}
    return [
        snapshot.label
        for snapshot in _open_ones(store)
        if snapshot.label != newest and _holds_any(store, snapshot, (forgotten, looked))
    ]


def _holds_any(store: str, snapshot: Snapshot, given: tuple[Forgotten, dict[str, bool]]) -> bool:
    """Tell whether a snapshot has a document of the list, be it in an excerpt alone.

    `given` are the list, and of files looked at before whether they have one.
    """
    forgotten, looked = given
    view = Store(store, snapshot.tree(store), snapshot)
    for name in (path_of(part.name) for part in snapshot.parts for path_of in _TEXTS_OF_A_PART):
        path = view.tree.find(name)
        if path not in looked:
            looked[path] = any(_covered(path, forgotten))
        if looked[path]:
            return True
    return False


def out_of_reach(store: str, snapshots: Iterable[Snapshot], forgotten: Forgotten) -> Iterator[str]:
    """Name what may still hold a trace of the documents and is not ours to delete."""
    inputs, runs, tokenizers, lines = set(), set(), set(), set()
    looked: dict[str, set[tuple[str, str, str]]] = {}

    def places_in(path: str) -> set[tuple[str, str, str]]:
        if path not in looked:
            rows = _covered(path, forgotten)
            looked[path] = {(row["snapshot"], row["source"], row["file"]) for row in rows}
        return looked[path]

    for snapshot in snapshots:
        tree = snapshot.tree(store)
        kept, dropped = (
            {place for part in snapshot.parts for place in places_in(tree.find(path_of(part.name)))}
            for path_of in _TEXTS_OF_A_PART
        )
        places = kept | dropped
        inputs |= {
            each.path
            for each in snapshot.inputs
            if (each.snapshot, each.source, each.name) in places
        }
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


def _covered(path: str, forgotten: Forgotten) -> Iterator[dict[str, Any]]:
    """Give the documents of a table that are on the list; one that is not there has none."""
    if exists(path):
        columns = [*COVERED_BY, "snapshot", "file"]
        documents = read_table(path, columns=columns)
        yield from documents.filter(forgotten.which(documents)).to_pylist()

"""What held a document that was taken down, and how its text leaves the disk.

`find_holdings` lists every snapshot and every packed sequence that held one of the documents.
`purge` marks each snapshot that still has their text withdrawn and then deletes what holds text
(documents, excerpts, index, tokens, shards, reports) of all withdrawn snapshots, but for files that
one which stays lists too, and whatever a killed command left behind. So a shard that is left has
its tokens beside it, for the next take-down to look into. Killed itself, it is finished by running
it again. `out_of_reach` names what no command of ours can clean: raw inputs, the tokenizer's
merges, the list of repeated lines, checkpoints and what was exported from them.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from corpus.documents import deal_hash
from corpus.files import exists, join, list_names, remove, remove_tree
from corpus.forgotten import COVERED_BY, Forgotten, read_forgotten
from corpus.lease import holding
from corpus.membership import ShardPlan, documents_in, parts_by_delivery, planned_shards
from corpus.shards import Shard
from corpus.snapshots import (
    Snapshot,
    Tree,
    is_withdrawn,
    list_snapshots,
    open_snapshot,
    read_manifest,
    snapshot_root,
    withdraw,
)
from pipeline.clean import kept_mask
from pipeline.explain import Store
from pipeline.jobs import HERE, LOOKS, Pool
from pipeline.nearest import listed_excerpts
from pipeline.parquet import read_table
from pipeline.rows import document_rows

_REPORTS = ("report.html", "stats.json")
# Files whose names begin so hold text, or tell of it.
_TEXTS = ("clean/", "nearest/", "index/", "tokens/", "shards/", *_REPORTS)


# What decides which documents of a part are kept, and what was found in such files.
_DOCUMENTS = ("clean", "duplicates")
_Covered = list[tuple[dict[str, str], bool]]
_Looked = dict[tuple[str, ...], _Covered]
# Where a document came from: snapshot, source and file.
_Place = tuple[str, str, str]
_Delivered = tuple[str, str]  # snapshot and source
# Shards that are looked through by the time that Ray has started, a second each. Guess.
_FEW_SHARDS = 8
# A shard by the snapshot in whose directory it lies, and its path there.
_Shard = tuple[str, str]


class _Wanted(NamedTuple):
    """Documents that are to be found in a shard."""

    shard: _Shard
    plan: ShardPlan
    ids: frozenset[str]


class Holding(NamedTuple):
    """Where a document of the list is or was packed: rows of a shard of some snapshots."""

    document: str
    snapshots: tuple[str, ...]
    shard: str
    first_row: int
    last_row: int


def find_holdings(store: str, forgotten: Forgotten, pool: Pool = HERE) -> Iterator[Holding]:
    """Give the packed sequences of every snapshot that hold a document of the list.

    They are looked for in the snapshots that open; a withdrawn one has no shards but theirs.
    """
    lists: dict[_Shard, list[str]] = defaultdict(list)
    looked: _Looked = {}
    searched: dict[_Shard, set[str]] = defaultdict(set)
    found: list[tuple[str, _Shard, int, int]] = []
    for snapshot in _manifests(store):
        for entry in snapshot.shards:
            lists[entry.home, entry.path].append(snapshot.label)
        if is_withdrawn(store, snapshot.label):
            continue
        view = Store(store, snapshot.tree(store), snapshot)
        covered = covered_by(view, forgotten, pool, looked)
        kept = [row for row, is_kept in covered if is_kept]
        found += _find_rows(view, kept, searched, pool)
    for identity, shard, first, last in sorted(found):
        yield Holding(identity, tuple(lists[shard]), "/".join(shard), first, last)


def _find_rows(
    view: Store, kept: Iterable[Mapping[str, str]], searched: dict[_Shard, set[str]], pool: Pool
) -> Iterator[tuple[str, _Shard, int, int]]:
    """Give the rows that hold kept documents: id, shard, first and last row of a run.

    `searched` are the ids that were looked for in each shard before, for another snapshot.
    """
    delivered: dict[_Delivered, set[str]] = defaultdict(set)
    for row in kept:
        delivered[row["snapshot"], row["source"]].add(row["id"])
    names = parts_by_delivery(view.snapshot)
    wanted = [
        each
        for place, ids in delivered.items()
        for each in _where_packed(view, place, ids, searched)
    ]
    for found in pool.map("holdings", _rows_of, wanted, view.tree, names, least=_FEW_SHARDS):
        yield from found


def _where_packed(
    view: Store, place: _Delivered, ids: set[str], searched: dict[_Shard, set[str]]
) -> Iterator[_Wanted]:
    """Give the shards of a delivery's source that hold documents not looked for in them before."""
    left = sorted((deal_hash(identity), identity) for identity in ids)
    for plan, entry in planned_shards(view.snapshot, place, view.recipe.pack):
        start, stop = (bisect_left(left, (bound, "")) for bound in (plan.low, plan.high))
        mine = {identity for _, identity in left[start:stop]}
        del left[start:stop]
        shard = entry.home, entry.path
        if new := mine - searched[shard]:
            searched[shard] |= new
            yield _Wanted(shard, plan, frozenset(new))
    if left:
        raise ValueError(
            f"{view.root} has no shard for {left[0][1]}: run `python -m pipeline audit`"
        )


def _rows_of(
    wanted: _Wanted, tree: Tree, names: Mapping[_Delivered, Sequence[str]]
) -> list[tuple[str, _Shard, int, int]]:
    """Return the runs of rows of a shard that hold some documents."""
    parts = names[wanted.plan.snapshot, wanted.plan.source]
    documents = documents_in(tree, parts, wanted.plan.low, wanted.plan.high)
    order = {each.id: number for number, each in enumerate(documents)}
    rows = document_rows(Shard(tree.find(wanted.shard[1])))
    return [
        (identity, wanted.shard, first, last)
        for identity in wanted.ids
        for first, last in rows[order[identity]]
    ]


def _manifests(store: str) -> Iterator[Snapshot]:
    """Give all manifests, one at a time: each names every file of its corpus."""
    found = (read_manifest(store, label) for label in list_snapshots(store))
    return (each for each in found if each is not None)


def _open_ones(store: str) -> Iterator[Snapshot]:
    """Give the snapshots that are not withdrawn."""
    return (each for each in _manifests(store) if not is_withdrawn(store, each.label))


def covered_by(
    view: Store, forgotten: Forgotten, pool: Pool = HERE, looked: _Looked | None = None
) -> Iterator[tuple[dict[str, str], bool]]:
    """Give the documents of a snapshot that are on the list, and whether each is kept.

    `looked` remembers what was found in files, of which snapshots share nearly all.
    """
    known = {} if looked is None else looked
    names = [part.name for part in view.snapshot.parts]
    files = {
        name: tuple(view.tree.find(f"{kind}/{name}.parquet") for kind in _DOCUMENTS)
        for name in names
    }
    new = [name for name in names if files[name] not in known]
    for name, found in zip(
        new, pool.map("take-down", _covered_in, new, view.tree, forgotten, least=LOOKS), strict=True
    ):
        known[files[name]] = found
    for name in names:
        yield from known[files[name]]


def _covered_in(part: str, tree: Tree, forgotten: Forgotten) -> _Covered:
    columns = [*COVERED_BY, "snapshot"]
    documents = read_table(tree.find(f"clean/{part}.parquet"), columns=columns)
    covered = forgotten.which(documents)
    if not covered.any():
        return []
    kept = kept_mask(tree, part, documents.num_rows)[covered]
    rows = documents.select(["id", "source", "snapshot"]).filter(covered).to_pylist()
    return list(zip(rows, kept.tolist(), strict=True))


def purge(store: str, pool: Pool = HERE) -> list[str]:
    """Delete what holds the text of forgotten documents; return the labels withdrawn by now.

    Nobody else may be at work: the files of a command in progress look like those of a killed one.
    """
    newest = open_snapshot(store)
    with holding(store, f"purge after {newest.label}"):
        successor = open_snapshot(store).label
        for label in labels_that_hold(store, read_forgotten(store), pool):
            withdraw(store, label, successor)
        return _delete_withdrawn(store)


def _delete_withdrawn(store: str) -> list[str]:
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


def labels_that_hold(store: str, forgotten: Forgotten, pool: Pool = HERE) -> list[str]:
    """Return the older snapshots on whose files the text of a document of the list still is."""
    newest = open_snapshot(store).label
    looked: dict[str, bool] = {}
    return [
        snapshot.label
        for snapshot in _open_ones(store)
        if snapshot.label != newest and _holds_any(store, snapshot, (forgotten, looked), pool)
    ]


def _holds_any(
    store: str, snapshot: Snapshot, given: tuple[Forgotten, dict[str, bool]], pool: Pool
) -> bool:
    """Tell whether a snapshot has a document of the list, be it in an excerpt alone.

    `given` are the list, and of files looked at before whether they have one.
    """
    forgotten, looked = given
    paths = [path for each in _texts_of(store, snapshot) for path in each]
    if any(looked.get(path) for path in paths):
        return True
    new = [path for path in paths if path not in looked]
    found = pool.map("take-down", _places_in, new, forgotten, least=LOOKS)
    for path, places in zip(new, found, strict=True):
        looked[path] = bool(places)
        if places:
            return True
    return False


def _texts_of(store: str, snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """Return where the documents of a snapshot lie, and where its excerpts of dropped ones."""
    tree = snapshot.tree(store)
    documents = [tree.find(f"clean/{part.name}.parquet") for part in snapshot.parts]
    return documents, [tree.find(path) for path in listed_excerpts(snapshot).values()]


def out_of_reach(
    store: str, snapshots: Iterable[Snapshot], forgotten: Forgotten, pool: Pool = HERE
) -> Iterator[str]:
    """Name what may still hold a trace of the documents and is not ours to delete."""
    inputs, runs, tokenizers, lines = set(), set(), set(), set()
    looked: dict[str, set[_Place]] = {}
    for snapshot in snapshots:
        texts = _texts_of(store, snapshot)
        new = [path for paths in texts for path in paths if path not in looked]
        if is_withdrawn(store, snapshot.label):
            looked |= {path: set() for path in new if not exists(path)}
            new = [path for path in new if path not in looked]
        found = pool.map("take-down", _places_in, new, forgotten, least=LOOKS)
        looked |= zip(new, found, strict=True)
        kept, dropped = ({place for path in paths for place in looked[path]} for paths in texts)
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


def _places_in(path: str, forgotten: Forgotten) -> set[_Place]:
    """Return where the documents of a table that are on the list came from."""
    names = ["snapshot", "source", "file"]
    documents = read_table(path, columns=[*COVERED_BY, "snapshot", "file"])
    rows = documents.select(names).filter(forgotten.which(documents)).to_pylist()
    return {(row["snapshot"], row["source"], row["file"]) for row in rows}

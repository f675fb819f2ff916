"""Take-down: from a snapshot and the suppression list to a snapshot without what is on it.

Documents of the list leave their parts, the cascade of re-admissions and evictions is followed, and
exactly the shards whose membership changed are packed anew, in as many shards as before and with
the same tokenizer. What comes out is what a rebuild with that list gives.

The list is written before anything else, so a command that was killed leaves one that the newest
snapshot does not obey. `finish_killed` is therefore the first thing that whoever writes a store
does: a refresh on top of such a snapshot would keep what a rebuild leaves out. A manifest names the
list that its snapshot obeys, so that the documents are looked through only after the list grew.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from corpus.documents import drops_table
from corpus.files import exists, write_bytes
from corpus.forgotten import (
    COVERED_BY,
    Forgotten,
    hash_id,
    list_takedowns,
    read_forgotten,
    read_takedown,
)
from corpus.lease import Lease
from corpus.membership import ShardPlan, cut_split, parts_by_delivery
from corpus.recipe import Dedup, Pack, Recipe
from corpus.snapshots import (
    OBEYS,
    FileEntry,
    ShardEntry,
    Snapshot,
    Tree,
    list_snapshots,
    newest_label,
    open_snapshot,
    read_manifest,
    snapshot_root,
    write_head,
)
from pipeline import encode
from pipeline.build import Contents, Job, assemble, commit, part_entry
from pipeline.cascade import REMOVED_SCHEMA, judge_again
from pipeline.clean import forgotten_row, write_part
from pipeline.gather import pack_shards
from pipeline.index import Corpus
from pipeline.jobs import HERE, LOOKS, Output, Pool, Record, Stages, Task, describe_file
from pipeline.nearest import listed_excerpts, nearest_path, without_forgotten
from pipeline.outcome import Outcome
from pipeline.parquet import read_table, write_table
from pipeline.purge import find_holdings, out_of_reach
from pipeline.report import add_report
from pipeline.signatures import write_arrow
from pipeline.tallies import read_stats

logger = logging.getLogger(__name__)

HELD = "held.json"


def finish_killed(store: str, pool: Pool, lease: Lease) -> Outcome | None:
    """Finish the commit and the take-down of commands that were killed.

    HEAD comes to the snapshot that lacked it alone; then what is on the list and still in the
    newest snapshot is taken out. None where nothing is.
    """
    start = time.perf_counter()
    _finish_commit(store)
    listed = read_forgotten(store)
    if listed.is_empty or newest_label(store) is None:
        return None
    parent = open_snapshot(store)
    if parent.made_with.get(OBEYS) == listed.fingerprint:
        return None
    affected = find_affected(parent, parent.tree(store), listed, pool)
    if not affected:
        return None
    label = _label_of(store, parent, pool)
    complete = read_manifest(store, label)
    if complete is not None:
        point_head_at(store, complete)
        return Outcome(complete, 0, time.perf_counter() - start, {})
    logger.info(
        "take-down %s: %d parts of %s hold its documents", label, len(affected), parent.label
    )
    recipe = Recipe.model_validate(
        parent.recipe | {"store": store, "snapshot": label, "workers": pool.workers}
    )
    job = Job(recipe, parent, parent.deliveries, (), listed)
    stages = Stages(job.tree, pool.workers)
    try:
        snapshot = _take_out(job, affected, stages, pool)
    finally:
        stages.close()
    snapshot = add_report(store, snapshot, parent)
    commit(job, snapshot, lease)
    return Outcome(snapshot, stages.tasks_run, time.perf_counter() - start, stages.seconds)


def _finish_commit(store: str) -> None:
    """Point HEAD at a snapshot whose refresh was killed between its manifest and HEAD.

    Otherwise another label would go on from its parent, beside it. Take-downs see to their own.
    """
    newest = newest_label(store)
    passed = {*list_takedowns(store), *(open_snapshot(store, newest).deliveries if newest else ())}
    for label in list_snapshots(store):
        complete = None if label in passed else read_manifest(store, label)
        if complete is not None and complete.parent == newest:
            logger.info("%s was complete but for its place as the newest snapshot", label)
            point_head_at(store, complete)
            return


def _label_of(store: str, parent: Snapshot, pool: Pool) -> str:
    """Return the label of the take-down that named documents which `parent` still holds."""
    tree = parent.tree(store)
    complete = set(list_snapshots(store))
    for label in list_takedowns(store):
        manifest = read_manifest(store, label) if label in complete else None
        # A complete one counts where the kill came between the manifest and HEAD.
        is_open = label not in complete or (manifest and manifest.parent == parent.label)
        if is_open and find_affected(parent, tree, read_takedown(store, label), pool):
            return label
    raise ValueError(
        f"{parent.label} holds documents that {store}/forgotten keeps out, and no take-down is "
        "unfinished: HEAD or a list was changed by hand; put them back from a copy"
    )


def point_head_at(store: str, complete: Snapshot) -> None:
    """Finish the commit of a snapshot whose command was killed just before its last write."""
    if newest_label(store) == complete.parent:
        write_head(store, complete.label)


def tell_taken_since(store: str, snapshot: Snapshot) -> Iterator[str]:
    """Say of an older snapshot that documents of it were taken down since, as lines of text.

    Take-downs keep the names of parts, so their counts of drops tell.
    """
    if newest_label(store) == snapshot.label:
        return
    newest = open_snapshot(store)
    before = {part.name: part.dropped.get("forgotten", 0) for part in snapshot.parts}
    after = {part.name: part.dropped.get("forgotten", 0) for part in newest.parts}
    if any(after.get(name, 0) > count for name, count in before.items()):
        yield (
            f"snapshot {snapshot.label} holds documents that were taken down since: {newest.label} "
            f"is without them; set `snapshot: {newest.label}` in the recipe to train on it"
        )


def obeying(snapshot: Snapshot, forgotten: Forgotten) -> Snapshot:
    """Note in a manifest the list that none of its documents is on."""
    if forgotten.is_empty:
        return snapshot
    made_with = snapshot.made_with | {OBEYS: forgotten.fingerprint}
    return snapshot.model_copy(update={"made_with": made_with})


def count_shards(snapshot: Snapshot) -> dict[tuple[str, str, str], int]:
    """Count the shards of every (snapshot, source, split)."""
    counts: dict[tuple[str, str, str], int] = {}
    for shard in snapshot.shards:
        place = (shard.snapshot, shard.source, shard.split)
        counts[place] = counts.get(place, 0) + 1
    return counts


Held = tuple[str, tuple[str, ...]]  # a part and its files that say whose documents it holds


def identity_files(snapshot: Snapshot) -> list[Held]:
    """Return of each part the files that tell whether its documents are on a list.

    Among these are those that a rule dropped and whose excerpt is kept.
    """
    excerpts = listed_excerpts(snapshot)
    names = [part.name for part in snapshot.parts]
    return [
        (name, (f"clean/{name}.parquet", *([excerpts[name]] if name in excerpts else ())))
        for name in names
    ]


def read_identities(held: Held, tree: Tree) -> pa.Table:
    """Read of a part what tells whether its documents are on a list."""
    tables = [read_table(tree.find(name), columns=[*COVERED_BY]) for name in held[1]]
    return pa.concat_tables(tables)


def find_affected(
    snapshot: Snapshot, tree: Tree, forgotten: Forgotten, pool: Pool = HERE
) -> list[str]:
    """Return the names of the parts that hold a document of the list."""
    parts = identity_files(snapshot)
    found = pool.map("take-down", _is_affected, parts, tree, forgotten, least=LOOKS)
    return [name for (name, _), holds in zip(parts, found, strict=True) if holds]


def _is_affected(held: Held, tree: Tree, forgotten: Forgotten) -> bool:
    return bool(forgotten.which(read_identities(held, tree)).any())


def _take_out(job: Job, affected: Sequence[str], stages: Stages, pool: Pool) -> Snapshot:
    """Run the stages of a take-down and return the manifest, not yet committed."""
    assert job.parent is not None
    identity = hashlib.sha256(
        f"{job.parent.fingerprint} {job.forgotten.fingerprint}".encode()
    ).hexdigest()[:16]
    config = job.recipe.dedup
    filtered = stages.run(
        "forget",
        [
            Task(f"{name}-{identity}", forget_part, (name, config, job.forgotten))
            for name in affected
        ],
    )
    stages.renew(_written(filtered))
    corpus = Corpus(job.parent.part_list(), 0)
    shards = count_shards(job.parent)
    judging = Task(f"cascade-{identity}", judge_again, (job.recipe, corpus, (affected, shards)))
    judged = stages.run("cascade", [judging])
    stages.renew(_written(judged))
    counts = judged[judging.name].counts
    store, fingerprint = job.recipe.store, job.parent.tokenizer
    encoded = stages.run(
        "encode",
        [
            Task(f"{name}-{identity}", encode.encode_part, (name, (store, fingerprint)))
            for name in counts["encode"]
        ],
    )
    stages.renew(_written(encoded))
    plans = _plan(job.parent, job.recipe.pack, counts["shards"])
    made_with = job.recipe.pack, (fingerprint, job.parent.vocab_size)
    packed = pack_shards(stages, plans, parts_by_delivery(job.parent), made_with, identity)
    records = {"forget": filtered, "cascade": judged, "encode": encoded, "pack": packed}
    contents = _contents(job, counts, records)
    noted = contents._replace(files=[*contents.files, _note_holdings(job, counts, pool)])
    # Nothing was searched or judged anew: the parent's recall and statistics hold on.
    stats = read_stats(snapshot_root(store, job.parent.label))
    return assemble(job, noted, ({OBEYS: job.forgotten.fingerprint}, stats))


def _written(records: Mapping[str, Record]) -> list[str]:
    return [file["path"] for record in records.values() for file in record.files]


def forget_part(tree: Tree, _task: str, name: str, config: Dedup, forgotten: Forgotten) -> Output:
    """Write a part again without the documents of the list, each with its drop row."""
    documents = read_table(tree.find(f"clean/{name}.parquet"))
    goes = forgotten.which(documents)
    removed = documents.drop_columns(["text", "meta"]).filter(goes).to_pylist()
    before = read_table(tree.find(f"dropped/{name}.parquet")).to_pylist()
    drops = drops_table([*before, *map(forgotten_row, removed)])
    paths = write_part(tree, name, documents.filter(~goes), drops, config)
    excerpts = tree.find(nearest_path(name))
    if exists(excerpts):  # written even if none is left, in the place of those before
        write_table(
            tree.own(nearest_path(name)), without_forgotten(read_table(excerpts), forgotten)
        )
        paths.append(nearest_path(name))
    table = pa.table(
        {
            "row": np.flatnonzero(goes),
            **{key: [row[key] for row in removed] for key in ("id", "file", "position")},
        }
    ).cast(REMOVED_SCHEMA)
    # Lies among the work files: what it says is gone with them.
    write_arrow(tree.own(f"work/removed/{name}.arrow"), table)
    return Output(tuple(paths), {"name": name, "removed": len(removed)})


def _plan(parent: Snapshot, config: Pack, shards: Iterable[Sequence[Any]]) -> list[ShardPlan]:
    counts = count_shards(parent)
    plans = {place: cut_split(place, count, config) for place, count in counts.items()}
    return [plans[snapshot, source, split][number] for snapshot, source, split, number in shards]


def _contents(
    job: Job, counts: Mapping[str, Any], records: Mapping[str, Mapping[str, Record]]
) -> Contents:
    """Lay what was made anew over what the parent holds."""
    parent, label = job.parent, job.recipe.snapshot
    assert parent is not None
    files = {each.path: each for each in parent.files}
    for stage in ("forget", "cascade", "encode"):
        for record in records[stage].values():
            files |= {file["path"]: FileEntry(**file, home=label) for file in record.files}
    shards = {each.path: each for each in parent.shards}
    for record in records["pack"].values():
        entry = ShardEntry(**record.files[0], **record.counts, home=label)
        shards[entry.path] = entry
    encoded = {record.counts["name"]: record.counts for record in records["encode"].values()}
    changed = {part["name"]: part for part in counts["parts"]}
    parts = []
    for part, old in zip(parent.part_list(), parent.parts, strict=True):
        new = changed.get(part.name)
        if new is None:
            parts.append(old)
            continue
        kept = encoded.get(part.name, old.model_dump() | {"documents": old.kept})
        parts.append(part_entry(part, new["cleaned"], new["resolved"], kept))
    tokenizer = (parent.tokenizer, parent.vocab_size)
    return Contents(tokenizer, list(shards.values()), parts, list(files.values()))


def _note_holdings(job: Job, counts: Mapping[str, Any], pool: Pool) -> FileEntry:
    """Write what held the documents, by hash of their ids: a purge leaves no way to read it.

    Beside it, for the same reason, how many went and what came of others.
    """
    store, label = job.recipe.store, job.recipe.snapshot
    listed = read_takedown(store, label)
    sequences = [
        each._asdict() | {"document": hash_id(each.document)}
        for each in find_holdings(store, listed, pool)
    ]
    manifests = (read_manifest(store, each) for each in list_snapshots(store))
    complete = (each for each in manifests if each is not None)
    traces = list(out_of_reach(store, complete, listed, pool))
    documents = counts.get("documents")  # not counted by a cascade of an older version
    data = {"documents": documents, "sequences": sequences, "out_of_reach": traces}
    write_bytes(job.tree.own(HELD), orjson.dumps(data, option=orjson.OPT_INDENT_2))
    return FileEntry(**describe_file(job.tree.root, HELD), home=label)

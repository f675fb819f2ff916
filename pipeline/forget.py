"""Forget: a take-down, as a new snapshot without some documents.

The documents are named by id, by URL prefix or by source; whatever has the text of a named one goes
too. They join the store's suppression list first, so that no later delivery brings them back. Then
the parts that hold them are written again without them, the cascade of re-admissions and evictions
is followed, and exactly the shards whose membership changed are packed anew, in as many shards as
before and with the same tokenizer. What comes out is what a rebuild with that list gives.

Old snapshots stay readable. `purge` deletes what holds the text from their directories and marks
each that held it withdrawn. Tokenizer merges, checkpoints, exports and raw inputs are out of reach:
they are listed by path.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from corpus.documents import drops_table
from corpus.files import check_absolute_in_job, create, exists, read_bytes, write_bytes
from corpus.forgotten import Forgotten, forgotten_path, hash_id, read_forgotten
from corpus.lease import Lease, holding
from corpus.recipe import Dedup, Pack, Recipe
from corpus.snapshots import (
    FileEntry,
    ShardEntry,
    Snapshot,
    Tree,
    find_snapshot,
    list_snapshots,
    open_snapshot,
    read_manifest,
    snapshot_root,
)
from pipeline import encode, pack
from pipeline.build import Contents, Job, assemble, commit, part_entry
from pipeline.cascade import REMOVED_SCHEMA, judge_again
from pipeline.clean import forgotten_row, write_part
from pipeline.index import Corpus
from pipeline.jobs import Output, Record, Stages, Task, describe_file
from pipeline.parquet import read_table
from pipeline.plans import ShardPlan, cut_split
from pipeline.purge import find_holdings, out_of_reach
from pipeline.refresh import Outcome, count_shards
from pipeline.report import add_report
from pipeline.signatures import write_arrow
from pipeline.tallies import read_stats

logger = logging.getLogger(__name__)


_HELD = "held.json"


class Request(NamedTuple):
    """What is to be forgotten."""

    ids: tuple[str, ...] = ()
    url_prefixes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def forget(store: str, label: str, request: Request, workers: int | None = None) -> Outcome:
    """Take documents out of a store; the new snapshot is called `label`."""
    complete = find_snapshot(store, label)
    if complete is not None:
        _check_same_request(store, label, request)
        return Outcome(complete, 0, 0.0, {})
    check_absolute_in_job("store", store)
    with holding(store, f"take-down {label}") as lease:
        return _forget(store, label, request, (workers, lease))


def _forget(store: str, label: str, request: Request, given: tuple[int | None, Lease]) -> Outcome:
    start = time.perf_counter()
    workers, lease = given
    parent = open_snapshot(store)
    _check_request(parent, request)
    listed = make_list(store, parent, request)
    if not create(forgotten_path(store, label), listed.to_bytes()):
        _check_same_request(store, label, request)
    recipe = Recipe.model_validate(
        parent.recipe | {"store": store, "snapshot": label, "workers": workers}
    )
    job = Job(recipe, parent, parent.deliveries, (), read_forgotten(store))
    affected = find_affected(parent, job.tree, job.forgotten)
    if not affected:
        logger.info("no document of %s is on the list: no snapshot is made", parent.label)
        return Outcome(parent, 0, time.perf_counter() - start, {})
    stages = Stages(job.tree, workers)
    try:
        snapshot = _take_out(job, affected, stages)
    finally:
        stages.close()
    snapshot = add_report(job.recipe.store, snapshot, job.parent)
    commit(job, snapshot, lease)
    return Outcome(snapshot, stages.tasks_run, time.perf_counter() - start, stages.seconds)


def _check_request(parent: Snapshot, request: Request) -> None:
    if not any(request):
        raise ValueError("nothing to forget: name ids, URL prefixes or sources")
    known = {part.source for part in parent.parts}
    for source in request.sources:
        if source not in known:
            raise ValueError(f"there is no source {source}; there are {', '.join(sorted(known))}")


def _check_same_request(store: str, label: str, request: Request) -> None:
    path = forgotten_path(store, label)
    if not exists(path):
        raise ValueError(f"{store} holds a snapshot {label} already: give another label")
    stored = Forgotten.model_validate_json(read_bytes(path))
    if (stored.ids, stored.url_prefixes, stored.sources) != (
        frozenset(map(hash_id, request.ids)),
        frozenset(request.url_prefixes),
        frozenset(request.sources),
    ):
        raise ValueError(f"{label} is another take-down: give this one a label of its own")


def make_list(store: str, parent: Snapshot, request: Request) -> Forgotten:
    """Return what joins the suppression list: the request and the texts that it names."""
    named = Forgotten(
        ids=frozenset(map(hash_id, request.ids)),
        url_prefixes=frozenset(request.url_prefixes),
    )
    texts: set[str] = set()
    for table in _identities(parent, parent.tree(store)):
        rows = table.to_pylist()
        texts |= {row["text_hash"].hex() for row in rows if named.covers(row)}
    return Forgotten(
        ids=named.ids,
        texts=frozenset(texts),
        url_prefixes=named.url_prefixes,
        sources=frozenset(request.sources),
    )


def _identities(snapshot: Snapshot, tree: Tree) -> Iterator[pa.Table]:
    for part in snapshot.parts:
        columns = ["id", "source", "url", "text_hash"]
        yield read_table(tree.find(f"clean/{part.name}.parquet"), columns=columns)


def find_affected(snapshot: Snapshot, tree: Tree, forgotten: Forgotten) -> list[str]:
    """Return the names of the parts that hold a document of the list."""
    tables = zip(snapshot.parts, _identities(snapshot, tree), strict=True)
    return [part.name for part, table in tables if any(map(forgotten.covers, table.to_pylist()))]


def _take_out(job: Job, affected: Sequence[str], stages: Stages) -> Snapshot:
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
    packed = stages.run(
        "pack",
        [
            Task(f"{plan.name}-{identity}", pack.pack_shard, (plan, job.recipe.pack, given))
            for plan, given in _plan(job.parent, job.recipe.pack, counts["shards"])
        ],
    )
    records = {"forget": filtered, "cascade": judged, "encode": encoded, "pack": packed}
    contents = _contents(job, counts, records)
    noted = contents._replace(files=[*contents.files, _note_holdings(job)])
    # Nothing was searched or judged anew: the parent's recall and statistics hold on.
    stats = read_stats(snapshot_root(store, job.parent.label))
    return assemble(job, noted, ({"forgotten": identity}, stats))


def _written(records: Mapping[str, Record]) -> list[str]:
    return [file["path"] for record in records.values() for file in record.files]


def forget_part(tree: Tree, _task: str, name: str, config: Dedup, forgotten: Forgotten) -> Output:
    """Write a part again without the documents of the list, each with its drop row."""
    documents = read_table(tree.find(f"clean/{name}.parquet"))
    rows = documents.drop_columns(["text", "meta"]).to_pylist()
    goes = np.array([forgotten.covers(row) for row in rows], np.bool_)
    removed = [row for row, gone in zip(rows, goes, strict=True) if gone]
    before = read_table(tree.find(f"dropped/{name}.parquet")).to_pylist()
    drops = drops_table([*before, *map(forgotten_row, removed)])
    paths = write_part(tree, name, documents.filter(pa.array(~goes)), drops, config)
    table = pa.table(
        {
            "row": np.flatnonzero(goes),
            **{key: [row[key] for row in removed] for key in ("id", "file", "position")},
        }
    ).cast(REMOVED_SCHEMA)
    # Lies among the work files: what it says is gone with them.
    write_arrow(tree.own(f"work/removed/{name}.arrow"), table)
    return Output(tuple(paths), {"name": name, "removed": len(removed)})


def _plan(
    parent: Snapshot, config: Pack, shards: Iterable[Sequence[Any]]
) -> Iterator[tuple[ShardPlan, tuple[str, int, list[str]]]]:
    counts = count_shards(parent)
    for *place, number in shards:
        snapshot, source, split = place
        plan = cut_split((snapshot, source, split), counts[snapshot, source, split], config)
        names = [
            part.name for part in parent.parts if (part.snapshot, part.source) == (snapshot, source)
        ]
        yield plan[number], (parent.tokenizer, parent.vocab_size, names)


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


def read_ids(path: str) -> list[str]:
    """Read document ids, one a line."""
    try:
        return [line for line in read_bytes(path).decode().splitlines() if line]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None


def tell(store: str, label: str, request: Request, outcome: Outcome) -> Iterator[str]:
    """Give what a take-down did and what held the documents, as lines of text."""
    snapshot = outcome.snapshot
    if snapshot.label != label:
        yield f"{snapshot.label} holds none of them; they stay out from now on"
        return
    yield f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s"
    yield f"{label} {snapshot.fingerprint} is without them"
    known = {hash_id(identity): identity for identity in request.ids}
    held = orjson.loads(read_bytes(snapshot.tree(store).own(_HELD)))
    for each in held["sequences"]:
        name = known.get(each["document"], f"document {each['document'][:16]}")
        rows = f"rows {each['first_row']} to {each['last_row']} of {each['shard']}"
        yield f"{name}: {rows}, in {', '.join(each['snapshots'])}"
    yield from (f"out of reach: {each}" for each in held["out_of_reach"])


def _note_holdings(job: Job) -> FileEntry:
    """Write what held the documents, by hash of their ids: a purge leaves no way to read it."""
    store, label = job.recipe.store, job.recipe.snapshot
    listed = Forgotten.model_validate_json(read_bytes(forgotten_path(store, label)))
    sequences = [
        each._asdict() | {"document": hash_id(each.document)}
        for each in find_holdings(store, listed)
    ]
    manifests = [read_manifest(store, each) for each in list_snapshots(store)]
    traces = list(out_of_reach(store, [each for each in manifests if each is not None], listed))
    data = {"sequences": sequences, "out_of_reach": traces}
    write_bytes(job.tree.own(_HELD), orjson.dumps(data, option=orjson.OPT_INDENT_2))
    return FileEntry(**describe_file(job.tree.root, _HELD), home=label)

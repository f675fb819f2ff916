"""Build: the stages in order, from new inputs to the manifest of one snapshot.

Clean, deduplication (resolve.py), tokenizer, encode, pack, each as tasks with records; the manifest
comes last. A refresh gives the inputs of one delivery and the snapshot they are added to; a rebuild
gives all deliveries at once and no parent. Both go the same way: parts of the parent are settled,
their files are read where they lie.
"""

import hashlib
import logging
import platform
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import orjson

from corpus.documents import add_digests
from corpus.files import write_bytes
from corpus.forgotten import Forgotten
from corpus.lease import Lease
from corpus.membership import ShardPlan, cut_split
from corpus.recipe import Recipe
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.shards import token_dtype
from corpus.snapshots import (
    FORMAT_VERSION,
    Counts,
    FileEntry,
    Input,
    Part,
    PartEntry,
    ShardEntry,
    Snapshot,
    Tree,
    commit_snapshot,
    snapshot_root,
)
from pipeline import canaries, clean, encode, vocabulary
from pipeline.gather import pack_shards
from pipeline.index import Corpus
from pipeline.intake import Intake, parts_by_source, plan_cleaning
from pipeline.jobs import Record, Stages, Task, describe_file, sweep
from pipeline.losses import describe
from pipeline.plans import plan_shards
from pipeline.preference import complaints
from pipeline.resolve import deduplicate
from pipeline.tallies import STATS, describe_cleaning, funnel, read_stats

logger = logging.getLogger(__name__)

_LIBRARIES = ("maskline", "numba", "numpy", "pyarrow", "ray", "tokenizers")

Records = dict[str, Record]


class Job(NamedTuple):
    """What is to be built.

    `deliveries` are all of them in order; `inputs` are those of the ones that are new; `shards`,
    where given, fixes how many shards each (snapshot, source, split) has, and `tokenizer_path` the
    tokenizer.
    """

    recipe: Recipe
    parent: Snapshot | None
    deliveries: tuple[str, ...]
    inputs: tuple[Input, ...]
    forgotten: Forgotten
    shards: Mapping[tuple[str, str, str], int] | None = None
    tokenizer_path: str | None = None

    @property
    def tree(self) -> Tree:
        """Where the files lie that are read and written."""
        root = snapshot_root(self.recipe.store, self.recipe.snapshot)
        if self.parent is None:
            return Tree(root)
        homes = {
            each.path: snapshot_root(self.recipe.store, each.home) for each in self.parent.all_files
        }
        return Tree(root, homes)


def build(job: Job, stages: Stages) -> Snapshot:
    """Run every stage and return the manifest, not yet committed."""
    recipe = job.recipe
    lineage = clean.Lineage(recipe.store, recipe.clean, recipe.dedup, job.forgotten)
    plan = plan_cleaning(job.inputs, lineage, stages)
    cleaned = stages.run("clean", [each.task for each in plan])
    _check_any_kept(job, cleaned)
    _warn_of_preferences(recipe, _parts(cleaned))
    corpus = _corpus(job, plan, cleaned)
    recall = _recall(job, stages)
    canaries.check(canaries.from_json(recall))
    identity = _identity(job, corpus)
    resolved = deduplicate(job.recipe.dedup, corpus, identity, stages)
    made = _tokenizer(job, corpus, stages)
    encoded = stages.run(
        "encode",
        [
            Task(f"{part.name}-{identity}", encode.encode_part, (part.name, made.location))
            for part in corpus.new_parts
        ],
    )
    parts = _parts_by_delivery(corpus)
    plans = _plan(job, parts, made)
    tokenizer = made.fingerprint, made.vocab_size
    packed = pack_shards(stages, plans, parts, (recipe.pack, tokenizer), identity)
    records = {"clean": cleaned, "resolve": resolved, "encode": encoded, "pack": packed}
    stats = {"recall": recall, **describe_cleaning(parts_by_source(plan, cleaned))}
    return assemble(job, _contents(job, corpus, made, records), (_made_with(records), stats))


def _warn_of_preferences(recipe: Recipe, parts: Sequence[Mapping[str, Any]]) -> None:
    if any(part["documents"] for part in parts):
        scored = sum(part.get("scored", 0) for part in parts)
        for complaint in complaints(recipe.dedup, [each.name for each in recipe.sources], scored):
            logger.warning("%s", complaint)


def _recall(job: Job, stages: Stages) -> list[dict[str, Any]]:
    """Measure the recall, or take the parent's: the same code and settings find the same."""
    parent = job.parent
    if parent is not None and parent.made_with.get("canaries") == canaries.measured_with():
        known = read_stats(snapshot_root(job.recipe.store, parent.label)).get("recall")
        if known:
            return list(known)
    task = Task("canaries", canaries.measure_recall, (job.recipe.dedup,))
    return list(stages.run("canaries", [task])[task.name].counts["bins"])


def _corpus(job: Job, plan: Sequence[Intake], cleaned: Records) -> Corpus:
    """List the parent's parts and, after them, the new ones."""
    new = [
        Part(part["name"], cut.source, cut.snapshot, job.deliveries.index(cut.snapshot))
        for cut, task in plan
        for part in cleaned[task.name].counts["parts"]
    ]
    new.sort(key=lambda part: (part.position, part.name))
    settled = () if job.parent is None else job.parent.part_list()
    return Corpus((*settled, *new), len(settled))


def _identity(job: Job, corpus: Corpus) -> str:
    """Name what the stages after cleaning depend on."""
    parent = None if job.parent is None else job.parent.fingerprint
    names = [part.name for part in corpus.parts]
    known = orjson.dumps([parent, names, job.forgotten.fingerprint])
    return hashlib.sha256(known).hexdigest()[:16]


def _check_any_kept(job: Job, cleaned: Records) -> None:
    """Refuse a first delivery of which nothing passed; of what passed, something is kept."""
    parts = _parts(cleaned)
    begins = job.parent is None and job.shards is None
    if begins and not any(part["documents"] for part in parts):
        dropped = {part["name"]: part["dropped"] for part in parts}
        raise ValueError(f"no document was kept: {describe(job.tree, dropped)}")


def _parts(records: Records) -> list[dict[str, Any]]:
    return [part for record in records.values() for part in record.counts["parts"]]


class _Made(NamedTuple):
    """The store's tokenizer."""

    store: str
    fingerprint: str
    vocab_size: int

    @property
    def location(self) -> tuple[str, str]:
        return self.store, self.fingerprint


def _tokenizer(job: Job, corpus: Corpus, stages: Stages) -> _Made:
    """Train the tokenizer on the first delivery, or take the parent's."""
    store = job.recipe.store
    if job.parent is not None:
        return _Made(store, job.parent.tokenizer, job.parent.vocab_size)
    identity = _identity(job, corpus)
    config = job.recipe.tokenizer
    if job.tokenizer_path is not None:
        config = config.model_copy(update={"path": job.tokenizer_path})
    name = f"tokenizer-{identity}"
    is_learned = config.path is None and stages.missing("tokenizer", [name])
    added = _count_words(corpus, identity, config, stages) if is_learned else []
    task = Task(name, vocabulary.learn, (store, config, added))
    counts = stages.run("tokenizer", [task])[task.name].counts
    return _Made(store, counts["fingerprint"], counts["vocab_size"])


def _count_words(
    corpus: Corpus, identity: str, config: TokenizerConfig, stages: Stages
) -> list[str]:
    """Count the words of the first delivery; return the files of the counts, added up."""
    below = vocabulary.sample_below(config)
    counted = stages.run(
        "count-words",
        [
            Task(f"{part.name}-{identity}", vocabulary.count_part, (part.name, below))
            for part in corpus.parts
            if part.position == 0
        ],
    )
    shares = vocabulary.count_shares(
        sum(record.counts["words_bytes"] for record in counted.values())
    )
    paths = [file["path"] for record in counted.values() for file in record.files]
    added = stages.run(
        "add-words",
        [
            Task(f"{n}-of-{shares}-{identity}", vocabulary.add_up, ((n, shares), paths))
            for n in range(shares)
        ],
    )
    return [file["path"] for record in added.values() for file in record.files]


def _parts_by_delivery(corpus: Corpus) -> dict[tuple[str, str], list[str]]:
    names: dict[tuple[str, str], list[str]] = {}
    for part in corpus.new_parts:
        names.setdefault((part.snapshot, part.source), []).append(part.name)
    return names


def _plan(job: Job, parts: Mapping[tuple[str, str], Sequence[str]], made: _Made) -> list[ShardPlan]:
    """Plan the shards of every new delivery."""
    if job.shards is not None:
        new = {snapshot for snapshot, _ in parts}
        fixed = {place: count for place, count in job.shards.items() if place[0] in new}
        return [
            plan
            for place, count in fixed.items()
            for plan in cut_split(place, count, job.recipe.pack)
        ]
    token_bytes = np.dtype(token_dtype(made.vocab_size)).itemsize
    return plan_shards(job.tree, parts, job.recipe.pack, token_bytes)


def _contents(job: Job, corpus: Corpus, made: _Made, records: Mapping[str, Records]) -> "Contents":
    label = job.recipe.snapshot
    parent = job.parent
    parts = (*(parent.parts if parent else ()), *_part_entries(corpus, records))
    files = [
        FileEntry(**file, home=label)
        for stage in records.values()
        for record in stage.values()
        for file in record.files
        if not file["path"].startswith("shards/")
    ]
    shards = [
        ShardEntry(**record.files[0], **record.counts, home=label)
        for record in records["pack"].values()
    ]
    return Contents(
        (made.fingerprint, made.vocab_size),
        [*(parent.shards if parent else ()), *shards],
        parts,
        [*(parent.files if parent else ()), *files],
    )


class Contents(NamedTuple):
    """What a snapshot holds: its tokenizer (fingerprint, entries), shards, parts and files."""

    tokenizer: tuple[str, int]
    shards: Sequence[ShardEntry]
    parts: Sequence[PartEntry]
    files: Sequence[FileEntry]


def assemble(
    job: Job, contents: Contents, beside: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Snapshot:
    """Put a manifest together and write its statistics.

    `beside` is what made it and what else was measured: neither enters the fingerprint.
    """
    label, tree = job.recipe.snapshot, job.tree
    stats = {**beside[1], "sources": funnel(contents.parts)}
    write_bytes(tree.own(STATS), orjson.dumps(stats, option=orjson.OPT_INDENT_2))
    statistics = FileEntry(**describe_file(tree.root, STATS), home=label)
    # What lies at the top of a directory is about that snapshot alone.
    inherited = [each for each in contents.files if "/" in each.path or each.home == label]
    files = [*inherited, statistics]
    order = {delivery: position for position, delivery in enumerate(job.deliveries)}
    shards = sorted(
        contents.shards, key=lambda each: (order[each.snapshot], each.source, each.split, each.path)
    )
    snapshot = Snapshot(
        label=label,
        parent=None if job.parent is None else job.parent.label,
        deliveries=job.deliveries,
        format_version=FORMAT_VERSION,
        sequence_length=job.recipe.pack.sequence_length,
        tokenizer=contents.tokenizer[0],
        vocab_size=contents.tokenizer[1],
        shards=tuple(shards),
        parts=tuple(contents.parts),
        kept_digest=add_digests(each.kept_digest for each in contents.parts),
        dropped_digest=add_digests(each.dropped_digest for each in contents.parts),
        fingerprint="",
        counts=_count(contents),
        files=tuple(sorted(files, key=lambda each: each.path)),
        inputs=(*(job.parent.inputs if job.parent else ()), *job.inputs),
        recipe=job.recipe.model_dump(mode="json"),
        made_with=dict(beside[0]),
    )
    return snapshot.model_copy(update={"fingerprint": snapshot.compute_fingerprint()})


def commit(job: Job, snapshot: Snapshot, lease: Lease) -> None:
    """Clear what a finished snapshot does not need and write its manifest."""
    lease.check()
    own = {each.path for each in snapshot.all_files if each.home == snapshot.label}
    sweep(job.tree.root, own)
    lease.check()
    commit_snapshot(job.recipe.store, snapshot)


def _part_entries(corpus: Corpus, records: Mapping[str, Records]) -> list[PartEntry]:
    cleaned = {part["name"]: part for part in _parts(records["clean"])}
    resolved = {part["name"]: part for part in _parts(records["resolve"])}
    encoded = {record.counts["name"]: record.counts for record in records["encode"].values()}
    entries = []
    for part in corpus.new_parts:
        first, second, kept = (stage[part.name] for stage in (cleaned, resolved, encoded))
        assert first["documents"] == kept["documents"] + sum(second["dropped"].values()), part
        entries.append(part_entry(part, first, second, kept))
    return entries


def part_entry(
    part: Part, cleaned: Mapping[str, Any], resolved: Mapping[str, Any], kept: Mapping[str, Any]
) -> PartEntry:
    """Return a part's line of the manifest from the counts of its stages."""
    return PartEntry(
        name=part.name,
        source=part.source,
        snapshot=part.snapshot,
        documents=cleaned["documents"],
        kept=kept["documents"],
        text_bytes=kept["text_bytes"],
        words=kept["words"],
        tokens=kept["tokens"],
        dropped=dict(sorted({**cleaned["dropped"], **resolved["dropped"]}.items())),
        kept_digest=kept["kept_digest"],
        dropped_digest=add_digests([cleaned["dropped_digest"], resolved["dropped_digest"]]),
    )


def _count(contents: Contents) -> Counts:
    dropped: Counter[str] = Counter()
    for part in contents.parts:
        dropped.update(part.dropped)
    kept = sum(part.kept for part in contents.parts)
    tokens = sum(part.tokens for part in contents.parts)
    assert tokens == sum(shard.tokens for shard in contents.shards), tokens
    return Counts(
        documents_in=kept + sum(dropped.values()),
        documents_kept=kept,
        documents_dropped=dict(sorted(dropped.items())),
        tokens=tokens,
        sequences=sum(shard.rows for shard in contents.shards),
    )


def _made_with(records: Mapping[str, Records]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "canaries": canaries.measured_with(),
        "unicode": unicodedata.unidata_version,
        "task_seconds": {
            stage: round(sum(record.elapsed_seconds for record in done.values()), 3)
            for stage, done in records.items()
        },
    }

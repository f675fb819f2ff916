"""Refresh: from the files a recipe names to one committed snapshot.

Stages run in order, each as tasks with records: clean, group, verify, resolve, tokenizer, encode,
pack. The manifest comes last. The same command again does what is missing; where the snapshot is
complete it compares the inputs and does nothing. A store holds one snapshot for now.
"""

import hashlib
import logging
import os
import platform
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import orjson

from corpus import documents as documents_module
from corpus import readers as readers_module
from corpus.documents import add_digests
from corpus.files import (
    check_absolute_in_job,
    create,
    is_remote,
    join,
    read_bytes,
    write_bytes,
)
from corpus.recipe import Recipe
from corpus.shards import token_dtype
from corpus.snapshots import (
    FORMAT_VERSION,
    Counts,
    FileEntry,
    Input,
    ShardEntry,
    Snapshot,
    commit_snapshot,
    find_snapshot,
    newest_label,
    snapshot_root,
)
from corpus.tokenizer import open_tokenizer
from pipeline import clean, dedup, encode, pack, pairs, rules, signatures, vocabulary
from pipeline.inputs import find_inputs, note_inputs
from pipeline.jobs import Record, Stages, Task, describe_file, sweep

logger = logging.getLogger(__name__)

_LIBRARIES = ("maskline", "numba", "numpy", "pyarrow", "ray", "tokenizers")
_LINEAGE = "lineage.json"


class Outcome(NamedTuple):
    """A complete snapshot and what it took to get there now."""

    snapshot: Snapshot
    tasks_run: int
    elapsed_seconds: float
    stage_seconds: dict[str, float]


def refresh(recipe: Recipe) -> Outcome:
    """Bring the store to the recipe's snapshot; do nothing where it is there already."""
    start = time.perf_counter()
    check_absolute_in_job("store", recipe.store)
    recipe = _with_absolute_store(recipe)
    root = snapshot_root(recipe.store, recipe.snapshot)
    lineage = _lineage(recipe)
    inputs, states = find_inputs(recipe, root)
    complete = find_snapshot(recipe.store, recipe.snapshot)
    if complete is not None:
        _check_lineage(root, lineage)
        _check_same_inputs(complete, inputs)
        return Outcome(complete, 0, time.perf_counter() - start, {})
    newest = newest_label(recipe.store)
    if newest is not None:
        raise ValueError(
            f"{recipe.store} holds the snapshot {newest} and a store holds one for now: give "
            f"{recipe.snapshot} a store of its own"
        )
    create(join(root, _LINEAGE), orjson.dumps(lineage, option=orjson.OPT_SORT_KEYS))
    _check_lineage(root, lineage)
    note_inputs(root, inputs, states)
    stages = Stages(root, recipe.workers)
    try:
        snapshot = _build(recipe, root, inputs, stages)
    finally:
        stages.close()
    return Outcome(snapshot, stages.tasks_run, time.perf_counter() - start, stages.seconds)


def summarize(snapshot: Snapshot) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "snapshot": snapshot.label,
        "fingerprint": snapshot.fingerprint,
        "documents_in": snapshot.counts.documents_in,
        "documents_kept": snapshot.counts.documents_kept,
        "documents_dropped": snapshot.counts.documents_dropped,
        "tokens": snapshot.counts.tokens,
        "sequences": snapshot.counts.sequences,
        "shards": len(snapshot.shards),
    }


def _with_absolute_store(recipe: Recipe) -> Recipe:
    if is_remote(recipe.store):
        return recipe
    return recipe.model_copy(update={"store": os.path.abspath(recipe.store)})  # noqa: PTH100


def _lineage(recipe: Recipe) -> dict[str, Any]:
    """Return what must not change within a store, by dotted name."""
    sections = recipe.model_dump(mode="json", include={"clean", "dedup", "tokenizer", "pack"})
    del sections["dedup"]["partitions"]
    if recipe.tokenizer.path is not None:
        fingerprint = open_tokenizer(recipe.tokenizer.path).fingerprint
        sections["tokenizer"] = {"path": f"a tokenizer with fingerprint {fingerprint}"}
    lineage = {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
    modules = (
        documents_module, readers_module, clean, rules, signatures, pairs, dedup, vocabulary,
        encode, pack,
    )  # fmt: skip
    versions = {f"{module.__name__} (code)": module.VERSION for module in modules}
    return lineage | versions | {"unicode": unicodedata.unidata_version}


def _check_lineage(root: str, lineage: Mapping[str, Any]) -> None:
    stored: dict[str, Any] = orjson.loads(read_bytes(join(root, _LINEAGE)))
    for key in sorted(stored.keys() | lineage.keys()):
        if stored.get(key) != lineage.get(key):
            raise ValueError(
                f"{key} was {stored.get(key)!r} when this store was begun and is "
                f"{lineage.get(key)!r} now: it is fixed for a store; put it back or begin another"
            )


def _check_same_inputs(snapshot: Snapshot, inputs: tuple[Input, ...]) -> None:
    def known(entries: tuple[Input, ...]) -> set[tuple[str, str, int, str]]:
        return {(each.source, each.name, each.size_bytes, each.checksum) for each in entries}

    old, new = known(snapshot.inputs), known(inputs)
    if old != new:
        source, name, *_ = min(old ^ new)
        raise ValueError(
            f"snapshot {snapshot.label} is complete with other inputs ({source}: {name} "
            f"{'is new or changed' if (min(old ^ new)) in new else 'was changed or is missing'}): "
            "give the new inputs a label of their own"
        )


def _build(recipe: Recipe, root: str, inputs: tuple[Input, ...], stages: Stages) -> Snapshot:
    """Run every stage and commit."""
    cleaned = stages.run(
        "clean",
        [
            Task(_input_name(each), clean.clean_file, (each, recipe.clean, recipe.dedup))
            for each in inputs
        ],
    )
    parts = sorted(part["name"] for record in cleaned.values() for part in record.counts["parts"])
    resolved = _deduplicate(recipe, root, parts, stages)
    _check_any_kept(cleaned, resolved)
    making = Task("tokenizer", vocabulary.make_tokenizer, (recipe.store, recipe.tokenizer, parts))
    made = stages.run("tokenizer", [making])["tokenizer"]
    fingerprint, vocab_size = made.counts["fingerprint"], made.counts["vocab_size"]
    encoded = stages.run(
        "encode",
        [Task(part, encode.encode_part, (recipe.store, fingerprint)) for part in parts],
    )
    by_source = _parts_by_source(cleaned)
    token_bytes = np.dtype(token_dtype(vocab_size)).itemsize
    plans = pack.plan_shards(root, by_source, recipe.pack, token_bytes)
    packed = stages.run(
        "pack",
        [
            Task(
                plan.name,
                pack.pack_shard,
                (plan, recipe.pack, (fingerprint, vocab_size, by_source[plan.source])),
            )
            for plan in plans
        ],
    )
    records = {"clean": cleaned, "resolve": resolved, "encode": encoded, "pack": packed}
    return _commit(recipe, inputs, (fingerprint, vocab_size), records)


def _input_name(source: Input) -> str:
    identity = orjson.dumps([source.source, source.name, source.format, source.checksum])
    return f"{source.source}-{hashlib.sha256(identity).hexdigest()[:16]}"


def _deduplicate(recipe: Recipe, root: str, parts: list[str], stages: Stages) -> dict[str, Record]:
    """Run group, verify and resolve; a resolved corpus needs no work files any more."""
    config = recipe.dedup
    identity = hashlib.sha256(orjson.dumps(parts)).hexdigest()[:16]
    groups = [f"{n:05d}-of-{config.partitions:05d}-{identity}" for n in range(config.partitions)]
    task = Task(f"resolve-{identity}", dedup.resolve, (config, parts, (groups, groups)))
    if not stages.is_done("resolve", [task.name]):
        stages.run(
            "group",
            [
                Task(name, pairs.group_partition, (number, config.partitions, parts))
                for number, name in enumerate(groups)
            ],
        )
        stages.run(
            "verify",
            [Task(name, pairs.verify_partition, (config, parts, groups)) for name in groups],
        )
    return stages.run("resolve", [task])


def _check_any_kept(cleaned: dict[str, Record], resolved: dict[str, Record]) -> None:
    documents = sum(part["documents"] for part in _parts(cleaned))
    if not documents:
        raise ValueError(f"no document was kept; dropped: {dict(_count_drops(cleaned, resolved))}")


def _parts(records: dict[str, Record]) -> list[dict[str, Any]]:
    return [part for record in records.values() for part in record.counts["parts"]]


def _count_drops(*stages: dict[str, Record]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for records in stages:
        for part in _parts(records):
            counted.update(part["dropped"])
    return Counter(dict(sorted(counted.items())))


def _parts_by_source(cleaned: dict[str, Record]) -> dict[str, list[str]]:
    by_source: dict[str, list[str]] = {}
    for record in cleaned.values():
        names = [part["name"] for part in record.counts["parts"]]
        by_source.setdefault(record.counts["source"], []).extend(names)
    return {source: sorted(names) for source, names in by_source.items()}


def _commit(
    recipe: Recipe,
    inputs: tuple[Input, ...],
    tokenizer: tuple[str, int],
    records: dict[str, dict[str, Record]],
) -> Snapshot:
    root = snapshot_root(recipe.store, recipe.snapshot)
    stats = _statistics(records)
    write_bytes(join(root, "stats.json"), orjson.dumps(stats, option=orjson.OPT_INDENT_2))
    files = [
        file for stage in records.values() for record in stage.values() for file in record.files
    ]
    files += [describe_file(root, name) for name in ("stats.json", _LINEAGE)]
    shards = tuple(_shard_entries(records["pack"]))
    dropped = [
        part["dropped_digest"] for name in ("clean", "resolve") for part in _parts(records[name])
    ]
    snapshot = Snapshot(
        label=recipe.snapshot,
        format_version=FORMAT_VERSION,
        sequence_length=recipe.pack.sequence_length,
        tokenizer=tokenizer[0],
        vocab_size=tokenizer[1],
        shards=shards,
        kept_digest=add_digests(each.counts["kept_digest"] for each in records["encode"].values()),
        dropped_digest=add_digests(dropped),
        fingerprint="",
        counts=_counts(records, shards),
        files=tuple(
            FileEntry(**file)
            for file in sorted(files, key=lambda file: str(file["path"]))
            if not file["path"].startswith("shards/")
        ),
        inputs=inputs,
        recipe=recipe.model_dump(mode="json"),
        made_with=_made_with(records),
    )
    snapshot = snapshot.model_copy(update={"fingerprint": snapshot.compute_fingerprint()})
    keep = {entry.path for entry in snapshot.files} | {entry.path for entry in shards}
    sweep(root, keep | {"inputs.json"})
    commit_snapshot(recipe.store, snapshot)
    return snapshot


def _shard_entries(packed: dict[str, Record]) -> list[ShardEntry]:
    entries = []
    for record in packed.values():
        (file,) = record.files
        entries.append(ShardEntry(**file, **record.counts))
    return sorted(entries, key=lambda entry: (entry.source, entry.split, entry.path))


def _counts(records: dict[str, dict[str, Record]], shards: tuple[ShardEntry, ...]) -> Counts:
    dropped = _count_drops(records["clean"], records["resolve"])
    cleaned = sum(part["documents"] for part in _parts(records["clean"]))
    documents_in = cleaned + sum(_count_drops(records["clean"]).values())
    kept = sum(record.counts["documents"] for record in records["encode"].values())
    assert documents_in == kept + sum(dropped.values()), (documents_in, kept, dropped)
    tokens = sum(record.counts["tokens"] for record in records["encode"].values())
    assert tokens == sum(shard.tokens for shard in shards), (tokens, shards)
    return Counts(
        documents_in=documents_in,
        documents_kept=kept,
        documents_dropped=dict(dropped),
        tokens=tokens,
        sequences=sum(shard.rows for shard in shards),
    )


def _statistics(records: dict[str, dict[str, Record]]) -> dict[str, Any]:
    """Return the funnel of every source: documents that passed, drops by rule, kept, tokens."""
    funnel: dict[str, dict[str, Any]] = {}
    part_source: dict[str, str] = {}
    for record in records["clean"].values():
        for part in record.counts["parts"]:
            part_source[part["name"]] = record.counts["source"]
    for part in _parts(records["clean"]) + _parts(records["resolve"]):
        entry = funnel.setdefault(part_source[part["name"]], {"dropped": Counter()})
        entry["dropped"].update(part["dropped"])
    for name, record in records["encode"].items():
        entry = funnel[part_source[name]]
        for key in ("documents", "tokens", "text_bytes"):
            entry[key] = entry.get(key, 0) + record.counts[key]
    return {
        source: {**entry, "dropped": dict(sorted(entry["dropped"].items()))}
        for source, entry in sorted(funnel.items())
    }


def _made_with(records: dict[str, dict[str, Record]]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "unicode": unicodedata.unidata_version,
        "task_seconds": {
            stage: round(sum(record.elapsed_seconds for record in done.values()), 3)
            for stage, done in records.items()
        },
    }

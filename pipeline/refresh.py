"""Refresh and rebuild: from the files a recipe names to one committed snapshot.

A refresh reads new inputs only and adds them to the newest snapshot; the same command again does
what is missing. Where the label is complete it compares the inputs and does nothing; where a new
label brings nothing new there is no snapshot. A rebuild makes everything anew in one batch, in a
store of its own, each document keeping its delivery: the independent check of every refresh.
"""

import logging
import time
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from corpus import documents as documents_module
from corpus import readers as readers_module
from corpus.files import (
    absolute,
    check_absolute_in_job,
    check_no_file_url,
    create,
    exists,
    is_remote,
    join,
    read_bytes,
    size_bytes,
)
from corpus.forgotten import forgotten_path, list_takedowns, read_forgotten
from corpus.lease import Lease, holding
from corpus.recipe import Recipe
from corpus.snapshots import (
    Input,
    Snapshot,
    find_snapshot,
    newest_label,
    open_snapshot,
    tokenizer_root,
)
from corpus.tokenizer import open_tokenizer
from pipeline import (
    bad_words,
    boilerplate,
    chain,
    clean,
    contamination,
    custom,
    dedup,
    encode,
    html,
    languages,
    normalize,
    pack,
    pairs,
    preference,
    privacy,
    rules,
    signatures,
    urls,
    vocabulary,
    wikitext,
)
from pipeline.build import Job, build, commit
from pipeline.inputs import LINEAGE, find_inputs, note_inputs, warn_of_moved
from pipeline.jobs import Pool, Stages
from pipeline.outcome import Outcome
from pipeline.report import add_report
from pipeline.settled import copy_lists, keep_lists, settle
from pipeline.takedown import count_shards, finish_killed, obeying, point_head_at

logger = logging.getLogger(__name__)

# What text, labels and verdicts depend on beside our own code.
_LIBRARIES = ("ftfy", "pycld2", "resiliparse")

# Raw files that are told by name; the others are counted. Guess.
_MAX_NAMED = 10


def refresh(recipe: Recipe) -> Outcome:
    """Bring the store to the recipe's snapshot; do nothing where there is nothing to do."""
    # One Ray for the checksums and all that follows, where it is wanted.
    with Pool(recipe.workers) as pool:
        return _refresh(recipe, pool)


def _refresh(recipe: Recipe, pool: Pool) -> Outcome:
    start = time.perf_counter()
    check_absolute_in_job("store", recipe.store)
    recipe, lists = _settle(with_absolute_store(recipe))
    lineage = _lineage(recipe)
    if exists(join(recipe.store, LINEAGE)):
        _check_lineage(recipe.store, lineage)
    inputs, states = find_inputs(recipe, pool)
    complete = find_snapshot(recipe.store, recipe.snapshot)
    if complete is not None:
        _check_same_inputs(complete, inputs)
        point_head_at(recipe.store, complete)
        return Outcome(complete, 0, time.perf_counter() - start, {})
    parent = _newest(recipe.store)
    new = _new_inputs(recipe, parent, inputs)
    if len(new) < len(inputs):
        logger.info("%d inputs were delivered before: not read again", len(inputs) - len(new))
    warn_of_moved(parent.inputs if parent else (), new)
    if parent is not None and not new:
        logger.info("%s brings no new input: no snapshot is made", recipe.snapshot)
        return Outcome(parent, 0, time.perf_counter() - start, {})
    with holding(recipe.store, f"refresh of {recipe.snapshot}") as lease:
        # On top of documents that are on the list, a refresh would not equal a rebuild.
        finish_killed(recipe.store, pool, lease)
        complete = find_snapshot(recipe.store, recipe.snapshot)
        if complete is not None:  # by another command, which has just ended
            return _refresh(recipe, pool)
        parent = _newest(recipe.store)
        new = _new_inputs(recipe, parent, inputs)
        if parent is not None and not new:  # another command has just delivered them
            return Outcome(parent, 0, time.perf_counter() - start, {})
        _begin(recipe.store, lineage)
        keep_lists(recipe.store, lists)
        note_inputs(recipe.store, inputs, states)
        deliveries = (*(parent.deliveries if parent else ()), recipe.snapshot)
        job = Job(recipe, parent, deliveries, new, read_forgotten(recipe.store))
        return run(job, lease)


def rebuild(store: str, into: str, workers: int | None = None) -> Outcome:
    """Make the newest snapshot of a store anew, in one batch over all its inputs, elsewhere."""
    for path in (store, into):
        check_no_file_url("store", path)
    check_absolute_in_job("store", into)
    original = open_snapshot(store)
    recipe = Recipe.model_validate(
        original.recipe | {"store": into, "snapshot": original.label, "workers": workers}
    )
    recipe = with_absolute_store(recipe)
    if _is_same(store, recipe.store):
        raise ValueError(f"{into} is the store itself: rebuild into an empty one")
    job = _rebuilding(store, original, recipe)
    complete = find_snapshot(recipe.store, recipe.snapshot)
    if complete is None:
        _check_raw_files(store, job.inputs)
    _begin(recipe.store, _lineage_now(store))
    copy_lists(store, recipe.store, recipe.clean)
    if complete is not None:
        point_head_at(recipe.store, complete)
        return Outcome(complete, 0, 0.0, {})
    if (newest := newest_label(recipe.store)) is not None:
        raise ValueError(f"{into} holds the snapshot {newest}: rebuild into an empty store")
    if not job.forgotten.is_empty:
        create(forgotten_path(recipe.store, original.label), job.forgotten.to_bytes())
    with holding(recipe.store, f"rebuild of {recipe.snapshot}") as lease:
        return run(job, lease)


def _is_same(store: str, other: str) -> bool:
    """Tell whether two paths lead to one place, through links too."""
    if is_remote(store) or is_remote(other):
        return store.rstrip("/") == other.rstrip("/")
    return Path(store).resolve() == Path(other).resolve()


def _settle(recipe: Recipe) -> tuple[Recipe, dict[str, bytes]]:
    """Check the thresholds and read the lists of a recipe, which then names them by fingerprint."""
    rules.check_thresholds(recipe.clean)
    clean_config, lists = settle(recipe.clean)
    return recipe.model_copy(update={"clean": clean_config}), lists


def _rebuilding(store: str, original: Snapshot, recipe: Recipe) -> Job:
    """Take the tokenizer and the number of shards as they are only where they are given."""
    job = Job(recipe, None, original.deliveries, original.inputs, read_forgotten(store))
    if job.forgotten.is_empty and recipe.tokenizer.path is None:
        return job
    path = tokenizer_root(store, original.tokenizer)
    return job._replace(shards=count_shards(original), tokenizer_path=path)


def _check_raw_files(store: str, inputs: Sequence[Input]) -> None:
    """Name all raw files that are gone or of another size before hours of work need the first."""
    with ThreadPoolExecutor() as pool:
        odd = [each for each in pool.map(_oddness, inputs) if each]
    if odd:
        more = f" and {len(odd) - _MAX_NAMED:,} more" if len(odd) > _MAX_NAMED else ""
        raise ValueError(
            f"{len(odd):,} of the {len(inputs):,} raw files of {store} are not as they were "
            f"delivered: {'; '.join(odd[:_MAX_NAMED])}{more}: a rebuild reads them all, put them "
            "back"
        )


def _oddness(given: Input) -> str | None:
    if not exists(given.path):
        return f"{given.path} is gone"
    size = size_bytes(given.path)
    if size != given.size_bytes:
        return f"{given.path} holds {size:,} bytes, it held {given.size_bytes:,}"
    return None


def _lineage_now(store: str) -> dict[str, Any]:
    """Return the lineage of a store as this version of the code goes on with it."""
    stored: dict[str, Any] = orjson.loads(read_bytes(join(store, LINEAGE)))
    return stored | code_versions()


def run(job: Job, lease: Lease) -> Outcome:
    """Build the snapshot of a job and commit it."""
    start = time.perf_counter()
    stages = Stages(job.tree, job.recipe.workers)
    try:
        snapshot = build(job, stages)
    finally:
        stages.close()
    snapshot = add_report(job.recipe.store, snapshot, job.parent)
    commit(job, obeying(snapshot, job.forgotten), lease)
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


def with_absolute_store(recipe: Recipe) -> Recipe:
    """Return the recipe with a store that does not depend on the working directory."""
    return recipe.model_copy(update={"store": absolute(recipe.store)})


def _newest(store: str) -> Snapshot | None:
    label = newest_label(store)
    return None if label is None else open_snapshot(store, label)


def _new_inputs(
    recipe: Recipe, parent: Snapshot | None, inputs: tuple[Input, ...]
) -> tuple[Input, ...]:
    """Return the inputs that no earlier delivery brought."""
    if parent is None:
        return inputs
    if recipe.snapshot in parent.deliveries:
        raise ValueError(f"{recipe.store} holds the delivery {recipe.snapshot}: give another label")
    if recipe.snapshot in list_takedowns(recipe.store):
        raise ValueError(f"{recipe.snapshot} is the label of a take-down: give another label")
    known = {each.identity for each in parent.inputs}
    return tuple(each for each in inputs if each.identity not in known)


def _lineage(recipe: Recipe) -> dict[str, Any]:
    """Return what must not change within a store, by dotted name."""
    sections = recipe.model_dump(mode="json", include={"clean", "dedup", "tokenizer", "pack"})
    del sections["dedup"]["partitions"], sections["dedup"]["memory_bytes"]
    if recipe.tokenizer.path is not None:
        fingerprint = open_tokenizer(recipe.tokenizer.path).fingerprint
        sections["tokenizer"] = {"path": f"a tokenizer with fingerprint {fingerprint}"}
    lineage = {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
    return lineage | code_versions()


def code_versions() -> dict[str, Any]:
    """Return the versions of code, libraries and Unicode that a result depends on."""
    modules = (
        documents_module, readers_module, chain, clean, urls, html, wikitext, normalize,
        boilerplate, privacy, languages, rules, bad_words, contamination, custom, signatures,
        preference, pairs, dedup, vocabulary, encode, pack,
    )  # fmt: skip
    versions = {f"{module.__name__} (code)": module.VERSION for module in modules}
    libraries = {f"{name} (library)": version(name) for name in _LIBRARIES}
    return versions | libraries | {"unicode": unicodedata.unidata_version}


def _begin(store: str, lineage: Mapping[str, Any]) -> None:
    """Fix the lineage of a new store, or check that it is that of an old one."""
    create(join(store, LINEAGE), orjson.dumps(lineage, option=orjson.OPT_SORT_KEYS))
    _check_lineage(store, lineage)


def _check_lineage(store: str, lineage: Mapping[str, Any]) -> None:
    stored: dict[str, Any] = orjson.loads(read_bytes(join(store, LINEAGE)))
    for key in sorted(stored.keys() | lineage.keys()):
        if stored.get(key) != lineage.get(key):
            raise ValueError(
                f"{key} was {stored.get(key)!r} when this store was begun and is "
                f"{lineage.get(key)!r} now: it is fixed for a store; put it back or "
                + ("begin another" if newest_label(store) else f"remove {store}, which is empty")
            )


def _check_same_inputs(snapshot: Snapshot, inputs: tuple[Input, ...]) -> None:
    before = {each.identity for each in snapshot.inputs if each.snapshot != snapshot.label}
    old = {each.identity for each in snapshot.inputs} - before
    new = {each.identity for each in inputs} - before
    if old != new:
        source, name, *_ = odd = min(old ^ new)
        raise ValueError(
            f"snapshot {snapshot.label} is complete with other inputs ({source}: {name} "
            f"{'is new or changed' if odd in new else 'was changed or is missing'}): "
            "give the new inputs a label of their own"
        )

"""Where a run lies, what it goes on from, and what its recipe says otherwise than before.

The data plan, the model and the optimizer stay what they were. The rest of a recipe may change in
mid-run, as a lower learning rate after a spike; so each change is told and kept, with the step it
came at, in changes.jsonl beside the metrics and in every checkpoint after it.
"""

import logging
from pathlib import Path
from typing import Any

import orjson

from corpus.files import check_absolute_in_job, is_remote, write_bytes
from corpus.recipe import Recipe
from corpus.snapshots import Snapshot, open_snapshot
from corpus.training import Pretrain
from pretrain.checkpoints import (
    CHANGES,
    CheckpointState,
    check_identity,
    checkpoint_home,
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    read_carried,
    read_state,
)
from pretrain.config import DataPlan, Identity, data_plan, learning_rate_at, model_shape
from pretrain.initial import fingerprint_start
from pretrain.spikes import listed_batches
from pretrain.world import World

logger = logging.getLogger(__name__)

# Places, ranks and what is kept or shown: no number of a run depends on them.
_FREE = {
    "run", "init_from", "checkpoint_root", "cache", "trackers", "processes", "ray_workers",
    "ray_worker_cpus", "ray_max_failures", "ray_grow_after_seconds", "keep_checkpoints",
    "keep_checkpoint_every_steps", "checkpoint_every_steps", "validate_every_steps",
}  # fmt: skip


def run_directory(recipe: Recipe) -> str:
    """Return the output directory of a recipe, checked."""
    run = recipe.pretrain.run
    if run is None:
        raise ValueError("pretrain.run is missing: give the output directory of the run")
    if is_remote(run):
        raise ValueError(f"pretrain.run is the URL {run}: training writes to a local directory")
    path = Path(run)
    there = next((each for each in (path, *path.parents) if each.exists()), path)
    if there.exists() and not there.is_dir():
        what = "a file" if there == path else f"below the file {there}"
        raise ValueError(f"pretrain.run is {run}, {what}: give a directory, new or of a run")
    check_absolute_in_job("pretrain.run", run)
    check_absolute_in_job("store", recipe.store)
    return run


def checkpoint_root(recipe: Recipe) -> str:
    """Return the root of a recipe's checkpoints, checked."""
    root = recipe.pretrain.checkpoint_root or run_directory(recipe)
    check_absolute_in_job("pretrain.checkpoint_root", root)
    return root


def check_newest(recipe: Recipe) -> CheckpointState | None:
    """Return what a recipe's run would go on from; `ValueError` if the recipe is of another run."""
    config, run, root = recipe.pretrain, run_directory(recipe), checkpoint_root(recipe)
    newest = _find_newest(run, root)
    if newest is None:
        return None
    changes_since(newest[1], config)
    found = newest[1].identity
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    left_out = {*listed_batches(run), *found.plan.skipped_batches}
    plan = data_plan(config, snapshot, tuple(sorted(left_out)))
    # The rows that were trained on say whether they are pairs; others are refused before.
    identify(config, snapshot, plan, found.model.next_sentence, newest)
    return newest[1]


def find_newest(run: str, root: str, world: World) -> tuple[str, CheckpointState] | None:
    """Find the newest checkpoint, the same on every rank: one may just be coming or going."""
    found = _find_newest(run, root) if world.is_first else None
    step = world.agree(found[1].step if found else 0)
    if step == 0 or found:
        return found
    path = checkpoint_path(root, step)
    return path, read_state(path)


def _find_newest(run: str, root: str) -> tuple[str, CheckpointState] | None:
    """Find the newest checkpoint; to begin anew where the run has some elsewhere is refused."""
    found, home = newest_checkpoint(root), checkpoint_home(run)
    before = newest_checkpoint(home) if found is None and home != root else None
    if before is not None:
        raise ValueError(
            f"{run} goes on from {before[0]}, and {root} holds no checkpoint: give "
            "pretrain.checkpoint_root what it was, copy the checkpoints, or take another "
            "pretrain.run"
        )
    return found


def tell_what_is_kept(recipe: Recipe) -> str:
    """Say where a run that is ended now goes on."""
    kept = list_checkpoints(checkpoint_root(recipe))
    if not kept:
        return "no checkpoint was written yet, the same command begins anew"
    step = int(kept[-1].rpartition("step-")[2])
    # A rank on another machine may just be writing one.
    later = "" if recipe.pretrain.ray_workers is None else " or later"
    return f"the same command goes on from step {step:,}{later}"


def identify(
    config: Pretrain,
    snapshot: Snapshot,
    plan: DataPlan,
    has_pairs: bool,
    newest: tuple[str, CheckpointState] | None,
) -> Identity:
    """Say what the run is made of; a checkpoint made of something else is refused."""
    shape, start = model_shape(config.preset, snapshot, has_pairs), None
    if config.init_from:
        start = newest[1].identity.start if newest else None
        start = start or fingerprint_start(config.init_from, shape, snapshot.tokenizer)
    identity = Identity(
        snapshot_label=snapshot.label,
        tokenizer=snapshot.tokenizer,
        model=shape,
        plan=plan,
        start=start,
    )
    if newest and not newest[1].identity.agrees(identity, newest[1].step):
        check_identity(newest[0], newest[1].identity, identity)
    return identity


def changes_since(state: CheckpointState, config: Pretrain) -> dict[str, list[Any]]:
    """Give what of the recipe differs from that of a checkpoint: [before, now] by key.

    `ValueError` for another optimizer: the moments would be taken for what they are not.
    """
    before, now = state.recipe["pretrain"], config.model_dump(mode="json")
    changed = {
        name: [before[name], value]
        for name, value in now.items()
        if name not in _FREE and name in before and before[name] != value
    }
    if "optimizer" in changed:
        raise ValueError(
            f"the checkpoint of step {state.step} was trained with optimizer "
            f"{before['optimizer']}, the recipe gives {config.optimizer}: give the recipe what the "
            "run began with, or begin another with pretrain.init_from"
        )
    return changed


def tell_of_changes(
    newest: tuple[str, CheckpointState], config: Pretrain, run: str, changed: dict[str, list[Any]]
) -> None:
    """Say what a run goes on from and with, and note what changed where the metrics lie."""
    path, state = newest
    said = [f"{name} {before} -> {now}" for name, (before, now) in changed.items()]
    logger.info("going on from step %d%s", state.step, f" with {', '.join(said)}" if said else "")
    if changed and state.step < config.max_steps:
        old = config.model_copy(update={name: before for name, (before, _) in changed.items()})
        rates = learning_rate_at(old, state.step - 1), learning_rate_at(config, state.step)
        if max(rates) > 2 * min(rates):
            logger.warning(
                "the learning rate was %.3g in step %d and is %.3g in step %d: "
                "pretrain.init_from begins a run of its own from an export",
                rates[0], state.step - 1, rates[1], state.step,
            )  # fmt: skip
    lines = read_carried(path, state, CHANGES) or b""
    if changed:
        lines += orjson.dumps({"step": state.step, "changes": changed}) + b"\n"
    target = Path(run) / CHANGES
    if lines or target.exists():
        write_bytes(str(target), lines)

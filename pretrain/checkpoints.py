"""Checkpoints that any number of ranks at any ZeRO stage can go on from.

    <root>/checkpoints/step-00000100/
      model.safetensors       weights by parameter name, fp32: the master copy, of which bf16
                              weights are the rounding
      optimizer.safetensors   the optimizer's moments by parameter name, fp32
      metrics.jsonl           the run's metrics up to here; only under pretrain.checkpoint_root
      skipped.json            what the run left out up to here, if anything
      changes.jsonl           what its recipe said otherwise before, and up to which step, if so
      state.json              step, data plan, fingerprints, recipe, versions, file checksums

The root is the run's directory, or pretrain.checkpoint_root, which may be any URL that fsspec
opens. `step` is the number of updates made, so the next batch is that of step `step`. A checkpoint
exists exactly when its state.json does: it is written last and removed first. Every file is
compared with its checksum when a run goes on from it; a damaged one is refused by name, with the
newest older checkpoint that is whole. Falling back by itself would train steps twice in silence.
Directories of other names beside them are somebody's own: neither read nor deleted.

Writing beside the steps is writer.py's; the functions here return when all is done.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from corpus.files import (
    checksum,
    join,
    list_names,
    read_bytes,
    remove,
    remove_tree,
    write_bytes,
    writing,
)
from pretrain.config import Identity
from pretrain.metrics import METRICS, parse_metrics, read_metrics, write_metrics
from pretrain.tensors import DamagedFileError, read_tensors, write_tensors

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RECIPE = "recipe.json"
_STATE = "state.json"
_MODEL = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
SKIPPED = "skipped.json"
CHANGES = "changes.jsonl"
_NAME = re.compile(r"step-\d{8,}")
_LIBRARIES = ("torch", "deepspeed", "transformers", "safetensors", "numpy", "maskline")

# By parameter name: "weight" and the moments of the optimizer.
TrainingState = Mapping[str, Mapping[str, Tensor]]


class CheckpointState(BaseModel):
    """What made a checkpoint, beside its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    step: int
    identity: Identity
    plan_hash: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    checksums: dict[str, str]

    @property
    def weights(self) -> str:
        """The SHA-256 of the weights."""
        return self.checksums[_MODEL]


def checkpoint_home(run: str) -> str:
    """Return the root of a run's checkpoints: what its recipe says, or the run itself."""
    path = Path(run) / RECIPE
    try:
        recipe = orjson.loads(path.read_bytes()) if path.exists() else {}
        return recipe.get("pretrain", {}).get("checkpoint_root") or run
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no recipe ({error}): delete it and train by the recipe again, which "
            "writes it, or name the root of the checkpoints in place of the run"
        ) from None


def checkpoint_path(root: str, step: int) -> str:
    """Return where the checkpoint of a step lies."""
    return join(root, "checkpoints", f"step-{step:08d}")


def list_checkpoints(root: str) -> list[str]:
    """List the complete checkpoints below a root, oldest first."""
    names = list_names(join(root, "checkpoints"))
    split = (name.split("/") for name in names)
    complete = [parts[0] for parts in split if parts[1:] == [_STATE] and _NAME.fullmatch(parts[0])]
    return [join(root, "checkpoints", name) for name in complete]


def newest_checkpoint(root: str) -> tuple[str, CheckpointState] | None:
    """Find the newest complete checkpoint below a root, or None."""
    found = list_checkpoints(root)
    return (found[-1], read_state(found[-1])) if found else None


def read_state(checkpoint: str) -> CheckpointState:
    """Read the state.json of a checkpoint."""
    path = join(checkpoint, _STATE)
    try:
        state = CheckpointState.model_validate_json(read_bytes(path))
    except ValidationError as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged ({what}): {_remedy(checkpoint)}") from None
    if state.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {state.format_version}, expected {FORMAT_VERSION}: "
            "go on with the version that wrote it, or take another pretrain.run"
        )
    if not checkpoint.endswith(f"step-{state.step:08d}"):
        raise ValueError(f"{path} is damaged (step {state.step}): {_remedy(checkpoint)}")
    return state


def save_checkpoint(
    root: str,
    step: int,
    identity: Identity,
    recipe: Mapping[str, Any],
    state: TrainingState,
    carried: Mapping[str, bytes] | None = None,
) -> str:
    """Commit a checkpoint whole; called by one rank with the gathered state.

    `carried` are files of the run that go along, by name.
    """
    files = {
        _MODEL: {name: kinds["weight"] for name, kinds in state.items()},
        _OPTIMIZER: {
            f"{name}.{kind}": tensor
            for name, kinds in state.items()
            for kind, tensor in kinds.items()
            if kind != "weight"
        },
    }
    target = checkpoint_path(root, step)
    remove_checkpoint(target)  # what a killed run left of it
    checksums = {name: _write(join(target, name), tensors) for name, tensors in files.items()}
    for name, content in (carried or {}).items():
        write_bytes(join(target, name), content)
        checksums[name] = hashlib.sha256(content).hexdigest()
    manifest = CheckpointState(
        format_version=FORMAT_VERSION,
        step=step,
        identity=identity,
        plan_hash=identity.plan.hash,
        recipe=dict(recipe),
        versions={name: version(name) for name in _LIBRARIES},
        checksums=checksums,
    )
    data = orjson.dumps(manifest.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_bytes(join(target, _STATE), data)
    return target


def _write(path: str, tensors: Mapping[str, Tensor]) -> str:
    with writing(path) as stream:
        return write_tensors(stream, tensors)


def prune_checkpoints(root: str, keep: int, keep_every_steps: int | None = None) -> None:
    """Delete all but the newest `keep` and those whose step `keep_every_steps` divides.

    What killed runs left behind goes too.
    """
    complete = list_checkpoints(root)
    kept = {name.rpartition("/")[2] for name in complete[-keep:]}
    for name in (name.rpartition("/")[2] for name in complete):
        if keep_every_steps and int(name.rpartition("-")[2]) % keep_every_steps == 0:
            kept.add(name)
    names = list_names(join(root, "checkpoints"))
    for name in sorted({name.split("/")[0] for name in names} - kept):
        if _NAME.fullmatch(name):
            remove_checkpoint(join(root, "checkpoints", name))


def remove_checkpoint(checkpoint: str) -> None:
    """Delete a checkpoint, its state first."""
    remove(join(checkpoint, _STATE))
    remove_tree(checkpoint)


def load_weights(checkpoint: str, state: CheckpointState) -> dict[str, Tensor]:
    """Read the fp32 weights by parameter name, verified."""
    return _load(checkpoint, state, _MODEL)


def load_training_state(checkpoint: str, state: CheckpointState) -> TrainingState:
    """Read weights and moments by parameter name, verified."""
    weights = load_weights(checkpoint, state)
    gathered: dict[str, dict[str, Tensor]] = {
        name: {"weight": weight} for name, weight in weights.items()
    }
    for key, tensor in _load(checkpoint, state, _OPTIMIZER).items():
        name, _, kind = key.rpartition(".")
        gathered[name][kind] = tensor
    return gathered


def restore_metrics(checkpoint: str, state: CheckpointState, run: str) -> None:
    """Fill up the metrics in the run's directory with those that a checkpoint carries."""
    if METRICS not in state.checksums:
        return
    own = read_metrics(run)
    lines = _filled_up(own, checkpoint, state)
    if lines != own:
        write_metrics(run, lines)


def known_metrics(run: str, checkpoint: str, state: CheckpointState) -> list[dict[str, Any]]:
    """Read the metrics of a run: those in its directory, filled up with those of a checkpoint."""
    return _filled_up(read_metrics(run), checkpoint, state)


def _filled_up(
    own: list[dict[str, Any]], checkpoint: str, state: CheckpointState
) -> list[dict[str, Any]]:
    """Fill up metrics with those that a checkpoint carries, if it does, in the order of steps.

    The directory may be new, or that of a machine that took part up to some earlier step. What the
    checkpoint says of a step goes before what lies there.
    """
    data = read_carried(checkpoint, state, METRICS)
    if data is None:
        return own
    lines = {line["step"]: line for line in (*own, *parse_metrics(data))}
    return [lines[step] for step in sorted(lines)]


def read_carried(checkpoint: str, state: CheckpointState, name: str) -> bytes | None:
    """Read a file of the run that a checkpoint carries, verified; None if it carries none."""
    if name not in state.checksums:
        return None
    try:
        data = read_bytes(join(checkpoint, name))
    except FileNotFoundError:
        raise ValueError(
            f"{checkpoint}/{name} is missing, {_STATE} lists it: {_remedy(checkpoint)}"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != state.checksums[name]:
        raise ValueError(
            f"{checkpoint}/{name} has checksum {found}, {_STATE} says "
            f"{state.checksums[name]}: {_remedy(checkpoint)}"
        )
    return data


def _load(checkpoint: str, state: CheckpointState, name: str) -> dict[str, Tensor]:
    path = join(checkpoint, name)
    try:
        return read_tensors(path, state.checksums[name])
    except FileNotFoundError:
        problem = f"{path} is missing, {_STATE} lists it"
    except DamagedFileError as error:
        problem = f"{error}, {_STATE} says {state.checksums[name]}"
    raise ValueError(f"{problem}: {_remedy(checkpoint)}")


def _is_whole(checkpoint: str) -> bool:
    """Read all of a checkpoint and tell whether every file is what it was."""
    try:
        state = CheckpointState.model_validate_json(read_bytes(join(checkpoint, _STATE)))
        found = {name: checksum(join(checkpoint, name)) for name in state.checksums}
    except (ValidationError, FileNotFoundError):
        return False
    return found == state.checksums


def _remedy(checkpoint: str) -> str:
    """Say how to go on without a damaged checkpoint: which older one is whole."""
    root, _, name = checkpoint.rpartition("/checkpoints/")
    older = [other for other in list_checkpoints(root) if other.rpartition("/")[2] < name]
    whole = next((other for other in reversed(older) if _is_whole(other)), None)
    if whole is None:
        return (
            "no older checkpoint is whole: restore it from a copy, or delete its directory and "
            "the older ones to start again"
        )
    between = "".join(f", and {each}," for each in older[older.index(whole) + 1 :])
    return f"delete its directory{between} to go on from {whole}, which is whole"


def check_identity(checkpoint: str, found: Identity, expected: Identity) -> None:
    """Refuse a checkpoint that was made from something else, naming what differs."""
    if found.plan.snapshot != expected.plan.snapshot:
        raise ValueError(
            f"{checkpoint} was trained on snapshot {found.snapshot_label} "
            f"({found.plan.snapshot:.12}), the recipe names {expected.snapshot_label} "
            f"({expected.plan.snapshot:.12}): {_OTHER_RUN}"
        )
    differences = [
        *_differences("data plan", found.plan, expected.plan),
        *_differences("model", found.model, expected.model),
    ]
    if (found.start is None) != (expected.start is None):
        begun = ["weights drawn from the seed", "an exported checkpoint (pretrain.init_from)"]
        here, there = begun[found.start is not None], begun[expected.start is not None]
        differences.append(f"begun with {here}, the recipe gives {there}")
    if differences:
        raise ValueError(f"{checkpoint} has {'; '.join(differences)}: {_OTHER_RUN}")


_OTHER_RUN = "give the recipe what the checkpoint has, or take another pretrain.run"


def _differences(kind: str, found: BaseModel, expected: BaseModel) -> Iterable[str]:
    wanted = expected.model_dump()
    for name, value in found.model_dump().items():
        if value != wanted[name]:
            yield f"{kind} {name} {value}, the recipe gives {wanted[name]}"

"""Checkpoints that any number of ranks at any ZeRO stage can go on from.

    <run>/checkpoints/step-00000100/
      model.safetensors       weights by parameter name, fp32: the master copy, of which bf16
                              weights are the rounding
      optimizer.safetensors   both AdamW moments by parameter name, fp32
      state.json              step, data plan, fingerprints, recipe, versions, file checksums

`step` is the number of updates made, so the next batch is that of step `step`. A checkpoint exists
exactly when its state.json does: it is written last and removed first. Files are compared with
their checksums when a run goes on from them. Writing is synchronous; rank 0 holds all tensors in
memory meanwhile (12 bytes a parameter, and 8 more while the larger file is serialized).
"""

import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from corpus.files import checksum, filesystem, remove, write_bytes
from pretrain.config import Identity

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_STATE = "state.json"
_MODEL = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
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


def list_checkpoints(run: str) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in Path(run).glob(f"checkpoints/step-*/{_STATE}"))


def newest_checkpoint(run: str) -> tuple[Path, CheckpointState] | None:
    """Find the newest complete checkpoint of a run, or None."""
    found = list_checkpoints(run)
    return (found[-1], read_state(found[-1])) if found else None


def read_state(checkpoint: Path) -> CheckpointState:
    """Read the state.json of a checkpoint."""
    path = checkpoint / _STATE
    try:
        state = CheckpointState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged ({what}): {_REMEDY}") from None
    if state.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {state.format_version}, expected {FORMAT_VERSION}: "
            "go on with the version that wrote it, or take another pretrain.run"
        )
    return state


def save_checkpoint(
    run: str, step: int, identity: Identity, recipe: Mapping[str, Any], state: TrainingState
) -> Path:
    """Commit a checkpoint whole; called by one rank with the gathered state."""
    target = Path(run) / "checkpoints" / f"step-{step:08d}"
    files = {
        _MODEL: {name: kinds["weight"] for name, kinds in state.items()},
        _OPTIMIZER: {
            f"{name}.{kind}": tensor
            for name, kinds in state.items()
            for kind, tensor in kinds.items()
            if kind != "weight"
        },
    }
    for name, tensors in files.items():
        write_bytes(str(target / name), safetensors.torch.save(tensors, {"format": "pt"}))
    manifest = CheckpointState(
        format_version=FORMAT_VERSION,
        step=step,
        identity=identity,
        plan_hash=identity.plan.hash,
        recipe=dict(recipe),
        versions={name: version(name) for name in _LIBRARIES},
        checksums={name: checksum(str(target / name)) for name in files},
    )
    data = orjson.dumps(manifest.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_bytes(str(target / _STATE), data)
    return target


def prune_checkpoints(run: str, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints, and what killed runs left behind."""
    complete = list_checkpoints(run)
    kept = complete[-keep:]
    for path in sorted(Path(run).glob("checkpoints/step-*")):
        if path not in kept:
            remove(str(path / _STATE))
            fs, name = filesystem(str(path))
            fs.rm(name, recursive=True)


def load_weights(checkpoint: Path, state: CheckpointState) -> dict[str, Tensor]:
    """Read the fp32 weights by parameter name, verified."""
    return _load(checkpoint, state, _MODEL)


def load_training_state(checkpoint: Path, state: CheckpointState) -> TrainingState:
    """Read weights and moments by parameter name, verified."""
    weights = load_weights(checkpoint, state)
    gathered: dict[str, dict[str, Tensor]] = {
        name: {"weight": weight} for name, weight in weights.items()
    }
    for key, tensor in _load(checkpoint, state, _OPTIMIZER).items():
        name, _, kind = key.rpartition(".")
        gathered[name][kind] = tensor
    return gathered


_REMEDY = "delete its directory to go on from the checkpoint before it"


def _load(checkpoint: Path, state: CheckpointState, name: str) -> dict[str, Tensor]:
    path = checkpoint / name
    if not path.exists():
        raise ValueError(f"{path} is missing, {_STATE} lists it: {_REMEDY}")
    found = checksum(str(path))
    if found != state.checksums[name]:
        raise ValueError(
            f"{path} has checksum {found}, {_STATE} says {state.checksums[name]}: {_REMEDY}"
        )
    return safetensors.torch.load_file(path)


def check_identity(checkpoint: Path, found: Identity, expected: Identity) -> None:
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
    if differences:
        raise ValueError(f"{checkpoint} has {'; '.join(differences)}: {_OTHER_RUN}")


_OTHER_RUN = "give the recipe what the checkpoint has, or take another pretrain.run"


def _differences(kind: str, found: BaseModel, expected: BaseModel) -> Iterable[str]:
    wanted = expected.model_dump()
    for name, value in found.model_dump().items():
        if value != wanted[name]:
            yield f"{kind} {name} {value}, the recipe gives {wanted[name]}"

"""What a run of fine-tuning writes now and then, so that it goes on after it was killed.

Tensors first (weights, the optimizer's moments, the best epoch's weights), then the record that
names them with their checksum: a kill between leaves the state before.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from corpus.files import remove, write_bytes, writing
from corpus.section import Section
from pretrain.tensors import DamagedFileError, read_tensors, write_tensors

logger = logging.getLogger(__name__)

_RECORD, _TENSORS = "state.json", "state-{step}.safetensors"
_SHOWN = 12  # digits of a run's name in the log


class Progress(Section):
    """How far a run is; losses are (step, mean training loss since the last point)."""

    # A correlation of constants is no number, and has to come back as none.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    step: int = 0
    seconds: float = 0.0
    scores: tuple[tuple[dict[str, float], ...], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    pending: tuple[float, ...] = ()
    best_epoch: int | None = None
    details: tuple[dict[str, Any], ...] = ()
    diverged: bool = False


class _State(Section):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    progress: Progress
    tensors: str
    checksum: str


def save(
    directory: str,
    progress: Progress,
    weights: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
) -> None:
    """Write what is needed to go on, and delete the state before."""
    tensors = {f"best {name}": value for name, value in best.items()}
    for name, weight in weights.items():
        tensors[f"weight {name}"] = weight.detach().cpu()
        for kind, value in optimizer.state.get(weight, {}).items():
            tensors[f"{kind} {name}"] = value.cpu()
    root = Path(directory)
    path = root / _TENSORS.format(step=progress.step)
    older = sorted(set(root.glob(_TENSORS.format(step="*"))) - {path})
    with writing(str(path)) as stream:
        digest = write_tensors(stream, tensors)
    record = _State(progress=progress, tensors=path.name, checksum=digest)
    write_bytes(str(root / _RECORD), record.model_dump_json().encode())
    for each in older:
        remove(str(each))
    logger.info("%s: state after step %s", root.name[:_SHOWN], f"{progress.step:,}")


def restore(
    directory: str, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]]:
    """Put a state back, if there is one; a damaged one is no reason not to begin anew."""
    path = Path(directory) / _RECORD
    if not path.exists():
        return Progress(), {}
    try:
        state = _State.model_validate_json(path.read_bytes())
        tensors = read_tensors(str(path.with_name(state.tensors)), state.checksum)
    except (DamagedFileError, ValueError, OSError) as error:
        logger.warning("%s begins anew: %s", path.parent.name[:_SHOWN], error)
        return Progress(), {}
    best: dict[str, Tensor] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(" ")
        if kind == "best":
            best[name] = value
        elif kind == "weight":
            with torch.no_grad():
                weights[name].copy_(value)
        else:
            weight = weights[name]
            optimizer.state[weight][kind] = value.to(weight.device)
    logger.info("%s goes on after step %s", path.parent.name[:_SHOWN], f"{state.progress.step:,}")
    return state.progress, best


def clear(directory: str) -> None:
    """Delete the state of a run that has ended."""
    for path in sorted(Path(directory).glob("state*")):
        remove(str(path))

"""DeepSpeed ZeRO behind five verbs, and the only file that knows it.

One derived configuration (`deepspeed_config`, saved with the run); torch's AdamW as the optimizer;
the learning rate is set by us at every step. Stage 1 in bf16 runs DeepSpeed's BF16_Optimizer, which
accumulates gradients in fp32 and communicates once a step.

The loss is exact: each microbatch's *sum* over labels is scaled by ranks / global labels, without
DeepSpeed's division by the accumulation steps, and DeepSpeed averages gradients over ranks. So
every label of the global batch has the same weight 1 / global labels.

The state leaves and enters by parameter name as full fp32 tensors, whatever the stage: that is what
makes checkpoints free of world size and stage. Nothing is offloaded, clipped or scaled.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corpus.training import Pretrain
from pretrain.batches import Batch
from pretrain.dataset import Shares
from pretrain.model import MaskedLanguageModel, decays
from pretrain.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
_NEVER = 2**62  # steps between DeepSpeed's own progress prints


def deepspeed_config(config: Pretrain, shares: Shares) -> dict[str, Any]:
    """Derive the DeepSpeed configuration of a run."""
    is_bf16 = config.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": shares.microbatch_sequences,
        "gradient_accumulation_steps": shares.microbatches,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            # Stage 3 would put a linear that rounds otherwise in place of torch's, process-wide.
            "memory_efficient_linear": False,
        },
        "bf16": {"enabled": is_bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": 0.0,
        "steps_per_print": _NEVER,
    }


class Engine:
    """A model in training: microbatches in, updates made, state out and in by name."""

    def __init__(
        self, model: MaskedLanguageModel, config: Pretrain, shares: Shares, world: World
    ) -> None:
        """Hand the model to DeepSpeed; torch.distributed must be initialized."""
        self._parameters = dict(model.named_parameters())
        self._world = world
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it imports is deprecated in many places
            deepspeed = _import_deepspeed()
            if config.zero_stage == 3:
                # The head uses the embedding from outside the module that owns it.
                deepspeed.zero.register_external_parameter(model, model.decoder_weight)
            self._engine, *_ = deepspeed.initialize(
                model=model.to(world.device),
                optimizer=_optimizer(model, config),
                config=deepspeed_config(config, shares),
                dist_init_required=False,
            )
        # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        self._tools = importlib.import_module("deepspeed.utils")

    def train(self, batch: Batch, global_labels: int, dropout_seed: int) -> Tensor:
        """Add a microbatch's gradients, updating after a step's last; return its loss sum."""
        self._engine.train()
        torch.manual_seed(dropout_seed)
        loss: Tensor = self._engine(*self._arguments(batch))
        scale = self._world.size / max(1, global_labels)
        self._engine.backward(loss * scale, scale_wrt_gas=False)
        self._engine.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Return a microbatch's loss sum, without dropout and gradients."""
        self._engine.eval()
        loss: Tensor = self._engine(*self._arguments(batch))
        return loss

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from now on."""
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = learning_rate

    def gradient_norm(self) -> float | None:
        """Return the norm of the last step's gradient; stage 0 does not compute it."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def gather_state(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Give every parameter's weight and moments in fp32; all ranks must take part."""
        self._link_moments()
        for name, parameter in self._parameters.items():
            yield name, {kind: self._full(parameter, kind) for kind in ("weight", *MOMENTS)}

    def restore_state(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Take over full weights and moments by name, and the count of updates made."""
        self._create_moments(step)
        self._link_moments()
        for name, parameter in self._parameters.items():
            for kind, value in state[name].items():
                self._set_full(parameter, kind, value.to(self._world.device))

    def close(self) -> None:
        """Release what DeepSpeed holds."""
        self._engine.destroy()

    def _arguments(self, batch: Batch) -> tuple[Any, ...]:
        tensors = (batch.inputs, batch.lengths, batch.slots, batch.labels)
        has_padding = bool((batch.lengths < batch.inputs.shape[1]).any())
        return *(
            tensor.to(self._world.device, non_blocking=True) for tensor in tensors
        ), has_padding

    def _full(self, parameter: nn.Parameter, kind: str) -> Tensor:
        if self._is_plain:
            whole = parameter if kind == "weight" else self._plain_state(parameter)[kind]
        elif kind == "weight":
            whole = self._tools.safe_get_full_fp32_param(parameter)
        else:
            whole = self._tools.safe_get_full_optimizer_state(parameter, kind)
        return whole.detach().float().cpu().clone()

    def _set_full(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        if self._is_plain:
            whole = parameter if kind == "weight" else self._plain_state(parameter)[kind]
            whole.data.copy_(value)
        elif hasattr(parameter, "ds_tensor"):
            self._set_partition(parameter, kind, value.flatten())
        elif kind == "weight":
            self._tools.safe_set_full_fp32_param(parameter, value)
        else:
            self._tools.safe_set_full_optimizer_state(parameter, value, kind)

    def _set_partition(self, parameter: Any, kind: str, value: Tensor) -> None:  # noqa: ANN401
        """Set this rank's part of a stage 3 parameter.

        DeepSpeed's own safe_set_full_... fails where the ranks do not divide the size (0.19.8).
        """
        part = parameter.ds_tensor.numel()
        padded = functional.pad(value, (0, part * self._world.size - value.numel()))
        mine = padded.narrow(0, part * self._world.rank, part)
        if kind == "weight":
            self._tools.safe_set_local_fp32_param(parameter, mine)
        else:
            self._tools.safe_set_local_optimizer_state(parameter, mine, kind)

    def _create_moments(self, step: int) -> None:
        """Make the moments that AdamW would make at its first step, with its count set."""
        optimizer = self._engine.basic_optimizer
        for partition in self._partitions():
            optimizer.state[partition] = {
                "step": torch.tensor(float(step)),
                **{kind: torch.zeros_like(partition) for kind in MOMENTS},
            }

    def _link_moments(self) -> None:
        """Let stages 1 and 2 find moments by parameter, once they exist.

        DeepSpeed does this in its first step, but after the first of the two parameter groups, so
        that the moments of the second stay unknown to it (0.19.8).
        """
        zero = self._engine.optimizer
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _partitions(self) -> list[Tensor]:
        """List the tensors that the basic optimizer really updates on this rank."""
        zero = self._engine.optimizer
        for attribute in (
            "fp32_groups_flat_partition",  # stage 1, bf16
            "single_partition_of_fp32_groups",  # stages 1 and 2
            "fp32_partitioned_groups_flat",  # stage 3
        ):
            if hasattr(zero, attribute):
                return list(getattr(zero, attribute))
        return list(self._parameters.values())

    @property
    def _is_plain(self) -> bool:
        return self._engine.optimizer is self._engine.basic_optimizer

    def _plain_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._engine.basic_optimizer.state[parameter]
        return state


def _optimizer(model: nn.Module, config: Pretrain) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    groups = [
        {
            "params": [parameter for name, parameter in named if decays(name)],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [parameter for name, parameter in named if not decays(name)],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.adam_betas, eps=config.adam_epsilon
    )


def _import_deepspeed() -> ModuleType:
    """Import DeepSpeed quietly, and only now: it probes for devices while it is imported."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory all-reduce would be compiled at the first start, for 40 seconds and with
    # a compiler that may not be there; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed

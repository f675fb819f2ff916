"""DeepSpeed ZeRO behind five verbs; with quirks.py the only file that knows it.

One derived configuration (`deepspeed_config`, saved with the run); optimizer (optimizers.py) and
learning rate are ours, the latter set at every step. Stage 1 in bf16 runs DeepSpeed's
BF16_Optimizer, which accumulates gradients in fp32 and communicates once a step.

The loss is exact: each microbatch's *sum* over labels is scaled by ranks / global labels, without
DeepSpeed's division by the accumulation steps, and DeepSpeed averages gradients over ranks. So
every label of the global batch has the same weight 1 / global labels. The next-sentence loss, where
there is one, is the mean over the labels of its own.

The state leaves and enters by parameter name as full fp32 tensors, whatever the stage: that is what
makes checkpoints free of world size and stage. Nothing is offloaded or scaled. Where a gradient is
not finite DeepSpeed makes no update, in fp32 at stage 0 excepted; `skipped_steps` counts these.
"""

import importlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corpus.training import Pretrain
from pretrain.batches import Batch
from pretrain.dataset import Shares
from pretrain.flops import device_name, has_bf16
from pretrain.masking import IGNORED
from pretrain.memory import bucket_elements
from pretrain.model import Extras, MaskedLanguageModel
from pretrain.optimizers import ADAM_MOMENTS, make_optimizer, moments_of
from pretrain.quirks import add_gradients_at_once, forget_model, import_deepspeed
from pretrain.world import World

logger = logging.getLogger(__name__)

_NEVER = 2**62  # steps between DeepSpeed's own progress prints


def deepspeed_config(config: Pretrain, shares: Shares, parameters: int) -> dict[str, Any]:
    """Derive the DeepSpeed configuration of a run whose model has so many parameters."""
    is_bf16 = config.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": shares.microbatch_sequences,
        "gradient_accumulation_steps": shares.microbatches,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            # By default 2 GB, however small the model.
            "reduce_bucket_size": bucket_elements(parameters),
            # Stage 3 would put a linear that rounds otherwise in place of torch's, process-wide.
            "memory_efficient_linear": False,
        },
        "bf16": {"enabled": is_bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": config.max_gradient_norm or 0.0,  # 0: none
        "steps_per_print": _NEVER,
        # It would wait for a GPU at every microbatch, to log what we do not read.
        "timers": {"throughput": {"enabled": False}},
    }


class Engine:
    """A model in training: microbatches in, updates made, state out and in by name."""

    def __init__(
        self, model: MaskedLanguageModel, config: Pretrain, shares: Shares, world: World
    ) -> None:
        """Hand the model to DeepSpeed; torch.distributed must be initialized."""
        self._parameters = dict(model.named_parameters())
        self._moments = {name: moments_of(name, config) for name in self._parameters}
        self._world = world
        self._norm: float | None = None
        self.begin_step(shares)
        if config.precision == "bf16":
            _check_bf16(world)
        if config.compile:
            _check_compiler(world.device)
        with warnings.catch_warnings():
            # What torch's compiler and DeepSpeed import is deprecated in many places.
            warnings.simplefilter("ignore")
            if config.compile:
                # Within DeepSpeed, whose own `compile` compiles its hooks too and fails (0.19.8).
                # Each engine counts its own compilations: `plan` makes one a size.
                model.forward = torch.compile(  # type: ignore[method-assign, call-overload]
                    model.forward, dynamic=False, isolate_recompiles=True
                )
            deepspeed = import_deepspeed()
            if config.zero_stage == 3:
                # The head uses the embedding from outside the module that owns it.
                deepspeed.zero.register_external_parameter(model, model.decoder_weight)
            self._engine, *_ = deepspeed.initialize(
                model=model.to(world.device),
                optimizer=make_optimizer(model, config),
                config=deepspeed_config(
                    config, shares, sum(one.numel() for one in self._parameters.values())
                ),
                dist_init_required=False,
            )
        add_gradients_at_once(self._engine.optimizer)
        # Torch's compiler looks at all attributes of what enters a part of the model (2.13).
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        self._tools = importlib.import_module("deepspeed.utils")

    def begin_step(self, shares: Shares) -> None:
        """Expect the microbatches of these shares; needed where they differ from the last ones."""
        self._microbatches, self._seen = shares.microbatches, 0

    def train(
        self, batch: Batch, global_labels: int, dropout_seed: int, global_pairs: int = 0
    ) -> Tensor:
        """Add a microbatch's gradients, updating after a step's last; return its loss sums.

        They are one or two, as the model's. `global_pairs` counts next-sentence labels.
        """
        if not self._engine.module.training:  # else a walk over all modules for nothing
            self._engine.train()
        self._seen += 1
        is_last = self._seen == self._microbatches
        self._engine.set_gradient_accumulation_boundary(is_last)
        torch.manual_seed(dropout_seed)
        sums: Tensor = self._engine(*self._arguments(batch))
        scales = (self._world.size / max(1, total) for total in (global_labels, global_pairs))
        loss = torch.stack([one * scale for one, scale in zip(sums, scales, strict=False)]).sum()
        self._engine.backward(loss, scale_wrt_gas=False)
        if is_last:
            self._seen = 0
            self._norm = self._plain_norm() if self._is_plain else None
        self._engine.step()
        return sums.detach()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Return a microbatch's loss sum over masked tokens, without dropout and gradients."""
        self._engine.eval()
        sums: Tensor = self._engine(*self._arguments(batch))
        return sums[0]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from now on."""
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = learning_rate

    def gradient_norm(self) -> float | None:
        """Return the norm of the last step's gradient, before clipping."""
        norm = self._norm if self._is_plain else self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def skipped_steps(self) -> int:
        """Count the steps without an update, as their gradient was not finite."""
        return int(self._engine.skipped_steps)

    def gather_state(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Give the first rank every parameter's weight and moments in fp32; all must take part."""
        self._link_moments()
        for name, parameter in self._parameters.items():
            kinds = ("weight", *self._moments[name])
            tensors = {kind: self._full(parameter, kind) for kind in kinds}
            if not self._world.is_first:
                tensors = {}
            yield name, {kind: _copied(tensor) for kind, tensor in tensors.items()}

    def restore_state(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Take over full weights and moments by name, and the count of updates made."""
        self._check_moments(state)
        self._create_moments(step)
        self._link_moments()
        for name, parameter in self._parameters.items():
            for kind, value in state[name].items():
                self._set_full(parameter, kind, value.to(self._world.device))

    def close(self) -> None:
        """Release what DeepSpeed holds."""
        self._engine.destroy()
        if self._engine.zero_optimization_stage() == 3:
            forget_model(self._engine.module)

    def _arguments(self, batch: Batch) -> tuple[Any, ...]:
        needed = (batch.inputs, batch.lengths, batch.slots, batch.labels)
        has_padding = bool((batch.lengths < batch.inputs.shape[1]).any())
        extras = Extras(*(self._put(tensor) for tensor in (batch.starts, batch.next_sentence)))
        return *map(self._put, needed), has_padding, extras if extras != (None, None) else None

    def _put(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or self._world.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._world.device, non_blocking=True)

    def _plain_norm(self) -> float:
        """Return the norm of the gradient at stage 0, which no one else computes."""
        gradients = [each.grad for each in self._parameters.values() if each.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _check_moments(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, kinds in self._moments.items():
            found = sorted(set(state[name]) - {"weight"})
            if found != sorted(kinds):
                raise ValueError(
                    f"the checkpoint holds the moments {found} of {name}, the optimizer needs "
                    f"{sorted(kinds)}: give pretrain.optimizer what the run began with"
                )

    def _full(self, parameter: nn.Parameter, kind: str) -> Tensor:
        if self._is_plain:
            whole = parameter if kind == "weight" else self._plain_state(parameter)[kind]
        elif kind == "weight":
            whole = self._tools.safe_get_full_fp32_param(parameter)
        else:
            whole = self._tools.safe_get_full_optimizer_state(parameter, kind)
        return whole

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
        """Make the moments that the optimizer would make at its first step, with its count set."""
        optimizer = self._engine.basic_optimizer
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for partition in self._partitions():
            name = names.get(id(partition))
            kinds = ADAM_MOMENTS if name is None else self._moments[name]
            optimizer.state[partition] = {
                # Where a fused AdamW, the only one to mind, wants it.
                "step": torch.tensor(float(step), device=partition.device),
                **{kind: torch.zeros_like(partition) for kind in kinds},
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


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def pair_count(batch: Batch) -> int:
    """Count the next-sentence labels of a microbatch."""
    return 0 if batch.next_sentence is None else int((batch.next_sentence != IGNORED).sum())


def _check_bf16(world: World) -> None:
    """Refuse a GPU that only emulates bf16, as its kernels of attention do not; warn of a CPU."""
    if has_bf16(world.device):
        return
    if world.device.type == "cuda":
        raise ValueError(
            f"{device_name(world.device)} has no instructions for bf16: set pretrain.precision to "
            "fp32"
        )
    if world.is_first:
        _warn_of_emulation()


@cache
def _warn_of_emulation() -> None:
    """Say it once a process: `plan` makes an engine a size."""
    logger.warning(
        "this processor has no instructions for bf16 and takes many times as long with it: set "
        "pretrain.precision to fp32 to train here"
    )


def _check_compiler(device: torch.device) -> None:
    """Refuse to begin without what torch compiles with: for a GPU Triton, which wants a C one."""
    is_gpu = device.type == "cuda"
    known = ["gcc", "clang", "cc"] if is_gpu else ["g++", "clang++"]
    names = [os.environ.get("CC" if is_gpu else "CXX"), *known]
    if not any(name and shutil.which(name) for name in names):
        raise ValueError(
            f"pretrain.compile needs a {'C' if is_gpu else 'C++'} compiler and found none: install "
            f"{known[0]} or set it to false"
        )

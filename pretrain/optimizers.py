"""The optimizers of a run, and what of their state a checkpoint holds.

AdamW (torch's) is right at any ZeRO stage: it treats every number by itself. The others look at
whole tensors: LAMB and StableAdamW at norms, Muon at a matrix. ZeRO 1 to 3 give an optimizer flat
pieces of many tensors, cut where the world size says, so these three are for stage 0 alone; the
recipe refuses them elsewhere (corpus/training.py).

- LAMB: You et al. 2020, Algorithm 2, without layer adaptation where there is no decay, as in its
  authors' code.
- StableAdamW: Wortsman et al. 2023, Algorithm 2.
- Muon: Jordan et al. 2024, for the matrices of the layers, with updates of AdamW's size as in Liu
  et al. 2025, section 2.2, so that one learning rate serves all; AdamW for the rest. It computes in
  fp32: in bf16 the last bits of a gradient, which depend on the world size, would become percents
  of an update.

Each keeps a step count and one or two moments a parameter, zero before the first step.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from corpus.training import Pretrain
from pretrain.model import decays

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum_buffer",)
# Coefficients and steps of the quintic iteration: Jordan et al. 2024.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 5
_MUON_MOMENTUM = 0.95  # Jordan et al. 2024
_ADAM_SIZE = 0.2  # root mean square of AdamW's updates: Liu et al. 2025, section 2.2

Group = dict[str, Any]


def make_optimizer(model: nn.Module, config: Pretrain) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe; decay acts on matrices alone."""
    named = list(model.named_parameters())
    groups = [
        _group(named, lambda name: decays(name) and not _is_orthogonal(name, config), config),
        _group(named, lambda name: not decays(name), config) | {"weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if config.optimizer == "muon":
        matrices = _group(named, lambda name: _is_orthogonal(name, config), config)
        groups.append(matrices | {"orthogonal": True})
    updates = {"lamb": _lamb_update, "stableadamw": _stable_update, "muon": _muon_update}
    return TensorOptimizer(groups, updates[config.optimizer])


def _group(
    named: Iterable[tuple[str, nn.Parameter]], chosen: Callable[[str], bool], config: Pretrain
) -> Group:
    return {
        "params": [parameter for name, parameter in named if chosen(name)],
        "lr": config.learning_rate,
        "betas": config.adam_betas,
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
        "orthogonal": False,
    }


def moments_of(name: str, config: Pretrain) -> tuple[str, ...]:
    """Name the moments that the optimizer keeps of a parameter."""
    return MUON_MOMENTS if _is_orthogonal(name, config) else ADAM_MOMENTS


def _is_orthogonal(name: str, config: Pretrain) -> bool:
    return config.optimizer == "muon" and name.startswith("roberta.encoder.") and decays(name)


class TensorOptimizer(torch.optim.Optimizer):
    """An optimizer that updates one whole tensor at a time."""

    def __init__(self, groups: list[Group], update: Callable[..., None]) -> None:
        """Take over groups with every setting in them."""
        super().__init__(groups, {})
        self._update = update

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)

    def _step_one(self, parameter: Tensor, group: Group) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for kind in MUON_MOMENTS if group["orthogonal"] else ADAM_MOMENTS:
                state[kind] = torch.zeros_like(parameter)
        state["step"] += 1
        self._update(parameter, parameter.grad, state, group)


def _adam_direction(gradient: Tensor, state: dict[str, Tensor], group: Group) -> Tensor:
    """Move both moments on and return the unbiased first over the root of the second."""
    (beta1, beta2), step = group["betas"], state["step"].item()
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_()
    direction: Tensor = state["exp_avg"] / (1 - beta1**step) / (spread + group["eps"])
    return direction


def _lamb_update(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group
) -> None:
    update = _adam_direction(gradient, state, group)
    update = update.add_(parameter, alpha=group["weight_decay"])
    sizes = parameter.norm().item(), update.norm().item()
    adapts = group["weight_decay"] > 0 and min(sizes) > 0
    trust = sizes[0] / sizes[1] if adapts else 1.0
    parameter.sub_(update, alpha=group["lr"] * trust)


def _stable_update(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group
) -> None:
    direction = _adam_direction(gradient, state, group)
    seen = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"].item())
    surprise = (gradient.square() / seen.clamp_min(group["eps"] ** 2)).mean().sqrt().item()
    rate = group["lr"] / max(1.0, surprise)
    parameter.mul_(1 - rate * group["weight_decay"]).sub_(direction, alpha=rate)


def _muon_update(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group
) -> None:
    rate = group["lr"]
    if group["orthogonal"]:
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - _MUON_MOMENTUM)
        direction = orthogonalize(gradient.lerp(momentum, _MUON_MOMENTUM))
        direction *= _ADAM_SIZE * math.sqrt(max(parameter.shape))
    else:
        direction = _adam_direction(gradient, state, group)
    parameter.mul_(1 - rate * group["weight_decay"]).sub_(direction, alpha=rate)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, into about [0.7, 1.2]."""
    a, b, c = _QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = matrix.T if is_tall else matrix
    wide = wide / (wide.norm() + 1e-7)  # no division by zero: Jordan et al. 2024
    for _ in range(_QUINTIC_STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if is_tall else wide

"""Optimizers against their formulas and, where torch has one, against torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corpus.training import Pretrain
from pretrain.config import ModelShape
from pretrain.model import MaskedLanguageModel, decays
from pretrain.optimizers import make_optimizer, moments_of, orthogonalize

SHAPE = ModelShape(
    layers=2, width=16, heads=2, feedforward_width=40, vocab_size=30, sequence_length=8
)


def make_config(optimizer: str, **settings: Any) -> Pretrain:  # noqa: ANN401
    base = {"optimizer": optimizer, "zero_stage": 0, "precision": "fp32", "learning_rate": 0.1}
    return Pretrain.model_validate(base | {"weight_decay": 0.5} | settings)


def one_tensor(config: Pretrain, value: Tensor, gradients: list[Tensor]) -> Tensor:
    """Update a single decayed parameter with given gradients."""
    module = nn.Module()
    module.weight = nn.Parameter(value.clone())
    optimizer = make_optimizer(module, config)
    for gradient in gradients:
        module.weight.grad = gradient.clone()
        optimizer.step()
    return module.weight.detach()


def test_lamb_by_hand() -> None:
    """The first update is g / |g| but for epsilon: here (1, -1), plus half the weight (3, 4)."""
    config = make_config("lamb", adam_epsilon=1e-12)
    found = one_tensor(config, torch.tensor([[3.0, 4.0]]), [torch.tensor([[0.1, -0.2]])])
    update = torch.tensor([[1 + 1.5, -1 + 2.0]])
    wanted = torch.tensor([[3.0, 4.0]]) - 0.1 * (5 / update.norm()) * update
    assert (found - wanted).abs().max() < 1e-6


def test_lamb_does_not_depend_on_the_size_of_gradients() -> None:
    gradients = [torch.tensor([[1.0, 2.0]]), torch.tensor([[-3.0, 0.5]])]
    config = make_config("lamb", adam_epsilon=1e-12)
    start = torch.tensor([[3.0, 4.0]])
    one = one_tensor(config, start, gradients)
    assert (one - one_tensor(config, start, [1000 * each for each in gradients])).abs().max() < 1e-5


def test_a_zero_weight_is_moved_by_lamb() -> None:
    found = one_tensor(make_config("lamb"), torch.zeros(1, 2), [torch.ones(1, 2)])
    assert torch.allclose(found, torch.full((1, 2), -0.1), atol=1e-5)


def test_stableadamw_equals_adamw_while_gradients_do_not_surprise() -> None:
    """With equal gradients the second moment is their square: no update is cut."""
    gradients = [torch.tensor([[1.0, -2.0]])] * 5
    start = torch.tensor([[3.0, 4.0]])
    stable, adamw = (
        one_tensor(make_config(name), start, gradients) for name in ("stableadamw", "adamw")
    )
    assert (stable - adamw).abs().max() < 1e-6


def test_stableadamw_takes_a_smaller_step_on_a_surprise() -> None:
    """g = 1 then 10: u = (b 1 + 100) / (b + 1) with b = 0.98, surprise sqrt(100 / u) = 1.40."""
    start = torch.tensor([[1.0]])
    first = one_tensor(make_config("stableadamw", weight_decay=0.0), start, [torch.tensor([[1.0]])])
    config = make_config("stableadamw", weight_decay=0.0)
    found = one_tensor(config, start, [torch.tensor([[1.0]]), torch.tensor([[10.0]])])
    mean, seen = (0.9 * 1 + 10) / 1.9, (0.98 * 1 + 100) / 1.98
    step = 0.1 / (100 / seen) ** 0.5 * mean / seen**0.5
    assert abs((first - found).item() - step) < 1e-5


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_muon_follows_that_of_torch(shape: tuple[int, int]) -> None:
    """Torch's computes in bf16, so directions agree within its rounding."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(shape, generator=generator) for _ in range(4))
    module = nn.Module()
    for name in ("roberta", "encoder"):
        inner = module.__dict__["_modules"].setdefault("roberta", nn.Module())
        if name == "encoder":
            inner.encoder = nn.Module()
            inner.encoder.weight = nn.Parameter(start.clone())
    config = make_config("muon")
    optimizer = make_optimizer(module, config)
    (parameter,) = module.parameters()
    other = nn.Parameter(start.clone())
    reference = torch.optim.Muon([other], lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        parameter.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()  # type: ignore[no-untyped-call]
    moved, wanted = (each.detach() - start for each in (parameter, other))
    assert (moved - wanted).norm() / wanted.norm() < 0.03
    assert list(optimizer.state[parameter]) == ["step", "momentum_buffer"]


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    matrix = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("name", ["adamw", "muon", "lamb", "stableadamw"])
def test_every_parameter_is_updated_by_one_group(name: str) -> None:
    config = make_config(name)
    model = MaskedLanguageModel(SHAPE, 0.0, 0)
    optimizer = make_optimizer(model, config)
    seen = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert sorted(seen) == sorted(map(id, model.parameters()))
    before = {key: each.detach().clone() for key, each in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) + torch.rand_like(parameter)
    optimizer.step()
    decayed = [
        each
        for group in optimizer.param_groups
        if group["weight_decay"]
        for each in group["params"]
    ]
    for key, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[key])
        assert {*optimizer.state[parameter]} == {"step", *moments_of(key, config)}
        assert any(parameter is each for each in decayed) == decays(key)


def test_the_default_is_adamw_with_the_numbers_of_table_9() -> None:
    optimizer = make_optimizer(MaskedLanguageModel(SHAPE, 0.0, 0), Pretrain())
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (*group["betas"], group["eps"]) == (0.9, 0.98, 1e-6)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.01]


def test_muon_turns_the_matrices_of_the_layers_alone() -> None:
    config = make_config("muon")
    names = [name for name, _ in MaskedLanguageModel(SHAPE, 0.0, 0).named_parameters()]
    turned = [name for name in names if moments_of(name, config) == ("momentum_buffer",)]
    assert len(turned) == SHAPE.layers * 6
    assert all(name.endswith("dense.weight") or ".self." in name for name in turned)


@pytest.mark.parametrize("name", ["muon", "lamb", "stableadamw"])
def test_optimizers_of_whole_tensors_are_refused_where_zero_cuts_them(name: str) -> None:
    with pytest.raises(ValueError, match=f"optimizer {name} needs zero_stage 0.*world size"):
        make_config(name, zero_stage=1)

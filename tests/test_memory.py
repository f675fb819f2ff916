"""Counts of parameters and bytes, against the model and autograd themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor

from corpus.training import Pretrain
from pretrain.config import fit_preset
from pretrain.memory import (
    activation_bytes,
    parameter_count,
    saved_bytes,
    single_moments,
    state_bytes,
)
from pretrain.model import MaskedLanguageModel
from pretrain.optimizers import make_optimizer


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_the_count_is_the_models(preset: str) -> None:
    for next_sentence in (False, True):
        shape = fit_preset(preset, 300, 64, next_sentence)
        model = MaskedLanguageModel(shape, 0.0, 0)
        assert parameter_count(shape) == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lamb", "stableadamw"])
def test_the_moments_are_the_optimizers(optimizer: str) -> None:
    config = Pretrain.model_validate({"optimizer": optimizer, "precision": "fp32", "zero_stage": 0})
    shape = fit_preset("tiny", 300, 64)
    model = MaskedLanguageModel(shape, 0.0, 0)
    made = make_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    states = [state for each in made.state.values() for state in each.values()]
    found = sum(state.nbytes for state in states if state.ndim)
    single = single_moments(shape, config)
    assert state_bytes(parameter_count(shape), config, 1, single)["moments"] == found


@pytest.mark.parametrize(("preset", "millions"), [("base", 124.7), ("large", 355.4)])
def test_the_papers_models(preset: str, millions: float) -> None:
    # RoBERTa's released models: roberta-base has 124.7 million parameters with its head, large
    # 355.4 (transformers' own count; two more positions and one token type, as here).
    assert parameter_count(fit_preset(preset, 50265, 512)) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("precision", "stage", "expected"),
    [
        # weights, gradients, master weights, moments for 100 parameters on 4 ranks
        ("fp32", 0, (400, 400, 0, 800)),
        ("fp32", 1, (400, 400, 100, 200)),
        ("fp32", 2, (400, 100, 100, 200)),
        ("fp32", 3, (100, 100, 100, 200)),
        ("bf16", 1, (200, 600, 100, 200)),
        ("bf16", 2, (200, 300, 100, 200)),
        ("bf16", 3, (50, 300, 100, 200)),
    ],
)
def test_state_by_stage(precision: str, stage: int, expected: tuple[int, ...]) -> None:
    config = Pretrain.model_validate({"precision": precision, "zero_stage": stage})
    counted = state_bytes(100, config, 4)
    names = ("weights", "gradients", "master_weights", "moments")
    assert tuple(counted[name] for name in names) == expected


def test_a_share_that_does_not_divide_is_rounded_up() -> None:
    config = Pretrain(zero_stage=1, precision="fp32")
    assert state_bytes(10, config, 3)["moments"] == 4 * 8


@pytest.mark.parametrize(("preset", "length"), [("tiny", 64), ("small", 128)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("keeps_logits", [False, True])
def test_activations_are_what_autograd_keeps(
    preset: str, length: int, precision: str, keeps_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keeps_logits:  # as on a GPU; on a CPU none are
        monkeypatch.setattr("pretrain.model.is_fused", lambda x: False)
    shape = fit_preset(preset, 3000, length)
    config = Pretrain.model_validate({"precision": precision, "dropout": 0.0})
    model = MaskedLanguageModel(shape, 0.0, 0)
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    rows, slots = 4, 10
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(
            torch.full((rows, length), 7),
            torch.full((rows,), length, dtype=torch.int32),
            torch.arange(slots).expand(rows, slots).contiguous(),
            torch.full((rows, slots), 7),
            False,
        )
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    counted = saved_bytes(shape, config, rows, slots)
    if not keeps_logits:
        counted -= rows * slots * shape.vocab_size * 4
    assert found == pytest.approx(counted, rel=0.05)


def test_dropout_and_logits_cost_more() -> None:
    shape = fit_preset("tiny", 3000, 64)
    none, some = Pretrain(dropout=0.0), Pretrain(dropout=0.1)
    # Of the last layer, only the slots go on behind attention.
    difference = saved_bytes(shape, some, 1, 10) - saved_bytes(shape, none, 1, 10)
    assert difference == (64 * 3 + 10 * 2) * 128
    assert activation_bytes(shape, some, 2, 10) - saved_bytes(shape, some, 2, 10) == 20 * 3000 * 6


def test_recomputed_layers_keep_their_inputs_and_one_layer_at_a_time() -> None:
    shape = fit_preset("base", 3000, 64)
    kept, again = (Pretrain(dropout=0.0, recompute_activations=flag) for flag in (False, True))
    two_layers = shape.model_copy(update={"layers": 2})
    difference = saved_bytes(shape, again, 1, 10) - saved_bytes(two_layers, again, 1, 10)
    assert difference == 10 * 64 * 768 * 2
    assert saved_bytes(shape, again, 1, 10) < saved_bytes(shape, kept, 1, 10) / 4

"""DeepSpeed does what its configuration was meant to say, at every stage."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_helpers import column, make_recipe, write_snapshot

from corpus.snapshots import open_snapshot
from pretrain.batches import open_stream
from pretrain.config import data_plan, model_shape
from pretrain.dataset import Shares
from pretrain.engine import Engine, deepspeed_config
from pretrain.launch import join, run_training
from pretrain.model import MaskedLanguageModel


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_snapshot(root)
    return root


def make_engine(store: Path, **pretrain: Any) -> Engine:  # noqa: ANN401
    config = make_recipe(store, store, **pretrain).pretrain
    model = MaskedLanguageModel(model_shape("tiny", open_snapshot(str(store))), 0.0, config.seed)
    shares = Shares(config.batch_sequences, 1, config.microbatch_sequences)
    return Engine(model, config, shares, join(0, 1, 0))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_update_equals_that_of_plain_adamw(store: Path, stage: int) -> None:
    settings: dict[str, Any] = {"zero_stage": stage, "batch_sequences": 5, "learning_rate": 1e-2}
    config = make_recipe(store, store, **settings).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    plain = MaskedLanguageModel(model_shape("tiny", snapshot), 0.0, config.seed)
    (whole,) = stream.train_batches(Shares(5, 1, 5), 0, rank=0)
    loss = plain(whole.inputs, whole.lengths, whole.slots, whole.labels) / whole.label_count
    loss.backward()
    expected = dict(plain.named_parameters())

    engine = make_engine(store, **settings)
    batches = stream.train_batches(Shares(5, 1, 4), 0, rank=0)
    assert len({batch.label_count for batch in batches}) > 1  # a mean of means would be wrong
    for batch in batches:
        engine.train(batch, whole.label_count, dropout_seed=0)
    for name, tensors in engine.gather_state():
        gradient = expected[name].grad
        assert gradient is not None
        # After one update the first moment is (1 - 0.9) times the gradient.
        assert (tensors["exp_avg"] / 0.1 - gradient).abs().max() < 1e-5, name
        update = gradient / (gradient.abs() + 1e-6)
        decay = 0.0 if name.endswith("bias") or "orm" in name else 0.01
        wanted = expected[name].detach() * (1 - 1e-2 * decay) - 1e-2 * update
        settled = gradient.abs() > 1e-4  # below, the sign of rounding decides the update
        assert ((tensors["weight"] - wanted)[settled].abs() < 1e-5).all(), name
    engine.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_state_comes_back_as_it_was_set(store: Path, stage: int) -> None:
    engine = make_engine(store, zero_stage=stage)
    generator = torch.Generator().manual_seed(0)
    model = MaskedLanguageModel(model_shape("tiny", open_snapshot(str(store))), 0.0, 0)
    state = {
        name: {
            kind: torch.rand(parameter.shape, generator=generator)
            for kind in ("weight", "exp_avg", "exp_avg_sq")
        }
        for name, parameter in model.named_parameters()
    }
    engine.restore_state(state, step=41)
    for name, tensors in engine.gather_state():
        for kind, tensor in tensors.items():
            assert torch.equal(tensor, state[name][kind]), (name, kind)
    counts = {float(entry["step"]) for entry in engine._engine.basic_optimizer.state.values()}
    assert counts == {41.0}
    engine.close()


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("bf16", 1), ("bf16", 3)])
def test_deepspeed_parses_what_we_mean(store: Path, precision: str, stage: int) -> None:
    engine = make_engine(store, precision=precision, zero_stage=stage)
    found = engine._engine
    assert found.zero_optimization_stage() == stage
    assert found.bfloat16_enabled() == (precision == "bf16")
    assert not found.fp16_enabled()
    assert found.get_data_types()[1] == torch.float32
    assert found.communication_data_type == torch.float32
    assert found.gradient_clipping() == 0.0
    assert found.train_micro_batch_size_per_gpu() == 3
    assert found.gradient_accumulation_steps() == 2
    assert found.train_batch_size() == 6
    engine.close()


def test_the_configuration_follows_the_division_of_the_batch(store: Path) -> None:
    config = make_recipe(store, store, zero_stage=2).pretrain
    derived = deepspeed_config(config, Shares(8192, 3, 32))
    assert derived["train_micro_batch_size_per_gpu"] * derived["gradient_accumulation_steps"] == (
        Shares(8192, 3, 32).offsets(0).size
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_follows_fp32_and_goes_on_bit_for_bit(
    store: Path, tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"zero_stage": stage, "max_steps": 12, "checkpoint_every_steps": 6}
    run_training(make_recipe(store, tmp_path / "fp32", **settings))
    run_training(make_recipe(store, tmp_path / "bf16", precision="bf16", **settings))
    pairs = zip(column(tmp_path / "fp32", "loss"), column(tmp_path / "bf16", "loss"), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 0.03

    again = tmp_path / "again"
    stop_after_checkpoint(monkeypatch)
    recipe = make_recipe(store, again, precision="bf16", **settings)
    with pytest.raises(KeyboardInterrupt):
        run_training(recipe)
    monkeypatch.undo()
    run_training(recipe)
    assert column(again, "loss") == column(tmp_path / "bf16", "loss")


def stop_after_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the run as soon as it has pruned after its first checkpoint."""

    def interrupt(run: str, keep: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.train.prune_checkpoints", interrupt)

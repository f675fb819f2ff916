"""DeepSpeed does what its configuration was meant to say, at every stage."""

import gc
import importlib
import math
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_helpers import (
    REPOSITORY,
    column,
    make_recipe,
    stop_after_checkpoint,
    write_recipe,
)

from corpus.snapshots import open_snapshot
from pretrain.batches import Batch, open_stream
from pretrain.config import data_plan, model_shape
from pretrain.dataset import Shares
from pretrain.engine import (
    Engine,
    _check_bf16,
    _warn_of_emulation,
    deepspeed_config,
    pair_count,
)
from pretrain.launch import join, run_training
from pretrain.masking import IGNORED
from pretrain.memory import parameter_count, state_bytes
from pretrain.model import Extras, MaskedLanguageModel, make_model
from pretrain.optimizers import moments_of
from pretrain.world import World


def make_engine(store: Path, **pretrain: Any) -> Engine:  # noqa: ANN401
    has_pairs = pretrain.pop("has_pairs", False)
    config = make_recipe(store, store, **pretrain).pretrain
    shape = model_shape("tiny", open_snapshot(str(store)), has_pairs)
    shares = Shares(config.batch_sequences, 1, config.microbatch_sequences)
    return Engine(make_model(shape, config), config, shares, join(0, 1, 0))


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


def with_extras(batch: Batch) -> Batch:
    """The same rows as two documents each, with next-sentence labels where they are real."""
    starts = torch.tensor([0, 5]).expand(len(batch.inputs), 2)
    pairs = torch.where(torch.from_numpy(batch.numbers) >= 0, batch.inputs[:, 5] % 2, IGNORED)
    return replace(batch, starts=starts.to(torch.int32), next_sentence=pairs.long())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_option_gives_the_gradients_of_one_whole_batch(store: Path, stage: int) -> None:
    """Isolated documents, pairs, recomputation, padded vocabulary, clipping: all at once."""
    settings: dict[str, Any] = {
        "zero_stage": stage, "batch_sequences": 5,
        "recompute_activations": True, "max_gradient_norm": 0.5, "vocabulary_multiple": 64,
    }  # fmt: skip
    config = make_recipe(store, store, **settings).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    plain = MaskedLanguageModel(model_shape("tiny", snapshot, True), 0.0, config.seed)
    (whole,) = map(with_extras, stream.train_batches(Shares(5, 1, 5), 0, rank=0))
    extras = Extras(whole.starts, whole.next_sentence)
    sums = plain(whole.inputs, whole.lengths, whole.slots, whole.labels, True, extras)
    assert pair_count(whole) == 5
    (sums[0] / whole.label_count + sums[1] / 5).backward()
    gradients = {name: each.grad for name, each in plain.named_parameters()}
    norm = torch.nn.utils.get_total_norm([each for each in gradients.values() if each is not None])
    assert norm > 1.0

    engine = make_engine(store, has_pairs=True, **settings)
    batches = [with_extras(batch) for batch in stream.train_batches(Shares(5, 1, 4), 0, rank=0)]
    assert len({pair_count(batch) for batch in batches}) > 1
    found = [engine.train(batch, whole.label_count, 0, global_pairs=5) for batch in batches]
    assert (torch.stack(found).sum(0) - sums).abs().max() < 1e-3
    assert engine.gradient_norm() == pytest.approx(norm.item(), rel=1e-5)
    assert engine.skipped_steps() == 0
    for name, tensors in engine.gather_state():
        gradient = gradients[name]
        assert gradient is not None
        clipped = gradient * (0.5 / norm)
        assert (tensors["exp_avg"] / 0.1 - clipped).abs().max() < 1e-5, name
    engine.close()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_without_an_update_is_counted(store: Path, stage: int) -> None:
    engine = make_engine(store, zero_stage=stage, batch_sequences=4)
    before = {name: tensors["weight"] for name, tensors in read_state(engine).items()}
    config = make_recipe(store, store, batch_sequences=4).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    (batch,) = stream.train_batches(Shares(4, 1, 4), 0, rank=0)
    engine._world = replace(engine._world, size=float("inf"))  # type: ignore[arg-type]
    engine.train(batch, batch.label_count, 0)
    assert engine.skipped_steps() == 1
    norm = engine.gradient_norm()
    assert norm is not None
    assert not math.isfinite(norm)
    engine._world = replace(engine._world, size=1)
    after = read_state(engine)
    assert all(torch.equal(after[name]["weight"], weight) for name, weight in before.items())
    engine.close()


def read_state(engine: Engine) -> dict[str, dict[str, torch.Tensor]]:
    if not engine._engine.basic_optimizer.state:
        engine._create_moments(0)
    return dict(engine.gather_state())


OPTIMIZERS: list[dict[str, Any]] = [
    {"zero_stage": stage} for stage in (0, 1, 2, 3)
] + [{"zero_stage": 0, "optimizer": name} for name in ("muon", "lamb", "stableadamw")]  # fmt: skip


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_state_comes_back_as_it_was_set(store: Path, settings: dict[str, Any]) -> None:
    engine = make_engine(store, **settings)
    config = make_recipe(store, store, **settings).pretrain
    generator = torch.Generator().manual_seed(0)
    model = MaskedLanguageModel(model_shape("tiny", open_snapshot(str(store))), 0.0, 0)
    state = {
        name: {
            kind: torch.rand(parameter.shape, generator=generator)
            for kind in ("weight", *moments_of(name, config))
        }
        for name, parameter in model.named_parameters()
    }
    engine.restore_state(state, step=41)
    for name, tensors in engine.gather_state():
        assert tensors.keys() == state[name].keys()
        for kind, tensor in tensors.items():
            assert torch.equal(tensor, state[name][kind]), (name, kind)
    counts = {float(entry["step"]) for entry in engine._engine.basic_optimizer.state.values()}
    assert counts == {41.0}
    engine.close()


def test_the_moments_of_another_optimizer_are_refused(store: Path) -> None:
    engine = make_engine(store, zero_stage=0, optimizer="muon")
    zeros = torch.zeros(1)
    state = {name: {"weight": zeros, "exp_avg": zeros} for name in engine._parameters}
    with pytest.raises(ValueError, match=r"holds the moments \['exp_avg'\] of .* give pretrain"):
        engine.restore_state(state, step=1)
    engine.close()


LAYOUTS = [
    ("fp32", 0),
    ("fp32", 1),
    ("fp32", 2),
    ("fp32", 3),
    ("bf16", 1),
    ("bf16", 2),
    ("bf16", 3),
]


@pytest.mark.parametrize("clipping", [None, 0.5])
@pytest.mark.parametrize(("precision", "stage"), LAYOUTS)
def test_deepspeed_parses_what_we_mean(
    store: Path, precision: str, stage: int, clipping: float | None
) -> None:
    engine = make_engine(store, precision=precision, zero_stage=stage, max_gradient_norm=clipping)
    found = engine._engine
    is_bf16 = precision == "bf16"
    assert found.zero_optimization_stage() == stage
    assert found.bfloat16_enabled() == is_bf16
    assert not found.fp16_enabled()
    assert found.get_data_types() == (torch.bfloat16 if is_bf16 else torch.float32, torch.float32)
    assert found.communication_data_type == torch.float32
    assert found.gradient_clipping() == (clipping or 0.0)
    assert found.train_micro_batch_size_per_gpu() == 3
    assert found.gradient_accumulation_steps() == 2
    assert found.train_batch_size() == 6
    assert found.managed_gradient_accumulation()
    assert not found.zero_overlap_comm()
    assert not found._config.timers_config.enabled
    assert not found._config.zero_config.memory_efficient_linear
    assert found._config.zero_config.reduce_bucket_size == parameter_count(
        model_shape("tiny", open_snapshot(str(store)))
    )
    assert found._config.zero_config.offload_optimizer is None
    assert found._config.zero_config.offload_param is None
    assert found.gradient_predivide_factor() == 1.0
    assert found._config.optimizer_name is None  # ours is used
    assert found._config.scheduler_name is None
    dtypes = {parameter.dtype for parameter in found.module.parameters()}
    assert dtypes == {torch.bfloat16 if is_bf16 else torch.float32}
    assert {partition.dtype for partition in engine._partitions()} == {torch.float32}
    engine.close()


@pytest.mark.parametrize(("precision", "stage"), LAYOUTS)
def test_gradients_are_collected_in_what_the_plan_counts(
    store: Path, precision: str, stage: int
) -> None:
    engine = make_engine(store, precision=precision, zero_stage=stage)
    config = make_recipe(store, store, precision=precision, zero_stage=stage).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    held = []

    def look(_gradient: torch.Tensor) -> None:
        buckets = getattr(engine._engine.optimizer, "ipg_buckets", {}).values()
        buffers = [bucket.buffer for bucket in buckets]  # a list of one before stage 3
        held.append(sum((one if stage == 3 else torch.cat(one)).nbytes for one in buffers))

    words = engine._parameters["roberta.embeddings.word_embeddings.weight"]
    words.register_hook(look)  # type: ignore[no-untyped-call]
    engine.train(stream.train_batches(Shares(6, 1, 3), 0, rank=0)[0], 10, 0)
    counted = state_bytes(parameter_count(model_shape("tiny", snapshot)), config, 1)["buckets"]
    assert held == [counted]
    engine.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nothing_keeps_the_model_of_a_closed_engine(store: Path, stage: int) -> None:
    engine = make_engine(store, zero_stage=stage)
    config = make_recipe(store, store).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    for step in range(3):  # stage 3 knows by the second what it needs when
        for batch in stream.train_batches(Shares(6, 1, 4), step, rank=0):
            engine.train(batch, 10, 0)
    model = weakref.ref(engine._engine.module)
    assert isinstance(model(), MaskedLanguageModel)
    engine.close()
    del engine
    gc.collect()
    assert model() is None


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_may_have_another_number_of_microbatches(store: Path, stage: int) -> None:
    """Six sequences in one, two or three microbatches make the same updates."""
    config = make_recipe(store, store).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    weights = []
    for sizes in ([4, 4, 4], [6, 2, 3]):
        engine = make_engine(store, zero_stage=stage)
        for step, size in enumerate(sizes):
            shares = Shares(6, 1, size)
            engine.begin_step(shares)
            batches = stream.train_batches(shares, step, rank=0)
            labels = sum(batch.label_count for batch in batches)
            for batch in batches:
                engine.train(batch, labels, dropout_seed=0)
        weights.append({name: each["weight"] for name, each in engine.gather_state()})
        engine.close()
    start = make_engine(store)._parameters
    for name, weight in weights[0].items():
        assert (weight - weights[1][name]).abs().max() < 1e-5, name
        assert not torch.equal(weight, start[name])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_gives_the_same_gradients(store: Path) -> None:
    config = make_recipe(store, store, batch_sequences=4).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    (batch,) = stream.train_batches(Shares(4, 1, 4), 0, rank=0)
    moments = []
    for is_compiled in (False, True):
        engine = make_engine(store, batch_sequences=4, compile=is_compiled)
        engine.train(batch, batch.label_count, dropout_seed=0)
        moments.append({name: each["exp_avg"] for name, each in engine.gather_state()})
        engine.close()
    for name, moment in moments[0].items():
        assert (moment - moments[1][name]).abs().max() < 1e-6, name


def test_stage_3_is_not_compiled(store: Path) -> None:
    with pytest.raises(ValueError, match="compile needs zero_stage 2 or lower"):
        make_recipe(store, store, compile=True, zero_stage=3)


def test_without_a_compiler_compilation_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"pretrain\.compile needs a C\+\+ compiler"):
        make_engine(store, compile=True)


def test_a_start_neither_loads_nor_runs_a_compiler(store: Path, tmp_path: Path) -> None:
    """DeepSpeed would do both: for its Muon, and to find out what of its own could be built."""
    recipe = make_recipe(store, tmp_path, zero_stage=2, max_steps=2)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-X", "importtime", "-m", "pretrain", "train", str(path)]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
    assert "deepspeed.runtime.zero.muon.original_muon" in loaded
    assert not loaded & {"torch._inductor.compile_fx", "setuptools", "distutils.ccompiler"}


def test_bf16_gradients_are_summed_in_fp32_and_nothing_is_printed(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"precision": "bf16", "zero_stage": 1, "batch_sequences": 12}
    config = make_recipe(store, store, **settings).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    batches = list(stream.train_batches(Shares(12, 1, 4), 0, rank=0))
    total = sum(batch.label_count for batch in batches)
    plain = make_model(model_shape("tiny", snapshot), config).bfloat16()
    sums = {name: torch.zeros(each.shape) for name, each in plain.named_parameters()}
    engine = make_engine(store, **settings)
    for batch in batches[:2]:  # no update yet
        engine.train(batch, total, dropout_seed=0)
        plain.zero_grad()
        masked = plain(batch.inputs, batch.lengths, batch.slots, batch.labels)
        (masked * (1 / total)).sum().backward()
        for name, each in plain.named_parameters():
            assert each.grad is not None
            sums[name] += each.grad.float()
    for name, parameter in engine._parameters.items():
        assert parameter.grad is None
        assert torch.equal(parameter._hp_grad.view_as(parameter), sums[name]), name  # type: ignore[attr-defined]
        assert not torch.equal(sums[name], sums[name].bfloat16().float())  # bf16 would not do
    engine.close()
    assert capfd.readouterr().out == ""


def test_dropout_is_off_while_validating_and_back_behind_it(store: Path) -> None:
    settings: dict[str, Any] = {"dropout": 0.5, "batch_sequences": 4}
    config = make_recipe(store, store, **settings).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    (batch,) = stream.train_batches(Shares(4, 1, 4), 0, rank=0)
    engine = make_engine(store, **settings)
    engine.set_learning_rate(0.0)
    before = engine.train(batch, batch.label_count, dropout_seed=0)[0]
    without = [engine.evaluate(batch) for _ in range(2)]
    assert without[0] == without[1] != before
    assert engine.train(batch, batch.label_count, dropout_seed=0)[0] == before
    engine.close()


def test_a_device_without_bf16_is_refused_or_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pretrain.engine.has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match=r"Tesla T4 has no .* pretrain\.precision to fp32"):
        _check_bf16(World(0, 1, torch.device("cuda", 0)))
    _warn_of_emulation.cache_clear()
    for rank in (1, 0, 0):
        _check_bf16(World(rank, 2, torch.device("cpu")))
    (told,) = caplog.messages
    assert "pretrain.precision to fp32" in told


def test_deepspeed_is_left_able_to_compile(store: Path) -> None:
    make_engine(store).close()
    assert importlib.import_module("deepspeed.runtime.compiler").compile() is torch.compile


def test_the_configuration_follows_the_division_of_the_batch(store: Path) -> None:
    config = make_recipe(store, store, zero_stage=2).pretrain
    derived = deepspeed_config(config, Shares(8192, 3, 32), 100)
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

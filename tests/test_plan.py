"""`python -m pretrain plan`: the paper's presets, the arithmetic, and what it does not know."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from corpus_helpers import RECIPES, REPOSITORY
from fsspec.core import url_to_fs
from pretrain_helpers import SHARDS, make_recipe, write_recipe, write_snapshot

from corpus.recipe import Recipe, load_recipe
from corpus.snapshots import open_snapshot
from pretrain.__main__ import main
from pretrain.config import model_shape
from pretrain.export import export
from pretrain.flops import row_flops
from pretrain.launch import join, run_training
from pretrain.plan import Question, _document_tokens, describe_run, forecast, make_plan, show_plan
from pretrain.probe import Timing
from pretrain.world import World

CPU = World(0, 1, torch.device("cpu"))
# RoBERTa paper, Table 9, and section 4.4 for the number of steps.
BOTH = {
    "max_steps": 500_000,
    "batch_sequences": 8192,
    "adam_betas": (0.9, 0.98),
    "adam_epsilon": 1e-6,
    "weight_decay": 0.01,
    "dropout": 0.1,
    "mask_prob": 0.15,
}
TABLE_9: dict[str, tuple[dict[str, Any], dict[str, int], float]] = {
    "base": (
        {"learning_rate": 6e-4, "warmup_steps": 24_000},
        {"layers": 12, "width": 768, "heads": 12, "feedforward_width": 3072},
        1.205e21,
    ),
    "large": (
        {"learning_rate": 4e-4, "warmup_steps": 30_000},
        {"layers": 24, "width": 1024, "heads": 16, "feedforward_width": 4096},
        4.10e21,
    ),
}


def plan_by_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("preset", ["base", "large"])
def test_the_papers_presets(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    own, shape, flops = TABLE_9[preset]
    path = str(REPOSITORY / "recipes" / f"{preset}.yaml")
    config = load_recipe(path).pretrain
    assert {name: getattr(config, name) for name in BOTH | own} == BOTH | own
    plan = plan_by_command(capsys, path, "--without-store", "--without-probe", "--ranks=1,8,1024")
    assert plan["warnings"] == []
    assert {name: plan["model"][name] for name in shape} == shape
    assert plan["model"]["vocab_size"] == 50_265
    assert plan["run"]["tokens"] == 500_000 * 8192 * 512
    # 1.26e21 and 4.22e21 with a whole last layer (test_flops.py).
    assert plan["run"]["flops"] == pytest.approx(flops, rel=0.005)
    assert plan["microbatch_is_measured"] is False
    # With 1,024 ranks, as the paper's 1,024 V100, each takes 8 rows of the batch.
    assert [
        (one["microbatches"], one["microbatch_sequences"], one["surplus_rows"])
        for one in plan["forecasts"]
    ][2] == (1, 8, 0)
    assert all(one["run_seconds"] is None for one in plan["forecasts"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_can_be_planned(path: Path) -> None:
    found, _ = describe_run(load_recipe(str(path)), Question(with_store=False))
    assert found["warnings"] == []


def test_a_snapshot_gives_rows_and_passes(store: Path) -> None:
    recipe = make_recipe(store, store / "run", max_steps=97, batch_sequences=6)
    found, shape = describe_run(recipe, Question())
    assert found["data"]["rows"] == 97
    assert found["data"]["passes"] == 6.0
    assert found["data"]["validation_rows"] == 17
    assert 0.5 < found["data"]["fill"] <= 1
    assert shape.vocab_size == 267


def test_passes_are_told_by_source_where_sources_are_mixed(store: Path) -> None:
    # 284 rows, one of three of them of books: 71 rows of books, 213 of the 26 of wiki.
    recipe = make_recipe(
        store, store / "run", max_steps=71, batch_sequences=4, mixing={"books": 1, "wiki": 3}
    )
    plan = make_plan(recipe, Question(ranks=(1,)), None, CPU)
    assert plan["data"]["passes"] is None
    assert plan["data"]["source_passes"] == {"books": 1.0, "wiki": 8.19}
    assert "passes by source: books 1.0, wiki 8.19" in show_plan(plan)
    one = make_recipe(store, store / "run", mixing={"books": 1, "wiki": 0})
    assert describe_run(one, Question())[0]["data"]["source_passes"] == {"books": 0.51}


def test_isolated_documents_are_fewer_operations(store: Path) -> None:
    def found(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
        recipe = make_recipe(store, store / "run", **changes)
        run: dict[str, Any] = describe_run(recipe, Question())[0]["run"]
        return run

    whole, isolated = found(), found(isolate_documents=True)
    assert (whole["document_tokens"], isolated["document_tokens"]) == (None, 64)
    assert whole["flops"] == isolated["flops"]
    # Of a known mean: 640 documents of 6,400 tokens. Rows of 64 are 6 documents of 10 and one of 4.
    snapshot = open_snapshot(str(store))
    counts = snapshot.counts.model_copy(update={"documents_kept": 640, "tokens": 6400})
    recipe = make_recipe(store, store / "run", isolate_documents=True)
    shape = model_shape("tiny", snapshot)
    known = snapshot.model_copy(update={"counts": counts})
    assert _document_tokens(recipe, shape, known) == 10
    fewer = row_flops(shape, 0, None) - row_flops(shape, 0, 10)
    assert fewer == 2 * 3 * 2 * shape.layers * shape.width * (64**2 - 6 * 10**2 - 4**2)


def test_a_ramp_counts_its_own_sequences(store: Path) -> None:
    recipe = make_recipe(
        store, store / "run", max_steps=4, batch_ramp={"from_sequences": 2, "batches": 2}
    )
    for with_store in (True, False):
        found, _ = describe_run(recipe, Question(with_store=with_store))
        assert found["run"]["sequences"] == 2 + 4 + 6 + 6


def test_warnings(tmp_path: Path) -> None:
    write_snapshot(tmp_path, shards=SHARDS[:1])
    recipe = make_recipe(tmp_path, tmp_path, batch_sequences=50)
    without_run = recipe.model_copy(
        update={"pretrain": recipe.pretrain.model_copy(update={"run": None})}
    )
    warnings = describe_run(without_run, Question())[0]["warnings"]
    assert [text.split(":")[0] for text in warnings] == [
        "pretrain.run is missing",
        "a step takes 50 sequences of 41",
        "there are no validation sequences",
    ]


def test_the_forecast_worked_out_by_hand() -> None:
    recipe = make_recipe(Path("s"), Path("r"), batch_sequences=20, max_steps=100)
    _, shape = describe_run(recipe, Question(with_store=False))
    timing = Timing(rows=4, microbatch_seconds=2.0, update_seconds=0.5, peak_bytes=None)
    one = forecast(shape, recipe.pretrain, timing, 2000, 1)
    # 20 rows are 5 microbatches of 4: 10 seconds, and the update.
    assert (one["microbatches"], one["step_seconds"]) == (5, 10.5)
    assert one["run_seconds"] == pytest.approx(1050)
    three = forecast(shape, recipe.pretrain, timing, 2000, 3)
    # 7 rows a rank are 2 microbatches of 4, 24 slots in all, 4 of them surplus.
    assert (three["microbatches"], three["microbatch_sequences"]) == (2, 4)
    assert (three["surplus_rows"], three["step_seconds"]) == (4, 4.5)
    assert three["device_hours"] == pytest.approx(450 * 3 / 3600)
    # A ramp that halves the sequences of the run halves the work but not the updates.
    assert forecast(shape, recipe.pretrain, timing, 1000, 1)["run_seconds"] == pytest.approx(550)


def test_cost_is_device_hours_times_the_price(store: Path) -> None:
    recipe = make_recipe(store, store / "run", batch_sequences=4, max_steps=3600)
    timings = [Timing(4, 0.75, 0.25, None)]
    plan = make_plan(recipe, Question(ranks=(1,), price_per_device_hour=2.5), timings, CPU)
    (one,) = plan["forecasts"]
    assert one["device_hours"] == pytest.approx(1.0)
    assert one["cost"] == pytest.approx(2.5)
    text = show_plan(plan)
    assert "Take pretrain.microbatch_sequences=4" in text
    assert "speed and memory of a GPU: not measured, there is none here" in text
    assert "utilization: the peak of this device is unknown" in text


def test_what_was_not_measured_is_unknown(store: Path) -> None:
    recipe = make_recipe(store, store / "run")
    for timings, gap in ((None, "no probe was made"), ([], "not even one row fits")):
        plan = make_plan(recipe, Question(ranks=(1, 2)), timings, CPU)
        assert any(gap in text for text in plan["not_known"])
        assert all(one["step_seconds"] is one["cost"] is None for one in plan["forecasts"])
        assert "unknown" in show_plan(plan)


def test_memory_falls_with_the_ranks(store: Path) -> None:
    recipe = make_recipe(store, store / "run", zero_stage=3)
    counted = make_plan(recipe, Question(ranks=(1, 4)), None, CPU)["memory"]
    for name in ("weights", "gradients", "master_weights", "moments"):
        assert counted[0][name] == pytest.approx(4 * counted[1][name], rel=1e-3)
    assert counted[0]["activations"] == counted[1]["activations"]


def test_the_command_measures_and_picks(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(
        make_recipe(store, tmp_path / "run", batch_sequences=2), tmp_path / "r.yaml"
    )
    plan = plan_by_command(capsys, str(path), "--ranks=1", "--seconds=5", "--price=1")
    assert plan["microbatch_is_measured"]
    assert plan["microbatch_sequences"] in {1, 2}
    assert plan["forecasts"][0]["cost"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks=0"], "--ranks is '0', expected whole numbers from 1 on"),
        (["--ranks=1,x"], "--ranks is '1,x'"),
        (["pretrain.max_stepz=3"], "unknown key pretrain.max_stepz: did you mean max_steps"),
        (["tokenizer.path=there"], "is known once there is a snapshot"),
        (["pretrain.zero_stage=0", "pretrain.precision=bf16"], "zero_stage 0 with bf16"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = {"store": "s", "snapshot": "one", "sources": [{"name": "a", "paths": ["b"]}]}
    path.write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(path), *arguments, "--without-store", "--without-probe"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.mixing={books: 1, wik: 1}", "pretrain.mixing names the sources"),
        ("pretrain.mixing={books: 1, wiki: 1, more: 0}", "pretrain.mixing names the sources"),
        ("pretrain.validation_snapshot=nope", "holds no complete snapshot nope"),
        ("pretrain.validation_snapshot=short", "has (tokenizer, sequence length)"),
        ("pretrain.init_from=/nonexistent", "which holds no model.safetensors"),
        ("pretrain.run=FILE", "a file: give a directory, new or of a run"),
        ("pretrain.trackers=[wandb]", "wandb, which is not installed"),
        ("snapshot=empty", "has no training sequences"),
    ],
)
def test_what_training_refuses_is_refused_in_its_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    store, file = tmp_path / "store", tmp_path / "file"
    write_snapshot(store, "one")
    write_snapshot(store, "short", sequence_length=32)
    write_snapshot(store, "empty", shards=SHARDS[3:])
    file.touch()
    path = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    override = override.replace("FILE", str(file))
    errors = []
    for arguments in (["plan", path, override, "--without-probe"], ["train", path, override]):
        assert main(arguments) == 2
        errors.append(capsys.readouterr().err.splitlines()[-1])
    assert errors[0] == errors[1]
    assert message in errors[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.seed=8", "data plan seed 7, the recipe gives 8"),
        ("pretrain.preset=small", "the recipe gives "),
        ("pretrain.optimizer=lamb", "was trained with optimizer adamw"),
        ("pretrain.checkpoint_root=ELSEWHERE", "give pretrain.checkpoint_root what it was"),
    ],
)
def test_another_run_than_the_one_there_is_refused_in_its_words(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    recipe = make_recipe(store, tmp_path / "run", max_steps=2, zero_stage=0)
    run_training(recipe)
    path = str(write_recipe(recipe, tmp_path / "recipe.yaml"))
    override, errors = override.replace("ELSEWHERE", str(tmp_path / "new")), []
    for arguments in (
        ["plan", path, override, "pretrain.max_steps=4", "--without-probe"],
        ["train", path, override, "pretrain.max_steps=4"],
        ["train", path, override, "pretrain.max_steps=4", "pretrain.ray_workers=1"],
    ):
        assert main(arguments) == 2
        errors.append(capsys.readouterr().err.splitlines()[-1])
    assert len(set(errors)) == 1
    assert message in errors[0]
    assert not (tmp_path / "new").exists()


def test_without_the_store_this_machine_is_still_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    file = tmp_path / "file"
    file.touch()
    without = Question(with_store=False)
    with pytest.raises(ValueError, match="a file: give a directory"):
        describe_run(make_recipe(tmp_path / "no", file), without)
    with pytest.raises(ValueError, match="not installed"):
        describe_run(make_recipe(tmp_path / "no", tmp_path, trackers=["wandb"]), without)


def test_a_cache_is_checked_but_not_made(tmp_path: Path, remote: str) -> None:
    write_snapshot(tmp_path / "local")
    fs, root = url_to_fs(remote)
    fs.put(f"{tmp_path}/local/", root, recursive=True)
    cache = tmp_path / "cache"

    def recipe(max_bytes: int) -> Recipe:
        settings = {"directory": str(cache), "max_bytes": max_bytes}
        made = make_recipe(tmp_path, tmp_path / "run", cache=settings)
        return made.model_copy(update={"store": remote})

    describe_run(recipe(10**9), Question())
    with pytest.raises(ValueError, match=r"pretrain\.cache\.max_bytes is 9,000, but"):
        describe_run(recipe(9000), Question())
    assert not cache.exists()


def test_a_run_that_has_begun_does_not_ask_for_its_start(store: Path, tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    run_training(make_recipe(store, tmp_path / "first", max_steps=2))
    export(str(tmp_path / "first"), str(model))
    recipe = make_recipe(store, run, max_steps=2, init_from=str(model))
    describe_run(recipe, Question())
    run_training(recipe)
    shutil.rmtree(model)
    describe_run(recipe, Question())
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        describe_run(make_recipe(store, tmp_path / "new", init_from=str(model)), Question())


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(ValueError, match=r"nowhere holds no .*, or plan --without-store"):
        describe_run(recipe, Question())


def test_joining_twice_is_one_group() -> None:
    assert join(0, 1, 0) == join(0, 1, 0)

"""A run is the same whatever it runs on, and however often it was killed."""

import fcntl
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from pretrain_helpers import (
    SHARDS,
    column,
    make_recipe,
    start_training,
    wait_for_steps,
    write_snapshot,
)

from benchmarks.curves import plain_losses, widest
from corpus.files import remove_tree
from corpus.snapshots import commit_snapshot, open_snapshot, snapshot_root
from pretrain.checkpoints import list_checkpoints
from pretrain.config import model_shape
from pretrain.export import export
from pretrain.launch import run_training
from pretrain.memory import parameter_count
from pretrain.metrics import read_metrics
from pretrain.writer import CheckpointFailedError

STEPS = 100
# A batch that two ranks do not divide, in microbatches that differ with the world.
LONG: dict[str, Any] = {
    "max_steps": STEPS,
    "batch_sequences": 7,
    "microbatch_sequences": 3,
    "warmup_steps": 10,
    "checkpoint_every_steps": 25,
    "validate_every_steps": 50,
}


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, stage 1, 100 steps, never killed."""
    run = tmp_path_factory.mktemp("uninterrupted")
    run_training(make_recipe(store, run, **LONG))
    return run


def test_losses_equal_a_plain_loop_without_deepspeed(store: Path, uninterrupted: Path) -> None:
    losses = plain_losses(make_recipe(store, uninterrupted, **LONG))
    assert len(losses) == STEPS
    assert widest(losses, column(uninterrupted, "loss")) < 1e-5


def test_the_first_loss_is_the_logarithm_of_the_vocabulary(uninterrupted: Path) -> None:
    assert abs(column(uninterrupted, "loss")[0] - math.log(267)) < 0.1


def test_the_loss_falls(uninterrupted: Path) -> None:
    losses = column(uninterrupted, "loss")
    assert sum(losses[-10:]) / 10 < losses[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_killed_run_goes_on_bit_for_bit(store: Path, tmp_path: Path, dropout: float) -> None:
    settings: dict[str, Any] = LONG | {
        "max_steps": 45, "checkpoint_every_steps": 10, "dropout": dropout,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_training(make_recipe(store, whole, **settings))

    process = start_training(make_recipe(store, killed, **settings), tmp_path / "recipe.yaml")
    wait_for_steps(process, killed, 13)
    process.kill()
    process.communicate()
    before = len(column(killed, "loss"))
    assert 13 <= before < 45
    run_training(make_recipe(store, killed, **settings))
    for name in ("loss", "gradient_norm", "batch_hash", "learning_rate"):
        assert column(killed, name) == column(whole, name), name
    final = [(run / "checkpoints/step-00000045/model.safetensors") for run in (whole, killed)]
    assert final[0].read_bytes() == final[1].read_bytes()


@pytest.mark.slow
def test_other_worlds_and_stages_take_the_same_steps(
    store: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for processes, stage, stop_after in ((2, 1, 25), (1, 2, 50), (2, 3, 75)):
        recipe = make_recipe(store, run, processes=processes, zero_stage=stage, **LONG)
        process = start_training(recipe, tmp_path / "recipe.yaml")
        wait_for_steps(process, run, stop_after + 2)
        ranks = psutil.Process(process.pid).children(recursive=True)
        assert len(ranks) >= processes - 1
        process.kill()
        process.communicate()
        # Nobody is left behind when the parent is killed.
        assert psutil.wait_procs(ranks, timeout=20)[1] == []
    run_training(make_recipe(store, run, zero_stage=0, **LONG))
    assert column(run, "batch_hash") == column(uninterrupted, "batch_hash")
    assert column(run, "labels") == column(uninterrupted, "labels")
    assert widest(column(run, "loss"), column(uninterrupted, "loss")) < 1e-5
    ends = [
        [line["validation_loss"] for line in read_metrics(str(one)) if "validation_loss" in line]
        for one in (run, uninterrupted)
    ]
    assert len(ends[0]) == 2
    assert widest(*ends) < 1e-5


def break_first_shard(store: Path) -> Path:
    entry = open_snapshot(str(store)).shards[0]
    path = Path(snapshot_root(str(store), "one")) / entry.path
    path.write_bytes(path.read_bytes()[:-8])
    return path


def test_a_truncated_shard_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "store")
    path = break_first_shard(tmp_path / "store")
    with pytest.raises(ValueError, match=f"{path} holds .* bytes, its manifest says"):
        run_training(make_recipe(tmp_path / "store", tmp_path / "run"))


def test_a_checkpoint_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    write_snapshot(store)
    run_training(make_recipe(store, run, max_steps=2))
    write_snapshot(store, "two", SHARDS[1:])
    with pytest.raises(ValueError, match=r"trained on snapshot one .*, the recipe names two"):
        run_training(make_recipe(store, run, "two"))


def test_a_checkpoint_of_another_plan_or_preset_is_refused(store: Path, tmp_path: Path) -> None:
    run_training(make_recipe(store, tmp_path, max_steps=2))
    recipe = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(ValueError, match="data plan seed 7, the recipe gives 8; model layers 2"):
        run_training(make_recipe(store, tmp_path, seed=8, preset="small"))
    assert (tmp_path / "recipe.json").read_bytes() == recipe


def test_a_longer_run_goes_on(store: Path, tmp_path: Path) -> None:
    run_training(make_recipe(store, tmp_path, max_steps=2))
    run_training(make_recipe(store, tmp_path, max_steps=4))
    assert len(column(tmp_path, "loss")) == 4


def test_a_loss_that_is_no_number_stops_the_run(store: Path, tmp_path: Path) -> None:
    recipe = make_recipe(store, tmp_path, learning_rate=1e25, warmup_steps=0, max_steps=20)
    with pytest.raises(ValueError, match=r"step [0-9]+ gave loss .*explain-step"):
        run_training(recipe)
    assert all(math.isfinite(loss) for loss in column(tmp_path, "loss"))


def test_a_run_says_what_it_is_and_what_comes_next(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = make_recipe(store, tmp_path / "run", max_steps=2)
    run_training(recipe)
    snapshot = open_snapshot(str(store))
    parameters = parameter_count(model_shape("tiny", snapshot))
    first, *_, last = (line for line in caplog.messages if "step 0" not in line)
    assert first == (
        f"snapshot one ({snapshot.fingerprint[:12]}): preset tiny, {parameters:,} parameters, "
        "rank 0 of 1 on cpu, 2 steps"
    )
    command = f"python -m pretrain export {tmp_path}/run DIRECTORY"
    assert last == f"complete: `{command}` makes it a model"


def test_what_was_taken_down_since_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    older = write_snapshot(store)
    obeys = {"label": "two", "made_with": {"forgotten": "f" * 64}}
    newer = older.model_copy(update=obeys)
    fingerprint = newer.compute_fingerprint()
    commit_snapshot(str(store), newer.model_copy(update={"fingerprint": fingerprint}))
    run_training(make_recipe(store, tmp_path / "one", max_steps=2))
    assert f"snapshot one does not obey the take-downs of {store}: two does" in caplog.text
    caplog.clear()
    run_training(make_recipe(store, tmp_path / "two", "two", max_steps=2))
    assert "take-downs" not in caplog.text


def test_without_validation_rows_none_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_snapshot(tmp_path / "store", shards=SHARDS[:2])
    run_training(make_recipe(tmp_path / "store", tmp_path / "run", max_steps=3))
    assert "has no validation sequences" in caplog.text
    assert all("validation_loss" not in line for line in read_metrics(str(tmp_path / "run")))


def test_relative_paths_inside_a_ray_job_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match=r"pretrain\.run is the relative path 'run' inside a Ray"):
        run_training(make_recipe(store, Path("run")))
    with pytest.raises(ValueError, match="store is the relative path 'store' inside a Ray job"):
        run_training(make_recipe(Path("store"), tmp_path))


@pytest.mark.parametrize(
    ("run", "message"), [(None, "run is missing"), ("s3://bucket/run", "is the URL s3://bucket")]
)
def test_a_run_needs_a_local_directory(store: Path, run: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe = make_recipe(store, Path())
        pretrain = recipe.pretrain.model_copy(update={"run": run})
        run_training(recipe.model_copy(update={"pretrain": pretrain}))


def test_checkpoints_at_a_url_carry_a_run_to_another_machine(store: Path, tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}"
    here, there, whole = tmp_path / "here", tmp_path / "there", tmp_path / "whole"
    settings: dict[str, Any] = {"dropout": 0.1, "checkpoint_root": root}
    run_training(make_recipe(store, here, **settings))
    assert not (here / "checkpoints").exists()
    remove_tree(list_checkpoints(root)[-1])  # as if it was killed before
    run_training(make_recipe(store, there, **settings, keep_checkpoints=1))
    run_training(make_recipe(store, whole, dropout=0.1))
    for name in ("loss", "batch_hash"):
        assert column(there, name) == column(whole, name)
    assert [path.rpartition("/")[2] for path in list_checkpoints(root)] == ["step-00000006"]
    export(str(there), str(tmp_path / "model"))
    final = tmp_path / "model" / "model.safetensors"
    export(str(whole), str(tmp_path / "other"))
    assert final.read_bytes() == (tmp_path / "other" / "model.safetensors").read_bytes()


def test_a_checkpoint_that_cannot_be_written_stops_the_run(store: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a directory should be")
    with pytest.raises(CheckpointFailedError, match="checkpoint of step 2 could not be written"):
        run_training(make_recipe(store, tmp_path, max_steps=100))
    assert len(read_metrics(str(tmp_path))) < 100


def test_a_damaged_checkpoint_is_refused_and_the_whole_one_named(
    store: Path, tmp_path: Path
) -> None:
    run_training(make_recipe(store, tmp_path))
    damaged = tmp_path / "checkpoints" / "step-00000006"
    path = damaged / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    recipe = make_recipe(store, tmp_path, max_steps=8)
    with pytest.raises(ValueError, match=r"delete its directory to go on from .*4, which is whole"):
        run_training(recipe)
    shutil.rmtree(damaged)
    run_training(recipe)
    assert len(column(tmp_path, "loss")) == 8


def test_one_process_at_a_time(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.train._LOCK_PATIENCE_SECONDS", 0.3)
    with (tmp_path / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process trains in"):
            run_training(make_recipe(store, tmp_path))

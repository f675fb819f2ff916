import shutil
from pathlib import Path

import pytest
import torch

from corpus.files import read_bytes, write_bytes
from pretrain.checkpoints import (
    check_identity,
    checkpoint_home,
    known_metrics,
    list_checkpoints,
    load_training_state,
    load_weights,
    newest_checkpoint,
    prune_checkpoints,
    restore_metrics,
    save_checkpoint,
)
from pretrain.config import DataPlan, Identity, ModelShape
from pretrain.metrics import read_metrics

IDENTITY = Identity(
    snapshot_label="one",
    tokenizer="t" * 64,
    model=ModelShape(
        layers=1, width=4, heads=2, feedforward_width=8, vocab_size=267, sequence_length=16
    ),
    plan=DataPlan(
        version=1,
        snapshot="a" * 64,
        seed=0,
        batch_sequences=8,
        mask_prob=0.15,
        leave_unmasked_prob=0.1,
        random_token_prob=0.1,
    ),
)
STATE = {
    f"layer.{n}.weight": {
        kind: torch.full((2, n + 1), float(n)) for kind in ("weight", "exp_avg", "exp_avg_sq")
    }
    for n in range(3)
}


def save(run: Path, step: int) -> Path:
    return Path(save_checkpoint(str(run), step, IDENTITY, {"store": "s"}, STATE))


def names(run: Path) -> list[str]:
    return [path.rpartition("/")[2] for path in list_checkpoints(str(run))]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 100)
    assert path.name == "step-00000100"
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    assert found[0] == str(path)
    state = found[1]
    assert (state.step, state.identity, state.plan_hash) == (100, IDENTITY, IDENTITY.plan.hash)
    assert state.recipe == {"store": "s"}
    assert {"torch", "deepspeed", "maskline"} <= set(state.versions)
    loaded = load_training_state(*found)
    assert set(loaded) == set(STATE)
    for name, kinds in STATE.items():
        for kind, tensor in kinds.items():
            assert torch.equal(loaded[name][kind], tensor)


def test_a_checkpoint_without_its_state_does_not_exist(tmp_path: Path) -> None:
    save(tmp_path, 9)
    (save(tmp_path, 10) / "state.json").unlink()
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    assert found[1].step == 9


def test_no_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path / "none")) is None


def test_pruning_keeps_the_newest_and_sweeps_the_incomplete(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    (save(tmp_path, 4) / "state.json").unlink()
    prune_checkpoints(str(tmp_path), keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_directories_of_other_names_are_left_alone(tmp_path: Path) -> None:
    """Copies that somebody made beside the checkpoints."""
    own = ("best", "step-00000002-keep", "step-00000009_best", "step-3")
    for step in (1, 2):
        save(tmp_path, step)
    for name in own:
        shutil.copytree(tmp_path / "checkpoints" / "step-00000002", tmp_path / "checkpoints" / name)
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    assert found[1].step == 2
    prune_checkpoints(str(tmp_path), keep=1, keep_every_steps=10)
    there = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert there == sorted([*own, "step-00000002"])


def test_some_checkpoints_stay_for_good(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 6, 7):
        save(tmp_path, step)
        prune_checkpoints(str(tmp_path), keep=2, keep_every_steps=3)
    assert names(tmp_path) == [f"step-{step:08d}" for step in (3, 6, 7)]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    with pytest.raises(ValueError, match=rf"{name} has checksum .* state.json says .*delete"):
        load_training_state(*found)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_of_the_older_checkpoints_the_newest_whole_one_is_named(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    damage(paths[2] / "optimizer.safetensors")
    damage(paths[3] / "model.safetensors")
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    message = (
        f"model.safetensors has checksum .*: delete its directory, and {paths[2]}, "
        f"to go on from {paths[1]}, which is whole"
    )
    with pytest.raises(ValueError, match=message):
        load_training_state(*found)
    for path in paths[:2]:
        (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no older checkpoint is whole: restore it from a copy"):
        load_training_state(*found)


def test_a_state_of_another_step_is_damaged(tmp_path: Path) -> None:
    state = save(tmp_path, 1) / "state.json"
    state.write_text(state.read_text().replace('"step": 1', '"step": 3'))
    with pytest.raises(ValueError, match=r"state\.json is damaged \(step 3\)"):
        newest_checkpoint(str(tmp_path))


def test_a_rewritten_checkpoint_leaves_nothing_of_the_killed_one(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "state.json").unlink()
    (path / "stray.tmp").write_text("half")
    save(tmp_path, 1)
    assert {each.name for each in path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_remote_checkpoints_are_the_same(tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}/run"
    carried = {"metrics.jsonl": b'{"step":0}\n'}
    for step in (1, 2, 3):
        save_checkpoint(root, step, IDENTITY, {"store": "s"}, STATE, carried)
    prune_checkpoints(root, keep=2)
    found = newest_checkpoint(root)
    assert found is not None
    assert found[0] == f"{root}/checkpoints/step-00000003"
    loaded = load_training_state(*found)
    assert all(
        torch.equal(loaded[name][kind], tensor)
        for name, kinds in STATE.items()
        for kind, tensor in kinds.items()
    )
    restore_metrics(*found, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step":0}\n'
    local = save(tmp_path, 3)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert read_bytes(f"{found[0]}/{name}") == (local / name).read_bytes()

    write_bytes(f"{found[0]}/model.safetensors", b"x" * 10)
    with pytest.raises(ValueError, match=r"step-00000002, which is whole"):
        load_weights(*found)


def metrics_of(steps: range, loss: float) -> bytes:
    return b"".join(b'{"step":%d,"loss":%.1f}\n' % (step, loss) for step in steps)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, [1.0] * 10),
        (range(6), [1.0] * 10),  # that of a machine that stopped at step 6
        (range(10), [1.0] * 10),  # what the checkpoint says goes before
        (range(13), [1.0] * 10 + [2.0] * 3),
        (range(8, 13), [1.0] * 10 + [2.0] * 3),
    ],
)
def test_metrics_are_filled_up_with_those_of_the_checkpoint(
    tmp_path: Path, own: range | None, expected: list[float]
) -> None:
    root, run = tmp_path / "root", tmp_path / "run"
    carried = {"metrics.jsonl": metrics_of(range(10), 1.0)}
    save_checkpoint(str(root), 10, IDENTITY, {}, STATE, carried)
    found = newest_checkpoint(str(root))
    assert found is not None
    if own is not None:
        cut_short = b'{"step":99,"lo'
        write_bytes(str(run / "metrics.jsonl"), metrics_of(own, 2.0) + cut_short)
    known = known_metrics(str(run), *found)
    assert [line["loss"] for line in known] == expected
    restore_metrics(*found, str(run))
    lines = read_metrics(str(run))
    assert [line["step"] for line in lines] == list(range(len(expected)))
    assert lines == known


def test_metrics_without_any_in_the_checkpoint_stay(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    write_bytes(str(tmp_path / "metrics.jsonl"), b"own\n")
    restore_metrics(*found, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"own\n"


def test_damaged_and_missing_metrics_are_refused(tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path), 1, IDENTITY, {}, STATE, {"metrics.jsonl": b""})
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    write_bytes(f"{found[0]}/metrics.jsonl", b"other\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl has checksum"):
        restore_metrics(*found, str(tmp_path / "elsewhere"))
    Path(f"{found[0]}/metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is missing, state.json lists it"):
        restore_metrics(*found, str(tmp_path / "elsewhere"))


def test_the_home_of_checkpoints_is_what_the_recipe_says(tmp_path: Path) -> None:
    assert checkpoint_home(str(tmp_path)) == str(tmp_path)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"pretrain": {"checkpoint_root": null}}')
    assert checkpoint_home(str(tmp_path)) == str(tmp_path)
    recipe.write_text('{"pretrain": {"checkpoint_root": "memory://a"}}')
    assert checkpoint_home(str(tmp_path)) == "memory://a"
    recipe.write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json holds no recipe \(.*\): delete it and tr"):
        checkpoint_home(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "model.safetensors").unlink()
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load_weights(*found)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json is damaged.*delete its directory"):
        newest_checkpoint(str(tmp_path))


def test_another_version_is_refused(tmp_path: Path) -> None:
    state = save(tmp_path, 1) / "state.json"
    state.write_text(state.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="format version 2, expected 1"):
        newest_checkpoint(str(tmp_path))


def test_another_snapshot_is_refused_by_name() -> None:
    plan = IDENTITY.plan.model_copy(update={"snapshot": "b" * 64})
    other = IDENTITY.model_copy(update={"snapshot_label": "two", "plan": plan})
    message = r"trained on snapshot one \(aaaaaaaaaaaa\), the recipe names two \(bbbbbbbbbbbb\)"
    with pytest.raises(ValueError, match=message):
        check_identity("c", IDENTITY, other)


def test_another_plan_or_model_is_refused_by_name() -> None:
    other = IDENTITY.model_copy(
        update={
            "plan": IDENTITY.plan.model_copy(update={"seed": 1}),
            "model": IDENTITY.model.model_copy(update={"width": 8}),
        }
    )
    message = "data plan seed 0, the recipe gives 1; model width 4, the recipe gives 8"
    with pytest.raises(ValueError, match=message):
        check_identity("c", IDENTITY, other)
    check_identity("c", IDENTITY, IDENTITY)

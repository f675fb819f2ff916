"""The checkpoints along a run: which, at how many tokens, measured once, drawn."""

import re
from pathlib import Path
from shutil import rmtree
from xml.etree import ElementTree

import orjson
import pytest
import yaml
from pretrain_helpers import column, make_recipe, write_snapshot
from tuning_helpers import write_task

from pretrain.__main__ import main
from pretrain.checkpoints import load_weights, read_state
from pretrain.evaluation import trajectory
from pretrain.evaluation.trajectory import choose_steps, evaluate_run, tokens_seen
from pretrain.export import export, export_once, find_checkpoint
from pretrain.launch import run_training
from pretrain.metrics import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of six steps that kept the checkpoints of steps 2, 4 and 6."""
    root = tmp_path_factory.mktemp("trajectory")
    write_snapshot(root / "store")
    run_training(make_recipe(root / "store", root / "run", keep_checkpoint_every_steps=2))
    return str(root / "run")


def test_a_step_is_exported(run: str, tmp_path: Path) -> None:
    from_step, newest = tmp_path / "two", tmp_path / "newest"
    assert main(["export", run, str(from_step), "--step", "2"]) == 0
    export(run, str(newest))
    assert "2 of 6" in (from_step / "README.md").read_text()
    assert "6 of 6" in (newest / "README.md").read_text()
    two, six = ((each / "model.safetensors").read_bytes() for each in (from_step, newest))
    assert two != six
    checkpoint, state = find_checkpoint(run, 2)
    assert state.step == 2
    assert load_weights(checkpoint, read_state(checkpoint)).keys()
    with pytest.raises(ValueError, match=r"of step 3, only of 2, 4, 6; pretrain\.keep"):
        export(run, str(tmp_path / "three"), 3)


def test_an_export_that_was_cut_short_is_made_again(run: str) -> None:
    directory = Path(export_once(run, 4, run))
    first = (directory / "model.safetensors").read_bytes()
    (directory / "README.md").unlink()
    (directory / "model.safetensors").write_bytes(b"half")
    assert export_once(run, 4, run) == str(directory)
    assert (directory / "model.safetensors").read_bytes() == first
    stamp = (directory / "model.safetensors").stat().st_mtime_ns
    export_once(run, 4, run)
    assert (directory / "model.safetensors").stat().st_mtime_ns == stamp


def test_steps_are_those_kept_or_those_asked_for(run: str, tmp_path: Path) -> None:
    assert choose_steps(run, None) == [2, 4, 6]
    assert choose_steps(run, (6, 2)) == [2, 6]
    with pytest.raises(ValueError, match="no checkpoint of step 5"):
        choose_steps(run, (2, 5))
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        choose_steps(str(tmp_path), None)


def test_tokens_are_summed_step_by_step(run: str) -> None:
    lines, tokens = read_metrics(run), column(Path(run), "tokens")
    assert tokens_seen(lines) == {n: sum(tokens[:n]) for n in range(1, 7)}
    assert tokens_seen(lines[1:]) == {}


def test_a_run_is_measured_once_and_drawn(
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "text.txt").write_text("the rain in the inner lane " * 4)
    (tmp_path / "more.jsonl").write_text('{"text": "the hat"}\nno JSON\n')
    task = write_task(tmp_path, "classification", count=16)
    values = {
        "output": str(tmp_path / "out"),
        "texts": [str(tmp_path / "text.txt"), str(tmp_path / "more.jsonl")],
        "words": 8,
        "fine_tuning": {
            "tasks": [task.model_dump(mode="json", exclude_none=True)],
            "grid": {"learning_rates": [1e-3], "batch_sizes": [8], "epochs": 1},
        },
    }
    recipe = tmp_path / "trajectory.yaml"
    recipe.write_text(yaml.safe_dump(values))
    assert main(["evaluate-run", run, str(recipe), "steps=[2, 6]"]) == 0
    shown = capsys.readouterr().out
    assert "texts: 1 dropped: invalid_json" in caplog.text
    found = orjson.loads((tmp_path / "out" / "trajectory.json").read_bytes())["points"]
    assert [point["step"] for point in found] == [2, 6]
    seen = tokens_seen(read_metrics(run))
    assert [point["tokens"] for point in found] == [seen[2], seen[6]]
    # The run measured itself after its last step, on the same rows with the same masks.
    recorded = orjson.loads((Path(run) / "metrics.jsonl").read_bytes().splitlines()[-1])
    assert found[-1]["loss"] == pytest.approx(recorded["validation_loss"], rel=1e-5)
    for point in found:
        assert point["text"]["scored_words"] == 8
        assert 0 <= point["scores"][task.name] <= 1
    assert len(re.findall(r"^ +[26] ", shown, re.M)) == 2
    page = (tmp_path / "out" / "trajectory.html").read_text()
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(tree.findall(".//polyline")) == 1 + 3 + 1

    def forbidden(*_: object) -> float:
        raise AssertionError("measured before")

    monkeypatch.setattr(trajectory, "held_out_loss", forbidden)
    monkeypatch.setattr(trajectory, "measure", forbidden)
    evaluate_run(run, str(recipe), ["steps=[2, 6]"])
    again = orjson.loads((tmp_path / "out" / "trajectory.json").read_bytes())["points"]
    assert again == found


def test_checkpoints_at_a_url_are_measured_too(
    tmp_path: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run's directory is gone, their checkpoints carry its metrics."""
    monkeypatch.chdir(tmp_path)
    write_snapshot(tmp_path / "store")
    root = f"{remote}/run"
    run_training(make_recipe(tmp_path / "store", tmp_path / "run", checkpoint_root=root))
    lines = read_metrics(str(tmp_path / "run"))
    rmtree(tmp_path / "run")
    (tmp_path / "text.txt").write_text("the rain in the inner lane " * 4)
    values = {"output": str(tmp_path / "out"), "texts": [str(tmp_path / "text.txt")], "words": 2}
    recipe = tmp_path / "trajectory.yaml"
    recipe.write_text(yaml.safe_dump(values))
    before = {path.name for path in tmp_path.iterdir()}
    evaluate_run(root, str(recipe), ["steps=[6]"])
    (point,) = orjson.loads((tmp_path / "out" / "trajectory.json").read_bytes())["points"]
    assert point["tokens"] == sum(line["tokens"] for line in lines)
    assert point["text"]["scored_words"] == 2
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}


def test_texts_are_looked_for_before_anything_is_measured(run: str, tmp_path: Path) -> None:
    """One that was not there ended with the status of storage that fails."""
    recipe = tmp_path / "trajectory.yaml"
    given = {"output": str(tmp_path / "out"), "texts": [str(tmp_path / "none.txt")]}
    recipe.write_text(yaml.safe_dump(given))
    with pytest.raises(ValueError, match=r"there is no text file at .*none\.txt"):
        evaluate_run(run, str(recipe))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["~/out", "s3://bucket/out"])
def test_an_output_is_a_local_directory(run: str, tmp_path: Path, output: str) -> None:
    recipe = tmp_path / "trajectory.yaml"
    recipe.write_text(yaml.safe_dump({"output": output}))
    with pytest.raises(ValueError, match=rf"output: {output} (begins with ~|is a URL), "):
        evaluate_run(run, str(recipe))


def test_an_export_of_other_weights_is_made_again(tmp_path: Path) -> None:
    """A run that was rolled back comes to a step again, with other weights."""
    write_snapshot(tmp_path / "store")
    run, directories = tmp_path / "run", []
    for seed in (0, 1):
        rmtree(run / "checkpoints", ignore_errors=True)
        run_training(make_recipe(tmp_path / "store", run, seed=seed))
        export(str(run), str(tmp_path / f"expected-{seed}"), 6)
        directories.append(export_once(str(run), 6, str(run)))
        expected = (tmp_path / f"expected-{seed}" / "model.safetensors").read_bytes()
        assert (Path(directories[-1]) / "model.safetensors").read_bytes() == expected
    assert directories[0] == directories[1]

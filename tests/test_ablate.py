"""An ablation from stores to verdicts, cut short and gone on with, at the smallest size."""

import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import yaml
from packed_helpers import write_packed
from pretrain_helpers import SEQUENCE_LENGTH

from corpus.recipe import Recipe
from pretrain.__main__ import main
from pretrain.evaluation import ablate as room
from pretrain.evaluation.ablate import RESULTS, Store, ablate, prepare_stores
from pretrain.evaluation.arms import AblationRecipe
from pretrain.evaluation.published import FORMATS


def ablation_values(root: Path, **ablation: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "store": str(root / "store"),
        "snapshot": "one",
        "sources": [{"name": "books", "paths": ["unused"]}],
        "pack": {"sequence_length": SEQUENCE_LENGTH},
        "pretrain": {
            "preset": "tiny", "precision": "fp32", "dropout": 0.0, "max_steps": 6,
            "batch_sequences": 32, "microbatch_sequences": 32, "warmup_steps": 1,
            "learning_rate": 0.002, "validate_every_steps": 100, "validation_sequences": 1,
        },
        "ablation": {"output": str(root / "out"), "mask_copies": 1, "held_out_sequences": 16}
        | ablation,
    }  # fmt: skip


def write_recipe(root: Path, **ablation: Any) -> str:  # noqa: ANN401
    path = root / "ablate.yaml"
    path.write_text(yaml.safe_dump(ablation_values(root, **ablation)))
    return str(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory where stores are packed from random documents, without the pipeline."""

    def build(recipe: Recipe, output: str) -> Store:
        path = Path(recipe.store)
        if not path.exists():
            write_packed(path, recipe.pack.format)
        return Store(recipe.store, room.open_snapshot(recipe.store, recipe.snapshot))

    monkeypatch.setattr(room, "_build", build)
    return tmp_path


def test_formats_are_compared_to_the_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", write_recipe(root, tables=["formats"]), "pretrain.max_steps=2"]) == 0
    shown = capsys.readouterr().out
    values = orjson.loads((root / "out" / RESULTS).read_bytes())
    assert set(values["stores"]) == set(FORMATS)
    assert [each["name"] for each in values["settings"]] == list(FORMATS)
    for setting in values["settings"]:
        assert len(setting["losses"]) == 3
        for losses in setting["losses"]:
            assert set(losses) == set(FORMATS)
            assert all(4 < loss < 7 for loss in losses.values())  # log 266 = 5.6
    assert len(values["comparisons"]) == 4
    for each in values["comparisons"]:
        assert each["verdict"] in ("agrees", "disagrees", "undecided")
        assert not {each["better"], each["worse"]} & set(each["measured_on"])
        assert not each["numbers_in_paper"]
    assert "doc-sentences over full-sentences" in shown
    assert shown.count("Loss on validation rows of") == 4
    page = (root / "out" / "report.html").read_text()
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(tree.findall(".//table")) == 1 + 4 + 1
    assert len(tree.findall(".//svg")) + len(tree.findall(".//{*}svg")) >= 1
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_it_goes_on_where_it_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(root, tables=["masking"])
    training, measuring = room.run_training, room.held_out_loss
    trained, measured = [], []

    def train_four(recipe: Recipe) -> None:
        if len(trained) == 4:
            raise ValueError("the machine went away")
        trained.append(recipe.pretrain.run)
        training(recipe)

    def measure(*given: Any) -> float:  # noqa: ANN401
        measured.append(given)
        return measuring(*given)

    monkeypatch.setattr(room, "run_training", train_four)
    monkeypatch.setattr(room, "held_out_loss", measure)
    with pytest.raises(ValueError, match="went away"):
        ablate(path)
    assert len(measured) == 4
    assert not (root / "out" / RESULTS).exists()
    monkeypatch.setattr(room, "run_training", training)
    ablate(path)
    assert len(measured) == 6
    first = (root / "out" / RESULTS).read_bytes()
    ablate(path)
    assert len(measured) == 6
    assert (root / "out" / RESULTS).read_bytes() == first

    (whole := root / "whole").mkdir()
    values = ablation_values(root, tables=["masking"])
    values["ablation"]["output"] = str(whole)
    Path(path).write_text(yaml.safe_dump(values))
    ablate(path)
    assert (whole / RESULTS).read_bytes() == first
    static, dynamic = orjson.loads(first)["settings"]
    assert (static["mask_copies"], dynamic["mask_copies"]) == (1, None)
    assert static["losses"] != dynamic["losses"]


def test_other_documents_in_a_store_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = room._build

    def stray(recipe: Recipe, output: str) -> Store:
        store = build(recipe, output)
        if recipe.pack.format != "sentence-pair":
            return store
        return Store(store.root, store.snapshot.model_copy(update={"kept_digest": "1" * 64}))

    monkeypatch.setattr(room, "_build", stray)
    recipe = AblationRecipe.model_validate(ablation_values(root, tables=["formats"]))
    with pytest.raises(ValueError, match="sentence-pair does not hold the documents"):
        prepare_stores(recipe)


def test_a_pipeline_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        assert command[1:4] == ["-m", "pipeline", "refresh"]
        written = yaml.safe_load(Path(command[4]).read_text())
        assert "ablation" not in written
        return subprocess.CompletedProcess(command, 2, "", "12:00 begun\nerror: no such file")

    monkeypatch.setattr(subprocess, "run", fail)
    recipe = AblationRecipe.model_validate(ablation_values(tmp_path, tables=["masking"]))
    with pytest.raises(ValueError, match="failed: error: no such file"):
        prepare_stores(recipe)


def test_a_remote_output_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, tables=["masking"], output="s3://bucket/out")
    with pytest.raises(ValueError, match=r"ablation\.output is the URL s3://bucket/out"):
        ablate(path)

"""An ablation from stores to verdicts, cut short and gone on with, at the smallest size."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import yaml
from packed_helpers import write_packed
from pretrain_helpers import SEQUENCE_LENGTH, SHARDS, write_snapshot

from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot
from pretrain.__main__ import main
from pretrain.config import ModelShape
from pretrain.evaluation import ablate as room
from pretrain.evaluation.ablate import RESULTS, Store, ablate, prepare_stores
from pretrain.evaluation.arms import AblationRecipe
from pretrain.evaluation.held_out import held_out_loss
from pretrain.evaluation.published import FORMATS
from pretrain.evaluation.scoring import FineTuning

SST2 = {"name": "sst2", "train": ["train.tsv"], "validation": ["dev.tsv"]}


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
        return Store(recipe.store, open_snapshot(recipe.store, recipe.snapshot))

    monkeypatch.setattr(room, "_build", build)
    return tmp_path


def test_formats_are_compared_to_the_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", write_recipe(root, tables=["formats"]), "pretrain.max_steps=2"]) == 0
    shown = capsys.readouterr().out
    values = orjson.loads((root / "out" / RESULTS).read_bytes())
    assert set(values["stores"]) == set(FORMATS)
    assert [each["name"] for each in values["settings"]] == list(FORMATS)
    for setting in values["settings"]:
        assert setting["steps"] == 2
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


class Machine:
    """In the place of training and measuring: says what was asked of it, and can go away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.measured: list[str] = []
        self.runs_left = 100
        monkeypatch.setattr(room, "run_training", self.train)
        monkeypatch.setattr(room, "newest_checkpoint", lambda run: (run, SimpleNamespace(step=6)))
        monkeypatch.setattr(room, "held_out_loss", self.measure)
        monkeypatch.setattr(room, "export_once", lambda _run, _step, home: f"{home}/exported")
        monkeypatch.setattr(room, "fine_tuned_scores", self.score)

    def train(self, recipe: Recipe) -> None:
        if self.runs_left == 0:
            raise ValueError("the machine went away")
        self.runs_left -= 1
        assert recipe.pretrain.checkpoint_root is None
        run = Path(recipe.pretrain.run or "")
        run.mkdir(parents=True, exist_ok=True)
        self.trained.append(run.name)

    def measure(self, run: str, *_: object) -> float:
        name = Path(run).name
        self.measured.append(name)
        seed = int(name.split("seed")[1][0])
        return 5.0 + seed + (0.3 + seed / 100 if "copies" in name else 0.0)

    def score(self, tuning: FineTuning, checkpoint: str, out: str) -> dict[str, float]:
        assert [task.name for task in tuning.tasks] == ["sst2"]
        assert checkpoint.endswith("/exported") and out.endswith("/tuned")
        return {"sst2": 0.9 if "copies" in out else 0.8 + int(out.split("seed")[1][0]) / 1000}


def test_it_goes_on_where_it_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    path = write_recipe(root, tables=["masking"], fine_tuning={"tasks": [SST2]})
    machine.runs_left = 4
    with pytest.raises(ValueError, match="went away"):
        ablate(path)
    assert len(set(machine.measured)) == len(machine.measured) == 4
    assert not (root / "out" / RESULTS).exists()
    machine.runs_left = 100
    ablate(path)
    # Training is asked for all six, and knows itself what is complete; four were measured before.
    assert len(machine.trained) == 4 + 6
    assert len(set(machine.measured)) == len(machine.measured) == 6
    first = (root / "out" / RESULTS).read_bytes()
    ablate(path)
    assert len(machine.measured) == 6
    assert (root / "out" / RESULTS).read_bytes() == first
    loss, sst2 = orjson.loads(first)["comparisons"]
    assert (loss["measure"], sst2["measure"]) == ("loss", "sst2")
    assert loss["gains"] == pytest.approx([0.3, 0.31, 0.32])
    assert (loss["better"], loss["verdict"]) == ("dynamic", "agrees")
    assert (sst2["better"], sst2["verdict"]) == ("dynamic", "disagrees")
    assert sst2["numbers_in_paper"] and not loss["numbers_in_paper"]
    static, dynamic = orjson.loads(first)["settings"]
    assert (static["mask_copies"], dynamic["mask_copies"]) == (1, None)


def test_a_run_of_other_settings_is_another_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    path = write_recipe(root, tables=["masking"])
    ablate(path)
    ablate(path, ["pretrain.learning_rate=0.001", "pretrain.checkpoint_root=elsewhere"])
    assert len(set(machine.trained)) == 12
    assert len(machine.measured) == 12


def test_a_run_that_diverged_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    monkeypatch.setattr(room, "held_out_loss", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="lower the learning rate"):
        ablate(write_recipe(root, tables=["masking"]))


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
    with pytest.raises(ValueError, match=r"ablation\.output: s3://bucket/out is a URL, "):
        ablate(path)


def test_losses_of_other_tokens_are_refused(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "store", shards=SHARDS[:3])
    other = ModelShape(
        layers=1, width=8, heads=1, feedforward_width=8, vocab_size=266, sequence_length=32
    )
    shape = other.model_copy(update={"sequence_length": snapshot.sequence_length})
    states = [
        SimpleNamespace(identity=SimpleNamespace(tokenizer=snapshot.tokenizer, model=each))
        for each in (other, shape)
    ]
    store: Any = str(tmp_path / "store")
    with pytest.raises(ValueError, match="their losses are not of the same tokens"):
        held_out_loss("checkpoint", states[0], store, snapshot, 8)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"has no validation rows: raise pack\.validation_fraction"
    ):
        held_out_loss("checkpoint", states[1], store, snapshot, 8)  # type: ignore[arg-type]

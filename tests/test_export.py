"""An exported checkpoint is the trained model, and loads with nothing of ours."""

import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import orjson
import pytest
import torch
from packed_helpers import write_packed
from pretrain_helpers import column, make_recipe, write_snapshot
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from corpus.snapshots import commit_snapshot, open_snapshot, snapshot_root, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pretrain.checkpoints import load_weights, newest_checkpoint
from pretrain.config import model_shape
from pretrain.explain import explain_step
from pretrain.export import export
from pretrain.launch import run_training
from pretrain.model import MaskedLanguageModel


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A store, a run of six steps on it, and its export."""
    root = tmp_path_factory.mktemp("export")
    write_snapshot(root / "store")
    run_training(make_recipe(root / "store", root / "run"))
    export(str(root / "run"), str(root / "model"))
    return root / "store", root / "run", root / "model"


def test_logits_equal_those_of_the_trained_model(exported: tuple[Path, Path, Path]) -> None:
    store, run, directory = exported
    newest = newest_checkpoint(str(run))
    assert newest is not None
    ours = MaskedLanguageModel(model_shape("tiny", open_snapshot(str(store))), 0.0, 0).eval()
    ours.load_state_dict(load_weights(*newest))
    theirs = AutoModelForMaskedLM.from_pretrained(directory)
    inputs = torch.randint(4, 266, (4, 64), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([64, 40, 2, 63])
    real = torch.arange(64) < lengths[:, None]
    inputs[~real] = 1
    with torch.no_grad():
        expected = theirs(input_ids=inputs, attention_mask=real.long()).logits
        found = ours.logits(inputs, lengths, torch.arange(64).expand(4, 64))
    assert (found - expected)[real].abs().max() < 1e-5


def test_the_tokenizer_is_the_one_of_the_store(exported: tuple[Path, Path, Path]) -> None:
    store, _, directory = exported
    theirs = AutoTokenizer.from_pretrained(directory)
    ours = open_tokenizer(tokenizer_root(str(store), open_snapshot(str(store)).tokenizer))
    texts = ["the inner  rain", " the\n\tend", "naïve 東京 🙂", "a<b> it's 12.5%", ""]
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        assert theirs(text)["input_ids"] == [0, *ids, 2], text
        assert theirs.decode(ids) == text
    assert theirs.mask_token_id == ours.mask_id
    assert theirs.model_max_length == 64


def test_fill_mask_works(exported: tuple[Path, Path, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fill = pipeline("fill-mask", model=str(exported[2]), tokenizer=str(exported[2]))
    answers = fill("the <mask> in")
    assert len(answers) == 5
    assert answers[0]["score"] >= answers[1]["score"] > 0


@pytest.mark.slow
def test_it_loads_where_nothing_of_ours_is_installed(exported: tuple[Path, Path, Path]) -> None:
    code = (
        "import sys; from transformers import AutoModelForMaskedLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({str(exported[2])!r}); T.from_pretrained({str(exported[2])!r}); "
        "assert not {'corpus', 'pretrain', 'pipeline'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_card_says_what_made_it(exported: tuple[Path, Path, Path]) -> None:
    store, run, directory = exported
    card = (directory / "README.md").read_text()
    snapshot = open_snapshot(str(store))
    newest = newest_checkpoint(str(run))
    assert newest is not None
    state = newest[1]
    for fact in (
        snapshot.fingerprint, snapshot.label, snapshot.tokenizer, state.plan_hash, "6 of 6",
        "torch", "perplexity", '"learning_rate": 0.001',
    ):  # fmt: skip
        assert fact in card, fact
    config = orjson.loads((directory / "config.json").read_bytes())
    assert config["max_position_embeddings"] == 66


def test_the_card_holds_no_credentials(exported: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported[1], run)
    (path,) = run.glob("checkpoints/step-00000006/state.json")
    state = orjson.loads(path.read_bytes())
    paths = ["https://team:hunter2@host/a.jsonl?token=hunter3", "s3://bucket/b.jsonl"]
    state["recipe"]["sources"][0]["paths"] = paths
    path.write_bytes(orjson.dumps(state))
    export(str(run), str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert '"https://host/a.jsonl?...",' in card
    assert '"s3://bucket/b.jsonl"' in card
    assert "hunter" not in card
    assert "team" not in card


def test_the_card_says_what_the_recipe_changed_in_mid_run(
    exported: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_training(make_recipe(exported[0], run, max_steps=2))
    run_training(make_recipe(exported[0], run, max_steps=3, learning_rate=0.01))
    run_training(make_recipe(exported[0], run, max_steps=4, learning_rate=0.01))
    export(str(run), str(tmp_path / "model"))
    told = "step 2: max_steps 2 -> 3, learning_rate 0.001 -> 0.01; step 3: max_steps 3 -> 4"
    assert f"| changed in mid-run | {told} |" in (tmp_path / "model" / "README.md").read_text()
    assert "| changed in mid-run | nothing |" in (exported[2] / "README.md").read_text()


def test_the_card_of_a_root_of_checkpoints_has_the_losses_too(
    exported: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root = f"memory://{tmp_path.name}"
    recipe = make_recipe(exported[0], tmp_path / "run", checkpoint_root=root)
    run_training(recipe)
    losses = [f"{loss:.4f} nats" for loss in column(tmp_path / "run", "loss")]
    rows, path = {}, tmp_path / "run" / "metrics.jsonl"
    for name, source in (("of the run", str(tmp_path / "run")), ("of the root", root)):
        export(source, str(tmp_path / name))
        card = (tmp_path / name / "README.md").read_text()
        rows[name] = [line for line in card.splitlines() if line.startswith("| ")]
    assert rows["of the root"] == rows["of the run"]
    # Of a machine that took part in the first steps alone.
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    export(str(tmp_path / "run"), str(tmp_path / "of the first"))
    card = (tmp_path / "of the first" / "README.md").read_text()
    assert [line for line in card.splitlines() if line.startswith("| ")] == rows["of the root"]
    assert f"| first training loss | {losses[0]} |" in rows["of the root"]
    assert f"| last training loss | {losses[-1]} |" in rows["of the root"]
    assert "(what the ranks trained on)" in explain_step(root, 4)


def test_export_into_a_full_directory_is_refused(exported: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ValueError, match="is not empty: export writes into a new directory"):
        export(str(exported[1]), str(exported[2]))


def test_export_to_a_url_is_refused(
    exported: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the URL s3://bucket/x: export writes to a local dir"):
        export(str(exported[1]), "s3://bucket/x")
    assert list(tmp_path.iterdir()) == []


def test_export_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        export(str(tmp_path), str(tmp_path / "model"))


def test_explain_step_rebuilds_what_the_ranks_trained_on(
    exported: tuple[Path, Path, Path],
) -> None:
    text = explain_step(str(exported[1]), 4)
    assert "sequences   24 to 29, pass 0 of 97 rows" in text
    assert "(what the ranks trained on)" in text
    assert "<mask>" in text
    assert "rows of shards/one/wiki/train-00002.arrow" in text


def test_explain_step_refuses_a_step_beyond_the_run(exported: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ValueError, match="step 6 is not in this run: its steps are 0 to 5"):
        explain_step(str(exported[1]), 6)


def test_explain_step_finds_a_batch_that_was_another(exported: tuple[Path, Path, Path]) -> None:
    _, run, _ = exported
    path = run / "metrics.jsonl"
    before = path.read_bytes()
    first = orjson.loads(before.splitlines()[0])
    path.write_bytes(before.replace(first["batch_hash"].encode(), b"0" * 64))
    with pytest.raises(ValueError, match=r"store gives batch hash .* the ranks recorded 0000"):
        explain_step(str(run), 0)
    path.write_bytes(before)


def test_explain_step_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no training run"):
        explain_step(str(tmp_path), 0)


def commit_packed(store: Path, packing: str) -> None:
    """Write a store in a packing format, with the manifest that belongs to it."""
    draft = write_packed(store, packing)
    snapshot = draft.model_copy(update={"fingerprint": draft.compute_fingerprint()})
    Path(snapshot_root(str(store), snapshot.label), "snapshot.json").unlink()
    commit_snapshot(str(store), snapshot)


@pytest.mark.parametrize("stage", [1, 3])
def test_pairs_train_a_head_that_is_not_exported(tmp_path: Path, stage: int) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    commit_packed(store, "sentence-pair")
    recipe = make_recipe(store, run, zero_stage=stage, max_steps=3)
    run_training(recipe)
    losses = column(run, "next_sentence_loss")
    assert len(losses) == 3
    assert abs(losses[0] - math.log(2)) < 0.1
    newest = newest_checkpoint(str(run))
    assert newest is not None
    assert "next_sentence_head.out_proj.weight" in load_weights(*newest)
    export(str(run), str(tmp_path / "model"))
    _, found = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not found["unexpected_keys"]
    assert not found["missing_keys"]

    again = make_recipe(store, tmp_path / "again", init_from=str(tmp_path / "model"), max_steps=2)
    run_training(again)
    assert len(column(tmp_path / "again", "next_sentence_loss")) == 2


def test_a_run_with_isolated_documents_sees_other_losses(tmp_path: Path) -> None:
    commit_packed(tmp_path / "store", "full-sentences")
    for name, isolated in (("joint", False), ("apart", True)):
        run_training(make_recipe(
            tmp_path / "store", tmp_path / name, max_steps=2, isolate_documents=isolated
        ))  # fmt: skip
    joint, apart = (column(tmp_path / name, "loss") for name in ("joint", "apart"))
    assert all(abs(a - b) < 0.1 for a, b in zip(joint, apart, strict=True))
    assert joint != apart

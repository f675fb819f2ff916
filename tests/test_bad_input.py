"""What a user gets wrong ends with one clear line and exit status 2, before any work is done."""

import json
from pathlib import Path

import pytest
from corpus_helpers import Built, write_corpus

from pipeline.__main__ import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused; return its message."""
    assert main(["refresh", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def recipe_with(tmp_path: Path, **changes: object) -> str:
    recipe = json.loads(write_corpus(tmp_path, files=2, documents=10).read_text())
    path = tmp_path / "changed.yaml"
    path.write_text(json.dumps(recipe | changes))
    return str(path)


def test_unknown_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_with(tmp_path, dedup={"treshold": 0.7})
    assert "unknown key dedup.treshold: did you mean threshold?" in refused(capsys, recipe)
    recipe = recipe_with(tmp_path, max_steps=3)
    assert "unknown key max_steps: did you mean pretrain.max_steps?" in refused(capsys, recipe)


def test_unknown_key_of_the_other_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_with(tmp_path)
    message = refused(capsys, recipe, "pretrain.learning_rat=1e-3")
    assert "unknown key pretrain.learning_rat: did you mean learning_rate?" in message


def test_a_threshold_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = {"rules": ["c4"], "thresholds": {"gopher_min_words": 3}}
    message = refused(capsys, recipe_with(tmp_path, clean=clean))
    assert "clean.thresholds.gopher_min_words has no effect" in message
    assert not (tmp_path / "store").exists()


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_with(tmp_path, sources=[{"name": "books", "paths": [f"{tmp_path}/none/*.gz"]}])
    message = refused(capsys, recipe)
    assert f"source books: there is no file at {tmp_path}/none/*.gz" in message
    assert not (tmp_path / "store").exists()


def test_missing_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no recipe at" in refused(capsys, str(tmp_path / "none.yaml"))


def test_file_of_no_known_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    recipe = recipe_with(tmp_path, sources=[{"name": "books", "paths": [f"{tmp_path}/a.bin"]}])
    assert "cannot tell the format of" in refused(capsys, recipe)


def test_relative_store_in_a_ray_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    message = refused(capsys, recipe_with(tmp_path), "store=relative/store")
    assert "store is the relative path 'relative/store' inside a Ray job" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dedup.threshold=0.7", "dedup.threshold was 0.8 when this store was begun and is 0.7 now"),
        ("clean.rules=[]", "clean.rules was ['gopher_quality']"),
        ("pack.sequence_length=64", "pack.sequence_length was 128"),
        ("tokenizer.vocab_size=2000", "tokenizer.vocab_size was 1000"),
    ],
)
def test_changed_lineage(
    built: Built, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert message in refused(capsys, str(built.recipe), override)


@pytest.mark.slow
def test_complete_label_with_other_inputs(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = json.loads(built.recipe.read_text())
    recipe["sources"][0]["paths"].append(str(tmp_path / "new.txt"))
    (tmp_path / "new.txt").write_text("new text")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    message = refused(capsys, str(path))
    assert "snapshot first is complete with other inputs (books: new.txt is new" in message
    assert "give the new inputs a label of their own" in message

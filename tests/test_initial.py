"""A run that begins with exported weights: the same model, another corpus, step 0."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import safetensors.torch
import torch
from pretrain_helpers import SHARDS, column, make_recipe, write_snapshot
from transformers import AutoModelForMaskedLM, RobertaConfig, RobertaForMaskedLM

from corpus.files import checksum
from corpus.snapshots import open_snapshot
from corpus.tokenizer import Tokenizer, build_definition, local_tokenizer
from pretrain.checkpoints import load_weights, newest_checkpoint
from pretrain.export import export
from pretrain.launch import run_training


class Exported(NamedTuple):
    store: Path
    run: Path
    directory: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run on snapshot one, its export, and a snapshot two with the same tokenizer."""
    root = tmp_path_factory.mktemp("initial")
    made = Exported(root / "store", root / "run", root / "model")
    write_snapshot(made.store)
    run_training(make_recipe(made.store, made.run, max_steps=20, learning_rate=3e-3))
    export(str(made.run), str(made.directory))
    write_snapshot(made.store, "two", SHARDS[1:])
    return made


def copy(exported: Exported, target: Path) -> Path:
    target.mkdir()
    for path in exported.directory.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def begin(exported: Exported, run: Path, directory: Path, **settings: Any) -> Path:  # noqa: ANN401
    settings = {"init_from": str(directory), "max_steps": 2, **settings}
    run_training(make_recipe(exported.store, run, "two", **settings))
    return run


def test_the_first_loss_is_that_of_the_exported_model(exported: Exported, tmp_path: Path) -> None:
    run = begin(exported, tmp_path / "run", exported.directory)
    first = column(run, "loss")[0]
    assert first < math.log(267) - 0.1
    found = newest_checkpoint(str(run))
    assert found is not None
    assert found[1].step == 2
    assert found[1].identity.snapshot_label == "two"
    assert found[1].recipe["pretrain"]["init_from"] == str(exported.directory)
    weights = exported.directory / "model.safetensors"
    assert found[1].identity.start == checksum(str(weights))


def test_the_card_says_what_it_began_with(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    run = begin(exported, tmp_path / "run", directory)

    def begun(name: str) -> str:
        export(str(run), str(tmp_path / name))
        lines = (tmp_path / name / "README.md").read_text().splitlines()
        return next(line for line in lines if line.startswith("| began with"))

    digest = checksum(str(directory / "model.safetensors"))
    first = open_snapshot(str(exported.store), "one")
    theirs = (exported.directory / "README.md").read_text()
    assert "| began with | random weights |" in theirs
    known = f"| began with | {directory}, weights sha256 `{digest}`"
    told = f"{known}, snapshot one (`{first.fingerprint}`), steps 20 of 20 |"
    assert begun("whole") == told
    # Another model at the same path says nothing of this one.
    (directory / "model.safetensors").write_bytes(b"other")
    assert begun("changed") == f"{known} |"
    (directory / "README.md").unlink()
    assert begun("gone") == f"{known} |"


def test_with_no_step_the_weights_are_the_exported_ones(exported: Exported, tmp_path: Path) -> None:
    # A learning rate so small that fp32 weights do not move.
    run = begin(exported, tmp_path / "run", exported.directory, learning_rate=1e-30)
    found = newest_checkpoint(str(run))
    assert found is not None
    theirs = safetensors.torch.load_file(exported.directory / "model.safetensors")
    ours = load_weights(*found)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_transformers_saves_is_taken_too(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "theirs")
    AutoModelForMaskedLM.from_pretrained(exported.directory).save_pretrained(directory)
    one = begin(exported, tmp_path / "one", exported.directory)
    other = begin(exported, tmp_path / "other", directory)
    assert column(one, "loss") == column(other, "loss")


def test_a_resumed_run_does_not_need_the_export(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    run = begin(exported, tmp_path / "run", directory)
    for path in directory.iterdir():
        path.unlink()
    begin(exported, run, directory, max_steps=4)
    whole = begin(exported, tmp_path / "whole", exported.directory, max_steps=4)
    assert column(run, "batch_hash") == column(whole, "batch_hash")


def test_a_run_keeps_its_beginning(exported: Exported, tmp_path: Path) -> None:
    run = begin(exported, tmp_path / "run", exported.directory)
    message = "begun with an exported checkpoint .* the recipe gives weights drawn from the seed"
    with pytest.raises(ValueError, match=message):
        run_training(make_recipe(exported.store, run, "two", max_steps=4))


def test_another_tokenizer_is_refused(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    other = Tokenizer(build_definition([("a", "b")]))
    local_tokenizer(other.definition, directory)
    message = f"has tokenizer {other.fingerprint:.12}, the snapshot's is "
    message += f"{open_snapshot(str(exported.store)).tokenizer:.12}: weights can go on only"
    with pytest.raises(ValueError, match=message):
        begin(exported, tmp_path / "run", directory)
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_another_shape_is_refused(exported: Exported, tmp_path: Path) -> None:
    message = "has num_hidden_layers 2, the recipe and its snapshot give 4; hidden_size 128"
    with pytest.raises(ValueError, match=message):
        begin(exported, tmp_path / "run", exported.directory, preset="small")


def test_another_architecture_is_refused(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    config = orjson.loads((directory / "config.json").read_bytes())
    (directory / "config.json").write_bytes(orjson.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="is of model type bert, not roberta"):
        begin(exported, tmp_path / "run", directory)


def test_a_model_with_the_defaults_of_transformers_is_refused(
    exported: Exported, tmp_path: Path
) -> None:
    directory = copy(exported, tmp_path / "model")
    ours = orjson.loads((directory / "config.json").read_bytes())
    shape = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings",
    )  # fmt: skip
    config = RobertaConfig(**{key: ours[key] for key in shape})
    RobertaForMaskedLM(config).save_pretrained(directory)
    message = "has type_vocab_size 2, expected 1; layer_norm_eps 1e-12, expected 1e-05: only a mod"
    with pytest.raises(ValueError, match=message):
        begin(exported, tmp_path / "run", directory)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "relu", "has hidden_act relu, expected gelu: only"),
        ("position_embedding_type", "relative_key", "relative_key, expected absolute"),
        ("tie_word_embeddings", False, "tie_word_embeddings False, expected True"),
        ("type_vocab_size", None, "type_vocab_size 2, expected 1"),
    ],
)
def test_a_model_that_computes_otherwise_is_refused(
    exported: Exported, tmp_path: Path, key: str, value: object, message: str
) -> None:
    directory = copy(exported, tmp_path / "model")
    config = orjson.loads((directory / "config.json").read_bytes())
    config[key] = value
    if value is None:
        del config[key]
    (directory / "config.json").write_bytes(orjson.dumps(config))
    with pytest.raises(ValueError, match=message):
        begin(exported, tmp_path / "run", directory)


def test_other_shapes_are_refused(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    weights["lm_head.bias"] = weights["lm_head.bias"][:-1].clone()
    safetensors.torch.save_file(weights, directory / "model.safetensors")
    message = r"has 1 tensors of other shapes .*, lm_head\.bias \[266\], expected \[267\]: export"
    with pytest.raises(ValueError, match=message):
        begin(exported, tmp_path / "run", directory)


def test_other_names_are_refused(exported: Exported, tmp_path: Path) -> None:
    directory = copy(exported, tmp_path / "model")
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    weights["lm_head.odd"] = weights.pop("lm_head.bias")
    safetensors.torch.save_file(weights, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 tensors, lm_head\.bias among them"):
        begin(exported, tmp_path / "run", directory)
    weights["lm_head.bias"] = weights["lm_head.odd"].clone()
    safetensors.torch.save_file(weights, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"has unknown 1 tensors, lm_head\.odd among them"):
        begin(exported, tmp_path / "run2", directory)


def test_a_directory_without_an_export_is_named(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which holds no model\.safetensors: give a directory"):
        begin(exported, tmp_path / "run", tmp_path)

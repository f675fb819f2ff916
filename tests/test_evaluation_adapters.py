"""Adapters: what is saved answers as what was trained, on RoBERTa and on BERT."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_helpers import typed_tokenizer
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig, BertForMaskedLM
from tuning_helpers import write_checkpoint, write_task

from pretrain.evaluation.adapters import Adapter, add_adapter
from pretrain.evaluation.evaluate import evaluate
from pretrain.evaluation.heads import open_model
from pretrain.evaluation.loop import Hyperparameters, logits_of
from pretrain.evaluation.predict import Predictor
from pretrain.evaluation.prepared import Prepared
from pretrain.evaluation.protocol import best_runs, runs_directory
from pretrain.evaluation.recipe import Evaluation
from pretrain.evaluation.saved import save_best
from pretrain.evaluation.tasks import Task, load_task
from pretrain.evaluation.tuning import Run, Settings, fine_tune, make_models, trained_models

KINDS = ("lora", "ia3", "prefix", "prompt")
# Prompts fit whole texts alone, and peft hides types of tokens from BERT's kin that answer.
FITTING = [
    *((kind, task) for kind in ("lora", "ia3") for task in ("classification", "answering")),
    *((kind, "choice") for kind in ("lora", "ia3")),
    *((kind, "classification") for kind in ("prefix", "prompt")),
    ("prefix", "tagging"),
]


def write_bert(directory: Path) -> str:
    """Write a masked language model of BERT's kind: types of tokens, no pooler in its weights."""
    tokenizer = typed_tokenizer()
    tokenizer.save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("base")
    return {"roberta": write_checkpoint(root / "roberta"), "bert": write_bert(root / "bert")}


def logits(model: nn.Module, part: Prepared) -> list[NDArray[np.float32]]:
    pad_id, features = part.tokenizer.pad_token_id, part.validation.features
    return logits_of(model, part.task, features, pad_id, torch.device("cpu"))


def check_saved(root: Path, contestant: dict[str, Any], tasks: list[Task]) -> None:
    """Train and save, open again, and compare what both give for the validation examples."""
    grid = {"learning_rates": [1e-2], "batch_sizes": [8], "epochs": 1}
    evaluation = Evaluation.model_validate(
        {
            "output": str(root / "out"),
            "checkpoints": [{"name": "ours"} | contestant],
            "tasks": tasks,
            "grid": grid,
            "seeds": [0],
            "baselines": [],
        }
    )
    entries = evaluate(evaluation).entries
    saved = save_best(evaluation, entries)
    ((_, run),) = best_runs(evaluation, entries)
    models, parts = trained_models(run, runs_directory(evaluation))
    for model, part, directory in zip(models, parts, saved, strict=True):
        again = logits(Predictor(directory)._model, part)
        for found, expected in zip(again, logits(model, part), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
@pytest.mark.parametrize(("kind", "task"), FITTING)
def test_what_is_saved_answers_as_what_was_trained(
    architecture: str, kind: str, task: str, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    adapter = {"kind": kind, "rank": 2, "virtual_tokens": 2}
    contestant = {"path": checkpoints[architecture], "adapter": adapter}
    check_saved(tmp_path, contestant, [write_task(tmp_path, task, count=24)])


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_tasks_together_are_saved_as_trained(
    kind: str, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    tasks = [write_task(tmp_path, task, count=24) for task in ("classification", "tagging")]
    contestant = {"path": checkpoints["bert"], "adapter": {"kind": kind}, "together": True}
    check_saved(tmp_path, contestant, tasks)


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_any_length_leave_positions_to_what_is_prepended(
    architecture: str, kind: str, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    rows = [{"text": "the rain " * 50, "label": str(n % 2)} for n in range(4)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    values = {"name": "long", "kind": "classification", "format": "jsonl", "metrics": ["accuracy"]}
    task = load_task(values | {"train": [str(path)], "validation": [str(path)]})
    settings = Settings.model_validate({"adapter": {"kind": kind, "virtual_tokens": 5}})
    given = Hyperparameters(batch_size=2, epochs=1)
    result = fine_tune(checkpoints[architecture], task, given, 0, str(tmp_path), settings)
    whole = {"roberta": 64, "bert": 48}[architecture]
    taken = 5 if kind in ("prefix", "prompt") else 0
    assert result.fits["train"].limit == whole - taken
    assert result.fits["train"].truncated == 4


def test_only_the_adapter_the_head_and_its_pooler_learn(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    tasks = (write_task(tmp_path, "classification"), write_task(tmp_path, "tagging"))
    run = Run(
        checkpoint=checkpoints["bert"],
        tasks=tasks,
        hyperparameters=Hyperparameters(),
        seed=0,
        settings=Settings(adapter=Adapter(kind="lora")),
    )
    labels = (("down", "up"), ("O", "B-LOC", "I-LOC"))
    learning = [
        {name for name, weight in model.named_parameters() if weight.requires_grad}
        for model in make_models(run, labels)
    ]
    heads = [{name for name in each if ".lora_" not in name} for each in learning]
    start = "base_model.model."
    assert heads[0] == {
        f"{start}{part}.{kind}"
        for kind in ("weight", "bias")
        for part in (
            "bert.pooler.modules_to_save.default.dense",
            "classifier.modules_to_save.default",
        )
    }
    assert heads[1] == {
        f"{start}classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")
    }


def test_a_prefix_that_hides_types_of_tokens_is_refused(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    task = write_task(tmp_path, "answering")
    for name, match in (("bert", "hides from this checkpoint which tokens"), ("roberta", None)):
        model = open_model(checkpoints[name], task, ())
        if match is None:
            add_adapter(model, Adapter(kind="prefix"), "answering")
            continue
        with pytest.raises(ValueError, match=match):
            add_adapter(model, Adapter(kind="prefix"), "answering")

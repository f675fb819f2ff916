"""A checkpoint of few weights and small tasks of every kind, for tests of fine-tuning."""

import json
import math
import random
from pathlib import Path
from typing import Any

import orjson
import torch
from pretrain_helpers import MERGES
from transformers import RobertaConfig, RobertaForMaskedLM

from corpus.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    Tokenizer,
    build_definition,
    tokenizer_files,
)
from pretrain.evaluation.tasks import Task, load_task
from pretrain.evaluation.tuning import Result, Run

WORDS = ("the", "rain", "inner", "hat", "on", "red")
KINDS = ("classification", "regression", "tagging", "answering", "choice")


def write_checkpoint(directory: Path, seed: int = 0) -> str:
    """Write a masked language model of random weights, as `export` would."""
    directory.mkdir(parents=True)
    tokenizer = Tokenizer(build_definition(MERGES))
    for name, data in tokenizer_files(tokenizer).items():
        (directory / name).write_bytes(data)
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 64}
    (directory / "tokenizer_config.json").write_bytes(orjson.dumps(settings))
    config = RobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        type_vocab_size=1,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        RobertaForMaskedLM(config).save_pretrained(directory)
    return str(directory)


def _classification(draw: random.Random) -> dict[str, Any]:
    good = draw.random() < 0.5
    words = draw.choices(WORDS, k=draw.randint(2, 6))
    return {"text": " ".join([*words, "zzz" if good else "qqq"]), "label": "up" if good else "down"}


def _regression(draw: random.Random) -> dict[str, Any]:
    count = draw.randint(0, 3)
    words = draw.choices(WORDS, k=4) + ["zzz"] * count
    return {"text": " ".join(words), "pair": "the rain", "label": count}


def _tagging(draw: random.Random) -> dict[str, Any]:
    words = draw.choices([*WORDS, "Zurich"], k=5)
    return {"words": words, "tags": ["B-LOC" if word == "Zurich" else "O" for word in words]}


def _answering(draw: random.Random) -> dict[str, Any]:
    words = draw.choices(WORDS, k=5)
    words.insert(draw.randrange(5), "42")
    context = " ".join(words)
    answer = {"text": "42", "answer_start": context.index("42")}
    return {"question": "how many?", "context": context, "answers": [answer]}


def _choice(draw: random.Random) -> dict[str, Any]:
    options = draw.sample(WORDS, k=2)
    right = draw.randrange(2)
    context = f"it is {options[right]}"
    return {"context": context, "question": "what?", "options": options, "label": right}


_MAKERS = {
    "classification": (_classification, "accuracy"),
    "regression": (_regression, "pearson"),
    "tagging": (_tagging, "span_f1"),
    "answering": (_answering, "f1"),
    "choice": (_choice, "accuracy"),
}


def write_task(directory: Path, kind: str, count: int = 48, **others: object) -> Task:
    """Write a task of a kind as JSON lines: train, validation of half the size, test of a third."""
    make, metric = _MAKERS[kind]
    draw = random.Random(kind)
    paths = {}
    for split, rows in (("train", count), ("validation", count // 2), ("test", count // 3)):
        path = directory / f"{kind}-{split}.jsonl"
        path.write_text("".join(f"{json.dumps(make(draw))}\n" for _ in range(rows)))
        paths[split] = [str(path)]
    roles = tuple(make(draw))
    values: dict[str, Any] = {
        "name": f"toy-{kind}",
        "kind": kind,
        "format": "jsonl",
        "columns": {role: role for role in roles},
        "metrics": [metric],
        "options": 2,
        "max_length": 32,
        "stride": 8,
    }
    return load_task(values | paths | others)


def result_of(value: float, run: Run) -> Result:
    return Result(
        fingerprint="0" * 32,
        task=run.tasks[0].name,
        seed=run.seed,
        hyperparameters=run.hyperparameters,
        metric=run.tasks[0].metrics[0],
        scores=({run.tasks[0].metrics[0]: value},),
        best_epoch=None if math.isnan(value) else 0,
        test=None,
        details={},
        losses=(),
        diverged=math.isnan(value),
        steps=1,
        seconds=1.0,
        parameters=2,
        trained_parameters=1,
        checksum=None,
    )

"""Raw text to an exported checkpoint that `transformers` loads: what `make demo` runs, smaller."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from corpus_helpers import Built, run, start

pytestmark = pytest.mark.slow


def test_raw_text_to_a_checkpoint(built: Built, tmp_path: Path) -> None:
    overrides = [
        f"pretrain.run={tmp_path / 'run'}", "pretrain.preset=tiny", "pretrain.precision=fp32",
        "pretrain.max_steps=40", "pretrain.batch_sequences=16", "pretrain.microbatch_sequences=16",
        "pretrain.learning_rate=2e-3", "pretrain.warmup_steps=4", "pretrain.dropout=0",
        "pretrain.checkpoint_every_steps=20", "pretrain.validate_every_steps=40",
        "pretrain.validation_sequences=64",
    ]  # fmt: skip
    trained = run("pretrain", "train", str(built.recipe), *overrides)
    assert trained.returncode == 0, trained.stderr
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    (validation,) = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == 40
    assert abs(losses[0] - math.log(1000)) < 0.2
    assert validation < losses[0] - 0.5

    exported = tmp_path / "exported"
    told = {"PYTHONPROFILEIMPORTTIME": "1"}
    process = start("pretrain", "export", str(tmp_path / "run"), str(exported), extra=told)
    _, imported = process.communicate(timeout=900)
    assert process.returncode == 0, imported
    assert "pretrain.export" in imported
    assert "torch._dynamo" not in imported  # torch's compiler, for commands that do not train
    model = transformers.AutoModelForMaskedLM.from_pretrained(exported)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert built.summary["fingerprint"] in (exported / "README.md").read_text()
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
    guesses = fill(f"The {tokenizer.mask_token} of and to.")
    assert len(guesses) == 5 and all(0 < guess["score"] < 1 for guess in guesses)
    with torch.no_grad():
        logits = model(**tokenizer("of and to the", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer) == 1000

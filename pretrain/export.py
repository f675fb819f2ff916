"""Turns a checkpoint of a run into a directory that `transformers` loads without us.

Weights are copied under their own names in fp32; the decoder is tied to the word embedding, as
`RobertaForMaskedLM` ties it. Beside them: the tokenizer as it lies in the store, and a model card
that says what made the checkpoint, its recipe without the passwords and keys of URLs.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch

from corpus.files import is_remote, write_bytes
from corpus.snapshots import tokenizer_root
from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID, open_tokenizer, tokenizer_files
from pretrain.checkpoints import (
    CHANGES,
    CheckpointState,
    checkpoint_home,
    checkpoint_path,
    known_metrics,
    list_checkpoints,
    load_weights,
    read_carried,
    read_state,
)
from pretrain.config import ModelShape
from pretrain.initial import describe_start
from pretrain.model import INITIAL_DEVIATION, NORM_EPSILON, is_exported
from pretrain.trackers import without_credentials

_CARD_FILE = "README.md"

logger = logging.getLogger(__name__)


def export(run: str, directory: str, step: int | None = None) -> None:
    """Write the checkpoint of a step, or the newest one, into a new or empty directory."""
    if is_remote(directory):
        raise ValueError(
            f"the directory to write is the URL {directory}: export writes to a local directory, "
            "from which you can copy it there"
        )
    checkpoint, state = find_checkpoint(run, step)
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{directory} is not empty: export writes into a new directory")
    loaded = load_weights(checkpoint, state)
    weights = {name: weight for name, weight in loaded.items() if is_exported(name)}
    tokenizer = open_tokenizer(tokenizer_root(state.recipe["store"], state.identity.tokenizer))
    if tokenizer.fingerprint != state.identity.tokenizer:
        raise ValueError(
            f"the tokenizer of {state.recipe['store']} is {tokenizer.fingerprint}, the checkpoint "
            f"was trained with {state.identity.tokenizer}: restore the store's tokenizer"
        )
    files = {
        **tokenizer_files(tokenizer),
        "tokenizer_config.json": _json(_tokenizer_config(state.identity.model)),
        "config.json": _json(_model_config(state)),
        "model.safetensors": safetensors.torch.save(weights, {"format": "pt"}),
        _CARD_FILE: _model_card(run, checkpoint, state).encode(),
    }
    for name, data in files.items():
        write_bytes(str(target / name), data)
    logger.info("exported step %s of %s to %s", f"{state.step:,}", run, directory)


def find_checkpoint(run: str, step: int | None = None) -> tuple[str, CheckpointState]:
    """Find the checkpoint of a step, or the newest one; `ValueError` says which there are."""
    found = list_checkpoints(checkpoint_home(run))
    if not found:
        raise ValueError(
            f"{run} holds no complete checkpoint: train until it writes one; where the recipe sets "
            "pretrain.checkpoint_root, give that in its place"
        )
    names = [checkpoint_path(checkpoint_home(run), step)] if step is not None else found[-1:]
    if names[0] not in found:
        steps = ", ".join(str(int(name.rpartition("step-")[2])) for name in found)
        raise ValueError(
            f"{run} holds no checkpoint of step {step}, only of {steps}; "
            "pretrain.keep_checkpoint_every_steps keeps more of them"
        )
    return names[0], read_state(names[0])


def export_once(run: str, step: int, home: str) -> str:
    """Export the checkpoint of a step below `home`, unless it is there; return the directory."""
    target = Path(home) / "exported" / f"step-{step:08d}"
    card, found = target / _CARD_FILE, find_checkpoint(run, step)
    # The card is written last: without it an export was cut short. It names the weights, which are
    # others where a run was rolled back and came to this step again.
    if not card.exists() or card.read_bytes() != _model_card(run, *found).encode():
        shutil.rmtree(target, ignore_errors=True)
        export(run, str(target), step)
    return str(target)


def _model_config(state: CheckpointState) -> dict[str, Any]:
    shape, recipe = state.identity.model, state.recipe["pretrain"]
    attention_dropout = recipe.get("attention_dropout")
    return {
        "model_type": "roberta",
        "architectures": ["RobertaForMaskedLM"],
        "dtype": "float32",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feedforward_width,
        "max_position_embeddings": shape.max_positions,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPSILON,
        "initializer_range": INITIAL_DEVIATION,
        "hidden_dropout_prob": recipe["dropout"],
        "attention_probs_dropout_prob": (
            recipe["dropout"] if attention_dropout is None else attention_dropout
        ),
        "bos_token_id": BOS_ID,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "tie_word_embeddings": True,
    }


def _tokenizer_config(shape: ModelShape) -> dict[str, Any]:
    return {
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": shape.sequence_length,
        "add_prefix_space": False,
        "trim_offsets": True,
        "clean_up_tokenization_spaces": False,
    }


def _model_card(run: str, checkpoint: str, state: CheckpointState) -> str:
    identity, recipe = state.identity, state.recipe
    metrics = known_metrics(run, checkpoint, state)
    measured = [line for line in metrics if line["step"] < state.step]
    changes = read_carried(checkpoint, state, CHANGES) or b""
    begun = "random weights"
    if identity.start is not None:
        begun = describe_start(recipe["pretrain"]["init_from"], identity.start)
    validated = [line for line in measured if "validation_loss" in line]
    rows = {
        "snapshot": f"{identity.snapshot_label} (`{identity.plan.snapshot}`)",
        "tokenizer": f"`{identity.tokenizer}`",
        "data plan": f"`{state.plan_hash}`",
        "weights": f"`{state.weights}`",
        "sources": ", ".join(source["name"] for source in recipe["sources"]),
        "began with": begun,
        "changed in mid-run": _tell_changes(changes) or "nothing",
        "steps": f"{state.step:,} of {recipe['pretrain']['max_steps']:,}",
        "sequences a step": f"{identity.plan.batch_sequences:,} x {identity.model.sequence_length}",
        "first training loss": f"{measured[0]['loss']:.4f} nats" if measured else "not recorded",
        "last training loss": f"{measured[-1]['loss']:.4f} nats" if measured else "not recorded",
        "validation loss": _last_validation(validated),
        "made with": ", ".join(f"{name} {version}" for name, version in state.versions.items()),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return _CARD.format(
        preset=recipe["pretrain"]["preset"],
        table=table,
        recipe=orjson.dumps(_shown(recipe), option=orjson.OPT_INDENT_2).decode(),
    )


def _tell_changes(lines: bytes) -> str:
    """Show what the recipe changed in mid-run, step by step."""
    told = []
    for line in map(orjson.loads, lines.splitlines()):
        changes = _shown(line["changes"]).items()
        changed = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changes)
        told.append(f"step {line['step']:,}: {changed}")
    return "; ".join(told)


def _shown(value: Any) -> Any:  # noqa: ANN401 - whatever stands in a recipe
    """Copy what a recipe holds for a card that others read: URLs without what may be a key."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return value


def _last_validation(validated: list[dict[str, Any]]) -> str:
    if not validated:
        return "not measured"
    last = validated[-1]
    return (
        f"{last['validation_loss']:.4f} nats (perplexity {last['perplexity']:.2f}) "
        f"after step {last['step']:,}"
    )


def _json(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


_CARD = """---
library_name: transformers
pipeline_tag: fill-mask
tags:
- roberta
- maskline
---

# RoBERTa ({preset}), pretrained by maskline

A base checkpoint for masked language modelling, to be fine-tuned. Load it with
`AutoModelForMaskedLM.from_pretrained` and `AutoTokenizer.from_pretrained`.

## What made it

| | |
|---|---|
{table}

The batch of every step follows from snapshot, data plan and step. It has the biases of its sources
and was not evaluated on any task.

## Recipe

```json
{recipe}
```
"""

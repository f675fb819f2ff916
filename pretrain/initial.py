"""The start of a run from an exported checkpoint: pretraining that goes on over a newer corpus.

The directory is one that `export` wrote, or any with RobertaForMaskedLM's weights, its config.json
and a tokenizer.json. Its tokenizer must be the snapshot's (token ids mean nothing otherwise) and
its shape the preset's, all else of its architecture that of roberta-base. Only weights are taken:
the moments begin at zero, the steps and the learning rate at step 0. The SHA-256 of the weights
becomes part of the run's identity; once the run has a checkpoint of its own, the directory is not
read any more.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from torch import Tensor

from corpus.files import checksum, exists, join, read_bytes
from corpus.tokenizer import open_tokenizer
from pretrain.config import ModelShape
from pretrain.model import NORM_EPSILON
from pretrain.tensors import read_tensors
from pretrain.trackers import without_credentials

_WEIGHTS = "model.safetensors"
# What transformers may store beside the parameters: the decoder is the word embedding and its bias
# the head's (tied), positions are counted and not learned.
_TIED = ("lm_head.decoder.weight", "lm_head.decoder.bias", "roberta.embeddings.position_ids")
_SHAPE_KEYS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feedforward_width": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
}
# What no recipe can change: our value, and that of transformers' RobertaConfig where a config.json
# does not name the key.
_FIXED: dict[str, tuple[object, object]] = {
    "type_vocab_size": (1, 2),
    "hidden_act": ("gelu", "gelu"),
    "layer_norm_eps": (NORM_EPSILON, 1e-12),
    "position_embedding_type": ("absolute", "absolute"),
    "tie_word_embeddings": (True, True),
}
_NAMES_SHOWN = 3
# Of the card that `export` writes: what the weights themselves were made from, row by row.
_CARD, _CARD_ROW = "README.md", "| {} | "
_TOLD = ("snapshot", "steps")


def fingerprint_start(directory: str, shape: ModelShape, tokenizer: str) -> str:
    """Check that a run of this shape and tokenizer can begin there; return the weights' SHA-256."""
    for name in (_WEIGHTS, "config.json"):
        if not exists(join(directory, name)):
            raise ValueError(
                f"pretrain.init_from names {directory}, which holds no {name}: give a directory "
                "that `python -m pretrain export` wrote"
            )
    found = open_tokenizer(directory).fingerprint
    if found != tokenizer:
        raise ValueError(
            f"pretrain.init_from {directory} has tokenizer {found:.12}, the snapshot's is "
            f"{tokenizer:.12}: weights can go on only over a corpus of the same tokenizer (a "
            "refresh of the same store), otherwise begin anew"
        )
    _check_shape(directory, orjson.loads(read_bytes(join(directory, "config.json"))), shape)
    return checksum(join(directory, _WEIGHTS))


def describe_start(directory: str, expected: str) -> str:
    """Say what a run began with; what its card says counts while these weights lie beside it."""
    told = f"{without_credentials(directory)}, weights sha256 `{expected}`"
    card = join(directory, _CARD)
    # A path may be gone, or be another export's by now.
    if not exists(card) or not exists(join(directory, _WEIGHTS)):
        return told
    if checksum(join(directory, _WEIGHTS)) != expected:
        return told
    lines = read_bytes(card).decode(errors="replace").splitlines()
    rows = [(name, _CARD_ROW.format(name)) for name in _TOLD]
    found = [
        f"{name} {line.removeprefix(start).removesuffix('|').strip()}"
        for name, start in rows
        for line in lines
        if line.startswith(start)
    ]
    return ", ".join([told, *found])


def _check_shape(directory: str, config: Mapping[str, Any], shape: ModelShape) -> None:
    kind = config.get("model_type")
    if kind != "roberta":
        raise ValueError(f"pretrain.init_from {directory} is of model type {kind}, not roberta")
    differences = [
        f"{key} {config.get(key)}, the recipe and its snapshot give {getattr(shape, name)}"
        for name, key in _SHAPE_KEYS.items()
        if config.get(key) != getattr(shape, name)
    ]
    if differences:
        raise ValueError(
            f"pretrain.init_from {directory} has {'; '.join(differences)}: take the preset and "
            "the sequence length that it was trained with"
        )
    foreign = [
        f"{key} {config.get(key, default)}, expected {ours}"
        for key, (ours, default) in _FIXED.items()
        if config.get(key, default) != ours
    ]
    if foreign:
        raise ValueError(
            f"pretrain.init_from {directory} has {'; '.join(foreign)}: only a model that computes "
            "as roberta-base does can go on here"
        )


def read_start(directory: str, expected: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of an export, in fp32, for the parameters `wanted`."""
    path = join(directory, _WEIGHTS)
    found = read_tensors(path, expected)
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted) - set(_TIED))
    for problem, names in (("lacks", missing), ("has unknown", surplus)):
        if names:
            raise ValueError(
                f"{path} {problem} {len(names)} tensors, {', '.join(names[:_NAMES_SHOWN])} among "
                "them: pretrain.init_from takes the weights of RobertaForMaskedLM by its names"
            )
    odd = [
        f"{name} {list(found[name].shape)}, expected {list(one.shape)}"
        for name, one in wanted.items()
        if found[name].shape != one.shape
    ]
    if odd:
        raise ValueError(
            f"{path} has {len(odd)} tensors of other shapes than its config.json says, "
            f"{'; '.join(odd[:_NAMES_SHOWN])}: export it again"
        )
    return {name: found[name].float() for name in wanted}

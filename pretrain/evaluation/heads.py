"""A checkpoint with the head of a task: opened as data, with its limit of tokens and its identity.

Any directory that `transformers` loads works, not only ours; what it needs are `config.json`,
weights as safetensors and a fast tokenizer. Nothing is fetched and no code of a checkpoint runs.
"""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from corpus.files import checksum
from pretrain.evaluation.tasks import Kind, Task

_HEADS: dict[Kind, str] = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "answering": "AutoModelForQuestionAnswering",
    "choice": "AutoModelForMultipleChoice",
}
# How architectures call the dropout of their layers and of attention: transformers, configuration_*
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
_SHIFTED = (
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "xmod",
)  # fmt: skip
# Tokenizers without a limit say 10^30 (transformers, VERY_LARGE_INTEGER).
NO_LIMIT = 10**9
_logging: Any = importlib.import_module("transformers.utils.logging")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# What transformers makes a fast tokenizer from where there is no tokenizer.json.
_VOCABULARIES = (
    "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "sentencepiece.bpe.model",
    "spiece.model", "spm.model", "tokenizer.model",
)  # fmt: skip


def open_tokenizer(checkpoint: str, kind: Kind | None = None) -> Any:  # noqa: ANN401 - no types
    """Open the tokenizer of a checkpoint; words of tagging are told apart by a space before."""
    _check_directory(checkpoint)
    options = {"add_prefix_space": True} if kind == "tagging" else {}
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint, local_files_only=True, trust_remote_code=False, **options
            )
        except (OSError, ValueError) as error:
            why = first_line(error)
            raise ValueError(f"{checkpoint} holds no tokenizer that loads: {why}") from None
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {checkpoint} is not a fast one: it lacks offsets")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {checkpoint} has no token for padding")
    if getattr(open_config(checkpoint), "type_vocab_size", None) == 1:
        # BERT's tokenizers give a second text another type, for which there are no weights here.
        known = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in known if name != "token_type_ids"]
    return tokenizer


def max_tokens(checkpoint: str, tokenizer: Any, taken: int = 0) -> int:  # noqa: ANN401
    """Return how many tokens an input of a checkpoint may have, where some positions are taken."""
    config = open_config(checkpoint)
    limits = [NO_LIMIT, tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa's kin count positions from the padding id + 1: fairseq, utils.make_positions
        is_shifted = "roberta" in config.model_type or config.model_type in _SHIFTED
        limits.append(positions - taken - (config.pad_token_id + 1 if is_shifted else 0))
    return int(min(limits))


def open_model(
    checkpoint: str,
    task: Task,
    labels: Sequence[str],
    dropout: float | None = None,
    random_weights: bool = False,
    is_trained: bool = False,
) -> nn.Module:
    """Put the head of a task on a checkpoint, or on its architecture drawn anew.

    What is new is drawn from torch's global generator, which the caller seeds; of a checkpoint that
    `is_trained` for the task nothing is.
    """
    config = open_config(checkpoint)
    if task.kind in ("classification", "tagging"):
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    elif task.kind == "regression":
        config.num_labels = 1
    if task.kind in ("classification", "regression"):
        single = "single_label_classification"
        config.problem_type = single if task.kind == "classification" else "regression"
    for name in _DROPOUTS:
        if dropout is not None and hasattr(config, name):
            setattr(config, name, dropout)
    head = getattr(transformers, _HEADS[task.kind])
    if random_weights:
        with quiet():
            model: nn.Module = head.from_config(config, trust_remote_code=False).float()
        return model
    problem = (
        f"{checkpoint} does not load for {task.kind}, which needs config.json and "
        "model.safetensors of an encoder"
    )
    return load_model(head, config, checkpoint, problem, draws_head=not is_trained)


def load_model(
    head: Any,  # noqa: ANN401 - a class of transformers
    config: Any,  # noqa: ANN401
    checkpoint: str,
    problem: str,
    draws_head: bool = False,
) -> nn.Module:
    """Load a model of transformers; `ValueError` begins with `problem`.

    transformers draws weights that a checkpoint lacks. Here it may do so with a head alone, and the
    pooler that some heads have.
    """
    with quiet():
        try:
            model, found = head.from_pretrained(
                checkpoint,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{problem}: {first_line(error)}") from None
    drawn = found["missing_keys"] | {name for name, *_ in found["mismatched_keys"]}
    inside = f"{model.base_model_prefix}."
    wrong = sorted(
        name
        for name in drawn
        if not draws_head or (name.startswith(inside) and ".pooler." not in name)
    )
    if wrong:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise ValueError(
            f"{problem}: its weights lack {wrong[0]}{more}, or have another shape than config.json "
            "says"
        )
    whole: nn.Module = model
    return whole


def identity(checkpoint: str, random_weights: bool) -> str:
    """Return a hash of what a checkpoint gives a run: weights, architecture and tokenizer."""
    _check_directory(checkpoint)
    names = ["config.json", *_TOKENIZER_FILES]
    if not (Path(checkpoint) / "tokenizer.json").exists():
        names += _VOCABULARIES
    if not random_weights:
        names += sorted(path.name for path in Path(checkpoint).glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in names:
        path = Path(checkpoint) / name
        if path.exists():
            status = path.stat()
            found = _checksum(str(path.absolute()), status.st_mtime_ns, status.st_size)
            digest.update(f"{name} {found}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _checksum(path: str, changed: int, size: int) -> str:
    """Hash a file once, as long as neither the time of its change nor its size differs."""
    del changed, size
    return checksum(path)


def open_config(checkpoint: str) -> Any:  # noqa: ANN401
    """Open what a checkpoint says of itself; `ValueError` where there is none."""
    _check_directory(checkpoint)
    try:
        return transformers.AutoConfig.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        why = first_line(error)
        raise ValueError(f"{checkpoint} has no config.json that loads: {why}") from None


def check_checkpoint(checkpoint: str, random_weights: bool) -> None:
    """Refuse a directory that no run could begin from; weights are looked for, not loaded."""
    open_config(checkpoint)
    open_tokenizer(checkpoint)
    if not random_weights and not any(Path(checkpoint).glob("*.safetensors")):
        raise ValueError(f"{checkpoint} holds no weights: expected model.safetensors of an encoder")


def first_line(error: Exception) -> str:
    """Return what an error of transformers says, without its advice about the hub."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_directory(checkpoint: str) -> None:
    if not (Path(checkpoint) / "config.json").is_file():
        raise ValueError(
            f"there is no checkpoint at {checkpoint}: expected a directory with config.json, "
            "such as `python -m pretrain export RUN DIR` or `evaluate` write"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what transformers says of every new head, and its progress bars."""
    level = _logging.get_verbosity()
    had_bars = _logging.is_progress_bar_enabled()
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
    try:
        yield
    finally:
        _logging.set_verbosity(level)
        if had_bars:
            _logging.enable_progress_bar()

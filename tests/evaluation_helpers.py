"""Tokenizers and examples for the tests of evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pretrain_helpers import MERGES
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from corpus.tokenizer import build_definition
from pretrain.evaluation.features import Encoded, Feature
from pretrain.evaluation.tasks import Task, load_task

SPECIALS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
    "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip


def byte_tokenizer(
    trim: bool = True,
    max_length: int = 10**6,
    merges: Sequence[tuple[str, str]] = tuple(MERGES),
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE as our checkpoints have it; offsets with their space unless trim."""
    fast = FastTokenizer.from_str(build_definition(merges).decode())
    fast.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIALS,
    )


def typed_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of BERT's kind: lower case, control characters vanish, types of texts."""
    letters = {chr(each): n + 5 for n, each in enumerate(range(ord("a"), ord("z") + 1))}
    inner = {f"##{letter}": n + 26 for letter, n in letters.items()}
    names = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    fast = FastTokenizer(models.WordPiece({**names, **letters, **inner}, unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def task_of(kind: str, **values: object) -> Task:
    """Return a plain task of a kind."""
    plain = {
        "classification": ("jsonl", ("accuracy", "macro_f1")),
        "regression": ("jsonl", ("pearson", "spearman")),
        "tagging": ("conll", ("span_f1", "accuracy")),
        "answering": ("squad", ("f1", "exact_match")),
        "choice": ("race", ("accuracy",)),
    }
    form, metrics = plain[kind]
    return load_task({"name": "t", "kind": kind, "format": form, "metrics": metrics, **values})


def perfect(task: Task, labels: Sequence[str], encoded: Encoded) -> list[NDArray[np.float32]]:
    """Return the logits of a model that knows every label of the features."""
    return [_certain(task, len(labels), feature) for feature in encoded.features]


def _certain(task: Task, labels: int, feature: Feature) -> NDArray[np.float32]:
    if task.kind == "regression":
        return np.array(feature.labels, np.float32)
    if task.kind == "answering":
        scores = np.full((2, feature.length), -10, np.float32)
        for row, label in enumerate(feature.labels):
            scores[row, int(label)] = 10
        return scores
    if task.kind == "tagging":
        scores = np.zeros((feature.length, labels), np.float32)
        for row, label in enumerate(feature.labels):
            # Where nothing is learnt the model is wrong: those outputs must not be used.
            scores[row, int(label) if label >= 0 else row % labels] = 10
        return scores
    size = task.options if task.kind == "choice" else labels
    classes = np.zeros(size, np.float32)
    classes[int(feature.labels[0])] = 10
    return classes

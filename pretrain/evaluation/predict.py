"""Uses a fine-tuned model: examples from files or standard input, a line of JSON each.

Any model directory works whose head `transformers` knows; without our `task.json` the kind of task
follows from the architecture. Input is what the tasks' readers read (JSONL, tables, CoNLL, SQuAD,
RACE), or plain text: a line is a text to classify, or words with spaces between to tag. Lines are
read and answered in portions, so standard input may be endless; other layouts are read whole.
Examples that cannot be used are counted and named on the log, and have no line in the output.
"""

import io
import logging
import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import torch
from torch import nn

from pretrain.evaluation.adapters import with_adapter
from pretrain.evaluation.examples import (
    Example,
    Split,
    TaggedExample,
    TextExample,
    judge_records,
    read_stream,
)
from pretrain.evaluation.features import encode
from pretrain.evaluation.fits import fit_of, tell_fits
from pretrain.evaluation.heads import max_tokens, open_config, open_model, open_tokenizer
from pretrain.evaluation.loop import logits_of
from pretrain.evaluation.predictions import as_json, decode
from pretrain.evaluation.records import read_file
from pretrain.evaluation.saved import Saved, read_saved
from pretrain.evaluation.tables import json_records
from pretrain.evaluation.tasks import Column, Kind, Task

logger = logging.getLogger(__name__)

_KINDS: dict[str, Kind] = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tagging",
    "ForQuestionAnswering": "answering",
    "ForMultipleChoice": "choice",
}
_SUFFIXES = {
    ".jsonl": "jsonl", ".tsv": "tsv", ".csv": "csv", ".conll": "conll", ".json": "squad",
    ".txt": "text",
}  # fmt: skip
_METRICS: dict[Kind, Any] = {
    "classification": "accuracy",
    "regression": "pearson",
    "tagging": "accuracy",
    "answering": "f1",
    "choice": "accuracy",
}
# What JSON calls the parts of an example, where the task does not know its columns by name.
_ROLES = ("text", "pair", "words", "question", "context", "options", "id")


class Predictor:
    """A fine-tuned model, ready to answer."""

    def __init__(self, directory: str) -> None:
        """Open a directory that `evaluate` saved, or any with a head that transformers knows."""
        self.saved = _describe(directory)
        task, base = self.saved.task, self.saved.checkpoint
        self.tokenizer = open_tokenizer(directory, task.kind)
        longest = min(task.max_length, max_tokens(base or directory, self.tokenizer))
        self.task = task.model_copy(update={"max_length": longest})
        model = open_model(base or directory, task, self.saved.labels, is_trained=base is None)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        whole: nn.Module = model if base is None else with_adapter(model, directory)
        self._model = whole.to(self.device)

    def predict(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Return an answer for each example."""
        encoded = encode(self.task, self.saved.labels, examples, self.tokenizer)
        fit = fit_of(encoded, len(examples), self.task.max_length)
        for line in tell_fits(self.task, {"given": fit}):
            logger.warning("%s", line)
        pad_id = self.tokenizer.pad_token_id
        outputs = logits_of(self._model, self.task, encoded.features, pad_id, self.device)
        labels, threshold = self.saved.labels, self.saved.threshold or 0.0
        predictions = decode(self.task, labels, examples, encoded, outputs)
        return [
            as_json(self.task, labels, example, prediction, threshold)
            for example, prediction in zip(examples, predictions, strict=True)
        ]


def predict_files(
    directory: str, files: Sequence[str], layout: str | None, at_once: int
) -> Iterator[str]:
    """Give a line of JSON for each example of files, or of standard input where there are none."""
    if at_once < 1:
        raise ValueError(f"--max-examples is {at_once}, expected 1 or more")
    predictor = Predictor(directory)
    sources: list[tuple[str, str, BinaryIO]] = [
        (name, _layout(name, layout), io.BytesIO(read_file(name))) for name in files
    ]
    if not files:
        stream, found = _guess(sys.stdin.buffer, layout)
        sources = [("standard input", found, stream)]
    for name, found, stream in sources:
        seen = 0
        for split in _splits(predictor.task, name, found, (stream, at_once)):
            seen += len(split.examples) + split.drops.total()
            for reason, count in split.drops.items():
                logger.warning("%s: %d dropped: %s", name, count, reason)
            for place in split.dropped:
                logger.warning("  %s", place)
            for start in range(0, len(split.examples), at_once):
                some = split.examples[start : start + at_once]
                yield from (orjson.dumps(line).decode() for line in predictor.predict(some))
        if seen == 0:
            what = " below the header" if found in ("tsv", "csv") else ""
            logger.warning("%s holds no example%s", name, what)


def _describe(directory: str) -> Saved:
    if saved := read_saved(Path(directory)):
        return saved
    config = open_config(directory)
    names = config.architectures or ["none"]
    kind = next((kind for end, kind in _KINDS.items() if names[0].endswith(end)), None)
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise ValueError(
            f"{directory} may give a text several labels (its config.json has the problem_type "
            "multi_label_classification), and `predict` gives one: take a model of single labels"
        )
    if kind is None:
        raise ValueError(
            f"{directory} holds {names[0]}, which has no head for a task: fine-tune it with "
            "`python -m pretrain evaluate`, or give a fine-tuned model"
        )
    if kind == "classification" and config.num_labels == 1:
        kind = "regression"
    labels = [config.id2label[number] for number in sorted(config.id2label)]
    has_labels = kind in ("classification", "tagging")
    task = Task(name=names[0], kind=kind, format="jsonl", metrics=(_METRICS[kind],))
    return Saved(fingerprint="", task=task, labels=tuple(labels) if has_labels else ())


def _layout(name: str, given: str | None) -> str:
    if given is not None:
        return given
    plain = Path(name.removesuffix(".gz").removesuffix(".zst"))
    if plain.suffix not in _SUFFIXES:
        raise ValueError(f"{name}: its name does not tell its format, give --format")
    return _SUFFIXES[plain.suffix]


def _guess(stream: BinaryIO, given: str | None) -> tuple[BinaryIO, str]:
    """Tell JSON lines from plain text by the first character."""
    if given is not None:
        return stream, given
    first = stream.peek(4) if isinstance(stream, io.BufferedReader) else b""
    return stream, "jsonl" if first.removeprefix(BOM_UTF8).startswith(b"{") else "text"


def _splits(task: Task, name: str, layout: str, source: tuple[BinaryIO, int]) -> Iterator[Split]:
    """Read a source, in portions of lines where its layout is one of lines."""
    stream, at_once = source
    if layout not in ("text", "jsonl"):
        columns = task.columns if layout == task.format else {}
        given = task.model_copy(update={"format": layout, "columns": columns})
        yield read_stream(given, stream, name)
        return
    start = 0
    while lines := list(islice(stream, at_once)):
        if layout == "text":
            yield _plain(task, name, lines, start)
        else:
            columns = {role: _names(task, role) for role in _roles(task)}
            changes = {"format": "jsonl", "columns": columns, "encoding": "utf-8"}
            given = task.model_copy(update=changes)
            records = json_records(given, name, b"".join(lines), start + 1)
            yield judge_records(given, records, None, labelled=False)
        start += len(lines)


def _roles(task: Task) -> list[str]:
    """Return what lines of JSON have to have; a pair, if the task does not, they may have."""
    return [role for role in _ROLES if role != "pair" or role in task.columns]


def _names(task: Task, role: str) -> Column:
    """Return the names of a role in JSON: those of the task's columns, then the role's own."""
    column = task.columns.get(role, ())
    known = column if isinstance(column, tuple) else (column,)
    return (*[each for each in known if isinstance(each, str) and each != role], role)


def _plain(task: Task, name: str, lines: Iterable[bytes], start: int) -> Split:
    """Make examples of lines of text; empty ones are counted, those that are not UTF-8 told."""
    if task.kind not in ("classification", "regression", "tagging"):
        raise ValueError(f"{task.kind} needs more than a text a line: give JSON lines")
    examples: list[Example] = []
    drops: Counter[str] = Counter()
    odd: list[int] = []
    for number, line in enumerate(lines, start + 1):
        bare = line.removeprefix(BOM_UTF8) if number == 1 else line
        text = bare.decode(errors="replace").strip()
        if "\ufffd" in text and not _is_utf8(bare):
            odd.append(number)
        place = f"{Path(name).name}:{number}"
        if not text:
            drops["empty text"] += 1
        elif task.kind == "tagging":
            examples.append(TaggedExample(place, tuple(text.split()), None))
        else:
            examples.append(TextExample(place, text, None, None))
    if odd:
        told = "%s: %d lines are not UTF-8 and read with \ufffd, the first is line %d"
        logger.warning(told, name, len(odd), odd[0])
    return Split(tuple(examples), drops, ())


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True

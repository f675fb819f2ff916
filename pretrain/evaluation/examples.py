"""Labelled examples of five kinds, and how records become them: in = kept + dropped, with reasons.

An example that cannot be used is dropped, counted by its reason, and the first ones are shown with
their places; a file of which nothing can be used is refused.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pretrain.evaluation.conll import DOCUMENT_BOUNDARY, conll_records
from pretrain.evaluation.hub import hub_records
from pretrain.evaluation.race import race_records
from pretrain.evaluation.records import Record, files_of, read_file, read_open
from pretrain.evaluation.squad import squad_records
from pretrain.evaluation.tables import json_records, labelled_lines, table_records
from pretrain.evaluation.tags import OUTSIDE, iob2_of, is_span_tag
from pretrain.evaluation.tasks import Task

# Drops that are shown with their place; the rest is in the counts.
SHOWN_DROPS = 10
UNSEEN_LABEL = "label not among those of training"
NO_LABEL = "no label"
MISPLACED_ANSWER = "answer not at its place in the context"


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text or a pair of texts, with a class or a number."""

    id: str
    text: str
    pair: str | None
    label: str | float | None


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """Words with a tag each; where tags mark spans they are IOB2, whatever the file has."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question on a context; answers are (text, offset in characters)."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    impossible: bool


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """A question on a context with options; the label is the number of the right one, from 0."""

    id: str
    context: str
    question: str
    options: tuple[str, ...]
    label: int | None


Example = TextExample | TaggedExample | QuestionExample | ChoiceExample


@dataclass(frozen=True)
class Split:
    """What was read: the examples kept, drops by reason, and the first drops with their places."""

    examples: tuple[Example, ...]
    drops: Counter[str]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class TaskData:
    """All splits of a task and its labels; a held-out validation has the drops of its labels."""

    train: Split
    validation: Split
    scored: Mapping[str, Split]
    labels: tuple[str, ...]


class Unusable(Exception):
    """An example cannot be used; the message is the reason that is counted."""


def read_split(
    task: Task,
    paths: Sequence[str],
    labels: Sequence[str] | None = None,
    labelled: bool = True,
) -> Split:
    """Read files of a task; examples of other than its labels, or those given, are dropped.

    Where `labelled` is false, examples need no label and have none (prediction).
    """
    parts = []
    for path in paths:
        for name in [path] if task.format == "datasets" else files_of(path):
            if task.format == "datasets":
                records = hub_records(task, name)
            else:
                records = _records(task, name, read_file(name), labelled)
            part = judge_records(task, records, labels, labelled)
            if not part.examples:
                counts = ", ".join(f"{count:,} {why}" for why, count in part.drops.items())
                why = f"{part.dropped[0]}; dropped: {counts}" if part.dropped else "it holds none"
                raise ValueError(f"{name} has no usable example of {task.name}: {why}")
            parts.append(part)
    return Split(
        tuple(example for part in parts for example in part.examples),
        sum((part.drops for part in parts), Counter()),
        tuple(drop for part in parts for drop in part.dropped)[:SHOWN_DROPS],
    )


def read_stream(
    task: Task,
    stream: BinaryIO,
    name: str,
    labels: Sequence[str] | None = None,
    labelled: bool = False,
) -> Split:
    """Read one open file (standard input) as `read_split` reads named ones; it may be empty."""
    records = _records(task, name, read_open(name, stream), labelled)
    return judge_records(task, records, labels, labelled)


def read_task(task: Task) -> TaskData:
    """Read all splits; validation is held out of train by a hash of the text where it has none."""
    if not task.train:
        raise ValueError(f"task {task.name} names no train files")
    train = read_split(task, task.train)
    if task.validation:
        labels = labels_of(task, train.examples)
        validation = read_split(task, task.validation, labels)
    else:
        train, rest = _hold_out(task, train)
        labels = labels_of(task, train.examples)
        validation = _keep_labels(rest, labels)
    scored = {name: read_split(task, files, labels) for name, files in task.scored.items()}
    return TaskData(train, validation, scored, labels)


def labels_of(task: Task, examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels as given, or those of the examples, sorted; spans: O, B-x, I-x, ...

    Regression and answering have none, choice has the numbers of its options.
    """
    if task.labels is not None:
        return task.labels
    if task.kind in ("regression", "answering"):
        return ()
    if task.kind == "choice":
        return tuple(map(str, range(task.options)))
    found = {label for example in examples for label in _labels(example)}
    if task.kind == "tagging" and task.spans:
        types = sorted({tag[2:] for tag in found} - {""})
        return (OUTSIDE, *(f"{prefix}-{each}" for each in types for prefix in "BI"))
    if len(found) < 2:
        raise ValueError(f"train of {task.name} has the labels {sorted(found)}, expected two")
    numbers = all(label.isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label) if numbers else 0, label)))


def _records(task: Task, name: str, data: bytes, labelled: bool) -> Iterator[Record]:
    if task.format in ("tsv", "csv"):
        return table_records(task, name, data, labelled)
    if task.format == "jsonl":
        return json_records(task, name, data)
    if task.format == "lines":
        return labelled_lines(task, name, data, labelled)
    if task.format == "conll":
        return conll_records(task, name, data, labelled)
    if task.format == "squad":
        return squad_records(name, data)
    if task.format == "race":
        return race_records(name, data)
    raise ValueError(f"{name}: data of `datasets` is read by its name, not from a file")


def judge_records(
    task: Task, records: Iterable[Record], labels: Sequence[str] | None, labelled: bool
) -> Split:
    """Make examples of records; what is none is dropped, with its reason and place."""
    examples: list[Example] = []
    drops: Counter[str] = Counter()
    dropped: list[str] = []
    known = frozenset(labels or task.labels or ())
    for record in records:
        try:
            if record.fault:
                raise Unusable(record.fault)
            example = example_of(task, record.place, record.roles, labelled)
            if known and not known.issuperset(_labels(example)):
                raise Unusable(UNSEEN_LABEL)
        except Unusable as reason:
            drops[str(reason)] += 1
            if len(dropped) < SHOWN_DROPS and str(reason) != DOCUMENT_BOUNDARY:
                dropped.append(record.tell(str(reason)))
        else:
            examples.append(example)
    return Split(tuple(examples), drops, tuple(dropped))


def _labels(example: Example) -> tuple[str, ...]:
    """Return the classes of an example; numbers and answers are none."""
    if isinstance(example, TaggedExample):
        return example.tags or ()
    if isinstance(example, TextExample) and isinstance(example.label, str):
        return (example.label,)
    return ()


def _hold_out(task: Task, split: Split) -> tuple[Split, Split]:
    """Part examples by a hash of their text: equal texts (contexts) stay on one side."""
    train: list[Example] = []
    rest: list[Example] = []
    for example in split.examples:
        digest = hashlib.blake2b(_text_of(example).encode(), digest_size=8).digest()
        held = int.from_bytes(digest, "big") < task.held_out * 2**64
        (rest if held else train).append(example)
    if not train or not rest:
        raise ValueError(
            f"held_out {task.held_out:g} parts the {len(split.examples)} examples of {task.name} "
            f"into {len(train)} and {len(rest)}: give validation files, or another share"
        )
    return Split(tuple(train), split.drops, split.dropped), Split(tuple(rest), Counter(), ())


def _text_of(example: Example) -> str:
    if isinstance(example, TaggedExample):
        return " ".join(example.words)
    if isinstance(example, TextExample):
        return f"{example.text}\t{example.pair or ''}"
    return example.context


def _keep_labels(split: Split, labels: tuple[str, ...]) -> Split:
    known = frozenset(labels)
    kept = [each for each in split.examples if known.issuperset(_labels(each))]
    lost = [each for each in split.examples if not known.issuperset(_labels(each))]
    shown = tuple(f"{each.id}: {UNSEEN_LABEL}" for each in lost[:SHOWN_DROPS])
    return Split(tuple(kept), Counter({UNSEEN_LABEL: len(lost)} if lost else {}), shown)


def example_of(task: Task, name: str, values: dict[str, Any], labelled: bool) -> Example:
    """Make an example of the values of its roles; raises `Unusable` with the reason.

    `name` is its id where it has none of its own. Without `labelled`, whatever stands for a label
    is left alone.
    """
    name = name.rpartition("/")[2] if values.get("id") is None else str(values["id"])
    if task.kind == "tagging":
        return _tagged(task, name, values, labelled)
    if task.kind == "answering":
        return _question(task, name, values, labelled)
    if task.kind == "choice":
        return _choice(task, name, values, labelled)
    return _text(task, name, values, labelled)


def _text(task: Task, name: str, values: dict[str, Any], labelled: bool) -> TextExample:
    text = _string("text", values.get("text"))
    pair = _string("pair", values["pair"]) if "pair" in values else None
    label: str | float | None = None
    if labelled:
        found = values.get("label")
        if found is None or found == "":
            raise Unusable(NO_LABEL)
        label = _number(found) if task.kind == "regression" else _class(task, found)
    return TextExample(name, text, pair, label)


def _string(role: str, value: Any) -> str:  # noqa: ANN401 - any value of a file
    """Return a text; a list of texts (keywords) is joined by commas."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        raise Unusable(f"{role} is no text")
    if not value.strip():
        raise Unusable(f"empty {role}")
    return value


def _class(task: Task, found: Any) -> str:  # noqa: ANN401 - any value of a file
    if isinstance(found, list | dict):
        raise Unusable("label is no single value")
    label = str(found).strip()
    if task.label_until is not None:
        label = label.partition(task.label_until)[0]
    if not label:
        raise Unusable(NO_LABEL)
    return label


def _number(found: Any) -> float:  # noqa: ANN401 - any value of a file
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise Unusable("label is no number") from None
    if not math.isfinite(value):
        raise Unusable("label is no number")
    return value


def _tagged(task: Task, name: str, values: dict[str, Any], labelled: bool) -> TaggedExample:
    words = values.get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unusable("words is no list of texts")
    if not words:
        raise Unusable("empty text")
    if not all(words):
        raise Unusable("empty word")
    if not labelled:
        return TaggedExample(name, tuple(words), None)
    tags = values.get("tags")
    if tags is None:
        raise Unusable(NO_LABEL)
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise Unusable("tags is no list of tags")
    if len(tags) != len(words):
        raise Unusable("words and tags differ in number")
    if task.spans and not all(map(is_span_tag, tags)):
        raise Unusable("tag is neither O nor a prefix with a type")
    return TaggedExample(name, tuple(words), iob2_of(tags) if task.spans else tuple(tags))


def _question(task: Task, name: str, values: dict[str, Any], labelled: bool) -> QuestionExample:
    question = _string("question", values.get("question"))
    context = _string("context", values.get("context"))
    if not labelled:
        return QuestionExample(name, question, context, (), False)
    impossible = values.get("impossible") is True
    answers = () if impossible else _answers(values.get("answers"))
    if not answers and not task.no_answer:
        raise Unusable("no answer")
    if not answers and "answers" not in values:
        raise Unusable(NO_LABEL)
    for text, start in answers:
        if start < 0 or not context.startswith(text, start):
            raise Unusable(MISPLACED_ANSWER)
        if not text.strip():
            raise Unusable("empty answer")
    return QuestionExample(name, question, context, answers, not answers)


def _answers(found: Any) -> tuple[tuple[str, int], ...]:  # noqa: ANN401 - any value of a file
    """Return answers from SQuAD's list of objects, or the object of two lists `datasets` has."""
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list):
            raise Unusable("answers is no list of answers")
        if len(texts) != len(starts):
            raise Unusable("answers is no list of answers")
        found = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Unusable("answers is no list of answers")
    pairs = tuple((each.get("text"), each.get("answer_start")) for each in found)
    for text, start in pairs:
        if not isinstance(text, str) or not isinstance(start, int):
            raise Unusable(MISPLACED_ANSWER)
    return pairs


def _choice(task: Task, name: str, values: dict[str, Any], labelled: bool) -> ChoiceExample:
    context = _string("context", values.get("context"))
    question, options = values.get("question"), values.get("options")
    if not isinstance(question, str):
        raise Unusable("question is no text")
    if not isinstance(options, list) or not all(isinstance(each, str) for each in options):
        raise Unusable("options is no list of texts")
    if len(options) != task.options and (labelled or len(options) < 2):
        raise Unusable(f"other than {task.options} options")
    label = _option(values.get("label"), len(options)) if labelled else None
    return ChoiceExample(name, context, question, tuple(options), label)


def _option(found: Any, options: int) -> int:  # noqa: ANN401 - any value of a file
    """Return the number of an option from its letter, A for 0, or from its number."""
    if found is None or found == "":
        raise Unusable(NO_LABEL)
    letters = [chr(ord("A") + n) for n in range(options)]
    if isinstance(found, str) and found.strip().upper() in letters:
        return letters.index(found.strip().upper())
    if str(found).strip() in map(str, range(options)):
        return int(found)
    raise Unusable("label is none of the options")

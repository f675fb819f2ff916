"""Labelled examples of five kinds, and how files become them: in = kept + dropped, with reasons."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pretrain.evaluation.tasks import Task


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
    """All splits of a task and its labels; drops of a held-out validation are counted in train."""

    train: Split
    validation: Split
    test: Split | None
    labels: tuple[str, ...]


def read_split(
    task: Task,
    paths: Sequence[str],
    labels: Sequence[str] | None = None,
    labelled: bool = True,
) -> Split:
    """Read files of a task; with `labels`, examples of others are dropped and counted.

    Where `labelled` is false, examples need no label (prediction).
    """
    raise NotImplementedError


def read_stream(
    task: Task,
    stream: BinaryIO,
    name: str,
    labels: Sequence[str] | None = None,
    labelled: bool = False,
) -> Split:
    """Read one open file (standard input) as `read_split` reads named ones."""
    raise NotImplementedError


def read_task(task: Task) -> TaskData:
    """Read all splits; validation is held out of train by a hash of the text where it has none."""
    raise NotImplementedError


def labels_of(task: Task, examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels as given, or those of the examples, sorted; spans: O, B-x, I-x, ...

    Regression and answering have none, choice has the numbers of its options.
    """
    raise NotImplementedError

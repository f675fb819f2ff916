"""The logits of a head as what a user asked for: a label, a number, tags, an answer, an option."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluation.examples import Example
from pretrain.evaluation.features import Encoded
from pretrain.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """A class, and the probability of each in the order of the labels."""

    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ValuePrediction:
    """A number."""

    value: float


@dataclass(frozen=True, slots=True)
class TagsPrediction:
    """A tag for every word, with its probability (0 for a word without a token)."""

    tags: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AnswerPrediction:
    """The best answer and where it starts, what else came near, and how the empty answer compares.

    `margin` is the score of no answer less that of the best one: above the threshold of the task,
    the answer is none. `candidates` are (text, start, probability), best first.
    """

    text: str
    start: int
    margin: float
    candidates: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class ChoicePrediction:
    """The number of the option chosen, from 0, and the probability of each."""

    option: int
    probabilities: tuple[float, ...]


Prediction = (
    LabelPrediction | ValuePrediction | TagsPrediction | AnswerPrediction | ChoicePrediction
)


def decode(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Sequence[NDArray[np.float32]],
) -> list[Prediction]:
    """Make one prediction an example from the logits of each feature.

    Shapes of the logits, padding allowed at the end of tokens: classification (labels), regression
    (1), tagging (tokens, labels), answering (2, tokens) for start and end, choice (options).
    """
    raise NotImplementedError


def as_json(task: Task, example: Example, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as one line of output, with the id of its example."""
    raise NotImplementedError

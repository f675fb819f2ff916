"""The logits of a head as what a user asked for: a label, a number, tags, an answer, an option."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluation.answers import best_of, blank_score, candidates_of
from pretrain.evaluation.examples import Example, QuestionExample, TaggedExample
from pretrain.evaluation.features import Encoded, Feature
from pretrain.evaluation.tags import OUTSIDE, is_span_tag, spans_of
from pretrain.evaluation.tasks import Task

Logits = NDArray[np.float32]


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
    outputs: Sequence[Logits],
) -> list[Prediction]:
    """Make one prediction an example from the logits of each feature.

    Shapes of the logits, padding allowed at the end of tokens: classification (labels), regression
    (1), tagging (tokens, labels), answering (2, tokens) for start and end, choice (options).
    """
    pieces: list[list[tuple[Feature, Logits]]] = [[] for _ in examples]
    for feature, logits in zip(encoded.features, outputs, strict=True):
        if not np.isfinite(logits).all():
            raise ValueError(
                f"the model's output for {examples[feature.example].id} is not finite: its "
                "training diverged, take a lower learning rate"
            )
        pieces[feature.example].append((feature, logits))
    return [
        _decode_one(task, labels, example, mine)
        for example, mine in zip(examples, pieces, strict=True)
    ]


def _decode_one(
    task: Task, labels: Sequence[str], example: Example, pieces: list[tuple[Feature, Logits]]
) -> Prediction:
    if isinstance(example, TaggedExample):
        return _tags(labels, len(example.words), pieces)
    if isinstance(example, QuestionExample):
        return _answer(task, example, pieces)
    ((_, logits),) = pieces
    if task.kind == "regression":
        return ValuePrediction(float(logits.reshape(-1)[0]))
    shares = probabilities(logits)
    best = int(np.argmax(logits))
    if task.kind == "choice":
        return ChoicePrediction(best, shares)
    return LabelPrediction(labels[best], shares)


def probabilities(logits: Logits) -> tuple[float, ...]:
    """Return the softmax of logits along their last axis of one dimension, in float64."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return tuple((powers / powers.sum()).tolist())


def _tags(
    labels: Sequence[str], words: int, pieces: list[tuple[Feature, Logits]]
) -> TagsPrediction:
    """Take each word's tag where it is decided; a word without a token is outside of all spans."""
    tags = [OUTSIDE if OUTSIDE in labels else labels[0]] * words
    shares = [0.0] * words
    for feature, logits in pieces:
        for at, place in enumerate(feature.places):
            if place is not None and place[1]:
                best = int(np.argmax(logits[at]))
                tags[place[0]] = labels[best]
                shares[place[0]] = probabilities(logits[at])[best]
    return TagsPrediction(tuple(tags), tuple(shares))


def _answer(
    task: Task, example: QuestionExample, pieces: list[tuple[Feature, Logits]]
) -> AnswerPrediction:
    blank = min(blank_score(*piece) for piece in pieces)
    best = best_of(
        [each for piece in pieces for each in candidates_of(*piece, task.max_answer_tokens)]
    )
    if not best:
        return AnswerPrediction("", 0, 0.0, ())
    scores = [each.score for each in best] + [blank] * task.no_answer
    powers = [math.exp(score - max(scores)) for score in scores]
    found = []
    for each, power in zip(best, powers, strict=False):
        text = example.context[each.start : each.stop]
        start = each.start + len(text) - len(text.lstrip())
        found.append((text.strip(), start, power / sum(powers)))
    return AnswerPrediction(found[0][0], found[0][1], blank - best[0].score, tuple(found))


def as_json(
    task: Task,
    labels: Sequence[str],
    example: Example,
    prediction: Prediction,
    threshold: float = 0.0,
) -> dict[str, Any]:
    """Return a prediction as one line of output, with the id of its example.

    With `no_answer`, an answer whose margin is above the threshold is null. Spans are of words
    [start, stop).
    """
    line: dict[str, Any] = {"id": example.id}
    if isinstance(prediction, LabelPrediction):
        shares = dict(zip(labels, prediction.probabilities, strict=True))
        return line | {"label": prediction.label, "probabilities": shares}
    if isinstance(prediction, ValuePrediction):
        return line | {"value": prediction.value}
    if isinstance(prediction, ChoicePrediction):
        return line | {"option": prediction.option, "probabilities": prediction.probabilities}
    if isinstance(prediction, TagsPrediction):
        assert isinstance(example, TaggedExample)
        return line | _tagged_line(task, example, prediction)
    empty = task.no_answer and prediction.margin > threshold
    answer = None if empty or not prediction.candidates else prediction.text
    others = [
        {"text": text, "start": start, "probability": share}
        for text, start, share in prediction.candidates
    ]
    start = None if answer is None else prediction.start
    return line | {"answer": answer, "start": start, "candidates": others}


def _tagged_line(task: Task, example: TaggedExample, found: TagsPrediction) -> dict[str, Any]:
    line = {
        "words": example.words,
        "tags": found.tags,
        "probabilities": found.probabilities,
    }
    # A model from elsewhere may have tags of another kind.
    if not task.spans or not all(map(is_span_tag, found.tags)):
        return line
    spans = [
        {"type": kind, "start": start, "stop": stop, "text": " ".join(example.words[start:stop])}
        for kind, start, stop in spans_of(found.tags)
    ]
    return line | {"spans": spans}

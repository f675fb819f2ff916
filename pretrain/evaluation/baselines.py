"""What a score has to beat: the most frequent answer, and linear models on TF-IDF or on words.

- majority: the most frequent label, the mean number, the most frequent option, "no answer".
- tfidf: word 1-2-grams and character 1-4-grams, sublinear TF-IDF, logistic regression (ridge for
  numbers); of a pair both texts and the products of their weights, which is what they share. For
  words to tag: logistic regression by gradient descent on the word, its neighbours, shape and
  affixes. For options: the one whose question and text are nearest the context, nothing learned.

Its strength of regularization is chosen on the validation examples, as the grid of fine-tuning is.
Where a baseline makes no sense (spans in a text) there is none, and the report says so.
"""

import hashlib
import importlib.metadata
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ConfigDict, Field

from corpus.files import read_bytes, write_bytes
from corpus.section import Section
from pretrain.evaluation.examples import (
    ChoiceExample,
    Example,
    TaggedExample,
    TaskData,
    TextExample,
)
from pretrain.evaluation.linear import linear_predictors
from pretrain.evaluation.predictions import (
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    Prediction,
    TagsPrediction,
    ValuePrediction,
)
from pretrain.evaluation.prepared import read, task_identity
from pretrain.evaluation.scores import details, score
from pretrain.evaluation.tasks import Task, score_name

logger = logging.getLogger(__name__)

VERSION = 1


class Baseline(Section):
    """The scores of a baseline on one task, or why it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    name: str
    task: str
    validation: dict[str, float] | None = None
    test: dict[str, float] | None = None
    details: dict[str, Any] = Field({})
    reason: str | None = None


def run_baseline(name: str, task: Task, out: str) -> Baseline:
    """Score a baseline on a task, or return what was found before."""
    determining = {
        "name": name,
        "version": VERSION,
        "task": task_identity(task),
        "library": importlib.metadata.version("scikit-learn"),
    }
    digest = hashlib.sha256(orjson.dumps(determining, option=orjson.OPT_SORT_KEYS)).hexdigest()
    path = Path(out) / f"{name}-{digest[:32]}.json"
    if path.exists():
        known = Baseline.model_validate_json(read_bytes(str(path)))
        return known.model_copy(update={"task": task.name})  # the same data may have two names
    found = _score(name, task, read(task))
    write_bytes(str(path), found.model_dump_json().encode())
    return found


def _score(name: str, task: Task, data: TaskData) -> Baseline:
    predictors = _majority(task, data) if name == "majority" else linear_predictors(task, data)
    best: Baseline | None = None
    for predictor in predictors:
        examples = data.validation.examples
        predictions = predictor(examples)
        scores = score(task, data.labels, examples, predictions)
        metric = task.metrics[0]
        if best is not None and best.validation and scores[metric] <= best.validation[metric]:
            continue
        test: dict[str, float] = {}
        for split, held in data.scored.items():
            found = score(task, data.labels, held.examples, predictor(held.examples))
            test |= {score_name(split, each): value for each, value in found.items()}
        best = Baseline(
            name=name,
            task=task.name,
            validation=scores,
            test=test or None,
            details=details(task, data.labels, examples, predictions),
        )
    if best is None:
        reason = f"{name} has no counterpart for {task.kind}"
        return Baseline(name=name, task=task.name, reason=reason)
    told = [f"{metric} {(best.validation or {})[metric]:.4f}" for metric in task.metrics]
    logger.info("%s on %s: %s", name, task.name, ", ".join(told))
    return best


def _majority(task: Task, data: TaskData) -> Iterator[Callable[..., list[Prediction]]]:
    """Give what answers always the same; spans in texts have no most frequent one."""
    if task.kind == "answering" and not task.no_answer:
        return
    constant = _constant(task, data)

    def predict(examples: Sequence[Example]) -> list[Prediction]:
        return [constant(example) for example in examples]

    yield predict


def _constant(task: Task, data: TaskData) -> Callable[[Example], Prediction]:
    train = data.train.examples
    if task.kind == "answering":
        return lambda _: AnswerPrediction("", 0, 1.0, ())
    if task.kind == "regression":
        values = [
            float(e.label) for e in train if isinstance(e, TextExample) and e.label is not None
        ]
        mean = ValuePrediction(sum(values) / len(values))
        return lambda _: mean
    if task.kind == "choice":
        options = Counter(e.label for e in train if isinstance(e, ChoiceExample))
        shares = tuple(options[n] / len(train) for n in range(task.options))
        chosen = ChoicePrediction(shares.index(max(shares)), shares)
        return lambda _: chosen
    if task.kind == "tagging":
        tags = Counter(tag for e in train if isinstance(e, TaggedExample) for tag in e.tags or ())
        tag, share = _most_frequent(tags)

        def repeat(example: Example) -> Prediction:
            assert isinstance(example, TaggedExample)
            count = len(example.words)
            return TagsPrediction((tag,) * count, (share,) * count)

        return repeat
    labels = Counter(str(e.label) for e in train if isinstance(e, TextExample))
    probabilities = tuple(labels[label] / len(train) for label in data.labels)
    label = LabelPrediction(_most_frequent(labels)[0], probabilities)
    return lambda _: label


def _most_frequent(counts: Counter[str]) -> tuple[str, float]:
    """Return the most frequent, of equals the first by name, and its share."""
    name = min(counts, key=lambda each: (-counts[each], each))
    return name, counts[name] / counts.total()

"""How good predictions are, by the definitions of the libraries the field reports with.

Classes as scikit-learn counts them, spans as seqeval's default does (micro average over exact
spans), answers as SQuAD's official evaluation does, correlations as scipy does. All are computed
here from counts or exact sums, so that every machine gives the same digits; the tests compare with
those libraries. A correlation or Matthews coefficient that is undefined, because one side is
constant, is 0.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluation.answers import best_threshold, exact_match, normalize, overlap_f1
from pretrain.evaluation.examples import (
    ChoiceExample,
    Example,
    QuestionExample,
    TaggedExample,
    TextExample,
)
from pretrain.evaluation.predictions import (
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    Prediction,
    TagsPrediction,
    ValuePrediction,
)
from pretrain.evaluation.tags import spans_of
from pretrain.evaluation.tasks import Task

Pairs = list[tuple[str, str]]


def score(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    threshold: float | None = None,
) -> dict[str, float]:
    """Return every metric of the task as a share of 1 (correlations: from -1 to 1).

    With `no_answer`, `f1` and `exact_match` are at the threshold (0 where absent); `best_f1` and
    `best_exact_match` are at the best one for these very examples, and `best_f1_threshold`,
    `best_exact_match_threshold` say which: take them on validation, give them for test.
    """
    if not examples:
        raise ValueError(f"task {task.name}: there are no examples to score")
    if task.kind == "answering":
        return _answers(task, examples, predictions, 0.0 if threshold is None else threshold)
    if task.kind == "regression":
        true, found = _values(examples, predictions)
        measures = {"pearson": pearson, "spearman": spearman}
        return {metric: measures[metric](true, found) for metric in task.metrics}
    pairs = _pairs(task, examples, predictions)
    found_by: dict[str, Callable[[], float]] = {
        "accuracy": lambda: sum(a == b for a, b in pairs) / len(pairs),
        "f1": lambda: _class_f1(pairs, _positive(task, labels)),
        "macro_f1": lambda: macro_f1(pairs),
        "matthews": lambda: matthews(confusion(pairs, labels)),
        "span_f1": lambda: _f1(*_span_counts(examples, predictions).get(None, (0, 0, 0))),
    }
    return {metric: found_by[metric]() for metric in task.metrics}


def details(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
) -> dict[str, Any]:
    """Return `confusion` (rows: true, columns: predicted, in the order of `labels`) and `classes`.

    A class is {"label", "precision", "recall", "f1", "support"}; for spans they are types of spans
    and there is no confusion matrix; regression, answering and choice have neither.
    """
    if task.kind == "tagging" and task.spans:
        counts = _span_counts(examples, predictions)
        types = sorted(each for each in counts if each is not None)
        return {"classes": [_class_row(each, counts[each]) for each in types]}
    if task.kind not in ("classification", "tagging"):
        return {}
    pairs = _pairs(task, examples, predictions)
    return {
        "confusion": confusion(pairs, labels).tolist(),
        "classes": [_class_row(label, _class_counts(pairs, label)) for label in labels],
    }


def _pairs(task: Task, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Pairs:
    """Return (true, predicted) of every example, or of every word."""
    pairs: Pairs = []
    for example, found in zip(examples, predictions, strict=True):
        if isinstance(example, TaggedExample) and isinstance(found, TagsPrediction):
            pairs += zip(_known(task, example, example.tags), found.tags, strict=True)
        elif isinstance(example, ChoiceExample) and isinstance(found, ChoicePrediction):
            pairs.append((str(_known(task, example, example.label)), str(found.option)))
        elif isinstance(example, TextExample) and isinstance(found, LabelPrediction):
            pairs.append((str(_known(task, example, example.label)), found.label))
        else:
            raise TypeError(f"{type(found).__name__} answers no {type(example).__name__}")
    return pairs


def _known(task: Task, example: Example, label: Any) -> Any:  # noqa: ANN401 - of any kind
    if label is None:
        raise ValueError(f"task {task.name}: {example.id} has no label to score against")
    return label


def _values(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> tuple[list[float], list[float]]:
    true, found = [], []
    for example, prediction in zip(examples, predictions, strict=True):
        assert isinstance(example, TextExample)
        assert isinstance(prediction, ValuePrediction)
        if example.label is None:
            raise ValueError(f"{example.id} has no label to score against")
        true.append(float(example.label))
        found.append(prediction.value)
    return true, found


def confusion(pairs: Pairs, labels: Sequence[str]) -> NDArray[np.int64]:
    """Count how often each label (row) was predicted as each (column)."""
    places = {label: n for n, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), np.int64)
    for (true, found), count in Counter(pairs).items():
        table[places[true], places[found]] += count
    return table


def _class_counts(pairs: Pairs, label: str) -> tuple[int, int, int]:
    """Return how often a label was right, predicted, and true."""
    right = sum(true == found == label for true, found in pairs)
    return right, sum(found == label for _, found in pairs), sum(t == label for t, _ in pairs)


def _f1(right: int, predicted: int, true: int) -> float:
    """Return 2pr / (p + r); 0 where it is undefined."""
    return 2 * right / (predicted + true) if predicted + true else 0.0


def _class_row(label: str, counts: tuple[int, int, int]) -> dict[str, Any]:
    right, predicted, true = counts
    return {
        "label": label,
        "precision": right / predicted if predicted else 0.0,
        "recall": right / true if true else 0.0,
        "f1": _f1(*counts),
        "support": true,
    }


def _positive(task: Task, labels: Sequence[str]) -> str:
    if len(labels) != 2:
        raise ValueError(
            f"task {task.name} has {len(labels)} labels: f1 is of the second of two, take macro_f1"
        )
    return labels[1]


def _class_f1(pairs: Pairs, label: str) -> float:
    return _f1(*_class_counts(pairs, label))


def macro_f1(pairs: Pairs) -> float:
    """Return the mean F1 of the labels that are true or predicted anywhere."""
    found = sorted({label for pair in pairs for label in pair})
    return math.fsum(_class_f1(pairs, label) for label in found) / len(found)


def matthews(table: NDArray[np.int64]) -> float:
    """Return Gorodkin's correlation of k classes (2004), Matthews' for two."""
    rows = [int(each) for each in table.sum(1)]
    columns = [int(each) for each in table.sum(0)]
    total = sum(rows)
    covariance = int(np.trace(table)) * total - sum(map(int.__mul__, rows, columns))
    spread = (total**2 - sum(n * n for n in rows)) * (total**2 - sum(n * n for n in columns))
    return covariance / math.sqrt(spread) if spread else 0.0


def _span_counts(
    examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str | None, tuple[int, int, int]]:
    """Return right, predicted and true spans of each type, and of all under None."""
    right: Counter[str | None] = Counter()
    predicted: Counter[str | None] = Counter()
    true: Counter[str | None] = Counter()
    for example, prediction in zip(examples, predictions, strict=True):
        assert isinstance(example, TaggedExample)
        assert isinstance(prediction, TagsPrediction)
        there, found = set(spans_of(example.tags or ())), set(spans_of(prediction.tags))
        for counts, spans in ((right, there & found), (predicted, found), (true, there)):
            counts.update(kind for span in spans for kind in (span.type, None))
    types = sorted({*predicted, *true} - {None}, key=str)
    return {each: (right[each], predicted[each], true[each]) for each in (*types, None)}


def pearson(true: Sequence[float], found: Sequence[float]) -> float:
    """Return the correlation of two lists of numbers, from exact sums."""
    n = len(true)
    xs, ys = [Fraction(x) for x in true], [Fraction(y) for y in found]
    both = n * sum(x * y for x, y in zip(xs, ys, strict=True)) - sum(xs) * sum(ys)
    spread = (n * sum(x * x for x in xs) - sum(xs) ** 2) * (
        n * sum(y * y for y in ys) - sum(ys) ** 2
    )
    return float(both) / math.sqrt(spread) if spread else 0.0


def spearman(true: Sequence[float], found: Sequence[float]) -> float:
    """Return the correlation of ranks; equal numbers share the mean of their ranks."""
    return pearson(_ranks(true), _ranks(found))


def _ranks(values: Sequence[float]) -> list[float]:
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    stops = np.cumsum(counts)
    ranks: list[float] = ((2 * stops - counts + 1) / 2)[places].tolist()
    return ranks


def _answers(
    task: Task, examples: Sequence[Example], predictions: Sequence[Prediction], threshold: float
) -> dict[str, float]:
    measures: dict[str, Callable[[str, Sequence[str]], float]] = {
        "exact_match": exact_match,
        "f1": lambda text, truths: overlap_f1(text, truths, task.no_answer),
    }
    answered: dict[str, list[float]] = {name: [] for name in measures}
    blank: dict[str, list[float]] = {name: [] for name in measures}
    margins = []
    for example, prediction in zip(examples, predictions, strict=True):
        assert isinstance(example, QuestionExample)
        assert isinstance(prediction, AnswerPrediction)
        truths = _truths(task, example)
        margins.append(prediction.margin)
        for name, measure in measures.items():
            answered[name].append(measure(prediction.text, truths))
            blank[name].append(measure("", truths))
    scores: dict[str, float] = {}
    for metric in task.metrics:
        name = metric.removeprefix("best_")
        if metric == name:
            values = [
                empty if task.no_answer and margin > threshold else full
                for margin, full, empty in zip(margins, answered[name], blank[name], strict=True)
            ]
            scores[metric] = math.fsum(values) / len(values)
        else:
            best = best_threshold(margins, answered[name], blank[name])
            scores[metric], scores[f"{metric}_threshold"] = best
    return scores


def _truths(task: Task, example: QuestionExample) -> list[str]:
    """Return the true answers; none of SQuAD 2.0's is without words, and none at all is empty."""
    if not example.answers and not example.impossible:
        raise ValueError(f"task {task.name}: {example.id} has no label to score against")
    texts = [text for text, _ in example.answers]
    return [text for text in texts if normalize(text)] or [""] if task.no_answer else texts

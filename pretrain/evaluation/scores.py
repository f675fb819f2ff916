"""How good predictions are, by the definitions of the libraries the field reports with."""

from collections.abc import Sequence
from typing import Any

from pretrain.evaluation.examples import Example
from pretrain.evaluation.predictions import Prediction
from pretrain.evaluation.tasks import Task


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
    raise NotImplementedError


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
    raise NotImplementedError

"""What a report says of scores: verdicts by hand, and what reading and encoding cut away."""

import math

import pytest

from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.protocol import Entry, spread
from pretrain.evaluation.recipe import RANDOM
from pretrain.evaluation.report import Report, verdicts
from pretrain.evaluation.tasks import load_task

TASK = load_task({"name": "toy", "kind": "classification", "format": "jsonl", "metrics": ["f1"]})


def entry(name: str, *values: float) -> Entry:
    return Entry(
        contestant=name,
        task="toy",
        cells=(),
        best_cell=0,
        best_run=0,
        validation={"f1": spread(values)},
        test={},
    )


def report(*entries: Entry, tfidf: float | None = None) -> Report:
    baselines = []
    if tfidf is not None:
        baselines.append(Baseline(name="tfidf", task="toy", validation={"f1": tfidf}))
    return Report(tasks=(TASK,), sizes={}, entries=entries, baselines=tuple(baselines))


@pytest.mark.parametrize(
    ("mine", "drawn", "said"),
    [
        ((0.70, 0.71, 0.72), (0.40, 0.45, 0.69), "beats random weights (+26.0 points)"),
        # One lucky seed of random weights lies above all of ours: that decides nothing.
        (
            (0.70, 0.71, 0.72),
            (0.40, 0.45, 0.73),
            "is not told apart from random weights (+26.0 points, within the spread)",
        ),
        (
            (0.10, 0.45, 0.73),
            (0.70, 0.71, 0.72),
            "is not told apart from random weights (-26.0 points, within the spread)",
        ),
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "is below random weights (-30.0 points)"),
        # Seeds that touch are not apart, on either side.
        (
            (0.3, 0.4),
            (0.1, 0.3),
            "is not told apart from random weights (+15.0 points, within the spread)",
        ),
        ((0.5,), (0.4,), "beats random weights (+10.0 points, one seed)"),
    ],
)
def test_only_seeds_that_lie_apart_decide(
    mine: tuple[float, ...], drawn: tuple[float, ...], said: str
) -> None:
    assert verdicts(report(entry("ours", *mine), entry(RANDOM, *drawn))) == [f"toy: ours {said}"]


def test_a_baseline_is_one_number() -> None:
    for value, said in (
        (0.69, "beats tfidf (+2.0 points)"),
        (0.705, "is not told apart from tfidf (+0.5 points, within the spread)"),
        (0.75, "is below tfidf (-4.0 points)"),
    ):
        assert verdicts(report(entry("ours", 0.70, 0.71, 0.72), tfidf=value)) == [
            f"toy: ours {said}"
        ]


def test_what_diverged_has_no_verdict() -> None:
    nothing = entry("ours", math.nan).model_copy(update={"validation": {}})
    assert verdicts(report(nothing, tfidf=0.5)) == []

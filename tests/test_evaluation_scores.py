"""Metrics against the libraries and definitions the field reports with, on random predictions."""

import collections
import random
import re
import string
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
from evaluation_helpers import task_of
from hypothesis import given, settings
from hypothesis import strategies as st

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
from pretrain.evaluation.scores import details, pearson, score, spearman
from pretrain.evaluation.tags import Span, iob2_of, spans_of

CLASSES = st.integers(2, 5).flatmap(
    lambda n: st.lists(
        st.tuples(*[st.sampled_from([f"c{k}" for k in range(n)])] * 2), min_size=1, max_size=40
    )
)


def classified(pairs: Sequence[tuple[str, str]]) -> tuple[list[Example], list[Prediction]]:
    return (
        [TextExample(str(n), "x", None, true) for n, (true, _) in enumerate(pairs)],
        [LabelPrediction(found, ()) for _, found in pairs],
    )


@settings(max_examples=40)
@given(CLASSES)
def test_classes_as_scikit_learn_counts_them(pairs: list[tuple[str, str]]) -> None:
    true, found = zip(*pairs, strict=True)
    labels = sorted({*true, *found})
    task = task_of("classification", metrics=["accuracy", "macro_f1", "matthews"])
    examples, predictions = classified(pairs)
    scores = score(task, labels, examples, predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(true, found),
            "macro_f1": sklearn.metrics.f1_score(true, found, average="macro"),
            "matthews": sklearn.metrics.matthews_corrcoef(true, found),
        }
        rows = sklearn.metrics.precision_recall_fscore_support(
            true, found, labels=labels, zero_division=0
        )
        table = sklearn.metrics.confusion_matrix(true, found, labels=labels)
    assert scores == pytest.approx(expected, abs=1e-12)
    more = details(task, labels, examples, predictions)
    assert more["confusion"] == table.tolist()
    for at, name in enumerate(("precision", "recall", "f1", "support")):
        assert [row[name] for row in more["classes"]] == pytest.approx(rows[at].tolist())


@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.sampled_from(["0", "1"])] * 2), min_size=1, max_size=30))
def test_f1_is_of_the_second_class(pairs: list[tuple[str, str]]) -> None:
    true, found = zip(*pairs, strict=True)
    task = task_of("classification", metrics=["f1"])
    expected = sklearn.metrics.f1_score(true, found, pos_label="1", zero_division=0)
    assert score(task, ("0", "1"), *classified(pairs)) == pytest.approx({"f1": expected})


def test_f1_of_many_classes_is_refused() -> None:
    task = task_of("classification", metrics=["f1"])
    with pytest.raises(ValueError, match="task t has 3 labels: f1 is of the second of two, take"):
        score(task, ("a", "b", "c"), *classified([("a", "b")]))


VALUES = st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.floats(-100, 100, width=32))


@settings(max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=40))
def test_correlations_as_scipy_has_them(pairs: list[tuple[float, float]]) -> None:
    true, found = zip(*pairs, strict=True)
    task = task_of("regression")
    examples = [TextExample("x", "x", None, value) for value in true]
    scores = score(task, (), examples, [ValuePrediction(value) for value in found])
    constant = len(set(true)) == 1 or len(set(found)) == 1
    with warnings.catch_warnings():
        # Near-constant numbers lose digits there; sums here are exact.
        warnings.simplefilter("ignore")
        expected = {
            "pearson": 0.0 if constant else scipy.stats.pearsonr(true, found).statistic,
            "spearman": 0.0 if constant else scipy.stats.spearmanr(true, found).statistic,
        }
    assert scores == pytest.approx(expected, abs=1e-6)


def test_correlations_by_hand() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]) == 1.0
    assert pearson([1, 2, 3], [5, 5, 5]) == 0.0
    # Ranks 1, 2.5, 2.5 against 1, 2, 3: covariance 1.5, spreads 1.5 and 2.
    assert spearman([0, 9, 9], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def sentences(prefixes: str, types: str = "AB") -> st.SearchStrategy[list[list[str]]]:
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in types)]
    return st.lists(st.lists(st.sampled_from(tags), min_size=1, max_size=10), min_size=1)


def tagged(
    true: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> tuple[list[Example], list[Prediction]]:
    return (
        [TaggedExample("x", tuple("w" for _ in tags), tuple(tags)) for tags in true],
        [TagsPrediction(tuple(tags), ()) for tags in found],
    )


@pytest.mark.parametrize("prefixes", ["I", "BI", "BIES"], ids=["IOB1", "IOB2", "BIOES"])
@settings(max_examples=40)
@given(data=st.data())
def test_spans_as_seqeval_has_them(prefixes: str, data: st.DataObject) -> None:
    true = data.draw(sentences(prefixes))
    rng = random.Random(data.draw(st.integers(0, 999)))
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in "AB")]
    found = [[t if rng.random() < 0.7 else rng.choice(tags) for t in each] for each in true]
    task = task_of("tagging")
    examples, predictions = tagged([iob2_of(each) for each in true], [iob2_of(t) for t in found])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = seqeval.metrics.f1_score(true, found)
        report = seqeval.metrics.classification_report(true, found, output_dict=True)
    assert score(task, (), examples, predictions)["span_f1"] == pytest.approx(expected)
    # Raw tags have the same spans as those written anew.
    assert score(task, (), *tagged(true, found))["span_f1"] == pytest.approx(expected)
    for row in details(task, (), examples, predictions)["classes"]:
        theirs = report[row["label"]]
        assert row["precision"] == pytest.approx(theirs["precision"])
        assert row["recall"] == pytest.approx(theirs["recall"])
        assert row["f1"] == pytest.approx(theirs["f1-score"])
        assert row["support"] == theirs["support"]


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "E-A", "S-A", "I-B", "E-B"]), max_size=12))
def test_tags_written_anew_have_the_same_spans(tags: list[str]) -> None:
    assert spans_of(iob2_of(tags)) == spans_of(tags)
    assert iob2_of(iob2_of(tags)) == iob2_of(tags)


def test_spans_by_hand() -> None:
    assert spans_of(["I-A", "I-A", "B-A", "O", "E-B", "I-B"]) == [
        Span("A", 0, 2), Span("A", 2, 3), Span("B", 4, 5), Span("B", 5, 6),
    ]  # fmt: skip


def test_plain_tags_are_classes() -> None:
    task = task_of("tagging", spans=False, metrics=["accuracy", "macro_f1"])
    examples, predictions = tagged([["DT", "NN"]], [["DT", "DT"]])
    scores = score(task, ("DT", "NN"), examples, predictions)
    assert scores == {"accuracy": 0.5, "macro_f1": pytest.approx((2 / 3 + 0) / 2)}
    assert details(task, ("DT", "NN"), examples, predictions)["confusion"] == [[1, 0], [1, 0]]


def test_choices() -> None:
    examples = [ChoiceExample("c", "x", "?", ("a", "b"), label) for label in (0, 1, 1)]
    found = [ChoicePrediction(option, ()) for option in (0, 0, 1)]
    assert score(task_of("choice"), (), examples, found) == {"accuracy": 2 / 3}
    assert details(task_of("choice"), (), examples, found) == {}


def test_what_cannot_be_scored_is_refused() -> None:
    unknown = [TextExample("x", "x", None, None)]
    with pytest.raises(ValueError, match="task t: x has no label to score against"):
        score(task_of("classification"), ("a", "b"), unknown, [LabelPrediction("a", ())])
    with pytest.raises(ValueError, match="x has no label"):
        score(task_of("regression"), (), unknown, [ValuePrediction(1.0)])
    with pytest.raises(ValueError, match="task t: q has no label"):
        blank = [QuestionExample("q", "?", "x", (), False)]
        score(task_of("answering"), (), blank, [AnswerPrediction("x", 0, 0.0, ())])
    with pytest.raises(ValueError, match="task t: there are no examples"):
        score(task_of("classification"), ("a", "b"), [], [])
    with pytest.raises(TypeError, match="ValuePrediction answers no TextExample"):
        score(task_of("classification"), ("a", "b"), unknown, [ValuePrediction(1.0)])


# SQuAD's official evaluation, from its definition: the two papers and what its script states.


def reference_tokens(text: str) -> list[str]:
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return [word for word in re.sub(r"\b(?:a|an|the)\b", " ", kept).split() if word]


def reference_f1(answer: str, truth: str, blanks: bool) -> float:
    one, two = reference_tokens(answer), reference_tokens(truth)
    if blanks and (not one or not two):
        return 1.0 if one == two else 0.0
    left = collections.Counter(two)
    same = 0
    for word in one:
        if left[word] > 0:
            left[word] -= 1
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(one), same / len(two)
    return 2 * precision * recall / (precision + recall)


def reference_exact(answer: str, truth: str) -> float:
    return float(reference_tokens(answer) == reference_tokens(truth))


PIECES = st.lists(
    st.sampled_from(
        ["the", "A", "an", "cat", "Cat's", "--", "b.c.", "theme", "\u00e9t\u00e9", "\n", "1"]
    ),
    max_size=5,
)
ANSWERS = st.tuples(PIECES, st.sampled_from([" ", "  ", "-"])).map(lambda p: p[1].join(p[0]))


@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3), st.booleans())
def test_answers_as_squad_compares_them(answer: str, truths: list[str], blanks: bool) -> None:
    assert normalize(answer) == " ".join(reference_tokens(answer))
    expected = max(reference_f1(answer, truth, blanks) for truth in truths)
    assert overlap_f1(answer, truths, blanks) == pytest.approx(expected, abs=1e-12)
    assert exact_match(answer, truths) == max(reference_exact(answer, each) for each in truths)


def questions(fewest: int) -> st.SearchStrategy[list[tuple[str, list[str], float]]]:
    truths = st.lists(ANSWERS, min_size=fewest, max_size=2)
    return st.lists(st.tuples(ANSWERS, truths, st.floats(-5, 5)), min_size=1, max_size=8)


def asked(
    drawn: list[tuple[str, list[str], float]],
) -> tuple[list[Example], list[Prediction]]:
    examples = [
        QuestionExample("q", "?", "x", tuple((t, 0) for t in truths), not truths)
        for _, truths, _ in drawn
    ]
    return list(examples), [AnswerPrediction(text, 0, margin, ()) for text, _, margin in drawn]


@settings(max_examples=40)
@given(questions(0), st.floats(-5, 5))
def test_squad_2_with_thresholds(
    drawn: list[tuple[str, list[str], float]], threshold: float
) -> None:
    task = task_of(
        "answering", no_answer=True, metrics=["best_f1", "best_exact_match", "f1", "exact_match"]
    )

    def mean(measure: Any, limit: float) -> float:  # noqa: ANN401 - one of two functions
        total = 0.0
        for text, truths, margin in drawn:
            kept = [truth for truth in truths if reference_tokens(truth)] or [""]
            given_answer = "" if margin > limit else text
            total += max(measure(given_answer, truth) for truth in kept)
        return total / len(drawn)

    measures = {
        "f1": lambda one, two: reference_f1(one, two, True),
        "exact_match": reference_exact,
    }
    scores = score(task, (), *asked(drawn), threshold=threshold)
    limits = [min(margin for *_, margin in drawn) - 1, *(margin for *_, margin in drawn)]
    for name, measure in measures.items():
        assert scores[name] == pytest.approx(mean(measure, threshold))
        best = max(mean(measure, limit) for limit in limits)
        assert scores[f"best_{name}"] == pytest.approx(best)
        assert mean(measure, scores[f"best_{name}_threshold"]) == pytest.approx(best)


@settings(max_examples=30)
@given(questions(1))
def test_squad_1(drawn: list[tuple[str, list[str], float]]) -> None:
    scores = score(task_of("answering"), (), *asked(drawn))
    f1s = [max(reference_f1(text, truth, False) for truth in truths) for text, truths, _ in drawn]
    assert scores["f1"] == pytest.approx(np.mean(f1s))


def test_a_threshold_by_hand() -> None:
    # Margins 1, 2, 2, 3: answering the first two of the ties together is worth 1 + 0 - 1.
    assert best_threshold([3.0, 2.0, 1.0, 2.0], [0, 1, 1, 0], [1, 0, 0, 1]) == (0.75, 1.0)
    assert best_threshold([1.0, 2.0], [0, 0], [1, 1]) == (1.0, 0.0)
    assert best_threshold([1.0, 2.0], [1, 1], [0, 0]) == (1.0, 2.0)

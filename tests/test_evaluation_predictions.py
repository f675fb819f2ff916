"""Logits as predictions: each kind by hand, and what is said about them as a line of JSON."""

import json

import numpy as np
import pytest
from evaluation_helpers import task_of

from pretrain.evaluation.answers import Candidate, best_of, candidates_of
from pretrain.evaluation.examples import (
    ChoiceExample,
    QuestionExample,
    TaggedExample,
    TextExample,
)
from pretrain.evaluation.features import Encoded, Feature
from pretrain.evaluation.predictions import (
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    Logits,
    TagsPrediction,
    ValuePrediction,
    as_json,
    decode,
    probabilities,
)

TEXT = TextExample("t", "x", None, None)


def logits(*values: object) -> Logits:
    return np.array(values, np.float32)


def one(*features: Feature) -> Encoded:
    return Encoded(features, 0, 0, 0)


PLAIN = Feature(0, ((0, 5, 2),), None, ())


def test_labels_values_and_options() -> None:
    (label,) = decode(
        task_of("classification"), ("a", "b"), [TEXT], one(PLAIN), [logits(0, np.log(3))]
    )
    assert isinstance(label, LabelPrediction)
    assert label.label == "b"
    assert label.probabilities == pytest.approx((0.25, 0.75))
    (value,) = decode(task_of("regression"), (), [TEXT], one(PLAIN), [logits(2.5)])
    assert value == ValuePrediction(2.5)
    choice = ChoiceExample("c", "x", "?", ("a", "b"), None)
    (option,) = decode(task_of("choice"), (), [choice], one(PLAIN), [logits(3, 1)])
    assert isinstance(option, ChoicePrediction)
    assert option.option == 0


def test_probabilities_of_large_logits() -> None:
    assert probabilities(logits(1e30, -1e30)) == (1.0, 0.0)


def test_a_diverged_model_is_named() -> None:
    with pytest.raises(ValueError, match="the model's output for t is not finite: its training"):
        decode(task_of("classification"), ("a", "b"), [TEXT], one(PLAIN), [logits(0, np.nan)])


CONTEXT = "It was Ann Lee ."
# Tokens: blank, question, separator, then It, was, Ann, Lee, full stop, separator.
PLACES = (None, None, None, (0, 2), (2, 6), (7, 10), (10, 14), (15, 16), None)
QUESTION = QuestionExample("q", "who?", CONTEXT, (), False)
PIECE = Feature(0, (tuple(range(9)),), None, (), PLACES, 0)


def scores(blank: float = 0.0, **marks: tuple[int, float]) -> Logits:
    table = np.full((2, 9), -5, np.float32)
    table[:, 0] = blank / 2
    for name, (at, value) in marks.items():
        table[int(name.startswith("end")), at] = value
    return table


def test_an_answer_is_the_best_pair_of_start_and_end() -> None:
    # The best start (4) lies behind the best end; question and separators are no answers.
    found = scores(start1=(5, 4), end1=(6, 3), start2=(7, 5), start3=(1, 9), end2=(8, 9))
    task = task_of("answering")
    (answer,) = decode(task, (), [QUESTION], one(PIECE), [found])
    assert isinstance(answer, AnswerPrediction)
    assert (answer.text, answer.start, answer.margin) == ("Ann Lee", 7, -7.0)
    assert answer.candidates[0][:2] == ("Ann Lee", 7)
    shares = [share for _, _, share in answer.candidates]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)


def test_longer_answers_are_not_considered() -> None:
    found = scores(start1=(3, 4), end1=(6, 4), end2=(4, 1))
    for limit, text in ((4, "It was Ann Lee"), (3, "It was")):
        task = task_of("answering", max_answer_tokens=limit)
        (answer,) = decode(task, (), [QUESTION], one(PIECE), [found])
        assert isinstance(answer, AnswerPrediction)
        assert answer.text == text


def test_no_answer_is_what_every_piece_says() -> None:
    task = task_of("answering", no_answer=True, metrics=["f1"])
    found = [scores(4.0, start1=(5, 1), end1=(6, 1)), scores(3.0)]
    (answer,) = decode(task, (), [QUESTION], one(PIECE, PIECE), found)
    assert isinstance(answer, AnswerPrediction)
    assert answer.margin == 3.0 - 2.0
    assert as_json(task, (), QUESTION, answer)["answer"] is None
    assert as_json(task, (), QUESTION, answer, threshold=1.0)["answer"] == "Ann Lee"
    assert sum(share for *_, share in answer.candidates) < 1


def test_a_context_without_tokens_has_no_answer() -> None:
    empty = Feature(0, ((0, 2),), None, (), (None, None), 0)
    (answer,) = decode(task_of("answering"), (), [QUESTION], one(empty), [np.zeros((2, 2), "f4")])
    assert answer == AnswerPrediction("", 0, 0.0, ())
    assert as_json(task_of("answering"), (), QUESTION, answer)["answer"] is None


def test_candidates_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = rng.normal(size=(2, 9)).astype(np.float32)
        expected = max(
            float(table[0, begin]) + float(table[1, end])
            for begin in range(3, 8)
            for end in range(begin, min(begin + 3, 8))
        )
        assert best_of(candidates_of(PIECE, table, 3))[0].score == pytest.approx(expected)


def test_a_span_of_two_pieces_counts_once() -> None:
    found = [Candidate(0, 2, 1.0), Candidate(3, 4, 2.0), Candidate(0, 2, 3.0)]
    assert best_of(found) == [Candidate(0, 2, 3.0), Candidate(3, 4, 2.0)]


def test_lines_of_output_are_json() -> None:
    label = LabelPrediction("b", (0.25, 0.75))
    assert as_json(task_of("classification"), ("a", "b"), TEXT, label) == {
        "id": "t", "label": "b", "probabilities": {"a": 0.25, "b": 0.75},
    }  # fmt: skip
    assert as_json(task_of("regression"), (), TEXT, ValuePrediction(1.5)) == {
        "id": "t",
        "value": 1.5,
    }
    words = TaggedExample("w", ("Ann", "."), None)
    task = task_of("tagging")
    feature = Feature(0, ((0, 5, 2),), None, (), (None, (0, 1), None))
    tags = decode(task, ("O", "B-PER"), [words], one(feature), [logits([0, 0], [0, 9], [9, 0])])
    line = as_json(task, ("O", "B-PER"), words, tags[0])
    line = json.loads(json.dumps(line))
    assert line.pop("probabilities") == pytest.approx([0.99988, 0.0], abs=1e-4)
    assert line == {
        "id": "w", "words": ["Ann", "."], "tags": ["B-PER", "O"],
        "spans": [{"type": "PER", "start": 0, "stop": 1, "text": "Ann"}],
    }  # fmt: skip
    other = as_json(task, (), words, TagsPrediction(("LABEL_1", "LABEL_0"), (0.9, 0.8)))
    assert "spans" not in other
    choice = ChoiceExample("c", "x", "?", ("a", "b"), None)
    found = as_json(task_of("choice"), (), choice, ChoicePrediction(1, (0.1, 0.9)))
    assert found["option"] == 1

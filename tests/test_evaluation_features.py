"""Examples as features: special tokens, cutting, words and their tokens, answers in pieces."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import byte_tokenizer, perfect, task_of, typed_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    RobertaConfig,
)

from pretrain.evaluation.examples import (
    ChoiceExample,
    Example,
    QuestionExample,
    TaggedExample,
    TextExample,
)
from pretrain.evaluation.features import (
    NO_CLASS,
    Feature,
    collate,
    encode,
    token_range,
    word_of_tokens,
)
from pretrain.evaluation.heads import open_tokenizer
from pretrain.evaluation.pieces import fit_pair, template_of, tokens_of, windows
from pretrain.evaluation.predictions import AnswerPrediction, TagsPrediction, decode

BYTES, UNTRIMMED, TYPED = byte_tokenizer(), byte_tokenizer(trim=False), typed_tokenizer()
TOKENIZERS = [BYTES, UNTRIMMED, TYPED]
NAMES = ["bytes", "untrimmed", "typed"]


def text(words: str, pair: str | None = None, label: str | float | None = None) -> TextExample:
    return TextExample("x", words, pair, label)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@pytest.mark.parametrize("pair", [None, "then in the end"])
@pytest.mark.parametrize("words", ["the other", "in"])
def test_rows_are_those_of_the_library(tokenizer: object, words: str, pair: str | None) -> None:
    task = task_of("classification")
    (feature,) = encode(task, (), [text(words, pair)], tokenizer).features
    expected = tokenizer(words, pair)  # type: ignore[operator]
    assert list(feature.input_ids[0]) == expected["input_ids"]
    if feature.type_ids is not None:
        assert list(feature.type_ids[0]) == expected["token_type_ids"]
    assert (feature.type_ids is None) == ("token_type_ids" not in expected)


def test_spelt_special_tokens_are_text() -> None:
    (feature,) = encode(task_of("classification"), (), [text("<mask></s>")], BYTES).features
    ids = feature.input_ids[0]
    assert len(ids) == 2 + len("<mask></s>")
    assert not {*ids[1:-1]} & {0, 1, 2, 3, BYTES.mask_token_id}


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 30))
def test_the_longer_of_a_pair_is_cut(first: int, second: int, room: int) -> None:
    kept = fit_pair(first, second, room)
    if first + second <= room:
        assert kept == (first, second)
        return
    assert sum(kept) == room
    # Neither is cut below the other one, or below half of the room.
    assert kept[0] == first or kept[0] >= min(kept[1], room // 2)
    assert kept[1] == second or kept[1] >= min(kept[0], room // 2)


@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 80))
def test_windows_cover_and_overlap(length: int, room: int, stride: int) -> None:
    pieces = windows(length, room, stride)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == length
    assert all(stop - start <= room for start, stop in pieces)
    for (_, stop), (start, after) in pairwise(pieces):
        assert stop - start == min(stride, room // 2)
        assert after > stop


def test_types_of_tokens_are_those_the_checkpoint_has(tmp_path: Path) -> None:
    typed_tokenizer().save_pretrained(tmp_path)
    for types, expected in ((1, None), (2, ((0, 0, 0, 1, 1),))):
        RobertaConfig(type_vocab_size=types).save_pretrained(tmp_path)
        tokenizer = open_tokenizer(str(tmp_path))
        (feature,) = encode(task_of("classification"), (), [text("a", "b")], tokenizer).features
        assert feature.type_ids == expected
        tokenizer.save_pretrained(tmp_path / "saved")
        saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert ("token_type_ids" in saved.model_input_names) == (types > 1)


def test_far_too_long_texts_are_cut_and_counted() -> None:
    task = task_of("classification", max_length=16)
    examples = [text("the " * 100_000, label="a"), text("the", label="b")]
    encoded = encode(task, ("a", "b"), examples, BYTES)
    assert [feature.length for feature in encoded.features] == [16, 3]
    assert [feature.labels for feature in encoded.features] == [(0,), (1,)]
    assert encoded.truncated == 1
    pairs = [text("the " * 1000, "in"), text("in", "the " * 1000)]
    assert [each.length for each in encode(task, (), pairs, BYTES).features] == [16, 16]


def test_a_model_shorter_than_the_task_sets_the_limit() -> None:
    tokenizer = byte_tokenizer(max_length=20)
    (feature,) = encode(task_of("classification"), (), [text("the " * 99)], tokenizer).features
    assert feature.length == 20


def test_single_texts_and_pairs_may_be_mixed() -> None:
    encoded = encode(task_of("classification"), (), [text("the"), text("the", "in")], BYTES)
    assert [BYTES.decode(list(each.input_ids[0])) for each in encoded.features] == [
        "<s>the</s>",
        "<s>the</s></s>in</s>",
    ]


def test_a_model_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer allows 9 tokens, 2 of them special: expected"):
        encode(task_of("classification"), (), [text("x")], byte_tokenizer(max_length=9))


def test_a_label_that_is_none_of_the_task_is_refused() -> None:
    with pytest.raises(ValueError, match="label c is not among the 2 of the task"):
        encode(task_of("classification"), ("a", "b"), [text("x", label="c")], BYTES)


# Words as files have them: pieces, emoji, combining marks, spaces of other kinds, controls.
WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["the", "inthere", "\U0001f600\U0001f44d\U0001f3fd", "\u4f60\u597d", "\x00"]
        ),
        st.sampled_from(["\u00a0", "\u0301", "\u200b", "don't", "10\u202f000", "\x1c\x1d", "a b"]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@settings(max_examples=60)
@given(words=WORDS, stride=st.integers(0, 20), data=st.data())
def test_every_word_with_a_token_gets_its_tag(
    tokenizer: object, words: list[str], stride: int, data: st.DataObject
) -> None:
    tags = tuple(data.draw(st.sampled_from(["O", "B-A", "I-A"])) for _ in words)
    task = task_of("tagging", max_length=16, stride=stride)
    labels = ("O", "B-A", "I-A")
    example = TaggedExample("x", tuple(words), tags)
    encoded = encode(task, labels, [example], tokenizer)
    learnt = [
        (place[0], feature.labels[at])
        for feature in encoded.features
        for at, place in enumerate(feature.places)
        if place is not None and feature.labels and feature.labels[at] != NO_CLASS
    ]
    # Each word is learnt once or has vanished, and with its own tag.
    assert len({word for word, _ in learnt}) == len(learnt) == len(words) - encoded.vanished
    assert all(labels[int(label)] == tags[word] for word, label in learnt)
    (found,) = decode(task, labels, [example], encoded, perfect(task, labels, encoded))
    assert isinstance(found, TagsPrediction)
    seen = {word for word, _ in learnt}
    assert found.tags == tuple(tag if n in seen else "O" for n, tag in enumerate(tags))
    if tokenizer is not TYPED:
        # Every byte of a word is a token, unless it runs into the white space before it.
        assert {n for n, word in enumerate(words) if word[0].isalnum()} <= seen


def test_tokens_of_words_by_hand() -> None:
    # "the 😀 in": the, Ġ with four bytes of the emoji, Ġ, in. Offsets of Ġ are empty.
    example = TaggedExample("x", ("the", "\U0001f600", "in"), ("O", "B-A", "I-A"))
    encoded = encode(task_of("tagging"), ("O", "B-A", "I-A"), [example], BYTES)
    (feature,) = encoded.features
    assert feature.places == (
        None, (0, 1), (1, 1), (1, 0), (1, 0), (1, 0), (1, 0), (2, 1), (2, 0), None,
    )  # fmt: skip
    no = NO_CLASS
    assert feature.labels == (no, 0, 1, no, no, no, no, 2, no, no)
    assert encoded.vanished == 0


def test_words_that_vanish_are_outside() -> None:
    task, labels = task_of("tagging"), ("O", "B-A")
    example = TaggedExample("x", ("a", "\x01", "b", "\x02"), ("B-A", "B-A", "B-A", "B-A"))
    encoded = encode(task, labels, [example], TYPED)
    assert encoded.vanished == 2
    (found,) = decode(task, labels, [example], encoded, perfect(task, labels, encoded))
    assert isinstance(found, TagsPrediction)
    assert found.tags == ("B-A", "O", "B-A", "O")
    assert found.probabilities[1] == found.probabilities[3] == 0.0
    nothing = TaggedExample("x", ("\x01",), ("B-A",))
    encoded = encode(task, labels, [nothing], TYPED)
    assert encoded.vanished == 1
    assert [feature.labels for feature in encoded.features] == [()]
    (found,) = decode(task, labels, [nothing], encoded, perfect(task, labels, encoded))
    assert isinstance(found, TagsPrediction)
    assert found.tags == ("O",)


def test_a_piece_within_one_word_teaches_nothing() -> None:
    task, labels = task_of("tagging", max_length=16, stride=0), ("O", "B-A")
    example = TaggedExample("x", ("x" * 40, "in"), ("B-A", "O"))
    encoded = encode(task, labels, [example], BYTES)
    # 14 bytes of the long word a piece; the last piece ends it and holds the other one.
    assert [bool(feature.labels) for feature in encoded.features] == [True, False, True]
    (found,) = decode(task, labels, [example], encoded, perfect(task, labels, encoded))
    assert isinstance(found, TagsPrediction)
    assert found.tags == example.tags


def test_a_token_over_two_words_belongs_to_the_first() -> None:
    assert word_of_tokens(("ab", "c", "d"), [(0, 4), (4, 6), (6, 6)]) == [0, 2, None]


def test_a_long_sentence_is_cut_into_pieces() -> None:
    words = tuple("the" for _ in range(50))
    example = TaggedExample("x", words, ("O",) * 50)
    encoded = encode(task_of("tagging", max_length=16, stride=4), ("O",), [example], BYTES)
    # 14 tokens of text a row, 10 new ones a piece: 14, 24, 34, 44, 50.
    assert [feature.length for feature in encoded.features] == [16, 16, 16, 16, 12]
    assert encoded.truncated == 1
    assert encoded.vanished == 0


CONTEXT = "In the end, the other thing ran \U0001f600 then \u4f60\u597d. " * 6


@pytest.mark.parametrize("tokenizer", [BYTES, UNTRIMMED], ids=NAMES[:2])
@settings(max_examples=80)
@given(data=st.data())
def test_an_answer_is_found_again_over_pieces(tokenizer: object, data: st.DataObject) -> None:
    words = [0, *(n + 1 for n, each in enumerate(CONTEXT[:-1]) if each == " ")]
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(words) - 1)))
    stop = (CONTEXT + " ").index(" ", words[last])
    answer = CONTEXT[words[first] : stop]
    example = QuestionExample("q", "what thing ?", CONTEXT, ((answer, words[first]),), False)
    task = task_of("answering", max_length=96, stride=40)
    encoded = encode(task, (), [example], tokenizer)
    assert len(encoded.features) > 1
    assert (encoded.truncated, encoded.lost) == (1, 0)
    (found,) = decode(task, (), [example], encoded, perfect(task, (), encoded))
    assert isinstance(found, AnswerPrediction)
    assert (found.text, found.start) == (answer, words[first])


def test_answers_longer_than_every_piece_are_counted() -> None:
    example = QuestionExample("q", "what ?", CONTEXT, ((CONTEXT[:200], 0),), False)
    encoded = encode(task_of("answering", max_length=64), (), [example], BYTES)
    assert encoded.lost == 1
    assert {feature.labels for feature in encoded.features} == {(0, 0)}


def test_questions_without_answers_are_learnt_as_blank_or_not_at_all() -> None:
    none = QuestionExample("q", "what ?", "the end", (), True)
    unknown = QuestionExample("q", "what ?", "the end", (), False)
    encoded = encode(task_of("answering"), (), [none, unknown], BYTES)
    assert [feature.labels for feature in encoded.features] == [(0, 0), ()]
    assert encoded.lost == 0


def test_long_questions_are_cut() -> None:
    example = QuestionExample("q", "what " * 500, "the end " * 9, (("end", 4),), False)
    (feature,) = (encoded := encode(task_of("answering"), (), [example], BYTES)).features
    assert encoded.truncated == 1
    assert feature.places.count(None) == 64 + 4
    small = encode(task_of("answering", max_length=20), (), [example], BYTES)
    assert max(each.length for each in small.features) == 20


def test_the_tokens_of_an_answer_by_hand() -> None:
    # Offsets as a tokenizer gives them: trimmed with an empty space, or with the space.
    for offsets in ([(0, 3), (3, 3), (4, 7), (7, 8)], [(0, 3), (3, 4), (3, 7), (7, 8)]):
        assert token_range(offsets, "end", 4) == (2, 2)
    assert token_range([(0, 3), (3, 8)], "d", 6) == (1, 1)
    assert token_range([(0, 3)], "end", 4) is None


def test_choices_have_a_row_an_option() -> None:
    example = ChoiceExample("c", "the end " * 50, "the _ ?", ("in", "an", "on", "at"), 2)
    encoded = encode(task_of("choice", max_length=24), (), [example], TYPED)
    (feature,) = encoded.features
    assert [len(row) for row in feature.input_ids] == [24] * 4
    assert encoded.truncated == 1
    batch = collate(task_of("choice"), encoded.features, 0)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (1, 4, 24)
    assert batch["labels"].tolist() == [2]


@pytest.mark.parametrize(
    ("question", "expected"),
    [("the _ ?", "<s>in</s></s>the {} ?</s>"), ("then ?", "<s>in</s></s>then ? {}</s>")],
)
def test_an_option_fills_the_gap_or_follows(question: str, expected: str) -> None:
    options = ("in", "an", "on", "at")
    example = ChoiceExample("c", "in", question, options, None)
    (feature,) = encode(task_of("choice"), (), [example], BYTES).features
    assert [BYTES.decode(list(row)) for row in feature.input_ids] == [
        expected.format(option) for option in options
    ]
    assert feature.labels == ()


def feature(ids: Sequence[int], labels: tuple[int, ...] | tuple[float, ...]) -> Feature:
    return Feature(0, (tuple(ids),), None, labels)


def test_batches_are_padded() -> None:
    task = task_of("tagging")
    batch = collate(task, [feature([0, 5, 2], (-100, 1, -100)), feature([0, 2], (-100, -100))], 1)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[0, 5, 2], [0, 2, 1]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, 1, -100], [-100, -100, -100]],
    }
    batch = collate(task_of("answering"), [feature([0, 5, 2], (1, 1))], 1)
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [1]
    batch = collate(task_of("regression"), [feature([0], (2.5,))], 1)
    assert batch["labels"].dtype == torch.float32
    unknown = [feature([0, 5], (1,)), feature([0], ())]
    assert "labels" not in collate(task_of("classification"), unknown, 1)


SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
LONGER: dict[str, dict[str, Any]] = {
    "classification": {"text": "the other thing"},
    "regression": {"text": "the other thing"},
    "tagging": {"words": ("in", "the", "end"), "tags": ("a", "b", "a")},
    "answering": {"context": "a b and the other thing"},
    "choice": {"context": "the other thing"},
}
HEADS = [
    ("classification", AutoModelForSequenceClassification, text("the", "in", "b")),
    ("regression", AutoModelForSequenceClassification, text("the", None, 2.5)),
    ("tagging", AutoModelForTokenClassification, TaggedExample("x", ("in", "the"), ("a", "b"))),
    (
        "answering",
        AutoModelForQuestionAnswering,
        QuestionExample("x", "?", "a b", (("b", 2),), False),
    ),
    ("choice", AutoModelForMultipleChoice, ChoiceExample("x", "c", "?", ("a", "b", "c", "d"), 1)),
]


@pytest.mark.parametrize(("kind", "head", "example"), HEADS, ids=[each[0] for each in HEADS])
@pytest.mark.parametrize("typed", [False, True], ids=["roberta", "bert"])
def test_heads_take_the_batches(kind: str, head: type[Any], example: Example, typed: bool) -> None:
    tokenizer = TYPED if typed else BYTES
    labels = {"classification": ("a", "b"), "tagging": ("a", "b")}.get(kind, ())
    longer = replace(example, id="y", **LONGER[kind])
    task = task_of(kind, spans=False, metrics=["accuracy"]) if kind == "tagging" else task_of(kind)
    encoded = encode(task, labels, [example, longer], tokenizer)
    made = BertConfig if typed else RobertaConfig
    config = made(vocab_size=len(tokenizer), **SHAPE)
    config.num_labels = 2 if kind == "answering" else max(len(labels), 1)
    torch.manual_seed(0)
    model = head.from_config(config).eval()
    batch = collate(task, encoded.features, tokenizer.pad_token_id)
    with torch.no_grad():
        whole = model(**batch)
        single = model(**collate(task, encoded.features[:1], tokenizer.pad_token_id))
    assert torch.isfinite(whole.loss)
    for name in ("start_logits", "end_logits") if kind == "answering" else ("logits",):
        kept = single[name].shape[1]
        torch.testing.assert_close(whole[name][0, :kept], single[name][0], atol=1e-5, rtol=1e-5)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"not a fast one: save its tokenizer.json"):
        template_of(Slow(), 1)


def test_texts_of_many_batches_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.evaluation.pieces._BATCH", 2)
    texts = ["the", "in", "", "an", "er"]
    assert [BYTES.decode(each.ids) for each in tokens_of(BYTES, texts)] == texts

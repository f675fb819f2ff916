"""Examples as token ids of a model, and batches of them as the keyword arguments of its head.

A text of classification, regression or choice that is too long is cut at its end, of a pair the
longer one (`_truncate_seq_pair` of BERT's run_classifier.py); answering and tagging cut it into
pieces that overlap (run_squad.py), so that no word is left without an answer. Words are joined by
single spaces and encoded as the running text that pretraining saw; a token belongs to the first
word that ends behind the token's start, and the first token of a word carries its tag.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pretrain.evaluation.examples import (
    ChoiceExample,
    Example,
    QuestionExample,
    TaggedExample,
    TextExample,
)
from pretrain.evaluation.pieces import (
    Row,
    Template,
    fit_pair,
    template_of,
    tokens_of,
    windows,
)
from pretrain.evaluation.tasks import Task

# What PyTorch's cross entropy leaves out by default.
NO_CLASS = -100
# BERT's run_squad.py, max_query_length.
MAX_QUESTION_TOKENS = 64
# A question and its context need some; below, nothing can be learnt. A guess.
MIN_ROOM = 8

Place = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of a model; a long text of tagging or answering makes several.

    `input_ids` has one row, choice one an option. `labels` is what the head learns: one class or
    number, a class a token (-100 where none), or the first and last token of the answer; empty
    where unknown or where there is nothing to learn. `places` tells for each token of the row what
    it stands for, None for special tokens: tagging (word, 1 where this token decides its tag),
    answering (start, stop) in characters of the context; the other kinds have none. `blank` is the
    token that stands for no answer.
    """

    example: int
    input_ids: tuple[tuple[int, ...], ...]
    type_ids: tuple[tuple[int, ...], ...] | None
    labels: tuple[int, ...] | tuple[float, ...]
    places: tuple[Place, ...] = ()
    blank: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.input_ids))


@dataclass(frozen=True)
class Encoded:
    """Features in the order of their examples, and what did not fit.

    `truncated` examples lost text or were cut into pieces; `lost` answers lie whole in no piece;
    `vanished` words have no token.
    """

    features: tuple[Feature, ...]
    truncated: int
    lost: int
    vanished: int


@dataclass(frozen=True)
class _Maker:
    """What all examples of a task are encoded with."""

    task: Task
    numbers: dict[str, int]
    tokenizer: Any
    limit: int
    typed: bool

    def feature(
        self, example: int, rows: Sequence[Row], labels: Sequence[Any], places: Sequence[Place] = ()
    ) -> Feature:
        ids = tuple(row.ids for row in rows)
        blank = ids[0].index(self.tokenizer.cls_token_id) if self._has_blank(ids[0]) else 0
        types = tuple(row.types for row in rows) if self.typed else None
        return Feature(example, ids, types, tuple(labels), tuple(places), blank)

    def _has_blank(self, ids: tuple[int, ...]) -> bool:
        return self.tokenizer.cls_token_id in ids

    def number(self, label: str) -> int:
        if label not in self.numbers:
            raise ValueError(f"label {label} is not among the {len(self.numbers)} of the task")
        return self.numbers[label]

    def template(self, texts: int) -> Template:
        return template_of(self.tokenizer, texts)

    def room(self, template: Template) -> int:
        """Tokens of text that a row has place for."""
        room = self.limit - template.size
        if room < MIN_ROOM:
            raise ValueError(
                f"the checkpoint's tokenizer allows {self.limit} tokens, {template.size} of them "
                f"special: expected room for {MIN_ROOM}"
            )
        return room


def encode(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    tokenizer: Any,  # noqa: ANN401 - a fast tokenizer of transformers
) -> Encoded:
    """Make features of examples; no row is longer than the task and the tokenizer allow."""
    maker = _Maker(
        task,
        {label: n for n, label in enumerate(labels)},
        tokenizer,
        min(task.max_length, tokenizer.model_max_length),
        "token_type_ids" in tokenizer.model_input_names,
    )
    if task.kind == "tagging":
        return _encode_tagged(maker, [each for each in examples if isinstance(each, TaggedExample)])
    if task.kind == "answering":
        return _encode_questions(
            maker, [each for each in examples if isinstance(each, QuestionExample)]
        )
    if task.kind == "choice":
        return _encode_choices(
            maker, [each for each in examples if isinstance(each, ChoiceExample)]
        )
    return _encode_texts(maker, [each for each in examples if isinstance(each, TextExample)])


def _encode_texts(maker: _Maker, examples: Sequence[TextExample]) -> Encoded:
    single, pair = maker.template(1), maker.template(2)
    firsts = tokens_of(maker.tokenizer, [each.text for each in examples])
    seconds = tokens_of(maker.tokenizer, [each.pair or "" for each in examples])
    features, truncated = [], 0
    for n, (example, first, second) in enumerate(zip(examples, firsts, seconds, strict=True)):
        template = single if example.pair is None else pair
        kept = fit_pair(len(first.ids), len(second.ids), maker.room(template))
        truncated += sum(kept) < len(first.ids) + len(second.ids)
        texts = (first.ids[: kept[0]], second.ids[: kept[1]])
        row = template.row(*texts[: len(template.types)])
        label = example.label
        target = [] if label is None else [maker.number(label) if isinstance(label, str) else label]
        features.append(maker.feature(n, [row], target))
    return Encoded(tuple(features), truncated, 0, 0)


def _encode_choices(maker: _Maker, examples: Sequence[ChoiceExample]) -> Encoded:
    template = maker.template(2)
    room = maker.room(template)
    contexts = tokens_of(maker.tokenizer, [each.context for each in examples])
    questions = [_asked(each.question, option) for each in examples for option in each.options]
    seconds = tokens_of(maker.tokenizer, questions)
    features, truncated = [], 0
    for n, (example, context) in enumerate(zip(examples, contexts, strict=True)):
        rows, cut = [], False
        for _ in example.options:
            second = next(seconds)
            kept = fit_pair(len(context.ids), len(second.ids), room)
            cut = cut or sum(kept) < len(context.ids) + len(second.ids)
            rows.append(template.row(context.ids[: kept[0]], second.ids[: kept[1]]))
        truncated += cut
        target = [] if example.label is None else [example.label]
        features.append(maker.feature(n, rows, target))
    return Encoded(tuple(features), truncated, 0, 0)


def _asked(question: str, option: str) -> str:
    """Fill the gap of a cloze, or put the option behind the question (utils_multiple_choice.py)."""
    return question.replace("_", option) if "_" in question else f"{question} {option}"


def _encode_tagged(maker: _Maker, examples: Sequence[TaggedExample]) -> Encoded:
    template = maker.template(1)
    room = maker.room(template)
    texts = tokens_of(maker.tokenizer, [" ".join(each.words) for each in examples], offsets=True)
    features: list[Feature] = []
    truncated = vanished = 0
    for n, (example, tokens) in enumerate(zip(examples, texts, strict=True)):
        owners = word_of_tokens(example.words, tokens.offsets)
        firsts = {owner: at for at, owner in reversed(list(enumerate(owners))) if owner is not None}
        vanished += len(example.words) - len(firsts)
        pieces = windows(len(tokens.ids), room, maker.task.stride)
        truncated += len(pieces) > 1
        deciding = {at: _most_inside(at, pieces) for at in firsts.values()}
        for number, (start, stop) in enumerate(pieces):
            row = template.row(tokens.ids[start:stop])
            here = [_place(owners[at], deciding.get(at) == number) for at in range(start, stop)]
            places = row.around(here)
            features.append(maker.feature(n, [row], _tags(maker, example, places), places))
    return Encoded(tuple(features), truncated, 0, vanished)


def _place(word: int | None, decides: bool) -> Place:
    return None if word is None else (word, int(decides))


def word_of_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Tell which word each token belongs to, in words joined by spaces: the first that ends behind
    the token's start; None for a token behind the last.
    """
    stops, stop = [], -1
    for word in words:
        stop += 1 + len(word)
        stops.append(stop)
    owners = [bisect_right(stops, start) for start, _ in offsets]
    return [owner if owner < len(words) else None for owner in owners]


def _most_inside(token: int, pieces: Sequence[tuple[int, int]]) -> int:
    """Return the piece that holds a token farthest from its ends, the first of equals."""

    def distance(number: int) -> int:
        start, stop = pieces[number]
        return min(token - start, stop - 1 - token)

    return max(range(len(pieces)), key=lambda number: (distance(number), -number))


def _tags(maker: _Maker, example: TaggedExample, places: Sequence[Place]) -> list[int]:
    if example.tags is None:
        return []
    numbers = [maker.number(tag) for tag in example.tags]
    tags = [numbers[place[0]] if place and place[1] else NO_CLASS for place in places]
    # A mean loss over no word at all is no number: such a piece is for prediction only.
    return tags if any(place and place[1] for place in places) else []


def _encode_questions(maker: _Maker, examples: Sequence[QuestionExample]) -> Encoded:
    template = maker.template(2)
    room = maker.room(template)
    contexts = list(dict.fromkeys(each.context for each in examples))
    known = dict(zip(contexts, tokens_of(maker.tokenizer, contexts, offsets=True), strict=True))
    questions = tokens_of(maker.tokenizer, [each.question for each in examples])
    features: list[Feature] = []
    truncated = lost = 0
    for n, (example, question) in enumerate(zip(examples, questions, strict=True)):
        tokens = known[example.context]
        asked = question.ids[: min(MAX_QUESTION_TOKENS, room // 2)]
        pieces = windows(len(tokens.ids), room - len(asked), maker.task.stride)
        truncated += len(pieces) > 1 or len(asked) < len(question.ids)
        answer = token_range(tokens.offsets, *example.answers[0]) if example.answers else None
        inside = [answer is not None and a <= answer[0] and answer[1] < b for a, b in pieces]
        lost += bool(example.answers) and not any(inside)
        for (start, stop), holds in zip(pieces, inside, strict=True):
            row = template.row(asked, tokens.ids[start:stop])
            at = row.starts[1]
            feature = maker.feature(n, [row], (), row.around(tokens.offsets[start:stop]))
            if holds and answer is not None:
                target = (at + answer[0] - start, at + answer[1] - start)
                feature = replace(feature, labels=target)
            elif example.answers or example.impossible:
                feature = replace(feature, labels=(feature.blank, feature.blank))
            features.append(feature)
    return Encoded(tuple(features), truncated, lost, 0)


def token_range(
    offsets: Sequence[tuple[int, int]], text: str, start: int
) -> tuple[int, int] | None:
    """Return the first and last token of an answer, None where no token stands for it."""
    stops, starts = [stop for _, stop in offsets], [start for start, _ in offsets]
    first = bisect_right(stops, start)
    last = bisect_left(starts, start + len(text)) - 1
    return (first, last) if first <= last else None


def collate(task: Task, features: Sequence[Feature], pad_id: int) -> dict[str, Tensor]:
    """Pad features to the longest of them: what the model's `forward` takes, labels if known.

    Shapes: (batch, tokens); choice (batch, options, tokens).
    """
    length = max(feature.length for feature in features)

    def padded(rows: Callable[[Feature], Any], fill: int) -> Tensor:
        table = [
            [[*row, *[fill] * (length - len(row))] for row in rows(feature)] for feature in features
        ]
        whole = torch.tensor(table, dtype=torch.long)
        return whole if task.kind == "choice" else whole.squeeze(1)

    batch = {
        "input_ids": padded(lambda each: each.input_ids, pad_id),
        "attention_mask": padded(lambda each: [[1] * len(row) for row in each.input_ids], 0),
    }
    if features[0].type_ids is not None:
        batch["token_type_ids"] = padded(lambda each: each.type_ids, 0)
    if not all(feature.labels for feature in features):
        return batch
    if task.kind == "tagging":
        batch["labels"] = padded(lambda each: [each.labels], NO_CLASS)
    elif task.kind == "answering":
        batch["start_positions"] = torch.tensor([int(each.labels[0]) for each in features])
        batch["end_positions"] = torch.tensor([int(each.labels[1]) for each in features])
    else:
        kind = torch.float32 if task.kind == "regression" else torch.long
        batch["labels"] = torch.tensor([each.labels[0] for each in features], dtype=kind)
    return batch

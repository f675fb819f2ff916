"""Texts as token ids, and ids as rows of a model: special tokens around, cut to a length.

A fast tokenizer encodes the bare text; where its special tokens go is learnt from one probe, so
that cutting is arithmetic here and no state of the tokenizer changes. Text that spells `<mask>` is
encoded as the characters it is, as in pretraining.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# A call of the library costs about a millisecond; more texts at once only cost memory. A guess.
_BATCH = 1000


class Tokens(NamedTuple):
    """Ids of a text, and the characters [start, stop) that each stands for (if asked for)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Row(NamedTuple):
    """Ids of a model's input, their types, and where each text starts in it."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    starts: tuple[int, ...]

    def around(self, last: Sequence[T]) -> list[T | None]:
        """Put None for every token but those of the last text."""
        before = self.starts[-1]
        return [*[None] * before, *last, *[None] * (len(self.ids) - before - len(last))]


class Template(NamedTuple):
    """Special tokens before, between and after texts, each an (id, type), and the texts' types."""

    specials: tuple[tuple[tuple[int, int], ...], ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Special tokens of a row."""
        return sum(map(len, self.specials))

    def row(self, *texts: Sequence[int]) -> Row:
        """Put the special tokens around texts."""
        ids = [each for each, _ in self.specials[0]]
        types = [each for _, each in self.specials[0]]
        starts = []
        for text, kind, specials in zip(texts, self.types, self.specials[1:], strict=True):
            starts.append(len(ids))
            ids += [*text, *(each for each, _ in specials)]
            types += [kind] * len(text) + [each for _, each in specials]
        return Row(tuple(ids), tuple(types), tuple(starts))


def template_of(tokenizer: Any, texts: int) -> Template:  # noqa: ANN401 - not typed
    """Learn from a probe where a tokenizer puts its special tokens around one text or two."""
    if not tokenizer.is_fast:
        raise ValueError("the checkpoint's tokenizer is not a fast one: save its tokenizer.json")
    probe = tokenizer(*["a"] * texts, return_token_type_ids=True, return_attention_mask=False)
    owners = probe.sequence_ids(0)
    kinds = probe.get("token_type_ids") or [0] * len(owners)
    specials: list[list[tuple[int, int]]] = [[]]
    types: list[int] = []
    for each, owner, kind in zip(probe["input_ids"], owners, kinds, strict=True):
        if owner is None:
            specials[-1].append((each, kind))
        elif owner == len(types):
            types.append(kind)
            specials.append([])
    if len(types) != texts:
        raise ValueError("the checkpoint's tokenizer gives no token for the letter a")
    return Template(tuple(map(tuple, specials)), tuple(types))


def tokens_of(
    tokenizer: Any,  # noqa: ANN401 - not typed
    texts: Sequence[str],
    offsets: bool = False,
) -> Iterator[Tokens]:
    """Encode texts without special tokens, however long they are."""
    for at in range(0, len(texts), _BATCH):
        found = tokenizer(
            list(texts[at : at + _BATCH]),
            add_special_tokens=False,
            return_offsets_mapping=offsets,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            verbose=False,
        )
        places = found["offset_mapping"] if offsets else [[]] * len(found["input_ids"])
        yield from map(Tokens, found["input_ids"], places)


def fit_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how much of two lengths stays in a room: the longer one is cut first.

    10 and 3 in a room of 8 -> 5 and 3
    """
    if first + second <= room:
        return first, second
    if first >= second:
        second = min(second, room // 2)
        return room - second, second
    first = min(first, room - room // 2)
    return first, room - first


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Cut [0, length) into pieces of at most `room` that share `stride` with the one before.

    A piece shares at most half of its room, so that the next one gains as much.
    10 in rooms of 6 that share 2 -> [(0, 6), (4, 10)]
    """
    if room < 1:
        raise ValueError("max_length leaves no room for the text: raise it")
    step = room - min(stride, room // 2)
    starts = range(0, max(length - room, 0) + step, step)
    pieces = [(start, min(start + room, length)) for start in starts]
    return [(start, stop) for start, stop in pieces if start < stop] or [(0, 0)]

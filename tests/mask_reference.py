"""The draw of masks a second time: a row at a time, in plain Python integers, to be read."""

from dataclasses import dataclass
from itertools import pairwise

from pretrain.masking import ONE, MaskRule, span_thresholds

IGNORED = -100
SPAN_TRIES = 8


def splitmix64(key: int, counter: int) -> int:
    """Hash a counter under a key (Steele, Lea and Flood 2014)."""
    value = (key + counter * 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


@dataclass
class Row:
    """One row: real tokens, the bits that say where words begin, and the key of its hashes."""

    tokens: list[int]
    begins: list[bool]
    key: int
    rule: MaskRule

    def draw(self, number: int) -> int:
        """Give the row's i-th draw."""
        return splitmix64(self.key, 1 + number)

    @property
    def ordinary(self) -> list[int]:
        """The positions that may be masked."""
        return [p for p, token in enumerate(self.tokens) if 3 < token != self.rule.mask_id]

    @property
    def labels(self) -> int:
        """How many tokens are to be predicted: mask_prob * real + u, rounded down."""
        u = splitmix64(self.key, 0) % ONE
        return (self.rule.mask_parts * len(self.ordinary) + u) // ONE

    @property
    def words(self) -> list[list[int]]:
        """The positions of each word."""
        ordinary, found = self.ordinary, list[list[int]]()
        for before, at in pairwise([-2, *ordinary]):
            if self.begins[at] or at != before + 1:
                found.append([])
            found[-1].append(at)
        return found


def scaled(draw: int, size: int) -> int:
    """Scale the upper half of a hash to [0, size)."""
    return (draw // ONE) * size // ONE


def choose_fixed(row: Row) -> dict[int, int]:
    """Floyd's draw without replacement; a chosen position with the one that decides its fate."""
    ordinary, chosen = row.ordinary, set[int]()
    for number in range(row.labels):
        top = len(ordinary) - row.labels + number
        rank = scaled(row.draw(number), top + 1)
        chosen.add(top if rank in chosen else rank)
    return {ordinary[rank]: ordinary[rank] for rank in chosen}


def choose_bernoulli(row: Row) -> dict[int, int]:
    """Every position by itself, two to a hash."""
    found = []
    for at in row.ordinary:
        draw = row.draw(at // 2)
        if (draw % ONE if at % 2 else draw // ONE) < row.rule.mask_parts:
            found.append(at)
    return {at: at for at in found[: row.rule.slots]}


def choose_words(row: Row) -> dict[int, int]:
    """Words in random order, each that fits."""
    words, left, chosen = row.words, row.labels, dict[int, int]()
    for number in range(len(words)):
        if left == 0:
            break
        other = number + scaled(row.draw(number), len(words) - number)
        words[number], words[other] = words[other], words[number]
        if len(words[number]) <= left:
            left -= len(words[number])
            chosen |= {at: at for at in words[number]}
    return chosen


def choose_spans(row: Row) -> dict[int, int]:
    """Spans of words until the labels are used up; the fate of a span is that of its first."""
    words, left, chosen = row.words, row.labels, dict[int, int]()
    for number in range(SPAN_TRIES * row.labels if words else 0):
        if left == 0:
            break
        draw = row.draw(number)
        first = scaled(draw, len(words))
        wanted = 1 + sum(draw % ONE >= threshold for threshold in span_thresholds())
        end = words[first][0]
        for word in words[first : first + wanted]:
            if word[0] != end or len(word) > left or word[0] in chosen:
                break
            left -= len(word)
            end = word[-1] + 1
            chosen |= dict.fromkeys(word, words[first][0])
    return chosen


CHOOSE = {
    "fixed": choose_fixed,
    "bernoulli": choose_bernoulli,
    "whole-word": choose_words,
    "span": choose_spans,
}


def mask_row(row: Row, padding: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Give inputs, slots and labels of a row; `padding` is what follows its real tokens."""
    rule, inputs = row.rule, list(row.tokens)
    chosen = CHOOSE[rule.masking](row)
    slots = sorted(chosen)
    for at in slots:
        fate = splitmix64(row.key, 2**16 + 1 + chosen[at]) // ONE
        if fate < rule.leave_parts:
            continue
        inputs[at] = rule.mask_id
        if fate < rule.leave_parts + rule.random_parts:
            low = splitmix64(row.key, 2**16 + 1 + at) % ONE
            inputs[at] = 4 + low * (rule.mask_id - 4) // ONE
    labels = [row.tokens[at] for at in slots]
    unused = rule.slots - len(slots)
    return inputs + padding, slots + [0] * unused, labels + [IGNORED] * unused

"""Drift: does the tokenizer of the first delivery still fit what comes later?

A store's tokenizer is trained once, on its first snapshot. Text of another kind takes more tokens
for the same bytes: rows hold less of it and training costs more. So every delivery's tokens a byte
and tokens a word, by source, are compared with the first delivery's for that source, or with all of
the first one where the source is new. The numbers are sums over the parts of a manifest; nothing is
read again. A word is that of the rules: in a script without spaces, a letter.

Both rise with the language too: a new source in another script shows as due although its own
tokenizer would do no better than some share of that.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from corpus.snapshots import PartEntry

# A tenth more tokens than on what it was trained on: a tenth more steps for the same text. Guess.
DUE_FROM_PERCENT = 110


class Fertility(NamedTuple):
    """What the kept text of one source of one delivery takes."""

    snapshot: str
    source: str
    words: int
    text_bytes: int
    tokens: int


class Drift(NamedTuple):
    """What one source of one delivery takes, beside what it is compared with."""

    snapshot: str
    source: str
    tokens: int
    text_bytes: int
    words: int
    base_tokens: int
    base_text_bytes: int
    base_words: int

    @property
    def percent(self) -> float | None:
        """Tokens a byte as a percentage of those compared with; absent where there is no text."""
        return _percent(self.tokens, self.text_bytes, self.base_tokens, self.base_text_bytes)

    @property
    def word_percent(self) -> float | None:
        """Tokens a word as a percentage of those compared with; absent where there are no words."""
        return _percent(self.tokens, self.words, self.base_tokens, self.base_words)

    @property
    def is_due(self) -> bool:
        """Whether a tokenizer trained anew is worth a look."""
        return any(
            100 * self.tokens * base >= DUE_FROM_PERCENT * self.base_tokens * own > 0
            for own, base in (
                (self.text_bytes, self.base_text_bytes),
                (self.words, self.base_words),
            )
        )


def _percent(tokens: int, of: int, base_tokens: int, base_of: int) -> float | None:
    below = base_tokens * of
    return 100 * tokens * base_of / below if below and base_of else None


def measure_fertility(parts: Sequence[PartEntry]) -> list[Fertility]:
    """Add up words, bytes and tokens by delivery and source, in the order of the parts."""
    found: dict[tuple[str, str], Fertility] = {}
    for part in parts:
        place = (part.snapshot, part.source)
        before = found.get(place, Fertility(*place, 0, 0, 0))
        sums = (
            before.words + part.words,
            before.text_bytes + part.text_bytes,
            before.tokens + part.tokens,
        )
        found[place] = Fertility(*place, *sums)
    return list(found.values())


def tell_drift(parts: Sequence[PartEntry], deliveries: Sequence[str]) -> Iterator[str]:
    """Say of the newest delivery where the tokenizer fits worse than it did, as lines of text."""
    for each in measure_drift(parts, deliveries):
        if each.snapshot == deliveries[-1] and each.is_due:
            units = (("byte", each.percent), ("word", each.word_percent))
            told = [f"{share:.0f} % a {unit}" for unit, share in units if share is not None]
            yield (
                f"{each.source} takes more tokens than the first delivery, {', '.join(told)}: "
                "a tokenizer trained anew, in a store of its own, is worth a look"
            )


def measure_drift(parts: Sequence[PartEntry], deliveries: Sequence[str]) -> list[Drift]:
    """Compare every later delivery with the first, source by source, in their order."""
    first = [part for part in parts if part.snapshot == deliveries[0]]
    found = []
    for snapshot in deliveries[1:]:
        delivered = [part for part in parts if part.snapshot == snapshot]
        for source in sorted({part.source for part in delivered}):
            base = _sums(part for part in first if part.source == source)
            own = _sums(part for part in delivered if part.source == source)
            found.append(Drift(snapshot, source, *own, *(base if base[1] else _sums(first))))
    return found


def _sums(parts: Iterable[PartEntry]) -> tuple[int, int, int]:
    listed = list(parts)
    return (
        sum(part.tokens for part in listed),
        sum(part.text_bytes for part in listed),
        sum(part.words for part in listed),
    )

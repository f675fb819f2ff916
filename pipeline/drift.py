"""Drift: does the tokenizer of the first delivery still fit what comes later?

A store's tokenizer is trained once, on its first snapshot. Text of another kind takes more tokens
for the same bytes: rows hold less of it and training costs more. So every delivery's tokens a byte,
by source, are compared with the first delivery's for that source, or with all of the first one
where the source is new. The numbers are sums over the parts of a manifest; nothing is read again.

Tokens a byte rise with the language too: a new source in another script shows as due although its
own tokenizer would do no better than some share of that.
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
    base_tokens: int
    base_text_bytes: int

    @property
    def percent(self) -> float | None:
        """Tokens a byte as a percentage of those compared with; absent where there is no text."""
        below = self.base_tokens * self.text_bytes
        return 100 * self.tokens * self.base_text_bytes / below if below else None

    @property
    def is_due(self) -> bool:
        """Whether a tokenizer trained anew is worth a look."""
        return (
            100 * self.tokens * self.base_text_bytes
            >= DUE_FROM_PERCENT * self.base_tokens * self.text_bytes
            > 0
        )


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
            yield (
                f"{each.source} takes {each.percent:.0f} % of the first delivery's tokens a byte: "
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


def _sums(parts: Iterable[PartEntry]) -> tuple[int, int]:
    listed = list(parts)
    return sum(part.tokens for part in listed), sum(part.text_bytes for part in listed)

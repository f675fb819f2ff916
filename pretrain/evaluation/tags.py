"""Tags of words as spans and back, by the rules of CoNLL's evaluation script.

A tag is `O`, or a prefix, a hyphen and a type. One rule reads IOB1, IOB2, BIOES (and BILOU, BMES,
plain I-): a word continues a span if its prefix is I or E, its type is that of the word before, and
that word's prefix is B or I; every other tagged word begins one (conlleval.pl of the CoNLL-2000
shared task, which seqeval's default mode follows; Ramshaw and Marcus 1995 for IOB1).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"O|[BIESLUM]-.+")
# The names that BILOU and BMES have for what BIOES calls E, S and I.
_PREFIXES = {"L": "E", "U": "S", "M": "I"}


class Span(NamedTuple):
    """Words [start, stop) of one type."""

    type: str
    start: int
    stop: int


def is_span_tag(tag: str) -> bool:
    """Tell whether a tag marks spans: O, or a prefix and a type."""
    return _TAG.fullmatch(tag) is not None


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sequence of tags in their order."""
    spans: list[Span] = []
    before = OUTSIDE
    for at, tag in enumerate(tags):
        prefix = _PREFIXES.get(tag[0], tag[0])
        kind = tag[2:]
        if prefix in "IE" and before in ("B", "I") and spans[-1].type == kind:
            spans[-1] = spans[-1]._replace(stop=at + 1)
        elif prefix != OUTSIDE:
            spans.append(Span(kind, at, at + 1))
        before = prefix
    return spans


def iob2_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Write tags of any scheme as IOB2: I-PER I-PER O -> B-PER I-PER O."""
    plain = [OUTSIDE] * len(tags)
    for kind, start, stop in spans_of(tags):
        plain[start:stop] = [f"B-{kind}"] + [f"I-{kind}"] * (stop - start - 1)
    return tuple(plain)

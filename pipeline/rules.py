"""The rules a document must pass, as readable reference code.

Gopher quality: Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1, with its published thresholds.
A word is a maximal run without white space. Every comparison is between integers or a float64 made
from integer counts, so a verdict is the same on every machine. It costs a few passes over the words
in Python; scripts without spaces have no words in this sense and fail `gopher_min_words`.
"""

from typing import NamedTuple

# Raised by hand when a verdict or a recorded value changes.
VERSION = 1

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "‣", "▪", "-", "*", "●", "◦", "\u2013")
ELLIPSES = ("...", "…")


class Failure(NamedTuple):
    """The rule a document fails, the value it has and the threshold it should have met.

    `detail` names what else the verdict rests on: a URL's list, an evaluation example.
    """

    rule: str
    value: float
    threshold: float
    detail: str | None = None


def gopher_quality(text: str) -> Failure | None:
    """Return the first rule that a text fails, in the paper's order, or None."""
    words = text.split()
    if len(words) < 50:
        return Failure("gopher_min_words", len(words), 50)
    if len(words) > 100_000:
        return Failure("gopher_max_words", len(words), 100_000)
    return _check_words(text, words) or _check_lines(text) or _check_vocabulary(words)


def _check_words(text: str, words: list[str]) -> Failure | None:
    mean_length = sum(map(len, words)) / len(words)
    if mean_length < 3:
        return Failure("gopher_min_mean_word_length", mean_length, 3)
    if mean_length > 10:
        return Failure("gopher_max_mean_word_length", mean_length, 10)
    for rule, count in (
        ("gopher_hash_to_word_ratio", text.count("#")),
        ("gopher_ellipsis_to_word_ratio", sum(map(text.count, ELLIPSES))),
    ):
        if count / len(words) > 0.1:
            return Failure(rule, count / len(words), 0.1)
    return None


def _check_lines(text: str) -> Failure | None:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    bullets = sum(line.startswith(BULLETS) for line in lines) / len(lines)
    if bullets > 0.9:
        return Failure("gopher_bullet_lines", bullets, 0.9)
    ellipses = sum(line.endswith(ELLIPSES) for line in lines) / len(lines)
    if ellipses > 0.3:
        return Failure("gopher_ellipsis_lines", ellipses, 0.3)
    return None


def _check_vocabulary(words: list[str]) -> Failure | None:
    alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(words)
    if alphabetic < 0.8:
        return Failure("gopher_alphabetic_words", alphabetic, 0.8)
    found = len(STOP_WORDS.intersection(word.lower() for word in words))
    if found < 2:
        return Failure("gopher_stop_words", found, 2)
    return None

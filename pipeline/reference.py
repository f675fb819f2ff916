"""Every statistic and verdict of the rules, written for reading; audits and tests use it.

`pipeline/statistics.py` computes the same numbers from Arrow buffers, many times faster.

- A *word* is a maximal run without white space; within it every letter or digit of a script that
  writes no spaces is a word of its own: a run is cut before each letter that belongs to such a
  script, or whose preceding letter does. Punctuation and combining marks stay with the letter
  before them, at the start of a run with the one after.
- A *line* is what stands between newlines without the white space at its end, if anything is left.
  C4 takes away what stands at its beginning too. Bullets and ellipses alone are asked of *all
  lines*, blank ones too, as datatrove does.
- A *paragraph* is a maximal sequence of lines without a blank one between them.
- A *sentence* ends with a word that ends in a terminal mark, quotation marks and closing brackets
  aside, or with its line.
- An n-gram has the characters of its words. Top n-grams also have one for each space between
  words, since Gopher's shares do, but none beside a word of a script that writes no spaces.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from corpus.recipe import Clean
from pipeline.bad_words import fold, is_unspaced, joins
from pipeline.characters import (
    ALPHABETIC,
    BULLETS,
    CLOSING,
    ELLIPSES,
    LETTER,
    POLICIES,
    QUOTES,
    SHORT_LINE,
    STOP_WORDS,
    TERMINAL,
    UNMARKED,
    UNSPACED,
    classes_of,
    terminal_marks,
)
from pipeline.rules import BY_NAME, EMPTY, LISTED, RULES, Failure, Rule, is_english, thresholds

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
# What Wikipedia leaves in a text: c4_utils.py of tensorflow/datasets.
_CITATION = re.compile(r"\[(?:[0-9]*|edit|citation needed)\]")
# The rules on lines that come before C4's look at "lorem ipsum".
_BEFORE_LOREM_IPSUM = ("c4_line_max_word_length", "c4_line_terminal_mark", "c4_line_min_words")


class Result(NamedTuple):
    """A text as later stages see it, the rule it fails, and lines taken out by each rule."""

    text: str
    failure: Failure | None
    removed_lines: dict[str, int]


def words_of(text: str) -> list[str]:
    """Cut a text into words: `"Hi, 你好。x"` -> `["Hi,", "你", "好。", "x"]`."""
    return [word for run in text.split() for word in _cut(run)]


@lru_cache(maxsize=2**16)
def _cut(run: str) -> tuple[str, ...]:
    """Cut a run without white space into words."""
    cuts, previous = [0], 0
    for i, character in enumerate(run):
        kind = classes_of(character)
        if kind & LETTER:
            if previous and (kind | previous) & UNSPACED:
                cuts.append(i)
            previous = kind
    return tuple(run[start:stop] for start, stop in pairwise([*cuts, len(run)]))


def lines_of(text: str) -> list[str]:
    """Return the lines of a text without blank ones."""
    return [stripped for line in text.split("\n") if (stripped := line.rstrip())]


def paragraphs_of(text: str) -> list[list[str]]:
    """Return the paragraphs of a text as lists of lines."""
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if stripped := line.rstrip():
            paragraphs[-1].append(stripped)
        elif paragraphs[-1]:
            paragraphs.append([])
    return [lines for lines in paragraphs if lines]


@lru_cache(maxsize=2**16)
def kinds_of(word: str) -> int:
    """Return the classes of all characters of a word."""
    found = 0
    for character in word:
        found |= classes_of(character)
    return found


@lru_cache(maxsize=2**16)
def ends_sentence(word: str) -> bool:
    """Tell whether a word ends in a terminal mark, whatever closes after it."""
    for character in reversed(word):
        kind = classes_of(character)
        if not kind & CLOSING:
            return bool(kind & TERMINAL)
    return False


def count_words(text: str) -> dict[str, int]:
    """Count what rules ask about words and characters."""
    words = words_of(text)
    kinds = list(map(kinds_of, words))
    return {
        "characters": len(text),
        "newlines": text.count("\n"),
        "all_lines": text.count("\n") + 1,
        "characters_but_newlines": len(text) - text.count("\n"),
        "words": len(words),
        "word_characters": sum(map(len, words)),
        "alphabetic_words": sum(bool(kind & ALPHABETIC) for kind in kinds),
        "unspaced_words": sum(bool(kind & UNSPACED) for kind in kinds),
        "unmarked_words": sum(bool(kind & UNMARKED) for kind in kinds),
        "stop_words": len({lower(word) for word in words}.intersection(STOP_WORDS)),
        "hashes": text.count("#"),
        "ellipses": sum(map(text.count, ELLIPSES)),
    }


def lower(text: str) -> str:
    """Lower ASCII letters only, as all words that rules look for are ASCII."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def count_lines(text: str) -> dict[str, int]:
    """Count what rules ask about lines and paragraphs."""
    lines = lines_of(text)
    paragraphs = paragraphs_of(text)
    repeated_lines, line_characters = _repeated(lines)
    repeated_paragraphs, paragraph_characters = _repeated(["\n".join(each) for each in paragraphs])
    return {
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(BULLETS) for line in lines),
        "ellipsis_lines": sum(line.endswith(ELLIPSES) for line in lines),
        "marked_lines": sum(line[-1] in terminal_marks() for line in lines),
        "short_lines": sum(len(line) <= SHORT_LINE for line in lines),
        "duplicate_lines": repeated_lines,
        "duplicate_line_characters": line_characters,
        "paragraphs": len(paragraphs),
        "duplicate_paragraphs": repeated_paragraphs,
        "duplicate_paragraph_characters": paragraph_characters,
    }


def _repeated(items: Sequence[str]) -> tuple[int, int]:
    """Count the items that were there before, and their characters."""
    seen = set[str]()
    count = characters = 0
    for item in items:
        if item in seen:
            count, characters = count + 1, characters + len(item)
        seen.add(item)
    return count, characters


def count_ngrams(text: str) -> dict[str, int]:
    """Count the characters of the most common and of repeated n-grams."""
    words = words_of(text)
    counts = {f"top_{n}gram_characters": top_characters(words, n) for n in (2, 3, 4)}
    return counts | {
        f"duplicate_{n}gram_characters": repeated_characters(words, n) for n in range(5, 11)
    }


def top_characters(words: Sequence[str], n: int) -> int:
    """Return the characters of all occurrences of the most common n-gram, of several the first."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0
    gram, count = counts.most_common(1)[0]
    unspaced = [bool(kinds_of(word) & UNSPACED) for word in gram]
    spaces = sum(not (one or other) for one, other in pairwise(unspaced))
    return count * (sum(map(len, gram)) + spaces)


def repeated_characters(words: Sequence[str], n: int) -> int:
    """Read n-grams from the left, skip one seen before as a whole, and count its characters."""
    seen = set[tuple[str, ...]]()
    i = characters = 0
    while i + n <= len(words):
        gram = tuple(words[i : i + n])
        if gram in seen:
            characters += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


Limits = Mapping[str, float | None]


def take_lines(text: str, limits: Limits) -> tuple[str, dict[str, int]]:
    """Take out the lines that C4 takes out; return the rest and what was counted on the way."""
    counts = Counter({rule.counted: 0 for rule in RULES if rule.preset == "c4" and not rule.listed})
    kept = []
    for line in map(str.lstrip, lines_of(text)):
        reason = reason_of(line, limits)
        if reason not in _BEFORE_LOREM_IPSUM:
            counts["lorem_lines"] += "lorem ipsum" in lower(line)
        if reason in (None, "c4_line_policy"):
            counts["curly_lines"] += "{" in line
        if reason is None:
            kept.append(line)
            counts["sentences"] += sentences_of(line)
        else:
            counts[BY_NAME[reason].counted] += 1
    return "\n".join(kept), dict(counts)


def reason_of(line: str, limits: Limits) -> str | None:
    """Return the first rule for which C4 takes out a line."""
    values = line_values(line)
    return next((name for name, value in values.items() if _beyond(name, value, limits)), None)


def line_values(line: str) -> dict[str, int]:
    """Return what each of C4's rules on lines looks at, in their order."""
    words, lowered = words_of(line), lower(line)
    return {
        "c4_line_max_word_length": max(map(len, words), default=0),
        "c4_line_terminal_mark": int(ends_line(line)),
        "c4_line_min_words": len(words),
        "c4_line_javascript": lowered.count("javascript"),
        "c4_line_policy": sum(map(lowered.count, POLICIES)),
    }


def ends_line(line: str) -> bool:
    """Tell whether a line ends in a terminal or quotation mark, but not in three dots."""
    return (line[-1] in terminal_marks() or line[-1] in QUOTES) and not line.endswith("...")


def sentences_of(line: str) -> int:
    """Count the sentences of a line."""
    return sum(map(ends_sentence, words_of(line)[:-1])) + 1


def _beyond(name: str, value: float, limits: Limits) -> bool:
    limit = limits.get(name)
    if limit is None:
        return False
    return value < limit if BY_NAME[name].side == "min" else value > limit


def statistics(text: str, preset: str, limits: Limits) -> tuple[str, dict[str, int]]:
    """Return the counts that a set of rules needs, and the text that it leaves."""
    counts = count_words(text)
    if preset == "c4":
        rest, taken = take_lines(text, limits)
        return rest, counts | taken
    counts |= count_lines(text)
    return text, counts | (count_ngrams(text) if preset == "gopher_repetition" else {})


def value_of(rule: Rule, counts: Mapping[str, int]) -> float:
    """Return what a rule compares with its threshold."""
    count = counts[rule.counted]
    return count / counts[rule.over] if rule.over else count


def in_scope(rule: Rule, counts: Mapping[str, int], language: str | None) -> bool:
    """Tell whether a rule makes sense for a text."""
    if rule.scope == "marked":
        return 2 * counts["unmarked_words"] <= counts["words"]
    if rule.scope in ("spaced", "english") and 2 * counts["unspaced_words"] > counts["words"]:
        return False
    return rule.scope != "english" or is_english(language)


def find_words(text: str, words: Sequence[str]) -> list[tuple[int, str]]:
    """Return where words of a list stand, and which; of several at one place the shortest.

    A word stands whole, but for one with a letter of a script that writes no spaces.
    """
    folded = fold(text)
    found = []
    for start in range(len(folded)):
        for word in sorted(words, key=len):
            stop = start + len(word)
            touched = any(map(joins, folded[max(start - 1, 0) : start] + folded[stop : stop + 1]))
            if folded.startswith(word, start) and (is_unspaced(word) or not touched):
                found.append((start, word))
                break
    return found


def judge(
    text: str, config: Clean, language: str | None = None, words: Sequence[str] = ()
) -> Result:
    """Judge a cleaned text by the recipe's rules and its list of bad words."""
    judged, removed = text, dict[str, int]()
    if not words_of(text):
        return Result(text, EMPTY, {})
    for preset in config.rules:
        if preset == "c4":
            judged = _CITATION.sub("", judged)
        counted = count_words(judged)
        limits = {
            name: limit
            for name, limit in thresholds(config).items()
            if BY_NAME[name].preset == preset and in_scope(BY_NAME[name], counted, language)
        }
        judged, counts = statistics(judged, preset, limits)
        failure = _first_failure(limits, counts)
        if failure is None and not judged:
            failure = EMPTY
        if failure is None and preset == "c4" and words:
            failure = _listed_failure(judged, limits, words)
        if failure is not None:
            return Result(text, failure, {})
        if preset == "c4":
            removed = {rule.name: counts[rule.counted] for rule in RULES if rule.on_lines}
    return Result(judged, None, removed)


def _listed_failure(text: str, limits: Limits, words: Sequence[str]) -> Failure | None:
    found, limit = find_words(text, words), limits[LISTED]
    if limit is None or len(found) <= limit:
        return None
    place, word = found[0]
    return Failure(LISTED, len(found), limit, f"{word!r} at character {place + 1}")


def _first_failure(limits: Limits, counts: Mapping[str, int]) -> Failure | None:
    for name, limit in limits.items():
        if limit is None or BY_NAME[name].on_lines or BY_NAME[name].listed:
            continue
        value = value_of(BY_NAME[name], counts)
        if _beyond(name, value, limits):
            return Failure(name, value, limit)
    return None

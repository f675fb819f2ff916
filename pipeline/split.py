"""Sentences of one text, written for reading: what `pipeline/sentences.py` gives of many at once.

Its docstring says what the rules are. Tests hold the two equal.
"""

import re

from pipeline.stops import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    CLOSERS,
    CONTINUES,
    FIRST_CJK,
    FOLLOWERS,
    GREEK,
    HIRAGANA,
    LINE_ENDS,
    MAX_SHORT_LETTERS,
    MAX_WORD_BYTES,
    OPENERS,
    PLAIN_STOPS,
    SMALL,
    SPACES,
    STOPS,
)


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences that joined give the text: `"A b. C"` -> `["A b.", " C"]`."""
    cuts, begin = [0], _after_spaces(text, 0)
    for found in _CANDIDATE.finditer(text):
        cut = _cut_of(text, found, begin)
        if cut is not None:
            cuts.append(cut)
            begin = _after_spaces(text, cut)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < b]


# A semicolon beside Greek: its question mark.
_GREEK_MARK = f"(?<=[{GREEK}]);|;(?=[{SPACES}]+[{GREEK}])"
_CANDIDATE = re.compile(
    f"(?P<stops>(?:[{re.escape(STOPS)}]|{_GREEK_MARK})+)(?P<closers>[{re.escape(CLOSERS)}]*)"
    f"|[{SPACES}]+"
)
_GAP = re.compile(f"[{SPACES}]*")
_INITIALS = re.compile(r"[A-Za-z](?:\.[A-Za-z])*|[\u00c0-\u07ff]")


def _after_spaces(text: str, start: int) -> int:
    gap = _GAP.match(text, start)
    assert gap is not None
    return gap.end()


def _cut_of(text: str, found: "re.Match[str]", begin: int) -> int | None:
    """Return the cut that a candidate stands for, if it does; `begin`: of its sentence."""
    if found["stops"] is None:
        inside = begin < found.start() and found.end() < len(text)
        return found.start() if inside and set(found[0]) & set(LINE_ENDS) else None
    end, after = found.end(), _after_spaces(text, found.end())
    if after == len(text) or set(text[end:after]) & set(LINE_ENDS):
        return None  # the end; or a line end, which is the next candidate
    if after > end:
        return end if _ends_sentence(text, found, after, begin) else None
    return end if _parts_letters(text[found.end()], found) else None


def _parts_letters(follower: str, found: "re.Match[str]") -> bool:
    """Tell whether a stop ends a sentence that the next letter follows without a space."""
    point, stop, closers = ord(follower), found["stops"][-1], found["closers"]
    if not any(low <= point <= high for low, high in FOLLOWERS) or closers[-1:] == "'":
        return False
    if closers and HIRAGANA[0] <= point <= HIRAGANA[1]:
        return False  # a particle after a quotation
    return stop in PLAIN_STOPS or (stop in "!?;" and point >= FIRST_CJK)


def _ends_sentence(text: str, found: "re.Match[str]", after: int, begin: int) -> bool:
    """Tell whether a stop that white space follows ends a sentence."""
    stops, closers, follower = found["stops"], found["closers"], text[after]
    small = _is_small_letter(follower)
    if follower in CONTINUES:
        return False
    if stops[-1] in PLAIN_STOPS:
        return True
    if closers and small:
        return False
    if stops != ".":
        return bool(set(stops) & set("!?;")) or not small
    return _full_stop_ends(text, found.start(), after, begin)


def _full_stop_ends(text: str, stop: int, after: int, begin: int) -> bool:
    """Tell whether one full stop ends a sentence, by the words around it."""
    start = stop
    while start and stop - start <= MAX_WORD_BYTES and _in_word(text[start - 1]):
        start -= 1
    word, follower = text[start:stop], text[after]
    known = word.lower() in ABBREVIATIONS.split()
    if not word:
        return True
    if _is_small_letter(follower):
        return _is_small_letter(text[begin]) and len(word) > MAX_SHORT_LETTERS and not known
    numbered = follower in "0123456789" and word.lower() in BEFORE_NUMBERS.split()
    item = start == begin and set(word) <= set("0123456789.")
    if known or numbered or (item and len(word) <= MAX_WORD_BYTES):
        return False
    if _INITIALS.fullmatch(word) and len(word) <= MAX_WORD_BYTES:
        opener = re.match(r"[A-Za-z]*", text[after : after + MAX_WORD_BYTES + 1])
        return opener is not None and opener[0] in OPENERS.split()
    return True


def _is_small_letter(char: str) -> bool:
    return ord(char) < len(SMALL) and bool(SMALL[ord(char)])


def _in_word(char: str) -> bool:
    return (char.isascii() and char.isalnum()) or char == "." or "\u00c0" <= char <= "\u07ff"

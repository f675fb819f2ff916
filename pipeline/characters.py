"""What a character is to the rules: space, letter, mark at a sentence's end, and in which scripts.

The words and phrases that published rules look for stand here too, for the readable reference and
the compiled statistics read one list. Classes of letters and spaces are Python's own, so they
follow the Unicode version of the interpreter.
"""

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.code_points import CODE_POINTS, tabulate
from pipeline.signatures import character_class

SPACE, LETTER, ALPHABETIC, UNSPACED, UNMARKED, TERMINAL, CLOSING = (1 << n for n in range(7))

# Unicode's property Sentence_Terminal (PropList.txt 17.0): first and last code points.
_TERMINAL = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e "
    "1735-1736 17d4-17d5 1803 1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f "
    "1c3b-1c3c 1c7e-1c7f 2024 203c-203d 2047-2049 2cf9-2cfb 2e2e 2e3c 2e53-2e54 2e60-2e61 3002 "
    "a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe12 "
    "fe15-fe16 fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 "
    "110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 "
    "113d4-113d5 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 "
    "11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 "
    "16b44 16d6e-16d6f 16e98 1bc9f 1da88"
)

# An "end quotation mark" (C4, section 2.2), straight or typographic, also East Asian.
QUOTES = "\"'\u201d\u2019\u00bb\u300d\u300f"
_BRACKETS = ")]}\uff09\u3011\u300b"
# Scripts without spaces that also end no sentence with a mark of its own; Tibetan's stroke ends
# phrases as well. By the first word of a character's Unicode name.
_WITHOUT_MARKS = ("THAI", "LAO", "TIBETAN")

# Gopher, appendix A.1.1.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
# Gopher names none: those of datatrove's gopher_quality_filter.py.
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
# `_POLICY_SUBSTRINGS` of c4_utils.py in tensorflow/datasets.
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
# A line of at most so many characters is short: datatrove's fineweb_quality_filter.py.
SHORT_LINE = 30


@lru_cache(maxsize=1)
def terminal_marks() -> frozenset[str]:
    """Return the characters that end a sentence."""
    spans = [[int(end, 16) for end in span.split("-")] for span in _TERMINAL.split()]
    return frozenset(chr(code) for span in spans for code in range(span[0], span[-1] + 1))


@lru_cache(maxsize=2**16)
def classes_of(character: str) -> int:
    """Return the classes that a character belongs to, one bit each."""
    if character.isspace():
        return SPACE
    if not character.isalnum():
        closing = CLOSING if character in QUOTES or character in _BRACKETS else 0
        return closing | (TERMINAL if character in terminal_marks() else 0)
    found = LETTER | (ALPHABETIC if character.isalpha() else 0)
    # The second value says that a character is a word of its own.
    if character_class(character) == 2:
        found |= UNSPACED
        if unicodedata.name(character).startswith(_WITHOUT_MARKS):
            found |= UNMARKED
    return found


@lru_cache(maxsize=1)
def class_table() -> npt.NDArray[np.uint8]:
    """Tabulate the classes of every code point."""
    # Marks of a later Unicode than the interpreter's end sentences too.
    table = np.zeros(CODE_POINTS, np.uint8)
    return tabulate(table, classes_of.__wrapped__, terminal_marks())

"""The language of every document, by CLD2 on the beginning of its text.

CLD2 (Sites 2013) looks up quadgrams, for Chinese, Japanese and Korean single characters and pairs,
in tables that its package holds: nothing is downloaded, and equal texts get equal answers on every
machine. It knows some 160 languages. An answer is an ISO 639 code and the share of the text in that
language, whole percent; what CLD2 itself calls unreliable is `und`, ISO 639-2's word for it, with
share 0. What it costs and how often it is right beside other libraries: benchmarks/languages.py.

Codes are two letters where ISO 639-1 has them, else three. Both ways of writing Chinese are `zh`
and both forms are counted together; Norwegian is `no` for Bokmål and `nn` for Nynorsk.
"""

import re
from functools import cache

import numba
import numpy as np
import pyarrow as pa
import pycld2

from corpus.recipe import Languages
from pipeline.kernels import Int64s, UInt8s
from pipeline.rules import Failure
from pipeline.spans import bytes_of

# Raised by hand when a label, a score or what is said of a verdict changes.
VERSION = 2

UNDETERMINED = "und"
# The rule that a score below the least one fails.
SCORE = "language_score"

# What CLD2 reads first, and what where it finds that unreliable. Measured on English web posts and
# paragraphs of 11 languages (XQuAD): 500 and then 4,000 are right as often as 1,000 and then 4,000
# (99.2 % of both sets; 98 % without a second look) and take half the time.
_FIRST_CHARACTERS = 500
_MORE_CHARACTERS = 4000

# What CLD2 names otherwise than ISO 639 does: withdrawn codes, scripts, its own inventions. What
# follows a hyphen, a script or a country, is left off; "xx" with it is a script without a language.
_ISO_CODES = {
    "bh": "bih",
    "iw": "he",
    "jw": "jv",
    "un": UNDETERMINED,
    "xx": UNDETERMINED,
    "xxx": UNDETERMINED,  # what it was told to ignore
    "xx-Bugi": "bug",
    "xx-Goth": "got",
    "zzp": UNDETERMINED,  # Pig Latin
}

# What CLD2 refuses as no text for interchange: control characters and Unicode's noncharacters.
_REFUSED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0, 0x110000, 2**16))
    + "]"
)


def identify_batch(texts: pa.LargeStringArray | list[str]) -> list[tuple[str, int]]:
    """Return each text's language and the share of its beginning in that language, percent."""
    data, ends = bytes_of(pa.array(texts, pa.large_string()) if isinstance(texts, list) else texts)
    stops, view = _beginnings(data, ends, _FIRST_CHARACTERS).tolist(), data.data
    found = []
    for start, stop, end in zip(ends[:-1].tolist(), stops, ends[1:].tolist(), strict=True):
        answer = _detect(bytes(view[start:stop]))
        if answer[0] == UNDETERMINED and stop < end:
            more = str(view[start : min(end, start + 4 * _MORE_CHARACTERS)], "utf-8", "ignore")
            answer = _detect(more[:_MORE_CHARACTERS].encode())
        found.append(answer)
    return found


@numba.njit(cache=True)
def _beginnings(data: UInt8s, ends: Int64s, characters: int) -> Int64s:
    """Return where the first so many characters of each text end."""
    stops = np.empty(len(ends) - 1, np.int64)
    for t in range(len(ends) - 1):
        i, count = ends[t], 0
        while i < ends[t + 1]:
            count += (data[i] & 0xC0) != 0x80
            if count > characters:
                break
            i += 1
        stops[t] = i
    return stops


def find_language(text: str, *, plain: bool = True) -> tuple[str, int]:
    """Return the language of a whole text, or of the text of a page's markup, and its share."""
    return _detect(text.encode(), plain)


def _detect(text: bytes, plain: bool = True) -> tuple[str, int]:
    try:
        reliable, _, found = pycld2.detect(text, isPlainText=plain)
    except pycld2.error:
        allowed = _REFUSED.sub(" ", text.decode())
        reliable, _, found = pycld2.detect(allowed, isPlainText=plain)
    label = _iso_code(found[0][1])
    if not reliable or label == UNDETERMINED:
        return UNDETERMINED, 0
    return label, sum(share for _, code, share, _ in found if _iso_code(code) == label)


@cache
def _iso_code(code: str) -> str:
    base = code.partition("-")[0]
    return _ISO_CODES.get(code) or _ISO_CODES.get(base, base)


@cache
def known_labels() -> frozenset[str]:
    """Return every label that a text can get."""
    return frozenset(_iso_code(code) for _, code in pycld2.LANGUAGES) | {UNDETERMINED}


def check_languages(config: Languages) -> None:
    """Raise `ValueError` where something is said of languages that no text is ever found to be in.

    `keep` and the codes of `min_score` are looked at.
    """
    scores = config.min_score if isinstance(config.min_score, dict) else {}
    for key, codes in (("keep", config.keep), ("min_score", tuple(scores))):
        for code in codes:
            if code not in known_labels():
                near = sorted(label for label in known_labels() if label[:2] == code[:2])
                raise ValueError(
                    f"clean.languages.{key}: no text is ever labelled {code!r}; labels are ISO "
                    "639 codes, of two letters where a language has one"
                    + (f": did you mean {' or '.join(near)}?" if near else "")
                )


def language_failure(label: str, score: int, config: Languages) -> Failure | None:
    """Return why a document in this language does not stay, or None.

    One whose language is not kept was compared with no number: its label is the detail.
    """
    if config.keep and label not in config.keep:
        return Failure("language_not_kept", None, None, label)
    least = config.least_score(label)
    return Failure(SCORE, score, least, label) if score < least else None

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

import pyarrow as pa
import pyarrow.compute as pc
import pycld2

from corpus.recipe import Languages
from pipeline.rules import Failure

# Raised by hand when a label or a score changes.
VERSION = 1

UNDETERMINED = "und"

# Measured on the declaration of human rights in the languages CLD2 knows: benchmarks/languages.py.
_FIRST_CHARACTERS = 1000

# What CLD2 names otherwise than ISO 639 does: withdrawn codes, scripts, its own inventions.
_ISO_CODES = {
    "bh": "bih",
    "iw": "he",
    "jw": "jv",
    "un": UNDETERMINED,
    "xx-Bugi": "bug",
    "xx-Goth": "got",
    "zh-Hant": "zh",
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
    if isinstance(texts, list):
        return [_identify(text[:_FIRST_CHARACTERS]) for text in texts]
    beginnings = pc.utf8_slice_codeunits(texts, 0, _FIRST_CHARACTERS)
    return [_identify(text) for text in beginnings.to_pylist()]


def _identify(text: str) -> tuple[str, int]:
    try:
        reliable, _, found = pycld2.detect(text, isPlainText=True)
    except pycld2.error:
        reliable, _, found = pycld2.detect(_REFUSED.sub(" ", text), isPlainText=True)
    if not reliable:
        return UNDETERMINED, 0
    label = _ISO_CODES.get(found[0][1], found[0][1])
    if label == UNDETERMINED:
        return UNDETERMINED, 0
    return label, sum(share for _, code, share, _ in found if _ISO_CODES.get(code, code) == label)


def language_failure(label: str, score: int, config: Languages) -> Failure | None:
    """Return why a document in this language does not stay, or None."""
    if config.keep and label not in config.keep:
        return Failure("language_not_kept", score, config.min_score, label)
    if score < config.min_score:
        return Failure("language_score", score, config.min_score, label)
    return None

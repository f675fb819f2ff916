"""Which encoding a page is in that says nothing of it and is not UTF-8.

Resiliparse's detector (uchardet) guesses by the statistics of bytes. Three things are set right.
What it finds but the HTML standard does not name was lost as broken UTF-8: Korean's cp949 has
another name there, and code pages of DOS (865, 852), which no page is in, are Windows-1252 where
letters beyond ASCII stand alone, as in Latin script; elsewhere it stays what it is, broken. Guesses
that fit few languages, Baltic, Central European and the like, are believed only where CLD2 finds
the text, decoded so, in one of them; for the others they turn French or Swahili into Latvian, and
Windows-1252 is the standard's own answer where nothing is known. KOI8-R is read as KOI8-U, which
has the Ukrainian letters beside the Russian.

How often that is right, beside other libraries, and what it costs: benchmarks/encodings.py. Not
found: ISO-2022-KR and HZ, which are ASCII bytes, where no header names them.
"""

import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from pipeline.languages import find_language

# The standard's answer for most places where a page says nothing (HTML Living Standard, 13.2.3.2).
_COMMON = "cp1252"
# What the detector finds under a name that the standard has not, or too narrowly.
_NAMES = {"cp949": "cp949", "uhc": "cp949", "koi8-r": "koi8-u"}

_BALTIC = frozenset({"et", "lt", "lv"})
_CENTRAL = frozenset({"bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq", "sr"})
# The languages that an encoding of few is for, beside those that Windows-1252 writes the same way.
_FEW = {
    "cp1250": _CENTRAL,
    "cp1257": _BALTIC,
    "iso8859-2": _CENTRAL,
    "iso8859-3": frozenset({"eo", "mt"}),
    "iso8859-4": _BALTIC,
    "iso8859-10": _BALTIC,
    "iso8859-13": _BALTIC,
    "iso8859-16": _CENTRAL,
}
# Of a page, to tell its language; a guess that reaches beyond its head.
_LANGUAGE_CHARACTERS = 2**16

_HIGH = re.compile(rb"[\x80-\xff]")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")


def guess_encoding(page: bytes) -> str:
    """Return Python's name of the encoding that a page is in, which is not valid UTF-8."""
    found = (detect_encoding(page, html5_compatible=False) or "").lower()
    encoding = _NAMES.get(found) or (map_encoding_to_html5(found, False) if found else None)
    if encoding is None or encoding == "utf-8":
        return _COMMON if _is_latin(page) else "utf-8"
    if encoding in _FEW:
        text = page.decode(encoding, "replace")[:_LANGUAGE_CHARACTERS]
        if find_language(text, plain=False)[0] not in _FEW[encoding]:
            return _COMMON
    return encoding


def _is_latin(page: bytes) -> bool:
    """Tell whether most bytes beyond ASCII stand alone: of Latin scripts 71 to 100 % do.

    Of Cyrillic mixed with Latin letters 28 to 43 %, of other scripts and of UTF-8 hardly any
    (measured on the files of benchmarks/encodings.py).
    """
    return 2 * len(_ALONE.findall(page)) > len(_HIGH.findall(page))

"""How often the encoding of a page that names none is found, and at what speed.

`python -m benchmarks.encodings UDHR_ZIP UDHR_JSONL [--peers DIRECTORY...]` takes two sets. The
files of NLTK's `udhr.zip`, the declaration of human rights in some 300 languages in the bytes they
came in, their encoding in their names. And passages of 80, 150, 300 and 10,000 characters of its
Unicode edition in 45 languages, written in 22 encodings that pages of those languages were in. What
counts is the text: a guess is right where it decodes to the same.

Left out of the files are those in the private encodings of fonts, those that their stated encoding
cannot read, and UTF-16, which a byte-order mark tells. Where a name stands for two encodings
(`Latin2`: ISO 8859-2 or Windows-1250) it is the one without control characters in the text.

Peers: Resiliparse's detector alone, charset-normalizer, which comes with `requests`, and what lies
in DIRECTORY of chardet and cchardet. Prints right ones of all and MB/s (10^6 bytes a CPU second).
"""

import argparse
import importlib
import json
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import zstandard
from charset_normalizer import from_bytes
from resiliparse.parse.encoding import detect_encoding

from pipeline.html import PageError, decode_page

# By the end of a file's name. "Cyrillic" is nowhere ISO 8859-5 in these files.
_NAMED = {
    "Amahuaca": ("cp1252",),
    "Arabic": ("cp1256",),
    "Baltic": ("iso8859-4", "iso8859-13"),
    "Cyrillic": ("cp1251",),
    "Cyrillic+Abkh": ("cp1251",),
    "EUC": ("euc_jp",),
    "GB2312": ("gb18030",),
    "Greek": ("iso8859-7", "cp1253"),
    "HZ": ("hz",),
    "Hebrew": ("iso8859-8", "cp1255"),
    "Latin1": ("cp1252",),
    "Latin2": ("iso8859-2", "cp1250"),
    "SJIS": ("cp932",),
    "Turkish": ("cp1254",),
    "UTF8": ("utf-8",),
}
# Languages of the Unicode edition whose pages were written in an encoding.
_WRITTEN = {
    "big5": "cmn",
    "cp1250": "bos ces hrv hun pol ron slk slv sqi",
    "cp1251": "bel bul mkd rus srp ukr",
    "cp1252": "afr cat cos dan deu eus fao fin fra fry gle glg isl ita ltz nld nno nob oci por "
    "roh spa swe",
    "cp1253": "ell",
    "cp1254": "tur",
    "cp1255": "heb",
    "cp1256": "arb arz fas urd",
    "cp1257": "est lav lit",
    "cp1258": "vie",
    "cp874": "tha",
    "cp932": "jpn",
    "euc_jp": "jpn",
    "euc_kr": "kor",
    "gb18030": "cmn",
    "iso8859-13": "est lav lit",
    "iso8859-2": "bos ces hrv hun pol ron slk slv",
    "iso8859-4": "est lav lit",
    "iso8859-5": "bul mkd rus",
    "iso8859-7": "ell",
    "koi8-r": "bul rus",
    "koi8-u": "ukr",
}
_SIZES = (80, 150, 300, 10_000)
# Where passages begin, in characters, past the heading; and how far from one another.
_FIRST, _STEP, _LAST = 1000, 500, 6000


class Page(NamedTuple):
    """Bytes and the text that they are."""

    name: str
    data: bytes
    text: str


def files_of(path: str) -> list[Page]:
    """Return the files of the archive whose encoding is known."""
    pages = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            data = archive.read(name)
            stated = _NAMED.get(name.rpartition("/")[2].rpartition("-")[2], ())
            texts = [text for encoding in stated if (text := _read(data, encoding))]
            pages += [Page(name, data, text) for text in texts[:1]]
    return pages


def _read(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    return None if any("\x7f" < character < "\xa0" for character in text) else text


def passages_of(path: str, size: int) -> Iterator[Page]:
    """Write passages of the Unicode edition in other encodings, where those can."""
    with Path(path).open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        documents = [json.loads(line) for line in stream.read().splitlines()]
    for document in documents:
        text, base = document["text"], document["lang"].partition("_")[0]
        for encoding in (each for each, codes in _WRITTEN.items() if base in codes.split()):
            for start in range(_FIRST, min(len(text), _LAST), _STEP):
                passage = text[start : start + size]
                data = passage.encode(encoding, "ignore")
                if data.decode(encoding) == passage and not data.isascii():
                    yield Page(f"{document['lang']} {encoding}", data, passage)


def decode_as_we_do(data: bytes) -> str:
    """Decode a page that names no encoding."""
    try:
        return decode_page(data, None)
    except PageError:
        return ""


def decode_by(detect: Callable[[bytes], str | None]) -> Callable[[bytes], str]:
    """Return what decodes by another detector, UTF-8 where it finds nothing."""

    def decode(data: bytes) -> str:
        try:
            return data.decode(detect(data) or "utf-8", "replace")
        except LookupError:
            return ""

    return decode


def count_right(decode: Callable[[bytes], str], pages: list[Page]) -> int:
    """Count the pages that are decoded to their text."""
    return sum(decode(page.data).removeprefix("\ufeff") == page.text for page in pages)


def _normalizer(data: bytes) -> str | None:
    best = from_bytes(data).best()
    return best.encoding if best else None


def _detector(module: ModuleType) -> Callable[[bytes], str | None]:
    def detect(data: bytes) -> str | None:
        encoding: str | None = module.detect(data)["encoding"]
        return encoding

    return detect


def ways(directories: list[str]) -> dict[str, Callable[[bytes], str]]:
    """Return what is compared, by name."""
    found = {
        "maskline": decode_as_we_do,
        "resiliparse": decode_by(detect_encoding),
        "charset-normalizer": decode_by(_normalizer),
    }
    sys.path[:0] = directories
    for name in ("chardet", "cchardet") if directories else ():
        module = importlib.import_module(name)
        found[name] = decode_by(_detector(module))
    return found


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive")
    parser.add_argument("edition")
    parser.add_argument("--peers", nargs="+", default=[], help="directories of unpacked wheels")
    parsed = parser.parse_args()
    sets = {"files": files_of(parsed.archive)}
    sets |= {f"{size:,} characters": list(passages_of(parsed.edition, size)) for size in _SIZES}
    for name, decode in ways(parsed.peers).items():
        for kind, pages in sets.items():
            start = time.process_time()
            right = count_right(decode, pages)
            seconds = time.process_time() - start
            speed = sum(len(page.data) for page in pages) / 1e6 / seconds
            print(f"{name:>20} {kind:>18} {right:5,} of {len(pages):5,} right {speed:7.1f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The texts that a checkpoint is measured on: files of any format that the pipeline reads.

Reading stops at a bound of bytes, so that a whole corpus can be named; what cannot be read is
counted by reason. Texts of HTML pages are markup until the pipeline has taken them out: refused.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from corpus.archives import InputFile
from corpus.files import exists
from corpus.formats import ARCHIVES, sniff_format
from corpus.readers import read_records
from corpus.records import Damage

# A measure of this much text is stable to a thousandth, and takes a base model minutes. Guess.
DEFAULT_MAX_BYTES = 4 * 2**20
_MAX_RECORD_BYTES = 32 * 2**20  # as clean.max_record_bytes has it
_MARKUP = ("html", "warc", "wikipedia", *ARCHIVES)


@dataclass(frozen=True)
class Texts:
    """Texts in the order of the files, what was dropped by reason, and whether there was more."""

    texts: tuple[str, ...]
    dropped: Mapping[str, int]
    is_cut: bool


def read_texts(paths: Sequence[str], max_bytes: int = DEFAULT_MAX_BYTES) -> Texts:
    """Read the texts of files up to `max_bytes` of UTF-8, the last one cut; empty ones drop."""
    texts, dropped, left = list[str](), Counter[str](), max_bytes
    for found in chain.from_iterable(map(_texts_of, paths)):
        if isinstance(found, Damage):
            dropped[found.rule] += 1
        elif not found.strip():
            dropped["empty"] += 1
        elif left <= 0:
            return Texts(tuple(texts), dict(dropped), is_cut=True)
        else:
            data = found.encode()
            texts.append(data[:left].decode(errors="ignore") if len(data) > left else found)
            left -= len(data)
    if not texts:
        raise ValueError(f"{', '.join(paths)}: no text found, dropped {dict(dropped) or 'nothing'}")
    return Texts(tuple(texts), dict(dropped), is_cut=left < 0)


def check_text(path: str) -> None:
    """Refuse a path where nothing is."""
    if not exists(path):
        raise ValueError(f"there is no text file at {path}")


def _texts_of(path: str) -> Iterator[str | Damage]:
    check_text(path)
    form = sniff_format(path)
    if form in _MARKUP:
        raise ValueError(f"{path} is {form}: measure on text, such as a store's clean/*.parquet")
    with closing(InputFile(path)) as file:
        for found in read_records(file, form, _MAX_RECORD_BYTES):
            yield found if isinstance(found, Damage) else found.text

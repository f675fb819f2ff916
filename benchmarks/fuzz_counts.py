"""What a reader must have given of a file, counted from its bytes without any reader of ours.

A record that is lost leaves no trace in what is given, so rising positions alone do not show it.
Lines and paragraphs are counted exactly, pages of a dump by their tags, and of numbered records
none may be missing. What lies within a WARC, a table or an archive is their libraries' to tell: of
those only gaps are seen. Rows of CSV may hold newlines, so theirs are not counted.
"""

import codecs
import re
from collections.abc import Sequence
from itertools import groupby

from corpus.records import Damage, Record

_OPEN = re.compile(rb"<page[\s/>]")
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def check_counts(
    form: str, data: bytes, is_whole: bool, found: Sequence[Record | Damage], limit: int
) -> None:
    """Raise `ValueError` where a record of decompressed data is neither given nor dropped.

    Where the data is not whole, the archive broke behind it, and the last of `found` says so.
    """
    positions = [each.position for each in found]
    if form in ("warc", "wikipedia", "parquet", "arrow", "tar", "zip"):
        _check_gaps(found)
    if form == "wikipedia":
        _check_pages(data, is_whole, found)
    expected = _lines(form, data, is_whole, limit)
    if expected is None:
        return
    given = positions if is_whole else positions[:-1]
    if form == "tsv":
        # The header is no record, nor is what comes before it, unless it is broken.
        missing = sorted(set(expected) - set(given))
        header = missing[:1]
        expected = [each for each in expected if each not in header]
    if given != expected:
        raise ValueError(f"records at {given}, the file has them at {expected}")


def _check_gaps(found: Sequence[Record | Damage]) -> None:
    """Numbered records follow each other; a group of rows that broke is one drop for its rest."""
    last = 0
    may_jump = False
    for each in found:
        if each.position != last + 1 and not may_jump:
            raise ValueError(f"position {each.position} after {last}")
        last = each.position
        may_jump = isinstance(each, Damage) and each.rule == "corrupt_file"


def _check_pages(data: bytes, is_whole: bool, found: Sequence[Record | Damage]) -> None:
    """Every tag of a page is in a record or a drop, but for those of a page beyond the limit."""
    rules = {each.rule for each in found if isinstance(each, Damage)}
    pages = max(data.count(b"</page>"), len(_OPEN.findall(data)) if is_whole else 0)
    if len(found) < pages and not rules & {"xml_entities", "record_too_long"}:
        raise ValueError(f"{len(found)} records, the file has {pages} pages")


def _lines(form: str, data: bytes, is_whole: bool, limit: int) -> list[int] | None:
    """Return where the records of a format of lines stand; None of another format."""
    if form not in ("jsonl", "tsv", "paragraphs", "text", "html"):
        return None
    if form == "html" or (form == "text" and not is_whole):
        return [1] if is_whole else []
    if data.startswith(_WIDE_MARKS) or form == "text":
        return [1]
    lines = data.split(b"\n")
    # What the archive broke off is told by its damage.
    lines = lines if is_whole else lines[:-1]
    filled = [
        (number, bool(line.strip()) or len(line) > limit) for number, line in enumerate(lines, 1)
    ]
    if form != "paragraphs":
        return [number for number, is_filled in filled if is_filled]
    runs = groupby(filled, key=lambda each: each[1])
    starts = [next(run)[0] for is_filled, run in runs if is_filled]
    # A paragraph ends with a blank line: one that the break follows is not given.
    return starts[:-1] if not is_whole and filled and filled[-1][1] else starts

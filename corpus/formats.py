"""Which format a raw file has: by its name, then by its first bytes."""

import re
from contextlib import closing

from corpus.archives import SUFFIXES, CorruptArchiveError, InputFile
from corpus.cursor import Cursor

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".warc": "warc",
    ".wet": "warc",
    ".wat": "warc",
    ".arc": "warc",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".xml": "wikipedia",
    **dict.fromkeys((".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"), "tar"),
    ".zip": "zip",
}
TABLES = ("parquet", "arrow")
# Formats whose file is one document.
WHOLE = ("text", "html")
# Formats whose file holds files.
ARCHIVES = ("tar", "zip")
# Formats that are read at any place of a file and not from its beginning on.
SEEKING = (*TABLES, "zip")
# Archives that are not looked into, told so that nobody looks for a format of theirs.
_CLOSED = re.compile(r"\.(7z|rar)$")
# How much is looked at to tell a format. A Wikipedia dump says so in its first line.
SNIFF_BYTES = 4096
_SNIFFED = (
    # POSIX.1-2017, pax: "ustar" stands behind the name and numbers of a header. A zip is not looked
    # for: office documents, books and programs are zips too.
    (re.compile(rb"(?s:.{257})ustar"), "tar"),
    (re.compile(rb"PAR1"), "parquet"),
    (re.compile(rb"ARROW1|\xff\xff\xff\xff"), "arrow"),
    (re.compile(rb"WARC/\d|filedesc:"), "warc"),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<mediawiki[\s>]"), "wikipedia"),
    (
        re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype html|html)", re.I),
        "html",
    ),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\""), "jsonl"),
)


def detect_format(name: str) -> str:
    """Tell the format by a file's name; `ValueError` where it does not say."""
    found = format_by_name(name)
    if found is None and _CLOSED.search(name.lower()):
        raise ValueError(
            f"{name} is an archive that is not looked into, as tar and zip are: unpack it, and "
            "name the directory (files may be small and many)"
        )
    if found is None:
        raise ValueError(
            f"cannot tell the format of {name} by its name ({', '.join(_FORMATS)}, each also "
            f"{', '.join(SUFFIXES)}) nor by its first bytes: set the source's format, or let its "
            "paths leave the file out, as data/*.txt does of data/logo.png"
        )
    return found


def format_by_name(name: str) -> str | None:
    """Return the format that a file's name says, in any case; None where it says none."""
    stem = name.rsplit("/", 1)[-1].lower()
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return next((found for suffix, found in _FORMATS.items() if stem.endswith(suffix)), None)


def format_by_bytes(head: bytes) -> str | None:
    """Return the format that the first decompressed bytes of a file say; None where none."""
    return next((form for pattern, form in _SNIFFED if pattern.match(head)), None)


def sniff_format(path: str) -> str:
    """Tell the format of a file by its name, then by its first decompressed bytes."""
    found = format_by_name(path)
    if found is not None:
        return found
    with closing(InputFile(path)) as file:
        try:
            head = Cursor(file.chunks()).peek(SNIFF_BYTES)[:SNIFF_BYTES]
        except CorruptArchiveError:
            head = b""
    return format_by_bytes(head) or detect_format(path)

"""Wikipedia's XML dumps: every article becomes a record of wikitext.

A dump is never parsed as one document: pages are cut out by their tags, which cannot stand in an
escaped text, and each is parsed by itself. So memory is one page, a broken page is one drop, and a
document type, whose entities could grow without end, is refused wherever it stands (MediaWiki's
export has none). Nothing goes by unseen: a page that lacks one of its tags is a drop, so is what
stands between pages and is no page, and a dump that ends without its last tag is cut off. Articles
are namespace 0; redirects and other namespaces are drops with a rule.

Source: the export format 0.10 and 0.11, mediawiki.org/xml/export-0.11.xsd.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree

from corpus.cursor import Cursor
from corpus.records import Damage, Record, meta_of, too_long

_OPEN, _CLOSE = re.compile(rb"<page(?=[\s/>])"), b"</page>"
# Before the first page stand the root's tag and the site's namespaces: 10 KB in English.
_BETWEEN_BYTES = 2**20
_HEADER = re.compile(rb"(?:<mediawiki(?:\s[^>]*)?>|</siteinfo>)\Z")
_END = re.compile(rb"\s*</mediawiki\s*>\s*\Z")
_DECLARATIONS = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)


def read_wikipedia(
    cursor: Cursor, max_bytes: int, is_last: bool = True
) -> Iterator[Record | Damage]:
    """Give the articles of a dump, and a drop for every page that is none.

    A part of a dump that is not its last need not end with the dump's last tag.
    """
    if not cursor.peek(1):
        return
    while not cursor.ended:
        piece = cursor.until(_CLOSE, max_bytes + _BETWEEN_BYTES) or b""
        first = cursor.position + 1
        between, *pages = [b""] if isinstance(piece, int) else _cut(piece)
        if _DECLARATIONS.search(between):
            cursor.rest()
            yield Damage(first, "xml_entities", "a document type is not read")
            return
        if isinstance(piece, int):
            found: list[Record | Damage] = [too_long(first, piece, max_bytes)]
        elif cursor.ended:
            found = _read_end(between, pages, first) if is_last or piece else []
        else:
            found = _read_pages(between, pages, first, max_bytes)
        # Set before any of them is given: a part of the dump holds all of them or none.
        cursor.position += len(found)
        yield from found


def _cut(piece: bytes) -> list[bytes]:
    """Cut before every opening tag; what comes first is no page."""
    starts = [found.start() for found in _OPEN.finditer(piece)]
    return [piece[start:stop] for start, stop in pairwise([0, *starts, len(piece)])]


def _read_pages(
    between: bytes, pages: list[bytes], first: int, max_bytes: int
) -> list[Record | Damage]:
    """Read what a closing tag ended: one page, and what lost its place before it."""
    if not pages:
        return [Damage(first, "invalid_xml", "a page without its opening tag")]
    *broken, page = pages
    damages = _without_end(between, broken, first)
    position = first + len(damages)
    if len(page) > max_bytes:
        return [*damages, too_long(position, len(page), max_bytes)]
    return [*damages, _read_page(page + _CLOSE, position)]


def _read_end(between: bytes, pages: list[bytes], first: int) -> list[Record | Damage]:
    """Read what follows the last closing tag: the dump's own, or what is left of a page."""
    if pages:
        return [*_without_end(between, pages, first)]
    if first == 1:
        return [Damage(1, "invalid_xml", "no <page> in the file")]
    if _END.match(between):
        return []
    return [Damage(first, "invalid_xml", "the dump is cut off: it ends without </mediawiki>")]


def _without_end(between: bytes, pages: list[bytes], first: int) -> list[Damage]:
    """Give the damage of what is no page and of pages that another one follows."""
    between = between.strip()
    details = ["a page without an end"] * len(pages)
    if between and not _HEADER.search(between):
        details.insert(0, f"{len(between)} bytes that are no page")
    return [Damage(first + n, "invalid_xml", detail) for n, detail in enumerate(details)]


def _read_page(data: bytes, position: int) -> Record | Damage:
    if _DECLARATIONS.search(data):
        # Escaped in text, so this is markup of the file itself.
        return Damage(position, "xml_entities", "a document type is not read")
    try:
        page = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return Damage(position, "invalid_xml", str(error))
    title = page.findtext("title") or ""
    revisions = page.findall("revision")
    reason = _reason_to_drop(page, revisions)
    if reason is not None:
        rule, detail = reason
        return Damage(position, rule, f"{title}{detail}")
    said = {
        "title": title,
        "revision": revisions[-1].findtext("id"),
        "timestamp": revisions[-1].findtext("timestamp"),
    }
    meta = meta_of({name: value for name, value in said.items() if value})
    text = revisions[-1].findtext("text") or ""
    key = page.findtext("id") or title or None
    return Record(position, key, text, None, None, meta, "wikitext")


def _reason_to_drop(
    page: ElementTree.Element, revisions: list[ElementTree.Element]
) -> tuple[str, str] | None:
    """Return the rule, and what it found, by which a page is no article."""
    namespace = page.findtext("ns") or "0"
    if namespace != "0":
        return "wikipedia_namespace", f" (namespace {namespace})"
    if page.find("redirect") is not None:
        return "wikipedia_redirect", ""
    if not revisions:
        return "invalid_record", ": no revision"
    model = revisions[-1].findtext("model") or "wikitext"
    return None if model == "wikitext" else ("wikipedia_model", f": {model}")

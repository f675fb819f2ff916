"""Wikipedia's XML dumps: every article becomes a record of wikitext.

A dump is never parsed as one document: pages are cut out by their tags, which cannot stand in an
escaped text, and each is parsed by itself. So memory is one page, a broken page is one drop, and a
document type, whose entities could grow without end, is refused wherever it stands (MediaWiki's
export has none). Articles are namespace 0; redirects and other namespaces are drops with a rule.

Source: the export format 0.10 and 0.11, mediawiki.org/xml/export-0.11.xsd.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from corpus.cursor import Cursor
from corpus.records import Damage, Record, meta_of, too_long

_OPEN, _CLOSE = b"<page>", b"</page>"
# Between pages stand newlines, and the site's namespaces before the first: 10 KB in English.
_BETWEEN_BYTES = 2**20
_DECLARATIONS = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)


def read_wikipedia(cursor: Cursor, max_bytes: int) -> Iterator[Record | Damage]:
    """Give the articles of a dump, and a drop for every page that is none."""
    while (between := cursor.until(_OPEN, _BETWEEN_BYTES)) is not None:
        if isinstance(between, bytes) and _DECLARATIONS.search(between):
            cursor.rest()
            yield Damage(cursor.position + 1, "xml_entities", "a document type is not read")
            return
        if cursor.ended:
            if cursor.position == 0:
                yield Damage(1, "invalid_xml", "no <page> in the file")
            return
        page = cursor.until(_CLOSE, max_bytes)
        cursor.position += 1
        if isinstance(page, int):
            yield too_long(cursor.position, page, max_bytes)
        elif cursor.ended:
            yield Damage(cursor.position, "invalid_xml", "a page without an end")
        else:
            yield _read_page(_OPEN + (page or b"") + _CLOSE, cursor.position)


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

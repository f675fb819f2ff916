"""Wikitext becomes the text that a reader of the page would read.

What goes: comments, references, formulas, galleries, templates, tables, files, categories, links to
other languages, tags, sections of which nothing is left. What stays: prose, headings, lists and the
words of links, one line each as the page has them. Templates go unexpanded, as mwparserfromhell's
`strip_code` drops them, so a number that `{{convert|...}}` writes is missing from its sentence.

Why not a parser: mwparserfromhell takes 3.5 seconds for 10 kB of tables that do not end, its time
growing faster than the page, and reads an encyclopedia with 1 MB/s. Here every step is a pass of
one regular expression that cannot look beyond the next bracket, so time is linear in the page
whatever it holds; nested markup is taken from the inside out in a bounded number of passes.
benchmarks/html.py compares both.
"""

import html
import re
from collections.abc import Callable

# Raised by hand when the text of a page changes.
VERSION = 1

# Passes over nested brackets: templates nest about ten deep on Wikipedia. Guess.
_PASSES = 20

_REDIRECT = re.compile(r"\s*#\s?redirect\b", re.IGNORECASE)
# A comment without an end runs to the end of the page, as in MediaWiki.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# Elements whose content is no prose: MediaWiki's own and those of its usual extensions.
_DROPPED = re.compile(
    r"<(/?)(ref|math|chem|gallery|timeline|score|imagemap|hiero|syntaxhighlight|source|graph|mapframe"
    r"|maplink|templatestyles|references|inputbox|categorytree|noinclude|style)\b([^<>]*)>",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"\{\{\{[^{}]*\}\}\}|\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|[^{}]*\|\}")
_WEB_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\[\]]*\s?([^\[\]]*)\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[([^\[\]|]*)((?:\|[^\[\]|]*)*)\]\]")
_FILE = re.compile(
    r"\s*(?:file|image|category|media)\s*:|[^.]*\.(?:jpe?g|png|svg|gif|tiff?|webp|ogg|og[av]|webm)\s*$",
    re.IGNORECASE,
)
# A wiki in another language: [[de:Berlin]]. Categories of any language stand on lines of their own.
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*:")
_LONE_NAMESPACE = re.compile(r"^\[\[[^\[\]|:\n]+:[^\[\]\n]*\]\]$", re.MULTILINE)
_NEWLINE_TAG = re.compile(r"<(?:br|hr|/?p|/?div|/?li|/?blockquote)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_EMPHASIS = re.compile("'{2,}")
_SWITCH = re.compile(r"__[A-Z]{3,30}__")
# What dropped templates leave behind: "Lisboa (, )".
_EMPTY_BRACKETS = re.compile(r" ?\([ ,;:]*\)")
_STRAY = re.compile(r"(?:\{\{|\}\}|\[\[|\]\])[{}\[\]]*")
_CELL = ("|", "{|")
_MARKERS = "*#:; \t"


def wikitext_text(text: str) -> str:
    """Return the readable text of a page's wikitext; a redirect has none."""
    if _REDIRECT.match(text):
        return ""
    text = _drop_elements(_COMMENT.sub("", text))
    text = _TABLE.sub("", _repeat(_TEMPLATE, "", text))
    text = _WEB_LINK.sub(r"\1", _LONE_NAMESPACE.sub("", text))
    text = _repeat(_LINK, _words_of_link, text)
    text = _TAG.sub("", _NEWLINE_TAG.sub("\n", text))
    text = _EMPTY_BRACKETS.sub("", _SWITCH.sub("", _EMPHASIS.sub("", text)))
    return html.unescape("\n".join(_lines(_STRAY.sub("", text)))).strip()


def _repeat(
    pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], text: str
) -> str:
    for _ in range(_PASSES):
        text, count = pattern.subn(replacement, text)
        if not count:
            break
    return text


def _drop_elements(text: str) -> str:
    """Drop elements with their content; one without an end loses its tag alone."""
    tags = list(_DROPPED.finditer(text))
    last_end = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    kept, position, inside = [], 0, ""
    for tag in tags:
        name = tag[2].lower()
        if inside:
            if not tag[1] or name != inside:
                continue
            inside = ""
        else:
            kept.append(text[position : tag.start()])
            opens = not tag[1] and not tag[3].endswith("/")
            inside = name if opens and last_end.get(name, -1) > tag.start() else ""
        position = tag.end()
    return "".join(kept) + text[position:]


def _words_of_link(link: re.Match[str]) -> str:
    target, rest = link[1], link[2]
    if _FILE.match(target) or (not rest and _LANGUAGE.match(target)):
        return ""
    words = rest.rpartition("|")[2].strip()
    return words or target.strip().removeprefix(":")


def _lines(text: str) -> list[str]:
    """Return the lines without their markers; cells of broken tables and empty sections go."""
    kept: list[str] = []
    below = 0  # the level of what comes next: 0 for nothing, 7 for text
    for full in reversed(text.split("\n")):
        line = full.strip()
        if line.startswith("!") or line.lstrip(_MARKERS).startswith(_CELL):
            continue
        if len(line) > 2 and line[0] == line[-1] == "=":
            title = line.strip("=")
            level = min(len(line) - len(line.lstrip("=")), 6)
            if title and level < below:
                kept.append(title.strip())
                below = level
            continue
        kept.append(line.lstrip(_MARKERS))
        below = 7 if kept[-1] else below
    return kept[::-1]

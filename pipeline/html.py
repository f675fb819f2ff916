"""A web page becomes the text of its main content.

Resiliparse (Bevendorff et al. 2018) parses as browsers do and leaves out navigation, comments and
forms. Two steps of ours follow. Elements whose class names them captions, cookie notices and the
like are left out, unless little would stay. Then the lines before the first and after the last
piece of prose go: of all runs of lines the one with the highest sum of words, each line first
paying for itself (maximum subsequence segmentation, Pasternack and Roth 2009); a line that heads
what follows articles ("Related stories") pays for a paragraph, a notice of cookies counts against
the run. How much of an
article this finds, and its speed beside trafilatura's: benchmarks/html.py. Titles and top headings
are not in the text; `PageText.title` has the title. It does not run scripts.

Hostile pages: what Resiliparse takes quadratic time for, elements nested deep and elements of many
attributes, a compiled loop over the bytes finds first, and the page is refused.
"""

import codecs
import re
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from pipeline.encodings import guess_encoding
from pipeline.kernels import UInt8s

# Raised by hand when the text of a page changes.
VERSION = 3


# Measured: 2,000 elements in one another take 0.04 s, 20,000 take 6 s. Browsers stop at 512
# (Chromium), but the count here goes too far where end tags are missing: 1,018 on a real page.
_MAX_DEPTH = 2048
# Measured: 5,000 attributes take 0.05 s, 100,000 minutes. The most on 301 real pages is 867, where
# a quote inside a quoted script hides the end of a tag.
_MAX_ATTRIBUTES = 4096
# Measured: an element with its text takes 590 bytes of memory, an attribute 300, however few they
# take in the page: 2**19 of them 0.3 GB. The most on 336 real pages is 70,535.
_MAX_NODES = 2**19
# Guess: text in a wrong encoding has some of these characters, what is no text has many.
_MAX_BROKEN_PERCENT = 5

# Left out beside what Resiliparse leaves out. Chosen one by one on the article extraction
# benchmark: with the trim they raise F1 there from 0.934 to 0.961, and from 0.953 to 0.964 on
# Readability's pages, where no name was taken that lowered it by more than 0.0002 but "caption".
_FURNITURE = [
    "h1",
    "[id*=cookie]",
    "[itemprop=description]",
    *(
        f"[class*={part}]"
        for part in (
            *("banner", "caption", "consent", "cookie", "copyright", "credit", "footer", "gallery"),
            *("media", "more-", "newsletter", "photo", "popular", "print", "related", "share"),
            "signup",
        )
    ),
]
# An article shorter than this is extracted once more with everything. Guess: five sentences.
_SHORT_CHARACTERS = 500

_WORDS = re.compile(r"\w+")
# Scripts that write no spaces: Thai, Lao, kana, Han. Three characters count as a word. Guess.
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
# What a line pays, in words: best of 3 to 20 on both sets of pages.
_LINE_WORDS = 4

# What heads the blocks that follow an article. Chosen where English pages of the article extraction
# benchmark went on too long; F1 there rises from 0.961 to 0.965, on Readability's pages by 0.0002.
_LIST = r"(?:related|similar|recommended|trending|latest|(?:most )?popular|top|more|other|see also)"
_ITEMS = (
    r"(?:articles?|stor(?:y|ies)|news|posts?|links|topics|content|reading|coverage|videos?|items)"
)
_HEADING = re.compile(
    rf"{_LIST}\W{{0,2}}(?:{_ITEMS}|coverage|headlines|categories|from .{{1,40}})?:?"
    r"|(?:\d+ )?(?:comments?|responses?)(?: \(\d+\))?:?|leave a (?:comment|reply)"
    r"|you (?:may|might) also (?:like|enjoy).{0,20}|(?:share this|follow us).{0,20}"
    r"|about the author:?|post navigation|filed under:?|tags?:?|back to top",
    re.IGNORECASE,
)
_HEADING_CHARACTERS = 60
_HEADING_WORDS = 60  # with 40 to 150 F1 is within 0.0005 on both sets of pages
_COOKIES = re.compile(r"\bcookies?\b", re.IGNORECASE)
_NOTICE = re.compile(r"\b(?:web)?site\b|privacy|accept|consent|agree", re.IGNORECASE)
_NOTICE_CHARACTERS = 600  # a guess: longer lines are of articles about cookies

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What leads to two-byte letters in ISO-2022-JP; no page has it for another reason.
_JAPANESE_SHIFT = b"\x1b$"
# As browsers look for it: in the first 1,024 bytes (HTML Living Standard, 13.2.3.2).
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.I)
_META_BYTES = 1024
_LANGUAGE = re.compile(r"[a-z]{2,3}(?![a-z])")


class PageText(NamedTuple):
    """The main text of a page, its title and the language that its root element states."""

    text: str
    title: str | None
    language: str | None


class PageError(Exception):
    """A page that no text can be taken from: the rule it breaks, and what was found."""

    def __init__(self, rule: str, detail: str) -> None:
        """Keep the rule and the detail for a drop record."""
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


def page_text(page: bytes, charset: str | None) -> PageText:
    """Return the main content of a page whose HTTP header names the charset, if any."""
    markup = decode_page(page, charset)
    _check_markup(markup)
    tree = HTMLTree.parse(markup)
    root = tree.document.query_selector("html") if tree.document else None
    stated = root.getattr("lang") if root else None
    found = _LANGUAGE.match(stated.strip().lower()) if stated else None
    title = " ".join((tree.title or "").split())
    return PageText(_trim(_extract(tree)), title or None, found[0] if found else None)


def decode_page(page: bytes, charset: str | None) -> str:
    """Decode by byte-order mark, as UTF-8 if it is, as header or meta tag say, or as it looks.

    Bytes that are valid UTF-8 are hardly ever anything else, while wrong declarations are common,
    so validity goes before them. Only encodings that the HTML standard names are believed.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if page.startswith(mark):
            return _check_text(page[len(mark) :].decode(encoding, "replace"))
    declared = _declared(page, charset)
    # ISO-2022 writes Japanese and Korean in ASCII bytes, which are valid UTF-8 too.
    shifted = [encoding for encoding in declared if encoding.startswith("iso2022")]
    if not declared and _JAPANESE_SHIFT in page:
        shifted = ["iso2022_jp"]
    for encoding in (*shifted, "utf-8", *declared):
        try:
            return _check_text(page.decode(encoding))
        except UnicodeDecodeError:
            continue
    guessed = declared[0] if declared else guess_encoding(page)
    return _check_text(page.decode(guessed, "replace"))


def _declared(page: bytes, charset: str | None) -> list[str]:
    """Return Python's names of the encodings that the header and the page state."""
    meta = _META_CHARSET.search(page[:_META_BYTES])
    labels = (charset, meta[1].decode() if meta else None)
    found = [map_encoding_to_html5(label.strip(), False) for label in labels if label]
    # The standard's rule: a meta tag that can be read as ASCII cannot be in UTF-16.
    return [encoding for encoding in found if encoding and (encoding[:6] != "utf-16" or not meta)]


def _check_text(markup: str) -> str:
    broken = markup.count("\ufffd") + markup.count("\0")
    if 100 * broken > _MAX_BROKEN_PERCENT * len(markup):
        raise PageError("page_not_text", f"{broken} of {len(markup)} characters are broken")
    return markup


def _check_markup(markup: str) -> None:
    depth, attributes, nodes = _measure(np.frombuffer(markup.encode(), np.uint8), _NAMES)
    if depth > _MAX_DEPTH:
        raise PageError("page_too_deep", f"{depth} elements in one another")
    if attributes > _MAX_ATTRIBUTES:
        raise PageError("page_too_many_attributes", f"{attributes} in one element")
    if nodes > _MAX_NODES:
        raise PageError("page_too_many_elements", f"{nodes} tags, comments and attributes")


def _extract(tree: HTMLTree) -> str:
    text = _main_content(tree, _FURNITURE)
    if len(text) < _SHORT_CHARACTERS:
        whole = _main_content(tree, [])
        text = whole if len(whole) > 2 * len(text) else text
    return text


def _main_content(tree: HTMLTree, left_out: list[str]) -> str:
    return extract_plain_text(
        tree,
        main_content=True,
        list_bullets=False,
        alt_texts=False,
        comments=False,
        post_meta=False,
        skip_elements=left_out,
    )


def _trim(text: str) -> str:
    """Return the run of lines that are worth most together."""
    lines = text.split("\n")
    best, first, last = 0, 0, len(lines)
    total, start = 0, 0
    for number, line in enumerate(lines):
        if total <= 0:
            total, start = 0, number
        total += _worth(line)
        if total > best:
            best, first, last = total, start, number + 1
    return "\n".join(lines[first:last]).strip()


def _worth(line: str) -> int:
    """Return three times the words of a line, less what it pays."""
    words = 3 * len(_WORDS.findall(line)) + len(_UNSPACED.findall(line))
    if not words:
        return 0
    stripped = line.strip()
    if len(stripped) < _HEADING_CHARACTERS and _HEADING.fullmatch(stripped):
        return -3 * _HEADING_WORDS
    if len(line) < _NOTICE_CHARACTERS and _COOKIES.search(line) and _NOTICE.search(line):
        return -words
    return words - 3 * _LINE_WORDS


def _name_keys() -> npt.NDArray[np.uint64]:
    """Return the names of elements that need no end tag, as `_measure` reads names."""
    void = "area base br col embed hr img input link meta param source track wbr"
    unsaid = "p li dt dd tr td th thead tbody tfoot option optgroup rp rt colgroup html head body"
    names = [name[:8].encode() for name in (void + " " + unsaid).split()]
    return np.array([int.from_bytes(name, "big") for name in names], np.uint64)


_NAMES = _name_keys()


@numba.njit(cache=True)
def _measure(data: UInt8s, unclosed: npt.NDArray[np.uint64]) -> tuple[int, int, int]:
    """Return the deepest nesting, the most attributes of an element and all that there is, about.

    All is tags, comments and attributes.
    """
    depth, deepest, most, nodes, i = 0, 0, 0, 0, 0
    while i + 1 < len(data):
        i += 1
        if data[i - 1] != 0x3C:
            continue
        nodes += 1
        closes = data[i] == 0x2F
        i += 1 if closes else 0
        name, start = np.uint64(0), i
        while i < len(data) and 0x61 <= (data[i] | 0x20) <= 0x7A and i < start + 8:
            name = (name << np.uint64(8)) | np.uint64(data[i] | 0x20)
            i += 1
        if i == start:
            continue
        nests = True
        for other in unclosed:
            nests = nests and name != other
        if nests:
            depth = max(depth - 1, 0) if closes else depth + 1
            deepest = max(deepest, depth)
        quote, gap, attributes = np.uint8(0), False, 0
        while i < len(data) and (quote or data[i] != 0x3E):
            byte = data[i]
            if quote:
                quote = np.uint8(0) if byte == quote else quote
            elif byte in (0x22, 0x27) and data[i - 1] == 0x3D:
                quote = byte
            elif byte <= 0x20 or byte == 0x2F:
                gap = True
            elif gap:
                attributes, gap = attributes + 1, False
            i += 1
        most = max(most, attributes)
        nodes += attributes
    return deepest, most, nodes

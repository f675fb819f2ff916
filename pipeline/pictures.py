"""Markup of the report: escaped text, tables, pictures as SVG, and how all of it looks.

Everything that is not `Html` is escaped where it enters a page, so nothing a document, an id or a
file name holds can become markup. Characters that a reader cannot see (controls, overrides of the
writing direction) are spelled out as [U+202E]. The output is HTML that is well-formed XML too, so a
test can parse it. Pictures are a few hundred pixels wide, to be read on a phone, and take their
colours from the page. They hold no ids, clocks or fonts: the same numbers give the same bytes.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

# XML has no place for some of these, and the others change how what follows is read.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef"
    "\ufeff\ufffe\uffff\ud800-\udfff]"
)
_LONGEST_NAME = 160
_LONGEST_LABEL = 56
_WIDTH = 420
# Characters: enough to see what differs, and a few kilobytes a pair.
_BEFORE, _EXCERPT = 120, 600
# White space, one character of a script without spaces (Thai to Tibetan, Myanmar, Khmer, kana, CJK)
# or a run of anything else.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORDS = re.compile(rf"\s+|[{_UNSPACED}]|[^\s{_UNSPACED}]+")

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1b1b;--soft:#5b5b5b;--line:#d5d5d5;
--kept:#2171b5;--duplicate:#c44601;--rule:#8a8a8a;--mark:#ffe08a;--outside:#c00000}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--text:#e8e8e8;--soft:#a8a8a8;
--line:#3c4046;--kept:#6baed6;--duplicate:#fd9a52;--rule:#8f959c;--mark:#6b5200;--outside:#ff7b72}}
body{margin:0 auto;padding:1rem;max-width:60rem;background:var(--page);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);
padding-top:1rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}
nav ul{padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none}a{color:var(--kept)}
.wide{overflow-x:auto;margin:.8rem 0}table{border-collapse:collapse;font-size:.9rem}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;
border-bottom:1px solid var(--line);font-weight:400}
thead th{color:var(--soft);overflow-wrap:normal}tbody th,td{min-width:6rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tbody .n{min-width:0}
figure{margin:1rem 0;max-width:34rem}figcaption,.soft{color:var(--soft);font-size:.9rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--text);font:12px system-ui,sans-serif}
svg .soft{fill:var(--soft);font-size:11px}.kept{fill:var(--kept)}.duplicate{fill:var(--duplicate)}
.rule{fill:var(--rule)}.grid{stroke:var(--line)}.curve{fill:none;stroke:var(--soft);
stroke-dasharray:5 3}.range{stroke:var(--kept);stroke-width:1.5}.range.out{stroke:var(--outside)}
.out{fill:var(--outside)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.8rem}
.pair p{margin:0}blockquote{margin:.3rem 0;padding:.6rem;border:1px solid var(--line);
white-space:pre-wrap;font-size:.9rem}mark{background:var(--mark);color:inherit}
"""

# No script runs and nothing is fetched, should markup ever get in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already and goes into a page as it is."""

    __slots__ = ()


Cell = Html | str | int | float | None


class Bar(NamedTuple):
    """One line of a bar picture: values laid end to end, `whole` fills the width."""

    label: str
    values: tuple[int, ...]
    whole: int


class Bin(NamedTuple):
    """One bin of a distribution: from `low` to below `high`, and how many documents lie there."""

    low: float
    high: float
    documents: int


class Point(NamedTuple):
    """A measured share with the interval that holds it by chance, all at `place`."""

    place: float
    value: float
    low: float
    high: float


def escape(text: str) -> Html:
    """Return text as markup: nothing in it is a tag, and nothing is hidden."""
    seen = _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    return Html(html.escape(seen))


def name(text: str) -> Html:
    """Return an id or a file name as markup, cut to a bounded length, with a direction apart."""
    more = "\u2026" if len(text) > _LONGEST_NAME else ""
    return Html(f"<bdi>{escape(text[:_LONGEST_NAME] + more)}</bdi>")


def place(snapshot: str, file: str, position: int) -> Html:
    """Return where a record lies."""
    return Html(f"{escape(snapshot)}: {name(file)}, record {position:,}")


def show(value: Cell) -> Html:
    """Return a value as a reader wants to see it; what is absent is a dash."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("\u2013")
    if isinstance(value, int):
        return Html(f"{value:,}")
    return Html(f"{value:.6g}") if isinstance(value, float) else escape(value)


def percent(part: float, whole: float) -> Html:
    """Return a share, or a dash of nothing."""
    return Html(f"{100 * part / whole:.1f} %") if whole else show(None)


def join(pieces: Iterable[Html]) -> Html:
    """Put markup one after another."""
    return Html("\n".join(pieces))


def mark_differences(left: str, right: str) -> tuple[Html, Html]:
    """Return excerpts of two texts from about their first difference, differing words marked."""
    start = _excerpt_start(left, right)
    one, other = (_WORDS.findall(text[start : start + _EXCERPT]) for text in (left, right))
    steps = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    is_cut = max(len(left), len(right)) > start + _EXCERPT
    if is_cut and len(steps) > 1 and steps[-1][0] != "equal":
        steps.pop()  # may differ only as the excerpts end at other words
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, *bounds in steps:
        for side, words, place in zip(sides, (one, other), (bounds[:2], bounds[2:]), strict=True):
            found = escape("".join(words[slice(*place)]))
            side.append(f"<mark>{found}</mark>" if found and kind != "equal" else found)
    before, after = ("\u2026" if more else "" for more in (start, is_cut))
    return Html(before + "".join(sides[0]) + after), Html(before + "".join(sides[1]) + after)


def _excerpt_start(left: str, right: str) -> int:
    """Return where the excerpts begin: at a word some way before the first difference."""
    unequal = (n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    first = next(unequal, min(len(left), len(right)))
    if left == right or first <= _BEFORE:
        return 0
    return left.find(" ", first - _BEFORE, first) + 1 or first - _BEFORE


def heading(text: str) -> Html:
    """Return a heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def side_by_side(titles: Sequence[Html], texts: Sequence[Html]) -> Html:
    """Return texts beside each other, or below where there is no room."""
    sides = "".join(
        f'<div><p class="soft">{title}</p><blockquote dir="auto">{text}</blockquote></div>'
        for title, text in zip(titles, texts, strict=True)
    )
    return Html(f'<div class="pair">{sides}</div>')


def paragraph(text: str) -> Html:
    """Return a paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def page(title: str, head: Html, sections: Mapping[str, tuple[str, Iterable[Html]]]) -> str:
    """Return a whole document: title, head, links to its sections, the sections by anchor."""
    links = "".join(
        f'<li><a href="#{anchor}">{escape(link)}</a></li>' for anchor, (link, _) in sections.items()
    )
    contents = Html(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    top = Html(f"<h1>{escape(title)}</h1>")
    parts = [_section(anchor, *given) for anchor, given in sections.items()]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{join([top, head, contents, *parts])}\n</main></body></html>\n"
    )


def _section(anchor: str, title: str, content: Iterable[Html]) -> Html:
    top = f'<h2 id="{anchor}-title">{escape(title)}</h2>'
    start = f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    return join([Html(start), Html(top), *content, Html("</section>")])


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Html:
    """Return a table whose first column names its rows; numbers stand to the right."""
    body = [list(row) for row in rows]
    if not body:
        return paragraph(f"{caption}: none.")
    figures = [
        any(_is_figure(row[n]) for row in body)
        and all(row[n] is None or _is_figure(row[n]) for row in body)
        for n in range(len(head))
    ]
    titles = "".join(
        f'<th scope="col"{_kind(right)}>{escape(title)}</th>'
        for title, right in zip(head, figures, strict=True)
    )
    lines = [_row(row, figures) for row in body]
    label = escape(caption)
    return join(
        [
            Html(f'<div class="wide" role="region" aria-label="{label}" tabindex="0"><table>'),
            Html(f"<caption>{label}</caption><thead><tr>{titles}</tr></thead><tbody>"),
            *lines,
            Html("</tbody></table></div>"),
        ]
    )


def _is_figure(value: Cell) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Html) and value.endswith(" %"))


def _kind(right: bool) -> str:
    return ' class="n"' if right else ""


def _row(row: Sequence[Cell], figures: Sequence[bool]) -> Html:
    first = f'<tr><th scope="row"{_kind(figures[0])}>{show(row[0])}</th>'
    rest = "".join(
        f"<td{_kind(right)}>{show(value)}</td>"
        for value, right in zip(row[1:], figures[1:], strict=True)
    )
    return Html(f"{first}{rest}</tr>")


def bars(title: str, kinds: Sequence[tuple[str, str]], rows: Sequence[Bar]) -> Html:
    """Draw bars under their labels; `kinds` are class and meaning of the values of each."""
    top = 24 if len(kinds) > 1 else 0
    parts = [_legend(kinds)] if top else []
    for number, row in enumerate(rows):
        base = top + 36 * number
        label = row.label[:_LONGEST_LABEL] + "\u2026" * (len(row.label) > _LONGEST_LABEL)
        parts.append(f'<text x="0" y="{base + 13}">{escape(label)}</text>')
        start = 0.0
        for (kind, _), value in zip(kinds, row.values, strict=True):
            width = _WIDTH * value / row.whole if row.whole else 0.0
            if not value:
                continue
            parts.append(
                f'<rect class="{kind}" x="{start:.1f}" y="{base + 18}" '
                f'width="{width:.1f}" height="11"/>'
            )
            start += width
    return _figure(title, top + 36 * len(rows), parts)


def histogram(title: str, bins: Sequence[Bin], threshold: float | None, side: str) -> Html:
    """Draw counts by bin, those that a threshold lets pass, if there is one, apart from the others.

    `side` says what the threshold is: the least (`min`) or the greatest (`max`) value that passes.
    """
    left, top, width, height = 10, 8, _WIDTH - 20, 110
    most = max((each.documents for each in bins), default=0) or 1
    step = width / len(bins)
    parts = []
    for number, each in enumerate(bins):
        beyond = threshold is not None and (
            each.low < threshold if side == "min" else each.low > threshold
        )
        # What is there is seen, however little.
        tall = max(height * each.documents / most, 1.5) if each.documents else 0.0
        parts.append(
            f'<rect class="{"rule" if beyond else "kept"}" x="{left + step * number:.1f}" '
            f'y="{top + height - tall:.1f}" width="{max(step - 1, 1):.1f}" height="{tall:.1f}"/>'
        )
    for number in range(0, len(bins), -(-len(bins) // 6)):
        parts.append(
            f'<text class="soft" x="{left + step * number:.1f}" y="{top + height + 16}">'
            f"{bins[number].low:.3g}</text>"
        )
    if threshold is not None:
        inside = next(
            n for n, each in enumerate(bins) if threshold < each.high or n == len(bins) - 1
        )
        share = (threshold - bins[inside].low) / (bins[inside].high - bins[inside].low)
        x = left + step * (inside + min(share, 1.0))
        parts.append(
            f'<line class="curve" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height + 4}"/>'
        )
    return _figure(title, top + height + 24, parts)


def _legend(kinds: Sequence[tuple[str, str]]) -> str:
    step = _WIDTH // len(kinds)
    return "".join(
        f'<rect class="{kind}" x="{step * n}" y="2" width="11" height="11"/>'
        f'<text class="soft" x="{step * n + 16}" y="12">{escape(meaning)}</text>'
        for n, (kind, meaning) in enumerate(kinds)
    )


def shares(title: str, curve: Sequence[tuple[float, float]], points: Sequence[Point]) -> Html:
    """Draw measured shares with their intervals beside a curve; both axes are shares.

    The horizontal axis goes from the first to the last place of the curve, which rises.
    """
    left, top, width, height = 38, 8, _WIDTH - 50, 190
    first, last = curve[0][0], curve[-1][0]

    def across(place: float) -> float:
        return left + width * (place - first) / (last - first)

    def down(share: float) -> float:
        return top + height * (1 - share)

    parts = []
    for n in range(6):
        y, place = down(n / 5), first + (last - first) * n / 5
        parts += [
            f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="soft" x="0" y="{y + 4:.1f}">{20 * n} %</text>',
            f'<text class="soft" x="{across(place):.1f}" y="{top + height + 18}" '
            f'text-anchor="middle">{place:.3g}</text>',
        ]
    line = " ".join(f"{across(place):.1f},{down(share):.1f}" for place, share in curve)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    for point in points:
        x, inside = across(point.place), point.low <= point.value <= point.high
        kinds = ("range", "kept") if inside else ("range out", "out")
        parts += [
            f'<line class="{kinds[0]}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{down(point.low):.1f}" y2="{down(point.high):.1f}"/>',
            f'<circle class="{kinds[1]}" cx="{x:.1f}" cy="{down(point.value):.1f}" r="3.5"/>',
        ]
    return _figure(title, top + height + 26, parts)


def _figure(title: str, height: int, parts: Sequence[str]) -> Html:
    label = escape(title)
    return join(
        [
            Html(f'<figure><svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {height}">'),
            Html(f"<title>{label}</title>"),
            *map(Html, parts),
            Html(f"</svg><figcaption>{label}</figcaption></figure>"),
        ]
    )

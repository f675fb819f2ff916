"""Markup for a page that opens without a network: escaped text, tables, curves as SVG.

Everything from outside passes `text`, so no label or path can become markup; characters that turn
the writing direction are spelled out. The page's own policy forbids scripts and anything fetched.
Output is well-formed XML too. The same numbers give the same bytes.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_LONGEST = 120  # characters of a name
_FIGURES = 28  # characters of a cell that stands to the right in one line; longer ones are prose
_WIDTH, _HEIGHT = 460, 240  # of a picture, to be read on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
_TICKS = 4
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

# Colours told apart by people who see no red or green: Okabe and Ito 2008.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1a1a1a;--soft:#595959;--line:#d8d8d8;
--heat:0,114,178;--bad:213,94,0}
@media (prefers-color-scheme:dark){:root{--page:#15171a;--text:#e9e9e9;--soft:#a9a9a9;
--line:#3a3e44;--heat:86,180,233;--bad:230,140,60}}
body{margin:0 auto;padding:1rem;max-width:64rem;background:var(--page);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem}h2{font-size:1.25rem;margin-top:2.5rem;padding-top:1rem;
border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .3rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;margin:.6rem 0}
caption{text-align:left;color:var(--soft)}th,td{padding:.2rem .7rem .2rem 0;text-align:left;
border-bottom:1px solid var(--line);font-weight:400;vertical-align:top}thead th{color:var(--soft)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.first th,tr.first td{font-weight:600}.soft{color:var(--soft);font-size:.9rem}
.confusion td{padding:.2rem .5rem}.charts{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fit,minmax(18rem,1fr))}figure{margin:0}
figcaption{color:var(--soft);font-size:.9rem}svg{width:100%;max-width:36rem;height:auto;display:block}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}.grid{stroke:var(--line)}
.key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem}
nav a{margin-right:1rem;color:inherit}
"""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


class Curve(NamedTuple):
    """A line through points, one of a family that shares its colour and name."""

    family: str
    points: tuple[tuple[float, float], ...]


def text(value: str) -> Markup:
    """Return a name as markup in which nothing is a tag and nothing hidden; a long one is cut."""
    return _escaped(value if len(value) <= _LONGEST else value[:_LONGEST] + "\u2026")


def _escaped(value: str) -> Markup:
    return Markup(html.escape(_UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", value)))


def page(title: str, sections: Iterable[tuple[str, Markup]]) -> str:
    """Return a whole document."""
    parts = list(sections)
    links = "".join(f'<a href="#s{n}">{text(name)}</a>' for n, (name, _) in enumerate(parts))
    body = "\n".join(
        f'<section id="s{n}"><h2>{text(name)}</h2>\n{content}\n</section>'
        for n, (name, content) in enumerate(parts)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{text(title)}</h1>\n<nav>{links}</nav>\n{body}\n</main></body></html>\n"
    )


def paragraph(content: str) -> Markup:
    """Return a small paragraph."""
    return Markup(f'<p class="soft">{_escaped(content)}</p>')


def heading(content: str) -> Markup:
    """Return a heading within a section."""
    return Markup(f"<h3>{text(content)}</h3>")


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], first: int = -1
) -> Markup:
    """Return a table: names and prose to the left, figures right; the row `first` stands out."""
    kept = list(rows)
    prose = {n for row in kept for n, cell in enumerate(row) if n == 0 or len(cell) > _FIGURES}
    kinds = ["" if n in prose else ' class="n"' for n in range(len(head))]
    titles = "".join(
        f'<th scope="col"{kind}>{text(name)}</th>' for kind, name in zip(kinds, head, strict=True)
    )
    lines = []
    for number, row in enumerate(kept):
        cells = "".join(
            f"<td{kind}>{text(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True)
        )
        mark = ' class="first"' if number == first else ""
        lines.append(f'<tr{mark}><th scope="row">{text(row[0])}</th>{cells}</tr>')
    return Markup(
        f'<div class="wide"><table><caption>{text(caption)}</caption><thead><tr>{titles}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Return a confusion matrix, shaded by the share of the true label; blue is right."""
    head = "".join(f'<th scope="col" class="n">{text(label)}</th>' for label in labels)
    lines = []
    for number, (label, row) in enumerate(zip(labels, counts, strict=True)):
        whole = sum(row) or 1
        cells = "".join(
            f'<td class="n" style="background:rgba(var(--{"heat" if at == number else "bad"}),'
            f'{0.75 * count / whole:.2f})">{count:,}</td>'
            for at, count in enumerate(row)
        )
        lines.append(f'<tr><th scope="row">{text(label)}</th>{cells}</tr>')
    return Markup(
        '<div class="wide"><table class="confusion"><caption>true label down, predicted across'
        f'</caption><thead><tr><th scope="col"></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def chart(title: str, across: str, curves: Sequence[Curve], percent: bool = False) -> Markup:
    """Draw curves; those of a family have one colour, and a word in the legend."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return paragraph(f"{title}: nothing was measured.")
    families = list(dict.fromkeys(curve.family for curve in curves))
    colors = {name: _COLORS[n % len(_COLORS)] for n, name in enumerate(families)}
    bounds = _bounds([x for x, _ in points]), _bounds([y for _, y in points])
    drawn = [*_axes(bounds, percent)]
    for curve in curves:
        color = colors[curve.family]
        placed = [_place(point, bounds) for point in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(placed) < 16:
            drawn += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{color}"/>' for x, y in placed
            ]
    legend = "".join(
        f'<span class="key" style="background:{color}"></span>{text(name)}'
        for name, color in colors.items()
    )
    label = text(title)
    return Markup(
        f'<figure><figcaption>{label}{legend}</figcaption><svg role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><title>{label}</title>{"".join(drawn)}'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{text(across)}</text>'
        "</svg></figure>"
    )


def charts(pictures: Iterable[Markup]) -> Markup:
    """Put pictures beside each other where there is room."""
    return Markup(f'<div class="charts">{"".join(pictures)}</div>')


Bounds = tuple[tuple[float, float], tuple[float, float]]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    around = 0.05 * abs(low) or 0.05  # of a lone value
    return (low, high) if high > low else (low - around, high + around)


def _place(point: tuple[float, float], bounds: Bounds) -> tuple[float, float]:
    (left, right), (low, high) = bounds
    x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (point[0] - left) / (right - left)
    y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - point[1]) / (high - low)
    return x, y


def _axes(bounds: Bounds, percent: bool) -> Iterable[str]:
    (left, right), (low, high) = bounds
    for n in range(_TICKS + 1):
        across, up = left + (right - left) * n / _TICKS, low + (high - low) * n / _TICKS
        x, y = _place((across, up), bounds)
        shown = f"{100 * up:.1f}" if percent else f"{up:.3g}"
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>'
        yield (
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{across:,.4g}'
            "</text>"
        )

"""Pages and pictures of evaluation: escaped text, tables, intervals and curves as SVG.

A page opens without a network and runs no script. Everything that is not `Html` is escaped where
it enters, so no name or text can become markup. Pictures hold no clock, id or font: the same
numbers give the same bytes; their colours follow the reader's light or dark setting.
"""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# Controls, overrides of the writing direction, and halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_WIDTH = 520
_CURVES = ("one", "two", "three", "four", "five", "six")

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1b1b;--soft:#5b5b5b;--line:#d5d5d5;
--one:#2171b5;--two:#c44601;--three:#2a7f3b;--four:#7b3fa0;--five:#8a6d00;--six:#5b5b5b}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--text:#e8e8e8;--soft:#a8a8a8;
--line:#3c4046;--one:#6baed6;--two:#fd9a52;--three:#74c476;--four:#c39ae0;--five:#d9b84a;
--six:#a8a8a8}}
body{margin:0 auto;padding:1rem;max-width:60rem;background:var(--page);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);
padding-top:1rem}
.wide{overflow-x:auto;margin:.8rem 0}table{border-collapse:collapse;font-size:.9rem}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;
border-bottom:1px solid var(--line);font-weight:400}thead th{color:var(--soft)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:1rem 0;max-width:40rem}figcaption{color:var(--soft);font-size:.9rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--text);font:12px system-ui,sans-serif}
svg .soft{fill:var(--soft);font-size:11px}.grid{stroke:var(--line)}.zero{stroke:var(--soft)}
polyline{fill:none;stroke-width:1.8}
""" + "".join(
    f".{name}{{fill:var(--{name});stroke:var(--{name})}}polyline.{name}{{fill:none}}"
    for name in _CURVES
)  # fmt: skip
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already and goes into a page as it is."""

    __slots__ = ()


Cell = Html | str | int | float | None


class Span(NamedTuple):
    """A value with its interval, one line of a picture."""

    label: str
    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """Named points of a curve, from left to right."""

    label: str
    points: tuple[tuple[float, float], ...]


def escape(text: str) -> Html:
    """Return text as markup: nothing in it is a tag, and nothing is hidden."""
    seen = _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    return Html(html.escape(seen))


def show(value: Cell) -> Html:
    """Return a value as a reader wants to see it; what is absent is a dash."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("\u2013")
    if isinstance(value, int):
        return Html(f"{value:,}")
    return Html(f"{value:.4f}") if isinstance(value, float) else escape(value)


def paragraph(text: str) -> Html:
    """Return a paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Html:
    """Return a table whose first column names its rows; numbers stand to the right."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return Html(
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>\n{lines}\n</tbody></table></div>"
    )


def _cell(value: Cell) -> str:
    kind = ' class="n"' if isinstance(value, int | float) else ""
    return f"<td{kind}>{show(value)}</td>"


def page(title: str, sections: Mapping[str, Iterable[Html]]) -> bytes:
    """Return a whole document: a title, and sections under their headings."""
    parts = [
        "\n".join([f"<section><h2>{escape(name)}</h2>", *content, "</section>"])
        for name, content in sections.items()
    ]
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )
    return text.encode()


def spans(title: str, rows: Sequence[Span]) -> Html:
    """Draw values with their intervals, a line each, beside a line at zero."""
    low = min(0.0, *(row.low for row in rows))
    high = max(0.0, *(row.high for row in rows))
    width = high - low or 1.0

    def across(value: float) -> float:
        return 10 + (_WIDTH - 20) * (value - low) / width

    bottom = 40 * len(rows) + 4
    parts = [_line("zero", (across(0), 0), (across(0), bottom))]
    for number, row in enumerate(rows):
        y = 40 * number + 28
        parts += [
            f'<text x="0" y="{y - 14}">{escape(row.label)}</text>',
            _line("one", (across(row.low), y), (across(row.high), y)),
            f'<circle class="one" cx="{across(row.value):.1f}" cy="{y}" r="4"/>',
        ]
    for value in sorted({low, 0.0, high}):
        anchor = "start" if value == low else "end" if value == high else "middle"
        parts.append(
            f'<text class="soft" x="{across(value):.1f}" y="{bottom + 14}" '
            f'text-anchor="{anchor}">{value:.3g}</text>'
        )
    return _figure(title, bottom + 20, parts)


def curves(title: str, across_name: str, lines: Sequence[Curve]) -> Html:
    """Draw curves over one axis; at most six, each with its own colour and name."""
    if len(lines) > len(_CURVES):
        raise ValueError(f"{len(lines)} curves in one picture, at most {len(_CURVES)} fit")
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    left, top, width, height = 56, 20 * len(lines) + 6, _WIDTH - 66, 220
    first, last = (pick([x for x, _ in points], default=0.0) for pick in (min, max))
    low, high = (pick([y for _, y in points], default=0.0) for pick in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * (x - first) / ((last - first) or 1.0),
            top + height * (high - y) / ((high - low) or 1.0),
        )

    parts = []
    for step in range(5):
        x, y = first + (last - first) * step / 4, low + (high - low) * step / 4
        at = place(x, y)
        parts += [
            _line("grid", (left, at[1]), (left + width, at[1])),
            f'<text class="soft" x="0" y="{at[1] + 4:.1f}">{y:.4g}</text>',
            f'<text class="soft" x="{at[0]:.1f}" y="{top + height + 16}" '
            f'text-anchor="{"start" if step == 0 else "middle" if step < 4 else "end"}">'
            f"{_short(x)}</text>",
        ]
    for number, (kind, line) in enumerate(zip(_CURVES, lines, strict=False)):
        at_points = [place(*point) for point in line.points if math.isfinite(point[1])]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at_points)
        parts += [
            f'<rect class="{kind}" x="0" y="{20 * number}" width="11" height="11"/>',
            f'<text x="18" y="{20 * number + 10}">{escape(line.label)}</text>',
            f'<polyline class="{kind}" points="{path}"/>',
            *(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in at_points),
        ]
    parts.append(
        f'<text class="soft" x="{left + width}" y="{top + height + 32}" text-anchor="end">'
        f"{escape(across_name)}</text>"
    )
    return _figure(title, top + height + 38, parts)


def _short(value: float) -> str:
    """Write a large number in a few characters: 2500000 -> 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return (
        f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" '
        f'x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    )


def _figure(title: str, height: float, parts: Sequence[str]) -> Html:
    label = escape(title)
    return Html(
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}">\n' + "\n".join(parts) + "\n</svg>"
        f"<figcaption>{label}</figcaption></figure>"
    )

"""Draws means with their intervals beside zero, a line each: on which side do they lie?"""

from collections.abc import Sequence
from typing import NamedTuple

from pretrain.evaluation.drawing import Markup, paragraph, text
from pretrain.evaluation.verdicts import Interval

_WIDTH, _LINE = 460, 40
# Blue and orange are told apart by people who see no red or green: Okabe and Ito 2008.
_COLORS = {"agrees": "#0072b2", "disagrees": "#d55e00", "undecided": "#7f7f7f"}


class Row(NamedTuple):
    """One interval, its name and its verdict, which colours it."""

    label: str
    interval: Interval
    verdict: str


def draw_intervals(title: str, rows: Sequence[Row]) -> Markup:
    """Draw intervals on one axis that holds zero."""
    if not rows:
        return paragraph(f"{title}: nothing was measured.")
    low = min(0.0, *(row.interval.low for row in rows))
    high = max(0.0, *(row.interval.high for row in rows))
    width, bottom = (high - low) or 1.0, _LINE * len(rows) + 6

    def across(value: float) -> str:
        return f"{8 + (_WIDTH - 16) * (value - low) / width:.1f}"

    zero = across(0.0)
    parts = [f'<line class="grid" x1="{zero}" x2="{zero}" y1="0" y2="{bottom}"/>']
    for number, (label, interval, verdict) in enumerate(rows):
        y, color = _LINE * number + 30, _COLORS[verdict]
        parts += [
            f'<text x="0" y="{y - 14}">{text(f"{label}: {verdict}")}</text>',
            f'<line x1="{across(interval.low)}" x2="{across(interval.high)}" y1="{y}" y2="{y}" '
            f'stroke="{color}" stroke-width="2"/>',
            f'<circle cx="{across(interval.mean)}" cy="{y}" r="4" fill="{color}"/>',
        ]
    for value in sorted({low, 0.0, high}):
        anchor = "start" if value == low else "end" if value == high else "middle"
        parts.append(
            f'<text x="{across(value)}" y="{bottom + 12}" text-anchor="{anchor}">{value:.3g}</text>'
        )
    label = text(title)
    return Markup(
        f'<figure><figcaption>{label}</figcaption><svg role="img" aria-label="{label}" '
        f'viewBox="0 0 {_WIDTH} {bottom + 18}"><title>{label}</title>{"".join(parts)}</svg>'
        "</figure>"
    )

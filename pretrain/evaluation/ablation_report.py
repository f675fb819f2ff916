"""An ablation for the eye: tables and verdicts in the terminal and on one page.

Both are made from the values of results.json alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretrain.evaluation import pages
from pretrain.evaluation.pages import Cell, Html, Span
from pretrain.evaluation.published import LOSS, NUMBERS, TITLES, Table
from pretrain.evaluation.verdicts import mean_interval

_READING = (
    "A verdict is on one published order: it agrees or disagrees where the whole interval of the "
    "paired difference lies on one side of zero, else it is undecided. Without any difference one "
    "verdict in twenty would be decided at 95 %."
)
_STAND_IN = (
    "Losses of settings with different packings are compared on the rows of packings that neither "
    "was trained on. The paper compares these settings by tasks only: the loss is a stand-in."
)


_WHAT = ("setting", "batch", "steps", "rate", "passes")


def render(values: Mapping[str, Any]) -> bytes:
    """Return the page of an ablation."""
    sections = {"How to read it": _reading(values)}
    for table in _tables(values):
        sections[TITLES[table]] = _section(values, table)
    return pages.page("Ablations", sections)


def _reading(values: Mapping[str, Any]) -> Iterator[Html]:
    yield pages.paragraph(_READING)
    stores = [
        (
            name,
            each["snapshot"],
            each["train_rows"],
            f"{each['row_tokens']:.1f}",
            each["fingerprint"],
        )
        for name, each in values["stores"].items()
    ]
    head = ("packing", "snapshot", "training rows", "tokens a row", "fingerprint")
    yield pages.table(f"Model {values['preset']}, seeds {values['seeds']}; stores", head, stores)


def _section(values: Mapping[str, Any], table: Table) -> Iterator[Html]:
    if table == "formats":
        yield pages.paragraph(_STAND_IN)
    for caption, head, rows in _measures(values, table):
        yield pages.table(caption, head, rows)
    found = _comparisons(values, table)
    rows = [
        (
            f"{each['better']} over {each['worse']}", each["measure"], _place(each),
            each["gain"]["mean"], _interval(each["gain"]), each["verdict"], each["claim"],
        )
        for each in found
    ]  # fmt: skip
    head = ("order in the paper", "by", "measured on", "gain", "interval", "verdict", "claim")
    yield pages.table(f"Verdicts at {values['confidence']:.0%}", head, rows)
    for measure in dict.fromkeys(each["measure"] for each in found):
        drawn = [
            Span(f"{each['better']} over {each['worse']}: {each['verdict']}", **_span(each["gain"]))
            for each in found
            if each["measure"] == measure
        ]
        yield pages.spans(f"Gain by {measure}, to the right as in the paper", drawn)


def _span(gain: Mapping[str, float]) -> dict[str, float]:
    return {"value": gain["mean"], "low": gain["low"], "high": gain["high"]}


def show_table(values: Mapping[str, Any]) -> str:
    """Return tables and verdicts as text."""
    lines = []
    for table in _tables(values):
        lines += ["", TITLES[table]]
        for caption, head, rows in _measures(values, table):
            lines += [f"  {caption}", *_columns(head, rows)]
        verdicts = [
            (f"{each['better']} over {each['worse']}", each["measure"],
             f"{each['gain']['mean']:+.4f}", _interval(each["gain"]), each["verdict"])
            for each in _comparisons(values, table)
        ]  # fmt: skip
        lines += _columns(("order in the paper", "by", "gain", "interval", "verdict"), verdicts)
    return "\n".join(lines[1:])


def _columns(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    texts = [list(head), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "    "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.4f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _measures(
    values: Mapping[str, Any], table: Table
) -> Iterator[tuple[str, tuple[str, ...], list[tuple[Cell, ...]]]]:
    """Give a table a measure: settings, what they were, mean with interval, the paper's number."""
    settings = [each for each in values["settings"] if each["table"] == table]
    own = values["own_packing"]
    places = settings[0]["losses"][0] if table == "formats" else (own,)
    for place in places:
        rows = [
            (*_what(each), *_loss(each, place, values), _printed(each, LOSS)) for each in settings
        ]
        head = (*_WHAT, "perplexity", "loss", "interval", "in the paper")
        yield f"Loss on validation rows of {place}", head, rows
    for task in settings[0]["scores"][0]:
        scored = [
            (*_what(each), *_score(each, task, values), _printed(each, task)) for each in settings
        ]
        yield f"Score on {task}", (*_WHAT, "score", "interval", "in the paper"), scored


def _printed(setting: Mapping[str, Any], measure: str) -> Cell:
    """Give the paper's number for a setting, or None."""
    table: Table = setting["table"]
    return NUMBERS[table][setting["name"]].get(measure)


def _what(setting: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        setting["name"],
        setting["batch_sequences"],
        setting["steps"],
        f"{setting['learning_rate']:g}",
        f"{setting['passes']:.1f}",
    )


def _loss(setting: Mapping[str, Any], packing: str, values: Mapping[str, Any]) -> tuple[Cell, ...]:
    found = mean_interval([each[packing] for each in setting["losses"]], values["confidence"])
    return f"{math.exp(found.mean):.2f}", found.mean, _interval(found._asdict())


def _score(setting: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> tuple[Cell, ...]:
    found = mean_interval([each[task] for each in setting["scores"]], values["confidence"])
    return found.mean, _interval(found._asdict())


def _interval(gain: Mapping[str, float]) -> str:
    return f"{gain['low']:.4f} to {gain['high']:.4f}"


def _place(comparison: Mapping[str, Any]) -> str:
    return ", ".join(comparison["measured_on"]) or "validation examples"


def _tables(values: Mapping[str, Any]) -> list[Table]:
    return [table for table in TITLES if any(each["table"] == table for each in values["settings"])]


def _comparisons(values: Mapping[str, Any], table: Table) -> list[Mapping[str, Any]]:
    return [each for each in values["comparisons"] if each["table"] == table]

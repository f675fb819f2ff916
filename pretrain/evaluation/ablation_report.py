"""An ablation for the eye: tables and verdicts in the terminal and on one page.

Both are made from the values of results.json alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretrain.evaluation.drawing import Markup, page, paragraph, table
from pretrain.evaluation.intervals import Row, draw_intervals
from pretrain.evaluation.published import LOSS, NUMBERS, TITLES, Table
from pretrain.evaluation.verdicts import Interval, mean_interval
from pretrain.metrics import perplexity

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
    sections = [("How to read it", _reading(values))]
    sections += [(TITLES[table], _section(values, table)) for table in _tables(values)]
    return page("Ablations", sections).encode()


def _reading(values: Mapping[str, Any]) -> Markup:
    stores = [
        (name, each["snapshot"], f"{each['train_rows']:,}", f"{each['row_tokens']:.1f}",
         each["fingerprint"][:16])
        for name, each in values["stores"].items()
    ]  # fmt: skip
    head = ("packing", "snapshot", "training rows", "tokens a row", "fingerprint")
    seeds = ", ".join(map(str, values["seeds"]))
    caption = f"Stores; the model is {values['preset']}, the seeds are {seeds}"
    return Markup(paragraph(_READING) + table(caption, head, stores))


def _section(values: Mapping[str, Any], asked: Table) -> Markup:
    parts = [paragraph(_STAND_IN)] if asked == "formats" else []
    parts += [table(*each) for each in _measures(values, asked)]
    found = _comparisons(values, asked)
    rows = [
        (_order(each), each["measure"], _gain(each), _interval(each["gain"]), each["verdict"],
         _place(each), each["claim"] + ("" if each["numbers_in_paper"] else "; by its text"))
        for each in found
    ]  # fmt: skip
    head = ("order in the paper", "by", "gain", "interval", "verdict", "measured on", "why")
    parts.append(table(f"Verdicts, intervals of {values['confidence']:.0%}", head, rows))
    for measure in dict.fromkeys(each["measure"] for each in found):
        drawn = [
            Row(_order(each), Interval(**each["gain"]), each["verdict"])
            for each in found
            if each["measure"] == measure
        ]
        parts.append(draw_intervals(f"Gain by {measure}; to the right as in the paper", drawn))
    return Markup("\n".join(parts))


def _order(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['better']} over {comparison['worse']}"


def _gain(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['gain']['mean']:+.4f}"


def show_table(values: Mapping[str, Any]) -> str:
    """Return tables and verdicts as text."""
    lines = []
    for asked in _tables(values):
        lines += ["", TITLES[asked]]
        for caption, head, rows in _measures(values, asked):
            lines += [f"  {caption}", *_columns(head, rows)]
        verdicts = [
            (_order(each), each["measure"], _gain(each), _interval(each["gain"]), each["verdict"])
            for each in _comparisons(values, asked)
        ]
        lines += [f"  Verdicts, intervals of {values['confidence']:.0%}"]
        lines += _columns(("order in the paper", "by", "gain", "interval", "verdict"), verdicts)
    return "\n".join(lines[1:])


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    texts = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["    " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]


_Lines = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def _measures(values: Mapping[str, Any], asked: Table) -> Iterator[_Lines]:
    """Give a table a measure: settings, what they were, mean with interval, the paper's number."""
    settings = [each for each in values["settings"] if each["table"] == asked]
    places = settings[0]["losses"][0] if asked == "formats" else (values["own_packing"],)
    for place in places:
        rows = [(*_what(each), *_loss(each, place, values)) for each in settings]
        head = (*_WHAT, "perplexity", "loss", "interval", "perplexity in paper")
        yield f"Loss on validation rows of {place}, nats", head, rows
    for task in settings[0]["scores"][0]:
        scored = [(*_what(each), *_score(each, task, values)) for each in settings]
        yield f"Score on {task}", (*_WHAT, "score", "interval", "in paper, percent"), scored


def _printed(setting: Mapping[str, Any], measure: str) -> str:
    """Give the paper's number for a setting, or a dash."""
    asked: Table = setting["table"]
    found = NUMBERS[asked][setting["name"]].get(measure)
    return "-" if found is None else f"{found:g}"


def _what(setting: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        setting["name"],
        f"{setting['batch_sequences']:,}",
        f"{setting['steps']:,}",
        f"{setting['learning_rate']:g}",
        f"{setting['passes']:.1f}",
    )


def _loss(setting: Mapping[str, Any], place: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    found = mean_interval([each[place] for each in setting["losses"]], values["confidence"])
    shown = f"{perplexity(found.mean):.2f}", f"{found.mean:.4f}", _interval(found._asdict())
    return *shown, _printed(setting, LOSS)


def _score(setting: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    found = mean_interval([each[task] for each in setting["scores"]], values["confidence"])
    return f"{found.mean:.4f}", _interval(found._asdict()), _printed(setting, task)


def _interval(gain: Mapping[str, float]) -> str:
    return f"{gain['low']:.4f} to {gain['high']:.4f}"


def _place(comparison: Mapping[str, Any]) -> str:
    return ", ".join(comparison["measured_on"]) or "validation examples"


def _tables(values: Mapping[str, Any]) -> list[Table]:
    found = {each["table"] for each in values["settings"]}
    return [asked for asked in TITLES if asked in found]


def _comparisons(values: Mapping[str, Any], asked: Table) -> list[Mapping[str, Any]]:
    return [each for each in values["comparisons"] if each["table"] == asked]

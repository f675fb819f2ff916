"""The report's pages on cleaning: languages, and what the rules looked at.

For every rule the distribution of its statistic over the newest deliveries is drawn with the
threshold marked, and beside it stand the documents nearest to it on both sides: of those dropped
their place and value, as no table holds their text, of those kept an excerpt too. Both come from a
few parts of least hash, so the page costs the same whatever the size of the corpus.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.snapshots import PartEntry
from pipeline import pictures
from pipeline.distributions import bins_of
from pipeline.explain import Store
from pipeline.judging import statistics_table
from pipeline.parquet import first_rows
from pipeline.pictures import Bar, Html, heading, name, paragraph, percent, table
from pipeline.report_drops import Rows, choose_drops
from pipeline.rules import BY_NAME, Rule, thresholds
from pipeline.samples import rank, some_parts, where

_BARS = 24  # more are no picture any more; the table has all
_PARTS, _EXAMPLES, _SAMPLE = 2, 2, 1000
_EXCERPT = 200  # characters

Nearest = dict[str, Rows]


def languages(stats: Mapping[str, Any]) -> Iterator[Html]:
    """Show the languages of what passed the rules, by source."""
    found: Mapping[str, Mapping[str, int]] = stats.get("languages", {})
    total = sum(map(Counter[str], found.values()), Counter[str]())
    if not total:
        yield paragraph("No language was looked for in this snapshot's own deliveries.")
        return
    ordered = sorted(total, key=lambda label: (-total[label], label))
    most = total[ordered[0]]
    drawn = [Bar(f"{each}: {total[each]:,}", (total[each],), most) for each in ordered[:_BARS]]
    title = "Documents that passed the rules, by language"
    yield pictures.bars(title, (("kept", "documents"),), drawn)
    rows = [
        (source, label, count, percent(count, sum(counts.values())))
        for source, counts in sorted(found.items())
        for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    yield table(title, ("source", "language", "documents", "share of the source"), rows)


def changed_texts(stats: Mapping[str, Any]) -> Iterator[Html]:
    """Show how often cleaning changed a text that was kept: lines taken out, addresses masked."""
    rows = [
        (source, what.replace("_", " "), count)
        for source, counts in sorted(stats.get("changed", {}).items())
        for what, count in sorted(counts.items())
        if count
    ]
    if not rows:
        yield paragraph("Nothing was taken out of texts that stayed, and nothing masked.")
        return
    yield table("Changes within texts that stayed", ("source", "what", "how often"), rows)


def distributions(store: Store, stats: Mapping[str, Any]) -> Iterator[Html]:
    """Draw the statistic of every rule with its threshold, and who lies nearest to it."""
    found: Mapping[str, Mapping[str, int]] = stats.get("distributions", {})
    if not found:
        yield paragraph("No rule looked at this snapshot's own deliveries.")
        return
    yield paragraph(
        "Of every document of this snapshot's own deliveries that came to the rule's set and that "
        "the rule is for. The documents beside the threshold are the nearest of a few parts; of "
        "those kept, the value is that of the text as it is kept."
    )
    limits = thresholds(store.recipe.clean)
    judged = {rule: limit for rule in found if (limit := limits.get(rule)) is not None}
    kept, dropped = _nearest_kept(store, limits), _nearest_dropped(store, judged)
    for rule, limit in judged.items():
        yield heading(f"{rule}, {BY_NAME[rule].side} {limit:g}")
        title = f"Documents by their value for {rule}; the line is the threshold"
        yield pictures.histogram(
            title, bins_of(dict(found[rule]), limit), limit, BY_NAME[rule].side
        )
        rows = [*dropped[rule], *kept.get(rule, [])]
        shown = [
            (each["side"], name(each["id"]), where(each), each["value"], each["text"])
            for each in rows
        ]
        head = ("side", "document", "where", "value", "begins")
        yield table("Nearest to the threshold", head, shown)


def _own_parts(store: Store) -> list[PartEntry]:
    """Return the parts of the newest delivery."""
    newest = store.snapshot.deliveries[-1]
    return [part for part in store.snapshot.parts if part.snapshot == newest]


def _nearest_dropped(store: Store, limits: Mapping[str, float]) -> Nearest:
    """Find, for every rule, the documents that it dropped most narrowly."""

    def choose(rule: str, drops: pa.Table) -> Rows:
        away = np.abs(drops["value"].to_numpy() - limits[rule])
        return drops.filter(pa.array(_least(away))).to_pylist()  # type: ignore[no-any-return]

    nearest = {}
    for rule, rows in choose_drops(store.tree, _own_parts(store), limits, choose).items():
        rows.sort(key=lambda row: (abs(row["value"] - limits[rule]), rank(row)))
        shown = {"side": "dropped", "text": "not kept"}
        nearest[rule] = [row | shown for row in rows[:_EXAMPLES]]
    return nearest


def _least(away: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Tell which rows are among the nearest, or as near as the last of them; NaN is none."""
    bound = np.sort(away[~np.isnan(away)])[:_EXAMPLES].max(initial=0)
    near: npt.NDArray[np.bool_] = away <= bound
    return near


def _nearest_kept(store: Store, limits: Mapping[str, float | None]) -> Nearest:
    """Find, for every rule, the documents of a sample that passed it most narrowly."""
    nearest: Nearest = {}
    for part in some_parts(_own_parts(store), _PARTS):
        documents = first_rows(store.tree.find(f"clean/{part.name}.parquet"), _SAMPLE)
        texts, labels = documents["text"].combine_chunks(), documents["language"].to_pylist()
        values = statistics_table(texts, store.recipe.clean, labels)
        places = documents.select(["id", "snapshot", "file", "position"]).to_pylist()
        for rule in values.column_names:
            limit = limits[rule]
            if limit is None or BY_NAME[rule].on_lines:
                continue
            away = _away(values[rule].to_numpy(), BY_NAME[rule], limit)
            found = nearest.setdefault(rule, [])
            found += [
                places[row]
                | {"value": values[rule][row].as_py(), "text": texts[row], "away": away[row]}
                for row in np.flatnonzero(_least(away))
            ]
            found.sort(key=lambda each: (each["away"], rank(each)))
            del found[_EXAMPLES:]
    return {rule: list(map(_with_excerpt, found)) for rule, found in nearest.items()}


def _away(values: npt.NDArray[np.float64], rule: Rule, limit: float) -> npt.NDArray[np.float64]:
    """Return how far the values that pass are from the threshold; NaN for others."""
    passes = values >= limit if rule.side == "min" else values <= limit
    return np.where(passes, np.abs(values - limit), np.nan)


def _with_excerpt(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"side": "kept", "text": str(row["text"].as_py())[:_EXCERPT]}

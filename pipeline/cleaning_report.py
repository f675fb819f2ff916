"""The report's pages on cleaning: languages, what the rules looked at, what could not be read.

For every rule the distribution of its statistic over the newest deliveries is drawn with the
threshold marked, and beside it stand the documents nearest to it on both sides, with their
excerpts (`pipeline/nearest.py`). What is shown was chosen while cleaning, out of everything, so
the page reads a bounded number of small tables, and no cut of the corpus into parts shows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpus.files import exists
from pipeline import pictures
from pipeline.distributions import bins_of
from pipeline.explain import Store
from pipeline.languages import SCORE
from pipeline.nearest import DROPPED, EXCERPT_CHARACTERS, KEPT, SCHEMA, nearest_path
from pipeline.parquet import read_columns
from pipeline.pictures import Bar, Html, escape, heading, name, paragraph, percent, show, table
from pipeline.rules import BY_NAME, thresholds
from pipeline.samples import where

_BARS = 24  # more are no picture any more; the table has all
_FILES = 100  # likewise
_LONGEST_DETAIL = 160  # characters

Rows = list[dict[str, Any]]


def languages(store: Store, stats: Mapping[str, Any]) -> Iterator[Html]:
    """Show the languages of what passed the rules, by source, and how sure their finder was."""
    yield from _languages(stats)
    counts = stats.get("distributions", {}).get(SCORE)
    if counts is None:
        return
    score = store.recipe.clean.languages.min_score
    limit = (float(score) or None) if isinstance(score, int) else None
    by_code = {} if isinstance(score, int) else score
    told = ", ".join(f"{code} {least}" for code, least in sorted(by_code.items()))
    shown = f"min {limit:g}" if limit else f"min by language: {told}" if told else "no threshold"
    yield heading(f"{SCORE}, {shown}")
    marked = "; the dashes are the threshold" if limit else ""
    title = f"Documents by the share of their beginning in their language, percent{marked}"
    yield pictures.histogram(title, bins_of(dict(counts), "percent", limit), limit, "min")
    if score:
        yield _beside(_nearest(store, stats, [SCORE])[SCORE])


def _languages(stats: Mapping[str, Any]) -> Iterator[Html]:
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
    limits = thresholds(store.recipe.clean)
    judged = {rule: limit for rule, limit in limits.items() if rule in found and limit is not None}
    if not judged:
        yield paragraph("No rule looked at this snapshot's own deliveries.")
        return
    yield paragraph(
        "Of every document of this snapshot's own deliveries that came to the rule's set and that "
        "the rule is for; of a rule on lines, of every line that the rules before it left. The "
        "documents beside a threshold are the nearest of all that the rule dropped, with their "
        "text as the rule saw it, and of all that passed every rule, with their text as it stays."
    )
    nearest = _nearest(store, stats, list(judged))
    for rule, limit in judged.items():
        side, kind = BY_NAME[rule].side, BY_NAME[rule].kind
        what = "Lines" if BY_NAME[rule].on_lines else "Documents"
        yield heading(f"{rule}, {side} {limit:g}")
        title = f"{what} by their value for {rule}; the dashes are the threshold"
        yield pictures.histogram(title, bins_of(dict(found[rule]), kind, limit), limit, side)
        if not BY_NAME[rule].on_lines:
            yield _beside(nearest[rule])


def _beside(rows: Rows) -> Html:
    """Show the documents nearest to a threshold."""
    shown = [
        (
            each["side"], name(each["id"]), where(each), each["value"],
            each["text"] + "\u2026" * (len(each["text"]) == EXCERPT_CHARACTERS),
        )
        for each in rows
    ]  # fmt: skip
    return table(
        "Nearest to the threshold", ("side", "document", "where", "value", "begins"), shown
    )


def _nearest(store: Store, stats: Mapping[str, Any], rules: Sequence[str]) -> dict[str, Rows]:
    """Read the documents nearest to the thresholds of rules; one taken down is not there."""
    places = stats.get("nearest", {})
    wanted = {
        (part, rule, side, rank): None
        for rule in rules
        for side in (DROPPED, KEPT)
        for _, rank, part in places.get(rule, {}).get(side, ())
    }
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for part in sorted({key[0] for key in wanted}):
        path = store.tree.find(nearest_path(part))
        for row in read_columns(path, SCHEMA.names).to_pylist() if exists(path) else ():
            found[part, row["rule"], row["side"], row["rank"]] = row
    return {
        rule: [found[key] for key in wanted if key[1] == rule and key in found] for rule in rules
    }


def unreadable(stats: Mapping[str, Any]) -> Iterator[Html]:
    """Show which files hold broken records, how many, and where the first of them are."""
    told: Mapping[str, Any] = stats.get("unreadable", {})
    if not told.get("records"):
        yield paragraph("No broken record was found in this snapshot's own deliveries.")
        return
    yield paragraph(
        f"{told['records']:,} broken records in {told['files']:,} files of this snapshot's own "
        "deliveries. Records are counted from 1 as they stand in their file; of JSON lines, CSV "
        "and paragraphs it is the line. Each is a row of dropped/*.parquet with its rule and place."
    )
    worst = told["worst"]
    rows = [
        (
            name(each["file"]), each["source"], each["snapshot"], each["rule"], each["count"],
            each["records"], Html("; ".join(_first_place(*first) for first in each["first"])),
        )
        for each in worst[:_FILES]
    ]  # fmt: skip
    head = ("file", "source", "delivery", "rule", "broken", "records in the file", "the first")
    yield table("Broken records by file", head, rows)
    if len(worst) > _FILES:
        yield paragraph(f"The {len(worst):,} worst files and rules are in stats.json.")


def _first_place(
    position: int, value: float | None, threshold: float | None, detail: str | None
) -> Html:
    figures = "" if value is None else f"{show(value)} "
    limit = "" if threshold is None else f", threshold {show(threshold)}"
    text = f"{figures}{(detail or '')[:_LONGEST_DETAIL]}{limit}"
    return escape(f"record {position:,}" + (f" ({text})" if text else ""))

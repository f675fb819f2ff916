"""Batches of texts judged by the rules, from Arrow buffers to verdicts.

The sets of rules run in the order of the recipe over pieces of some megabytes. Texts that a rule
failed go no further than C4, which makes new texts of the lines it leaves. Counts come from
`pipeline/statistics.py` and `pipeline/lines.py`; `pipeline/reference.py` gives the same verdicts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.recipe import Clean
from pipeline.bad_words import BadWords
from pipeline.distributions import COUNT_BINS, count_bins, describe_bins
from pipeline.kernels import Int64s, UInt8s
from pipeline.lines import (
    LINE_COUNTS,
    LINE_RULES,
    Chosen,
    choose,
    cut_citations,
    find_citations,
    join,
)
from pipeline.rules import (
    BY_NAME,
    EMPTY,
    LISTED,
    RULES,
    Failure,
    Limits,
    Rule,
    is_english,
    thresholds,
)
from pipeline.spans import bytes_of
from pipeline.statistics import COUNTS, Scan, recount, scan

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = dict[str, Int64s]

# Of text a pass. Measured: with 4 MB the columns of counts cost a third of what they do with 1 MB.
_PIECE_BYTES = 2**22


class Judged(NamedTuple):
    """What the rules say of a batch of texts.

    texts: large_string, as later stages see them; a text that failed is as it came in.
    removed_lines: how many lines of the texts that passed each rule on lines took out.
    distributions: the values of each rule by bin (`pipeline/distributions.py`), of the texts that
    came to its set and that it is for; of a rule on lines, of the lines that came to it.
    values: what each rule on texts looked at, [texts], NaN where it did not.
    """

    texts: pa.LargeStringArray
    failures: list[Failure | None]
    removed_lines: dict[str, int]
    distributions: dict[str, dict[str, int]]
    values: dict[str, Floats]


class _Seen:
    """What rules looked at in a piece: values of texts, and how many lines by bin."""

    def __init__(self, config: Clean, count: int) -> None:
        limits = thresholds(config)
        judged = [name for name, limit in limits.items() if limit is not None]
        self.values = {
            name: np.full(count, np.nan) for name in judged if not BY_NAME[name].on_lines
        }
        self.lines = np.zeros((LINE_RULES, COUNT_BINS), np.int64)


def judge_batch(
    texts: pa.Array,
    config: Clean,
    languages: Sequence[str | None] | None = None,
    words: BadWords | None = None,
) -> Judged:
    """Judge cleaned texts; a verdict depends on the text, its language and the recipe alone.

    `words` are those of the recipe's list, where it names one.
    """
    all_texts = texts.cast(pa.large_string())
    english = np.array([is_english(each) for each in languages or [None] * len(texts)], np.bool_)
    pieces = list(_pieces(all_texts))
    seen = [_Seen(config, stop - start) for start, stop in pieces]
    parts = [
        _judge(all_texts[start:stop], config, english[start:stop], each, words)
        for (start, stop), each in zip(pieces, seen, strict=True)
    ]
    values = {
        name: np.concatenate([each.values[name] for each in seen])
        for name in (seen[0].values if seen else ())
    }
    lines = sum((each.lines for each in seen), np.zeros((LINE_RULES, COUNT_BINS), np.int64))
    names = [name for name in thresholds(config) if BY_NAME[name].on_lines]
    return Judged(
        pa.concat_arrays([all_texts[:0], *(part.texts for part in parts)]),
        [failure for part in parts for failure in part.failures],
        {name: sum(part.removed_lines[name] for part in parts) for name in names},
        {name: count_bins(each, BY_NAME[name].kind) for name, each in values.items()}
        | _describe_lines(config, lines),
        values,
    )


def _describe_lines(config: Clean, lines: Int64s) -> dict[str, dict[str, int]]:
    """Return the distributions of the rules on lines that have a threshold."""
    limits = thresholds(config)
    rules = [rule for rule in RULES if rule.on_lines]
    return {
        rule.name: describe_bins(counts)
        for rule, counts in zip(rules, lines, strict=True)
        if limits.get(rule.name) is not None
    }


def _pieces(texts: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
    """Cut a batch into ranges of about `_PIECE_BYTES`, at least one text each."""
    ends, start = bytes_of(texts)[1], 0
    while start < len(texts):
        stop = int(np.searchsorted(ends, ends[start] + _PIECE_BYTES))
        stop = min(max(stop, start + 1), len(texts))
        yield start, stop
        start = stop


@dataclass(frozen=True)
class _Flow:
    """Texts on their way through the sets of rules.

    rows: which texts of the buffers they are; numbers: which of the piece that came in;
    english: whether English stop words are asked for.
    """

    config: Clean
    data: UInt8s
    ends: Int64s
    scanned: Scan
    rows: Int64s
    numbers: Int64s
    english: Bools

    def only(self, mask: Bools) -> "_Flow":
        """Go on with some of the texts."""
        chosen = {name: getattr(self, name)[mask] for name in ("rows", "numbers", "english")}
        return replace(self, **chosen)

    def changed(self, data: UInt8s, ends: Int64s, step: int) -> "_Flow":
        """Go on with new texts in the place of these, from a step on."""
        scanned = _scan(data, ends, self.config.rules[step:])
        return replace(self, data=data, ends=ends, scanned=scanned, rows=np.arange(len(ends) - 1))

    def split(self, step: int) -> "list[_Flow]":
        """Part texts with citations, and cut these out, from the others."""
        cited = find_citations(self.data, self.ends)[self.rows]
        with_them = self.only(cited)
        cut = cut_citations(self.data, self.ends, with_them.rows)
        return [self.only(~cited), with_them.changed(*cut, step)]

    def count(self, step: int) -> tuple[Counts, Chosen | None]:
        """Return the counts that the rules of a set need, by name, and what C4 says of lines."""
        found = self.scanned.counts[self.rows]
        counts: Counts = dict(zip(COUNTS, found.T, strict=True))
        if self.config.rules[step] != "c4":
            return counts, None
        limits = _line_limits(thresholds(self.config), _scopes(counts, self.english))
        chosen = choose(self.data, self.ends, self.scanned, self.rows, limits)
        return counts | dict(zip(LINE_COUNTS, chosen.counts.T, strict=True)), chosen

    def without_lines(self, kept: Bools, step: int) -> "_Flow":
        """Go on with the lines that C4 keeps, from a step on."""
        data, ends = join(self.data, self.scanned, kept, self.rows)
        if self.config.rules[step:] != ("fineweb",):
            return self.changed(data, ends, step)
        scanned = recount(self.scanned, kept, self.rows)
        return replace(self, data=data, ends=ends, scanned=scanned, rows=np.arange(len(ends) - 1))


def _flow(texts: pa.LargeStringArray, config: Clean, english: Bools) -> _Flow:
    data, ends = bytes_of(texts)
    rows = np.arange(len(texts))
    ngrams = "gopher_repetition" in config.rules
    scanned = scan(data, ends, ngrams=ngrams)  # also without rules: a text without words goes
    return _Flow(config, data, ends, scanned, rows, rows, english)


def _scan(data: UInt8s, ends: Int64s, rules: Sequence[str]) -> Scan:
    """Count texts for the sets up to C4, which makes new texts; n-grams only where they ask.

    Where no set is left there is nothing to count.
    """
    same = rules[: rules.index("c4")] if "c4" in rules else rules
    return scan(data, ends if rules else ends[:1], ngrams="gopher_repetition" in same)


def _scopes(counts: Counts, english: Bools) -> dict[str, Bools]:
    spaced = 2 * counts["unspaced_words"] <= counts["words"]
    return {
        "all": np.ones_like(spaced),
        "spaced": spaced,
        "marked": 2 * counts["unmarked_words"] <= counts["words"],
        "english": spaced & english,
    }


def _line_limits(limits: Limits, scopes: dict[str, Bools]) -> Floats:
    """Return the thresholds of the rules on lines for each text, infinite where not judged."""
    columns = []
    for rule in RULES:
        if rule.on_lines:
            limit, beyond = limits[rule.name], np.inf if rule.side == "max" else -np.inf
            judged = scopes[rule.scope] & (limit is not None)
            columns.append(np.where(judged, limit or 0, beyond))
    return np.stack(columns, axis=1)


def _values(rule: Rule, counts: Counts) -> Floats:
    """Return a rule's statistic of every text; NaN where there is nothing to divide by."""
    if rule.over is None:
        return counts[rule.counted].astype(np.float64)
    over = counts[rule.over]
    shares = np.full(len(over), np.nan)
    np.divide(counts[rule.counted], over, out=shares, where=over > 0)
    return shares


def _fail(
    flow: _Flow,
    preset: str,
    counts: Counts,
    failures: list[Failure | None],
    seen: _Seen,
) -> None:
    """Write the first rule of a set that each text fails, where none is written yet.

    The values that were looked at are written down too.
    """
    limits, scopes = thresholds(flow.config), _scopes(counts, flow.english)
    for rule in RULES:
        limit = limits.get(rule.name)
        if rule.preset != preset or rule.on_lines or rule.listed or limit is None:
            continue
        values = _values(rule, counts)
        beyond = values < limit if rule.side == "min" else values > limit
        judged = scopes[rule.scope]
        seen.values[rule.name][flow.numbers] = np.where(judged, values, np.nan)
        for row in np.flatnonzero(beyond & judged):
            number = flow.numbers[row]
            if failures[number] is None:
                failures[number] = Failure(rule.name, float(values[row]), float(limit))


def _judge(
    texts: pa.LargeStringArray,
    config: Clean,
    english: Bools,
    seen: _Seen,
    words: BadWords | None,
) -> Judged:
    """Judge a piece of a batch; its distributions and values are left to the batch."""
    failures: list[Failure | None] = [None] * len(texts)
    removed = np.zeros((len(texts), len(LINE_COUNTS)), np.int64)
    flows = [_flow(texts, config, english)]
    _fail_empty(flows[0], flows[0].scanned.counts[:, COUNTS.index("words")], failures)
    for step, preset in enumerate(config.rules):
        if preset == "c4":
            through = [flow.only(_passing(flow, failures)) for flow in flows]
            flows = [part for flow in through for part in flow.split(step)]
        for at, flow in enumerate(flows):
            counts, chosen = flow.count(step)
            _fail(flow, preset, counts, failures, seen)
            if chosen is not None:
                seen.lines += chosen.seen
                removed[flow.numbers] = np.stack([counts[name] for name in LINE_COUNTS], axis=1)
                passing = flow.only(_passing(flow, failures))
                flows[at] = passing.without_lines(chosen.kept, step + 1)
                _fail_empty(flows[at], np.diff(flows[at].ends), failures)
                _fail_listed(flows[at], words, failures, seen)
    passed = np.array([failure is None for failure in failures], np.bool_)
    totals = dict(zip(LINE_COUNTS, removed[passed].sum(axis=0).tolist(), strict=True))
    return Judged(
        _results(texts, flows, passed) if "c4" in config.rules else texts,
        failures,
        {rule.name: totals[rule.counted] for rule in RULES if rule.on_lines},
        {},
        {},
    )


def _fail_empty(flow: _Flow, sizes: Int64s, failures: list[Failure | None]) -> None:
    for number in flow.numbers[sizes == 0]:
        failures[number] = EMPTY


def _fail_listed(
    flow: _Flow, words: BadWords | None, failures: list[Failure | None], seen: _Seen
) -> None:
    """Write down the texts that hold words of a list, where there is one with a threshold."""
    limit = thresholds(flow.config).get(LISTED)
    if words is None or limit is None:
        return
    held = words.find(flow.data, flow.ends)
    seen.values[LISTED][flow.numbers] = held.counts
    for row in np.flatnonzero(held.counts > limit).tolist():
        failure = Failure(LISTED, float(held.counts[row]), float(limit), words.describe(held, row))
        failures[flow.numbers[row]] = failure


def _passing(flow: _Flow, failures: list[Failure | None]) -> Bools:
    return np.array([failures[number] is None for number in flow.numbers], np.bool_)


def _results(
    texts: pa.LargeStringArray, flows: Sequence[_Flow], passed: Bools
) -> pa.LargeStringArray:
    """Return the texts with what C4 left of those that passed."""
    arrays, chosen = [texts], np.arange(len(texts))
    for flow in flows:
        buffers = pa.py_buffer(flow.ends), pa.py_buffer(flow.data)
        start = sum(map(len, arrays))
        arrays.append(pa.LargeStringArray.from_buffers(len(flow.rows), *buffers))
        chosen[flow.numbers] = start + np.arange(len(flow.rows))
    chosen = np.where(passed, chosen, np.arange(len(texts)))
    return pa.concat_arrays(arrays).take(pa.array(chosen))


def statistics_table(
    texts: pa.Array,
    config: Clean,
    languages: Sequence[str | None] | None = None,
    words: BadWords | None = None,
) -> pa.Table:
    """Return every rule's value of every text by the rule's name, float64; nothing is dropped.

    Null where a rule is not judged for a script or language, or where C4 left nothing to divide.
    The value of a rule on lines is the number of lines it takes out.
    """
    all_texts = texts.cast(pa.large_string())
    english = np.array([is_english(each) for each in languages or [None] * len(texts)], np.bool_)
    tables = [_schema(config).empty_table()]
    for start, stop in _pieces(all_texts):
        tables.append(_tabulate(all_texts[start:stop], config, english[start:stop], words))
    return pa.concat_tables(tables)


def _tabulate(
    texts: pa.LargeStringArray, config: Clean, english: Bools, words: BadWords | None
) -> pa.Table:
    columns = {name: np.full(len(texts), np.nan) for name in thresholds(config)}
    flows = [_flow(texts, config, english)]
    for step, preset in enumerate(config.rules):
        if preset == "c4":
            flows = [part for flow in flows for part in flow.split(step)]
        for at, flow in enumerate(flows):
            counts, chosen = flow.count(step)
            scopes = _scopes(counts, flow.english)
            for rule in (rule for rule in RULES if rule.preset == preset and not rule.listed):
                judged = np.where(scopes[rule.scope], _values(rule, counts), np.nan)
                columns[rule.name][flow.numbers] = judged
            if chosen is not None:
                flows[at] = flow.without_lines(chosen.kept, step + 1)
            if chosen is not None and words is not None:
                held = words.find(flows[at].data, flows[at].ends)
                columns[LISTED][flow.numbers] = held.counts
    arrays = [pa.array(values, mask=np.isnan(values)) for values in columns.values()]
    return pa.table(arrays, schema=_schema(config))


def _schema(config: Clean) -> pa.Schema:
    return pa.schema([(name, pa.float64()) for name in thresholds(config)])

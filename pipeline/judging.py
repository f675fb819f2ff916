"""Batches of texts judged by the rules, from Arrow buffers to verdicts.

The sets of rules run in the order of the recipe over pieces of about a megabyte. Texts that a rule
failed go no further than C4, which makes new texts of the lines it leaves. Counts come from
`pipeline/statistics.py` and `pipeline/lines.py`; `pipeline/reference.py` gives the same verdicts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.recipe import Clean
from pipeline.kernels import Int64s, UInt8s
from pipeline.lines import LINE_COUNTS, choose, cut_citations, join
from pipeline.rules import BY_NAME, EMPTY, RULES, Failure, Limits, Rule, is_english, thresholds
from pipeline.statistics import COUNTS, Scan, scan

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = dict[str, Int64s]

_PIECE_BYTES = 2**20  # of text a pass; keeps its words and lines in the cache's neighbourhood


class Judged(NamedTuple):
    """What the rules say of a batch of texts.

    texts: large_string, as later stages see them; a text that failed is as it came in.
    removed_lines: how many lines of the texts that passed each rule on lines took out.
    """

    texts: pa.LargeStringArray
    failures: list[Failure | None]
    removed_lines: dict[str, int]


def judge_batch(
    texts: pa.Array, config: Clean, languages: Sequence[str | None] | None = None
) -> Judged:
    """Judge cleaned texts; a verdict depends on the text, its language and the recipe alone."""
    all_texts = texts.cast(pa.large_string())
    english = np.array([is_english(each) for each in languages or [None] * len(texts)], np.bool_)
    parts = []
    for start, stop in _pieces(all_texts):
        parts.append(_judge(all_texts[start:stop], config, english[start:stop]))
    names = [name for name in thresholds(config) if BY_NAME[name].on_lines]
    return Judged(
        pa.concat_arrays([all_texts[:0], *(part.texts for part in parts)]),
        [failure for part in parts for failure in part.failures],
        {name: sum(part.removed_lines[name] for part in parts) for name in names},
    )


def _pieces(texts: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
    """Cut a batch into ranges of about `_PIECE_BYTES`, at least one text each."""
    ends, start = flat(texts)[1], 0
    while start < len(texts):
        stop = int(np.searchsorted(ends, ends[start] + _PIECE_BYTES))
        stop = min(max(stop, start + 1), len(texts))
        yield start, stop
        start = stop


def flat(texts: pa.LargeStringArray) -> tuple[UInt8s, Int64s]:
    """Return the bytes and [texts + 1] offsets of an array without nulls, not copied."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", np.uint8), ends


@dataclass
class _Flow:
    """Texts on their way through the sets of rules.

    numbers: which texts of the piece they are; english: whether English stop words are asked for.
    """

    config: Clean
    data: UInt8s
    ends: Int64s
    numbers: Int64s
    english: Bools
    scanned: Scan | None = None
    kept: Bools | None = None

    def count(self, step: int) -> Counts:
        """Return every count that the rules of a set need, by name: [texts] each."""
        rules = self.config.rules
        if rules[step] == "c4":
            data, self.ends = cut_citations(self.data, self.ends)
            self.scanned = self.scanned if data is self.data else None
            self.data = data
        scanned = self.scan(step)
        counts: Counts = dict(zip(COUNTS, scanned.counts.T, strict=True))
        if rules[step] == "c4":
            limits = _line_limits(thresholds(self.config), _scopes(counts, self.english))
            chosen = choose(self.data, self.ends, scanned, limits)
            self.kept = chosen.kept
            counts |= dict(zip(LINE_COUNTS, chosen.counts.T, strict=True))
        return counts

    def scan(self, step: int) -> Scan:
        """Return the scan of the texts as they are; n-grams only where a coming set needs them."""
        if self.scanned is None:
            rules = self.config.rules[step:]
            same = rules[: rules.index("c4")] if "c4" in rules else rules
            self.scanned = scan(self.data, self.ends, ngrams="gopher_repetition" in same)
        return self.scanned

    def take_lines(self, rows: Int64s) -> None:
        """Go on with some of the texts, without the lines that C4 takes out."""
        assert self.scanned is not None and self.kept is not None
        self.data, self.ends = join(self.data, self.scanned, self.kept, rows)
        self.numbers, self.english = self.numbers[rows], self.english[rows]
        self.scanned = None


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
    return np.divide(counts[rule.counted], over, out=np.full(len(over), np.nan), where=over > 0)


def _fail(
    flow: _Flow, rules: Iterable[Rule], counts: Counts, failures: list[Failure | None]
) -> None:
    limits, scopes = thresholds(flow.config), _scopes(counts, flow.english)
    for rule in rules:
        limit = limits[rule.name]
        if limit is None or rule.on_lines:
            continue
        values = _values(rule, counts)
        beyond = values < limit if rule.side == "min" else values > limit
        for row in np.flatnonzero(beyond & scopes[rule.scope]):
            number = flow.numbers[row]
            if failures[number] is None:
                failures[number] = Failure(rule.name, float(values[row]), float(limit))


def _judge(texts: pa.LargeStringArray, config: Clean, english: Bools) -> Judged:
    """Judge a piece of a batch."""
    flow = _Flow(config, *flat(texts), np.arange(len(texts)), english)
    failures: list[Failure | None] = [None] * len(texts)
    removed = np.zeros((len(texts), len(LINE_COUNTS)), np.int64)
    for number in np.flatnonzero(flow.scan(0).counts[:, COUNTS.index("words")] == 0):
        failures[number] = EMPTY
    for step, preset in enumerate(config.rules):
        counts = flow.count(step)
        _fail(flow, (rule for rule in RULES if rule.preset == preset), counts, failures)
        if preset == "c4":
            removed[flow.numbers] = np.stack([counts[name] for name in LINE_COUNTS], axis=1)
            rows = np.flatnonzero([failures[number] is None for number in flow.numbers])
            flow.take_lines(rows)
            for number in flow.numbers[np.diff(flow.ends) == 0]:
                failures[number] = EMPTY
    passed = np.array([failure is None for failure in failures], np.bool_)
    totals = dict(zip(LINE_COUNTS, removed[passed].sum(axis=0).tolist(), strict=True))
    names = {rule.name: rule.counted for rule in RULES if rule.on_lines}
    return Judged(
        _results(texts, flow, passed) if "c4" in config.rules else texts,
        failures,
        {name: totals[counted] for name, counted in names.items()},
    )


def _results(texts: pa.LargeStringArray, flow: _Flow, passed: Bools) -> pa.LargeStringArray:
    """Return the texts with what C4 left of those that passed."""
    left = pa.LargeStringArray.from_buffers(
        len(flow.numbers), pa.py_buffer(flow.ends), pa.py_buffer(flow.data)
    )
    chosen = np.arange(len(texts))
    chosen[flow.numbers] = len(texts) + np.arange(len(flow.numbers))
    chosen = np.where(passed, chosen, np.arange(len(texts)))
    return pa.concat_arrays([texts, left]).take(pa.array(chosen))


def statistics_table(
    texts: pa.Array, config: Clean, languages: Sequence[str | None] | None = None
) -> pa.Table:
    """Return every rule's value of every text by the rule's name, float64; nothing is dropped.

    Null where a rule is not judged for a script or language, or where C4 left nothing to divide.
    The value of a rule on lines is the number of lines it takes out.
    """
    all_texts = texts.cast(pa.large_string())
    english = np.array([is_english(each) for each in languages or [None] * len(texts)], np.bool_)
    tables = [_schema(config).empty_table()]
    for start, stop in _pieces(all_texts):
        tables.append(_tabulate(all_texts[start:stop], config, english[start:stop]))
    return pa.concat_tables(tables)


def _tabulate(texts: pa.LargeStringArray, config: Clean, english: Bools) -> pa.Table:
    flow = _Flow(config, *flat(texts), np.arange(len(texts)), english)
    columns: dict[str, pa.Array] = {}
    for step, preset in enumerate(config.rules):
        counts = flow.count(step)
        scopes = _scopes(counts, flow.english)
        for rule in RULES:
            if rule.preset == preset:
                values = _values(rule, counts)
                unknown = ~scopes[rule.scope] | np.isnan(values)
                columns[rule.name] = pa.array(values, mask=unknown)
        if preset == "c4":
            flow.take_lines(np.arange(len(texts)))
    return pa.table(columns, schema=_schema(config))


def _schema(config: Clean) -> pa.Schema:
    return pa.schema([(name, pa.float64()) for name in thresholds(config)])

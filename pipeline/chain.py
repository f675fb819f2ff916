"""The chain of cleaning: what is done to a batch of records until each has its verdict.

In order: URL lists, page to text, normalization, repeated lines taken out, addresses masked,
language, rules, contamination, the user's own rules. A record that fails goes no further. Every
step works on a whole batch and gives each document what it would give it alone, so where batches
end never shows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.documents import document_id
from corpus.recipe import Clean
from corpus.records import Record
from pipeline.custom import SCHEMA
from pipeline.distributions import Counts, count_bins
from pipeline.html import PageError, page_text
from pipeline.judging import judge_batch
from pipeline.languages import SCORE, UNDETERMINED, identify_batch, language_failure
from pipeline.normalize import normalize_batch
from pipeline.privacy import mask_batch
from pipeline.rules import EMPTY, Failure
from pipeline.settled import Lists, open_lists
from pipeline.wikitext import wikitext_text

# Raised by hand when a step changes what it gives, for all of those without a version of their own.
VERSION = 2


class Looked(NamedTuple):
    """What some rules looked at: the places in the batch, the texts as they were, values by rule.

    values: float64 [texts], NaN where a rule was not asked; limits: likewise, the thresholds of a
    rule that has one for each language, NaN where a language has none.
    """

    rows: npt.NDArray[np.int64]
    texts: pa.LargeStringArray
    values: dict[str, npt.NDArray[np.float64]]
    limits: Mapping[str, npt.NDArray[np.float64]] = {}


class Judged(NamedTuple):
    """What became of a batch.

    rows: the places in the batch of the records that passed; texts: of those, as they are kept;
    failures: of every record, None where it passed; languages: of every record, found where it came
    so far, else its own; counts: what was changed in texts; distributions: the statistic of every
    rule in the bins of `pipeline/distributions.py`; looked: what has a threshold, step by step.
    """

    rows: npt.NDArray[np.int64]
    texts: pa.LargeStringArray
    failures: list[Failure | None]
    languages: list[str | None]
    counts: dict[str, int]
    distributions: dict[str, Counts]
    looked: list[Looked]


class _Batch:
    """Records on their way through the chain."""

    def __init__(self, records: Sequence[Record], source: str) -> None:
        self.records = records
        self.source = source
        self.failures: list[Failure | None] = [None] * len(records)
        self.languages: list[str | None] = [each.language for each in records]
        self.rows = np.arange(len(records))
        self.texts = pa.array([], pa.large_string())
        self.counts: dict[str, int] = {}
        self.distributions: dict[str, Counts] = {}
        self.looked: list[Looked] = []

    @property
    def place(self) -> str:
        """Where the first record that is still there was read."""
        return f"{self.source}, record {self.records[self.rows[0]].position} and after"

    def fields(self, name: str) -> list[Any]:
        """Return a field of every record that is still there."""
        return [getattr(self.records[row], name) for row in self.rows.tolist()]

    def drop(self, failures: Sequence[Failure | None]) -> None:
        """Take out what failed; one verdict for every record that is still there."""
        failed = [failure is not None for failure in failures]
        if not any(failed):
            return
        for row, failure in zip(self.rows.tolist(), failures, strict=True):
            self.failures[row] = failure
        kept = np.flatnonzero(~np.array(failed))
        self.rows = self.rows[kept]
        if len(self.texts):
            self.texts = self.texts.take(pa.array(kept))

    def drop_empty(self) -> None:
        """Take out what has no text any more."""
        empty = pa.compute.equal(pa.compute.binary_length(self.texts), 0).to_pylist()
        self.drop([EMPTY if each else None for each in empty])

    def change(self, what: str, changed: tuple[pa.LargeStringArray, npt.NDArray[np.int64]]) -> None:
        """Take changed texts and count how often something was changed in them."""
        self.texts = changed[0]
        self.counts[what] = self.counts.get(what, 0) + int(changed[1].sum())


class Chain:
    """Cleans batches by one recipe and its lists."""

    def __init__(self, config: Clean, lists: Lists) -> None:
        """Prepare to clean; lists that the recipe names are open already."""
        self.config = config
        self.lists = lists

    def clean(self, records: Sequence[Record], source: str) -> Judged:
        """Give every record of a batch its text and its verdict."""
        batch = _Batch(records, source)
        for step in self._steps():
            if len(batch.rows):
                step(batch)
        seen = (batch.counts, batch.distributions, batch.looked)
        return Judged(batch.rows, batch.texts, batch.failures, batch.languages, *seen)

    def _steps(self) -> list[Callable[[_Batch], None]]:
        config, lists = self.config, self.lists
        wanted = [
            (lists.urls, self._block),
            (True, self._extract),
            (True, self._normalize),
            (lists.boilerplate, self._remove_lines),
            (config.mask, self._mask),
            (config.languages.identify, self._identify),
            (config.rules, self._judge),
            (lists.contamination, self._compare),
            (lists.user_rules, self._ask_user),
        ]
        return [step for condition, step in wanted if condition]

    def _block(self, batch: _Batch) -> None:
        urls = self.lists.urls
        assert urls is not None
        batch.drop(urls.find_all(batch.fields("url")))

    def _extract(self, batch: _Batch) -> None:
        found = [text_of(batch.records[row]) for row in batch.rows.tolist()]
        batch.texts = pa.array(
            [None if isinstance(each, Failure) else each for each in found], pa.large_string()
        )
        batch.drop([each if isinstance(each, Failure) else None for each in found])

    def _normalize(self, batch: _Batch) -> None:
        batch.texts = normalize_batch(batch.texts, self.config.fix_mojibake)
        batch.drop_empty()

    def _remove_lines(self, batch: _Batch) -> None:
        assert self.lists.boilerplate is not None
        batch.change("boilerplate_lines", self.lists.boilerplate.remove(batch.texts))
        batch.drop_empty()

    def _mask(self, batch: _Batch) -> None:
        batch.change("masked", mask_batch(batch.texts, self.config.mask))

    def _identify(self, batch: _Batch) -> None:
        found = identify_batch(batch.texts)
        config = self.config.languages
        failures = []
        for row, (label, score) in zip(batch.rows.tolist(), found, strict=True):
            if label != UNDETERMINED or batch.languages[row] is None:
                batch.languages[row] = label
            failures.append(language_failure(label, score, config))
        wanted = [not config.keep or label in config.keep for label, _ in found]
        scores = np.where(wanted, [float(score) for _, score in found], np.nan)
        batch.distributions[SCORE] = count_bins(scores, "percent")
        least = np.array([config.least_score(label) or np.nan for label, _ in found])
        batch.looked.append(Looked(batch.rows, batch.texts, {SCORE: scores}, {SCORE: least}))
        batch.drop(failures)

    def _judge(self, batch: _Batch) -> None:
        labels = [batch.languages[row] for row in batch.rows.tolist()]
        judged = judge_batch(batch.texts, self.config, labels, self.lists.bad_words)
        batch.texts = judged.texts
        batch.distributions |= judged.distributions
        batch.looked.append(Looked(batch.rows, judged.texts, judged.values))
        batch.drop(judged.failures)
        for rule, count in judged.removed_lines.items():
            batch.counts[rule] = batch.counts.get(rule, 0) + count

    def _compare(self, batch: _Batch) -> None:
        assert self.lists.contamination is not None
        batch.drop(self.lists.contamination.find(batch.texts))

    def _ask_user(self, batch: _Batch) -> None:
        for rule in self.lists.user_rules:
            if len(batch.rows):
                batch.drop(rule.find(_table(batch), batch.place))


def text_of(record: Record) -> str | Failure:
    """Get the text out of a record, whatever it is written in."""
    try:
        if record.markup == "html":
            return page_text(record.page, record.charset).text
        if record.markup == "wikitext":
            return wikitext_text(record.text)
    except PageError as error:
        return Failure(error.rule, None, None, error.detail)
    return record.text


def _table(batch: _Batch) -> pa.RecordBatch:
    """Return what a user's rule sees of the documents that are still there."""
    rows = batch.rows.tolist()
    columns = {
        "id": [record_id(batch.source, batch.records[row]) for row in rows],
        "text": batch.texts,
        "url": batch.fields("url"),
        "source": [batch.source] * len(rows),
        "language": [batch.languages[row] for row in rows],
        "meta": batch.fields("meta"),
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def record_id(source: str, record: Record) -> str:
    """Name the document of a record; without a key of its own its raw content names it."""
    return document_id(source, record.key, record.page or record.text)


def open_chain(store: str, config: Clean) -> Chain:
    """Return the chain of a recipe whose lists lie in a store."""
    return _open_chain(store, config.model_dump_json())


@lru_cache(maxsize=2)
def _open_chain(store: str, config: str) -> Chain:
    settled = Clean.model_validate_json(config)
    return Chain(settled, open_lists(store, settled))

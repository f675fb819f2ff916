"""Fetch: the texts that are compared, each part read once for all verify tasks.

A verify task takes the pairs of neighbouring first documents; the second ones lie anywhere. Read
where they lie, each costs its row group, 1 MB for a text of some kilobytes, and a block of pairs
reads much of the corpus. So where pairs are many, tasks go through some parts each and write the
texts that are second in a pair for the verify tasks that want them, compressed, in the order of
those tasks. A verify task then reads its stretch of each such file, and the first documents where
they lie. What is found does not depend on it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import zstandard

from corpus.recipe import MEMORY_BYTES
from corpus.snapshots import Tree
from pipeline.index import (
    ROW_BITS,
    Corpus,
    Int64s,
    UInt64s,
    column_values,
    distinct_rows,
    rows_by_part,
    within,
)
from pipeline.jobs import Output
from pipeline.parquet import read_rows
from pipeline.signatures import write_arrow
from pipeline.stretch import Stretched, open_arrow

# Candidate pairs from which on texts are fetched, each counted in every partition that finds it (of
# sixteen some twelve): with fewer it takes as long as it saves (BENCHMARKS.md).
LEAST_PAIRS = 2**20
# Parts that one task goes through at most, and compressed text that it holds and a file has, at the
# default of `memory_bytes`. Guesses.
PARTS_PER_TASK = 32
_FILE_BYTES = 256 * 2**20
# Places at which the order of a task's pairs is sampled, to cut them evenly: few, as each reads a
# page of a mapped file. Guess.
_SAMPLES_PER_TASK = 10

FETCHED_SCHEMA = pa.schema(
    [("task", pa.uint32()), ("document", pa.uint64()), ("text", pa.large_binary())]
)


class Pairs(NamedTuple):
    """Candidate pairs of documents, the lesser first, in the order of one side: [pairs] each."""

    left: UInt64s
    right: UInt64s


def read_rounds(tree: Tree, groups: Sequence[str], kind: str) -> list[Pairs]:
    """Open what rounds of group tasks wrote: `pairs` sorted by left, `rights` by right."""
    return [
        Pairs(batch["left"].to_numpy(), batch["right"].to_numpy())
        for group in groups
        for batch in open_arrow(tree.own(f"work/group/{group}.{kind}.arrow")).to_batches()
    ]


def share_starts(rounds: Sequence[Pairs], tasks: int) -> UInt64s:
    """Return the left document at which the share of each verify task begins: [tasks], in order.

    They are quantiles of a sample, the same for every task.
    """
    step = 1 + sum(len(each.left) for each in rounds) // (tasks * _SAMPLES_PER_TASK)
    sample = np.concatenate([np.empty(0, np.uint64), *(each.left[::step] for each in rounds)])
    places = len(sample) * np.arange(tasks) // tasks
    starts = np.zeros(tasks, np.uint64)
    starts[places > 0] = np.sort(sample)[places[places > 0]]
    return starts


def fetch_texts(
    tree: Tree,
    name: str,
    corpus: Corpus,
    span: tuple[int, int],
    wanted_by: tuple[int, Sequence[str]],
    memory_bytes: int = MEMORY_BYTES,
) -> Output:
    """Write the texts of a run of parts, [first, stop), that verify tasks want.

    `wanted_by` is how many tasks there are, and the names of the group tasks.
    """
    wanted = _find_wanted(tree, span, *wanted_by)
    documents, starts = np.unique(wanted[:, 0], return_index=True)
    bounds = np.append(starts, len(wanted))
    times = np.diff(bounds)
    compressor = zstandard.ZstdCompressor(level=1)
    limit = within(memory_bytes, _FILE_BYTES)
    paths: list[str] = []
    texts: list[bytes] = []
    held = first = 0
    for number, (_, text) in enumerate(read_texts(tree, corpus, documents), 1):
        texts.append(compressor.compress(text.encode()))
        held += len(texts[-1]) * int(times[number - 1])
        if held > limit or number == len(documents):
            paths.append(f"work/fetch/{name}-{len(paths):05d}.arrow")
            copies = np.repeat(np.arange(len(texts)), times[first:number])
            rows = wanted[bounds[first] : bounds[number]]
            write_arrow(tree.own(paths[-1]), _fetched(rows, texts, copies))
            texts, held, first = [], 0, number
    return Output(tuple(paths), {"texts": len(documents), "copies": len(wanted)})


def _find_wanted(tree: Tree, span: tuple[int, int], tasks: int, groups: Sequence[str]) -> UInt64s:
    """Return the documents of a run of parts that are second in a pair, with tasks: [n, 2]."""
    starts = share_starts(read_rounds(tree, groups, "pairs"), tasks)
    low, high = (np.uint64(number << ROW_BITS) for number in span)
    found = [np.empty((0, 2), np.uint64)]
    for left, right in read_rounds(tree, groups, "rights"):
        mine = slice(*np.searchsorted(right, [low, high]).tolist())
        task = np.searchsorted(starts, left[mine], side="right") - 1
        found.append(distinct_rows(np.stack([right[mine], task.astype(np.uint64)], axis=1)))
    return distinct_rows(np.concatenate(found))


def _fetched(wanted: UInt64s, texts: Sequence[bytes], copies: Int64s) -> pa.Table:
    """Lay texts in the order of the tasks that want them; `copies` says which text a row has."""
    order = np.lexsort((wanted[:, 0], wanted[:, 1]))
    columns = [
        pa.array(wanted[order, 1].astype(np.uint32)),
        pa.array(wanted[order, 0]),
        pa.array([texts[n] for n in copies[order].tolist()], pa.large_binary()),
    ]
    return pa.table(columns, schema=FETCHED_SCHEMA)


class Texts:
    """The texts of documents: those that were fetched for a verify task, and all others."""

    def __init__(
        self, tree: Tree, corpus: Corpus, task: int = 0, fetched: Sequence[str] = ()
    ) -> None:
        """Find what was fetched for a task in the files of the fetch tasks."""
        self._tree, self._corpus = tree, corpus
        self._stretches: list[pa.ChunkedArray] = []
        documents, places = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int64)]
        for path in fetched:
            file = Stretched(tree.own(path))
            file.need(["task"], 0, len(file.table))
            tasks = column_values(file.table, "task")
            start, stop = np.searchsorted(tasks, np.array([task, task + 1], np.uint32)).tolist()
            if start == stop:
                continue
            file.need(["document", "text"], start, stop)
            documents.append(column_values(file.table, "document")[start:stop].copy())
            rows = np.arange(stop - start)
            places.append(np.stack([np.full_like(rows, len(self._stretches)), rows], axis=1))
            self._stretches.append(file.table["text"].slice(start, stop - start))
        found = np.concatenate(documents)
        order = np.argsort(found)
        self._documents, self._places = found[order], np.concatenate(places)[order]

    def read(self, documents: UInt64s) -> list[str]:
        """Return the texts of documents that are given in order."""
        at = np.searchsorted(self._documents, documents)
        known = at < len(self._documents)
        known[known] = self._documents[at[known]] == documents[known]
        texts: Any = np.empty(len(documents), object)
        others = read_texts(self._tree, self._corpus, documents[~known])
        texts[~known] = [text for _, text in others]
        decompressor = zstandard.ZstdDecompressor()
        for place, (file, row) in zip(
            np.flatnonzero(known).tolist(), self._places[at[known]].tolist(), strict=True
        ):
            data = self._stretches[file][row].as_buffer()
            texts[place] = decompressor.decompress(data).decode()
        return list(texts)


def read_texts(tree: Tree, corpus: Corpus, documents: UInt64s) -> Iterator[tuple[int, str]]:
    """Give documents, in order, with their texts, from where they lie."""
    for part, rows in rows_by_part(documents):
        path = tree.find(f"clean/{corpus.parts[part].name}.parquet")
        for row, text in zip(rows.tolist(), read_rows(path, rows, "text"), strict=True):
            yield part << ROW_BITS | row, text

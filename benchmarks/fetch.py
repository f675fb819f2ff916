"""Verifying many pairs: texts read where they lie, and fetched for the tasks that compare them.

`python -m benchmarks.fetch WORK FILE [FILE ...]` writes parts of documents cut from the texts of
some files, half of them changed copies that lie anywhere, and the candidate pairs of each with its
copy. It verifies them both ways by the functions that a refresh's tasks call, in this process,
compares what is found, and prints wall and CPU seconds and the bytes that were read from parts.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.signatures import documents
from corpus.documents import DOCUMENT_SCHEMA
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.fetch import PARTS_PER_TASK, fetch_texts
from pipeline.index import ROW_BITS, Corpus, UInt64s
from pipeline.keys import INDEX_SCHEMA
from pipeline.pairs import LARGE_SCHEMA, PAIR_SCHEMA, verify_share
from pipeline.parquet import write_table
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

_PART_BYTES = 128 * 2**20
_PAGE_BYTES = 4096  # about
_PAIRS_PER_TASK = 2**17
_CONFIG = Dedup()


def main() -> int:
    """Write, verify both ways, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--gb", type=float, default=2)
    given = parser.parse_args()
    tree = Tree(given.work)
    texts = list(islice(pages(given.files), int(given.gb * 1e9) // _PAGE_BYTES // 2))
    corpus, pairs = write_parts(tree, texts)
    for kind, side in (("pairs", 0), ("rights", 1)):
        rows = pairs[np.argsort(pairs[:, side], kind="stable")]
        table = pa.table([rows[:, 0].copy(), rows[:, 1].copy()], schema=PAIR_SCHEMA)
        write_arrow(tree.own(f"work/group/g.{kind}.arrow"), table)
    write_arrow(tree.own("work/group/g.large.arrow"), LARGE_SCHEMA.empty_table())
    tasks = -(-len(pairs) // _PAIRS_PER_TASK)
    print(f"{len(pairs):,} pairs, {len(corpus.parts)} parts, {tasks} tasks")
    print(f"{'':>22} {'wall s':>8} {'CPU s':>8}")
    with measured("fetch"):
        paths = fetch(tree, corpus, tasks)
    with measured("verify, fetched"):
        found = verify(tree, corpus, tasks, paths)
    print(f"fetched {sum(Path(tree.own(each)).stat().st_size for each in paths) / 1e6:,.0f} MB")
    with measured("verify, where they lie"):
        expected = verify(tree, corpus, tasks, [])
    assert found == expected
    print(f"the same {len(found):,} pairs are alike")
    return 0


def pages(files: list[str]) -> Iterator[str]:
    """Give documents of the size of web pages, again and again with another first word."""
    for turn in count():
        for text in documents(files, 10**12):
            yield f"{turn} {text}"


def write_parts(tree: Tree, texts: list[str]) -> tuple[Corpus, UInt64s]:
    """Write every text and a changed copy of it anywhere; return the parts and the pairs."""
    rng = np.random.default_rng(0)
    order = rng.permutation(2 * len(texts))
    rows = _PART_BYTES // _PAGE_BYTES
    numbers = np.empty(len(order), np.uint64)
    parts = []
    for number, start in enumerate(range(0, len(order), rows)):
        mine = order[start : start + rows]
        numbers[mine] = (number << ROW_BITS) + np.arange(len(mine))
        held = [texts[n % len(texts)] + (" and more" if n >= len(texts) else "") for n in mine]
        parts.append(Part(f"s-{number:05d}-0", "s", "first", 0))
        write_part(tree, parts[-1].name, held)
    pairs = np.sort(numbers.reshape(2, -1).T, axis=1)
    return Corpus(tuple(parts), 0), pairs


def write_part(tree: Tree, name: str, texts: list[str]) -> None:
    """Write the documents of a part, and of its index how long they are."""
    nulls = {field.name: pa.nulls(len(texts), field.type) for field in DOCUMENT_SCHEMA}
    ids = pa.array([f"s/{name}-{n}" for n in range(len(texts))])
    columns = nulls | {"id": ids, "text": pa.array(texts, DOCUMENT_SCHEMA.field("text").type)}
    schema = pa.schema([field.with_nullable(True) for field in DOCUMENT_SCHEMA])
    write_table(tree.own(f"clean/{name}.parquet"), pa.table(columns, schema=schema))
    sizes = pa.array([len(text.encode()) for text in texts], INDEX_SCHEMA.field("text_bytes").type)
    write_arrow(tree.own(f"index/{name}.documents.arrow"), pa.table({"text_bytes": sizes}))


def fetch(tree: Tree, corpus: Corpus, tasks: int) -> list[str]:
    """Fetch all texts that verify tasks want; return the files."""
    bounds = [*range(0, len(corpus.parts), PARTS_PER_TASK), len(corpus.parts)]
    wanted_by = tasks, ["g"]
    outputs = [
        fetch_texts(tree, f"f{first}", corpus, (first, stop), wanted_by)
        for first, stop in pairwise(bounds)
    ]
    return [path for output in outputs for path in output.paths]


def verify(tree: Tree, corpus: Corpus, tasks: int, fetched: list[str]) -> pa.Table:
    """Verify all pairs; return those that are alike."""
    outputs = [
        verify_share(tree, f"v{number}", _CONFIG, corpus, (number, tasks, ["g"]), fetched)
        for number in range(tasks)
    ]
    return pa.concat_tables(open_arrow(tree.own(each.paths[0])) for each in outputs)


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Print what the body took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(
        f"{name:>22} {time.perf_counter() - wall:8.1f} {time.process_time() - cpu:8.1f}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())

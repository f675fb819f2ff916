"""An audit beside the refresh that made its store: seconds by step, in one process and on Ray.

`python -m benchmarks.audit OUT DATA/prose/classics-en-*.jsonl.zst --copies 10` writes so many files
of the given JSON lines, each with the words of every text in another order, so that no two of them
are duplicates; refreshes a store from them and audits it with each number of workers, a Ray of its
own each time. MB are 10^6 bytes of these files. The limit beside them is the refresh, which does
what an audit does again.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.small_files import texts_of
from corpus.recipe import Clean, Recipe, Source
from pipeline.explain import Store, open_store
from pipeline.jobs import Pool
from pipeline.proofs import audit
from pipeline.refresh import refresh


class Timed(Pool):
    """A pool that notes how long each of its maps took."""

    def __init__(self, workers: int) -> None:
        """Begin with nothing noted."""
        super().__init__(workers)
        self.seconds: dict[str, float] = {}

    def map(
        self,
        what: str,
        function: Any,  # noqa: ANN401 - as in Pool
        items: Sequence[Any],
        *shared: Any,  # noqa: ANN401 - as in Pool
        least: int = 2,
    ) -> Iterator[Any]:
        """Note the seconds until the last result was taken."""
        start = time.perf_counter()
        yield from super().map(what, function, items, *shared, least=least)
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def write_copies(folder: Path, given: Sequence[str], copies: int) -> int:
    """Write files of shuffled texts; return their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text.split(" ") for text in texts_of(given)]
    size = 0
    for copy in range(copies):
        rng = random.Random(copy)
        with (folder / f"{copy}.jsonl").open("wb") as stream:
            for number, words in enumerate(texts):
                rng.shuffle(words)
                line = orjson.dumps({"id": f"{copy}-{number}", "text": " ".join(words)}) + b"\n"
                size += stream.write(line)
    return size


def timed_audit(store: Store, workers: int) -> float:
    """Audit a store, print what each step took, and return the seconds of all."""
    start = time.perf_counter()
    pool = Timed(workers)
    with pool:
        found = audit(store, pool)
    seconds = time.perf_counter() - start
    assert found == ([], []), found
    steps = ", ".join(f"{what} {took:.1f}" for what, took in pool.seconds.items() if took > 0.5)
    print(f"audit, {workers} workers: {seconds:.1f} s ({steps})")
    return seconds


def main() -> None:
    """Write the files, refresh and audit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", help="JSON lines, compressed or not")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    size = write_copies(given.out / "raw", given.texts, given.copies)
    source = Source(name="shuffled", paths=(str(given.out / "raw"),))
    recipe = Recipe(
        store=str(given.out / "store"), snapshot="first", sources=(source,),
        clean=Clean(rules=()), workers=max(given.workers),
    )  # fmt: skip
    start = time.perf_counter()
    made = refresh(recipe).snapshot
    taken = time.perf_counter() - start
    print(f"{size / 1e6:.0f} MB, {made.counts.documents_kept} documents kept")
    print(f"refresh, {max(given.workers)} workers: {taken:.1f} s")
    store = open_store(recipe.store)
    for workers in given.workers:
        seconds = timed_audit(store, workers)
        rate = size / 1e6 / seconds
        print(f"  {rate:.1f} MB/s, {seconds / taken:.2f} of the refresh's time")


if __name__ == "__main__":
    main()

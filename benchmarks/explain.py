"""`explain` in a store of ten million records: seconds of the whole command and inside a process.

`python -m benchmarks.explain WORK --parts 100` makes a store of one source in WORK (5.5 GB and two
minutes for 100 parts of 100,000 records), asks `explain` for a kept document, for one that a rule
dropped and for a duplicate, and prints the median and the worst of several different ids each: wall
seconds of `python -m pipeline explain`, with the store's files in the page cache and with none of
them there, and of `open_store` and `explain` in one process. The limit in the same run is a command
that does nothing (`schema`). `--keep` leaves the store, which a second run then takes as it is.

The tables, the index, the shards and the manifest are written by the functions that write them in a
refresh. Made up are the documents (12 words; ids that are spread over all parts, so that no file
can be left out by the ids it holds), which of them are dropped, their tokens (16 each) and the
digests. Not measured: remote stores.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from corpus.documents import (
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    DUPLICATE_SCHEMA,
    deal_hash,
    format_digest,
    text_hash,
)
from corpus.files import writing
from corpus.forgotten import Forgotten
from corpus.membership import SPLITS, ShardPlan, cut_split, tokens_path
from corpus.recipe import Dedup, Recipe, Source
from corpus.shards import shard_schema, token_dtype, write_blocks
from corpus.snapshots import FileEntry, Part, PartEntry, ShardEntry, Tree, commit_snapshot
from pipeline.build import Contents, Job, assemble
from pipeline.clean import write_part
from pipeline.dedup import write_duplicates
from pipeline.encode import tokens_schema
from pipeline.explain import explain, open_store
from pipeline.formats import Documents, lay_documents, write_rows
from pipeline.jobs import describe_file
from pipeline.kernels import GOLDEN
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

LABEL, SOURCE = "first", "web"
PER_PART = 100_000
# Of ten records in the order of their ids: two fail a rule, one is a duplicate of the one before.
_RULE, _DUPLICATE, _PERIOD = (3, 7), 5, 10
_WORDS, _TOKENS = 12, 16
_VOCABULARY, _FORMAT = 50_265, "full-sentences"


class Asked(NamedTuple):
    """Ids to explain, by what became of them."""

    kept: list[str]
    rule: list[str]
    duplicate: list[str]


def ids_of(number: int) -> list[str]:
    """Return the ids of a part in order."""
    numbers = range(number * PER_PART, (number + 1) * PER_PART)
    return sorted(f"{SOURCE}/https://example.org/{n * GOLDEN % 2**64:016x}" for n in numbers)


def asked(parts: int, each: int) -> Asked:
    """Choose ids of every kind, spread over all parts."""
    chosen = Asked([], [], [])
    for n in range(each):
        ids = ids_of(n * parts // each)
        base = n * (PER_PART - _PERIOD) // each // _PERIOD * _PERIOD
        chosen.kept.append(ids[base])
        chosen.rule.append(ids[base + _RULE[0]])
        chosen.duplicate.append(ids[base + _DUPLICATE])
    return chosen


def _texts(ids: list[str]) -> list[str]:
    """Make texts of words that are parts of the id's own hash."""
    made = []
    for identity in ids:
        state, words = int(identity[-16:], 16), []
        for _ in range(_WORDS):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's MMIX
            words.append(f"{state >> 44:x}")
        made.append(" ".join(words))
    return made


def _places(ids: list[str], chosen: list[int], name: str) -> dict[str, Any]:
    return {
        "id": [ids[n] for n in chosen],
        "source": [SOURCE] * len(chosen),
        "snapshot": [LABEL] * len(chosen),
        "file": [f"{name}.jsonl.zst"] * len(chosen),
        "position": chosen,
    }


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Return a table whose missing columns are null."""
    count = len(columns["id"])
    return pa.table(
        [pa.array(columns.get(field.name, [None] * count), field.type) for field in schema],
        schema=schema,
    )


def make_part(tree: Tree, number: int, config: Dedup) -> tuple[PartEntry, list[FileEntry]]:
    """Write all tables of a part; return its lines of the manifest."""
    part = _part(number)
    ids = ids_of(number)
    failed = [n for n in range(PER_PART) if n % _PERIOD in _RULE]
    passed = [n for n in range(PER_PART) if n % _PERIOD not in _RULE]
    documents = _places(ids, passed, part.name)
    documents["text"] = _texts(documents["id"])
    documents["text_hash"] = [text_hash(text) for text in documents["text"]]
    drops = _places(ids, failed, part.name) | {
        "stage": ["clean"] * len(failed),
        "rule": ["gopher_min_words"] * len(failed),
        "value": [float(_WORDS)] * len(failed),
        "threshold": [50.0] * len(failed),
    }
    tables = (_table(documents, DOCUMENT_SCHEMA), _table(drops, DROP_SCHEMA))
    paths = write_part(tree, part.name, *tables, config)
    rows = [row for row, n in enumerate(passed) if n % _PERIOD == _DUPLICATE]
    written, counts = write_duplicates(tree, config, part, _duplicates(tables[0], rows))
    paths += [*written, _write_tokens(tree, part.name, tables[0], rows)]
    kept = len(passed) - len(rows)
    entry = PartEntry(
        name=part.name,
        source=SOURCE,
        snapshot=LABEL,
        documents=len(passed),
        kept=kept,
        text_bytes=sum(map(len, documents["text"])),
        tokens=kept * _TOKENS,
        dropped={"gopher_min_words": len(failed), **counts["dropped"]},
        kept_digest=format_digest(number),
        dropped_digest=counts["dropped_digest"],
    )
    return entry, [FileEntry(**describe_file(tree.root, path), home=LABEL) for path in paths]


def _part(number: int) -> Part:
    return Part(f"{SOURCE}-{number:016x}-00000", SOURCE, LABEL, 0)


def _duplicates(documents: pa.Table, rows: list[int]) -> pa.Table:
    """Say of these rows that each is like the one before it."""
    mine, witness = (documents.take([row - back for row in rows]) for back in (0, 1))
    names = ("id", "snapshot", "file", "position")
    columns = {"row": pa.array(rows)} | {name: mine[name] for name in names}
    columns |= {f"witness_{name}": witness[name] for name in names}
    columns["method"] = pa.array(["minhash"] * len(rows))
    columns["similarity"] = pa.array([0.875] * len(rows))
    return pa.table([columns[name] for name in DUPLICATE_SCHEMA.names], schema=DUPLICATE_SCHEMA)


def _write_tokens(tree: Tree, name: str, documents: pa.Table, dropped: list[int]) -> str:
    stays = np.ones(len(documents), np.bool_)
    stays[dropped] = False
    ids = documents["id"].filter(pa.array(stays)).to_pylist()
    placed = sorted((deal_hash(identity), identity) for identity in ids)
    offsets = pa.array(np.arange(len(placed) + 1) * _TOKENS)
    single = pa.array(np.arange(len(placed) + 1))
    tokens = np.full(len(placed) * _TOKENS, 100, token_dtype(_VOCABULARY))
    columns = [
        pa.array([identity for _, identity in placed]),
        pa.array([hashed for hashed, _ in placed], pa.uint64()),
        pa.LargeListArray.from_arrays(offsets, pa.array(tokens)),
        pa.LargeListArray.from_arrays(single, pa.array(np.zeros(len(placed), np.uint32))),
        pa.LargeListArray.from_arrays(offsets, pa.array(np.ones(len(tokens), np.bool_))),
    ]
    schema = tokens_schema(_VOCABULARY)
    path = tokens_path(name)
    write_arrow(tree.own(path), pa.table(columns, schema=schema))
    return path


def make_shard(tree: Tree, plan: ShardPlan, parts: int) -> ShardEntry:
    """Pack the documents of a hash range, each of which is one sentence of equal length."""
    count = 0
    for number in range(parts):
        hashes = open_arrow(tree.find(tokens_path(_part(number).name)))["hash"].to_numpy()
        below = [np.searchsorted(hashes, np.uint64(min(n, 2**64 - 1))) for n in plan[4:]]
        count += int(below[1] - below[0])
    ends = np.arange(count + 1, dtype=np.int64)
    tokens = np.full(count * _TOKENS, 100, np.uint16)
    given = Documents(tokens, np.ones(len(tokens), np.bool_), ends * _TOKENS, ends)
    layout = lay_documents(given, _FORMAT, 512)
    schema = shard_schema(512, tokens.dtype, "0" * 64, _FORMAT)
    with writing(tree.own(plan.path)) as stream:
        write_blocks(stream, write_rows(given, layout, _FORMAT, 512), schema)
    return ShardEntry(
        **describe_file(tree.root, plan.path),
        home=LABEL,
        snapshot=LABEL,
        source=SOURCE,
        split=plan.split,
        rows=layout.row_count,
        tokens=len(tokens),
    )


def make_store(root: str, parts: int, workers: int) -> None:
    """Write a complete snapshot."""
    recipe = Recipe(
        store=root,
        snapshot=LABEL,
        sources=(Source(name=SOURCE, paths=("/nowhere/*.jsonl.zst",)),),
        # Fewer bands than usual, so that the index of ten million takes 3 GB and not 4.5.
        dedup=Dedup(bands=20, rows=13),
    )
    job = Job(recipe, None, (LABEL,), (), Forgotten())
    with get_context("spawn").Pool(workers) as pool:
        made = pool.starmap(make_part, [(job.tree, n, recipe.dedup) for n in range(parts)], 1)
    token_bytes = sum(entry.tokens for entry, _ in made) * 2
    shards = []
    for split in SPLITS:
        share = recipe.pack.validation_fraction if split == "validation" else 1.0
        count = max(1, round(token_bytes * share / recipe.pack.shard_size_bytes))
        plans = cut_split((LABEL, SOURCE, split), count, recipe.pack)
        shards += [make_shard(job.tree, plan, parts) for plan in plans]
    files = [file for _, written in made for file in written]
    contents = Contents(("0" * 64, _VOCABULARY), shards, [entry for entry, _ in made], files)
    commit_snapshot(root, assemble(job, contents, ({}, {"recall": []})))


def command(*arguments: str) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a command of the pipeline."""
    before, start = sum(os.times()[2:4]), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start, sum(os.times()[2:4]) - before


def forget_pages(root: str) -> None:
    """Take the store's files out of the page cache."""
    os.sync()
    for path in (each for each in Path(root).rglob("*") if each.is_file()):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(work: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(root: str, chosen: Asked) -> Iterator[str]:
    """Measure, a line a kind of document."""
    yield f"{'':>24} median s  worst s"
    nothing = [command("schema") for _ in range(3)]
    yield _line("nothing: command", [wall for wall, _ in nothing])
    yield _line("nothing: its CPU", [cpu for _, cpu in nothing])
    yield _line("open_store", [measured(lambda: open_store(root)) for _ in range(3)])
    store = open_store(root)
    for kind, ids in chosen._asdict().items():
        cold, warm, inside = [], [], []
        for identity in ids:
            forget_pages(root)
            cold.append(command("explain", root, identity))
            warm.append(command("explain", root, identity))
            start = time.perf_counter()
            list(explain(store, identity))
            inside.append(time.perf_counter() - start)
        yield _line(f"{kind}: command", [wall for wall, _ in warm])
        yield _line(f"{kind}: its CPU", [cpu for _, cpu in warm])
        yield _line(f"{kind}: nothing cached", [wall for wall, _ in cold])
        yield _line(f"{kind}: inside", inside)


def _line(name: str, seconds: list[float]) -> str:
    return f"{name:>24} {statistics.median(seconds):8.3f} {max(seconds):8.3f}"


def main() -> int:
    """Make the store where there is none, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", help="directory for the store, 5.5 GB for 100 parts")
    parser.add_argument("--parts", type=int, default=100, help="of 100,000 records each")
    parser.add_argument("--each", type=int, default=5, help="ids asked of every kind")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--keep", action="store_true", help="leave the store where it is")
    given = parser.parse_args()
    root = str(Path(given.work, "store").absolute())
    if not Path(root, "HEAD").exists():
        seconds = measured(lambda: make_store(root, given.parts, given.workers))
        size = sum(each.stat().st_size for each in Path(root).rglob("*") if each.is_file())
        print(f"{given.parts * PER_PART:,} records, {size / 1e9:.2f} GB made in {seconds:.0f} s")
    for line in report(root, asked(given.parts, given.each)):
        print(line, flush=True)
    if not given.keep:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Packing from many parts: opening every part for every shard, and tokens laid anew first.

`python -m benchmarks.gather WORK` writes the tokens of synthetic parts into the directory WORK,
packs all shards both ways by the functions that a refresh's tasks call, in this process, and
compares the bytes of every shard. It prints wall and CPU seconds, files opened, and what that is an
opening. Parts are smaller than those of a refresh (128 MB of text), so that openings show; what
laying tokens anew costs a byte is measured on `--large` parts of the size of a refresh's.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from corpus.files import checksum
from corpus.membership import ShardPlan, cut_split, tokens_path
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.encode import tokens_schema
from pipeline.gather import gather_tokens
from pipeline.pack import pack_shard
from pipeline.plans import TokenFiles
from pipeline.signatures import write_arrow
from pipeline.stretch import Stretched

_VOCAB = 50_265
_TOKENS = 600  # of a document; prose and web pages have 500 to 1,500
_SENTENCE = 25
_CONFIG = Pack(validation_fraction=0)


def main() -> int:
    """Write, pack both ways, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=1000, help="of a part")
    parser.add_argument("--large", type=int, default=16, help="parts as large as a refresh's")
    given = parser.parse_args()
    tree = Tree(str(given.work / "many"))
    paths = write_parts(tree, given.parts, given.documents)
    shards = cut_split(("first", "s", "train"), given.shards, _CONFIG)
    side = int(np.ceil(np.sqrt(given.shards)))
    pack_all(Tree(str(given.work / "warm")), shards[:1], TokenFiles(()))  # compile
    print(f"{given.parts:,} parts, {given.shards:,} shards")
    print(f"{'':>26} {'wall s':>8} {'CPU s':>8} {'opened':>10}")
    with measured("every part for every shard"):
        expected = pack_all(tree, shards, TokenFiles(paths))
    with measured("laid anew"):
        gathered = gather_all(tree, paths, side)
    with measured("packed from that"):
        found = pack_all(tree, shards, TokenFiles(gathered, side))
    assert found == expected
    print("the shards are the same")
    tree = Tree(str(given.work / "large"))
    paths = write_parts(tree, given.large, 20_000)
    size = sum(Path(tree.own(path)).stat().st_size for path in paths)
    print(f"{given.large} parts of {size / given.large / 1e6:.0f} MB of tokens")
    with measured("laid anew") as seconds:
        gathered = gather_all(tree, paths, given.large)
        for path in gathered:
            checksum(tree.own(path))
    print(f"{size / 1e6 / seconds():.0f} MB a CPU second, its checksums included")
    return 0


def write_parts(tree: Tree, parts: int, documents: int) -> tuple[str, ...]:
    """Write parts of random tokens; return their paths."""
    rng = np.random.default_rng(0)
    bounds = pa.array(np.arange(documents + 1) * _TOKENS)
    starts = np.arange(0, _TOKENS, _SENTENCE, dtype=np.uint32)
    sentences = pa.LargeListArray.from_arrays(
        pa.array(np.arange(documents + 1) * len(starts)), pa.array(np.tile(starts, documents))
    )
    paths = []
    for part in range(parts):
        hashes = np.sort(rng.integers(0, 2**64, documents, dtype=np.uint64))
        ids = rng.integers(5, _VOCAB, documents * _TOKENS).astype(np.uint16)
        words = rng.random(documents * _TOKENS) < 0.7
        table = pa.table(
            {
                "id": [f"s/{part}-{n}" for n in range(documents)],
                "hash": hashes,
                "token_ids": pa.LargeListArray.from_arrays(bounds, pa.array(ids)),
                "sentence_starts": sentences,
                "word_starts": pa.LargeListArray.from_arrays(bounds, pa.array(words)),
            }
        )
        paths.append(tokens_path(f"s-{part:05d}-0"))
        write_arrow(tree.own(paths[-1]), table.cast(tokens_schema(_VOCAB)))
    return tuple(paths)


def gather_all(tree: Tree, paths: tuple[str, ...], side: int) -> tuple[str, ...]:
    """Lay all tokens anew; return the files."""
    outputs = [
        gather_tokens(tree, f"g{start}", paths[start : start + side], side, _VOCAB)
        for start in range(0, len(paths), side)
    ]
    return tuple(chain.from_iterable(output.paths for output in outputs))


def pack_all(tree: Tree, shards: list[ShardPlan], source: TokenFiles) -> list[str]:
    """Pack shards; return their checksums."""
    made_with = _CONFIG, ("0" * 64, _VOCAB)
    for plan in shards:
        pack_shard(tree, plan.name, plan, made_with, source)
    return [checksum(tree.own(plan.path)) for plan in shards]


@contextmanager
def measured(name: str) -> Iterator[Callable[[], float]]:
    """Print what the body took and how many tokens files it opened; give its CPU seconds."""
    opened = count()
    found: list[float] = []

    def counted(path: str) -> Stretched:
        next(opened)
        return Stretched(path)

    wall, cpu = time.perf_counter(), time.process_time()
    with patch("pipeline.plans.Stretched", counted):
        yield lambda: found[0]
    found.append(time.process_time() - cpu)
    wall = time.perf_counter() - wall
    print(f"{name:>26} {wall:8.1f} {found[0]:8.1f} {next(opened):10,}")


if __name__ == "__main__":
    sys.exit(main())

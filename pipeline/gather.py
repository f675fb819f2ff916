"""Gather: packs a delivery's shards, its tokens laid anew first where opening them would take long.

Every part holds documents of every shard. From n parts m shards are packed by n m openings of a
file, each for some kilobytes: of terabytes it takes more than half as long as cleaning, and the
more the larger the corpus (`benchmarks.scale --estimate`, on paper). So where a source has many
shards, the tokens of every √m parts are laid anew as √m files, each one range of the hashes, and a
shard opens one file of each √m parts: 2 n √m openings in all, and tokens are written once more.
Such a file is about as large as one of a part, and a task holds one at a time. They are work files,
gone when the snapshot is committed; no shard shows whether there were any.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isqrt

import numpy as np
import pyarrow as pa

from corpus.files import is_remote
from corpus.membership import ShardPlan, tokens_path
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline.encode import Encoded, tokens_schema, tokens_table
from pipeline.jobs import Output, Record, Stages, Task
from pipeline.pack import Dealt, pack_shard, read_documents
from pipeline.plans import TokenFiles, cut_hashes
from pipeline.signatures import write_arrow

# Shards of a source, not yet packed, from which on its tokens are laid anew: where the openings
# that it saves take as long as writing tokens once more. On a disk an opening takes 0.4 ms, and the
# tokens of a part, some 60 MB, take 0.3 s (benchmarks/gather.py). In a bucket: a guess.
LEAST_SHARDS, LEAST_REMOTE = 1024, 256

_Delivered = tuple[str, str]  # snapshot and source


def pack_shards(
    stages: Stages,
    plans: Sequence[ShardPlan],
    parts: Mapping[_Delivered, Sequence[str]],
    made_with: tuple[Pack, tuple[str, int]],
    identity: str,
) -> dict[str, Record]:
    """Pack shards from the tokens of the parts of their (snapshot, source).

    `made_with` is how, and the tokenizer's fingerprint and size; `identity` names in tasks what
    they depend on beside.
    """
    names = {f"{plan.name}-{identity}": plan for plan in plans}
    missing = stages.missing("pack", names)
    shards = Counter((plan.snapshot, plan.source) for plan in plans)
    wanted = Counter((names[name].snapshot, names[name].source) for name in missing)
    sources = {}
    for place, count in shards.items():
        paths = tuple(map(tokens_path, parts[place]))
        side = isqrt(count - 1) + 1
        tasks = _gathering(paths, side, (place, made_with[1][1], identity))
        sources[place] = TokenFiles(paths)
        if wanted[place] and _is_worth_it(stages, tasks, wanted[place]):
            done = stages.run("gather", tasks)
            files = [file["path"] for task in tasks for file in done[task.name].files]
            sources[place] = TokenFiles(tuple(files), side)
    tasks = [
        Task(name, pack_shard, (plan, made_with, sources[plan.snapshot, plan.source]))
        for name, plan in names.items()
    ]
    return stages.run("pack", tasks)


def _is_worth_it(stages: Stages, tasks: Sequence[Task], shards: int) -> bool:
    """Tell whether to gather for so many shards; what was gathered before a kill is used."""
    least = LEAST_REMOTE if is_remote(stages.root) else LEAST_SHARDS
    return shards >= least or not stages.missing("gather", [task.name for task in tasks])


def _gathering(paths: Sequence[str], side: int, made: tuple[_Delivered, int, str]) -> list[Task]:
    """Return the tasks that lay so many files at a time as so many others."""
    (snapshot, source), vocab_size, identity = made
    return [
        Task(
            f"{snapshot}+{source}-{start // side}-by-{side}-{identity}",
            gather_tokens,
            (paths[start : start + side], side, vocab_size),
        )
        for start in range(0, len(paths), side)
    ]


def gather_tokens(
    tree: Tree, task: str, paths: Sequence[str], ranges: int, vocab_size: int
) -> Output:
    """Lay the documents of tokens files anew, one file for each of so many ranges of the hashes."""
    written, documents = [], 0
    for number, (low, high) in enumerate(pairwise(cut_hashes(ranges))):
        dealt = read_documents(tree, paths, low, high)
        written.append(f"work/gather/{task}/{number:05d}.arrow")
        write_arrow(tree.own(written[-1]), _table(dealt, vocab_size))
        documents += len(dealt.hashes)
    return Output(tuple(written), {"documents": documents})


def _table(dealt: Dealt, vocab_size: int) -> pa.Table:
    """Return documents as `encode` writes those of a part."""
    token_ids, word_starts, sentences, firsts = dealt.documents
    bounds = dealt.documents.bounds
    within = sentences[:-1] - np.repeat(bounds[:-1], np.diff(firsts))
    encoded = Encoded(token_ids, bounds, within.astype(np.uint32), firsts, word_starts, 0)
    table = tokens_table(dealt.ids, pa.array(dealt.hashes), encoded)
    return table.cast(tokens_schema(vocab_size))

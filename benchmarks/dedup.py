"""Documents to duplicates on one core, beside other tools, on the same documents in one run.

`python -m benchmarks.dedup FILE... --mb 10 --datatrove PYTHON --text-dedup PYTHON` cuts the texts
of JSON-lines files into documents of about 5 kB, adds to every tenth a copy with some words
replaced and to every fiftieth an unchanged one, writes them as the Parquet files that cleaning
leaves, and prints seconds of CPU by stage (children included) and MB/s (10^6 bytes of text), all
with 32 bands of 8 rows over word 5-grams and the threshold 0.8:

- ours: index (the Parquet files are read here), group, verify on the texts, resolve and the tables
  of duplicates; then, as the others end so, the kept documents are written once more;
- datatrove's four stages as shipped (spaCy words), and with words split at white space;
- text-dedup's `minhash`.

Recall: of the pairs that truly are at or above the threshold, the share of which at most one
document is left. Truth is an exact join over the shingle sets (prefix filter, then the sets
themselves), which shares nothing with MinHash. Needless: documents that a tool removed although no
true pair holds them. The peers' processes are warm: importing and a first small run are left out.

PYTHON are the interpreters of environments with datatrove (spacy, tokenizers, xxhash<4), and with
text-dedup, which the project does not install. Not measured: several cores, remote stores.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.peers import run_peer
from benchmarks.signatures import documents
from corpus.documents import DOCUMENT_SCHEMA, text_hash
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.clean import kept_mask
from pipeline.components import Found
from pipeline.dedup import judge_share, resolve_parts
from pipeline.index import Corpus
from pipeline.pairs import PAIRS_PER_TASK, group_partition, verify_share
from pipeline.parquet import read_table, write_table
from pipeline.signatures import shingle_sets, write_index

CONFIG = Dedup(bands=32, rows=8, ngram=5, threshold=0.8, partitions=1)
_PART_BYTES = 64 * 2**20  # of text; cleaning writes parts of up to 128 MiB, index included
_WORD = re.compile(r"\w+")

# Both run in the peer's interpreter with (input, folder): they print CPU seconds by stage and the
# numbers of the documents that are left, as JSON. `sys.argv[3]` is a variant, `sys.argv[4]` a
# smaller input to warm up with.
_CLOCK = """
import json, os, sys
def cpu():
    return sum(os.times()[:4])
"""
_DATATROVE = (
    _CLOCK
    + """
import logging, pathlib
from loguru import logger
logger.remove()
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
    MinhashDedupSignature)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

class Split:
    def word_tokenize(self, text):
        return text.split()

def run(given, folder):
    config = MinhashConfig(n_grams=5, num_buckets=32, hashes_per_bucket=8)
    signature = MinhashDedupSignature(output_folder=f"{folder}/s", config=config, language="eng")
    if sys.argv[3] == "split":
        signature.word_tokenizer = Split()
    path = pathlib.Path(given)
    read = lambda: JsonlReader(str(path.parent), glob_pattern=path.name)
    stages = {
        "signature": [read(), signature],
        "buckets": [MinhashDedupBuckets(f"{folder}/s", f"{folder}/b", config=config)],
        "cluster": [MinhashDedupCluster(f"{folder}/b", f"{folder}/c", config=config)],
        "filter": [read(), MinhashDedupFilter(f"{folder}/c"),
                   JsonlWriter(f"{folder}/out", compression=None)],
    }
    seconds = {}
    for name, steps in stages.items():
        start = cpu()
        tasks = config.num_buckets if name == "buckets" else 1
        log = f"{folder}/log/{name}"
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=log).run()
        seconds[name] = cpu() - start
    left = [json.loads(line)["id"] for path in pathlib.Path(folder, "out").iterdir()
            for line in path.open(encoding="utf-8")]
    return seconds, left

run(sys.argv[4], sys.argv[2] + "/warm")
seconds, left = run(sys.argv[1], sys.argv[2] + "/run")
print(json.dumps({"seconds": seconds, "left": [int(each) for each in left]}))
"""
)
_TEXT_DEDUP = (
    _CLOCK
    + """
import logging
os.environ["HF_DATASETS_OFFLINE"] = "1"
import datasets
datasets.disable_progress_bars()
from text_dedup import logger
from text_dedup.minhash import main
logger.setLevel(logging.ERROR)

def run(given, folder):
    start = cpu()
    main.main([
        "--path", "json", "--data_files", given, "--split", "train", "--cache_dir",
        folder + "/cache", "--output", folder + "/out", "--column", "text", "--ngram", "5",
        "--num_perm", "256", "--b", "32", "--r", "8", "--threshold", "0.8", "--num_proc", "1",
        "--hash_func", sys.argv[3], "--hash_bits", "64" if sys.argv[3] == "sha1" else "32",
        "--min_length", "5", "--batch_size", "10000",
    ], standalone_mode=False)
    seconds = {"all": cpu() - start}
    return seconds, datasets.load_from_disk(folder + "/out")["id"]

run(sys.argv[4], sys.argv[2] + "/warm")
seconds, left = run(sys.argv[1], sys.argv[2] + "/run")
print(json.dumps({"seconds": seconds, "left": [int(each) for each in left]}))
"""
)


class Outcome(NamedTuple):
    """What a tool took, CPU seconds by stage, and the documents that it left."""

    seconds: dict[str, float]
    left: set[int]


def with_duplicates(texts: list[str]) -> list[str]:
    """Add copies: every fiftieth unchanged, every tenth with 0 to 4 % of its words replaced."""
    rng = random.Random(0)
    made = []
    for number, text in enumerate(texts):
        made.append(text)
        if number % 50 == 1:
            made.append(text)
        if number % 10 == 0:
            share = rng.random() * 0.04
            made.append(_WORD.sub(partial(_changed, rng, share), text))
    rng.shuffle(made)
    return made


def _changed(rng: random.Random, share: float, word: re.Match[str]) -> str:
    return f"w{rng.randrange(10**9)}" if rng.random() < share else word[0]


def true_pairs(texts: list[str], config: Dedup) -> list[tuple[int, int]]:
    """Return all pairs at or above the threshold: those that share a rare shingle, compared."""
    values, offsets = shingle_sets(texts, config.ngram)
    sets = [each.tolist() for each in np.split(values, offsets[1:-1])]
    common = Counter(token for each in sets for token in each)
    holders: dict[int, list[int]] = {}
    pairs = []
    known = [set(each) for each in sets]
    for number, tokens in enumerate(sets):
        # Two sets that are alike share one of so many of their rarest tokens (Chaudhuri 2006).
        prefix = len(tokens) - int(-(-len(tokens) * config.threshold // 1)) + 1
        rare = sorted(tokens, key=lambda token: (common[token], token))[:prefix]
        candidates = {other for token in rare for other in holders.get(token, ())}
        for other in candidates:
            shared = len(known[number] & known[other])
            if shared >= config.threshold * (len(known[number]) + len(known[other]) - shared):
                pairs.append((other, number))
        for token in rare:
            holders.setdefault(token, []).append(number)
    return pairs


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def write_clean(tree: Tree, texts: list[str]) -> Corpus:
    """Write documents as cleaning leaves them; the id says which text it is."""
    parts, rows, held = list[Part](), list[tuple[int, str]](), 0
    for number, text in enumerate([*texts, None]):
        if text is None or held >= _PART_BYTES:
            name = f"s-{len(parts):016x}-00000"
            write_table(tree.own(f"clean/{name}.parquet"), _documents(rows))
            parts.append(Part(name, "s", "first", 0))
            rows, held = [], 0
        if text is not None:
            rows.append((number, text))
            held += len(text.encode())
    return Corpus(tuple(parts), 0)


def _documents(rows: list[tuple[int, str]]) -> pa.Table:
    count = len(rows)
    columns = {
        "id": [f"s/{number:09d}" for number, _ in rows],
        "text": [text for _, text in rows],
        "source": ["s"] * count,
        "snapshot": ["first"] * count,
        "file": ["f"] * count,
        "position": [number for number, _ in rows],
        "text_hash": [text_hash(text) for _, text in rows],
    }
    none = [None] * count
    return pa.table(
        [pa.array(columns.get(field.name, none), field.type) for field in DOCUMENT_SCHEMA],
        schema=DOCUMENT_SCHEMA,
    )


def ours(root: str, texts: list[str], config: Dedup) -> Outcome:
    """Run our stages one after another in this process."""
    tree = Tree(root)
    corpus = write_clean(tree, texts)
    groups = [f"g{n:05d}" for n in range(config.partitions)]
    checks = ["v00000"]

    def index() -> None:
        for part in corpus.parts:
            table = read_table(tree.find(f"clean/{part.name}.parquet"))
            write_index(tree, part.name, table, config)

    def group() -> None:
        for number, name in enumerate(groups):
            found = group_partition(tree, name, corpus, (number, len(groups))).counts
            assert found["pairs"] + found["large_members"] <= PAIRS_PER_TASK, found

    def verify() -> None:
        verify_share(tree, checks[0], config, corpus, (0, 1, groups))

    def settle() -> None:
        found = Found(tuple(groups), tuple(checks))
        judge_share(tree, "j00000", config, corpus, (found, 0))
        resolve_parts(tree, "r00000", config, corpus, ((0, len(corpus.parts)), ["j00000"]))

    def keep() -> None:
        for part in corpus.parts:
            table = read_table(tree.find(f"clean/{part.name}.parquet"))
            mask = pa.array(kept_mask(tree, part.name, len(table)))
            write_table(tree.own(f"kept/{part.name}.parquet"), table.filter(mask))

    stages = {"index": index, "group": group, "verify": verify, "resolve": settle, "filter": keep}
    seconds = {name: cpu_seconds(work) for name, work in stages.items()}
    left = set[int]()
    for part in corpus.parts:
        kept = read_table(tree.find(f"kept/{part.name}.parquet"), columns=["position"])
        left |= set(kept["position"].to_pylist())
    return Outcome(seconds, left)


def peer(python: str, code: str, folder: Path, variant: str) -> Outcome:
    """Run another tool in its own interpreter."""
    mine = folder / f"{len(list(folder.iterdir())):02d}"
    mine.mkdir()
    arguments = (folder / "texts.jsonl", mine, variant, folder / "few.jsonl")
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = run_peer(python, code, *arguments, environment=environment)
    return Outcome(result["seconds"], set(result["left"]))


def write_lines(path: Path, texts: list[str]) -> None:
    """Write documents as the peers read them."""
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def describe(
    name: str, outcome: Outcome, size: int, truth: tuple[list[tuple[int, int]], int]
) -> str:
    """Put what a tool did into a line."""
    pairs, count = truth
    total = sum(outcome.seconds.values())
    resolved = sum(not {one, other} <= outcome.left for one, other in pairs)
    paired = {number for pair in pairs for number in pair}
    gone = set(range(count)) - outcome.left
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in outcome.seconds.items())
    return (
        f"{name:>22} {size / 1e6 / total:8.2f} MB/s ({stages} s); "
        f"resolved {resolved:,} of {len(pairs):,} pairs ({100 * resolved / len(pairs):.2f} %); "
        f"{len(gone):,} removed, {len(gone - paired):,} needless"
    )


def main() -> int:
    """Measure and print a line a tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--mb", type=float, default=10, help="10^6 bytes of text before copies")
    parser.add_argument("--datatrove", help="interpreter of an environment with datatrove")
    parser.add_argument("--text-dedup", help="interpreter of an environment with text-dedup")
    parsed = parser.parse_args()
    texts = with_duplicates(list(documents(parsed.files, int(parsed.mb * 1e6))))
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(f"{folder}/warm", texts[:50], CONFIG)
        results = {"ours": ours(f"{folder}/ours", texts, CONFIG)}
        truth = (true_pairs(texts, CONFIG), len(texts))
        print(f"{size / 1e6:.1f} MB, {len(texts):,} documents, {len(truth[0]):,} true pairs")
        print(describe("ours", results["ours"], size, truth), flush=True)
        write_lines(folder / "texts.jsonl", texts)
        write_lines(folder / "few.jsonl", texts[:50])
        peers = [("datatrove, split words", parsed.datatrove, _DATATROVE, "split")]
        peers += [("text-dedup, sha1", parsed.text_dedup, _TEXT_DEDUP, "sha1")]
        peers += [("text-dedup, xxh3", parsed.text_dedup, _TEXT_DEDUP, "xxh3")]
        peers += [("datatrove as shipped", parsed.datatrove, _DATATROVE, "shipped")]
        for title, python, code, variant in peers:
            if python:
                outcome = peer(python, code, folder, variant)
                print(describe(title, outcome, size, truth), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From raw `.jsonl.zst` to cleaned Parquet, and on to packed shards, beside datatrove on one core.

`python -m benchmarks.half --peers PYTHON [--mb N] [--peer-mb M] FILE...` cuts the texts of
JSON-lines files into documents of a web page's size, writes them as one `.jsonl.zst` with every
tenth document delivered twice, changed in a few words, and runs on it, in this process:

- *clean*: language and all four sets of rules, to Parquet; then the same without finding languages,
  which the peer does not either;
- *half*: the same with signatures, deduplication, our own tokenizer trained on the way, and shards;
- *refresh*: the same as a second delivery to a store that has its tokenizer and its measured
  recall, which the peer's work does not hold either. Of ten documents and a copy, one group in k is
  the first delivery and all others are the second.

The peer runs on those of the first delivery, M of the N megabytes, as its rates do not grow with
them: datatrove's reader, Gopher repetition, Gopher quality, C4 and FineWeb filters to JSON lines,
then its four MinHash stages and its tokenizing stage with the tokenizer that *half* trained, whose
training is not counted. Once as shipped (spaCy words), once with words by `str.split`. It
identifies no language (its model has to be downloaded) and packs nothing: both in its favour. CPU
seconds throughout, so that what else the machine does is not counted; compiled kernels are loaded
before, in both. All is run twice, ours and the peer in turns, and the faster counts: a shared
machine's speed moves, memory that a virtual machine has not touched before costs it as much as the
work on it, and a worker touches it once, not once a file.

PYTHON is the interpreter of an environment with datatrove[io], spacy, tokenizers, xxhash<4.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zstandard

from benchmarks.peers import run_peer
from benchmarks.signatures import documents
from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.recipe import Clean, Dedup, Languages, Pack, Recipe, Source, Tokenizer
from corpus.snapshots import open_snapshot
from corpus.tokenizer import open_tokenizer
from pipeline import jobs
from pipeline.chain import open_chain
from pipeline.clean import Cleaner, Origin
from pipeline.cuts import of_file
from pipeline.jobs import Stages, Task
from pipeline.parquet import write_table
from pipeline.refresh import refresh

# FineWeb's chain, as the peer runs it.
_CLEAN = Clean(
    rules=("gopher_repetition", "gopher_quality", "c4", "fineweb"),
    thresholds={"c4_line_terminal_mark": None},
)
_PASSES = 2
_GROUP = 11  # ten documents and the copy of the first

# Runs in the peer's interpreter: raw folder, tokenizer, work folder, "split" or "shipped"; prints
# CPU seconds by step.
_PEER = """
import json, sys, time
raw, tokenizer, out, words = sys.argv[1:]
if words == "split":
    from datatrove.utils import text, word_tokenizers

    class Split(word_tokenizers.WordTokenizer):
        def word_tokenize(self, text):
            return text.split()

        def sent_tokenize(self, text):
            return text.split(". ")

        def span_tokenize(self, text):
            return []

    word_tokenizers.load_word_tokenizer = lambda _: Split()
    text.load_word_tokenizer = word_tokenizers.load_word_tokenizer

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter

if words == "split":
    minhash.load_word_tokenizer = word_tokenizers.load_word_tokenizer

seconds = {}

def run(name, *steps, tasks=1):
    start = time.process_time()
    logs = f"{out}/{name}-log"
    LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, workers=1, logging_dir=logs).run()
    seconds[name] = time.process_time() - start

def read(name):
    return JsonlReader(f"{out}/{name}")

def rules():
    return (
        GopherRepetitionFilter(), GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter(),
    )

def write(name):
    return JsonlWriter(f"{out}/{name}", compression=None)

# What is loaded with the first document is not counted, as it is not in ours.
run("warm", JsonlReader(raw, compression="zstd", limit=1), *rules(), write("warm"))
run("filters", JsonlReader(raw, compression="zstd"), *rules(), write("kept"))
del seconds["warm"]
config = minhash.MinhashConfig(n_grams=5, num_buckets=32, hashes_per_bucket=8)
signatures, buckets, remove = (f"{out}/{name}" for name in ("signatures", "buckets", "remove"))
run("signatures", read("kept"), minhash.MinhashDedupSignature(signatures, config=config))
run("buckets", minhash.MinhashDedupBuckets(signatures, buckets, config=config), tasks=32)
run("cluster", minhash.MinhashDedupCluster(buckets, remove, config=config))
run("remove", read("kept"), minhash.MinhashDedupFilter(remove), write("unique"))
tokens = DocumentTokenizer(f"{out}/tokens", tokenizer_name_or_path=tokenizer)
run("tokenize", read("unique"), tokens)
print(json.dumps(seconds))
"""


def with_copies(texts: Sequence[str]) -> Iterator[str]:
    """Give every text, and after every tenth a copy with three words changed."""
    rng = random.Random(0)
    for number, text in enumerate(texts):
        yield text
        if number % 10 == 0:
            words = text.split(" ")
            for place in rng.sample(range(len(words)), min(3, len(words))):
                words[place] = "changed"
            yield " ".join(words)


def write_raw(path: Path, texts: Sequence[tuple[int, str]]) -> int:
    """Write numbered documents as `.jsonl.zst`; return the bytes of their text."""
    lines = [orjson.dumps({"id": str(n), "text": text}) + b"\n" for n, text in texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor(level=3).compress(b"".join(lines)))
    return sum(len(text.encode()) for _, text in texts)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def clean_only(path: Path, out: Path, *, identify: bool = True) -> None:
    """Clean one file with all rules, and with language or without, to Parquet."""
    out.mkdir(parents=True, exist_ok=True)
    config = _CLEAN.model_copy(update={"languages": Languages(identify=identify)})
    cleaner = Cleaner(Origin("first", "s"), open_chain(str(out), config))
    with closing(InputFile(str(path))) as file:
        records = read_records(file, "jsonl", config.max_record_bytes)
        for number, part in enumerate(cleaner.parts(of_file(path.name, records))):
            write_table(str(out / f"clean-{number}.parquet"), part.documents())
            write_table(str(out / f"dropped-{number}.parquet"), part.dropped())


def whole_half(
    path: Path, out: Path, snapshot: str = "first", tokenizer: Path | None = None
) -> None:
    """Run a refresh from the raw file to packed shards."""
    recipe = Recipe(
        store=str(out / "store"), snapshot=snapshot,
        tokenizer=Tokenizer(path=None if tokenizer is None else str(tokenizer)),
        sources=(Source(name="s", paths=(str(path),)),),
        clean=_CLEAN, dedup=Dedup(partitions=1), pack=Pack(), workers=1,
    )  # fmt: skip
    refresh(recipe)


STAGE_SECONDS: dict[str, float] = {}


def run_here(stages: Stages, stage: str, missing: Sequence[Task]) -> None:
    """Run tasks in this process, so that their CPU time is counted."""
    for task in missing:
        start = time.process_time()
        jobs.run_task(stages.tree, stage, task)
        STAGE_SECONDS[stage] = STAGE_SECONDS.get(stage, 0.0) + time.process_time() - start


def half_seconds(raw: Path, out: Path, *given: Any) -> dict[str, float]:  # noqa: ANN401
    """Return the CPU seconds of each stage of the half, and of all of it as `whole`."""
    STAGE_SECONDS.clear()
    whole = cpu_seconds(lambda: whole_half(raw, out, *given))
    return STAGE_SECONDS | {"whole": whole}


def refresh_seconds(raw: Path, begun: Path, out: Path, tokenizer: Path) -> dict[str, float]:
    """Return the same of a second delivery to a copy of a store."""
    shutil.copytree(begun, out)
    return half_seconds(raw, out, "second", tokenizer)


class Pass(NamedTuple):
    """CPU seconds of one pass over everything: ours by name, with their stages, and the peers'."""

    clean: float
    same: float
    half: dict[str, float]
    refresh: dict[str, float]
    peers: dict[str, dict[str, float]]


def run_pass(root: Path, number: int, python: str | None) -> Pass:
    """Run all of ours once and, where there is an interpreter, the peer both ways."""
    raw, few, others = (root / each / "a.jsonl.zst" for each in ("raw", "few", "others"))
    out = root / f"pass-{number}"
    clean = cpu_seconds(partial(clean_only, raw, out / "clean"))
    same = cpu_seconds(partial(clean_only, raw, out / "same", identify=False))
    half = half_seconds(raw, out / "half")
    tokenizer = tokenizer_of(root)
    if not number:
        whole_half(few, root / "begun", "first", tokenizer)
    again = refresh_seconds(others, root / "begun", out / "again", tokenizer)
    peers = {}
    for words in ("shipped", "split") if python else ():
        given = (few.parent, tokenizer / "tokenizer.json", out / words, words)
        peers[words] = run_peer(str(python), _PEER, *given)
    return Pass(clean, same, half, again, peers)


def tokenizer_of(root: Path) -> Path:
    """Return the directory of the tokenizer that the first pass learned."""
    (tokenizer,) = (root / "pass-0" / "half" / "store" / "tokenizer").iterdir()
    return tokenizer


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", help="interpreter of the peer's environment")
    parser.add_argument("--mb", type=float, default=100, help="10^6 bytes of text")
    parser.add_argument("--peer-mb", type=float, default=5, help="10^6 bytes for the peer")
    parsed = parser.parse_args()
    texts = list(enumerate(with_copies(list(documents(parsed.files, int(parsed.mb * 1e6))))))
    step = max(1, round(parsed.mb / parsed.peer_mb))
    few = [(n, text) for n, text in texts if n // _GROUP % step == 0]
    others = [(n, text) for n, text in texts if n // _GROUP % step]
    Stages._run_missing = run_here  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = {
            name: write_raw(root / name / "a.jsonl.zst", given) / 1e6
            for name, given in (("raw", texts), ("few", few), ("others", others))
        }
        print(f"{sizes['raw']:.1f} MB in {len(texts)} documents; the peer: {sizes['few']:.1f} MB")
        whole_half(root / "few" / "a.jsonl.zst", root / "warm")
        passes = [run_pass(root, number, parsed.peers) for number in range(_PASSES)]
        print(f"{open_tokenizer(str(tokenizer_of(root))).vocab_size} entries")
        tell(root, sizes, passes)
    return 0


def tell(root: Path, sizes: dict[str, float], passes: Sequence[Pass]) -> None:
    """Print the rates of the faster passes, and how many times slower the peer is."""
    for each in passes:
        for name, stages in (("half", each.half), ("refresh", each.refresh)):
            print(name, {stage: round(seconds, 2) for stage, seconds in stages.items()})
    opened = open_snapshot(str(root / "pass-0" / "half" / "store"))
    kept = sum(part.text_bytes for part in opened.parts) / 1e6
    print(f"{kept:.1f} MB of text kept")
    shards = min(each.half["encode"] + each.half["pack"] for each in passes)
    rates = {
        "clean": sizes["raw"] / min(each.clean for each in passes),
        "clean, no language": sizes["raw"] / min(each.same for each in passes),
        "half": sizes["raw"] / min(each.half["whole"] for each in passes),
        "refresh": sizes["others"] / min(each.refresh["whole"] for each in passes),
        "kept text to shards": kept / shards,
    }
    for name, rate in rates.items():
        print(f"{name:>28} {rate:8.2f} MB/s")
    for words, steps in passes[0].peers.items():
        unique = root / "pass-0" / words / "unique"
        kept = sum(
            len(orjson.loads(line)["text"].encode())
            for path in unique.iterdir()
            for line in path.read_bytes().splitlines()
        )
        least = {step: min(each.peers[words][step] for each in passes) for step in steps}
        for names, done, parts in (
            (("clean", "clean, no language"), sizes["few"], ["filters"]),
            (("half", "refresh"), sizes["few"], list(steps)),
            (("kept text to shards",), kept / 1e6, ["tokenize"]),
        ):
            rate = done / sum(least[step] for step in parts)
            ratios = ", ".join(f"{name} 1/{rates[name] / rate:.1f}" for name in names)
            print(f"datatrove {words:>8} {rate:8.3f} MB/s: {ratios}")


if __name__ == "__main__":
    sys.exit(main())

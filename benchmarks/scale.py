"""Deduplication at scale: time and memory per document from 1 to 10 million synthetic signatures.

`python -m benchmarks.scale WORK PLOT --millions 1 2 5 10` makes the index of that many documents in
the directory WORK, without texts, and runs group, verify, deal, judge and resolve on it, each by
workers of its own as Ray would start them. It prints wall and CPU seconds, microseconds of CPU a
document and the peak memory of the largest worker (mapped files included), and draws the last two.

Documents come in clusters whose sizes follow a power law with exponent 2.8, up to 20,000; a member
has the signature of its cluster but for 2 to 14 % of the 256 positions. One document in twenty is a
copy of another, one in a thousand has another's id, and 100,000 documents of all clusters share one
band besides: the bucket with 5 x 10^9 pairs. Signatures are computed from the document's number
where verification would read texts and sign them; nothing else is replaced. So reading and signing
of texts is what these figures leave out, `benchmarks.prose` has it.

`--deal 100 300` measures the arrays of `deal` alone for so many million documents, with edges that
are drawn at random: it is one task for the whole corpus, and its memory is read at any place.

`--estimate 1e9 1e10` measures nothing: it multiplies what was measured up to corpora of such sizes
on 64 machines of 32 cores and names what would hold them up.
"""

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numba
import numpy as np
import pyarrow as pa
from matplotlib import pyplot as plt

from corpus.recipe import MEMORY_BYTES, Dedup, Pack
from corpus.snapshots import Part, Tree
from pipeline import components, pairs
from pipeline.clean import PART_BYTES
from pipeline.components import DOCUMENTS_PER_SHARE, Found, deal_components
from pipeline.dedup import PARTS_PER_TASK, judge_share, resolve_parts
from pipeline.fetch import Texts
from pipeline.index import ROW_BITS, Corpus, Int64s, UInt64s
from pipeline.kernels import UInt32s, band_keys, mix
from pipeline.keys import EXACT_BAND, ID_BAND, INDEX_SCHEMA, KEY_SCHEMA, SET_BAND
from pipeline.pairs import (
    PAIRS_PER_TASK,
    Tokens,
    group_partition,
    signature_tokens,
    verify_share,
)
from pipeline.preference import PREFERENCE_BYTES
from pipeline.signatures import (
    write_arrow,
)

CONFIG = Dedup(verify="signature")
PER_PART = 100_000
CROWD = 100_000
EXPONENT, LARGEST = 2.8, 20_000
STAGES = ("group", "verify", "deal", "judge", "resolve")
_EDGES_AT_A_TIME = 2**22
_STRIDE = 982_451_653  # a prime, so that neighbours in a cluster lie in different parts


class Run(NamedTuple):
    """One measured stage of one size."""

    documents: int
    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def corpus_of(documents: int) -> Corpus:
    """Return the parts of a corpus of this size, all new."""
    numbers = range(documents // PER_PART)
    return Corpus(tuple(Part(f"s-{n:05d}", "s", "first", 0) for n in numbers), 0)


def make_clusters(documents: int) -> Int64s:
    """Return where each cluster ends when documents are laid out by cluster."""
    rng = np.random.default_rng(documents)
    sizes = rng.zipf(EXPONENT, documents)
    sizes = sizes[sizes <= LARGEST]
    ends = np.cumsum(sizes)
    return ends[: int(np.searchsorted(ends, documents)) + 1].astype(np.int64)


@numba.njit(cache=True)
def original(number: int) -> int:
    """Return the document that this one is a copy of, mostly itself."""
    return number - 1 if number % 20 == 19 else number


@numba.njit(cache=True)
def signatures_of(numbers: Int64s, cluster_ends: Int64s, documents: int) -> UInt32s:
    """Compute signatures from the numbers of documents: uint32 [documents, 256]."""
    signatures = np.empty((len(numbers), 256), np.uint32)
    crowd_step = max(documents // CROWD, 1)
    for row in range(len(numbers)):
        number = original(numbers[row])
        slot = number * _STRIDE % documents
        cluster = np.uint64(np.searchsorted(cluster_ends, slot, side="right"))
        of_document, of_cluster = (
            mix(np.uint64(2 * number)),
            mix(np.uint64(2) * cluster + np.uint64(1)),
        )
        percent = np.uint64(2) + of_document % np.uint64(13)
        for p in range(256):
            own = mix(of_document + np.uint64(p + 1))
            differs = own % np.uint64(100) < percent
            value = own if differs else mix(of_cluster + np.uint64(p + 1))
            signatures[row, p] = np.uint32(value >> np.uint64(32))
        if number % crowd_step == 0:
            for p in range(8):
                signatures[row, p] = np.uint32(p)
    return signatures


@numba.njit(cache=True)
def mix_all(values: UInt64s) -> UInt64s:
    """Hash every number of an array."""
    mixed = np.empty_like(values)
    for n in range(len(values)):
        mixed[n] = mix(values[n])
    return mixed


def write_part(tree: Tree, name: str, numbers: Int64s, given: tuple[Int64s, int]) -> None:
    """Write the two index files of a part as `signatures.write_index` would."""
    count = len(numbers)
    signatures = signatures_of(numbers, *given)
    keys_of = band_keys(signatures, CONFIG.bands, CONFIG.rows)
    hashes = mix_all(np.where(numbers % 20 == 19, numbers - 1, numbers).astype(np.uint64))
    ids = np.where(numbers % 1000 == 7, numbers - 1, numbers)
    hashed = pa.py_buffer(np.stack([hashes, ~hashes], axis=1).tobytes())
    hash_column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, hashed])
    preference = [None, pa.py_buffer(bytes(count * PREFERENCE_BYTES))]
    columns = [
        pa.array([f"s/{number:09d}" for number in ids.tolist()]),
        pa.repeat("f", count),
        pa.array(numbers),
        hash_column,
        hash_column,
        pa.repeat(pa.scalar(3000, pa.int64()), count),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(PREFERENCE_BYTES), count, preference),
    ]
    write_arrow(tree.own(f"index/{name}.documents.arrow"), pa.table(columns, schema=INDEX_SCHEMA))
    values = [*keys_of.T, hashes, ~hashes, mix_all(ids.astype(np.uint64) ^ np.uint64(2**63))]
    bands = [*range(CONFIG.bands), SET_BAND, EXACT_BAND, ID_BAND]
    key = np.concatenate(values)
    order = np.argsort(key, kind="stable")
    band = np.repeat(np.array(bands, np.uint8), count)[order]
    row = np.tile(np.arange(count, dtype=np.uint32), len(bands))[order]
    keys = pa.table([key[order], band, row], schema=KEY_SCHEMA)
    write_arrow(tree.own(f"index/{name}.keys.arrow"), keys)


def work(stage: str, root: str, total: int, share: tuple[int, int]) -> list[dict[str, Any]]:
    """Run this worker's share of a stage's tasks; return their counts."""
    tree, corpus = Tree(root), corpus_of(total)
    parts = corpus.parts
    cluster_ends = np.load(f"{root}/clusters.npy")

    def read_tokens(texts: Texts, documents: UInt64s, config: Dedup) -> Tokens:
        assert texts and config == CONFIG
        part, row = documents >> np.uint64(ROW_BITS), documents & np.uint64(2**ROW_BITS - 1)
        numbers = (part * np.uint64(PER_PART) + row).astype(np.int64)
        return signature_tokens(signatures_of(numbers, cluster_ends, total))

    pairs.read_tokens = read_tokens
    plan = json.loads(Path(f"{root}/plan.json").read_text())
    groups = [f"g{n:05d}" for n in range(CONFIG.partitions)]
    checks = [f"v{n:05d}" for n in range(plan["checks"])]
    judges = [f"j{n:05d}" for n in range(plan["shares"])]
    found = Found(tuple(groups), tuple(checks), "d" if plan["dealt"] else None)
    spans = list(pairwise([*range(0, len(parts), PARTS_PER_TASK), len(parts)]))

    def run_task(number: int) -> dict[str, Any]:
        if stage == "index":
            numbers = np.arange(number * PER_PART, (number + 1) * PER_PART)
            write_part(tree, parts[number].name, numbers, (cluster_ends, total))
            return {}
        if stage == "group":
            output = group_partition(tree, groups[number], corpus, (number, len(groups)))
        elif stage == "verify":
            given = (number, len(checks), groups)
            output = verify_share(tree, checks[number], CONFIG, corpus, given)
        elif stage == "deal":
            output = deal_components(tree, "d", corpus, found, DOCUMENTS_PER_SHARE)
        elif stage == "judge":
            output = judge_share(tree, judges[number], CONFIG, corpus, (found, number))
        else:
            output = resolve_parts(tree, "r", CONFIG, corpus, (spans[number], judges))
        return output.counts

    tasks = {
        "index": len(parts),
        "group": len(groups),
        "verify": len(checks),
        "deal": plan["dealt"],
        "judge": len(judges),
        "resolve": len(spans),
    }
    return [run_task(number) for number in range(share[0], tasks[stage], share[1])]


def run_stage(stage: str, root: Path, documents: int, workers: int) -> tuple[Run, Counter[str]]:
    """Run a stage in processes of its own; return what it took and the sum of its counts."""
    command = [sys.executable, "-m", "benchmarks.scale", str(root), stage, "--worker"]
    start = time.perf_counter()
    running = [
        subprocess.Popen([*command, str(documents), str(n), str(workers)], stdout=subprocess.PIPE)
        for n in range(workers)
    ]
    outputs = [json.loads(process.communicate()[0]) for process in running]
    wall = time.perf_counter() - start
    total: Counter[str] = Counter()
    for counts in (each for output in outputs for each in output["counts"]):
        total.update({key: value for key, value in counts.items() if key != "parts"})
        for part in counts.get("parts", ()):
            total.update(part["dropped"])
    cpu = sum(output["cpu_seconds"] for output in outputs)
    return Run(documents, stage, wall, cpu, max(o["peak_bytes"] for o in outputs)), total


def measure(root: Path, documents: int, workers: int) -> list[Run]:
    """Build the index of so many documents and deduplicate them; print what it took."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    np.save(root / "clusters.npy", make_clusters(documents))
    plan = {"checks": 1, "shares": 1, "dealt": 0}
    (root / "plan.json").write_text(json.dumps(plan))
    run_stage("index", root, documents, workers)
    runs = []
    at_most = 0  # documents with an edge, as pipeline/resolve.py reckons
    for stage in STAGES:
        run, counts = run_stage(stage, root, documents, workers)
        if stage == "group":
            plan["checks"] = -(-(counts["pairs"] + counts["large_members"]) // PAIRS_PER_TASK)
            at_most = counts["members"] + counts["large_members"]
        elif stage == "verify":
            plan["dealt"] = int(at_most + 2 * counts["verified"] > DOCUMENTS_PER_SHARE)
        elif stage == "deal" and plan["dealt"]:
            plan["shares"] = counts["shares"]
        (root / "plan.json").write_text(json.dumps(plan))
        runs.append(run)
        print(
            f"{documents:>11,} {stage:>8} {run.wall_seconds:8.1f} {run.cpu_seconds:8.1f} "
            f"{run.cpu_seconds * 1e6 / documents:8.1f} {run.peak_bytes / 2**30:8.2f}  "
            + ", ".join(f"{key} {value:,}" for key, value in sorted(counts.items())),
            flush=True,
        )
    shutil.rmtree(root)
    return runs


def measure_deal(documents: int, memory_bytes: int = MEMORY_BYTES) -> str:
    """Join that many documents by random edges, deal and number them; say what it took."""
    rng = np.random.default_rng(documents)
    edges = int(documents * _PAIRS)
    seconds = 0.0
    with components.no_parents(documents, memory_bytes) as parents:
        for start in range(0, edges, _EDGES_AT_A_TIME):
            count = min(_EDGES_AT_A_TIME, edges - start)
            # Of every second document, in clusters of five that lie anywhere.
            slots = rng.integers(0, documents // 2, count)
            left = slots * _STRIDE % documents
            right = (slots // 5 * 5 + rng.integers(0, 5, count)) * _STRIDE % documents
            begun = time.perf_counter()
            components.join(parents, left, right)
            seconds += time.perf_counter() - begun
        begun = time.perf_counter()
        shares, _ = components.deal(parents, DOCUMENTS_PER_SHARE)
        for _ in components.all_shares(parents):
            pass
        seconds += time.perf_counter() - begun
    rate = seconds * 1e6 / documents
    return (
        f"{documents:,} documents, {edges:,} edges, {shares} shares: {seconds:.1f} s, "
        f"{rate:.3f} us/doc"
    )


class Cluster(NamedTuple):
    """What an estimate supposes: machines, their cores, and what each reads of a file system."""

    machines: int = 64
    cores: int = 32
    read_bytes_per_second: float = 1e9  # a guess: one NVMe disk, or 10 Gbit/s

    @property
    def all_cores(self) -> int:
        """Cores of all machines."""
        return self.machines * self.cores


# Guesses at a corpus: bytes of a page's text, of its id and file name; documents that are second in
# a pair, as a share of all; what zstd leaves of text.
_TEXT_BYTES, _NAME_BYTES, _READ_SHARE, _ZSTD = 4000, 100, 0.5, 0.4
# CPU seconds to fetch a text of 5 kB for verification (benchmarks.fetch).
_FETCH = 75e-6
# Measured with this file (BENCHMARKS.md): CPU seconds that a document more takes between 10 and 20
# million, deal's with `--deal 1000`; the share of documents that have an edge, pairs a document.
_GROUP, _VERIFY, _DEAL, _JUDGE, _RESOLVE = 21.9e-6, 20.7e-6, 0.285e-6, 3.5e-6, 1.2e-6
_EDGED_SHARE, _PAIRS = 0.5, 2.07
_PAIR_BYTES = 32  # VERIFIED_SCHEMA
# Bytes of text a second of one core that cleans (benchmarks.prose, 2026-11-21); seconds to open one
# more part in group (0.96 s for 16 partitions of 101 parts, measured with benchmarks.refresh_cost).
_CLEANS, _OPENS = 6.1e6, 0.6e-3
# Seconds to open one more file of tokens in pack, bytes a second of one core that lays tokens anew
# (benchmarks.gather); a guess at the text of a token, and what a tokens file has of one.
_OPENS_TOKENS, _GATHERS, _TEXT_PER_TOKEN, _TOKEN_BYTES = 0.4e-3, 196e6, 4.4, 2.33
_BYTES_PER_KEY, _BYTES_PER_DOCUMENT = 13, 80  # KEY_SCHEMA; INDEX_SCHEMA without its strings


def estimate(documents: float, cluster: Cluster) -> Iterator[str]:
    """Say what a corpus of this size would take, as lines of text."""
    text = documents * _TEXT_BYTES
    parts = text / (PART_BYTES * _TEXT_BYTES / (_TEXT_BYTES + 1024))
    partitions = 2 ** math.ceil(math.log2(documents * (CONFIG.bands + 3) / 20e6))
    keys = documents * (CONFIG.bands + 3) * _BYTES_PER_KEY
    index = keys + documents * (_BYTES_PER_DOCUMENT + _NAME_BYTES)
    stored = text * _ZSTD + index
    opens = parts * partitions * _OPENS
    fetched = documents * _READ_SHARE
    read = text * _ZSTD * (1 + _READ_SHARE)  # the first of every pair where it lies, at most all
    shares = math.ceil(documents * _EDGED_SHARE / DOCUMENTS_PER_SHARE)
    tokens = text / _TEXT_PER_TOKEN
    shards = tokens * 2 / Pack().shard_size_bytes
    reads = cluster.machines * cluster.read_bytes_per_second
    seconds = {
        "clean and index": text / _CLEANS / cluster.all_cores,
        "group, comparing": documents * _GROUP / cluster.all_cores,
        "group, opening": opens / cluster.all_cores,
        "verify, comparing": documents * _VERIFY / cluster.all_cores,
        "fetch": fetched * _FETCH / cluster.all_cores,
        "fetch, reading": text * _ZSTD / reads,
        "verify, reading": read / reads,
        "deal (one task)": documents * _DEAL,
        "judge, reading": shares * documents * _PAIRS * _PAIR_BYTES / reads,
        "judge, deciding": documents * _JUDGE / min(shares, cluster.all_cores),
        "resolve": documents * _RESOLVE / cluster.all_cores,
        "pack, laid anew": tokens * _TOKEN_BYTES / _GATHERS / cluster.all_cores,
        "pack, opening": 2 * parts * math.sqrt(shards) * _OPENS_TOKENS / cluster.all_cores,
    }
    yield f"{documents:,.0f} documents, {text / 1e12:,.1f} TB of text, {parts:,.0f} parts"
    yield f"  {partitions:,} partitions; on disk {stored / 1e12:,.1f} TB with the index"
    yield f"  index {index / 1e12:,.2f} TB, of it keys, read once by group, {keys / 1e12:,.2f} TB"
    yield f"  read by fetch {text * _ZSTD / 1e12:,.1f} TB, by verify {read / 1e12:,.1f} TB"
    array = documents * components.parents_type(int(documents)).itemsize / 2**30
    yield f"  {shares:,} shares to judge; deal holds {array:,.0f} GiB"
    for name, each in seconds.items():
        longest = "  <- the longest" if each == max(seconds.values()) else ""
        yield f"  {name:>20} {each / 3600:10.3f} h{longest}"


def draw(path: Path, runs: list[Run]) -> None:
    """Plot microseconds a document and peak memory by the number of documents."""
    mpl.use("Agg")
    figure, (times, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for stage in STAGES:
        mine = sorted(run for run in runs if run.stage == stage)
        millions = [run.documents / 1e6 for run in mine]
        costs = [run.cpu_seconds * 1e6 / run.documents for run in mine]
        times.plot(millions, costs, "o-", label=stage)
        memory.plot(millions, [run.peak_bytes / 2**30 for run in mine], "o-", label=stage)
    times.set(title="CPU time per document", ylabel="microseconds", ylim=(0, None))
    memory.set(title="peak memory of a worker", ylabel="GiB", ylim=(0, None))
    memory.axhline(3, color="grey", linestyle="--", linewidth=1)
    for axes in (times, memory):
        axes.set_xlabel("million documents")
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", nargs="?", help="directory for the index, 1.2 GB a million")
    parser.add_argument("plot", nargs="?", help="PNG file to write")
    parser.add_argument("--estimate", type=float, nargs="+", help="numbers of documents")
    parser.add_argument("--deal", type=int, nargs="+", help="millions of documents")
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.estimate:
        for count in given.estimate:
            print("\n".join(estimate(count, Cluster())))
        return 0
    if given.deal:
        measure_deal(1000)  # compiles
        for millions in given.deal:
            print(measure_deal(millions * 1_000_000), flush=True)
        return 0
    if given.worker:
        documents, number, workers = given.worker
        counts = work(given.plot, given.work, documents, (number, workers))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        report = {"counts": counts, "cpu_seconds": cpu, "peak_bytes": usage.ru_maxrss * 1024}
        print(json.dumps(report))
        return 0
    print(
        f"{'documents':>11} {'stage':>8} {'wall s':>8} {'CPU s':>8} {'us/doc':>8} {'peak GiB':>8}"
    )
    runs: list[Run] = []
    for millions in given.millions:
        runs += measure(Path(given.work), millions * 1_000_000, given.workers)
        draw(Path(given.plot), runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

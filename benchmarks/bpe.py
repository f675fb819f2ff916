"""Training a byte-level BPE: time and memory beside other trainers, in the same run.

`python -m benchmarks.bpe FILE... [--peers PYTHON]` cuts the texts of JSON-lines files into
documents and parts, runs the counting tasks in one process and in several, adds their counts up and
learns 50,265 tokens from them; `tokenizers`' BpeTrainer and gigatoken's learn from the same
documents with all cores, and with the interpreter of an environment that has rustbpe and bpeasy
those do. It prints wall and CPU seconds and the growth of memory of each, with the documents it
reads, and ends with 1 unless ours learned the merges of `tokenizers`, in order. Of the others it
prints how many tokens of `tokenizers` they have, at the same place and at all. Every step runs in a
process of its own, ours after one small training that loads what is compiled.

gigatoken and the two others hold all text or its words in one process, so none of them is a stage
of tasks; gigatoken knows no least frequency, so on little text it goes on where the reference ends.
Not measured: reading remote stores, more than one machine.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson
from gigatoken import train_bpe
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers

from benchmarks.encoding import write_part
from benchmarks.peers import run_peer
from benchmarks.resident import resident
from benchmarks.signatures import documents
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import LEADING_SPECIALS, byte_alphabet, open_tokenizer
from pipeline.parquet import read_table
from pipeline.vocabulary import SAMPLE_RANGE, add_up, count_part, learn, train

# Runs in the peers' interpreter: documents as JSON lines, entries, trainer; prints wall and CPU
# seconds, the most memory it held, and the tokens in order.
_PEER = """
import json, sys, time
path, entries, name = sys.argv[1:]
gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
texts = (json.loads(line) for line in open(path))

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6

before = peak()
wall, cpu = time.perf_counter(), time.process_time()
if name == "rustbpe":
    import rustbpe
    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(texts, int(entries), pattern=gpt2)
    tokens = [piece for piece, _ in trained.get_mergeable_ranks()]
else:
    import bpeasy
    ranks = bpeasy.train_bpe(texts, gpt2, 10_000, int(entries))
    tokens = sorted(ranks, key=ranks.get)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([wall, cpu, peak() - before, [bytes(token).hex() for token in tokens[256:]]]))
"""
_PART_BYTES = 10_000_000  # small parts, so that several tasks have something to do

_MERGES = 50_265 - 256 - len(LEADING_SPECIALS) - 1

Merges = list[tuple[str, str]]


def reference_merges(texts: Iterator[str], vocab_size: int) -> Merges:
    """Learn merges by `tokenizers` itself."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <mask> comes last
        min_frequency=2,
        show_progress=False,
        special_tokens=list(LEADING_SPECIALS),
        initial_alphabet=sorted(byte_alphabet().values()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _merges(tokenizer.to_str().encode())


def _merges(definition: bytes) -> Merges:
    return [(left, right) for left, right in orjson.loads(definition)["model"]["merges"]]


def _by_reference(folder: str, parts: list[str]) -> Merges:
    tables = (read_table(Tree(folder).find(f"clean/{part}.parquet")) for part in parts)
    return reference_merges((text for each in tables for text in each["text"].to_pylist()), 50_265)


def _by_gigatoken(folder: str, parts: list[str]) -> list[bytes]:
    tables = (read_table(Tree(folder).find(f"clean/{part}.parquet")) for part in parts)
    texts = b"\0".join(text.encode() for each in tables for text in each["text"].to_pylist())
    trained = train_bpe(texts, 256 + _MERGES, [], separator=b"\0")
    return [left + right for left, right in trained[1]]


def _by_us(folder: str, counted: list[str]) -> Merges:
    config = TokenizerConfig(vocab_size=50_265)
    added = add_up(Tree(folder), "all", (0, 1), counted).paths
    made = learn(Tree(folder), "learn", folder, config, added)
    return _merges(open_tokenizer(tokenizer_root(folder, made.counts["fingerprint"])).definition)


def _count(folder: str, parts: list[str]) -> list[str]:
    return [count_part(Tree(folder), part, part, SAMPLE_RANGE).paths[0] for part in parts]


def _measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, list[float]]:
    """Return a function's result with its wall and CPU seconds and MB of memory."""
    train(["warm up"], 300)
    memory, cpu, wall = resident("VmHWM"), time.process_time(), time.perf_counter()
    result = function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, [wall, cpu, (resident("VmHWM") - memory) * 2**20 / 1e6]


def measure(label: str, function: Callable[..., Any], shares: list[tuple[Any, ...]]) -> list[Any]:
    """Run shares of work in processes of their own and print what they took together."""
    with ProcessPoolExecutor(len(shares), get_context("spawn")) as pool:
        done = list(pool.map(_measured, [function] * len(shares), shares))
    figures = [figures for _, figures in done]
    wall, cpu = max(each[0] for each in figures), sum(each[1] for each in figures)
    tell(label, wall, cpu, max(each[2] for each in figures))
    return [result for result, _ in done]


def tell(label: str, wall: float, cpu: float, memory: float) -> None:
    """Print what a step took."""
    print(f"{label:<28} {wall:8.1f} s wall {cpu:8.1f} s CPU {memory:8.0f} MB a process", flush=True)


def tell_likeness(name: str, found: list[bytes], merges: Merges) -> None:
    """Print how many of the reference's tokens a trainer has."""
    byte_of = {char: byte for byte, char in byte_alphabet().items()}
    expected = [bytes(byte_of[char] for char in left + right) for left, right in merges]
    same = sum(one == other for one, other in zip(found, expected, strict=False))
    print(f"{name}: {same} tokens in their place, {len({*found} & {*expected})} at all")


def tell_peers(python: str, folder: str, parts: list[str], expected: Merges) -> None:
    """Let the trainers of another environment learn from the same documents."""
    path = Path(folder, "documents.jsonl")
    with path.open("wb") as stream:
        for part in parts:
            table = read_table(Tree(folder).find(f"clean/{part}.parquet"))
            stream.writelines(orjson.dumps(text) + b"\n" for text in table["text"].to_pylist())
    for name in ("rustbpe", "bpeasy"):
        *figures, tokens = run_peer(python, _PEER, path, str(256 + _MERGES), name)
        tell(name, *figures)
        tell_likeness(name, [bytes.fromhex(token) for token in tokens], expected)


def main() -> int:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", help="interpreter of an environment with rustbpe and bpeasy")
    parser.add_argument("--mb", type=float, default=100, help="10^6 bytes of text")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts, held, size, total = list[str](), list[str](), 0, 0
        for text in documents(parsed.files, int(parsed.mb * 1e6)):
            held.append(text)
            size, total = size + len(text.encode()), total + len(text.encode())
            if size > _PART_BYTES:
                parts.append(f"part-{len(parts):03d}")
                write_part(Tree(folder), parts[-1], held)
                held, size = [], 0
        parts.append("rest")
        write_part(Tree(folder), "rest", held)
        print(f"{total / 1e6:.1f} MB in {len(parts)} parts, 50,265 tokens")
        learned = []
        for workers in (1, 2, 4):
            shares = [(folder, parts[n::workers]) for n in range(workers)]
            counted = measure(f"count, {workers} processes", _count, shares)
            paths = [path for each in counted for path in each]
            learned += measure("add up and learn", _by_us, [(folder, paths)])
        expected = measure("tokenizers' BpeTrainer", _by_reference, [(folder, parts)])[0]
        (found,) = measure("gigatoken's train_bpe", _by_gigatoken, [(folder, parts)])
        tell_likeness("gigatoken", found, expected)
        if parsed.peers:
            tell_peers(parsed.peers, folder, parts, expected)
    print(f"{len(expected)} merges, the same: {[each == expected for each in learned]}")
    return int(any(each != expected for each in learned))


if __name__ == "__main__":
    sys.exit(main())

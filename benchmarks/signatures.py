"""MinHash signatures of one core beside those of other tools, on the same documents, in one run.

`python -m benchmarks.signatures --peers PYTHON FILE...` cuts the texts of JSON-lines files into
documents of about 5 kB at line ends and prints MB/s (10^6 bytes of UTF-8 per CPU second, one pass
after a warm-up) for `sign`, for the whole `write_index`, and for the peers on the same documents:
datatrove's signature step as shipped (spaCy words) and with plain split words, and datasketch's
`update_batch`. All use 256 permutations of word 5-grams.

PYTHON is the interpreter of an environment with datatrove, spacy, tokenizers, xxhash<4 and
datasketch, which the project does not install. Not measured: text-dedup, several cores, reading,
writing to remote stores.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from benchmarks.peers import run_peer
from corpus.archives import InputFile
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline.signatures import sign, write_index

_DOCUMENT_BYTES = 5000  # a guess at a web page after extraction

# Runs in the peers' interpreter: reads a JSON list of texts, prints CPU seconds by name.
_PEERS = """
import json, sys, time
texts = json.load(open(sys.argv[1], encoding="utf-8"))
seconds = {}

def timed(name, work):
    work(texts[0])
    start = time.process_time()
    for text in texts:
        work(text)
    seconds[name] = time.process_time() - start

from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
config = MinhashConfig(n_grams=5, num_buckets=32, hashes_per_bucket=8)
step = MinhashDedupSignature(output_folder=sys.argv[2], config=config, language="eng")

def datatrove(text):
    shingles = step.get_shingles(text)
    if len(shingles):
        step.get_signature(shingles)

timed("datatrove as shipped", datatrove)

class Split:
    def word_tokenize(self, text):
        return text.split()

step.word_tokenizer = Split()
timed("datatrove, split words", datatrove)

from datasketch import MinHash
start = MinHash(num_perm=256)

def datasketch(text):
    words = text.lower().split()
    grams = {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}
    start.copy().update_batch([gram.encode() for gram in grams])

timed("datasketch", datasketch)
print(json.dumps(seconds))
"""


def documents(paths: list[str], max_bytes: int) -> Iterator[str]:
    """Cut texts at line ends into documents of a web page's size."""
    held, size, total = list[str](), 0, 0
    for path in paths:
        for line in b"".join(InputFile(path).chunks()).splitlines():
            for paragraph in orjson.loads(line)["text"].split("\n"):
                held.append(paragraph)
                size += len(paragraph.encode()) + 1
                if size >= _DOCUMENT_BYTES:
                    yield "\n".join(held)
                    total += size
                    held, size = [], 0
                if total >= max_bytes:
                    return


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one run after a warm-up."""
    work()
    start = time.process_time()
    work()
    return time.process_time() - start


def table_of(texts: list[str]) -> pa.Table:
    """Return the columns that an index reads."""
    count = len(texts)
    return pa.table(
        {
            "id": [f"s/{n}" for n in range(count)],
            "file": ["file"] * count,
            "position": list(range(count)),
            "text_hash": pa.array([n.to_bytes(16, "big") for n in range(count)], pa.binary(16)),
            "text": texts,
            "snapshot": ["first"] * count,
            "source": ["s"] * count,
        }
    )


def ours(texts: list[str], size: int, folder: str) -> dict[str, float]:
    """Return MB/s of `sign`, in batches of 200 documents, and of a whole index."""
    config, table = Dedup(bands=32, rows=8), table_of(texts)
    batches = [texts[start : start + 200] for start in range(0, len(texts), 200)]
    seconds = {
        "sign": cpu_seconds(lambda: [sign(batch, config) for batch in batches]),
        "write_index": cpu_seconds(lambda: write_index(Tree(folder), "part", table, config)),
    }
    return {name: size / 1e6 / each for name, each in seconds.items()}


def peers(python: str, texts: list[str], folder: str) -> dict[str, float]:
    """Return MB/s of the other tools, run in an environment of their own."""
    path = Path(folder, "texts.json")
    path.write_text(json.dumps(texts), encoding="utf-8")
    seconds: dict[str, float] = run_peer(python, _PEERS, path, folder)
    size = sum(len(text.encode()) for text in texts)
    return {name: size / 1e6 / each for name, each in seconds.items()}


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--mb", type=float, default=2, help="10^6 bytes of text")
    parsed = parser.parse_args()
    texts = list(documents(parsed.files, int(parsed.mb * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        rates = ours(texts, size, folder)
        if parsed.peers:
            rates |= peers(parsed.peers, texts, folder)
    print(f"{size / 1e6:.1f} MB, {len(texts)} documents")
    for name, rate in rates.items():
        print(f"{name:>24} {rate:9.2f} MB/s, sign is {rates['sign'] / rate:7.1f} times this")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tokens per CPU second of reading rows in shuffled order, with masks, beside other libraries.

`python -m benchmarks.streaming --peers PYTHON [--rows 65536] [--peer_rows 4096]` writes a store
with rows of 512 random ids in shards of 8,192 rows, as our shards and as MosaicML streaming's MDS
(uint16 arrays, no compression). Then it draws steps of 2,048 sequences in 64 microbatches, masks
included, and says what the parts cost: the order alone, the order and the copy, all of it, all of
it with the hash of the batch. The peers read the same rows: `streaming.StreamingDataset` with its
`py1e` shuffle, and `datasets.Dataset.from_file` on our shards (concatenated, `shuffle(seed)`, numpy
format), by row and in batches of 32. Neither masks, so each is measured alone, which goes beside
our order and copy, and with transformers' `DataCollatorForLanguageModeling`, which goes beside our
microbatches. Every file is in the page cache; each figure is the best of three passes over the
rows, in CPU seconds of the process, all its threads together.

PYTHON is the interpreter of an environment with mosaicml-streaming, datasets, transformers and
torch. Not measured: remote stores, several readers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers import COLLATOR, run_peer
from corpus.files import checksum, size_bytes, writing
from corpus.shards import Sequences, shard_schema, write_shard
from corpus.snapshots import FORMAT_VERSION, Counts, ShardEntry, Snapshot, snapshot_root
from corpus.training import Pretrain
from pretrain.batches import Stream, hash_batches, open_stream
from pretrain.config import data_plan

_LENGTH, _STEP, _SHARD, _VOCABULARY, _PASSES = 512, 2048, 8192, 50_265, 3

_PEERS = """
import json, sys, time, os
from itertools import islice
from pathlib import Path
import numpy as np
directory, rows = Path(sys.argv[1]), int(sys.argv[2])
length = 512

def best(read):
    found = []
    for _ in range(3):
        start = time.process_time()
        count = read()
        found.append(count * length / (time.process_time() - start))
    return max(found)

from streaming import MDSWriter, StreamingDataset
ids = np.load(directory / "ids.npy")
columns = {"token_ids": f"ndarray:uint16:{length}"}
with MDSWriter(out=str(directory / "mds"), columns=columns) as out:
    for row in ids:
        out.write({"token_ids": row})
opened = StreamingDataset(local=str(directory / "mds"), shuffle=True, shuffle_algo="py1e",
                          shuffle_seed=1, batch_size=32, num_canonical_nodes=1)

def mosaic():
    count = 0
    for row in opened:
        count += 1
        if count == rows:
            break
    return count

from datasets import Dataset, concatenate_datasets
parts = [Dataset.from_file(str(path)) for path in sorted(directory.glob("snapshots/**/*.arrow"))]
whole = concatenate_datasets(parts).select_columns(["token_ids"]).shuffle(seed=1)
whole = whole.with_format("numpy")

def by_row():
    for at in range(rows):
        whole[at]["token_ids"]
    return rows

def by_batch():
    for at in range(0, rows, 32):
        whole[at:at + 32]["token_ids"]
    return rows // 32 * 32
"""
_MASKED = """
def masked(batches):
    count = 0
    for batch in batches:
        collate([{"input_ids": torch.from_numpy(row.astype(np.int64))} for row in batch])
        count += len(batch)
    return count

def mosaic_batches():
    held = []
    for row in opened:
        held.append(row["token_ids"])
        if len(held) == 32:
            yield held
            held = []

few = min(rows, 1024)
print(json.dumps({
    "MosaicML streaming, py1e": best(mosaic), "datasets, by row": best(by_row),
    "datasets, batches of 32": best(by_batch),
    "MosaicML streaming, with masks": best(lambda: masked(islice(mosaic_batches(), few // 32))),
    "datasets, batches, with masks": best(
        lambda: masked(whole[at:at + 32]["token_ids"] for at in range(0, few, 32))),
}))
"""


def write_store(store: Path, rows: int) -> Snapshot:
    """Write a snapshot of random full rows."""
    draw = np.random.default_rng(0)
    schema = shard_schema(_LENGTH, np.uint16, "0" * 64, "full-sentences")
    entries, ids = [], []
    for at, first in enumerate(range(0, rows, _SHARD)):
        count = min(_SHARD, rows - first)
        tokens = draw.integers(4, _VOCABULARY - 1, (count, _LENGTH)).astype(np.uint16)
        tokens[:, 0], tokens[:, -1], tokens[::2, 200] = 0, 2, 2
        ids.append(tokens)
        sequences = Sequences(
            tokens, np.full(count, _LENGTH, np.int32), draw.random(tokens.shape) < 0.75,
            np.ones(count, np.uint16), np.arange(count + 1, dtype=np.int32),
        )  # fmt: skip
        path = f"shards/one/books/train-{at:05d}.arrow"
        target = f"{snapshot_root(str(store), 'one')}/{path}"
        with writing(target) as stream:
            write_shard(stream, sequences, schema)
        entries.append(
            ShardEntry(
                path=path,
                home="one",
                snapshot="one",
                source="books",
                split="train",
                rows=count,
                tokens=count * _LENGTH,
                size_bytes=size_bytes(target),
                checksum=checksum(target),
            )
        )
    np.save(store / "ids.npy", np.concatenate(ids))
    return _manifest(tuple(entries))


def _manifest(entries: tuple[ShardEntry, ...]) -> Snapshot:
    counts = Counts(documents_in=0, documents_kept=0, documents_dropped={}, tokens=0, sequences=0)
    return Snapshot(
        label="one", parent=None, deliveries=("one",), format_version=FORMAT_VERSION,
        sequence_length=_LENGTH, tokenizer="0" * 64, vocab_size=_VOCABULARY, shards=entries,
        parts=(), kept_digest="", dropped_digest="", fingerprint="0" * 64, counts=counts, files=(),
        inputs=(), recipe={}, made_with={},
    )  # fmt: skip


def measure(read: Callable[[int], object], rows: int) -> float:
    """Return tokens per CPU second of steps over all rows, the best of some passes."""
    steps = rows // _STEP
    read(0)
    found = []
    for one in range(_PASSES):
        start = time.process_time()
        for step in range(one * steps, (one + 1) * steps):
            read(step)
        found.append(steps * _STEP * _LENGTH / (time.process_time() - start))
    return max(found)


def read_ours(stream: Stream, rows: int) -> dict[str, float]:
    """Measure our parts, one more at a time."""

    def places(step: int) -> np.ndarray:
        return stream.order.places(np.arange(step * _STEP, (step + 1) * _STEP)).rows

    def batches(step: int) -> list[object]:
        return list(stream.train_batches(stream.shares_at(step, 1, 32), step, 0))

    def hashed(step: int) -> int:
        return hash_batches(stream.train_batches(stream.shares_at(step, 1, 32), step, 0))

    return {
        "ours, the order alone": measure(places, rows),
        "ours, order and copy": measure(lambda step: stream.train.gather(places(step)), rows),
        "ours, microbatches with masks": measure(batches, rows),
        "ours, with the hash": measure(hashed, rows),
    }


def main() -> int:
    """Write, read and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="interpreter with mosaicml-streaming and datasets")
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--peer_rows", type=int, default=4096)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        snapshot = write_store(Path(temporary), parsed.rows)
        plan = data_plan(Pretrain(batch_sequences=_STEP), snapshot)
        found = read_ours(open_stream(temporary, snapshot, plan), parsed.rows)
        if parsed.peers:
            peers = _PEERS + COLLATOR + _MASKED
            found |= run_peer(parsed.peers, peers, temporary, str(parsed.peer_rows))
        for name, speed in found.items():
            print(f"{name:>32} {speed / 1e6:9.2f} million tokens per CPU second")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

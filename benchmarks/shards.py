"""Size of shards, speed of packing them and of reading random rows, beside other file formats.

`python -m benchmarks.shards BPE FILE --peers PYTHON [--megabytes 20]` encodes texts of a JSON-lines
file with the merges of BPE/vocab.bpe, packs them into rows of 512 and writes the rows as one of our
shards, as a plain array of ids, as Parquet (zstd, row groups of 1,024 rows) and as MosaicML
streaming's MDS (uint16 arrays without compression). It prints bytes on disk per token and tokens
per CPU second for rows in random order, batches of 256, every file in the page cache; Parquet and
MDS read fewer rows, for their time. Ours also holds lengths, document and word starts, which the
plain array does not; MDS and Parquet hold lengths as well. Then it packs the documents, eight times
over, from a tokens file to a shard on disk in every packing format, and prints text tokens per CPU
second, the second of two times; sentence pairs in rows of 128.

PYTHON is the interpreter of an environment with mosaicml-streaming, which the project does not
install. Not measured: remote stores, shuffled sequential reading, several workers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fill import encode_texts, open_merges, read_texts
from benchmarks.peers import run_peer
from corpus.membership import ShardPlan, tokens_path
from corpus.recipe import Pack
from corpus.shards import ROWS_PER_BATCH, Shard, shard_schema, write_blocks
from corpus.snapshots import Tree
from pipeline.encode import tokens_schema
from pipeline.formats import Documents, lay_documents, write_rows
from pipeline.pack import pack_shard
from pipeline.plans import TokenFiles
from pipeline.signatures import write_arrow

_LENGTH, _BATCH = 512, 256
_FORMATS = (
    "full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair",
)  # fmt: skip
_COPIES = 8

# Runs in the peers' interpreter: writes MDS, reads random samples, prints bytes and seconds.
_PEERS = """
import json, sys, time
from pathlib import Path
import numpy as np
from streaming import LocalDataset, MDSWriter
directory, rows = Path(sys.argv[1]), int(sys.argv[2])
ids, lengths = np.load(directory / "ids.npy"), np.load(directory / "lengths.npy")
columns = {"token_ids": f"ndarray:uint16:{ids.shape[1]}", "length": "int32"}
with MDSWriter(out=str(directory / "mds"), columns=columns) as out:
    for row, length in zip(ids, lengths):
        out.write({"token_ids": row, "length": length})
size = sum(path.stat().st_size for path in (directory / "mds").glob("*.mds"))
opened = LocalDataset(str(directory / "mds"))
chosen = np.random.default_rng(0).integers(0, len(ids), rows)
opened[0]
start = time.process_time()
for row in chosen:
    found = opened[int(row)]["token_ids"]
seconds = time.process_time() - start
assert (found == ids[chosen[-1]]).all()
print(json.dumps([size, seconds]))
"""


def measure(read: Callable[[npt.NDArray[np.int64]], object], rows: int, of: int) -> float:
    """Return tokens per CPU second of reading random rows in batches."""
    chosen = np.random.default_rng(0).integers(0, of, rows)
    read(chosen[:_BATCH])
    start = time.process_time()
    for at in range(0, rows, _BATCH):
        read(chosen[at : at + _BATCH])
    return rows * _LENGTH / (time.process_time() - start)


def write_parquet(path: Path, shard: Shard) -> None:
    """Write ids and lengths as Parquet."""
    with pq.ParquetWriter(path, pa.schema(list(shard.schema)[:2]), compression="zstd") as writer:
        for batch in shard.batches:
            table = pa.Table.from_batches([batch.select(["token_ids", "length"])])
            writer.write_table(table, row_group_size=ROWS_PER_BATCH)


def read_parquet(opened: pq.ParquetFile) -> Callable[[npt.NDArray[np.int64]], object]:
    """Return a reader that decodes every row group a batch touches, once a batch."""

    def read(rows: npt.NDArray[np.int64]) -> list[object]:
        found: list[object] = []
        for group in np.unique(rows // ROWS_PER_BATCH):
            column = opened.read_row_group(int(group), columns=["token_ids"])["token_ids"]
            ids = column.chunk(0).flatten().to_numpy().reshape(-1, _LENGTH)
            found.append(ids[rows[rows // ROWS_PER_BATCH == group] % ROWS_PER_BATCH])
        return found

    return read


def main() -> int:
    """Write, read and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bpe", type=Path)
    parser.add_argument("file")
    parser.add_argument("--peers", required=True)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rows", type=int, default=200_000, help="random rows to read")
    parsed = parser.parse_args()
    texts = list(read_texts(parsed.file, int(parsed.megabytes * 1e6)))
    documents = encode_texts(open_merges(parsed.bpe), texts)
    layout = lay_documents(documents, "full-sentences", _LENGTH)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with (directory / "ours.arrow").open("wb") as stream:
            schema = shard_schema(_LENGTH, np.uint16, "0" * 64, "full-sentences")
            write_blocks(stream, write_rows(documents, layout, "full-sentences", _LENGTH), schema)
        print_table(directory, parsed.rows, parsed.peers)
        write_tokens(directory, documents)
        for packing in _FORMATS:
            print(f"{packing:>28} {pack(directory, packing) / 1e6:9.1f} Mtok/s packed")
    return 0


def write_tokens(directory: Path, documents: Documents) -> None:
    """Write the tokens file of the documents, several times over."""
    counts = np.diff(documents.documents)
    firsts = np.repeat(documents.bounds[:-1], counts)
    columns = {
        "token_ids": (documents.token_ids, documents.bounds),
        "sentence_starts": (documents.sentences[:-1] - firsts, documents.documents),
        "word_starts": (documents.word_starts, documents.bounds),
    }
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
        for name, (values, offsets) in columns.items()
    }
    copies = {name: pa.concat_arrays([array] * _COPIES) for name, array in lists.items()}
    rows = len(counts) * _COPIES
    keys = {"id": [f"s/{n}" for n in range(rows)], "hash": np.arange(rows, dtype=np.uint64)}
    table = pa.table(keys | copies).cast(tokens_schema(50265))
    write_arrow(str(directory / tokens_path("s-0-0")), table)


def pack(directory: Path, packing: str) -> float:
    """Return text tokens per CPU second from the tokens file to a shard."""
    length = 128 if packing == "sentence-pair" else _LENGTH
    config = Pack.model_validate({"format": packing, "sequence_length": length})
    plan = ShardPlan("first", "s", "train", 0, 0, 2**64)
    for _ in range(2):
        start = time.process_time()
        made_with, source = (config, ("0" * 64, 50265)), TokenFiles((tokens_path("s-0-0"),))
        output = pack_shard(Tree(str(directory)), plan.name, plan, made_with, source)
        seconds = time.process_time() - start
    return float(output.counts["tokens"]) / seconds


def print_table(directory: Path, rows: int, peers: str) -> None:
    """Write the other formats and print what all of them take and give."""
    shard = Shard(str(directory / "ours.arrow"))
    ids, tokens = shard.token_ids(range(shard.rows)), int(shard.lengths.sum())
    np.save(directory / "ids.npy", ids)
    np.save(directory / "lengths.npy", shard.lengths)
    plain = np.load(directory / "ids.npy", mmap_mode="r")
    write_parquet(directory / "ids.parquet", shard)
    opened = pq.ParquetFile(directory / "ids.parquet")
    few = rows // 20
    size, seconds = run_peer(peers, _PEERS, directory, str(few))
    print(f"{shard.rows:,} rows, {tokens:,} tokens, padding {1 - tokens / ids.size:.1%}")
    print(f"{'format':>28} {'bytes/token':>12} {'Mtok/s':>9}")
    table = [
        ("ours", file_size(directory / "ours.arrow"), measure(shard.token_ids, rows, shard.rows)),
        ("memory map of ids", file_size(directory / "ids.npy"),
         measure(lambda chosen: plain[chosen], rows, shard.rows)),
        ("Parquet, zstd", file_size(directory / "ids.parquet"),
         measure(read_parquet(opened), few, shard.rows)),
        ("MDS, streaming LocalDataset", size, few * _LENGTH / seconds),
    ]  # fmt: skip
    for name, taken, rate in table:
        print(f"{name:>28} {taken / tokens:12.3f} {rate / 1e6:9.1f}")


def file_size(path: Path) -> int:
    """Return bytes on disk."""
    return path.stat().st_size


if __name__ == "__main__":
    raise SystemExit(main())

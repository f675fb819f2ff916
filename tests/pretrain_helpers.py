"""A small synthetic snapshot and recipes over it, for the tests of pretrain."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from benchmarks.curves import widest
from corpus.files import checksum, join, size_bytes, writing
from corpus.recipe import Recipe
from corpus.shards import Sequences, shard_schema, token_dtype, write_shard
from corpus.snapshots import (
    FORMAT_VERSION,
    Counts,
    PartEntry,
    ShardEntry,
    Snapshot,
    commit_snapshot,
    snapshot_root,
    tokenizer_root,
)
from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer, build_definition, local_tokenizer
from pretrain.config import DataPlan
from pretrain.metrics import read_metrics
from pretrain.mixing import Order
from pretrain.writer import CheckpointWriter

REPOSITORY = Path(__file__).parent.parent
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("e", "r"), ("a", "n")]
SEQUENCE_LENGTH = 64
# (source, split, rows): several shards, two sources, sizes that no world divides.
SHARDS = (
    ("books", "train", 41),
    ("books", "train", 30),
    ("wiki", "train", 26),
    ("books", "validation", 11),
    ("wiki", "validation", 6),
)


def write_snapshot(
    store: Path,
    label: str = "one",
    shards: tuple[tuple[str, str, int], ...] = SHARDS,
    sequence_length: int = SEQUENCE_LENGTH,
) -> Snapshot:
    """Write a store of one snapshot's shards and no other files: random rows, some padded."""
    tokenizer = Tokenizer(build_definition(MERGES))
    directory = Path(tokenizer_root(str(store), tokenizer.fingerprint))
    directory.mkdir(parents=True, exist_ok=True)
    local_tokenizer(tokenizer.definition, directory)
    entries = []
    for at, (source, split, rows) in enumerate(shards):
        path = f"shards/{label}/{source}/{split}-{at:05d}.arrow"
        target = join(snapshot_root(str(store), label), path)
        sequences = random_rows(rows, sequence_length, tokenizer.vocab_size, seed=at + 100)
        schema = shard_schema(
            sequence_length,
            token_dtype(tokenizer.vocab_size),
            tokenizer.fingerprint,
            "full-sentences",
        )
        with writing(target) as stream:
            write_shard(stream, sequences, schema)
        entries.append(
            ShardEntry(
                path=path,
                home=label,
                snapshot=label,
                source=source,
                split=split,
                rows=rows,
                tokens=int(sequences.lengths.sum()),
                size_bytes=size_bytes(target),
                checksum=checksum(target),
            )
        )
    snapshot = _manifest(label, tokenizer, entries, sequence_length)
    commit_snapshot(str(store), snapshot)
    return snapshot


def random_rows(rows: int, sequence_length: int, vocab_size: int, seed: int) -> Sequences:
    """Rows of random tokens with a skewed distribution; every third one is padded."""
    generator = np.random.default_rng(seed)
    skewed = generator.random((rows, sequence_length)) ** 3
    tokens = (4 + skewed * (vocab_size - 5)).astype(np.uint16)
    lengths = np.full(rows, sequence_length, np.int32)
    lengths[::3] = generator.integers(3, sequence_length + 1, len(lengths[::3]))
    tokens[:, 0] = BOS_ID
    for row, length in enumerate(lengths):
        tokens[row, length - 1] = EOS_ID
        tokens[row, length:] = PAD_ID
    return Sequences(
        token_ids=tokens,
        lengths=lengths,
        word_starts=np.ones((rows, sequence_length), np.bool_),
        document_starts=np.zeros(rows, np.uint16),
        document_offsets=np.arange(rows + 1, dtype=np.int32),
    )


def _manifest(
    label: str, tokenizer: Tokenizer, entries: list[ShardEntry], sequence_length: int
) -> Snapshot:
    values: dict[str, Any] = {
        "label": label,
        "parent": None,
        "deliveries": (label,),
        "format_version": FORMAT_VERSION,
        "sequence_length": sequence_length,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "shards": tuple(entries),
        "parts": tuple(
            PartEntry(
                name=f"{source}-0-0",
                source=source,
                snapshot=label,
                documents=0,
                kept=0,
                text_bytes=0,
                tokens=0,
                dropped={},
                kept_digest="",
                dropped_digest="",
            )
            for source in sorted({each.source for each in entries})
        ),
        "kept_digest": "0" * 64,
        "dropped_digest": "0" * 64,
        "fingerprint": "",
        "counts": Counts(
            documents_in=0, documents_kept=0, documents_dropped={}, tokens=0, sequences=0
        ),
        "files": (),
        "inputs": (),
        "recipe": Recipe.model_validate(
            {"store": "x", "snapshot": label, "sources": [{"name": "x", "paths": ["unused"]}]}
        ).model_dump(mode="json"),
        "made_with": {},
    }
    draft = Snapshot(**values)
    return draft.model_copy(update={"fingerprint": draft.compute_fingerprint()})


def make_recipe(store: Path, run: Path, snapshot: str = "one", **pretrain: Any) -> Recipe:  # noqa: ANN401
    """A recipe that trains the tiny model in fp32 without dropout, a few steps."""
    settings = {
        "run": str(run),
        "preset": "tiny",
        "max_steps": 6,
        "batch_sequences": 6,
        "microbatch_sequences": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "seed": 7,
        "precision": "fp32",
        "dropout": 0.0,
        "checkpoint_every_steps": 2,
        "validate_every_steps": 3,
    }
    return Recipe.model_validate(
        {
            "store": str(store),
            "snapshot": snapshot,
            "sources": [{"name": "books", "paths": ["unused"]}],
            "pretrain": settings | pretrain,
        }
    )


def write_recipe(recipe: Recipe, path: Path) -> Path:
    """Write a recipe as the YAML file that the command line takes."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def start_training(recipe: Recipe, path: Path) -> subprocess.Popen[str]:
    """Start `python -m pretrain train` on a recipe, in a process of its own."""
    command = [sys.executable, "-m", "pretrain", "train", str(write_recipe(recipe, path))]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def wait_for_steps(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Wait until a run has recorded that many steps; fail where it ends before."""
    deadline = time.monotonic() + 300
    while len(read_metrics(str(run))) < steps:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {steps} steps in {run}"
        time.sleep(0.05)


def stop_after_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the run as soon as its first checkpoint is written."""
    save = CheckpointWriter.save_checkpoint

    def interrupt(self: CheckpointWriter, *given: Any) -> None:  # noqa: ANN401
        save(self, *given)
        self.wait_for_checkpoint()
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "save_checkpoint", interrupt)


def column(run: Path, name: str) -> list[Any]:
    """Read one number of every step; the steps must stand there once and in order."""
    lines = read_metrics(str(run))
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line[name] for line in lines]


def make_plan(**changes: Any) -> DataPlan:  # noqa: ANN401
    values = {
        "version": 1, "snapshot": "", "seed": 5, "batch_sequences": 4, "mask_prob": 0.15,
        "leave_unmasked_prob": 0.1, "random_token_prob": 0.1,
    }  # fmt: skip
    return DataPlan.model_validate(values | changes)


def make_entries(*shards: tuple[str, int]) -> list[ShardEntry]:
    return [
        ShardEntry(
            path=str(at), home="one", snapshot="one", source=source, split="train", rows=rows,
            tokens=0, size_bytes=100 * rows, checksum="",
        )
        for at, (source, rows) in enumerate(shards)
    ]  # fmt: skip


def rows_of(numbers: npt.NDArray[np.int64], rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Turn sequence numbers into rows of one shard."""
    return Order(make_plan(seed=seed), make_entries(("books", rows))).places(numbers).rows


def check_same_steps(run: Path, other: Path) -> None:
    """Compare two runs: the very same batches, losses but for the order of sums."""
    assert column(run, "batch_hash") == column(other, "batch_hash")
    assert widest(column(run, "loss"), column(other, "loss")) < 1e-5


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports

"""What a checkpoint costs: seconds a step is held up, and what a kill loses.

`python -m benchmarks.checkpoint_stall --preset small` trains on random rows, on the GPU where there
is one, three times over the same steps: without checkpoints, with checkpoints written beside the
steps, and with checkpoints that the step waits for (the limit in the same run). It prints how long
a step was held up, how long the run took, and the size. It then kills a run with SIGKILL, starts
the same command again and prints the seconds until the first new step, and the work that was lost.
Measured on whatever disk the directory lies on (`--out`). Not measured: object stores.
"""

import argparse
import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from pretrain_helpers import REPOSITORY, make_recipe, write_recipe, write_snapshot

from corpus.recipe import Recipe
from pretrain import train as train_module
from pretrain.checkpoints import list_checkpoints
from pretrain.config import Identity
from pretrain.launch import run_training
from pretrain.metrics import read_metrics
from pretrain.writer import CheckpointWriter

SEQUENCE_LENGTH = 128
ROWS = (("books", "train", 2000), ("books", "validation", 8))
STEPS, EVERY = 24, 4


class WaitingWriter(CheckpointWriter):
    """Writes a checkpoint while the step waits."""

    def save_checkpoint(self, step: int, identity: Identity, state: Any) -> None:  # noqa: ANN401
        """Begin to write a checkpoint and wait for it."""
        super().save_checkpoint(step, identity, state)
        self.wait_for_checkpoint()


class Listener(logging.Handler):
    """Collects how long the log says that steps were held up."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line."""
        found = re.search(r"held up ([0-9.]+) s", record.getMessage())
        self.seconds += [float(found[1])] if found else []


def settings_of(preset: str, every: int) -> dict[str, Any]:
    """What all runs have in common."""
    return {
        "preset": preset, "max_steps": STEPS, "batch_sequences": 16, "microbatch_sequences": 16,
        "checkpoint_every_steps": every, "validate_every_steps": 10**6, "validation_sequences": 1,
        "precision": "bf16" if torch.cuda.is_available() else "fp32",
    }  # fmt: skip


def measure(recipe: Recipe, writer: type[CheckpointWriter]) -> tuple[list[float], list[float]]:
    """Train; return seconds held up by each checkpoint but the last, and seconds of each step."""
    listener = Listener()
    logger = logging.getLogger("pretrain")
    logger.addHandler(listener)
    try:
        with mock.patch.object(train_module, "CheckpointWriter", writer):
            run_training(recipe)
    finally:
        logger.removeHandler(listener)
    seconds = [line["seconds"] for line in read_metrics(str(recipe.pretrain.run))]
    return listener.seconds[:-1], seconds[1:]


def show_stalls(store: Path, out: Path, preset: str) -> None:
    """Train in the three ways and print a row each."""
    print(f"{'':12} {'held up, s: median':>19} {'longest':>8} {'step, s: median':>16} {'mean':>7}")
    ways = (("none", CheckpointWriter, STEPS), ("background", CheckpointWriter, EVERY),
            ("foreground", WaitingWriter, EVERY))  # fmt: skip
    for name, writer, every in ways:
        recipe = make_recipe(store, out / name, **settings_of(preset, every))
        held_up, seconds = measure(recipe, writer)
        shown = [statistics.median(held_up), max(held_up)] if held_up else [0.0, 0.0]
        print(
            f"{name:12} {shown[0]:19.3f} {shown[1]:8.3f} {statistics.median(seconds):16.3f} "
            f"{statistics.fmean(seconds):7.3f}"
        )
    last = Path(list_checkpoints(str(out / "background"))[-1])
    size = sum(path.stat().st_size for path in last.iterdir())
    print(f"a checkpoint has {size / 1e6:,.0f} MB")


def show_kill(store: Path, out: Path, preset: str) -> None:
    """Kill a run, start it again, and print what that cost."""
    run = out / "killed"
    recipe = make_recipe(store, run, **settings_of(preset, EVERY) | {"max_steps": 10**5})
    path = write_recipe(recipe, out / "recipe.yaml")
    command = [sys.executable, "-m", "pretrain", "train", str(path)]
    first = start(command)
    while len(read_metrics(str(run))) < 2 * EVERY + 2:
        time.sleep(0.01)
    first.kill()
    killed = time.perf_counter()
    first.wait()
    lines, metrics = read_metrics(str(run)), run / "metrics.jsonl"
    inode = metrics.stat().st_ino
    kept = int(list_checkpoints(str(run))[-1].rpartition("-")[2])
    second = start(command)
    while metrics.stat().st_ino == inode or len(read_metrics(str(run))) <= kept:
        time.sleep(0.01)
    elapsed = time.perf_counter() - killed
    second.kill()
    second.wait()
    lost = sum(line["seconds"] for line in lines[kept:])
    print(f"killed at step {len(lines)}: first new step after {elapsed:.1f} s")
    print(f"lost: {len(lines) - kept} steps of work, {lost:.2f} s (checkpoint every {EVERY} steps)")


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start a command of ours, quietly."""
    null = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=null, stderr=null)


def main() -> int:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, help="directory on the disk to measure")
    parsed = parser.parse_args()
    logging.getLogger("pretrain").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(dir=parsed.out) as directory:
        out = Path(directory)
        write_snapshot(out / "store", shards=ROWS, sequence_length=SEQUENCE_LENGTH)
        show_stalls(out / "store", out, parsed.preset)
        show_kill(out / "store", out, parsed.preset)
    return 0


if __name__ == "__main__":
    sys.exit(main())

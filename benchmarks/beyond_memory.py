"""A corpus larger than the memory it is refreshed in, from raw text to steps of training.

`python -m benchmarks.beyond_memory OUT FILE... --gb 10 --limit-gb 5` draws documents of 20 to 60
sentences from the given JSON lines until they are so many gigabytes (10^9 bytes), every twentieth
once more with some words changed, and limits the memory of itself and of all that it starts, files
kept in memory included, by a control group (Linux, root). Then it runs `python -m pipeline refresh`
on them, again with a second delivery of a hundredth, and trains a tiny model over the shards. It
prints the time of each, and the most that all processes together held at once beside the files
(sampled twice a second); a process that wants more than the limit is killed by the system, which
fails the command.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import yaml
import zstandard

from benchmarks.small_files import texts_of

_FILE_BYTES = 250 * 10**6
_TWIN_EACH, _CHANGED_WORDS = 20, 3
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def sentences_of(paths: list[str]) -> list[str]:
    """Return the sentences of documents, of at least four words each."""
    found: list[str] = []
    for text in texts_of(paths):
        parts = re.split(r"(?<=[.!?])\s+", text)
        found += [" ".join(part.split()) for part in parts if part.count(" ") > 3]
    return found


def documents(sentences: list[str], seed: int) -> Iterator[str]:
    """Draw documents without end."""
    rng = np.random.default_rng(seed)
    while True:
        sizes = rng.integers(20, 60, 1000)
        places = np.split(rng.integers(0, len(sentences), sizes.sum()), np.cumsum(sizes)[:-1])
        for number, chosen in enumerate(places):
            given = [sentences[place] for place in chosen.tolist()]
            text = "\n\n".join(" ".join(given[at : at + 5]) for at in range(0, len(given), 5))
            yield text
            if number % _TWIN_EACH == 0:
                words = text.split(" ")
                for at in rng.integers(0, len(words), _CHANGED_WORDS).tolist():
                    words[at] = "changed"
                yield " ".join(words)


def write(folder: Path, sentences: list[str], size: int, seed: int) -> None:
    """Write so many bytes of JSON lines, in compressed files."""
    folder.mkdir(parents=True)
    drawn, written, number = documents(sentences, seed), 0, 0
    while written < size:
        begun = written
        with (
            (folder / f"{number:05d}.jsonl.zst").open("wb") as file,
            zstandard.ZstdCompressor(level=1).stream_writer(file) as stream,
        ):
            while written < min(size, begun + _FILE_BYTES):
                line = orjson.dumps({"text": next(drawn)}) + b"\n"
                stream.write(line)
                written += len(line)
        number += 1


class Limited:
    """A control group of this process and those it starts, and what they hold."""

    def __init__(self, limit: int) -> None:
        """Make the group, limit its memory and go into it."""
        self._first = _V1.is_dir()
        self._root = (_V1 if self._first else _V2) / f"maskline-{os.getpid()}"
        self._root.mkdir()
        name = "memory.limit_in_bytes" if self._first else "memory.max"
        (self._root / name).write_text(str(limit))
        (self._root / "cgroup.procs").write_text(str(os.getpid()))
        self._most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Note what is no file's: the processes' own memory and what they share."""
        wanted = ("total_rss ", "total_shmem ") if self._first else ("anon ", "shmem ")
        while True:
            lines = (self._root / "memory.stat").read_text().splitlines()
            held = sum(int(line.split()[1]) for line in lines if line.startswith(wanted))
            self._most = max(self._most, held)
            time.sleep(0.5)

    def run(self, *words: str) -> str:
        """Run one of our commands and print what it took."""
        self._most, start = 0, time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        print(f"{' '.join(words[:2])}: {seconds:.0f} s, at most {self._most / 1e9:.2f} GB at once")
        if done.returncode:
            sys.exit(f"status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout + done.stderr


def size_of(folder: Path) -> float:
    """Return the gigabytes below a folder."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / 1e9


def main() -> None:
    """Write the corpus, go below the limit and run the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", help="JSON lines, compressed or not")
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--limit-gb", type=float, default=5)
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    sentences = sentences_of(given.texts)
    size = round(given.gb * 1e9)
    write(given.out / "raw" / "first", sentences, size, 0)
    recipe = {
        "store": str(given.out / "store"), "snapshot": "first",
        "sources": [{"name": "drawn", "paths": [str(given.out / "raw")]}],
        "pretrain": {
            "run": str(given.out / "run"), "preset": "tiny", "precision": "fp32",
            "batch_sequences": 16, "microbatch_sequences": 8, "max_steps": given.steps,
            "warmup_steps": 5,
        },
    }  # fmt: skip
    path = given.out / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    print(f"{size / 1e9:.1f} GB in a limit of {given.limit_gb:.1f}; {len(sentences)} sentences")
    limited = Limited(round(given.limit_gb * 1e9))
    print(limited.run("pipeline", "refresh", str(path)))
    write(given.out / "raw" / "second", sentences, size // 100, 1)
    path.write_text(yaml.safe_dump(recipe | {"snapshot": "second"}))
    print(limited.run("pipeline", "refresh", str(path)))
    print(f"store {size_of(given.out / 'store'):.1f} GB")
    print(limited.run("pretrain", "train", str(path)))


if __name__ == "__main__":
    main()

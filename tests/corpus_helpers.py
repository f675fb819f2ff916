"""A small corpus with every kind of drop, and ways to run the command line on it."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

REPOSITORY = Path(__file__).parent.parent
# The commands that evaluate have recipes of their own (test_evaluation_recipes.py).
EVALUATION_RECIPES = ("ablate", "evaluate", "trajectory")
RECIPES = sorted(
    path for path in (REPOSITORY / "recipes").glob("*.yaml") if path.stem not in EVALUATION_RECIPES
)
STOP_WORDS = ("the", "of", "and", "to", "that", "with")
_ONSETS = tuple("bdfgklmnprstvz")
_RIMES = ("a", "e", "i", "o", "u", "an", "en", "or", "is", "um")


class Built(NamedTuple):
    """A small corpus, its recipe and the summary of its refresh; the store is not to be changed."""

    directory: Path
    recipe: Path
    summary: dict[str, Any]


def random_word(rng: random.Random) -> str:
    """Return a pronounceable word of two or three syllables."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_RIMES) for _ in range(rng.randint(2, 3)))


def random_text(rng: random.Random, words: int) -> str:
    """Return sentences that pass the Gopher rules."""
    sentences, left = [], words
    while left > 0:
        length = min(left, rng.randint(6, 14))
        left -= length
        chosen = [
            rng.choice(STOP_WORDS) if rng.random() < 0.3 else random_word(rng)
            for _ in range(length)
        ]
        sentences.append(" ".join(chosen).capitalize() + ".")
    return " ".join(sentences)


def edited(rng: random.Random, text: str, changes: int) -> str:
    """Return a near-duplicate: some words are replaced."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), changes):
        words[place] = random_word(rng)
    return " ".join(words)


def make_documents(seed: int, count: int) -> list[dict[str, Any]]:
    """Return documents with exact, near, same-id and short ones among them."""
    rng = random.Random(seed)
    documents: list[dict[str, Any]] = []
    for n in range(count):
        kind = rng.random()
        if documents and kind < 0.06:
            text = rng.choice(documents)["text"]
        elif documents and kind < 0.2:
            text = edited(rng, rng.choice(documents)["text"], 3)
        elif kind < 0.26:
            text = random_text(rng, 20)
        else:
            text = random_text(rng, rng.randint(60, 400))
        identity = documents[-1]["id"] if documents and kind > 0.97 else f"{seed}-{n}"
        documents.append({"id": identity, "text": text, "topic": rng.choice("xyz")})
    return documents


def write_corpus(directory: Path, files: int = 8, documents: int = 120) -> Path:
    """Write files of two sources, plain and zstd, with bad records; return the recipe."""
    for number in range(files):
        source = "news" if number % 2 else "books"
        lines = [json.dumps(document) for document in make_documents(number % 6, documents)]
        lines[3] = lines[3][:-5]
        data = ("\n".join(lines) + "\n").encode()
        if number == 1:
            data = data.replace(b'"text": "', b'"text": "\xff', 1)
        folder = directory / "raw" / source
        folder.mkdir(parents=True, exist_ok=True)
        if number % 3:
            (folder / f"{number}.jsonl").write_bytes(data)
        else:
            (folder / f"{number}.jsonl.zst").write_bytes(zstandard.compress(data))
    _write_odd_files(directory / "raw" / "books")
    recipe = {
        "store": str(directory / "store"),
        "snapshot": "first",
        "sources": [
            {"name": name, "paths": [str(directory / "raw" / name)]} for name in ("books", "news")
        ],
        "dedup": {"partitions": 8},
        "tokenizer": {"vocab_size": 1000},
        "pack": {
            "sequence_length": 128,
            "shard_size_bytes": 100_000,
            "validation_fraction": 0.1,
        },
        "workers": 2,
    }
    path = directory / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def _write_odd_files(folder: Path) -> None:
    """Write a plain text document and a truncated archive."""
    (folder / "story.txt").write_text(random_text(random.Random(99), 300))
    lines = "\n".join(json.dumps(document) for document in make_documents(7, 300))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-5000])


def environment() -> dict[str, str]:
    """Return the environment of a command: no cluster, coverage of nothing else."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"PYTHONWARNINGS": "ignore", "COLUMNS": "100"}


def start(
    module: str, *arguments: str, extra: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start `python -m MODULE ...` from the repository, with more environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=environment() | dict(extra or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m MODULE ...` from the repository to its end."""
    process = start(module, *arguments)
    out, err = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def refresh(
    recipe: Path, *overrides: str, extra: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a refresh that must succeed; return its JSON summary."""
    process = start("pipeline", "refresh", str(recipe), "--json", *overrides, extra=extra)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def hold(directory: Path, stages: Mapping[str, int]) -> dict[str, str]:
    """Return what makes a worker wait for its end where a stage has so many records.

    The stages may be named anew while Ray runs; each is held once a directory (see tests/hold).
    """
    directory.mkdir(exist_ok=True)
    (directory / "stages.json").write_text(json.dumps(stages))
    path = os.pathsep.join(map(str, (REPOSITORY / "tests" / "hold", REPOSITORY)))
    return {"PYTHONPATH": path, "MASKLINE_HOLD": str(directory)}


def wait_for_held(driver: "subprocess.Popen[str]", directory: Path, stage: str) -> int:
    """Return the process id of the worker that is held in a stage."""
    while not (directory / stage).exists() or not (text := (directory / stage).read_text()):
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.1)
    return int(text)

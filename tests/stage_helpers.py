"""Ways to run the stages of the pipeline in this process, without Ray."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from corpus.documents import text_hash
from corpus.membership import documents_of
from corpus.recipe import Clean, Dedup, Languages
from corpus.records import Record
from corpus.snapshots import Part, ShardEntry, Tree
from pipeline.chain import open_chain
from pipeline.clean import Cleaner, Origin, write_part
from pipeline.components import Found
from pipeline.cuts import of_file
from pipeline.dedup import judge_share, resolve_parts
from pipeline.explain import Store
from pipeline.index import Corpus
from pipeline.jobs import Pool, Stages, Task, run_task
from pipeline.normalize import normalize_text
from pipeline.pairs import group_partition, verify_share
from pipeline.parquet import read_table
from pipeline.signatures import reference_shingles, sign

# Cleans text and asks nothing of it.
PLAIN = open_chain("", Clean(rules=(), languages=Languages(identify=False)))

Place = tuple[str, str, int]  # id, file, position


class Given(NamedTuple):
    """A document of a test: `key` becomes the id `s/<key>`."""

    key: str
    text: str


class Dropped(NamedTuple):
    """A document that went, by the witness's place."""

    method: str
    similarity: float | None
    witness: Place


def clean_parts(
    tree: Tree, parts: Sequence[Sequence[tuple[int, Given]]], config: Dedup
) -> list[str]:
    """Write numbered documents as clean parts with their index; return the parts' names."""
    names = []
    for number, part in enumerate(parts):
        records = [Record(n, given.key, given.text, None, None, None) for n, given in part]
        (made,) = Cleaner(Origin("first", "s"), PLAIN).parts(of_file("f", records))
        names.append(f"s-{number:016x}-00000")
        write_part(tree, names[-1], made.documents(), made.dropped(), config)
    return names


def corpus_of(names: Sequence[str]) -> Corpus:
    """Return parts of one source and one delivery, all of them new."""
    return Corpus(tuple(Part(name, "s", "first", 0) for name in names), 0)


def spread(documents: Sequence[Given], cuts: Sequence[int]) -> list[list[tuple[int, Given]]]:
    """Cut numbered documents into parts at the given places."""
    numbered = list(enumerate(documents, 1))
    bounds = [0, *sorted(cuts), len(numbered)]
    return [numbered[start:stop] for start, stop in pairwise(bounds)]


def random_texts(rng: random.Random, count: int) -> list[Given]:
    """Draw texts of few words, many of them changed a little, some with another's id."""
    words = "abcdefgh"
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 9)))]
    for _ in range(count - 1):
        parts = rng.choice(texts).split() if rng.random() < 0.6 else rng.choices(words, k=6)
        parts[rng.randrange(len(parts))] = rng.choice(words)
        texts.append(" ".join(parts))
    return [
        Given(str(rng.randrange(count) if rng.random() < 0.1 else n), text)
        for n, text in enumerate(texts)
    ]


def deduplicate(tree: Tree, names: list[str], config: Dedup) -> dict[Place, Dropped]:
    """Run group, verify and resolve on clean parts; return what was dropped."""
    corpus = corpus_of(names)
    groups = [f"g{n:05d}" for n in range(config.partitions)]
    for number, group in enumerate(groups):
        group_partition(tree, group, corpus, (number, len(groups)))
    checks = ["v0", "v1"]
    for number, check in enumerate(checks):
        verify_share(tree, check, config, corpus, (number, len(checks), groups))
    decide(tree, config, corpus, Found(tuple(groups), tuple(checks)))
    return read_dropped(tree, names)


def decide(tree: Tree, config: Dedup, corpus: Corpus, found: Found) -> None:
    """Run judge and resolve in one task each."""
    judge_share(tree, "j0", config, corpus, (found, 0))
    resolve_parts(tree, "r0", config, corpus, ((0, len(corpus.parts)), ["j0"]))


def read_dropped(tree: Tree, names: Sequence[str]) -> dict[Place, Dropped]:
    """Read the duplicates of parts by place."""
    dropped = {}
    for name in names:
        for row in read_table(tree.find(f"duplicates/{name}.parquet")).to_pylist():
            witness = (row["witness_id"], row["witness_file"], row["witness_position"])
            dropped[row["id"], row["file"], row["position"]] = Dropped(
                row["method"], row["similarity"], witness
            )
    return dropped


class Oracle:
    """The rule of DESIGN.md, written as it is stated: all pairs, then greedily in order."""

    def __init__(self, documents: Sequence[Given], config: Dedup) -> None:
        self.config = config
        self.texts = {
            (f"s/{given.key}", "f", n): normalize_text(given.text, fix_mojibake=True)
            for n, given in enumerate(documents, 1)
        }
        self.sets = {
            place: reference_shingles(text, config.ngram) for place, text in self.texts.items()
        }
        self.signed = {place: sign([text], config) for place, text in self.texts.items()}

    def order(self, place: Place) -> tuple[bytes, Place]:
        return text_hash(self.texts[place]), place

    def edge(self, one: Place, other: Place) -> tuple[str, float | None] | None:
        """Return method and similarity of the edge between two documents, if there is one."""
        if one[0] == other[0]:
            return "same_id", None
        if text_hash(self.texts[one]) == text_hash(self.texts[other]):
            return "exact", 1.0
        first, second = self.sets[one], self.sets[other]
        if not first or not second or not self.share_a_band(one, other):
            return None
        similarity = len(first & second) / len(first | second)
        if self.config.verify == "signature":
            equal = self.signed[one].signatures == self.signed[other].signatures
            similarity = int(equal.sum()) / equal.size
        return ("minhash", similarity) if similarity >= self.config.threshold else None

    def share_a_band(self, one: Place, other: Place) -> bool:
        return bool((self.signed[one].keys == self.signed[other].keys).any())

    def dropped(self) -> dict[Place, Dropped]:
        survivors: list[Place] = []
        dropped: dict[Place, Dropped] = {}
        for place in sorted(self.texts, key=self.order):
            for witness in survivors:  # in order, so the first is the first surviving neighbour
                edge = self.edge(place, witness)
                if edge is not None:
                    dropped[place] = Dropped(*edge, witness)
                    break
            else:
                survivors.append(place)
        return dropped


def run_stages_here(patch: pytest.MonkeyPatch) -> None:
    """Let `refresh` and all others run their tasks one after another in this process."""

    def run_missing(stages: Stages, stage: str, missing: Sequence[Task]) -> None:
        for task in missing:
            run_task(stages.tree, stage, task)
            stages.tasks_run += 1

    def map_here(
        _: Pool,
        __: str,
        function: Callable[..., Any],
        items: Sequence[Any],
        *shared: object,
        least: int = 2,
    ) -> Iterator[Any]:
        assert least > 1
        return (function(item, *shared) for item in items)

    patch.setattr(Stages, "_run_missing", run_missing)
    patch.setattr(Pool, "map", map_here)


def shard_documents(store: Store, entry: ShardEntry) -> list[str]:
    """Return the ids of a shard's documents in packing order."""
    return [each.id for each in documents_of(store.tree, store.snapshot, entry)]


def table_rows(path: Path | str) -> list[dict[str, Any]]:
    """Read a Parquet file as rows."""
    rows: list[dict[str, Any]] = read_table(str(path)).to_pylist()
    return rows

"""Random corpora delivered in pieces, with everything that could make a refresh differ."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from corpus.recipe import Recipe
from corpus.snapshots import Snapshot
from pipeline.clean import read_table
from pipeline.forget import Request, forget
from pipeline.refresh import rebuild, refresh

SOURCES = ("a", "b")
_WORDS = [f"w{n}" for n in range(400)]


class Delivery(NamedTuple):
    """One refresh: a label and the files of each source, records by file name."""

    label: str
    files: dict[tuple[str, str], list[dict[str, Any]]]


class Takedown(NamedTuple):
    """One forget: a label and what is named."""

    label: str
    request: Request


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(8, 30)))


def changed_text(rng: random.Random, text: str) -> str:
    """Replace or append a few words, so that chains of near-duplicates arise."""
    words = text.split()
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.5:
            words[rng.randrange(len(words))] = rng.choice(_WORDS)
        elif kind < 0.75:
            words.append(rng.choice(_WORDS))
        elif len(words) > 4:
            words.pop(rng.randrange(len(words)))
    return " ".join(words)


def random_records(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return records with exact ties, chains, repeated ids and short texts among them."""
    texts = [random_text(rng)]
    records = []
    for n in range(count):
        kind = rng.random()
        if kind < 0.15:
            text = rng.choice(texts)
        elif kind < 0.6:
            text = changed_text(rng, rng.choice(texts[-6:]))
        elif kind < 0.65:
            text = " ".join(rng.choices(_WORDS, k=2))
        else:
            text = random_text(rng)
        texts.append(text)
        record: dict[str, Any] = {"text": text, "url": f"http://{rng.choice('xyz')}.test/{n}"}
        if rng.random() < 0.9:
            record["id"] = f"d{rng.randrange(count)}" if rng.random() < 0.2 else f"d{n}"
        if rng.random() < 0.5:
            record["score"] = rng.choice([0.1, 0.5, 0.9])
        records.append(record)
    return records


def random_deliveries(rng: random.Random) -> list[Delivery]:
    """Deal random records to deliveries, sources and files; some files come twice."""
    records = random_records(rng, rng.randint(4, 30))
    labels = [f"s{n}" for n in range(rng.randint(1, 5))]
    deliveries = [Delivery(label, {}) for label in labels]
    for record in records:
        place = (rng.choice(SOURCES), f"f{rng.randrange(2)}.jsonl")
        rng.choice(deliveries).files.setdefault(place, []).append(record)
    for earlier, later in zip(deliveries, deliveries[1:], strict=False):
        for place, content in earlier.files.items():
            if rng.random() < 0.2:
                later.files.setdefault(place, content)
    return [delivery for delivery in deliveries if delivery.files]


def random_config(rng: random.Random) -> dict[str, Any]:
    """Draw a lineage, mostly the default order and scope."""
    config: dict[str, Any] = {
        "threshold": rng.choice([0.4, 0.6]), "bands": 12, "rows": 2, "ngram": rng.choice([1, 2]),
        "partitions": rng.choice([1, 4]),
    }  # fmt: skip
    if rng.random() < 0.4:
        config |= {
            "prefer": ["source", "quality", "length"],
            "source_priority": ["b"],
            "quality_key": "score",
        }
    if rng.random() < 0.3:
        config["scope"] = rng.choice(["snapshot", "source"])
    if rng.random() < 0.1:
        config["verify"] = "signature"
    return config


class Chain:
    """A store in a directory, refreshed and taken down step by step."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        """Begin an empty store."""
        self.directory = directory
        self.store = str(directory / "store")
        self.config = config

    def recipe(self, delivery: Delivery) -> Recipe:
        """Write a delivery's files and return its recipe."""
        for (source, name), records in delivery.files.items():
            path = self.directory / "raw" / delivery.label / source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        sources = [
            {"name": source, "paths": [str(self.directory / "raw" / delivery.label / source)]}
            for source in sorted({source for source, _ in delivery.files})
        ]
        return Recipe.model_validate(
            {
                "store": self.store,
                "snapshot": delivery.label,
                "sources": sources,
                "clean": {"preset": "none"},
                "dedup": self.config,
                "tokenizer": {"vocab_size": 280},
                "pack": {
                    "sequence_length": 32, "shard_size_bytes": 600, "validation_fraction": 0.3,
                },
                "workers": 1,
            }
        )  # fmt: skip

    def deliver(self, delivery: Delivery) -> Snapshot:
        """Refresh with one delivery."""
        return refresh(self.recipe(delivery)).snapshot

    def take_down(self, takedown: Takedown) -> Snapshot:
        """Forget what is named."""
        return forget(self.store, takedown.label, takedown.request).snapshot

    def rebuild(self, name: str = "rebuilt") -> Snapshot:
        """Make the newest snapshot anew in one batch."""
        return rebuild(self.store, str(self.directory / name), workers=1).snapshot


def tables(store: str, snapshot: Snapshot, kind: str) -> list[dict[str, Any]]:
    """Return all rows of one kind of table of a snapshot."""
    tree = snapshot.tree(store)
    return [
        row
        for part in snapshot.parts
        for row in read_table(tree.find(f"{kind}/{part.name}.parquet")).to_pylist()
    ]


def compare_snapshots(stores: tuple[str, str], snapshots: tuple[Snapshot, Snapshot]) -> None:
    """Assert that two snapshots of different stores say the same, row by row."""
    one, other = snapshots
    assert one.counts == other.counts
    assert [(s.path, s.checksum) for s in one.shards] == [
        (s.path, s.checksum) for s in other.shards
    ]
    rows = [
        Counter(
            json.dumps({k: v for k, v in row.items() if k != "row"}, default=repr, sort_keys=True)
            for kind in ("duplicates", "dropped")
            for row in tables(store, snapshot, kind)
        )
        for store, snapshot in zip(stores, snapshots, strict=True)
    ]
    assert rows[0] - rows[1] == rows[1] - rows[0]
    assert one.fingerprint == other.fingerprint

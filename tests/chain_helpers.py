"""Random corpora delivered in pieces, with everything that could make a refresh differ."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stage_helpers import run_stages_here

from corpus.documents import text_hash
from corpus.files import create
from corpus.recipe import Dedup, Recipe
from corpus.snapshots import Snapshot, open_snapshot
from pipeline import canaries, cuts, fetch, gather, pairs
from pipeline.forget import Request, forget
from pipeline.jobs import Pool
from pipeline.parquet import read_table
from pipeline.preference import preferences, scope_of
from pipeline.refresh import rebuild, refresh
from pipeline.signatures import reference_shingles, sign

SOURCES = ("a", "b")
_WORDS = [f"w{n}" for n in range(400)]
# Ways to do the same: tasks that are wanted of a source's files, shards from which on its tokens
# are laid anew, pairs from which on texts are fetched.
_WAYS = ((64, 1, fetch.LEAST_PAIRS), (1, gather.LEAST_SHARDS, 1), (1, 2, 10))


class Delivery(NamedTuple):
    """One refresh: a label and the files of each source, records by file name."""

    label: str
    files: dict[tuple[str, str], list[dict[str, Any]]]


Place = tuple[str, str, str, int]  # snapshot, source, file, position
Went = tuple[str, float | None, Place]  # method, similarity, witness


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(8, 30)))


def changed_text(rng: random.Random, text: str) -> str:
    """Replace or append a few words, so that chains of near-duplicates arise."""
    words = text.split()
    for _ in range(rng.randint(1, max(2, len(words) // 6))):
        kind = rng.random()
        if kind < 0.5:
            words[rng.randrange(len(words))] = rng.choice(_WORDS)
        elif kind < 0.75:
            words.append(rng.choice(_WORDS))
        elif len(words) > 4:
            words.pop(rng.randrange(len(words)))
    return " ".join(words)


def random_records(rng: random.Random, number: int) -> list[dict[str, Any]]:
    """Return records with exact ties, chains, repeated ids and short texts among them."""
    texts = [random_text(rng)]
    records = []
    for n in range(number):
        kind = rng.random()
        if kind < 0.15:
            text = rng.choice(texts)
        elif kind < 0.75:
            text = changed_text(rng, rng.choice(texts[-2:]))
        elif kind < 0.8:
            text = " ".join(rng.choices(_WORDS, k=2))
        else:
            text = random_text(rng)
        texts.append(text)
        record: dict[str, Any] = {"text": text, "url": f"http://{rng.choice('xyz')}.test/{n}"}
        if rng.random() < 0.9:
            record["id"] = f"d{rng.randrange(number)}" if rng.random() < 0.2 else f"d{n}"
        if rng.random() < 0.5:
            record["score"] = rng.choice([0.1, 0.5, 0.9])
        records.append(record)
    return records


def random_deliveries(rng: random.Random) -> list[Delivery]:
    """Deal random records to deliveries, sources and files; some files come twice."""
    records = random_records(rng, rng.randint(8, 45))
    labels = [f"s{n}" for n in range(rng.choice([1, 2, 2, 3, 5]))]
    deliveries = [Delivery(label, {}) for label in labels]
    for record in records:
        place = (rng.choice(SOURCES), f"f{rng.randrange(2)}.jsonl")
        rng.choice(deliveries).files.setdefault(place, []).append(record)
    for earlier, later in pairwise(deliveries):
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
        self._ways = cycle(_WAYS)

    @contextmanager
    def _another_way(self) -> Iterator[None]:
        """Let every command do it in another way than the one before."""
        with pytest.MonkeyPatch.context() as patch:
            _go(patch, next(self._ways))
            yield

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
                "clean": {"rules": []},
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
        with self._another_way():
            return refresh(self.recipe(delivery)).snapshot

    def take_down(self, label: str, request: Request) -> Snapshot:
        """Forget what is named."""
        with self._another_way():
            return forget(self.store, label, request).snapshot

    def rebuild(self, name: str = "rebuilt") -> Snapshot:
        """Make the newest snapshot anew in one batch."""
        with self._another_way():
            return rebuild(self.store, str(self.directory / name), workers=1).snapshot


def _go(patch: pytest.MonkeyPatch, way: tuple[int, int, int]) -> None:
    patch.setattr(cuts, "_TASKS_WANTED", way[0])
    patch.setattr(gather, "LEAST_SHARDS", way[1])
    patch.setattr(fetch, "LEAST_PAIRS", way[2])
    patch.setattr(pairs, "PAIRS_PER_TASK", 10)
    patch.setattr(fetch, "PARTS_PER_TASK", 2)


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


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Run stages in this process; the canaries have tests of their own."""
    run_stages_here(patch)
    patch.setattr("os.fsync", lambda _: None)
    patch.setattr(canaries, "measure", lambda _config: [])
    patch.setattr(canaries, "check", lambda _bins: None)


def random_request(rng: random.Random, chain: Chain, snapshot: Snapshot) -> Request:
    """Name some ids (mostly), a site or a source of a snapshot."""
    kind = rng.random()
    duplicates = tables(chain.store, snapshot, "duplicates")
    ids = sorted({row["witness_id"] for row in duplicates})
    if not ids or kind < 0.2:
        ids = sorted({row["id"] for row in tables(chain.store, snapshot, "clean")})
    if kind < 0.85 and ids:
        return Request(ids=tuple(rng.sample(ids, min(len(ids), rng.randint(1, 3)))))
    if kind < 0.95:
        return Request(url_prefixes=(f"http://{rng.choice('xyz')}.test/",))
    return Request(sources=(rng.choice(sorted({part.source for part in snapshot.parts})),))


def run_chain(rng: random.Random, chain: Chain, takedowns: bool) -> list[Snapshot]:
    """Deliver a random corpus, with take-downs in between; return every snapshot."""
    snapshots: list[Snapshot] = []
    for delivery in random_deliveries(rng):
        snapshots.append(chain.deliver(delivery))
        if takedowns and rng.random() < 0.8:
            request = random_request(rng, chain, snapshots[-1])
            snapshots.append(chain.take_down(f"f{len(snapshots)}", request))
    return snapshots


class KilledError(Exception):
    """Stands for a SIGKILL right before a record is committed."""


def _kill_at(patch: pytest.MonkeyPatch, point: int) -> None:
    """Let the commit of the given record (counted from 0) never happen."""
    numbers = count()

    def create_or_die(path: str, data: bytes) -> bool:
        if "/records/" in path and next(numbers) == point:
            raise KilledError
        return create(path, data)

    patch.setattr("pipeline.jobs.create", create_or_die)


def run_with_kills(rng: random.Random, chain: Chain, deliveries: list[Delivery]) -> int:
    """Deliver and take down, each command killed up to three times; return how many kills."""
    kills = 0
    for delivery in deliveries:
        kills += _until_done(rng, partial(_refresh_with, chain.recipe(delivery)))
        last = open_snapshot(chain.store)
        request = random_request(rng, chain, last)
        take_down = partial(forget, chain.store, f"no-{last.label}", request)
        kills += _until_done(rng, partial(_with_workers, take_down))
    return kills


def _refresh_with(recipe: Recipe, workers: int) -> None:
    dedup = recipe.dedup.model_copy(update={"partitions": 4**workers // 4})
    refresh(recipe.model_copy(update={"workers": workers, "dedup": dedup}))


def _with_workers(command: Callable[[Pool], object], workers: int) -> None:
    command(Pool(workers))


def _until_done(rng: random.Random, command: Callable[[int], object]) -> int:
    for kills in count():
        with pytest.MonkeyPatch.context() as patch:
            _go(patch, _WAYS[kills % len(_WAYS)])  # it goes on in another way
            if kills < 3:
                _kill_at(patch, rng.randrange(12))
            try:
                command(rng.randint(1, 4))
            except KilledError:
                continue
            return kills
    raise AssertionError


def verdicts(store: str, snapshot: Snapshot) -> dict[Place, Went]:
    """Return what a snapshot says of its duplicates."""
    return {
        _place(row): (row["method"], row["similarity"], _place(row, "witness_"))
        for row in tables(store, snapshot, "duplicates")
    }


class BruteForce:
    """The rule as it is stated: all pairs of what passed the rules, then greedily in order."""

    def __init__(self, store: str, snapshot: Snapshot) -> None:
        """Read the documents and put them in order."""
        self.config = Recipe.model_validate(snapshot.recipe).dedup
        tree = snapshot.tree(store)
        self.rows: list[dict[str, Any]] = []
        for part in snapshot.part_list():
            table = read_table(tree.find(f"clean/{part.name}.parquet"))
            better = preferences(table, self.config)
            for row, preference in zip(table.to_pylist(), better, strict=True):
                place = _place(row)
                order = (
                    part.position, preference, text_hash(row["text"]), row["id"], *place[2:],
                )  # fmt: skip
                shingles = reference_shingles(row["text"], self.config.ngram)
                signed = sign([row["text"]], self.config)
                self.rows.append(
                    {"place": place, "order": order, "id": row["id"], "shingles": shingles,
                     "keys": signed.keys[0], "signature": signed.signatures[0],
                     "scope": scope_of(part.snapshot, part.source, self.config)}
                )  # fmt: skip
        self.rows.sort(key=lambda row: row["order"])

    def edge(self, one: dict[str, Any], other: dict[str, Any]) -> tuple[str, float | None] | None:
        """Return method and similarity of what joins two documents, if anything does."""
        if one["scope"] != other["scope"]:
            return None
        if one["id"] == other["id"]:
            return "same_id", None
        if one["order"][2] == other["order"][2]:
            return "exact", 1.0
        if not one["shingles"] or not other["shingles"] or not (one["keys"] == other["keys"]).any():
            return None
        similarity = similarity_of(one, other, self.config)
        return ("minhash", similarity) if similarity >= self.config.threshold else None

    def verdicts(self) -> dict[Place, Went]:
        """Walk the documents in order."""
        survivors: list[dict[str, Any]] = []
        found: dict[Place, Went] = {}
        for row in self.rows:
            witness = next(self._witnesses(row, survivors), None)
            if witness is None:
                survivors.append(row)
            else:
                found[row["place"]] = witness
        return found

    def _witnesses(self, row: dict[str, Any], survivors: list[dict[str, Any]]) -> Iterator[Went]:
        for other in survivors:
            edge = self.edge(row, other)
            if edge is not None:
                yield (*edge, other["place"])

    def neighbours(self) -> dict[Place, set[Place]]:
        """Return all edges."""
        around: dict[Place, set[Place]] = {row["place"]: set() for row in self.rows}
        for n, one in enumerate(self.rows):
            for other in self.rows[:n]:
                if self.edge(one, other) is not None:
                    around[one["place"]].add(other["place"])
                    around[other["place"]].add(one["place"])
        return around


def similarity_of(one: dict[str, Any], other: dict[str, Any], config: Dedup) -> float:
    """Compare two documents as the recipe says."""
    if config.verify == "signature":
        equal = one["signature"] == other["signature"]
        return int(equal.sum()) / len(equal)
    first, second = one["shingles"], other["shingles"]
    return len(first & second) / len(first | second)


def count_cases(chain: Chain, snapshots: list[Snapshot]) -> Counter[str]:
    """Count what makes a chain hard: it proves nothing where these do not occur."""
    cases: Counter[str] = Counter()
    for before, after in pairwise(snapshots):
        old, new = verdicts(chain.store, before), verdicts(chain.store, after)
        if before.deliveries == after.deliveries and before.label != after.label:
            places = {_place(row) for row in tables(chain.store, after, "clean")}
            back = {place for place in old.keys() - new.keys() if place in places}
            out = new.keys() - old.keys()
            cases["readmitted"] += len(back)
            cases["readmissions that evict"] += len(out)
            cases["other witness"] += sum(old[p][2] != new[p][2] for p in old.keys() & new.keys())
    last = BruteForce(chain.store, snapshots[-1])
    final = last.verdicts()
    around = last.neighbours()
    texts = Counter(row["order"][:3] for row in last.rows)
    cases["exact ties"] += sum(times > 1 for times in texts.values())
    cases["several possible witnesses"] += sum(
        len(around[place] - final.keys()) > 1 for place in final
    )
    cases["chains"] += sum(bool(around[place] & final.keys()) for place in final)
    deliveries: dict[str, set[str]] = {}
    for row in last.rows:
        deliveries.setdefault(row["id"], set()).add(row["place"][0])
    cases["redelivered ids"] += sum(len(labels) > 1 for labels in deliveries.values())
    return cases


def _place(row: dict[str, Any], prefix: str = "") -> Place:
    snapshot, identity, file, position = (
        row[prefix + key] for key in ("snapshot", "id", "file", "position")
    )
    return snapshot, identity.split("/", 1)[0], file, position


def check_chain(seed: int, directory: Path, takedowns: bool) -> Counter[str]:
    """Assert that a random chain equals its rebuild and the brute force; count its cases."""
    rng = random.Random(seed)
    chain = Chain(directory, random_config(rng))
    try:
        snapshots = run_chain(rng, chain, takedowns)
    except ValueError as error:
        if "no document was kept" not in str(error):
            raise
        return Counter({"nothing to begin with": 1})
    rebuilt = chain.rebuild()
    compare_snapshots((chain.store, str(directory / "rebuilt")), (snapshots[-1], rebuilt))
    expected = BruteForce(chain.store, snapshots[-1]).verdicts()
    assert verdicts(chain.store, snapshots[-1]) == expected
    return count_cases(chain, snapshots)

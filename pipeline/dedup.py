"""Deduplication: who stays, and which survivor each dropped document is like.

Two documents are joined by an edge if they have one id (`same_id`), one normalized text (`exact`),
or share a MinHash band and have a verified Jaccard similarity at or above the threshold
(`minhash`). Who stays is the lexicographically first maximal independent set under a total order:
delivery, the recipe's preference, hash of the normalized text, then (id, file, position). So every
dropped document has a surviving witness, a chain of near-duplicates drags nothing unrelated along,
and later deliveries never change the verdict on earlier documents.

The walk holds the documents that have an edge, all at once: some hundred bytes each.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.documents import (
    DROP_SCHEMA,
    DUPLICATE_SCHEMA,
    digest_table,
    drop_row,
    drops_table,
    format_digest,
)
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.clean import count_rules, write_table
from pipeline.index import (
    ROW_BITS,
    Corpus,
    UInt64s,
    column_values,
    open_arrow,
    open_index,
    rows_by_part,
)
from pipeline.jobs import Output
from pipeline.pairs import VERIFIED_SCHEMA
from pipeline.preference import scope_of

# Raised by hand when a verdict or a witness changes.
VERSION = 2

METHODS = ("same_id", "exact", "minhash")


class Node(NamedTuple):
    """A document that has an edge; the fields are its place in the total order.

    `delivery` is the position of the snapshot that delivered it; `scope` is what two documents must
    share to be compared; `document` is (part number, row) in one integer.
    """

    delivery: int
    preference: bytes
    text_hash: bytes
    id: str
    file: str
    position: int
    set_hash: bytes | None
    scope: str
    snapshot: str
    document: int

    @property
    def place(self) -> tuple[str, str, int]:
        """Where the document came from: snapshot, file and position, which no other has."""
        return self.snapshot, self.file, self.position


class Verdict(NamedTuple):
    """Why a document goes: its first surviving neighbour and how they are alike."""

    witness: Node
    method: str
    similarity: float | None


@dataclass
class _Survivors:
    """The survivors so far by what makes an edge; each value has at most one."""

    by_id: dict[tuple[str, str], Node] = field(default_factory=dict)
    by_text: dict[tuple[str, bytes], Node] = field(default_factory=dict)
    by_set: dict[tuple[str, bytes], Node] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        self.by_id[node.scope, node.id] = node
        self.by_text[node.scope, node.text_hash] = node
        if node.set_hash is not None:
            self.by_set[node.scope, node.set_hash] = node


def first_independent_set(
    nodes: Iterable[Node], neighbours: dict[bytes, dict[bytes, float]]
) -> dict[int, Verdict]:
    """Walk documents in order; return the verdict on each that has an earlier surviving neighbour.

    `neighbours` maps a shingle set to the similar ones and their verified similarity.
    """
    survivors = _Survivors()
    dropped: dict[int, Verdict] = {}
    for node in sorted(nodes):
        verdict = _first_witness(node, survivors, neighbours)
        if verdict is not None:
            dropped[node.document] = verdict
        else:
            survivors.add(node)
    return dropped


def _first_witness(
    node: Node, survivors: _Survivors, neighbours: dict[bytes, dict[bytes, float]]
) -> Verdict | None:
    found: list[tuple[Node, int, float | None]] = []
    if (node.scope, node.id) in survivors.by_id:
        found.append((survivors.by_id[node.scope, node.id], 0, None))
    if (node.scope, node.text_hash) in survivors.by_text:
        found.append((survivors.by_text[node.scope, node.text_hash], 1, 1.0))
    if node.set_hash is not None:
        similar = {node.set_hash: 1.0} | neighbours.get(node.set_hash, {})
        for other, similarity in similar.items():
            if (node.scope, other) in survivors.by_set:
                found.append((survivors.by_set[node.scope, other], 2, similarity))
    if not found:
        return None
    witness, method, similarity_found = min(found, key=lambda edge: (edge[0], edge[1]))
    return Verdict(witness, METHODS[method], similarity_found)


def resolve(
    tree: Tree, _name: str, config: Dedup, corpus: Corpus, done: tuple[Sequence[str], Sequence[str]]
) -> Output:
    """Decide who stays of the new documents and write their parts' duplicates and drops.

    `done` names the tasks of group and of verify.
    """
    groups, verifications = done
    left, right, similarity = _read_verified(tree, verifications)
    members = [
        column_values(open_arrow(tree.own(f"work/group/{group}.members.arrow")), "document")
        for group in groups
    ]
    documents = np.concatenate([left, right, *members]).astype(np.uint64)
    nodes = read_nodes(tree, config, corpus, documents)
    set_of = {node.document: node.set_hash for node in nodes}
    neighbours: dict[bytes, dict[bytes, float]] = defaultdict(dict)
    for one, other, value in zip(left.tolist(), right.tolist(), similarity.tolist(), strict=True):
        first, second = set_of[one], set_of[other]
        assert first is not None and second is not None
        neighbours[first][second] = neighbours[second][first] = value
    verdicts = first_independent_set(nodes, neighbours)
    assert all(document >= corpus.first_new for document in verdicts)
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        if node.document in verdicts:
            row = duplicate_row(node, verdicts[node.document])
            rows[node.document >> ROW_BITS].append(row)
    paths: list[str] = []
    counts = []
    for number, part in enumerate(corpus.new_parts, corpus.settled):
        names, count = write_duplicates(tree, config, part, rows[number])
        paths += names
        counts.append(count)
    return Output(tuple(paths), {"parts": counts})


def _read_verified(
    tree: Tree, verifications: Sequence[str]
) -> tuple[UInt64s, UInt64s, npt.NDArray[np.float64]]:
    tables = [open_arrow(tree.own(f"work/verify/{name}.arrow")) for name in verifications]
    table = pa.concat_tables([VERIFIED_SCHEMA.empty_table(), *tables]).combine_chunks()
    shared = table["shared"].to_numpy().astype(np.float64)
    total = table["total"].to_numpy().astype(np.float64)
    return table["left"].to_numpy(), table["right"].to_numpy(), shared / total


def read_nodes(tree: Tree, config: Dedup, corpus: Corpus, documents: UInt64s) -> list[Node]:
    """Read what decides the order of documents."""
    nodes = []
    for number, rows in rows_by_part(documents):
        part = corpus.parts[number]
        scope = scope_of(part.snapshot, part.source, config)
        table = open_index(tree, part).take(pa.array(rows))
        for row, fields in zip(rows.tolist(), table.to_pylist(), strict=True):
            node = Node(
                part.position,
                fields["preference"],
                fields["text_hash"],
                fields["id"],
                fields["file"],
                fields["position"],
                fields["set_hash"],
                scope,
                part.snapshot,
                number << ROW_BITS | row,
            )
            nodes.append(node)
    return nodes


def write_duplicates(
    tree: Tree, config: Dedup, part: Part, rows: Iterable[Mapping[str, Any]]
) -> tuple[tuple[str, str], dict[str, Any]]:
    """Write the duplicates of a part and their drop rows; return the paths and the counts."""
    ordered = sorted(rows, key=lambda row: int(row["row"]))
    drops = drops_table(_drop(row, part.source, config) for row in ordered)
    paths = (f"duplicates/{part.name}.parquet", f"dropped/{part.name}.dedup.parquet")
    write_table(tree.own(paths[0]), pa.Table.from_pylist(ordered, schema=DUPLICATE_SCHEMA))
    write_table(tree.own(paths[1]), drops)
    digest = format_digest(digest_table(drops, DROP_SCHEMA.names))
    return paths, {"name": part.name, "dropped": count_rules(drops), "dropped_digest": digest}


def duplicate_row(node: Node, verdict: Verdict) -> dict[str, Any]:
    """Return the row that says why a document goes."""
    return {
        "row": node.document & (2**ROW_BITS - 1),
        "id": node.id,
        "snapshot": node.snapshot,
        "file": node.file,
        "position": node.position,
        "method": verdict.method,
        "similarity": verdict.similarity,
        "witness_id": verdict.witness.id,
        "witness_snapshot": verdict.witness.snapshot,
        "witness_file": verdict.witness.file,
        "witness_position": verdict.witness.position,
    }


def _drop(row: Mapping[str, Any], source: str, config: Dedup) -> dict[str, Any]:
    estimated = row["method"] == "minhash" and config.verify == "signature"
    place = {key: row[key] for key in ("id", "snapshot", "file", "position")}
    witness = {key: value for key, value in row.items() if key.startswith("witness_")}
    return drop_row(
        **place,
        source=source,
        stage="dedup",
        rule=row["method"],
        value=row["similarity"],
        threshold=config.threshold if row["method"] == "minhash" else None,
        detail="estimated from signatures" if estimated else None,
        **witness,
    )

"""Deduplication: who stays, and which survivor each dropped document is like.

Two documents are joined by an edge if they have one id (`same_id`), one normalized text (`exact`),
or share a MinHash band and have a verified Jaccard similarity at or above the threshold
(`minhash`). Who stays is the lexicographically first maximal independent set under a total order:
hash of the normalized text, then (id, file, position). So every dropped document has a surviving
witness, and a chain of near-duplicates drags nothing unrelated along.

The walk holds the documents that have an edge, all at once: some hundred bytes each.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
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
from corpus.files import join
from corpus.recipe import Dedup
from pipeline.clean import count_rules, write_table
from pipeline.jobs import Output
from pipeline.pairs import (
    ROW_BITS,
    VERIFIED_SCHEMA,
    UInt64s,
    column_values,
    open_arrow,
    rows_by_part,
)

# Raised by hand when a verdict or a witness changes.
VERSION = 1

METHODS = ("same_id", "exact", "minhash")


class Node(NamedTuple):
    """A document that has an edge; the fields are its place in the total order."""

    text_hash: bytes
    id: str
    file: str
    position: int
    set_hash: bytes | None
    document: int


class Verdict(NamedTuple):
    """Why a document goes: its first surviving neighbour and how they are alike."""

    witness: Node
    method: str
    similarity: float | None


@dataclass
class _Survivors:
    """The survivors so far by what makes an edge; each value has at most one."""

    by_id: dict[str, Node] = field(default_factory=dict)
    by_text: dict[bytes, Node] = field(default_factory=dict)
    by_set: dict[bytes, Node] = field(default_factory=dict)


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
            continue
        survivors.by_id[node.id] = node
        survivors.by_text[node.text_hash] = node
        if node.set_hash is not None:
            survivors.by_set[node.set_hash] = node
    return dropped


def _first_witness(
    node: Node, survivors: _Survivors, neighbours: dict[bytes, dict[bytes, float]]
) -> Verdict | None:
    found: list[tuple[Node, int, float | None]] = []
    if node.id in survivors.by_id:
        found.append((survivors.by_id[node.id], 0, None))
    if node.text_hash in survivors.by_text:
        found.append((survivors.by_text[node.text_hash], 1, 1.0))
    if node.set_hash is not None:
        similar = {node.set_hash: 1.0} | neighbours.get(node.set_hash, {})
        for other, similarity in similar.items():
            if other in survivors.by_set:
                found.append((survivors.by_set[other], 2, similarity))
    if not found:
        return None
    witness, method, similarity_found = min(found, key=lambda edge: (edge[0], edge[1]))
    return Verdict(witness, METHODS[method], similarity_found)


def resolve(
    root: str, _name: str, config: Dedup, parts: Sequence[str], done: tuple[Sequence[str], ...]
) -> Output:
    """Decide who stays and write every part's duplicates and drops."""
    groups, verifications = done
    left, right, similarity = _read_verified(root, verifications)
    members = [
        column_values(open_arrow(join(root, f"work/group/{group}.members.arrow")), "document")
        for group in groups
    ]
    nodes = _read_nodes(root, parts, np.concatenate([left, right, *members]).astype(np.uint64))
    set_of = {node.document: node.set_hash for node in nodes}
    neighbours: dict[bytes, dict[bytes, float]] = defaultdict(dict)
    for one, other, value in zip(left.tolist(), right.tolist(), similarity.tolist(), strict=True):
        first, second = set_of[one], set_of[other]
        assert first is not None and second is not None
        neighbours[first][second] = neighbours[second][first] = value
    verdicts = first_independent_set(nodes, neighbours)
    return _write_verdicts(root, config, parts, (nodes, verdicts))


def _read_verified(
    root: str, verifications: Sequence[str]
) -> tuple[UInt64s, UInt64s, npt.NDArray[np.float64]]:
    tables = [open_arrow(join(root, f"work/verify/{name}.arrow")) for name in verifications]
    table = pa.concat_tables([VERIFIED_SCHEMA.empty_table(), *tables]).combine_chunks()
    shared = table["shared"].to_numpy().astype(np.float64)
    total = table["total"].to_numpy().astype(np.float64)
    return table["left"].to_numpy(), table["right"].to_numpy(), shared / total


def _read_nodes(root: str, parts: Sequence[str], documents: UInt64s) -> list[Node]:
    nodes = []
    for part, rows in rows_by_part(documents):
        table = open_arrow(join(root, f"index/{parts[part]}.documents.arrow"))
        for row, fields in zip(rows.tolist(), table.take(pa.array(rows)).to_pylist(), strict=True):
            identity = (fields["text_hash"], fields["id"], fields["file"], fields["position"])
            nodes.append(Node(*identity, fields["set_hash"], part << ROW_BITS | row))
    return nodes


def _write_verdicts(
    root: str, config: Dedup, parts: Sequence[str], outcome: tuple[list[Node], dict[int, Verdict]]
) -> Output:
    nodes, verdicts = outcome
    rows: dict[int, list[tuple[Node, Verdict]]] = defaultdict(list)
    for node in nodes:
        if node.document in verdicts:
            rows[node.document >> ROW_BITS].append((node, verdicts[node.document]))
    paths, counts = [], []
    for number, part in enumerate(parts):
        found = sorted(rows[number], key=lambda row: row[0].document)
        source = found[0][0].id.split("/", 1)[0] if found else ""
        duplicates = [_duplicate(node, verdict) for node, verdict in found]
        drops = drops_table(_drop(row, source, config) for row in duplicates)
        paths += [f"duplicates/{part}.parquet", f"dropped/{part}.dedup.parquet"]
        table = pa.Table.from_pylist(duplicates, schema=DUPLICATE_SCHEMA)
        write_table(join(root, paths[-2]), table)
        write_table(join(root, paths[-1]), drops)
        digest = format_digest(digest_table(drops, DROP_SCHEMA.names))
        counts.append({"name": part, "dropped": count_rules(drops), "dropped_digest": digest})
    return Output(tuple(paths), {"parts": counts})


def _duplicate(node: Node, verdict: Verdict) -> dict[str, Any]:
    return {
        "row": node.document & (2**ROW_BITS - 1),
        "id": node.id,
        "file": node.file,
        "position": node.position,
        "method": verdict.method,
        "similarity": verdict.similarity,
        "witness_id": verdict.witness.id,
        "witness_file": verdict.witness.file,
        "witness_position": verdict.witness.position,
    }


def _drop(row: dict[str, Any], source: str, config: Dedup) -> dict[str, Any]:
    estimated = row["method"] == "minhash" and config.verify == "signature"
    witness = {key: row[key] for key in ("witness_id", "witness_file", "witness_position")}
    return drop_row(
        id=row["id"],
        source=source,
        file=row["file"],
        position=row["position"],
        stage="dedup",
        rule=row["method"],
        value=row["similarity"],
        threshold=config.threshold if row["method"] == "minhash" else None,
        detail="estimated from signatures" if estimated else None,
        **witness,
    )

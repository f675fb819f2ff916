"""Deduplication: who stays, and which survivor each dropped document is like.

Two documents are joined by an edge if they have one id (`same_id`), one normalized text (`exact`),
or share a MinHash band and have a verified Jaccard similarity at or above the threshold
(`minhash`). Who stays is the lexicographically first maximal independent set under a total order:
delivery, the recipe's preference, hash of the normalized text, then (id, file, position). So every
dropped document has a surviving witness, a chain of near-duplicates drags nothing unrelated along,
and later deliveries never change the verdict on earlier documents.

`first_independent_set` says it over objects, for reading, the cascade and the tests; `judge_share`
does the same over arrays (`order`, `walk`). It holds what has an edge all at once, some hundred
bytes a document and a pair, so a large corpus is judged in shares without edges between them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import DROP_SCHEMA, DUPLICATE_SCHEMA, digest_table, format_digest
from corpus.files import writing
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.clean import count_rules
from pipeline.components import Found
from pipeline.index import (
    ROW_BITS,
    Corpus,
    Int64s,
    UInt64s,
    column_values,
    open_index,
    rows_by_part,
)
from pipeline.jobs import Output
from pipeline.order import Ordered, gather_large, make_graph, order_documents, read_work
from pipeline.parquet import write_table
from pipeline.preference import scope_of
from pipeline.stretch import open_arrow
from pipeline.walk import Verdicts, walk

# Raised by hand when a verdict or a witness changes.
VERSION = 2

METHODS = ("same_id", "exact", "minhash")

_JUDGED_SCHEMA = DUPLICATE_SCHEMA.append(pa.field("document", pa.uint64()))
# Parts whose duplicates one task writes; each is a file of some kilobytes. A guess.
PARTS_PER_TASK = 64


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
    def place(self) -> tuple[str, str, str, int]:
        """Where the document came from, which no other has: snapshot, source, file, position."""
        return self.snapshot, self.id.split("/", 1)[0], self.file, self.position


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


def judge_share(
    tree: Tree, name: str, config: Dedup, corpus: Corpus, given: tuple[Found, int]
) -> Output:
    """Decide who stays of the documents of a share; write the duplicates, part after part.

    `given` are the tasks that found the edges, and the share's number.
    """
    work = read_work(tree, *given)
    ordered = order_documents(tree, corpus, config, work.documents)
    graph = make_graph(ordered, work, corpus, config)
    verdicts = walk(graph, gather_large(ordered, graph, work, config))
    dropped = np.flatnonzero(verdicts.witness >= 0)
    dropped = dropped[np.argsort(ordered.document(dropped))]
    documents = ordered.document(dropped)
    assert (documents >= corpus.first_new).all()
    path = f"work/judge/{name}.arrow"
    with writing(tree.own(path)) as stream, pa.ipc.new_file(stream, _JUDGED_SCHEMA) as writer:
        for number in range(corpus.settled, len(corpus.parts)):
            span = _of_part(documents, number)
            if span.stop > span.start:
                table = _duplicates(corpus, ordered, verdicts, dropped[span])
                writer.write_table(table.append_column("document", pa.array(documents[span])))
    return Output((path,), {"documents": len(ordered.documents), "dropped": len(documents)})


def _of_part(documents: UInt64s, number: int) -> slice:
    """Tell where the documents of a part lie among documents in order."""
    bounds = np.array([number, number + 1], np.uint64) << np.uint64(ROW_BITS)
    return slice(*np.searchsorted(documents, bounds).tolist())


def resolve_parts(
    tree: Tree, _name: str, config: Dedup, corpus: Corpus, given: tuple[tuple[int, int], list[str]]
) -> Output:
    """Write the duplicates and drops of a range of parts from what every share decided.

    `given` are the range, in numbers of parts, and the names of the tasks that judged.
    """
    (start, stop), judges = given
    judged = [open_arrow(tree.own(f"work/judge/{name}.arrow")) for name in judges]
    documents = [column_values(table, "document") for table in judged]
    paths: list[str] = []
    counts = []
    for number in range(start, stop):
        spans = [_of_part(each, number) for each in documents]
        found = [
            table.slice(span.start, span.stop - span.start)
            for table, span in zip(judged, spans, strict=True)
        ]
        rows = pa.concat_tables(found).drop_columns("document").sort_by("row")
        names, count = write_duplicates(tree, config, corpus.parts[number], rows)
        paths += names
        counts.append(count)
    return Output(tuple(paths), {"parts": counts})


def _duplicates(corpus: Corpus, ordered: Ordered, verdicts: Verdicts, ranks: Int64s) -> pa.Table:
    """Return the duplicates with these ranks as a table."""
    witness = verdicts.witness[ranks]
    similarity = verdicts.similarity[ranks]
    columns = {
        "row": (ordered.document(ranks) & np.uint64(2**ROW_BITS - 1)).astype(np.int64),
        "method": pa.array(METHODS).take(pa.array(verdicts.method[ranks])),
        "similarity": pa.array(similarity, mask=np.isnan(similarity)),
    }
    for prefix, chosen in (("", ranks), ("witness_", witness)):
        columns |= {f"{prefix}{k}": v for k, v in _places(corpus, ordered, chosen).items()}
    return pa.table([columns[name] for name in DUPLICATE_SCHEMA.names], schema=DUPLICATE_SCHEMA)


def _places(corpus: Corpus, ordered: Ordered, ranks: Int64s) -> dict[str, pa.ChunkedArray]:
    places = ordered.places.take(pa.array(ordered.order[ranks]))
    snapshots = pa.array([part.snapshot for part in corpus.parts], pa.string())
    parts = (ordered.document(ranks) >> np.uint64(ROW_BITS)).astype(np.int64)
    return {
        "id": places["id"].cast(pa.string()),
        "snapshot": snapshots.take(pa.array(parts)),
        "file": places["file"].cast(pa.string()),
        "position": places["position"],
    }


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
    tree: Tree, config: Dedup, part: Part, duplicates: pa.Table
) -> tuple[tuple[str, str], dict[str, Any]]:
    """Write the duplicates of a part, ordered by row, and their drop rows; return paths, counts."""
    drops = drops_of(duplicates, part.source, config)
    paths = (f"duplicates/{part.name}.parquet", f"dropped/{part.name}.dedup.parquet")
    write_table(tree.own(paths[0]), duplicates)
    write_table(tree.own(paths[1]), drops)
    digest = format_digest(digest_table(drops, DROP_SCHEMA.names))
    return paths, {"name": part.name, "dropped": count_rules(drops), "dropped_digest": digest}


def drops_of(duplicates: pa.Table, source: str, config: Dedup) -> pa.Table:
    """Return the drop rows of duplicates in canonical order."""
    count = len(duplicates)
    near = pc.equal(duplicates["method"], "minhash")
    estimated = "estimated from signatures" if config.verify == "signature" else None
    columns = {name: duplicates[name] for name in duplicates.column_names} | {
        "source": pa.repeat(source, count),
        "stage": pa.repeat("dedup", count),
        "rule": duplicates["method"],
        "value": duplicates["similarity"],
        "threshold": pc.if_else(near, config.threshold, pa.scalar(None, pa.float64())),
        "detail": pc.if_else(near, pa.scalar(estimated, pa.string()), pa.scalar(None, pa.string())),
    }
    drops = pa.table([columns[name] for name in DROP_SCHEMA.names], schema=DROP_SCHEMA)
    keys = [(name, "ascending") for name in ("id", "file", "position")]
    return drops.take(pc.sort_indices(drops, sort_keys=keys))


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

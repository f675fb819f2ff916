"""Cascade: what changes among the other documents when some are taken out.

A document whose witness goes is judged again over *all* its edges, dropped documents included: it
finds another surviving witness, or it is admitted again. One that is admitted again may evict a
later survivor, whose own duplicates are then judged again, and so on. Documents are taken in the
total order, so each is judged once, when everything before it is final; what comes out is the first
independent set of what is left, as a rebuild would find it.

Edges are searched in the index for the documents concerned only. What it holds of the others are
the numbers of `witnesses`, 24 bytes a duplicate of the corpus; parts are written one by one.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from corpus.documents import DROP_SCHEMA, DUPLICATE_SCHEMA, deal_hash, digest_table, format_digest
from corpus.membership import SPLITS, ShardPlan, cut_split
from corpus.recipe import Dedup, Recipe
from corpus.snapshots import Part, Tree
from pipeline.clean import count_rules
from pipeline.dedup import (
    METHODS,
    Node,
    Verdict,
    duplicate_row,
    read_nodes,
    write_duplicates,
)
from pipeline.index import ROW_BITS, Corpus, KeySearch, UInt64s, column_values, find_buckets
from pipeline.jobs import Output
from pipeline.pairs import compare
from pipeline.parquet import read_table
from pipeline.stretch import open_arrow
from pipeline.witnesses import Place, Witnesses, hash_places, read_witnesses, rows_after

# The documents that were taken out of a part, by their row before.
REMOVED_SCHEMA = pa.schema(
    [("row", pa.int64()), ("id", pa.string()), ("file", pa.string()), ("position", pa.int64())]
)


class Edge(NamedTuple):
    """A neighbour of a document and how the two are alike."""

    node: Node
    method: int
    similarity: float | None


class Edges:
    """Finds all neighbours of documents, many documents at a time."""

    def __init__(self, tree: Tree, config: Dedup, corpus: Corpus) -> None:
        """Map the index."""
        self._tree, self._config, self._corpus = tree, config, corpus
        self._search = KeySearch(tree, corpus)
        self._found: dict[int, list[Edge]] = {}

    def of(self, document: int, soon: Iterable[int]) -> list[Edge]:
        """Return the neighbours of a document; those it may be asked for soon are searched too."""
        if document not in self._found:
            wanted = {document, *(other for other in soon if other not in self._found)}
            self._find(np.array(sorted(wanted), np.uint64))
        return self._found[document]

    def _find(self, documents: UInt64s) -> None:
        self._found |= {document: [] for document in documents.tolist()}
        pairs = self._share_a_key(documents)
        nodes = self._nodes(pairs)
        alike = {
            (left, right): shared / total
            for left, right, shared, total in self._compare(pairs, nodes).tolist()
        }
        for left, right in pairs.tolist():
            edge = _edge(nodes[left], nodes[right], alike.get((left, right)))
            if edge is not None:
                self._found[left].append(Edge(nodes[right], *edge))

    def _share_a_key(self, documents: UInt64s) -> UInt64s:
        """Pair these documents with all that share a band and key: [pairs, 2]."""
        numbers = documents >> np.uint64(ROW_BITS)
        rows = (documents & np.uint64(2**ROW_BITS - 1)).astype(np.int64)
        own = [self._search.of_rows(n, rows[numbers == n]) for n in np.unique(numbers).tolist()]
        wanted = np.unique(np.concatenate([each.key for each in own]))
        keys = self._search.having(wanted)
        buckets = find_buckets(keys, np.uint64(0))
        asked = np.isin(buckets.document, documents)
        found = [np.empty((0, 2), np.uint64)]
        for number in np.unique(buckets.number[asked]).tolist():
            span = slice(*np.searchsorted(buckets.number, [number, number + 1]).tolist())
            members, mine = buckets.document[span], buckets.document[span][asked[span]]
            pairs = np.stack(np.meshgrid(mine, members, indexing="ij"), axis=-1).reshape(-1, 2)
            found.append(pairs[pairs[:, 0] != pairs[:, 1]])
        return np.unique(np.concatenate(found), axis=0)

    def _nodes(self, pairs: UInt64s) -> dict[int, Node]:
        nodes = read_nodes(self._tree, self._config, self._corpus, pairs.reshape(-1))
        return {node.document: node for node in nodes}

    def _compare(self, pairs: UInt64s, nodes: dict[int, Node]) -> Any:  # noqa: ANN401 - int64s
        """Compare the pairs that no whole value decides."""
        open_ = np.array([_undecided(nodes[a], nodes[b]) for a, b in pairs.tolist()], np.bool_)
        chosen = pairs[open_] if len(pairs) else pairs
        return compare(self._tree, self._corpus, (chosen[:, 0], chosen[:, 1]), self._config)


def _undecided(one: Node, other: Node) -> bool:
    return (
        one.id != other.id
        and one.text_hash != other.text_hash
        and None not in (one.set_hash, other.set_hash)
        and one.set_hash != other.set_hash
    )


def _edge(one: Node, other: Node, similarity: float | None) -> tuple[int, float | None] | None:
    """Return method and similarity of what joins two documents that share a key, or None."""
    if one.id == other.id:
        return METHODS.index("same_id"), None
    if one.text_hash == other.text_hash:
        return METHODS.index("exact"), 1.0
    if one.set_hash is not None and one.set_hash == other.set_hash:
        return METHODS.index("minhash"), 1.0
    return None if similarity is None else (METHODS.index("minhash"), similarity)


class Changes(NamedTuple):
    """Verdicts that are new; None for a document that stays now."""

    verdicts: dict[int, Verdict | None]
    nodes: dict[int, Node]


class Cascade:
    """Judges documents again, in order, and whatever their new verdicts reach."""

    def __init__(self, edges: Edges, witnesses: Witnesses) -> None:
        """Start from the witness of every dropped document, as it was before the removal."""
        self._edges = edges
        self._before = witnesses
        self._led: dict[Place, set[int]] = defaultdict(set)
        self.changes = Changes({}, {})

    def _is_dropped(self, document: int) -> bool:
        if document in self.changes.verdicts:
            return self.changes.verdicts[document] is not None
        return self._before.is_dropped(document)

    def _led_by(self, witness: Node) -> set[int]:
        """Return the documents that a survivor is the witness of now."""
        before = set(self._before.led_by(hash_places([witness.place])).tolist())
        return before - self.changes.verdicts.keys() | self._led[witness.place]

    def follow(self, nodes: Iterable[Node]) -> Changes:
        """Judge these documents, whose witness was taken out, and all that follows from it."""
        queue = sorted(nodes)
        queued = {node.document for node in queue}
        while queue:
            node = heapq.heappop(queue)
            around = self._edges.of(node.document, (other.document for other in queue))
            for other in self._judge(node, around):
                if other.document not in queued:
                    queued.add(other.document)
                    heapq.heappush(queue, other)
        return self.changes

    def _judge(self, node: Node, around: list[Edge]) -> list[Node]:
        """Decide on one document; return the later ones that have to be judged again."""
        earlier = [e for e in around if e.node < node and not self._is_dropped(e.node.document)]
        first = min(earlier, key=lambda edge: edge[:2], default=None)
        was_dropped = self._is_dropped(node.document)
        self._set(node, first)
        if was_dropped and first is None:
            return [edge.node for edge in around if edge.node > node]
        if not was_dropped and first is not None:
            led = self._led_by(node)
            return [edge.node for edge in around if edge.node.document in led]
        return []

    def _set(self, node: Node, first: Edge | None) -> None:
        document = node.document
        before = self.changes.verdicts.get(document)
        if before is not None:
            self._led[before.witness.place].discard(document)
        self.changes.nodes[document] = node
        if first is None:
            self.changes.verdicts[document] = None
            return
        verdict = Verdict(first.node, METHODS[first.method], first.similarity)
        self.changes.verdicts[document] = verdict
        self._led[first.node.place].add(document)


@dataclass
class _State:
    """What a part looks like while verdicts change; rows count without the removed ones.

    `moved` are the ids of documents that were kept and go, or were dropped and stay; `counted` are
    the documents taken out, by whether they were kept, and those that followed.
    """

    part: Part
    duplicates: dict[int, dict[str, Any]]
    moved: set[str] = field(default_factory=set)
    changed: bool = False
    counted: Counter[str] = field(default_factory=Counter)


def judge_again(
    tree: Tree,
    _task: str,
    recipe: Recipe,
    corpus: Corpus,
    given: tuple[Sequence[str], Mapping[tuple[str, str, str], int]],
) -> Output:
    """Follow the cascade; write the duplicates that changed and tell what is to be made anew.

    `given` names the parts that lost documents, and how many shards there are.
    """
    affected, shards = given
    gone = {part.name: _removed(tree, part) for part in corpus.parts if part.name in affected}
    rows = {name: column_values(table, "row") for name, table in gone.items()}
    witnesses = read_witnesses(tree, corpus, rows)
    lost = [
        hash_places(_places(part, gone[part.name])) for part in corpus.parts if part.name in gone
    ]
    orphans = witnesses.led_by(np.concatenate([np.empty(0, np.uint64), *lost]))
    nodes = read_nodes(tree, recipe.dedup, corpus, orphans)
    changes = Cascade(Edges(tree, recipe.dedup, corpus), witnesses).follow(nodes)
    states = _change_parts(tree, corpus, gone, changes)
    return _write_states(tree, recipe, states, shards)


def _removed(tree: Tree, part: Part) -> pa.Table:
    return open_arrow(tree.own(f"work/removed/{part.name}.arrow"))


def _places(part: Part, rows: pa.Table) -> Iterator[Place]:
    for row in rows.to_pylist():
        yield part.snapshot, part.source, row["file"], row["position"]


def _change_parts(
    tree: Tree, corpus: Corpus, gone: Mapping[str, pa.Table], changes: Changes
) -> Iterator[_State]:
    """Give the state of each part that is not as before, one after the other."""
    verdicts: dict[int, list[int]] = defaultdict(list)
    for document in changes.verdicts:
        verdicts[document >> ROW_BITS].append(document)
    for number, part in enumerate(corpus.parts):
        if part.name in gone or number in verdicts:
            state = _read_state(tree, part, gone.get(part.name))
            for document in verdicts[number]:
                _apply(state, changes.nodes[document], changes.verdicts[document])
            if state.changed:
                yield state


def _read_state(tree: Tree, part: Part, gone: pa.Table | None) -> _State:
    rows = read_table(tree.find(f"duplicates/{part.name}.parquet")).to_pylist()
    if gone is None:
        return _State(part, {row["row"]: row for row in rows})
    removed = column_values(gone, "row")
    taken = set(removed.tolist())
    stay = [row for row in rows if row["row"] not in taken]
    after = rows_after(np.array([row["row"] for row in stay], np.int64), removed).tolist()
    duplicates = {row: old | {"row": row} for row, old in zip(after, stay, strict=True)}
    dropped_before = {row["row"] for row in rows}
    left = {row["id"] for row in gone.to_pylist() if row["row"] not in dropped_before}
    counted = Counter(kept=len(left), dropped=len(taken) - len(left))
    return _State(part, duplicates, left, changed=True, counted=counted)


def _apply(state: _State, node: Node, verdict: Verdict | None) -> None:
    row = node.document & (2**ROW_BITS - 1)
    before = state.duplicates.pop(row, None)
    if verdict is not None:
        state.duplicates[row] = duplicate_row(node, verdict)
    if state.duplicates.get(row) != before:
        state.changed = True
    if (before is None) != (verdict is None):
        state.moved.add(node.id)
        state.counted["came_back" if verdict is None else "evicted"] += 1


def _write_states(
    tree: Tree,
    recipe: Recipe,
    states: Iterable[_State],
    shards: Mapping[tuple[str, str, str], int],
) -> Output:
    plans = {place: cut_split(place, n, recipe.pack) for place, n in shards.items()}
    paths: list[str] = []
    parts, again, touched = [], [], set()
    counted = Counter[str]()
    for state in states:
        counted.update(state.counted)
        name = state.part.name
        ordered = [row for _, row in sorted(state.duplicates.items())]
        table = pa.Table.from_pylist(ordered, schema=DUPLICATE_SCHEMA)
        written, resolved = write_duplicates(tree, recipe.dedup, state.part, table)
        paths += written
        drops = read_table(tree.find(f"dropped/{name}.parquet"))
        cleaned = {
            "documents": len(open_arrow(tree.find(f"index/{name}.documents.arrow"))),
            "dropped": count_rules(drops),
            "dropped_digest": format_digest(digest_table(drops, DROP_SCHEMA.names)),
        }
        parts.append({"name": name, "cleaned": cleaned, "resolved": resolved})
        if state.moved:
            again.append(name)
            touched |= {_shard_of(state.part, identity, plans) for identity in state.moved}
    shards_touched = sorted(map(list, touched))
    counts = {"parts": parts, "encode": again, "shards": shards_touched, "documents": counted}
    return Output(tuple(paths), counts)


def _shard_of(
    part: Part, identity: str, plans: Mapping[tuple[str, str, str], Sequence[ShardPlan]]
) -> tuple[str, str, str, int]:
    position = deal_hash(identity)
    for split in SPLITS:
        for plan in plans.get((part.snapshot, part.source, split), ()):
            if plan.low <= position < plan.high:
                return plan.snapshot, plan.source, plan.split, plan.number
    raise AssertionError(f"no shard of {part.snapshot} for {identity}")

"""The report's pages on duplicates: pairs side by side, sizes of clusters, measured recall."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from corpus.snapshots import Input
from pipeline import pictures
from pipeline.clusters import cluster_sizes, measure_sizes, with_duplicates
from pipeline.cuts import join_inputs, name_inputs
from pipeline.explain import Store
from pipeline.parquet import read_row, read_table
from pipeline.pictures import Bar, Html, heading, name, paragraph, percent, place, table
from pipeline.samples import rank, some_parts, where

_PAIRS, _PARTS_FOR_PAIRS, _WITNESS_PARTS = 6, 8, 4
# Guesses of what a machine that only starts jobs has the time and the memory for.
_CLUSTER_PARTS, _CLUSTER_ROWS = 512, 1_000_000
_UNREAD = Html("not looked up: the witness lies in one of too many parts of a file")

Bins = Sequence[Mapping[str, Any]]


def duplicates(store: Store) -> Iterator[Html]:
    """Show near-duplicates of the newest delivery beside their witnesses."""
    newest = store.snapshot.deliveries[-1]
    rows = _spread_pairs(store, newest)
    if not rows:
        yield paragraph(f"The delivery {newest} has no near-duplicates.")
        return
    yield paragraph(
        f"Of the delivery {newest}, spread from the threshold up. Excerpts begin about where the "
        "texts first differ, so most of what they share may lie outside; marked is what differs. "
        "`python -m pipeline explain STORE ID` shows any other pair."
    )
    for part, row in rows:
        dropped = str(read_row(store.tree.find(f"clean/{part}.parquet"), row["row"])["text"])
        kept = _witness_text(store, row)
        sides = (_UNREAD, _UNREAD) if kept is None else pictures.mark_differences(dropped, kept)
        measure = "estimated" if store.recipe.dedup.verify == "signature" else "verified"
        yield heading(f"Similarity {row['similarity']:.3f} ({row['method']}, {measure})")
        titles = [
            Html(f"{title}: {name(row[prefix + 'id'])} ({where(row, prefix)})")
            for title, prefix in (("dropped", ""), ("kept", "witness_"))
        ]
        yield pictures.side_by_side(titles, sides)


def _spread_pairs(store: Store, delivery: str) -> list[tuple[str, dict[str, Any]]]:
    """Choose near-duplicates of a few parts, as many as can be from each stretch of similarity."""
    threshold = store.recipe.dedup.threshold
    parts = [part for part in store.snapshot.parts if part.snapshot == delivery]
    stretches: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in range(_PAIRS)]
    for part in some_parts(parts, _PARTS_FOR_PAIRS, "minhash"):
        path = store.tree.find(f"duplicates/{part.name}.parquet")
        for row in read_table(path, filters=[("method", "==", "minhash")]).to_pylist():
            above = (row["similarity"] - threshold) / (1 - threshold) if threshold < 1 else 0
            stretches[max(0, min(_PAIRS - 1, int(above * _PAIRS)))].append((part.name, row))
    ranked = [
        (turn, number, found)
        for number, stretch in enumerate(stretches)
        for turn, found in enumerate(sorted(stretch, key=lambda found: rank(found[1])))
    ]
    chosen = sorted(ranked, key=lambda each: each[:2])[:_PAIRS]
    return sorted((each[2] for each in chosen), key=lambda it: (it[1]["similarity"], rank(it[1])))


def _witness_text(store: Store, row: Mapping[str, Any]) -> str | None:
    """Read the text of a duplicate's witness, in the part where its position should lie."""
    names = {
        name_inputs(group)
        for group in join_inputs(store.snapshot.inputs)
        if any(_is_of(row, each) for each in group)
    }
    parts = [part for part in store.snapshot.parts if part.name.rpartition("-")[0] in names]
    if not parts:  # files were joined otherwise when they were delivered
        place = row["witness_snapshot"], row["witness_id"].partition("/")[0]
        parts = [each for each in store.snapshot.parts if (each.snapshot, each.source) == place]
    # Records of a large file are cut into parts in their order; blank lines are not counted.
    ends = list(accumulate(part.kept + sum(part.dropped.values()) for part in parts))
    guess = bisect_left(ends, row["witness_position"])
    nearest = sorted(range(len(parts)), key=lambda number: abs(number - guess))
    wanted = [(key, "==", row[f"witness_{key}"]) for key in ("id", "file", "position")]
    for number in nearest[:_WITNESS_PARTS]:
        path = store.tree.find(f"clean/{parts[number].name}.parquet")
        found = read_table(path, columns=["text"], filters=wanted)["text"].to_pylist()
        if found:
            return str(found[0])
    return None


def _is_of(row: Mapping[str, Any], source: Input) -> bool:
    """Tell whether a duplicate's witness is from an input."""
    place = (source.snapshot, source.name)
    return place == (row["witness_snapshot"], row["witness_file"]) and row["witness_id"].startswith(
        f"{source.source}/"
    )


def clusters(store: Store) -> Iterator[Html]:
    """Show how many records the kept documents stand for."""
    parts, duplicates = with_duplicates(store.snapshot)
    if len(parts) > _CLUSTER_PARTS or duplicates > _CLUSTER_ROWS:
        yield paragraph(
            f"Not counted here: {duplicates:,} duplicates in {len(parts):,} parts are too many. "
            "`python -m pipeline clusters STORE` counts them."
        )
        return
    sizes = measure_sizes(cluster_sizes(store))
    alone = store.snapshot.counts.documents_kept - sizes.clusters
    binned = [(f"{n:,} to {2 * n - 1:,} records", count) for n, count in sizes.bins.items()]
    counted = [("1 record", alone), *binned]
    most = max(count for _, count in counted)
    drawn = [Bar(f"{size}: {count:,}", (count,), most) for size, count in counted]
    title = "Kept documents by the records they stand for"
    yield pictures.bars(title, (("kept", "kept"),), drawn)
    yield table(title, ("size", "documents"), counted)
    rows = [(name(of[0]), place(*of[1:4]), of[4]) for of in sizes.largest]
    yield table("The largest", ("kept document", "where", "records"), rows)


def recall(store: Store, stats: Mapping[str, Any]) -> Iterator[Html]:
    """Show which share of made-up near-duplicates the search found."""
    canaries: Bins = stats.get("recall", ())
    if not canaries:
        yield paragraph("Not measured for this snapshot.")
        return
    dedup = store.recipe.dedup
    yield paragraph(
        "Pairs of made-up texts of known similarity go through the same signing and search as "
        f"documents. In theory {dedup.bands} bands of {dedup.rows} rows find the share that the "
        "dashed line shows; a point is what was found, its upright line what chance allows (99 %)."
    )
    first = min(each["similarity_low"] for each in canaries)
    places = (first + (1 - first) * n / 60 for n in range(61))
    curve = [(at, 1 - (1 - at**dedup.rows) ** dedup.bands) for at in places]
    points = [
        pictures.Point(
            (each["similarity_low"] + each["similarity_high"]) / 2,
            *(each[key] / each["pairs"] for key in ("found", "found_low", "found_high")),
        )
        for each in canaries
    ]
    yield pictures.shares("Share of near-duplicate pairs found, by similarity", curve, points)
    head = ("similarity", "pairs", "found", "measured", "in theory", "99 % interval", "verdict")
    yield table("Recall of the canaries", head, map(_bin, canaries))


def _bin(each: Mapping[str, Any]) -> tuple[Html | str | int, ...]:
    pairs, found, low, high = (each[key] for key in ("pairs", "found", "found_low", "found_high"))
    similarity = f"{each['similarity_low']:.2f} to {each['similarity_high']:.2f}"
    verdict = "inside" if low <= found <= high else "outside"
    measured, expected = percent(found, pairs), percent(each["expected"], pairs)
    return similarity, pairs, found, measured, expected, f"{low:,} to {high:,} pairs", verdict

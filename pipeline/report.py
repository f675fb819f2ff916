"""Report: one page that says what came into a snapshot, what became of it, and why.

It opens without a network and runs no script (its own policy forbids both); text of documents is
escaped, cut short and shown for a handful only: near-duplicates, and those nearest to a threshold.
The same snapshot gives the same bytes: no clock, no path, and what is shown as an example is the
least by a hash of its place.

Cost: counts come from the manifest. Beside it are read, whatever the size of the corpus, the drop
tables of at most 2 parts a rule and the excerpts of at most 6, the duplicates of 8 parts of the
newest delivery, for each of 6 pairs a row group of at most 5 parts, the parts that a take-down
rewrote if there are 64 or fewer, and all duplicates for the sizes of clusters while they are below
a million rows in 512 parts. Beyond these bounds the page names the command that tells more. For a
delivery of 1,838 records in 14 files, all rules on, it takes 0.19 s and 247 KB, most of which are
excerpts (measured: process time, one core of a busy machine of two, 2026-11-22).

Not shown: the text of what rules dropped, but for the few beside each threshold, and ids of
documents that came or went (a take-down's would stay in print). No recall without canaries.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

from corpus.files import write_bytes
from corpus.snapshots import FileEntry, Snapshot
from pipeline import pictures
from pipeline.cleaning_report import changed_texts, distributions, languages, unreadable
from pipeline.dedup import METHODS
from pipeline.dedup_report import clusters, duplicates, recall
from pipeline.diff import count_changes
from pipeline.drift import measure_drift, measure_fertility
from pipeline.explain import Store
from pipeline.funnel_report import came_of, what_is_left
from pipeline.jobs import describe_file
from pipeline.pictures import Bar, Html, heading, name, paragraph, percent, show, table
from pipeline.report_drops import choose_drops, least_of
from pipeline.samples import rank, where
from pipeline.tallies import funnel, read_stats

REPORT = "report.html"

_EXAMPLES = 3
_COMPARED_PARTS = 64
_BARS = 24  # more are no picture any more; the table has all
_GROUPS = (("kept", "kept"), ("duplicate", "duplicates"), ("rule", "dropped by rules"))


def render(store: Store, parent: Store | None, stats: Mapping[str, Any]) -> bytes:
    """Return the page of a snapshot, whose manifest need not be on disk yet.

    `parent` is absent for a first snapshot and where it was withdrawn; `stats` is what `stats.json`
    holds.
    """
    sections = {
        "deliveries": ("What was delivered", _deliveries(store.snapshot)),
        "funnel": ("What became of it", _funnel(store)),
        "drops": ("What was dropped, and by which rule", _drops(store)),
        "broken": ("What could not be read, file by file", unreadable(stats)),
        "rules": ("What the rules looked at", distributions(store, stats)),
        "languages": ("Languages", languages(store, stats)),
        "texts": ("What cleaning changed", changed_texts(stats)),
        "duplicates": ("Near-duplicates beside their witnesses", duplicates(store)),
        "clusters": ("How many records a kept document stands for", clusters(store)),
        "recall": ("How many near-duplicates the search finds", recall(store, stats)),
        "sequences": ("Tokens, sequences and shards", _sequences(store.snapshot)),
        "fertility": ("How well the tokenizer fits", _fertility(store.snapshot)),
        "changes": ("What changed since the parent", _changes(store, parent)),
    }
    title = f"maskline snapshot {store.snapshot.label}"
    return pictures.page(title, _header(store.snapshot), sections).encode()


def add_report(store: str, snapshot: Snapshot, parent: Snapshot | None) -> Snapshot:
    """Write the page into a snapshot's directory; return the manifest that lists it."""
    tree = snapshot.tree(store)
    before = None if parent is None else Store(store, parent.tree(store), parent)
    stats = read_stats(tree.root)
    write_bytes(tree.own(REPORT), render(Store(store, tree, snapshot), before, stats))
    entry = FileEntry(**describe_file(tree.root, REPORT), home=snapshot.label)
    others = [each for each in snapshot.files if each.path != REPORT]
    files = sorted([*others, entry], key=lambda each: each.path)
    return snapshot.model_copy(update={"files": tuple(files)})


def _header(snapshot: Snapshot) -> Html:
    counts = snapshot.counts
    rows = [
        ("fingerprint", snapshot.fingerprint),
        ("parent", snapshot.parent or "none"),
        ("deliveries", ", ".join(snapshot.deliveries)),
        ("records in", show(counts.documents_in)),
        ("documents kept", show(counts.documents_kept)),
        ("dropped", show(sum(counts.documents_dropped.values()))),
        ("tokens", show(counts.tokens)),
        ("sequences", Html(f"{counts.sequences:,} of {snapshot.sequence_length:,} tokens")),
        ("tokenizer", f"{snapshot.tokenizer} ({snapshot.vocab_size:,} entries)"),
    ]
    return table(f"Snapshot {snapshot.label} at a glance", ("what", "value"), rows)


def _deliveries(snapshot: Snapshot) -> Iterator[Html]:
    files = Counter(each.snapshot for each in snapshot.inputs)
    size, kept, came = (Counter[str]() for _ in range(3))
    for each in snapshot.inputs:
        size[each.snapshot] += each.size_bytes
    for part in snapshot.parts:
        kept[part.snapshot] += part.kept
        came[part.snapshot] += part.kept + sum(part.dropped.values())
    rows = [
        (each, files[each], size[each], came[each], kept[each], percent(kept[each], came[each]))
        for each in snapshot.deliveries
    ]
    head = ("delivery", "files", "bytes", "records in", "kept", "share kept")
    yield table("Deliveries, oldest first", head, rows)


def _funnel(store: Store) -> Iterator[Html]:
    sources = funnel(store.snapshot.parts)
    counts = store.snapshot.counts
    total = {"documents": counts.documents_kept, "dropped": counts.documents_dropped}
    largest = sorted(sources, key=lambda source: (-came_of(sources[source]), source))[:_BARS]
    chosen = [("all sources", total), *((source, sources[source]) for source in sorted(largest))]
    drawn = [
        Bar(
            f"{label}: {each['documents']:,} of {came_of(each):,} kept",
            _groups(each),
            came_of(each),
        )
        for label, each in chosen
    ]
    title = f"What became of each source's records, the largest {_BARS} at most"
    yield pictures.bars(title, _GROUPS, drawn)
    yield from what_is_left(store.recipe.clean, sources)
    head = ("source", "kept", "duplicates", "by rules", "records in", "share kept", "tokens")
    rows = [
        (source, *_groups(each), came_of(each), _share(each), each["tokens"])
        for source, each in sources.items()
    ]
    yield table("Records by source", head, rows)
    reasons = [
        (source, rule, count, percent(count, came_of(entry)))
        for source, entry in sources.items()
        for rule, count in entry["dropped"].items()
    ]
    head_of_reasons = ("source", "rule", "records", "share of the source")
    yield table("Dropped records by source and rule", head_of_reasons, reasons)


def _share(entry: Mapping[str, Any]) -> Html:
    return percent(entry["documents"], came_of(entry))


def _groups(entry: Mapping[str, Any]) -> tuple[int, int, int]:
    duplicates = sum(entry["dropped"].get(method, 0) for method in METHODS)
    return entry["documents"], duplicates, sum(entry["dropped"].values()) - duplicates


def _drops(store: Store) -> Iterator[Html]:
    counts = store.snapshot.counts
    dropped = sorted(counts.documents_dropped.items(), key=lambda item: (-item[1], item[0]))
    if not dropped:
        yield paragraph("Nothing was dropped.")
        return
    most = dropped[0][1]
    drawn = [
        Bar(f"{rule}: {count:,}", (count, 0) if rule in METHODS else (0, count), most)
        for rule, count in dropped[:_BARS]
    ]
    yield pictures.bars("Dropped records by rule", _GROUPS[1:], drawn)
    rows = [(rule, count, percent(count, counts.documents_in)) for rule, count in dropped]
    yield table("Dropped records by rule", ("rule", "records", "share of all"), rows)
    rules = [rule for rule, _ in dropped]
    found = choose_drops(
        store.tree, store.snapshot.parts, rules, lambda _, drops: least_of(drops, _EXAMPLES)
    )
    for rule, examples in found.items():
        yield heading(f"Dropped by {rule}")
        head = ("document", "where", "value", "threshold", "detail")
        yield table("Examples", head, map(_example, sorted(examples, key=rank)[:_EXAMPLES]))


def _example(row: Mapping[str, Any]) -> tuple[Html | float | None, ...]:
    identity, detail, witness = (
        None if row[key] is None else name(row[key]) for key in ("id", "detail", "witness_id")
    )
    if witness is not None:
        estimated = f" ({detail})" if detail else ""
        detail = Html(f"in favour of {witness}, {where(row, 'witness_')}{estimated}")
    return identity, where(row), row["value"], row["threshold"], detail


def _sequences(snapshot: Snapshot) -> Iterator[Html]:
    rows = []
    for key, group in groupby(snapshot.shards, attrgetter("snapshot", "source", "split")):
        shards = list(group)
        tokens, sequences, size = (
            sum(getattr(each, field) for each in shards)
            for field in ("tokens", "rows", "size_bytes")
        )
        rows.append((*key, tokens, sequences, len(shards), size))
    head = ("delivery", "source", "split", "tokens", "sequences", "shards", "bytes")
    yield table("Tokens, sequences and shards", head, rows)


def _fertility(snapshot: Snapshot) -> Iterator[Html]:
    drift = {
        (each.snapshot, each.source): each
        for each in measure_drift(snapshot.parts, snapshot.deliveries)
    }
    rows = []
    for each in measure_fertility(snapshot.parts):
        found = drift.get((each.snapshot, each.source))
        rows.append(
            (
                each.snapshot,
                each.source,
                each.tokens / each.words if each.words else None,
                each.tokens / each.text_bytes if each.text_bytes else None,
                found.percent if found else None,
                found.word_percent if found else None,
                "due" if found and found.is_due else "",
            )
        )
    head = (
        "delivery", "source", "tokens a word", "tokens a byte",
        "a byte, percent of the first delivery's", "a word, percent of the first delivery's",
        "retraining",
    )  # fmt: skip
    yield table("Fertility by delivery and source", head, rows)


def _changes(store: Store, parent: Store | None) -> Iterator[Html]:
    if parent is None:
        label = store.snapshot.parent
        why = f"its parent {label} was withdrawn" if label else "it has no parent"
        yield paragraph(f"Nothing to compare this snapshot with: {why}.")
        return
    before, after = parent.snapshot, store.snapshot
    rows = [
        (field.replace("_", " "), getattr(before.counts, field), getattr(after.counts, field))
        for field in ("documents_in", "documents_kept", "tokens", "sequences")
    ]
    yield table("Before and after", ("count", before.label, after.label), rows)
    changes, unread = count_changes(parent, store, most=_COMPARED_PARTS)
    if unread:
        yield paragraph(
            f"{unread:,} older parts changed, too many to be read for this page: `python -m "
            f"pipeline diff STORE {before.label} {after.label}` tells what came and went there."
        )
    titles = ("Documents that came", "Documents that went", "New records that were dropped")
    for title, counted in zip(titles, changes, strict=True):
        found = [(*key, count) for key, count in sorted((+counted).items())]
        yield table(title, ("source", "why", "records"), found)

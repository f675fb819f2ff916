"""The report: well formed, bounded, harmless, the same bytes every time, and its numbers right."""

import json
import random
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from chain_helpers import Chain, Delivery, prepare, random_text, tables
from corpus_helpers import random_text as random_prose
from corpus_helpers import write_corpus
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import table_rows

from corpus.recipe import load_recipe
from pipeline import clean, dedup_report, parquet, report, report_drops
from pipeline.clusters import cluster_sizes
from pipeline.explain import Store, open_store
from pipeline.forget import Request
from pipeline.pictures import Bar, Html, Point, bars, escape, mark_differences, shares, show
from pipeline.refresh import rebuild, refresh
from pipeline.report import add_report, render
from pipeline.tallies import read_stats

HOSTILE_TEXT = "<script>alert(\"x\")</script> & 'quoted' </blockquote>\u202e<b onclick=alert(1)>"
HOSTILE_NAME = "<img src=x onerror=alert(1)> \"'&\u202e.jsonl"
BINS = [
    {"similarity_low": low / 10, "similarity_high": (low + 1) / 10, "pairs": 200, "found": found,
     "expected": 100.5, "curve": 0.5, "found_low": 80, "found_high": 120, "chance": 0.5,
     "recall": found / 200}
    for low, found in ((5, 100), (6, 90), (7, 121))
]  # fmt: skip
STATS = {"recall": BINS}


class Made(NamedTuple):
    directory: Path
    first: Store
    second: Store


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    prepare(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two deliveries, the second of them hostile, in parts so small that every file has several."""
    directory = tmp_path_factory.mktemp("report")
    recipe = load_recipe(str(write_corpus(directory, files=4, documents=60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        patch.setattr(clean, "PART_BYTES", 60_000)
        prepare(patch)
        refresh(recipe)
        write_hostile(directory / "raw" / "news" / HOSTILE_NAME)
        refresh(recipe.model_copy(update={"snapshot": "second"}))
    store = str(directory / "store")
    return Made(directory, open_store(store, "first"), open_store(store, "second"))


def write_hostile(path: Path) -> None:
    """Write near-duplicates of many similarities, ids and texts full of markup."""
    rng = random.Random(5)
    records = []
    for n in range(12):
        words = (HOSTILE_TEXT + " " + random_prose(rng, 150)).split(" ")
        records.append((f"{n}{HOSTILE_TEXT}", " ".join(words)))
        for place in rng.sample(range(10, len(words)), 1 + n % 4):
            words[place] = "<i>changed"
        records.append((f"{n}'\u2066copy<", " ".join(words)))
    records.append(("short<br>\u0000", HOSTILE_TEXT))
    lines = "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in records)
    path.write_text(lines + "\n\n{<oops>\n")


def page_of(
    store: Store, parent: Store | None = None, canaries: Sequence[Mapping[str, Any]] = ()
) -> str:
    return render(store, parent, {"recall": canaries}).decode()


def read_tables(page: str) -> dict[str, list[list[str]]]:
    """Return the rows of every table by caption, cells as plain text."""
    found: dict[str, list[list[str]]] = {}
    for each in ET.fromstring(page).iter("table"):
        caption = "".join(each.find("caption").itertext())  # type: ignore[union-attr]
        rows = [["".join(cell.itertext()) for cell in row] for row in each.iter("tr")]
        found.setdefault(caption, []).extend(rows[1:])
    return found


class Checker(HTMLParser):
    """Collects tags and attributes and notes tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str | None] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(made: Made) -> None:
    page = page_of(made.second, made.first, BINS)
    ET.fromstring(page)
    checked = Checker(page)
    assert not {"script", "img", "link", "iframe", "object", "b", "i", "br"} & set(checked.tags)
    names = {name for name, _ in checked.attributes}
    assert not {name for name in names if name.startswith("on")} | ({"src", "style"} & names)
    targets = {value for name, value in checked.attributes if name == "href"}
    assert targets == {f"#{each}" for each in checked.ids if each and not each.endswith("-title")}
    assert len(set(checked.ids)) == len(checked.ids) == 2 * len(targets)
    assert "default-src 'none'" in page
    assert "://" not in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme:dark" in page and "width=device-width" in page


def test_every_rule_source_and_delivery_is_named(made: Made) -> None:
    page, snapshot = page_of(made.second, made.first), made.second.snapshot
    rules = set(snapshot.counts.documents_dropped)
    assert rules >= {"exact", "minhash", "same_id", "gopher_min_words", "invalid_json"}
    for rule in rules:
        assert f"<h3>Dropped by {rule}</h3>" in page
    rows = read_tables(page)
    assert {row[0] for row in rows["Records by source"]} == {"books", "news"}
    assert [row[0] for row in rows["Deliveries, oldest first"]] == ["first", "second"]
    assert {(row[0], row[1]) for row in rows["Dropped records by source and rule"]} == {
        (part.source, rule) for part in snapshot.parts for rule in part.dropped
    }
    glance = dict(rows["Snapshot second at a glance"])
    assert glance["fingerprint"] == snapshot.fingerprint and glance["parent"] == "first"


def test_numbers_are_those_of_the_manifest(made: Made) -> None:
    snapshot = made.second.snapshot
    rows = read_tables(page_of(made.second, made.first))
    glance = dict(rows["Snapshot second at a glance"])
    assert glance["records in"] == f"{snapshot.counts.documents_in:,}"
    assert glance["documents kept"] == f"{snapshot.counts.documents_kept:,}"
    assert glance["tokens"] == f"{snapshot.counts.tokens:,}"
    dropped = {row[0]: int(row[1]) for row in rows["Dropped records by rule"]}
    assert dropped == snapshot.counts.documents_dropped
    shown = Counter({tuple(row[:3]): int(row[5]) for row in rows["Tokens, sequences and shards"]})
    assert shown == Counter((s.snapshot, s.source, s.split) for s in snapshot.shards)
    tokens = [int(row[3].replace(",", "")) for row in rows["Tokens, sequences and shards"]]
    assert sum(tokens) == snapshot.counts.tokens
    records = [list(map(int, row[1:5])) for row in rows["Records by source"]]
    assert all(kept + twice + ruled == came for kept, twice, ruled, came in records)
    assert sum(row[3] for row in records) == snapshot.counts.documents_in
    deliveries = rows["Deliveries, oldest first"]
    assert sum(int(row[3]) for row in deliveries) == snapshot.counts.documents_in
    sizes = [int(row[2].replace(",", "")) for row in deliveries]
    assert sum(sizes) == sum(each.size_bytes for each in snapshot.inputs)
    clusters = [int(row[1]) for row in rows["Kept documents by the records they stand for"]]
    assert sum(clusters) == snapshot.counts.documents_kept
    largest = [int(row[2]) for row in rows["The largest"]]
    (sizes,) = cluster_sizes(made.second)
    assert largest == sorted(sizes["records"].to_pylist(), reverse=True)[:10]


def test_changes_are_counted_by_source_and_reason(made: Made) -> None:
    rows = read_tables(page_of(made.second, made.first))
    new = [part for part in made.second.snapshot.parts if part.snapshot == "second"]
    assert rows["Documents that came"] == [["news", "delivered", f"{sum(p.kept for p in new)}"]]
    refused = sum((Counter(part.dropped) for part in new), Counter[str]())
    assert {row[1]: int(row[2]) for row in rows["New records that were dropped"]} == refused
    assert "Documents that went: none." in page_of(made.second, made.first)
    before, after = made.first.snapshot.counts, made.second.snapshot.counts
    assert ["tokens", f"{before.tokens:,}", f"{after.tokens:,}"] in rows["Before and after"]


def test_examples_are_rows_of_the_drop_tables(made: Made) -> None:
    rows = read_tables(page_of(made.second))["Examples"]
    places = {
        (row["snapshot"], f"record {row['position']:,}")
        for kind in ("dropped/{}.parquet", "dropped/{}.dedup.parquet")
        for part in made.second.snapshot.parts
        for row in table_rows(made.second.tree.find(kind.format(part.name)))
    }
    for row in rows:
        assert (row[1].split(":")[0], row[1].rsplit(", ", 1)[1]) in places
    totals = made.second.snapshot.counts.documents_dropped.values()
    least, most = (sum(min(limit, total) for total in totals) for limit in (2, 3))
    assert least <= len(rows) <= most


def test_near_duplicates_stand_beside_their_witnesses(made: Made) -> None:
    page = page_of(made.second)
    root = ET.fromstring(page)
    pairs = [each for each in root.iter("div") if each.get("class") == "pair"]
    assert len(pairs) == 6
    assert "not looked up" not in page and page.count("<mark>") >= 6
    known = {
        row["id"]: row["text"] for row in tables(made.second.root, made.second.snapshot, "clean")
    }
    for pair in pairs:
        for side in pair:
            (title, quote) = ("".join(part.itertext()) for part in side)
            mine = [text for key, text in known.items() if f": {unescaped(key)} (second" in title]
            assert any(quote.strip("\u2026") in unescaped(text) for text in mine), title
    titles = [str(each.text).split() for each in root.iter("h3")]
    shown = [float(words[1]) for words in titles if words[0] == "Similarity"]
    assert shown == sorted(shown) and min(shown) >= 0.8 and max(shown) - min(shown) > 0.05


def unescaped(text: str) -> str:
    """Return what a reader sees of a text: nothing is a tag, nothing is hidden."""
    return str(ET.fromstring(f"<p>{escape(text)}</p>").text or "")


def test_a_hostile_document_does_no_harm(made: Made) -> None:
    page = page_of(made.second, made.first)
    assert "<script" not in page.lower() and "<img" not in page and "<i>" not in page
    assert "\u202e" not in page and "\u2066" not in page and "\x00" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "[U+202E]" in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    shown = "".join(ET.fromstring(page).itertext())
    assert HOSTILE_NAME.replace("\u202e", "[U+202E]") in shown


def test_the_same_snapshot_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    assert render(made.second, made.first, STATS) == render(made.second, made.first, STATS)
    page = page_of(made.second, made.first)
    assert str(made.directory) not in page and "/raw/" not in page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "PART_BYTES", 60_000)
        other = rebuild(made.second.root, str(tmp_path / "elsewhere"), workers=1).snapshot
    rebuilt = Store(str(tmp_path / "elsewhere"), other.tree(str(tmp_path / "elsewhere")), other)
    alone = made.second.snapshot.model_copy(update={"parent": None})
    expected = render(made.second._replace(snapshot=alone), None, STATS)
    assert render(rebuilt, None, STATS) == expected


def test_recall_is_shown_where_it_was_measured(made: Made) -> None:
    assert "Not measured for this snapshot." in page_of(made.first)
    page = page_of(made.first, None, BINS)
    rows = read_tables(page)["Recall of the canaries"]
    assert rows[0] == [
        "0.50 to 0.60", "200", "100", "50.0 %", "50.2 %", "80 to 120 pairs", "inside",
    ]  # fmt: skip
    assert [row[-1] for row in rows] == ["inside", "inside", "outside"]
    assert page.count('class="range out"') == 1 and page.count('class="range"') == 2


def test_the_page_joins_the_manifest_and_leaves_the_fingerprint(made: Made) -> None:
    snapshot = made.second.snapshot
    listed = add_report(made.second.root, snapshot, made.first.snapshot)
    path = Path(made.second.tree.own("report.html"))
    assert path.read_bytes() == render(made.second, made.first, read_stats(made.second.tree.root))
    again = add_report(made.second.root, listed, made.first.snapshot)
    assert again == listed
    (entry,) = (each for each in listed.files if each.path == "report.html")
    assert (entry.home, entry.size_bytes) == ("second", path.stat().st_size)
    assert listed.compute_fingerprint() == snapshot.fingerprint
    assert list(listed.files) == sorted(listed.files, key=lambda each: each.path)


def test_cost_is_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Counter[str]()

    def counted(path: str, columns: Sequence[str]) -> pa.Table:
        reads[path] += 1
        return parquet.read_columns(path, columns)

    monkeypatch.setattr(report_drops, "read_columns", counted)
    snapshot = made.second.snapshot
    many = snapshot.model_copy(update={"parts": snapshot.parts * 100})
    page = page_of(made.second._replace(snapshot=many))
    rules = len(snapshot.counts.documents_dropped)
    assert 0 < len(reads) <= 2 * rules
    assert max(reads.values()) <= 2  # by two sections of the page
    assert "are too many. `python -m pipeline clusters STORE` counts them." in page


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    yield Chain(tmp_path, {"threshold": 0.5, "bands": 12, "rows": 2, "ngram": 1, "partitions": 1})


def deliver(chain: Chain, label: str, texts: list[str]) -> Store:
    records = [{"id": f"{label}-{n}", "text": text} for n, text in enumerate(texts)]
    chain.deliver(Delivery(label, {("a", f"{label}.jsonl"): records}))
    return open_store(chain.store, label)


def test_a_page_without_duplicates_and_one_of_an_empty_delivery(chain: Chain) -> None:
    texts = [" ".join(f"{letter}{n}" for n in range(12)) for letter in "abc"]
    first = deliver(chain, "first", texts)
    page = page_of(first)
    assert "The delivery first has no near-duplicates." in page
    assert "Nothing was dropped." in page and "it has no parent" in page
    assert "The largest: none." in page
    second = deliver(chain, "second", texts[:1])  # nothing of it is kept
    rows = read_tables(page_of(second, first))
    assert rows["Deliveries, oldest first"][1][3:] == ["1", "0", "0.0 %"]
    assert rows["New records that were dropped"] == [["a", "exact", "1"]]
    third = deliver(chain, "third", [])
    rows = read_tables(page_of(third, second))
    assert rows["Deliveries, oldest first"][2][3:] == ["0", "0", "\u2013"]
    assert "New records that were dropped: none." in page_of(third, second)


def test_a_take_down_shows_what_came_back_but_not_what_went(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    text = random_text(rng)
    first = deliver(chain, "first", [text, random_text(rng)])
    second = deliver(chain, "second", [f"{text} more", random_text(rng)])
    assert "minhash" in page_of(second, first) and text[:30] in page_of(second, first)
    chain.take_down("third", Request(ids=("a/first-0",)))
    third = open_store(chain.store, "third")
    page = page_of(third, second)
    rows = read_tables(page)
    assert rows["Documents that came"] == [["a", "admitted again", "1"]]
    assert rows["Documents that went"] == [["a", "forgotten", "1"]]
    assert "first-0" not in page and text[:30] not in page
    page = page_of(third, None)
    assert "its parent second was withdrawn" in page
    monkeypatch.setattr(report, "_COMPARED_PARTS", 1)
    assert "2 older parts changed, too many to be read" in page_of(third, second)


def test_a_witness_that_is_not_found_is_said(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup_report, "_WITNESS_PARTS", 0)
    assert page_of(made.second).count("not looked up") == 12


def test_differing_words_are_marked() -> None:
    assert mark_differences("a b c", "a x c") == ("a <mark>b</mark> c", "a <mark>x</mark> c")
    assert mark_differences("same <", "same <") == ("same &lt;", "same &lt;")
    assert mark_differences("今日は晴", "今日は雨") == (
        "今日は<mark>晴</mark>",
        "今日は<mark>雨</mark>",
    )
    assert mark_differences("a b", "a b c") == ("a b", "a b<mark> c</mark>")


def test_an_excerpt_is_bounded_and_begins_before_the_first_difference() -> None:
    left = "word " * 5_000 + "left " + "more " * 5_000
    right = "word " * 5_000 + "right " + "more " * 5_000
    for text, own in zip(mark_differences(left, right), ("left", "right"), strict=True):
        assert f"word <mark>{own}</mark> more" in text
        assert len(text) < 700 and text.startswith("\u2026word") and text.endswith("\u2026")
        assert text.count("<mark>") == 1
    worst = "ab " * 100_000, "a b " * 100_000
    assert all(len(text) < 4_000 for text in mark_differences(*worst))
    assert len(mark_differences("x" * 10**6, "x" * 10**6 + "y")[1]) < 700


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_becomes_harmless_markup(left: str, right: str) -> None:
    for markup in (escape(left), *mark_differences(left, right)):
        root = ET.fromstring(f"<p>{markup}</p>")
        assert {each.tag for each in root.iter()} <= {"p", "mark"}
    assert "<" not in escape(left) and '"' not in escape(left)
    assert not {"\u202e", "\x00", "\ufeff"} & set(escape(left))


def test_values_as_a_reader_sees_them() -> None:
    assert [show(value) for value in (None, 1_234, 0.25, "<", Html("<br/>"))] == [
        "\u2013", "1,234", "0.25", "&lt;", "<br/>",
    ]  # fmt: skip


def test_bars_and_points_lie_where_they_should() -> None:
    kinds = (("kept", "kept"), ("rule", "dropped"))
    picture = ET.fromstring(
        f"<p>{bars('t', kinds, [Bar('x', (1, 3), 4), Bar('0', (0, 0), 0)])}</p>"
    )
    drawn = [each for each in picture.iter("rect")][len(kinds) :]
    assert [(each.get("x"), each.get("width")) for each in drawn] == [
        ("0.0", "105.0"),
        ("105.0", "315.0"),
    ]
    curve = [(0.5, 0.0), (1.0, 1.0)]
    picture = ET.fromstring(f"<p>{shares('t', curve, [Point(0.75, 0.5, 0.4, 0.6)])}</p>")
    (point,) = picture.iter("circle")
    (line,) = picture.iter("polyline")
    (x1, y1), (x2, y2) = (map(float, each.split(",")) for each in str(line.get("points")).split())
    assert float(str(point.get("cx"))) == pytest.approx((x1 + x2) / 2)
    assert float(str(point.get("cy"))) == pytest.approx((y1 + y2) / 2)

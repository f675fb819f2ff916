"""The suppression list: what is on it, what it covers, and that it is written one way only."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forgotten_helpers import SCHEMA, covers
from hypothesis import given
from hypothesis import strategies as st

from corpus.forgotten import Forgotten, forgotten_path, hash_id, read_forgotten, unite

names = st.frozensets(st.text(max_size=5), max_size=4)
lists = st.builds(Forgotten, ids=names, texts=names, url_prefixes=names, sources=names)


def document(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - columns differ in type
    plain = {"id": "books/1", "source": "books", "url": None, "text_hash": bytes(16)}
    return plain | values


def test_nothing_is_covered_by_an_empty_list() -> None:
    nothing = Forgotten()
    assert nothing.is_empty
    assert not covers(nothing, document(url="https://example.org/a"))


@pytest.mark.parametrize(
    ("listed", "covered", "not_covered"),
    [
        (
            Forgotten(ids=frozenset({hash_id("books/1")})),
            document(),
            document(id="books/2", text_hash=bytes(16)),
        ),
        (
            Forgotten(texts=frozenset({"ab" * 16})),
            document(text_hash=b"\xab" * 16),
            document(text_hash=b"\xab" * 15 + b"\xac"),
        ),
        (
            Forgotten(url_prefixes=frozenset({"https://a.org/", "https://b.org/x"})),
            document(url="https://b.org/xy"),
            document(url="http://a.org/"),
        ),
        (
            Forgotten(url_prefixes=frozenset({"https://a.org/"})),
            document(url="https://a.org/"),
            document(url=None),
        ),
        (
            Forgotten(sources=frozenset({"books"})),
            document(),
            document(id="books/1", source="book"),
        ),
    ],
    ids=["id", "text", "url", "no-url", "source"],
)
def test_what_is_covered(
    listed: Forgotten, covered: dict[str, Any], not_covered: dict[str, Any]
) -> None:
    assert not listed.is_empty
    assert not covers(listed, not_covered)
    assert covers(listed, covered)


def test_an_id_is_listed_by_its_hash_only() -> None:
    assert not covers(Forgotten(ids=frozenset({"books/1"})), document())


@given(lists, lists, st.text(max_size=3), st.text(max_size=3))
def test_a_union_covers_what_one_of_the_lists_does(
    one: Forgotten, other: Forgotten, source: str, url: str
) -> None:
    row = document(source=source, url=url)
    assert covers(one.union(other), row) == (covers(one, row) or covers(other, row))


@given(lists, st.lists(st.tuples(names, st.none() | st.text(max_size=3)), max_size=5))
def test_every_document_of_a_table_is_judged_alone(
    listed: Forgotten, given_rows: list[tuple[frozenset[str], str | None]]
) -> None:
    rows = [document(id="".join(sorted(each)), url=url) for each, url in given_rows]
    found = listed.which(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert found.tolist() == [covers(listed, row) for row in rows]


@given(st.lists(lists, max_size=4), st.randoms())
def test_order_and_repetition_do_not_show(given_lists: list[Forgotten], rng: Any) -> None:  # noqa: ANN401
    shuffled = [*given_lists, *given_lists]
    rng.shuffle(shuffled)
    assert unite(shuffled).to_bytes() == unite(given_lists).to_bytes()
    assert unite(shuffled).fingerprint == unite(given_lists).fingerprint


@given(lists, lists)
def test_bytes_and_fingerprint_say_what_is_listed(one: Forgotten, other: Forgotten) -> None:
    assert Forgotten.model_validate_json(one.to_bytes()) == one
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_the_bytes_are_fixed() -> None:
    """A golden value: rebuilds and task names rest on it."""
    listed = Forgotten(ids=frozenset({"b", "a"}), sources=frozenset({"news"}))
    expected = b'{"ids":["a","b"],"sources":["news"],"texts":[],"url_prefixes":[]}'
    assert listed.to_bytes() == expected
    assert listed.fingerprint == hashlib.sha256(expected).hexdigest()
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert hash_id("abc") == known


def test_a_store_is_read_file_by_file(tmp_path: Path) -> None:
    store = str(tmp_path)
    assert read_forgotten(store).is_empty
    first = Forgotten(ids=frozenset({"1"}), url_prefixes=frozenset({"https://a.org/"}))
    second = Forgotten(ids=frozenset({"2"}), sources=frozenset({"news"}))
    for label, listed in (("t1", first), ("t2", second)):
        path = Path(forgotten_path(store, label))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(listed.to_bytes())
    assert read_forgotten(store) == first.union(second)


@pytest.mark.parametrize("content", [b"{", b'{"ids": 3}', b'{"names": []}', b"\xff"])
def test_a_damaged_list_is_named(tmp_path: Path, content: bytes) -> None:
    """Nothing may come back because a list could not be read."""
    path = Path(forgotten_path(str(tmp_path), "t1"))
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)forgotten/t1\.json is damaged: .*put back a copy"):
        read_forgotten(str(tmp_path))


def test_a_label_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a name below"):
        forgotten_path(str(tmp_path), "../../x")

"""Identities and digests, on which every fingerprint rests."""

import hashlib
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.documents import (
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    DUPLICATE_SCHEMA,
    KEPT_COLUMNS,
    add_digests,
    deal_hash,
    digest_rows,
    digest_table,
    document_id,
    drop_row,
    drops_table,
    format_digest,
    text_hash,
)

# JSON has no infinity, and no value of a row is one.
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.text() | st.integers(-(2**63), 2**63 - 1) | FINITE
ROWS = st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=8)


def test_an_id_is_source_and_key_or_the_hash_of_the_raw_text() -> None:
    assert document_id("books", "17", "any") == "books/17"
    assert document_id("books", None, "abc") == "books/sha256-ba7816bf8f01cfea414140de5dae2223"
    assert document_id("books", None, "abc ") != document_id("books", None, "abc")


def test_golden_hashes() -> None:
    """What is stored depends on these values: they never change."""
    assert text_hash("A  b\nC").hex() == "0e9f64031fcb2bc708b531c2a2044158"
    assert text_hash("A  b\nC").hex() == hashlib.sha256(b"a b c").hexdigest()[:32]
    assert deal_hash("books/17") == 14592862176215381554
    assert format_digest(digest_rows([("a", 1, None, 0.5)])) == (
        "85ea07df567cd2d9ab8efff7c1933144d55392c1c472ac165ea7f37ae7fc5666"
    )


@pytest.mark.parametrize(
    "other",
    [
        "the cafe\u0301  IS\tOpen",
        " The Caf\u00e9 is open\n",
        "the\u00a0caf\u00e9\u3000is\u2028open",
    ],
)
def test_texts_that_differ_in_form_only_have_one_hash(other: str) -> None:
    assert text_hash(other) == text_hash("The Caf\u00e9 is open")


@pytest.mark.parametrize(
    "other", ["The Cafe is open", "The Caf\u00e9 is open.", "The Caf\u00e9is open"]
)
def test_other_texts_have_other_hashes(other: str) -> None:
    assert text_hash(other) != text_hash("The Caf\u00e9 is open")


@given(ROWS, st.randoms(use_true_random=False))
def test_the_digest_does_not_see_the_order(rows: list[list[Any]], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    assert digest_rows(shuffled) == digest_rows(rows)


@given(ROWS, ROWS)
def test_digests_of_parts_add_up(one: list[list[Any]], other: list[list[Any]]) -> None:
    parts = [format_digest(digest_rows(rows)) for rows in (one, other)]
    assert add_digests(parts) == format_digest(digest_rows(one + other))
    assert len(add_digests(parts)) == 64


@given(ROWS.filter(bool), st.data())
def test_the_digest_sees_every_change(rows: list[list[Any]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    assert digest_rows(rows[:place] + rows[place + 1 :]) != digest_rows(rows)
    assert digest_rows([*rows, rows[place]]) != digest_rows(rows)
    value = data.draw(VALUES.filter(lambda value: repr(value) != repr(rows[place][0])))
    if [value] == [rows[place][0]]:
        return  # 1 and 1.0 are one value of two types
    changed = [*rows[:place], [value, rows[place][1]], *rows[place + 1 :]]
    assert digest_rows(changed) != digest_rows(rows)


def test_a_table_is_digested_by_the_named_columns() -> None:
    table = pa.table({"a": ["x", None], "b": [1, 2], "c": [0.5, 1.0]})
    assert digest_table(table, ["b", "a"]) == digest_rows([(1, "x"), (2, None)])
    assert digest_table(table.slice(0, 0), ["a"]) == 0
    chunked = pa.concat_tables([table.slice(1), table.slice(0, 1)])
    assert digest_table(chunked, ["a", "c"]) == digest_table(table, ["a", "c"])


def test_no_digest_is_zero() -> None:
    assert format_digest(0) == "0" * 64
    assert add_digests([]) == "0" * 64
    assert add_digests(["f" * 64, "1"]) == "0" * 64


def test_drop_rows_have_all_columns_and_a_canonical_order() -> None:
    place = {"source": "s", "stage": "clean", "rule": "empty"}
    rows = [
        drop_row(**place, id="s/b", file="f", position=1),
        drop_row(**place, id="s/a", file="g", position=1),
        drop_row(**place, id="s/a", file="f", position=10),
        drop_row(**place, id="s/a", file="f", position=9),
        drop_row(**place, file="z", position=3),
    ]
    table = drops_table(rows)
    assert table.schema == DROP_SCHEMA
    places = list(
        zip(*(table[name].to_pylist() for name in ("id", "file", "position")), strict=True)
    )
    assert places == [
        (None, "z", 3), ("s/a", "f", 9), ("s/a", "f", 10), ("s/a", "g", 1), ("s/b", "f", 1),
    ]  # fmt: skip
    assert drops_table(reversed(rows)) == table
    assert drops_table([]).schema == DROP_SCHEMA


def test_a_misspelt_drop_column_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="witnes"):
        drop_row(witnes="x")


def test_the_columns_that_the_fingerprint_covers() -> None:
    """The kept digest covers a document whole, but not what is derived from it."""
    assert set(DOCUMENT_SCHEMA.names) - set(KEPT_COLUMNS) == {"text_hash"}
    assert {"row"} == set(DUPLICATE_SCHEMA.names) - {*DROP_SCHEMA.names, "method", "similarity"}

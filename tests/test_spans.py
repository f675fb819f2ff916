"""Texts as bytes: any slice of any array of strings, and spans replaced one after another."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spans import bytes_of, from_bytes, replace_spans

texts = st.lists(st.text("ab é中", max_size=6), max_size=5)
types = st.sampled_from([pa.string(), pa.large_string()])


@given(texts, st.integers(0, 3), st.integers(0, 3), types)
def test_a_slice_is_read_where_it_lies(
    given_texts: list[str], before: int, after: int, kind: pa.DataType
) -> None:
    padded = pa.array(["é"] * before + given_texts + ["x"] * after, kind)
    data, ends = bytes_of(padded[before : before + len(given_texts)])
    found = [data[a:b].tobytes().decode() for a, b in pairwise(ends)]
    assert found == given_texts
    assert len(ends) == len(given_texts) + 1


@pytest.mark.parametrize("chunks", [[], [["a", ""], ["\u00e9b"]], [["x"]]])
def test_a_column_as_a_buffer(chunks: list[list[str]]) -> None:
    column = pa.chunked_array(chunks, pa.string())
    given_texts = [text for chunk in chunks for text in chunk]
    for start in range(len(given_texts) + 1):
        data, offsets = bytes_of(column[start:])
        found = [data[slice(*offsets[n : n + 2])].tobytes() for n in range(len(offsets) - 1)]
        assert found == [text.encode() for text in given_texts[start:]]


@given(texts, st.integers(0, 2), st.data())
def test_spans_are_replaced_where_they_lie(
    given_texts: list[str], before: int, data: st.DataObject
) -> None:
    array = pa.array(["é"] * before + given_texts, pa.string())[before:]
    _, ends = bytes_of(array)
    expected, spans, replacements = list[str](), list[tuple[int, int]](), list[bytes]()
    for text, start in zip(given_texts, ends.tolist(), strict=False):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=4)))
        made, done = "", 0
        for first, last in zip(cuts[::2], cuts[1::2], strict=False):
            spans.append(tuple(start + len(text[:n].encode()) for n in (first, last)))
            replacements.append(data.draw(st.sampled_from(["", "x", "long é"])).encode())
            made += text[done:first] + replacements[-1].decode()
            done = last
        expected.append(made + text[done:])
    starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
    replaced = replace_spans(array, starts, stops, replacements)
    replaced.validate(full=True)
    assert replaced.type == pa.large_string()
    assert replaced.to_pylist() == expected


def test_without_spans_the_array_is_the_same() -> None:
    array = pa.array(["a", ""], pa.large_string())
    nothing = np.empty(0, np.int64)
    assert replace_spans(array, nothing, nothing, []) is array


def test_bytes_become_an_array() -> None:
    assert from_bytes("aé".encode(), np.array([0, 1, 1, 3])).to_pylist() == ["a", "", "é"]


def test_nulls_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="never null"):
        bytes_of(pa.array(["a", None]))

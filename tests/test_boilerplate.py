"""Boilerplate lines: what is taken out, the list on disk, and learning it from a store."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.boilerplate import VERSION, Boilerplate, hash_lines, index_lines, list_lines
from pipeline.spans import bytes_of

HEAD = {"version": VERSION}


def listed(*lines: str) -> Boilerplate:
    return Boilerplate(HEAD, dict.fromkeys(lines, 2))


def removed(boilerplate: Boilerplate, *texts: str) -> list[tuple[str, int]]:
    found, counts = boilerplate.remove(pa.array(texts))
    return list(zip(found.to_pylist(), counts.tolist(), strict=True))


def test_listed_lines_go_with_their_newline() -> None:
    menu = listed("Home | About", "© all rights", "Share")
    assert removed(
        menu,
        "Home | About\nText.\n\n© all rights",
        "Text.\n  Share\t\nMore.\nShare",
        "Share",
        "share\nShare it\nShares",
        "",
        "\u3000Share\n\n Text",
    ) == [
        ("Text.", 2),
        ("Text.\nMore.", 2),
        ("", 1),
        ("share\nShare it\nShares", 0),
        ("", 0),
        ("\u3000Share\n\n Text", 0),
    ]


def test_nothing_found_is_the_same_array() -> None:
    texts = pa.array(["one\ntwo", ""], pa.large_string())
    for boilerplate in (listed("three"), listed()):
        found, counts = boilerplate.remove(texts)
        assert found is texts
        assert counts.tolist() == [0, 0]
    assert removed(listed("x")) == []


def test_lines_that_share_a_hash_are_told_apart() -> None:
    index = index_lines([b"one", b"two"])
    same = index._replace(hashes=index.hashes[[0, 0]])
    kept = index.data[: index.ends[1]].tobytes().decode()
    boilerplate = listed("one", "two")
    object.__setattr__(boilerplate, "_index", same)
    other = "two" if kept == "one" else "one"
    assert removed(boilerplate, f"{kept}\nx", f"{other}\nx") == [("x", 1), (f"{other}\nx", 0)]


def test_a_list_is_read_back_and_known_by_content() -> None:
    boilerplate = listed("b", "a", 'with "quotes"\u2028')
    read = Boilerplate.parse(boilerplate.to_bytes())
    assert read == boilerplate
    assert read.fingerprint == boilerplate.fingerprint == listed(*sorted(read.lines)).fingerprint
    assert read.fingerprint != listed("a").fingerprint
    lines = boilerplate.to_bytes().split(b"\n")
    assert lines[1] == b'{"documents":2,"line":"a"}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b'{"version": 0}\n', "line 1 .* a head with version 1"),
        (b"[]\n", "line 1 .* a head with version 1"),
        (b'{"version": 1}\n{"line": ', "line 2 of the list of boilerplate"),
        (b'{"version": 1}\n{"line": "x"}', "line 2 of the list of boilerplate: 'documents'"),
        (b'{"version": 1}\n{"documents": 1, "line": " x"}', "' x' is no line"),
        (b'{"version": 1}\n{"documents": 1, "line": "---"}', "'---' is no line"),
        (b'{"version": 1}\n{"documents": 1, "line": "x\\ny"}', "is no line"),
    ],
)
def test_a_bad_list_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Boilerplate.parse(data)


parts = st.sampled_from(["a", "B", "é", " ", "\t", "\n", "\n", "-", "1", "\u3000"])
texts = st.lists(parts, max_size=16).map("".join)


@given(st.lists(texts, max_size=5), st.integers(0, 2))
def test_lines_are_hashed_as_defined(documents: list[str], skipped: int) -> None:
    array = pa.array(["skipped\n"] * skipped + documents, pa.string())[skipped:]
    data, ends = bytes_of(array)
    lines = hash_lines(data, ends)
    spans = zip(lines.owners.tolist(), lines.starts.tolist(), lines.stops.tolist(), strict=True)
    found = [(owner, data[start:stop].tobytes().decode()) for owner, start, stop in spans]
    expected = [(n, line) for n, document in enumerate(documents) for line in list_lines(document)]
    assert found == expected
    by_line = {line: value for (_, line), value in zip(found, lines.hashes.tolist(), strict=True)}
    assert [by_line[line] for _, line in found] == lines.hashes.tolist()
    assert len(set(by_line.values())) == len(by_line)


@given(st.lists(texts, max_size=5), texts)
def test_lines_are_removed_as_defined(documents: list[str], source: str) -> None:
    lines = set(list_lines(source))
    boilerplate = listed(*lines)
    expected = []
    for document in documents:
        kept = [line for line in document.split("\n") if line.strip(" \t") not in lines]
        count = document.count("\n") + 1 - len(kept)
        expected.append(("\n".join(kept).strip() if count else document, count))
    found = removed(boilerplate, *documents)
    assert found == expected
    assert removed(boilerplate, *(text for text, _ in found)) == [(text, 0) for text, _ in found]

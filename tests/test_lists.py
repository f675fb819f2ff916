"""Unpacking by name, names without it, and sorted hashes behind their filter."""

import gzip

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lists import filter_of, fingerprint_of, may_hold, place_of, plain_name, unpack


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"text"),
        ("a.gz", gzip.compress(b"text", mtime=0)),
        ("a.gz", gzip.compress(b"te", mtime=0) + gzip.compress(b"xt", mtime=0)),
        ("a.zst", zstandard.compress(b"text")),
    ],
)
def test_files_are_unpacked_by_name(name: str, data: bytes) -> None:
    assert unpack(name, data) == b"text"


def test_a_broken_archive_is_named() -> None:
    with pytest.raises(ValueError, match=r"a.zst cannot be decompressed"):
        unpack("a.zst", b"text")
    with pytest.raises(ValueError, match=r"a.gz cannot be decompressed"):
        unpack("a.gz", gzip.compress(b"text" * 100)[:-9])
    with pytest.raises(ValueError, match=r"a\.xz is compressed with xz: a list is plain, gzip or"):
        unpack("a.xz", b"text")


def test_a_name_is_told_without_its_compression() -> None:
    assert [plain_name(name) for name in ("A.JSON.gz", "b.txt.zst", "c")] == [
        "a.json",
        "b.txt",
        "c",
    ]


def test_a_fingerprint_is_the_published_hash() -> None:
    assert fingerprint_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


hashes = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50)


@given(hashes, st.integers(0, 2**64 - 1))
def test_hashes_are_found_where_they_are(listed: list[int], other: int) -> None:
    values = np.array(sorted(listed), np.uint64)
    bits = filter_of(values)
    for place, value in enumerate(values):
        assert may_hold(bits, value)
        assert place_of(values, value) == place
    expected = sorted(listed).index(other) if other in listed else -1
    assert place_of(values, np.uint64(other)) == expected


def test_a_filter_lets_few_others_pass() -> None:
    rng = np.random.default_rng(7)
    listed, others = rng.integers(0, 2**64, (2, 20_000), np.uint64)
    bits = filter_of(listed)
    passed = sum(may_hold(bits, value) for value in others)
    # 26 bits a value: a word has some 7 of 64 set, and three random ones are with 0.2 %, more where
    # values crowd (Poisson).
    assert 0 < passed < 0.02 * len(others)

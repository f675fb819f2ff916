import json
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.normalize import normalize_batch, normalize_text

# What the compiled pass decides on: newlines, blank space, marks, jamo, controls, mojibake.
PIECES = st.sampled_from(
    [
        *"a \t\n\r\x0b\x0c\x1c\x1f\x85\u2028\xa0\u3000\u200b\xad",
        *"\x00\x7f\x80\x99\ufeff\ufffd\ufffe\u0301\u0323\u1161\u11a8\uac00\u1100e\u212b\u0958",
        *"ÂÃâïðÎÐÑ©°€™Ŕ√¬ΓÇ\u0420\u0421\u0432\u0402\u201a",
        *("\r\n", "\n\n\n", "  ", "line", "Ã©", "â€™", "\u0432Ђ™", "\u201aÄô", "Ã\x83Â©", "日本"),
    ]
)
TEXTS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("a \t\nb\u3000\n  c", "a\nb\n  c"),
        ("a\n\n\n \n\tb", "a\n\n\tb"),
        (" \n\t a\tb\xa0c  \n\n", "a\tb\xa0c"),
        ("a\x00\x1f\x7f\ufeffb", "ab"),
        ("e\u0301 \u1112\u1161\u11ab", "\u00e9 \ud55c"),
        ("a\u200b\xadb", "a\u200b\xadb"),
        ("", ""),
        (" \n", ""),
    ],
)
@pytest.mark.parametrize("fix_mojibake", [False, True])
def test_what_is_kept(raw: str, kept: str, fix_mojibake: bool) -> None:
    assert normalize_text(raw, fix_mojibake) == kept
    assert normalize_batch([raw], fix_mojibake).to_pylist() == [kept]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("It\u00e2\u20ac\u2122s\nna\u00efve", "It\u2019s\nna\u00efve"),
        ("A\u0303\u00a9t\u0101", "\u00c3\u00a9t\u0101"),  # mojibake only once it is composed
        ("caf\u00c3\ufeff\u00a9", "caf\u00e9"),  # and once a byte-order mark is gone
        ("\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0456", None),
        ("\x93quoted\x94 \u00fcber", "\u201cquoted\u201d \u00fcber"),
        ("NE\u00c3O \u00a9 2020", None),
        ("wait\x85", "wait\u2026"),
    ],
)
def test_mojibake_by_hand(raw: str, kept: str | None) -> None:
    if raw == "A\u0303\u00a9t\u0101":
        kept = normalize_text(normalize_text(raw, True), True)
    assert normalize_text(raw, True) == (raw if kept is None else kept)


@given(st.lists(TEXTS, max_size=5), st.booleans(), st.integers(0, 4))
@example(["a", "", "Ã©", ""], True, 1)
def test_a_batch_gives_what_the_reference_gives(
    texts: list[str], fix_mojibake: bool, start: int
) -> None:
    wanted = [normalize_text(text, fix_mojibake) for text in texts]
    found = normalize_batch(texts, fix_mojibake)
    found.validate(full=True)
    assert found.to_pylist() == wanted
    part = pa.array(texts, pa.large_string()).slice(start)
    assert normalize_batch(part, fix_mojibake).to_pylist() == wanted[start:]


@given(TEXTS, st.booleans())
def test_what_is_kept_stays_as_it_is(raw: str, fix_mojibake: bool) -> None:
    kept = normalize_text(raw, fix_mojibake)
    assert normalize_text(kept, fix_mojibake) == kept
    assert unicodedata.is_normalized("NFC", kept)
    assert not re.search(r"[^\S\n]$|\n{3}|[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]", kept, re.MULTILINE)
    assert kept == kept.strip()
    kept.encode()


def test_every_assigned_character_between_others() -> None:
    codes = [*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200)]
    texts = [f"a{chr(code)} " for code in codes]
    for fix_mojibake in (False, True):
        found = normalize_batch(texts, fix_mojibake).to_pylist()
        assert found == [normalize_text(text, fix_mojibake) for text in texts]


def test_a_pile_of_marks_is_composed_in_linear_time() -> None:
    marks = "\u0301\u0323\u0f73\u0344\u05b0\u0f71\u0340\u0301" * 40
    for pile in (marks, f"a{marks}\u2014{marks}b", f"\u2014{marks}\u1e0b{marks}"):
        assert normalize_text(pile, False) == unicodedata.normalize("NFC", pile)
    assert len(normalize_text("a" + "\u0301" * 200_000 + "\u0323" * 200_000, True)) == 400_000


def cases(shared_data: Path, name: str) -> list[tuple[str, str]]:
    path = shared_data / "web" / "mojibake" / f"ftfy-{name}.json"
    return [
        (case["original"], case.get("fixed-encoding", case["fixed"]))
        for case in json.loads(path.read_text())
    ]


@pytest.mark.parametrize("name", ["in-the-wild", "language-names", "synthetic"])
def test_mojibake_of_the_wild_is_repaired(shared_data: Path, name: str) -> None:
    for raw, fixed in cases(shared_data, name):
        assert normalize_text(raw, True) == normalize_text(fixed, False)


def test_what_only_looks_like_mojibake_stays(shared_data: Path) -> None:
    for raw, fixed in cases(shared_data, "negative"):
        assert normalize_text(raw, True) == normalize_text(fixed, False)

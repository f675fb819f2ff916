# ruff: noqa: RUF001 - Cyrillic letters are meant.
"""The encoding of pages that name none: real files in theirs, and what each correction is for."""

from pathlib import Path

import pytest

from benchmarks.encodings import count_right, decode_as_we_do, files_of, passages_of
from pipeline.encodings import guess_encoding
from pipeline.html import PageError, decode_page

KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "
UKRAINIAN = "Всі люди народжуються вільними і рівними у своїй гідності та правах. Її є ґанок. "
POLISH = "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. "
LATVIAN = "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās. "


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "cp949"),
        (UKRAINIAN, "koi8-u"),
        ("すべての人間は、生まれながらにして自由であり、かつ、平等である。", "iso2022_jp"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859-2"),
        (LATVIAN, "cp1257"),
        (LATVIAN, "iso8859-4"),
        ("Allir menn eru bornir frjálsir og jafnir öðrum að virðingu og réttindum. ", "cp1252"),
        ("All ménsklike wesens word vry, met gelyke waardigheid en regte, gebore. ", "cp1252"),
    ],
)
@pytest.mark.parametrize("page", ["{}", "<html><title>a</title><body><p>{}</p></body></html>"])
def test_texts_of_a_language_in_an_encoding_of_its_own(text: str, encoding: str, page: str) -> None:
    written = page.format(text * 5)
    assert decode_page(written.encode(encoding), None) == written


def test_a_guess_that_fits_few_languages_needs_one_of_them() -> None:
    """uchardet finds ISO 8859-13 in this Breton and Windows-1250 in this Friulian."""
    breton = "Dieub ha par en o dellezegezh hag o gwirioù eo ganet an holl dud. Poell ha skiant zo "
    data = breton + "dezho ha dleout a reont bevañ an eil gant egile en ur spered a genvreudeur"
    assert decode_page(data.encode("cp1252"), None) == data
    assert guess_encoding((LATVIAN * 3).encode("cp1257")) != "cp1252"


def test_bytes_of_no_encoding_stay_broken() -> None:
    """Letters beyond ASCII that stand together are no Latin text, whatever nobody recognized."""
    mixed = "ствaрaњe свeтa у кojeм ћe људскa бићa уживaти слoбoду гoвoрa. " * 9
    with pytest.raises(PageError, match="page_not_text"):
        decode_page(mixed.encode("cp1251"), None)
    broken = ("Grüße aus München. " * 20).encode() + b"\xfc"
    assert decode_page(broken, None) == "Grüße aus München. " * 20 + "\ufffd"


def test_real_files_in_the_encodings_that_they_came_in(shared_data: Path) -> None:
    """301 of 309, where uchardet alone has 270.

    Not right: Cyrillic with Latin vowels twice, Mongolian, HZ, Sorbian, Hungarian written in
    Latin-1, and Romanian twice, which gets the letters of today for those of ISO 8859-2.
    """
    pages = files_of(str(shared_data / "multilingual/udhr-original-encodings.zip"))
    assert len(pages) == 309
    assert count_right(decode_as_we_do, pages) >= 301


def test_short_passages(shared_data: Path) -> None:
    """Of 150 characters: 98 % here, where uchardet alone has 90 %."""
    edition = str(shared_data / "multilingual/udhr2-utf8.jsonl.zst")
    pages = list(passages_of(edition, 150))
    assert count_right(decode_as_we_do, pages) > 0.97 * len(pages)

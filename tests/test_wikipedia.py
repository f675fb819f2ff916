"""Dumps of Wikipedia: articles as wikitext, and a drop for every other page."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.records import Damage, Record
from corpus.splits import open_piece, read_piece, survey


def page(body: str) -> str:
    return f"  <page>\n<title>T &amp; U</title>{body}</page>\n"


def read(path: Path, text: str, limit: int = 500) -> list[Record | Damage]:
    path.write_text(text)
    file = InputFile(str(path))
    found = list(read_records(file, "wikipedia", limit))
    file.close()
    return found


ARTICLE = page(
    "<ns>0</ns><id>7</id><revision><id>9</id><timestamp>2024</timestamp>"
    "<text xml:space='preserve'>'''a''' &lt;b&gt;</text></revision>"
)


def test_pages_become_records_or_drops_with_a_rule(tmp_path: Path) -> None:
    pages = [
        ARTICLE,
        page("<ns>0</ns><redirect title='x' />"),
        page("<ns>14</ns>"),
        page("<ns>0</ns><revision><model>json</model><text>{}</text></revision>"),
        page("<ns>0</ns>"),
        page("<ns>0</id>"),
        page("<ns>0</ns><revision><text>" + "x" * 500 + "</text></revision>"),
        page("<ns>0</ns><revision><text>&nbsp;</text></revision>"),
        ARTICLE,
    ]
    found = read(tmp_path / "a.xml", f"<mediawiki>\n{''.join(pages)}</mediawiki>")
    meta = '{"revision":"9","timestamp":"2024","title":"T & U"}'
    text = "'''a''' <b>"
    assert found[0] == Record(1, "7", text, None, None, meta, "wikitext")
    assert [each.rule if isinstance(each, Damage) else "kept" for each in found] == [
        "kept", "wikipedia_redirect", "wikipedia_namespace", "wikipedia_model", "invalid_record",
        "invalid_xml", "record_too_long", "invalid_xml", "kept",
    ]  # fmt: skip
    assert [each.position for each in found] == list(range(1, 10))


def test_a_document_type_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><mediawiki>'
    (found,) = read(tmp_path / "a.xml", bomb + ARTICLE + "</mediawiki>")
    assert isinstance(found, Damage)
    assert (found.position, found.rule) == (1, "xml_entities")
    inside = page('<!DOCTYPE m [<!ENTITY a "a">]>&a;')
    found_inside = read(tmp_path / "b.xml", f"<mediawiki>{inside}{ARTICLE}</mediawiki>")
    assert [type(each) for each in found_inside] == [Damage, Record]


def test_a_dump_that_ends_early_or_is_none(tmp_path: Path) -> None:
    cut = read(tmp_path / "a.xml", f"<mediawiki>{ARTICLE}{ARTICLE[:40]}")
    assert [type(each) for each in cut] == [Record, Damage]
    assert read(tmp_path / "b.xml", "<other/>") == [
        Damage(1, "invalid_xml", "no <page> in the file")
    ]


HEAD, END = "<?xml?>\n<mediawiki a='b'>\n<siteinfo>\n</siteinfo>\n", "</mediawiki>\n"
NO_END = "a page without an end"
NO_START = "a page without its opening tag"
CUT = "the dump is cut off: it ends without </mediawiki>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + ARTICLE + ARTICLE + END, ["", ""]),
        (HEAD + ARTICLE.replace("<page>", "<page >") + ARTICLE + END, ["", ""]),
        (HEAD + ARTICLE + ARTICLE.replace("<page>", "<page\n a='b'>") + END, ["", ""]),
        (HEAD + ARTICLE.replace("<page>", "<pbge>") + ARTICLE + END, [NO_START, ""]),
        (HEAD + ARTICLE + ARTICLE.replace("<page>", "<pages>") + ARTICLE + END,
         ["", NO_START, ""]),
        (HEAD + ARTICLE.replace("</page>", "</pbge>") + ARTICLE + END, [NO_END, ""]),
        (HEAD + ARTICLE + "<page/>" + ARTICLE + END, ["", NO_END, ""]),
        (HEAD + ARTICLE + "<log/>" + ARTICLE + END, ["", "6 bytes that are no page", ""]),
        ("<log/>" + ARTICLE + END, ["6 bytes that are no page", ""]),
        (HEAD + ARTICLE + END + HEAD + ARTICLE + END, ["", ""]),
        (HEAD + ARTICLE + ARTICLE, ["", "", CUT]),
        (HEAD + ARTICLE + "\n</mediawi", ["", CUT]),
        (HEAD + ARTICLE + END + "<page>", ["", "12 bytes that are no page", NO_END]),
        (HEAD + END, ["no <page> in the file"]),
        ("", []),
    ],
)  # fmt: skip
def test_no_page_goes_by_unseen(tmp_path: Path, text: str, expected: list[str]) -> None:
    """In pieces of any size as in one."""
    found = read(tmp_path / "a.xml", text)
    assert [each.detail if isinstance(each, Damage) else "" for each in found] == expected
    assert [each.position for each in found] == list(range(1, len(expected) + 1))
    path = str(tmp_path / "a.xml")
    for size in (1, 200, 500):
        in_pieces: list[Record | Damage] = []
        for piece in survey(path, "wikipedia", size, 500)[0]:
            with closing(open_piece(path, "wikipedia", piece)) as file:
                in_pieces += read_piece(file, "wikipedia", piece, 500)
        assert in_pieces == found


def test_a_real_dump(shared_data: Path) -> None:
    file = InputFile(str(shared_data / "prose" / "enwiki-pages-articles-shortened.xml.bz2"))
    found = list(read_records(file, "wikipedia", 2**22))
    file.close()
    counts = Counter(each.rule if isinstance(each, Damage) else "kept" for each in found)
    assert counts == {"kept": 106, "wikipedia_redirect": 99, "wikipedia_namespace": 1}

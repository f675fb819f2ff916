"""Dumps of Wikipedia: articles as wikitext, and a drop for every other page."""

from collections import Counter
from pathlib import Path

from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.records import Damage, Record


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


def test_a_real_dump(shared_data: Path) -> None:
    file = InputFile(str(shared_data / "prose" / "enwiki-pages-articles-shortened.xml.bz2"))
    found = list(read_records(file, "wikipedia", 2**22))
    file.close()
    counts = Counter(each.rule if isinstance(each, Damage) else "kept" for each in found)
    assert counts == {"kept": 106, "wikipedia_redirect": 99, "wikipedia_namespace": 1}

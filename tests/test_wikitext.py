import bz2
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wikitext import wikitext_text

PIECES = st.sampled_from(
    [
        *("{{", "}}", "{|", "|}", "[[", "]]", "[http://a.b ", "]", "|", "''", "=", "(", "\n", "* "),
        *("<ref>", "</ref>", "<ref name=x/>", "<math>", "</math>", "<b>", "<!--", "-->", "File:"),
        "word ",
    ]
)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''thin''.", "Bold and thin."),
        (
            "A [[river]] in [[Asia Minor|Asia]], [[Paris (city)|]].",
            "A river in Asia, Paris (city).",
        ),
        ("See [http://a.b/c the page] and [//a.b].", "See the page and ."),
        ("Born {{circa|1900}} {{a|{{b|c}}|d={{{1|}}}}}here.", "Born  here."),
        ("Lisbon ({{IPA|x}}, {{y}}) is", "Lisbon is"),
        ("Text<ref>A [[book]], <i>1900</i></ref> and<ref name=b /> on.", "Text and on."),
        ("Text<ref>without an end", "Textwithout an end"),
        ("A<!-- {{ -->B<!-- to the end", "AB"),
        ("One.\n{| class=x\n|-\n| a || {{b}}\n{| \n| c\n|}\n|}\nTwo.", "One.\n\nTwo."),
        ("One.\n{| class=x\n| without an end\n! head\nTwo.", "One.\nTwo."),
        ("[[File:A b.jpg|thumb|A [[cat]] at [http://c.d home]]]Text", "Text"),
        ("[[Datei:Haus.svg|mini|Ein Haus]]Text", "Text"),
        ("Text\n[[Category:Cats| ]]\n[[Kategorie:Katze]]\n[[de:Katze]]\n[[zh-yue:x]]", "Text"),
        ("[[:Category:Cats|All cats]] and [[Re: Zero|the show]]", "All cats and the show"),
        ("* one\n** two\n#three\n:; four", "one\ntwo\nthree\nfour"),
        ("== Head ==\nText\n=== Empty ===\n{{x}}\n== See ==\n\n", "Head\nText"),
        ("== A ==\n=== B ===\nText\n== C ==\nMore", "A\nB\nText\nC\nMore"),
        ("a<br />b <span class=x>c</span> 1 < 2 &amp; 3&nbsp;> 2", "a\nb c 1 < 2 & 3\xa0> 2"),
        ("__NOTOC__\nText<math>x^{2}</math>.", "Text."),
        ("#REDIRECT [[Other page]]", ""),
        ("", ""),
    ],
)
def test_by_hand(wikitext: str, text: str) -> None:
    assert re.sub("\n+", "\n", wikitext_text(wikitext)) == re.sub("\n+", "\n", text)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_markup_ends_without_brackets(wikitext: str) -> None:
    text = wikitext_text(wikitext)
    assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<ref>|-->.*<!--", text)


@given(st.text(st.characters(codec="utf-8", exclude_characters="{}[]<>&'=*#:;|!_()/ \t\r\x0b\x0c")))
def test_text_without_markup_stays(text: str) -> None:
    lines = [line.strip() for line in text.split("\n")]
    assert wikitext_text(text) == "\n".join(lines).strip()


@pytest.mark.parametrize(
    "part",
    [
        *("{{a|", "{|\n|-\n| a\n", "<ref>", "<!--", "[[a|", "[http://a ", "{{a|b=[[c|", "'''", "="),
        *('<ref name="', "{{[[<b>\n{|", "<div>", "* ", "|a", " ", "[//", "__A", "&#", "<ref></ref"),
        "(",
    ],
)
def test_markup_without_an_end_is_survived(part: str) -> None:
    assert len(wikitext_text(part * 100_000 + "x")) <= len(part) * 100_000 + 1
    assert wikitext_text("[[" + part * 20_000 + "]]" * 20_000 + "-->\nLast words").endswith(
        " words"
    )


def test_deep_nesting_loses_no_text_around_it() -> None:
    text = wikitext_text("Before " + "{{a|" * 5000 + "}}" * 5000 + " after")
    assert text.startswith("Before")
    assert text.endswith("after")


def test_articles_of_the_encyclopedia_become_prose(shared_data: Path) -> None:
    path = shared_data / "prose" / "enwiki-pages-articles-shortened.xml.bz2"
    pages: dict[str, str] = {}
    with bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.endswith("}page") and len(pages) < 40:
                title = element.findtext("{*}title") or ""
                pages[title] = wikitext_text(element.findtext("{*}revision/{*}text") or "")
    assert len(pages) == 40
    assert pages["AccessibleComputing"] == ""  # a redirect
    article = pages["Anarchism"]
    assert len(article.split()) > 5000
    assert not re.search(r"\{\{|\[\[|\]\]|</?ref|<!--|^\s*\|", article, re.MULTILINE)
    assert "Category:" not in article

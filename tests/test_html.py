import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.html import PageError, decode_page, page_text

PARAGRAPH = (
    "The committee met on the first Monday of the month and heard three reports, of which the "
    "second, on the repair of the bridge, took most of the evening and was sent back. "
)
PAGE = f"""<!DOCTYPE html><html lang="en-GB"><head><title> The
bridge &amp; the river</title><style>p {{ color: red }}</style></head><body>
<nav><a href="/">Home</a> <a href="/news">News</a></nav>
<div class="cookie-notice"><p>We use cookies. {PARAGRAPH}</p></div>
<article><h1>The bridge</h1><p>{PARAGRAPH * 2}</p>
<figure><img alt="A bridge"><figcaption>The bridge in May</figcaption></figure>
<p>Second: {PARAGRAPH}</p>
<blockquote>Words of others</blockquote><p>Third: {PARAGRAPH}</p></article>
<p>Share this</p>
<footer>Imprint</footer><script>document.write("never")</script></body></html>"""


def test_the_article_is_what_stays() -> None:
    text, title, language = page_text(PAGE.encode(), None)
    first = PARAGRAPH.strip()
    assert text.split("\n\n")[0] == f"{first} {first}"
    assert re.findall("Second: |Words of others|Third: ", text) == [
        "Second: ",
        "Words of others",
        "Third: ",
    ]
    for absent in ("cookies", "Home", "Share", "Imprint", "never", "color", "A bridge", "in May"):
        assert absent not in text
    assert (title, language) == ("The bridge & the river", "en")


def test_what_a_heading_of_other_articles_leads_goes() -> None:
    teaser = "<p>The house voted on Tuesday to recognize the old treaty with its neighbour.</p>"
    parts = [PARAGRAPH, PARAGRAPH, "Related stories:"]
    page = "".join(f"<p>{part}</p>" for part in parts) + teaser
    kept = page_text(page.encode(), None).text
    assert kept.count(PARAGRAPH.strip()) == 2
    assert "Related" not in kept
    assert "treaty" not in kept


def test_an_article_goes_on_after_such_a_heading() -> None:
    long = f"<p>{PARAGRAPH * 4}</p>"
    kept = page_text(f"{long}<p>Related articles</p>{long}".encode(), None).text
    assert kept.count(PARAGRAPH.strip()) == 8


def test_a_notice_of_cookies_goes_and_an_article_about_them_stays() -> None:
    notice = "<p>This website uses cookies. By going on without a change you are agreeing.</p>"
    about = "<p>A cookie keeps a session; each site that one visits may set one of its own.</p>"
    assert "uses cookies" not in page_text(f"{notice}<p>{PARAGRAPH}</p>".encode(), None).text
    kept = page_text(f"<p>{PARAGRAPH}</p>{about}<p>{PARAGRAPH}</p>".encode(), None).text
    assert "keeps a session" in kept


def test_a_page_that_is_one_gallery_is_kept() -> None:
    page = f"<body class=gallery><p>{PARAGRAPH}</p></body>"
    assert page_text(page.encode(), None).text == PARAGRAPH.strip()


def test_a_page_without_prose_keeps_what_it_has() -> None:
    assert page_text(b"<p>Two words</p>", None) == ("Two words", None, None)
    assert page_text(b"", None) == ("", None, None)


@pytest.mark.parametrize(
    ("page", "charset"),
    [
        ("Grüße".encode(), None),
        ("Grüße".encode(), "iso-8859-1"),  # a wrong header does not break valid UTF-8
        ("\ufeffGrüße".encode("utf-8"), "koi8-r"),
        ("\ufeffGrüße".encode("utf-16-le"), None),
        ("\ufeffGrüße".encode("utf-16-be"), "utf-8"),
        ("Grüße".encode("cp1252"), "ISO-8859-1"),
        ("Grüße".encode("cp1252"), " latin1 "),
    ],
)
def test_encodings(page: bytes, charset: str | None) -> None:
    assert decode_page(page, charset) == "Grüße"


@pytest.mark.parametrize(
    ("encoding", "tag"),
    [
        ("shift_jis", '<meta charset="Shift_JIS">'),
        ("euc_jp", '<meta http-equiv=Content-Type content="text/html; charset=euc-jp">'),
        ("iso2022_jp", "<meta charset=iso-2022-jp>"),
    ],
)
def test_the_meta_tag_is_believed_where_the_header_says_nothing(encoding: str, tag: str) -> None:
    page = f"<html><head>{tag}</head>日本語の文章です。"
    assert decode_page(page.encode(encoding), None) == page


def test_the_header_goes_before_the_meta_tag() -> None:
    page = "<meta charset=koi8-r>Привет".encode("cp1251")
    assert decode_page(page, "windows-1251").endswith("Привет")


@pytest.mark.parametrize("label", ["hex", "zlib", "unicode_escape", "punycode", "no such"])
def test_codecs_that_are_no_charsets_are_not_run(label: str) -> None:
    assert decode_page(b"a\\u0041 \xe9t\xe9 " * 5, label) == "a\\u0041 été " * 5


def test_one_broken_byte_does_not_change_the_encoding() -> None:
    page = "Grüße aus München, ".encode() * 20 + b"\xff"
    assert decode_page(page, "utf-8") == "Grüße aus München, " * 20 + "\ufffd"


@pytest.mark.parametrize(
    ("page", "rule", "detail"),
    [
        (b"<div>" * 2_000_000, "page_too_deep", "2000000 elements"),
        (b"<DIV><p>" * 50_000 + b"x" + b"</div>" * 50_000, "page_too_deep", "50000 elements"),
        (b"<p " + b" ".join(b"a%d=1" % n for n in range(50_000)), "page_too_many_attri", "5000"),
        (b"<p " + b"/".join(b"a%d" % n for n in range(50_000)), "page_too_many_attri", "50000"),
        (b"<p>a" * 2**19 + b"<!--", "page_too_many_elements", "524289 tags"),
        (b"<p a b c><!-- -->" * 150_000, "page_too_many_elements", "750000 tags"),
        (b"\0" * 1000, "page_not_text", "1000 of 1000"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0" * 30, "page_not_text", "broken"),
    ],
)
def test_hostile_pages_are_refused(page: bytes, rule: str, detail: str) -> None:
    with pytest.raises(PageError, match=f"^{rule}.*{detail}") as caught:
        page_text(page, None)
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize(
    "part",
    ["<b>", "<a>", "<p>x", "<ul><li>", "<", "&amp", "<!--", "<br>", "</p>", "<script>", "<h1>x"],
)
def test_odd_pages_are_survived(part: str) -> None:
    try:
        page_text(part.encode() * 50_000, "utf-8")
    except PageError as refused:
        assert refused.rule == "page_too_deep"
    assert page_text(b"<p class='" + b"x" * 10**6 + b"'>word", None).text == "word"


@given(st.binary(max_size=200), st.none() | st.text(max_size=12))
def test_any_bytes_become_text_or_a_refusal(page: bytes, charset: str | None) -> None:
    try:
        found = page_text(page, charset)
    except PageError as refused:
        assert refused.rule == "page_not_text"
    else:
        found.text.encode()
        assert found == page_text(page, charset)


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[n : n + 4]) for n in range(len(words) - 3))


def test_articles_of_the_benchmark_are_found_as_well_as_by_the_best_library(
    shared_data: Path,
) -> None:
    web = shared_data / "web"
    truth = json.loads(
        gzip.decompress((web / "article-extraction-benchmark.ground-truth.json.gz").read_bytes())
    )
    archive = gzip.decompress((web / "article-extraction-benchmark.warc.gz").read_bytes())
    precisions, recalls = [], []
    for record in re.split(rb"(?m)^WARC/1\.\d\r\n", archive)[1:]:
        identity = re.search(rb"WARC-X-Benchmark-Id: (\w+)", record)
        if identity is None:
            continue
        page = record.split(b"\r\n\r\n", 2)[2]
        found = shingles(page_text(page, "utf-8").text)
        wanted = shingles(truth[identity[1].decode()]["articleBody"])
        precisions.append((found & wanted).total() / found.total())
        recalls.append((found & wanted).total() / wanted.total())
    assert len(precisions) == 181
    precision, recall = sum(precisions) / 181, sum(recalls) / 181
    # trafilatura's best options reach 0.964 (benchmarks/html.py).
    assert 2 * precision * recall / (precision + recall) > 0.964


def test_pages_of_readability_are_found(shared_data: Path) -> None:
    path = str(shared_data / "web" / "readability-pages.jsonl.zst")
    with pa.CompressedInputStream(pa.OSFile(path), "zstd") as stream:
        lines = stream.read().splitlines()[:30]
    recalls = []
    for line in map(json.loads, lines):
        wanted = shingles(re.sub("<[^>]*>", " ", line["expected_html"]))
        found = shingles(page_text(line["html"].encode(), None).text)
        recalls.append((found & wanted).total() / max(1, wanted.total()))
    assert sum(recalls) / len(recalls) > 0.85

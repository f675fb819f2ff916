"""Main content of pages beside trafilatura and plain Resiliparse; wikitext beside mwparserfromhell.

`python -m benchmarks.html DATA` prints precision, recall, F1 and MB/s (10^6 bytes of HTML per CPU
second, one pass) on two sets in DATA: the article extraction benchmark (181 annotated pages; our
class names and line price were chosen on it) and Readability's test pages (120 pages whose
expected article, turned into text by Resiliparse, is the truth; our choices were checked on it,
so it is not quite unseen). The measure is the one that the article extraction benchmark defines:
shingles of four tokens of `\\w+`, counted with multiplicity; precision and recall of each page,
their means over the pages, F1 of the two means. With DATA's slice of Wikipedia it prints MB/s of
`wikitext_text` and of mwparserfromhell's `strip_code` on the first pages, and how many shingles
of each the other has.

Not measured: titles, several cores, what readers prefer.
"""

import argparse
import bz2
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell
import orjson
import pyarrow as pa
import trafilatura
from resiliparse.extract.html2text import extract_plain_text

from pipeline.html import PageError, page_text
from pipeline.wikitext import wikitext_text

_WIKI_PAGES = 20

Pairs = list[tuple[str, str]]


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Count the runs of four tokens; a shorter text is one run."""
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[n : n + 4]) for n in range(max(1, len(words) - 3)) if words)


def benchmark_pages(web: Path) -> Pairs:
    """Return the article extraction benchmark's pages and articles."""
    name = "article-extraction-benchmark"
    truth = json.loads(gzip.decompress((web / f"{name}.ground-truth.json.gz").read_bytes()))
    archive = gzip.decompress((web / f"{name}.warc.gz").read_bytes())
    pairs = []
    for record in re.split(rb"(?m)^WARC/1\.\d\r\n", archive)[1:]:
        identity = re.search(rb"WARC-X-Benchmark-Id: (\w+)", record)
        if identity is not None:
            page = record.split(b"\r\n\r\n", 2)[2].decode("utf-8", "replace")
            pairs.append((page, truth[identity[1].decode()]["articleBody"]))
    return pairs


def readability_pages(web: Path) -> Pairs:
    """Return Readability's pages and the text of their expected articles."""
    path = str(web / "readability-pages.jsonl.zst")
    with pa.CompressedInputStream(pa.OSFile(path), "zstd") as stream:
        rows = [orjson.loads(line) for line in stream.read().splitlines()]
    return [
        (
            row["html"],
            extract_plain_text(row["expected_html"], preserve_formatting=False, alt_texts=False),
        )
        for row in rows
    ]


def ours(page: str) -> str:
    """Return what the pipeline keeps of a page."""
    try:
        return page_text(page.encode(), "utf-8").text
    except PageError:
        return ""


def precise(page: str) -> str:
    """Return trafilatura's text with the options that are best on the benchmark."""
    return trafilatura.extract(page, include_comments=False, favor_precision=True) or ""


EXTRACTORS: dict[str, Callable[[str], str]] = {
    "page_text": ours,
    "resiliparse main_content": lambda page: extract_plain_text(page, main_content=True),
    "resiliparse, no extras": lambda page: extract_plain_text(
        page, main_content=True, alt_texts=False, comments=False, post_meta=False
    ),
    "resiliparse whole page": extract_plain_text,
    "trafilatura": lambda page: trafilatura.extract(page) or "",
    "trafilatura fast, no comments": lambda page: (
        trafilatura.extract(page, include_comments=False, fast=True) or ""
    ),
    "trafilatura precise, no comments": precise,
}


def compare(pairs: Pairs) -> None:
    """Print a line for every extractor."""
    size = sum(len(page.encode()) for page, _ in pairs) / 1e6
    wanted = [shingles(text) for _, text in pairs]
    for name, extract in EXTRACTORS.items():
        extract(pairs[0][0])
        start = time.process_time()
        found = [extract(page) for page, _ in pairs]
        seconds = time.process_time() - start
        precision, recall = [], []
        for truth, text in zip(wanted, found, strict=True):
            given = shingles(text)
            common = (truth & given).total()
            precision += [common / given.total()] if given else []
            recall += [common / truth.total()] if truth else []
        p, r = sum(precision) / len(precision), sum(recall) / len(recall)
        print(f"{name:34} {p:.3f} {r:.3f} {2 * p * r / (p + r):.3f} {size / seconds:8.1f} MB/s")


def compare_wikitext(path: Path) -> None:
    """Print speed and agreement of two ways from wikitext to text."""
    with bz2.open(path) as stream:
        texts = [
            element.text
            for _, element in ElementTree.iterparse(stream)
            if element.tag.endswith("}text") and element.text and element.text[:2] != "#R"
        ][:_WIKI_PAGES]
    size, kept = sum(len(text.encode()) for text in texts) / 1e6, {}
    parsers: dict[str, Callable[[str], str]] = {
        "wikitext_text": wikitext_text,
        "mwparserfromhell": lambda text: str(mwparserfromhell.parse(text).strip_code()),
    }
    for name, parse in parsers.items():
        start = time.process_time()
        kept[name] = [shingles(parse(text)) for text in texts]
        print(f"{name:34} {size / (time.process_time() - start):.1f} MB/s")
    first, second = kept.values()
    common = sum((a & b).total() for a, b in zip(first, second, strict=True))
    for name, found in kept.items():
        share = common / sum(each.total() for each in found)
        print(f"shingles of {name} that the other has: {share:.3f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory of the development data")
    data = parser.parse_args().data
    print(f"{'':34} prec. rec.  F1")
    for name, pages in (
        ("article extraction", benchmark_pages),
        ("readability", readability_pages),
    ):
        pairs = pages(data / "web")
        print(f"{name}: {len(pairs)} pages")
        compare(pairs)
    compare_wikitext(data / "prose" / "enwiki-pages-articles-shortened.xml.bz2")


if __name__ == "__main__":
    main()

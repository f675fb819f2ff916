"""Speed of URL lists, bad words, masking, boilerplate, decontamination, user rules on one core.

`python -m benchmarks.lists --evaluation FILE... [--peers PYTHON] FILE...` cuts the texts of
JSON-lines files into documents of about 5 kB at line ends, takes them in batches of 200 and prints
MB/s (10^6 bytes of UTF-8 per CPU second, best of five passes after a warm-up) of each function
alone, and how many documents it touched. URLs are made up, three in a thousand of them blocked by a
list of so many made-up domains and prefixes; the boilerplate list holds random lines of the texts,
the list of bad words 400 rare words of theirs and as many pairs of them.
The peers do the same masking and URL look-up on the same documents in the same run: datatrove's
`PIIFormatter` and its `URLFilter` without word lists.

PYTHON is the interpreter of an environment with datatrove, tldextract, fasteners and pyahocorasick,
which the project does not install. Not measured: learning boilerplate, several cores, reading.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers import run_peer
from benchmarks.signatures import documents
from pipeline.bad_words import BadWords
from pipeline.boilerplate import VERSION, Boilerplate, list_lines
from pipeline.contamination import Contamination
from pipeline.custom import SCHEMA, UserRule
from pipeline.privacy import mask_batch
from pipeline.spans import bytes_of
from pipeline.urls import UrlBlockList

_BATCH, _PASSES = 200, 5

# Runs in the peers' interpreter: reads texts, URLs and domains, prints CPU seconds by name.
_PEERS = """
import json, sys, time
given = json.load(open(sys.argv[1], encoding="utf-8"))
seconds = {}

def timed(name, work, values):
    work(values[0])
    start = time.process_time()
    for value in values:
        work(value)
    seconds[name] = time.process_time() - start

from datatrove.pipeline.formatters import PIIFormatter
timed("datatrove PIIFormatter", PIIFormatter().format, given["texts"])

try:
    from datatrove.data import Document
    from datatrove.pipeline.filters import URLFilter
    from tldextract import TLDExtract
    step = URLFilter(extra_domains=given["domains"], use_integrated_lists=False)
    step.tldextractor = TLDExtract(suffix_list_urls=())  # the list it comes with: no download
    pages = [Document(text="", id="", metadata={"url": url}) for url in given["urls"]]
    timed("datatrove URLFilter", step.filter, pages)
except ImportError as error:
    print(f"no URLFilter: {error}", file=sys.stderr)
print(json.dumps(seconds))
"""


class Case(NamedTuple):
    """One function over a batch of documents; it returns how many it touched."""

    name: str
    work: Callable[[int], int]


def rate(case: Case, batches: int, size: int) -> tuple[float, int]:
    """Return MB/s of the best pass, and how many documents were touched."""
    seconds, touched = [], 0
    for _ in range(_PASSES + 1):
        start = time.process_time()
        touched = sum(case.work(n) for n in range(batches))
        seconds.append(time.process_time() - start)
    return size / 1e6 / min(seconds[1:]), touched


def made_up_urls(rng: random.Random, count: int, blocked: Sequence[str]) -> list[str]:
    """Return URLs of hosts with three labels and paths; three in a thousand are blocked."""
    hosts = [f"www.site{rng.randrange(10**9)}.org" for _ in range(count)]
    for n in range(count):
        if rng.random() < 0.003:
            hosts[n] = f"www.{rng.choice(blocked)}"
    return [f"https://{host}/news/{rng.randrange(10**6)}?page=1" for host in hosts]


def cases(texts: list[str], evaluation: list[str], entries: int) -> tuple[list[Case], list[str]]:
    """Return the functions to measure, and the URLs that one of them looks up."""
    rng = random.Random(0)
    start = time.process_time()
    domains = [f"bad{n}.example{n % 7}.net" for n in range(entries)]
    listed = "".join(f"{domain}\n" for domain in domains) + "host.net/some/prefix\n" * 10
    built = UrlBlockList.build([("domains", listed.encode())]).to_bytes()
    print(f"{entries:,} URL entries built in {time.process_time() - start:.1f} CPU s")
    start = time.process_time()
    blocked = UrlBlockList.parse(built)
    urls = made_up_urls(rng, len(texts), domains)
    blocked.find_all(urls[:1])
    print(f"and read from {len(built) / 1e6:.0f} MB in {time.process_time() - start:.1f} CPU s")
    lines = sorted({line for text in rng.sample(texts, 20) for line in list_lines(text)})
    boilerplate = Boilerplate({"version": VERSION}, dict.fromkeys(rng.sample(lines, 100), 2))
    nothing = Boilerplate({"version": VERSION}, {f"no such line {n}": 2 for n in range(10**5)})
    start = time.process_time()
    names = [(Path(path).name, Path(path).read_bytes()) for path in evaluation]
    examples = Contamination.build(names, 13)
    print(f"{len(examples.hashes):,} n-grams in {time.process_time() - start:.1f} CPU s")
    column = pa.array(texts, pa.large_string())
    batches = [column[n : n + _BATCH] for n in range(0, len(texts), _BATCH)]
    rule = UserRule(
        "benchmark:long", lambda batch: pc.greater(pc.utf8_length(batch["text"]), 9), ""
    )

    def masked(kinds: Sequence[str]) -> Callable[[int], int]:
        return lambda n: int((mask_batch(batches[n], kinds)[1] > 0).sum())  # type: ignore[arg-type]

    words = rare_words(texts)
    pairs = [" ".join(rng.sample(words, 2)) for _ in words]
    bad_words = BadWords.build([("words", "\n".join([*words, *pairs]).encode())])

    def held(batch: pa.Array) -> int:
        return int((bad_words.find(*bytes_of(batch)).counts > 0).sum())

    def found(failures: Sequence[object]) -> int:
        return sum(failure is not None for failure in failures)

    return [
        Case("mail masked", masked(["email"])),
        Case("mail and IP masked", masked(["email", "ip"])),
        Case(
            "boilerplate, 100 lines", lambda n: int((boilerplate.remove(batches[n])[1] > 0).sum())
        ),
        Case("bad words", lambda n: held(batches[n])),
        Case("boilerplate, none found", lambda n: int((nothing.remove(batches[n])[1] > 0).sum())),
        Case("decontamination", lambda n: found(examples.find(batches[n]))),
        Case("URLs", lambda n: found(blocked.find_all(urls[n * _BATCH : (n + 1) * _BATCH]))),
        Case("a user rule", lambda n: found(rule.find(documents_of(batches[n]), "a file"))),
    ], urls


def rare_words(texts: list[str], count: int = 400) -> list[str]:
    """Return the rarest words of texts that stand there twice or more often."""
    counts = Counter(word for text in texts for word in text.lower().split() if word.isalpha())
    often = (word for word in counts if counts[word] > 1)
    return sorted(often, key=lambda word: (counts[word], word))[:count]


def documents_of(texts: pa.Array) -> pa.RecordBatch:
    """Return texts as what a user's rule is given."""
    count = len(texts)
    filled = {"id": ["s/1"] * count, "text": texts, "source": ["s"] * count}
    columns = [pa.array(filled.get(field.name, [None] * count), field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def peers(python: str, texts: list[str], urls: list[str], size: int) -> dict[str, float]:
    """Return MB/s of datatrove on the same documents."""
    domains = [f"bad{n}.example{n % 7}.net" for n in range(10**5)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "given.json")
        path.write_text(json.dumps({"texts": texts, "urls": urls, "domains": domains}))
        seconds: dict[str, float] = run_peer(python, _PEERS, path)
    return {name: size / 1e6 / each for name, each in seconds.items()}


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--evaluation", nargs="+", default=[], help="files to decontaminate from")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--mb", type=float, default=8, help="10^6 bytes of text")
    parser.add_argument("--entries", type=int, default=10**6, help="of the URL list")
    parsed = parser.parse_args()
    texts = list(documents(parsed.files, int(parsed.mb * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    measured, urls = cases(texts, parsed.evaluation, parsed.entries)
    print(f"{size / 1e6:.1f} MB, {len(texts)} documents")
    for case in measured:
        speed, touched = rate(case, -(-len(texts) // _BATCH), size)
        print(f"{case.name:>24} {speed:9.1f} MB/s, {touched} documents")
    if parsed.peers:
        for name, speed in peers(parsed.peers, texts, urls, size).items():
            print(f"{name:>24} {speed:9.1f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

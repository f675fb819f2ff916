"""The four sets of rules on one core beside datatrove's filters, on the same documents, in one run.

`python -m benchmarks.rules --peers PYTHON FILE...` cuts the texts of JSON-lines files into
documents of about 5 kB and prints MB/s (10^6 bytes of UTF-8 per CPU second, one pass after a
warm-up) of `judge_batch` and of datatrove: as shipped (spaCy words and sentences), and as fast as
it can be (words by `str.split`, sentences by a regular expression, which is not its API). The chain
is FineWeb's: repetition, quality, C4 without the rule on terminal marks, FineWeb.

Then it prints, for each set alone, the share of documents on which both agree, and every pair of
reasons on which they do not, with its count; first on the documents as they are, then cleaned as
they come to our rules: without white space at the ends of lines, say, which datatrove takes for
text.

PYTHON is the interpreter of an environment with datatrove and spacy, which the project does not
install. Not measured: several cores, reading.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from benchmarks.peers import run_peer
from benchmarks.signatures import documents
from corpus.recipe import Clean
from pipeline.judging import judge_batch
from pipeline.normalize import normalize_text
from pipeline.rules import PRESETS

# What FineWeb did: huggingface/datatrove, examples/fineweb.py.
_FINEWEB = {"c4_line_terminal_mark": None}

# Runs in the peers' interpreter: reads a JSON list of texts, prints CPU seconds and verdicts.
_PEERS = """
import json, re, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
from datatrove.pipeline.filters import (
    c4_filters, fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter)

texts = json.load(open(sys.argv[1], encoding="utf-8"))
if sys.argv[2] == "split":
    end = re.compile(r"(?<=[.!?])\\s+")
    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = lambda text, language: text.split()
    c4_filters.split_into_sentences = lambda text, language: end.split(text)
filters = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(),
}

def reason(each, document):
    result = each.filter(document)
    return None if result is True else result[1]

def chain(text):
    document = Document(text=text, id="")
    return next((found for each in filters.values() if (found := reason(each, document))), None)

chain(texts[0])
start = time.process_time()
for text in texts:
    chain(text)
seconds = time.process_time() - start
verdicts = {}
for name, each in filters.items():
    verdicts[name] = []
    for text in texts:
        document = Document(text=text, id="")
        verdicts[name].append([reason(each, document), document.text])
print(json.dumps([seconds, verdicts]))
"""

Verdicts = dict[str, list[tuple[str | None, str]]]


def ours(texts: list[str]) -> tuple[float, Verdicts]:
    """Return CPU seconds of the chain and the verdicts of each set alone."""
    array, chain = pa.array(texts, pa.large_string()), Clean(rules=PRESETS, thresholds=_FINEWEB)
    judge_batch(array, chain)
    start = time.process_time()
    judge_batch(array, chain)
    seconds = time.process_time() - start
    verdicts: Verdicts = {}
    for preset in PRESETS:
        judged = judge_batch(array, Clean(rules=(preset,), thresholds=_FINEWEB))
        rules = [failure and failure.rule for failure in judged.failures]
        verdicts[preset] = list(zip(rules, judged.texts.to_pylist(), strict=True))
    return seconds, verdicts


def datatrove(python: str, texts: list[str], mode: str) -> tuple[float, Verdicts]:
    """Return the same of datatrove, run in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts), encoding="utf-8")
        seconds, verdicts = run_peer(python, _PEERS, path, mode)
    return seconds, verdicts


def stripped(text: str) -> str:
    """Take away the white space at the ends of lines."""
    return "\n".join(map(str.strip, text.split("\n"))).strip()


def compare(one: Verdicts, other: Verdicts) -> None:
    """Print how often two agree on each set, and why not."""
    for preset in PRESETS:
        pairs = list(zip(one[preset], other[preset], strict=True))
        differ = Counter((a[0], b[0]) for a, b in pairs if (a[0] is None) != (b[0] is None))
        kept = [(a[1], b[1]) for a, b in pairs if a[0] is None and b[0] is None]
        texts = sum(stripped(a) != stripped(b) for a, b in kept)
        share = 1 - differ.total() / len(pairs)
        print(f"{preset:>18}: {share:.2%} agree, {texts} kept texts differ")
        for (rule, reason), count in differ.most_common():
            print(f"{'':>20}{count:5} ours {rule or 'keeps'}, datatrove {reason or 'keeps'}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", help="interpreter of the peers' environment")
    parser.add_argument("--mb", type=float, default=2, help="10^6 bytes of text of each file")
    parsed = parser.parse_args()
    texts = [text for path in parsed.files for text in documents([path], int(parsed.mb * 1e6))]
    bare = [normalize_text(text, True) for text in texts]
    cases = [("as they are", [text.strip() for text in texts], "split")]
    cases += [("cleaned", bare, "split"), ("cleaned", bare, "shipped")]
    for name, given, mode in cases if parsed.peers else cases[:1]:
        size = sum(len(text.encode()) for text in given)
        seconds, verdicts = ours(given)
        print(f"{len(given)} documents {name}, {size / 1e6:.1f} MB")
        print(f"{'judge_batch':>24} {size / 1e6 / seconds:9.2f} MB/s")
        if parsed.peers:
            peer_seconds, peer_verdicts = datatrove(parsed.peers, given, mode)
            rate, times = size / 1e6 / peer_seconds, peer_seconds / seconds
            print(f"{'datatrove, ' + mode:>24} {rate:9.2f} MB/s, ours is {times:.0f} times this")
            compare(verdicts, peer_verdicts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

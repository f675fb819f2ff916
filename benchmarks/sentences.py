"""Ends of sentences: how many are found, and how fast, beside other splitters in the same run.

`python -m benchmarks.sentences MRPC GSD [--questions XQUAD...] [--peers PYTHON]` takes the distinct
sentences of the Microsoft Research Paraphrase Corpus (tab-separated, the last two columns) and of
the Chinese GSD treebank (JSON lines with a `text`) that end with a stop, joins them by tens, with a
space where the language writes them, and lets every splitter find the nine ends within each text.
It prints precision, recall and F1 of the ends, and MB/s (10^6 bytes of UTF-8 per CPU second). XQUAD
are files `xquad.LANGUAGE.json.gz`, whose questions are such sentences in other languages.

PYTHON is the interpreter of an environment with blingfire, syntok and pysbd; not every splitter
knows every language. Not measured: texts with line ends, what a wrong cut costs a model.
"""

import argparse
import csv
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.peers import run_peer
from corpus.encoding import flat_texts
from pipeline.sentences import sentence_cuts

_JOINED = 10
_STOPS = ".!?\u3002\uff01\uff1f\u061f"  # the last is Arabic's question mark
_STOPS_OF = {"el": ";\u037e"}  # Greek's, which others write for something else
_WITHOUT_SPACES = ("zh",)
# What the other splitters know of these languages; blingfire takes every text.
_LANGUAGES = {
    "syntok": ("en", "de", "es"),
    "pysbd": ("en", "zh", "ar", "de", "el", "es", "hi", "ru"),
}
_ROUNDS = 50  # how often ours goes over the texts, as once takes it a few milliseconds

# Runs in the peers' interpreter: texts as JSON, splitter, language; prints CPU seconds and, for
# every text, the places in characters at which its sentences end.
_PEER = """
import json, sys, time
path, name, language = sys.argv[1:]
texts = json.load(open(path))
if name == "blingfire":
    from blingfire import text_to_sentences_and_offsets
    def split(text):
        return [stop for _, stop in text_to_sentences_and_offsets(text)[1]]
elif name == "syntok":
    from syntok import segmenter
    def split(text):
        sentences = (each for part in segmenter.analyze(text) for each in part)
        return [last.offset + len(last.value) for *_, last in sentences]
else:
    from pysbd import Segmenter
    segmenter = Segmenter(language=language, clean=False, char_span=True)
    def split(text):
        return [each.start + len(each.sent.rstrip()) for each in segmenter.segment(text)]
split(texts[0])
start = time.process_time()
ends = [split(text) for text in texts]
print(json.dumps([time.process_time() - start, ends]))
"""


def read_english(path: str) -> list[str]:
    """Read the sentences of MRPC."""
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [sentence.strip() for row in rows[1:] for sentence in row[-2:]]


def read_chinese(path: str) -> list[str]:
    """Read the sentences of GSD."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"].strip() for line in lines]


def read_questions(path: str) -> list[str]:
    """Read the questions of a file in SQuAD's layout."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    paragraphs = [each for article in articles for each in article["paragraphs"]]
    return [question["question"].strip() for each in paragraphs for question in each["qas"]]


def join_by_tens(sentences: Iterable[str], language: str) -> tuple[list[str], list[set[int]]]:
    """Join sentences that end with a stop; return texts and the places at which sentences end."""
    stops = _STOPS_OF.get(language, _STOPS)
    chosen = [each for each in dict.fromkeys(sentences) if each and each[-1] in stops]
    space = "" if language in _WITHOUT_SPACES else " "
    texts, ends = [], []
    for group in zip(*[iter(chosen)] * _JOINED, strict=False):
        place, inner = 0, set()
        for sentence in group[:-1]:
            inner.add(place + len(sentence))
            place += len(sentence) + len(space)
        texts.append(space.join(group))
        ends.append(inner)
    return texts, ends


def ours(texts: Sequence[str]) -> tuple[float, list[list[int]]]:
    """Return the CPU seconds of one round and the ends."""
    data, offsets = flat_texts([*texts])
    sentence_cuts(data, offsets)
    start = time.process_time()
    for _ in range(_ROUNDS):
        cuts, cut_offsets = sentence_cuts(data, offsets)
    seconds = (time.process_time() - start) / _ROUNDS
    ends = []
    for n, low in enumerate(offsets[:-1].tolist()):
        places = cuts[cut_offsets[n] : cut_offsets[n + 1]].tolist()
        ends.append([len(bytes(data[low:place]).decode().rstrip()) for place in places])
    return seconds, ends


def inner_ends(texts: Sequence[str], ends: Sequence[Sequence[int]]) -> list[set[int]]:
    """Leave out the ends of the texts themselves, which are no question."""
    return [{*found} - {len(text)} for text, found in zip(texts, ends, strict=True)]


def tell(
    name: str, size: int, seconds: float, scored: tuple[list[set[int]], list[set[int]]]
) -> None:
    """Print a splitter's row; `scored` holds the expected and the found ends of every text."""
    right = sum(len(one & other) for one, other in zip(*scored, strict=True))
    wanted, found = (sum(map(len, each)) for each in scored)
    precision, recall, f1 = right / max(1, found), right / wanted, 2 * right / (found + wanted)
    rates = "".join(f"{100 * each:9.2f}" for each in (precision, recall, f1))
    print(f"{name:>12}{rates}{size / 1e6 / seconds:10.2f}")


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mrpc", nargs="+", help="files of MRPC, then that of GSD")
    parser.add_argument("gsd")
    parser.add_argument("--questions", nargs="*", default=[], help="files of XQuAD")
    parser.add_argument("--peers", help="interpreter of an environment with the other splitters")
    parsed = parser.parse_args()
    english = [each for path in parsed.mrpc for each in read_english(path)]
    tested = [("en", english), ("zh", read_chinese(parsed.gsd))]
    tested += [(Path(path).name.split(".")[1], read_questions(path)) for path in parsed.questions]
    for language, sentences in tested:
        texts, expected = join_by_tens(sentences, language)
        if not texts:
            print(f"{language}: no ten sentences that end with a stop")
            continue
        size = sum(len(text.encode()) for text in texts)
        print(f"{language}: {len(texts) * _JOINED} sentences in {len(texts)} texts")
        print(f"{'':>12}{'precision':>9}{'recall':>9}{'F1':>9}{'MB/s':>10}")
        seconds, ends = ours(texts)
        tell("ours", size, seconds, (expected, inner_ends(texts, ends)))
        if parsed.peers:
            tell_peers(parsed.peers, language, texts, expected)
    return 0


def tell_peers(python: str, language: str, texts: Sequence[str], expected: list[set[int]]) -> None:
    """Let the other splitters cut the same texts."""
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts))
        for name in ("blingfire", "syntok", "pysbd"):
            if language not in _LANGUAGES.get(name, (language,)):
                continue
            seconds, ends = run_peer(python, _PEER, path, name, language)
            tell(name, size, seconds, (expected, inner_ends(texts, ends)))


if __name__ == "__main__":
    sys.exit(main())

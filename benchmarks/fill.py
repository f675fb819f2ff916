"""How full rows are, by format and sequence length, beside the fullest that the format allows.

`python -m benchmarks.fill BPE NAME=FILE... [--megabytes 10]` encodes the texts of JSON-lines files
with the merges of BPE/vocab.bpe and prints, for every format, the share of places that hold text,
the share that is no padding, and for rows of whole sentences the share of text in the fewest
possible: the shortest way over all cuts between sentences (anywhere in a sentence
longer than a row), found from the end of the text, not row by row. NAME=paragraphs:FILE takes every
paragraph as a document of its own. Sentence pairs are short by design: read their share of text
beside their mean length, not as loss.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import orjson

from corpus.archives import InputFile
from corpus.tokenizer import Tokenizer, build_definition
from pipeline.formats import Documents, lay_documents
from pipeline.sentences import sentence_cuts

_LENGTHS = (128, 512, 2048, 8192)
_FORMATS = (
    "full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair",
)  # fmt: skip
# Places a row needs beyond its text: for itself, and for every further piece.
_JOINTS = {"full-sentences": 1, "stream": 1, "segment-pair": 2, "sentence-pair": 2}
Int64s = npt.NDArray[np.int64]


def read_texts(path: str, limit: int) -> Iterator[str]:
    """Give texts, or paragraphs, up to a number of bytes."""
    kind, _, name = path.rpartition(":")
    for line in b"".join(InputFile(name).chunks()).splitlines():
        text = orjson.loads(line)["text"]
        for each in text.split("\n\n") if kind == "paragraphs" else [text]:
            if each.strip() and limit > 0:
                limit -= len(each.encode())
                yield each.strip()


def open_merges(bpe: Path) -> Tokenizer:
    """Build a tokenizer from the merges of a vocab.bpe."""
    lines = (bpe / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    pairs = [line.split(" ") for line in lines if line]
    return Tokenizer(build_definition([(left, right) for left, right in pairs]))


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> Documents:
    """Encode texts sentence by sentence."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)])
    data = b"".join(encoded)
    cuts, counts = sentence_cuts(np.frombuffer(data, np.uint8), offsets)
    bounds = np.union1d(cuts, offsets)
    pieces = [data[a:b].decode() for a, b in pairwise(bounds)]
    ids = [np.array(ids, np.uint16) for ids in tokenizer.encode(pieces)]
    joined = np.concatenate(ids)
    return Documents(
        joined,
        tokenizer.spaces()[0][joined],
        np.cumsum([0, *map(len, ids)]),
        np.concatenate([[0], np.cumsum(np.diff(counts) + 1)]),
    )


def fewest_rows(documents: Documents, packing: str, sequence_length: int) -> int:
    """Return the fewest rows that any cutting of the text into whole sentences needs."""
    joint = _JOINTS.get(packing, 2)
    room, bounds = sequence_length - 2, documents.sentences
    lengths = np.diff(bounds)
    repeats = np.where(lengths > room, lengths, 1)
    starts = np.repeat(bounds[:-1], repeats)
    within = np.arange(len(starts)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    cuts = np.append(starts + within, bounds[-1])
    homes = np.searchsorted(documents.bounds, cuts[:-1], side="right") - 1
    return int(_shortest(cuts, homes, room, joint))


@numba.njit
def _shortest(cuts, homes, room, joint):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    rows = np.zeros(len(cuts), np.int64)
    for start in range(len(homes) - 1, -1, -1):
        least = rows[start + 1]
        for stop in range(start + 1, len(cuts)):
            pieces = homes[stop - 1] - homes[start]
            if cuts[stop] - cuts[start] + joint * pieces > room:
                break
            least = min(least, rows[stop])
        rows[start] = least + 1
    return rows[0]


def main() -> int:
    """Print a table for every set of texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bpe", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--megabytes", type=float, default=10)
    parsed = parser.parse_args()
    tokenizer = open_merges(parsed.bpe)
    for each in parsed.sets:
        name, _, path = each.partition("=")
        texts = list(read_texts(path, int(parsed.megabytes * 1e6)))
        documents = encode_texts(tokenizer, texts)
        tokens, sentences = len(documents.token_ids), len(documents.sentences) - 1
        print(f"\n{name}: {len(texts):,} documents, {sentences:,} sentences, {tokens:,} tokens")
        print(f"{'format':>15} {'length':>6} {'rows':>8} {'text %':>7} {'real %':>7} {'best %':>7}")
        for packing in _FORMATS:
            for length in _LENGTHS:
                print_line(documents, packing, length)
    return 0


def print_line(documents: Documents, packing: str, length: int) -> None:
    """Print what one format makes of the documents."""
    layout = lay_documents(documents, packing, length)
    places, tokens = layout.row_count * length, len(documents.token_ids)
    further = len(layout.rows) - layout.row_count
    real = tokens + 2 * layout.row_count + further * _JOINTS.get(packing, 2)
    best = "-"
    if packing in ("full-sentences", "doc-sentences"):
        best = f"{100 * tokens / (fewest_rows(documents, packing, length) * length):.3f}"
    shares = f"{100 * tokens / places:7.3f} {100 * real / places:7.3f}"
    print(f"{packing:>15} {length:>6} {layout.row_count:>8} {shares} {best:>7}")


if __name__ == "__main__":
    raise SystemExit(main())

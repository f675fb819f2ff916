"""Kept documents in Parquet become packed shards: speed of one core on text not seen before.

`python -m benchmarks.encoding TOKENIZER FILE... [--peers PYTHON]` cuts the texts of JSON-lines
files into documents of about 5 kB, writes one part a file, encodes each once and packs all of them,
in one process. It prints MB/s (10^6 bytes of UTF-8 per CPU second) of every part and its steps, and
of all of it to shards; beside it, in the same run and on the first documents of every file, what
`tokenizers` takes to make ids of them in memory and, with the interpreter of an environment that
has datatrove, what its DocumentTokenizer takes to write them; neither packs. Compiled code, the
encoder and the peers' tokenizers are loaded before. TOKENIZER is a directory with a tokenizer,
trained or RoBERTa's.

`--fuzz N` instead compares N random strings with the reference and ends with 1 on a difference;
`--whole` compares every record of files of any format with the reference (of a page its source) and
takes it back to its bytes.

Not measured: several cores, object stores, other machines.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers import run_peer
from benchmarks.signatures import documents
from corpus.archives import InputFile
from corpus.documents import DOCUMENT_SCHEMA, DUPLICATE_SCHEMA
from corpus.encoding import FlatEncoder, encode_by_reference, flat_texts
from corpus.files import create, join
from corpus.formats import detect_format
from corpus.membership import tokens_path
from corpus.readers import read_records
from corpus.recipe import Pack
from corpus.records import Record
from corpus.shards import token_dtype
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import Tokenizer, open_tokenizer, tokenizer_files
from pipeline import encode, pack
from pipeline.parquet import read_columns, write_table
from pipeline.plans import TokenFiles, plan_shards
from pipeline.spans import bytes_of

_PEER_BYTES = 2_000_000  # of every file, what the slow peers encode: a second or two
# Runs in the peer's interpreter: folder with Parquet, tokenizer, folder for tokens; prints seconds.
_PEER = """
import json, sys, time
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
parts, tokenizer, out = sys.argv[1:]

def run(limit):
    step = DocumentTokenizer(f"{out}/{limit}", tokenizer_name_or_path=tokenizer)
    reader = ParquetReader(parts, text_key="text", id_key="id", limit=limit)
    start = time.process_time()
    LocalPipelineExecutor(pipeline=[reader, step], logging_dir=f"{out}/log-{limit}").run()
    return time.process_time() - start

run(1)
print(json.dumps(run(-1)))
"""
# Characters that splitting and merging treat in different ways, beside letters of many scripts.
_ODD = " \t\n\r\u00a0\u2028\u3000'\u2019\"<>s|.!?0123456789²½Ⅷ_-=\u0301\u200d\u200b\ufeff\U0001f600"
_STEMS = ("the", " and", "'s", "'ll", "<s>", "<mask>", "\n\n", "  ", "ing", "=====", "http://", "é")


def write_part(tree: Tree, name: str, texts: list[str]) -> None:
    """Write texts as a clean part without duplicates."""
    fixed = {"source": "s", "snapshot": "first", "file": "f", "text_hash": bytes(16)}
    rows = [
        {**fixed, "id": f"s/{n:08d}", "text": text, "position": n} for n, text in enumerate(texts)
    ]
    write_table(tree.own(f"clean/{name}.parquet"), pa.Table.from_pylist(rows, DOCUMENT_SCHEMA))
    nothing = pa.Table.from_pylist([], DUPLICATE_SCHEMA)
    write_table(tree.own(f"duplicates/{name}.parquet"), nothing)


@contextmanager
def timing(places: list[tuple[Any, str]], seconds: dict[str, float]) -> Iterator[None]:
    """Add up the CPU seconds of functions, each inside its module or class."""
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any function's
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.process_time() - start

        return run

    for owner, name, function in originals:
        setattr(owner, name, timed(name, function))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def measure(tokenizer: Tokenizer, paths: list[str], folder: str, peers: str | None) -> None:
    """Encode a part a file, pack all of them, and print the table."""
    tree, location = Tree(join(folder, "tree")), (join(folder, "store"), tokenizer.fingerprint)
    for name, content in tokenizer_files(tokenizer).items():
        create(join(tokenizer_root(*location), name), content)
    write_part(tree, "warm-up", ["Compiled before. And measured after."])
    encode.encode_part(tree, "t", "warm-up", location)
    pack_parts(tree, tokenizer, ["warm-up"])
    steps = [
        (encode, "read_columns"), (encode, "cut_texts"), (encode.Encoder, "encode"),
        (encode.Encoder, "check"), (encode, "digest_table"), (encode, "write_arrow"),
    ]  # fmt: skip
    names, parts, total, spent = ["encode_part", *(name for _, name in steps)], [], 0.0, 0.0
    print(f"{'MB/s of one core':<32}" + "".join(f"{name:>13}" for name in names))
    for n, path in enumerate(paths):
        texts = list(documents([path], 10**10))
        write_part(tree, f"part-{n}", texts)
        seconds = defaultdict[str, float](float)
        with timing([(encode, "encode_part"), *steps], seconds):
            output = encode.encode_part(tree, "t", f"part-{n}", location)
        size = output.counts["text_bytes"] / 1e6
        parts.append(f"part-{n}")
        total, spent = total + size, spent + seconds["encode_part"]
        label = f"{Path(path).name} {size:.1f} MB"
        print(f"{label:<32}" + "".join(f"{size / seconds[name]:13.1f}" for name in names))
    start = time.process_time()
    pack_parts(tree, tokenizer, parts)
    rate = total / (spent + time.process_time() - start)
    print(f"Parquet to shards: {rate:.1f} MB/s of one core")
    few = [text for path in paths for text in documents([path], _PEER_BYTES)]
    size = sum(len(text.encode()) for text in few) / 1e6
    write_part(Tree(join(folder, "few")), "few", few)
    for name, peer in {
        "tokenizers, ids in memory": reference_rate(tokenizer, join(folder, "few"), size),
        **({"datatrove": datatrove_rate(peers, location, folder, size)} if peers else {}),
    }.items():
        print(f"{name}: {peer:.2f} MB/s of one core, 1/{rate / peer:.0f}")


def pack_parts(tree: Tree, tokenizer: Tokenizer, parts: list[str]) -> None:
    """Pack the tokens of parts into shards of the default size."""
    config, size = Pack(), tokenizer.vocab_size
    made_with = config, (tokenizer.fingerprint, size)
    source = TokenFiles(tuple(map(tokens_path, parts)))
    planned = plan_shards(tree, {("first", "s"): parts}, config, token_dtype(size)().itemsize)
    for plan in planned:
        pack.pack_shard(tree, "t", plan, made_with, source)


def reference_rate(tokenizer: Tokenizer, folder: str, size: float) -> float:
    """Return the MB/s of `tokenizers` on a part."""
    encode_by_reference(tokenizer, *flat_texts(["Opened before."]))
    start = time.process_time()
    texts = read_columns(Tree(folder).own("clean/few.parquet"), ["text"])["text"]
    encode_by_reference(tokenizer, *bytes_of(texts))
    return size / (time.process_time() - start)


def datatrove_rate(python: str, location: tuple[str, str], folder: str, size: float) -> float:
    """Return the MB/s of datatrove's tokenizing step on a part."""
    path = join(tokenizer_root(*location), "tokenizer.json")
    parts, out = join(folder, "few", "clean"), join(folder, "datatrove")
    return size / float(run_peer(python, _PEER, parts, path, out))


def differences(encoder: FlatEncoder, texts: list[str]) -> int:
    """Count texts whose ids differ from the reference's or do not give the text's bytes back."""
    data, offsets = flat_texts(texts)
    found = encoder.encode(data, offsets)
    expected = encode_by_reference(encoder.tokenizer, data, offsets)
    pieces = encoder.tokenizer.token_bytes()
    wrong = 0
    for n, text in enumerate(texts):
        ids = found.ids[slice(*found.offsets[n : n + 2])]
        same = np.array_equal(ids, expected.ids[slice(*expected.offsets[n : n + 2])])
        if not same or b"".join(pieces[token] for token in ids) != text.encode():
            print(f"differs: {text!r}")
            wrong += 1
    return wrong


def whole_texts(path: str) -> Iterator[str]:
    """Give the text of every record of a file, or of a page its source."""
    with closing(InputFile(path)) as file:
        for record in read_records(file, detect_format(path), 2**31):
            if isinstance(record, Record):
                yield record.text or record.page.decode("utf-8", "replace")


def random_text(random: np.random.Generator) -> str:
    """Make a text of odd characters, words and any code points."""
    parts = []
    for kind in random.integers(0, 4, random.integers(1, 30)):
        if kind == 0:
            parts.append("".join(random.choice(list(_ODD), random.integers(1, 6))))
        elif kind == 1:
            parts.append(str(random.choice(_STEMS)))
        elif kind == 2:
            parts.append("".join(map(chr, random.integers(97, 123, random.integers(1, 25)))))
        else:
            codes = random.integers(1, random.choice([0x250, 0x3100, 0xD800, 0x110000]), 4)
            parts.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))
    return "".join(parts)


def main() -> int:
    """Measure, or compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--fuzz", type=int, default=0, help="random strings to compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", help="interpreter of an environment with datatrove")
    parser.add_argument("--whole", action="store_true", help="compare whole files")
    parsed = parser.parse_args()
    tokenizer = open_tokenizer(parsed.tokenizer)
    if not parsed.fuzz and not parsed.whole:
        with tempfile.TemporaryDirectory() as folder:
            measure(tokenizer, parsed.files, folder, parsed.peers)
        return 0
    encoder, random = FlatEncoder(tokenizer), np.random.default_rng(parsed.seed)
    wrong = count = size = 0
    if not parsed.fuzz and not parsed.files:
        parser.error("name files, or give --fuzz")
    given = (text for path in parsed.files for text in whole_texts(path))
    fuzzed = (random_text(random) for _ in range(parsed.fuzz))
    left = iter(fuzzed if parsed.fuzz else given)
    while texts := list(islice(left, 1000)):
        wrong += differences(encoder, texts)
        count, size = count + len(texts), size + sum(len(text.encode()) for text in texts)
    print(f"{encoder.library}: {wrong} of {count} texts ({size / 1e6:.1f} MB) differ")
    return int(wrong > 0 or not count)


if __name__ == "__main__":
    sys.exit(main())

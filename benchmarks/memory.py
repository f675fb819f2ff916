"""Peak memory of a task that cleans a file, and what language identification adds to it.

`python -m benchmarks.memory [--mb N] FILE...` cuts the texts of JSON-lines files into documents of
a web page's size, repeats them to N megabytes in one `.jsonl.zst` and cleans that as a task does,
with all four sets of rules, documents and drops written: in a process of its own each time, once
without and once with the language. It prints the resident memory after the imports and the peak
(Linux's VmRSS and VmHWM), and for languages alone what the library's tables take once used.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import half
from benchmarks.resident import resident
from benchmarks.signatures import documents
from pipeline.languages import identify_batch

_TEXTS = ["All human beings are born free and equal in dignity and rights. " * 10] * 100


def clean(path: Path, out: Path, identify: bool) -> None:
    """Clean a file and print memory before and at most."""
    before = resident("VmRSS")
    half.clean_only(path, out, identify=identify)
    print(f"  imported {before:.0f} MiB, peak {resident('VmHWM'):.0f} MiB", flush=True)


def languages() -> None:
    """Print by how much the library's tables grow this process, kernels loaded before."""
    identify_batch([""])
    before = resident("VmRSS")
    identify_batch(_TEXTS)
    print(f"  languages alone: +{resident('VmRSS') - before:.1f} MiB", flush=True)


def main() -> None:
    """Write the file and measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--mb", type=float, default=120, help="10^6 bytes of text")
    parsed = parser.parse_args()
    if parsed.files[0] == "languages":
        languages()
        return
    if parsed.files[0] in ("with", "without"):
        kind, path, out = parsed.files
        clean(Path(path), Path(out), kind == "with")
        return
    texts = list(documents(parsed.files, int(parsed.mb * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    texts *= max(1, round(parsed.mb * 1e6 / size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl.zst"
        size = half.write_raw(path, list(enumerate(texts)))
        for kind in ("without", "with"):
            print(f"{size / 1e6:.0f} MB, {kind} language identification:", flush=True)
            out = Path(folder) / kind
            run(kind, str(path), str(out))
    run("languages")


def run(*arguments: str) -> None:
    """Run this module in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.memory", *arguments], check=True)


if __name__ == "__main__":
    main()

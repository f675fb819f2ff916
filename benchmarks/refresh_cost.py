"""What adding one per cent costs: CPU seconds of a refresh beside those of the build before it.

`python -m benchmarks.refresh_cost FILE... --mb 150` cuts the texts of JSON-lines files into
documents of about 5 kB, builds a store of 150 MB of them (10^6 bytes of text, 100 files, RoBERTa's
50,265 entries) and refreshes it with one file more, 1 % of new documents of which every tenth is an
old one with a word changed. It prints CPU seconds by stage of both and exits with 1 if the refresh
takes 5 % or more of the build, or any file of the first snapshot has changed.

Tasks run one after another in the measuring process, each a process of its own on Ray otherwise, so
that what a task costs is the CPU time of this process; "the rest" is what the command itself does
(inputs, plans, report, manifest). A refresh of the same size beforehand, in another store, loads
what is compiled. Starting Python and Ray costs the same whatever is delivered and is measured by
itself: a driver, a worker and a task that does nothing. Not measured: several machines, remote
stores.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks.signatures import documents
from corpus.files import checksum, list_names
from corpus.recipe import Recipe, Source, Tokenizer
from corpus.snapshots import snapshot_root
from pipeline.jobs import Stages, Task, run_task
from pipeline.refresh import refresh

LIMIT = 0.05
_FILES = 100
_CHANGED_EVERY = 10

# What a command costs that finds one task to do, its children included.
_START = """
import psutil, time
start = time.perf_counter()
import pipeline.__main__
from corpus.connection import connect
from pipeline.jobs import _OBJECT_STORE_BYTES, _import_ray
ray = _import_ray()
connect(ray, 2, _OBJECT_STORE_BYTES, log_to_driver=False)
ray.get(ray.remote(num_cpus=1)(lambda: None).remote())
me = psutil.Process()
seconds = [sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True))]
print(sum(seconds), time.perf_counter() - start)
"""


class Clock:
    """CPU seconds of this process by stage; between stages it runs for "the rest"."""

    def __init__(self) -> None:
        """Start with the rest."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._before = time.process_time()

    def ends(self, stage: str) -> None:
        """Book what was used since the last call."""
        now = time.process_time()
        self.seconds[stage] += now - self._before
        self._before = now


def write_files(folder: Path, texts: Sequence[str], files: int) -> None:
    """Write documents as JSON lines, in files of equal numbers."""
    folder.mkdir()
    for number in range(files):
        rows = range(number, len(texts), files)
        lines = [orjson.dumps({"id": f"{folder.name}-{n}", "text": texts[n]}) for n in rows]
        (folder / f"{number:05d}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def measure(root: Path, label: str, vocabulary: int) -> dict[str, float]:
    """Refresh a store to this delivery; return CPU seconds by stage."""
    clock = Clock()

    def run_here(stages: Stages, stage: str, missing: Sequence[Task]) -> None:
        clock.ends("the rest")
        for task in missing:
            run_task(stages.tree, stage, task)
            stages.tasks_run += 1
        clock.ends(stage)

    Stages._run_missing = run_here  # type: ignore  # Ray would hide the CPU time
    refresh(
        Recipe(
            store=str(root / "store"),
            snapshot=label,
            sources=(Source(name="web", paths=(str(root / label),)),),
            tokenizer=Tokenizer(vocab_size=vocabulary),
            workers=1,
        )
    )
    clock.ends("the rest")
    return dict(clock.seconds)


def changed(text: str) -> str:
    """Replace one word in the middle."""
    words = text.split(" ")
    words[len(words) // 2] = "altered"
    return " ".join(words)


def checksums(root: Path) -> dict[str, str]:
    """Return the checksums of all files of the first snapshot."""
    directory = snapshot_root(str(root / "store"), "first")
    return {name: checksum(f"{directory}/{name}") for name in list_names(directory)}


def run(root: Path, texts: Sequence[str], share: float, vocabulary: int) -> tuple[bool, list[str]]:
    """Build, refresh and compare; return whether the first snapshot is untouched, and the table."""
    count = round(len(texts) / (1 + share))
    old, new = texts[:count], list(texts[count:])
    new[::_CHANGED_EVERY] = [changed(text) for text in old[: len(new[::_CHANGED_EVERY])]]
    write_files(root / "first", old, _FILES)
    write_files(root / "second", new, 1)
    build = measure(root, "first", vocabulary)
    before = checksums(root)
    added = measure(root, "second", vocabulary)
    lines = [f"{'CPU s':>12} {'build':>9} {'refresh':>9} {'share':>8}"]
    totals = {"all": sum(build.values())}, {"all": sum(added.values())}
    for stage in (*build, "all"):
        one, other = (build | totals[0])[stage], (added | totals[1]).get(stage, 0.0)
        lines.append(f"{stage:>12} {one:9.2f} {other:9.2f} {100 * other / max(one, 1e-9):7.2f}%")
    lines.append(f"{len(old):,} documents, then {len(new):,}")
    return checksums(root) == before and totals[1]["all"] < LIMIT * totals[0]["all"], lines


def main() -> int:
    """Measure and print the table; exit status 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--mb", type=float, default=150, help="10^6 bytes of text of the build")
    parser.add_argument("--share", type=float, default=0.01, help="what is added")
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parsed = parser.parse_args()
    texts = list(documents(parsed.files, int(parsed.mb * (1 + parsed.share) * 1e6)))
    start = subprocess.run([sys.executable, "-c", _START], check=True, stdout=subprocess.PIPE)
    cpu, wall = map(float, start.stdout.split()[-2:])
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "warm").mkdir()
        run(Path(name) / "warm", texts[:400], 0.2, 300)
        (Path(name) / "measured").mkdir()
        holds, lines = run(Path(name) / "measured", texts, parsed.share, parsed.vocabulary)
    for line in lines:
        print(line)
    print(f"starting Python and Ray: {cpu:.1f} s of CPU, {wall:.1f} s")
    print("the first snapshot is untouched and the refresh below 5 %" if holds else "it fails")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())

"""Mutated inputs of every format neither crash nor hang a reader, nor lose count."""

import bz2
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fuzz
from corpus import archives, tables
from corpus.readers import read_records
from corpus.records import Damage, Record


@pytest.fixture(autouse=True)
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**24)
    monkeypatch.setattr(tables, "_HELD_BYTES", 2**8)
    before = signal.signal(signal.SIGPROF, fuzz.raise_hang)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


SEEDS = fuzz.seeds()
# Records and drops of the valid files, counted by hand.
COUNTS = {
    "jsonl": (2, 0), "csv": (3, 0), "tsv": (2, 0), "text": (1, 0), "paragraphs": (2, 0),
    "html": (1, 0), "parquet": (2, 1), "arrow": (2, 1), "arrow-stream": (2, 1), "warc": (5, 1),
    "wikipedia": (1, 2), "warc-arc": (1, 1), "tar": (8, 2), "tar-pax": (8, 2), "zip": (8, 2),
}  # fmt: skip


@pytest.mark.parametrize("form", sorted(SEEDS))
@pytest.mark.parametrize("suffix", sorted(fuzz.CODECS))
def test_a_valid_seed_gives_all_its_records(form: str, suffix: str) -> None:
    data = fuzz.CODECS[suffix](SEEDS[form])
    assert fuzz.check(f"x{suffix}", form.split("-", maxsplit=1)[0], data) == COUNTS[form]


@given(st.sampled_from(sorted(SEEDS)), st.sampled_from(sorted(fuzz.CODECS)), st.integers(0))
def test_a_mutated_input_is_read_to_its_end(form: str, suffix: str, seed: int) -> None:
    rng = random.Random(seed)
    data = SEEDS[form]
    if rng.random() < 0.5:
        data = fuzz.CODECS[suffix](fuzz.mutate(data, rng))
    else:
        data = fuzz.mutate(fuzz.CODECS[suffix](data), rng)
    fuzz.check(f"x{suffix}", form.split("-", maxsplit=1)[0], data)


@given(st.sampled_from(sorted(SEEDS)), st.binary(max_size=500))
def test_arbitrary_bytes_are_read_to_their_end(form: str, data: bytes) -> None:
    fuzz.check("x", form.split("-", maxsplit=1)[0], data)


def test_a_hang_and_a_wrong_count_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    damage = Damage(1, "rule", "")
    monkeypatch.setattr(fuzz, "read_records", lambda *_: iter([damage, damage]))
    with pytest.raises(ValueError, match="position 1 after 1"):
        fuzz.check("x", "jsonl", b"")
    with pytest.raises(TimeoutError, match="over 5 s"):
        fuzz.raise_hang()


@pytest.mark.parametrize("form", sorted({*SEEDS} - {"csv", "arrow-stream", "warc-arc", "tar-pax"}))
def test_a_lost_record_would_be_seen(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, whatever it is, in a whole archive and in one that breaks after it."""
    read = read_records

    def without_first(*arguments: Any) -> Iterator[Record | Damage]:  # noqa: ANN401
        return islice(read(*arguments), 1, None)

    data = SEEDS[form]
    fuzz.check("x", form, data)
    broken = bz2.compress(data) + bz2.compress(data)[:-5]
    counted = form not in ("parquet", "arrow", "zip", "text", "html")
    if counted:
        fuzz.check("x.bz2", form, broken)
    monkeypatch.setattr(fuzz, "read_records", without_first)
    with pytest.raises(ValueError, match=r"records at|position \d after|records, the file"):
        fuzz.check("x", form, data)
    if counted:
        with pytest.raises(ValueError, match=r"records at|position \d after|records, the file"):
            fuzz.check("x.bz2", form, broken)


def test_inputs_chosen_by_the_code_they_reach_are_read_to_their_end(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    command = ["benchmarks.fuzz_guided", "-runs=3000", "-seed=3", f"-artifact_prefix={tmp_path}/"]
    ended = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    # A round that finds new code is finished before the limit is looked at.
    done = re.search(r"Done (\d+) runs", ended.stderr)
    assert done
    assert int(done[1]) >= 3000


def test_a_crash_found_by_coverage_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    # An alarm before anything is read stands for a reader that hangs.
    program = (
        "from benchmarks import fuzz_guided\n"
        "fuzz_guided.fuzz.check = lambda *_: fuzz_guided.fuzz.raise_hang()\n"
        "fuzz_guided.main()\n"
    )
    command = [sys.executable, "-c", program, "-runs=10", f"-artifact_prefix={tmp_path}/"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 77
    assert list(tmp_path.glob("crash-*"))
    assert "TimeoutError: over 30 s" in ended.stderr + ended.stdout

"""Mutated inputs of every format neither crash nor hang a reader, nor lose count."""

import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import unhurried

from benchmarks import fuzz
from corpus import archives
from corpus.records import Damage


@pytest.fixture(autouse=True)
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**24)
    before = signal.signal(signal.SIGPROF, fuzz.raise_hang)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


SEEDS = fuzz.seeds()


@pytest.mark.parametrize("form", sorted(SEEDS))
@pytest.mark.parametrize("suffix", sorted(fuzz.CODECS))
def test_a_valid_seed_gives_records(form: str, suffix: str) -> None:
    data = fuzz.CODECS[suffix](SEEDS[form])
    records, _ = fuzz.check(f"x{suffix}", form.split("-", maxsplit=1)[0], data)
    assert records


@unhurried
@given(st.sampled_from(sorted(SEEDS)), st.sampled_from(sorted(fuzz.CODECS)), st.integers(0))
def test_a_mutated_input_is_read_to_its_end(form: str, suffix: str, seed: int) -> None:
    rng = random.Random(seed)
    data = SEEDS[form]
    if rng.random() < 0.5:
        data = fuzz.CODECS[suffix](fuzz.mutate(data, rng))
    else:
        data = fuzz.mutate(fuzz.CODECS[suffix](data), rng)
    fuzz.check(f"x{suffix}", form.split("-", maxsplit=1)[0], data)


@unhurried
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

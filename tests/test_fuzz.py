"""Mutated inputs of every format neither crash nor hang a reader, nor lose count."""

import random
import signal
from collections.abc import Iterator

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
    before = signal.signal(signal.SIGALRM, fuzz._hang)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
        fuzz._hang()

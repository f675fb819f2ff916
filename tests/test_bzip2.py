"""bzip2 by its blocks: the same bytes as from libbz2, and none of a block that is broken."""

import bz2
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from corpus import archives, bzip2
from corpus.archives import InputFile
from corpus.bzip2 import BrokenBlockError, read_blocks

RNG = random.Random(3)
DATA = RNG.randbytes(160_000).hex().encode()
PACKED = bz2.compress(DATA, 1)


def give(packed: bytes) -> tuple[list[tuple[int, bytes]], str]:
    """Return the blocks, and why they end too early."""
    found: list[tuple[int, bytes]] = []
    try:
        found.extend(read_blocks(BytesIO(packed).read))
    except BrokenBlockError as error:
        return found, str(error)
    return found, ""


def joined(found: list[tuple[int, bytes]]) -> bytes:
    return b"".join(data for _, data in found)


STARTS = [start for start, _ in give(PACKED)[0]]
ENDS = list(accumulate(len(data) for _, data in give(PACKED)[0]))


@pytest.mark.parametrize("level", [1, 9])
@pytest.mark.parametrize(
    "texts", [[DATA], [b""], [b"a"], [b"", b"", DATA, b"", b"b", DATA, b""], [bytes(10**6)]]
)
def test_blocks_are_what_libbz2_gives(texts: list[bytes], level: int) -> None:
    packed = b"".join(bz2.compress(text, level) for text in texts)
    found, why = give(packed)
    assert (joined(found), why) == (bz2.decompress(packed), "")
    for number, (start, _) in enumerate(found):
        again, why = give(packed[start:])
        assert ([data for _, data in again], why) == ([data for _, data in found[number:]], "")


def test_nothing_is_no_stream() -> None:
    assert give(b"") == ([], "")


def test_of_a_broken_block_nothing_is_given() -> None:
    """Every bit but those of padding and of the size of blocks is covered by a checksum or mark."""
    seen = set()
    for at in [*range(80, 200), *RNG.sample(range(len(PACKED) * 8 - 8), 60)]:
        broken = bytearray(PACKED)
        broken[at // 8] ^= 128 >> at % 8
        found, why = give(bytes(broken))
        assert why
        assert len(joined(found)) in (0, *ENDS)
        assert DATA.startswith(joined(found))
        seen.add(len(found))
    assert seen == {0, 1, 2, 3}


def test_what_a_break_leaves_whole_is_given() -> None:
    # The mark of the third block, and that of the end.
    for at, whole in ((STARTS[2] + 2, ENDS[1]), (len(PACKED) - 9, ENDS[3])):
        broken = PACKED[:at] + bytes([PACKED[at] ^ 16]) + PACKED[at + 1 :]
        found, why = give(broken)
        assert (len(joined(found)), why) == (whole, "a block is broken")
    for at, whole in (
        (STARTS[2] + 2, ENDS[1]),
        (STARTS[2] - 1, ENDS[0]),
        (len(PACKED) - 4, ENDS[3]),
    ):
        found, why = give(PACKED[:at])
        assert (len(joined(found)), bool(why)) == (whole, True)


def test_a_block_that_is_missing_is_missed() -> None:
    parts = list(bzip2._parts(BytesIO(PACKED).read))
    for left_out in (1, 2, 4):
        kept = [part for number, part in enumerate(parts) if number != left_out]
        value = bits = 0
        for part in kept:
            value, bits = value << part.bits | part.value, bits + part.bits
        assert "checksum" in give(bzip2._bytes_of(value, bits))[1]


def test_what_follows_a_stream_is_one() -> None:
    for rest in (b"x", bytes(9), b"BZh9", b"BZh0" + PACKED[4:], PACKED[4:], PACKED[:50]):
        found, why = give(PACKED + rest)
        assert joined(found) == DATA
        assert why


def test_a_mark_by_chance_cuts_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = bzip2._marks
    chance = (STARTS[1] + STARTS[2]) // 2

    def with_chance(buffer: bytes, looked: int) -> list[int]:
        at = raw.tell() - len(buffer)
        found = [(chance - at) * 8] if looked < chance - at < len(buffer) else []
        return sorted([*marks(buffer, looked), *found])

    raw = BytesIO(PACKED)
    monkeypatch.setattr(bzip2, "_marks", with_chance)
    assert chance * 8 in [part.start for part in bzip2._parts(raw.read)]
    raw.seek(0)
    assert joined(list(read_blocks(raw.read))) == DATA


def test_what_has_no_mark_is_not_held_whole() -> None:
    raw = BytesIO(PACKED[:4] + bytes(2**25))
    with pytest.raises(BrokenBlockError):
        list(read_blocks(raw.read))
    assert raw.tell() < 2**22


@pytest.mark.parametrize("cut", [None, 70_000])
def test_threads_change_nothing(tmp_path: Path, cut: int | None) -> None:
    """Nor does their number change how far a file was read when a block is given."""
    path = tmp_path / "a.bz2"
    path.write_bytes((PACKED * 20)[:cut])
    runs = []
    for threads in (0, 1, 3):
        file = InputFile(str(path), threads=threads)
        runs.append(list(_states(file)))
        file.close()
    assert [state[0] for state in runs[0]] == [state[0] for state in runs[1]]
    assert runs[1] == runs[2]
    assert len(runs[0]) == (81 if cut is None else 2)


def _states(file: InputFile) -> Iterator[tuple[object, ...]]:
    try:
        for chunk in file.chunks():
            yield chunk, file.boundaries.copy(), file.read_so_far()
    except Exception as error:  # noqa: BLE001 - its kind is compared
        yield type(error), str(error)
    else:
        yield "end", file.checksum()


def test_a_reader_that_stops_leaves_no_thread(tmp_path: Path) -> None:
    pools: list[ThreadPoolExecutor] = []

    def make(*given: Any) -> ThreadPoolExecutor:  # noqa: ANN401
        pools.append(ThreadPoolExecutor(*given))
        return pools[-1]

    path = tmp_path / "a.bz2"
    path.write_bytes(PACKED * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "ThreadPoolExecutor", make)
        chunks = InputFile(str(path), threads=2).chunks()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
    (pool,) = pools
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)

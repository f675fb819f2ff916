"""Compressed files: what lies before a break is given, bombs end, zeros after members are read."""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from corpus import archives
from corpus.archives import CorruptArchiveError, InputFile, codec_of
from corpus.readers import read_records
from corpus.records import Damage

CODECS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lz4": lz4.frame.compress,
}
RNG = random.Random(7)
DATA = b"".join(b"%d\n" % RNG.getrandbits(99) for _ in range(40_000))


def read(path: Path, packed: bytes) -> tuple[bytes, bool]:
    """Return what a file gives and whether it breaks."""
    path.write_bytes(packed)
    file = InputFile(str(path))
    given: list[bytes] = []
    try:
        given.extend(file.chunks())
    except CorruptArchiveError:
        return b"".join(given), True
    finally:
        file.close()
    return b"".join(given), False


@pytest.mark.parametrize("suffix", sorted(CODECS))
@pytest.mark.parametrize("named", [True, False])
def test_members_are_one_file_under_any_name(tmp_path: Path, suffix: str, named: bool) -> None:
    packed = CODECS[suffix](DATA[:999]) + CODECS[suffix](DATA[999:])
    assert codec_of("a", packed) == codec_of(f"a{suffix}") is not None
    assert read(tmp_path / f"a{suffix if named else ''}", packed) == (DATA, False)


def test_letters_are_no_archive(tmp_path: Path) -> None:
    for text in (b"BZh", b"BZhang wrote this\n", b"BZh9 is a drive\n"):
        assert read(tmp_path / "a.txt", text) == (text, False)
    assert codec_of("a", bz2.compress(b"")) == "bzip2"


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_truncated_archive_gives_what_lies_before(tmp_path: Path, suffix: str) -> None:
    given, broken = [], []
    for cut in (0.3, 0.9):
        packed = CODECS[suffix](DATA)
        found, breaks = read(tmp_path / f"a{suffix}", packed[: int(cut * len(packed))])
        assert DATA.startswith(found)
        given.append(len(found))
        broken.append(breaks)
    assert broken == [True, True]
    assert given[1] >= given[0]
    # A block of zstd is 128 KiB, one of bzip2 900,000 bytes, one of LZ4 up to 4 MiB.
    assert given[1] > 0.75 * len(DATA) or suffix in (".bz2", ".lz4")


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_zeros_after_the_last_member_are_padding(tmp_path: Path, suffix: str) -> None:
    assert read(tmp_path / f"a{suffix}", CODECS[suffix](DATA) + bytes(512)) == (DATA, False)


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_garbage_after_an_archive_breaks_it(tmp_path: Path, suffix: str) -> None:
    assert read(tmp_path / f"a{suffix}", CODECS[suffix](DATA) + b"garbage") == (DATA, True)


def test_a_bomb_ends_at_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**22)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(bytes(2**24)))
    file = InputFile(str(path))
    (damage,) = read_records(file, "jsonl", 100)
    file.close()
    assert isinstance(damage, Damage)
    assert (damage.rule, damage.threshold) == ("decompression_bomb", 500.0)
    assert damage.value is not None
    assert damage.value > 500

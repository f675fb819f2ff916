"""What the lists that a recipe names have in common: unpacking, fingerprints, sorted hashes.

A list (blocked URLs, boilerplate lines, evaluation examples) is read once, brought into a canonical
form and fixed by the SHA-256 of that form, so what workers read later is what the first snapshot
was cleaned with. The same entries in another order, doubled or commented give the same fingerprint.

Lists of hashes are searched by bisection, behind a Bloom filter that costs one read of memory.
"""

import hashlib

import numba
import numpy as np
import pyarrow as pa

from corpus.archives import codec_of
from pipeline.kernels import UInt64s

# Bits of a filter for each value in it: 16 to 32. Guess: one in a hundred others passes.
_BITS_A_VALUE = 16


def unpack(name: str, data: bytes) -> bytes:
    """Return the content of a file that is gzip or zstd by its name, or plain.

    `ValueError` names one that is compressed in another way, or is broken.
    """
    codec = codec_of(name)
    if codec is None:
        return data
    if codec not in ("gzip", "zstd"):
        raise ValueError(f"{name} is compressed with {codec}: a list is plain, gzip or zstd")
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            return bytes(stream.read())
    except (OSError, EOFError) as error:
        raise ValueError(f"{name} cannot be decompressed: {error}") from None


def plain_name(name: str) -> str:
    """Return the name without what says how it is compressed, in lower case."""
    lower = name.lower()
    return lower if codec_of(lower) is None else lower.rpartition(".")[0]


def fingerprint_of(data: bytes) -> str:
    """Return the SHA-256 of a list's canonical bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def filter_of(values: UInt64s) -> UInt64s:
    """Return a Bloom filter of hashes: three bits in one word each (blocked: Putze et al. 2007)."""
    bits = np.zeros(1 << max(0, (len(values) * _BITS_A_VALUE).bit_length() - 6), np.uint64)
    _set_bits(bits, values)
    return bits


@numba.njit(cache=True)
def _bits_of(value: np.uint64) -> np.uint64:
    """Return the three bits of a value within its word: they follow from its lowest 18 bits."""
    one = np.uint64(1)
    low = one << (value & np.uint64(63))
    middle = one << ((value >> np.uint64(6)) & np.uint64(63))
    return low | middle | (one << ((value >> np.uint64(12)) & np.uint64(63)))


@numba.njit(cache=True)
def _set_bits(bits: UInt64s, values: UInt64s) -> None:
    for value in values:
        bits[(value >> np.uint64(18)) & np.uint64(len(bits) - 1)] |= _bits_of(value)


@numba.njit(cache=True)
def may_hold(bits: UInt64s, value: np.uint64) -> bool:
    """Tell whether a hash may be in a filter; False is certain."""
    wanted = _bits_of(value)
    return bool(bits[(value >> np.uint64(18)) & np.uint64(len(bits) - 1)] & wanted == wanted)


@numba.njit(cache=True)
def place_of(hashes: UInt64s, wanted: np.uint64) -> int:
    """Return where a hash is among sorted ones, or -1."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) // 2
        if hashes[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(hashes) and hashes[low] == wanted else -1

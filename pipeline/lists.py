"""What the lists that a recipe names have in common: they are unpacked, and known by content.

A list (blocked URLs, boilerplate lines, evaluation examples) is read once, brought into a canonical
form and fixed by the SHA-256 of that form, so what workers read later is what the first snapshot
was cleaned with. The same entries in another order, doubled or commented give the same fingerprint.
"""

import hashlib

import pyarrow as pa

_CODECS = {".gz": "gzip", ".zst": "zstd"}


def unpack(name: str, data: bytes) -> bytes:
    """Return the content of a file that is gzip or zstd by its name, or plain."""
    codec = next((codec for suffix, codec in _CODECS.items() if name.endswith(suffix)), None)
    if codec is None:
        return data
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            return bytes(stream.read())
    except (OSError, EOFError) as error:
        raise ValueError(f"{name} cannot be decompressed: {error}") from None


def plain_name(name: str) -> str:
    """Return the name without what says how it is compressed, in lower case."""
    lower = name.lower()
    for suffix in _CODECS:
        lower = lower.removesuffix(suffix)
    return lower


def fingerprint_of(data: bytes) -> str:
    """Return the SHA-256 of a list's canonical bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()

"""A batch of texts as the bytes it lies in, and the same batch with some spans replaced.

Rules that look for something rare walk the UTF-8 of a whole Arrow array at once; what they find are
spans [start, stop) of its bytes, and only texts with a span are made anew. A batch in which nothing
was found is returned as it came, so it costs nothing. A text is one of an array without nulls.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.kernels import Int64s, UInt8s


def bytes_of(texts: pa.Array | pa.ChunkedArray) -> tuple[UInt8s, Int64s]:
    """Return the UTF-8 of an array of strings and where texts end: [texts + 1], both read-only.

    Text n is data[ends[n] : ends[n + 1]]; the first number need not be 0. Nothing is copied but
    a column of several chunks.
    """
    assert not texts.null_count, "a text is never null"
    large = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    if isinstance(large, pa.ChunkedArray):
        large = large.combine_chunks()
    held, ends = np.empty(0, np.uint8), np.zeros(1, np.int64)
    if len(large):
        _, offsets, data = large.buffers()
        ends = np.frombuffer(offsets, np.int64, len(large) + 1, 8 * large.offset)
        held = np.frombuffer(data, np.uint8) if data is not None and data.size else held
    for each in (held, ends):
        each.setflags(write=False)  # some buffers are, and kernels are compiled for one kind
    return held, ends


def replace_spans(
    texts: pa.Array, starts: Int64s, stops: Int64s, replacements: Sequence[bytes]
) -> pa.LargeStringArray:
    """Return the texts with spans of their bytes replaced; spans lie in order and apart."""
    data, ends = bytes_of(texts)
    if not len(starts):
        return texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    pieces: list[bytes | memoryview] = []
    view, done = data.data, int(ends[0])
    for start, stop, replacement in zip(starts.tolist(), stops.tolist(), replacements, strict=True):
        pieces += [view[done:start], replacement]
        done = stop
    pieces.append(view[done : int(ends[-1])])
    grown = np.array([len(each) for each in replacements], np.int64) - (stops - starts)
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(grown)])
    # A span belongs to the text that it starts in; it ends there too.
    moved = ends - ends[0] + total[np.searchsorted(starts, ends, "left")]
    return from_bytes(b"".join(pieces), moved)


def from_bytes(data: bytes, ends: Int64s) -> pa.LargeStringArray:
    """Return the array of strings that lie one after another in UTF-8."""
    offsets = np.ascontiguousarray(ends, np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)

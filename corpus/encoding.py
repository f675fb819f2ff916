"""Encoding many texts at once: one flat buffer of bytes in, one flat array of ids out.

`tokenizers` is the reference; gigatoken gives the same ids about 80 times as fast and does the work
where it is installed and the tokenizer is of the kind it is trusted with. Neither makes a special
token of text that spells one. Callers compare a sample of every run with the reference, so that a
difference is found where it would do harm, not only where somebody thought of testing it.

The two libraries carry different versions of Unicode (gigatoken 0.10 has 17, tokenizers 0.23 an
older one), and a new letter parts words differently: 35 of 200,000 random strings had other ids.
So both are asked about every character once, the first time it occurs, and a text that holds one
they disagree on is left to the reference; what is left of the same strings is none.

gigatoken remembers every distinct word it has met, without a limit, so it is opened again after a
bounded amount of text (measured: 0.1 s each time). It never starts threads here: a task has a core.
"""

import importlib
import logging
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.tokenizer import Tokenizer, split_words

logger = logging.getLogger(__name__)

# Text until the library is opened afresh. Measured: 200 MB of prose take 40 MB of memory, and text
# of random words, the worst there is, ten times its size.
REOPEN_AFTER_BYTES = 256 * 2**20
_CODE_POINTS = 0x110000
# What is known of a code point: whether both libraries take it for the same kind of character.
_UNASKED, _SAME, _DIFFERENT = 0, 1, 2
_TEXTS_PER_BATCH = 256  # what the reference holds as Python objects at a time; a guess


class Tokens(NamedTuple):
    """Ids of texts one after another: `ids[offsets[n]:offsets[n + 1]]` are those of text n."""

    ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]


class FlatEncoder:
    """Encodes texts that lie in one buffer, by the fast library where it can be used."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Open the fast library, or say why the reference does the work."""
        self.tokenizer = tokenizer
        self._fast = _open_fast(tokenizer)
        self._encoded_bytes = 0
        self._kinds = np.zeros(_CODE_POINTS, np.uint8)
        self._kinds[:0x80] = _SAME
        self.library = "tokenizers" if self._fast is None else "gigatoken"
        self.library += f" {version(self.library)}"

    @property
    def is_reference(self) -> bool:
        """Whether the reference itself encodes, which then needs no comparison."""
        return self._fast is None

    def encode(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Tokens:
        """Encode texts given as UTF-8 and [texts + 1] offsets, which need not begin at 0."""
        if self._fast is None:
            return encode_by_reference(self.tokenizer, data, offsets)
        if self._encoded_bytes > REOPEN_AFTER_BYTES:
            self._fast, self._encoded_bytes = _open_fast(self.tokenizer), 0
        self._encoded_bytes += int(offsets[-1] - offsets[0])
        tokens = _encode_fast(self._fast, data, offsets)
        for text in self._disputed(data, offsets):
            ids = encode_by_reference(self.tokenizer, data, offsets[text : text + 2]).ids
            tokens = _replace(tokens, text, ids)
        return tokens

    def _disputed(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[int]:
        """List the texts with a character that the two libraries take for different kinds."""
        places = offsets[0] + np.flatnonzero(data[offsets[0] : offsets[-1]] >= 0xC0)
        points = _code_points(data, places)
        kinds = self._kinds[points]
        if (kinds == _UNASKED).any():
            for point in np.unique(points[kinds == _UNASKED]).tolist():
                self._kinds[point] = _compare(chr(point))
            kinds = self._kinds[points]
        found = places[kinds == _DIFFERENT]
        texts: list[int] = np.unique(np.searchsorted(offsets, found, side="right") - 1).tolist()
        return texts


def _code_points(
    data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Decode the characters of several bytes that begin at these places of valid UTF-8."""
    first = data[places].astype(np.int32)
    points = np.empty(len(places), np.int32)
    for low, high, width in ((0xC0, 0xE0, 2), (0xE0, 0xF0, 3), (0xF0, 0x100, 4)):
        here = (first >= low) & (first < high)
        point = first[here] - low
        for step in range(1, width):
            point = point << 6 | data[places[here] + step] & 0x3F
        points[here] = point
    return points


def _compare(char: str) -> int:
    """Ask both libraries how a character goes with a letter, a digit, a sign and a space."""
    probe = f"a{char}a1{char}1!{char}! {char}"
    words = importlib.import_module("gigatoken.gigatoken_rs").pretokenizer(probe.encode())
    return _SAME if list(words) == split_words(probe) else _DIFFERENT


def _replace(tokens: Tokens, text: int, ids: npt.NDArray[np.uint32]) -> Tokens:
    """Return tokens with the ids of one text exchanged."""
    start, stop = tokens.offsets[text : text + 2]
    offsets = tokens.offsets.copy()
    offsets[text + 1 :] += len(ids) - (stop - start)
    return Tokens(np.concatenate([tokens.ids[:start], ids, tokens.ids[stop:]]), offsets)


def encode_by_reference(
    tokenizer: Tokenizer, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> Tokens:
    """Encode texts by `tokenizers`, with the same arguments and result."""
    lengths, pieces = [0], [np.empty(0, np.uint32)]
    for start in range(0, len(offsets) - 1, _TEXTS_PER_BATCH):
        bounds = offsets[start : start + _TEXTS_PER_BATCH + 1].tolist()
        held = data[bounds[0] : bounds[-1]].tobytes()
        places = [bound - bounds[0] for bound in bounds]
        texts = [held[low:high].decode() for low, high in pairwise(places)]
        encoded = tokenizer.encode(texts)
        lengths += map(len, encoded)
        pieces += [np.array(ids, np.uint32) for ids in encoded]
    return Tokens(np.concatenate(pieces), np.cumsum(lengths, dtype=np.int64))


def flat_texts(texts: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Lay texts one after another: `["ab", "c"]` -> `abc` and `[0, 2, 3]`."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _open_fast(tokenizer: Tokenizer) -> Any | None:  # noqa: ANN401 - the library's own object
    """Open gigatoken, or log why not and return None."""
    if not tokenizer.splits_as_gpt2:
        logger.info("encoding with tokenizers: the tokenizer does not split words as GPT-2's does")
        return None
    try:
        library = importlib.import_module("gigatoken.gigatoken_rs")
        return library.load_hf_json(tokenizer.plain_definition)
    except ImportError as error:
        logger.info("encoding with tokenizers, some 80 times slower: no gigatoken (%s)", error)
    except RuntimeError as error:
        logger.warning("encoding with tokenizers: gigatoken refuses the tokenizer (%s)", error)
    return None


def _encode_fast(
    fast: Any,  # noqa: ANN401 - the library's own object
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
) -> Tokens:
    if len(offsets) == 1:
        return Tokens(np.empty(0, np.uint32), np.zeros(1, np.int64))
    # The library takes flat text, and gives flat ids, only as an array of this package.
    awkward = importlib.import_module("awkward")
    contents, index = awkward.contents, awkward.index.Index64
    held = np.ascontiguousarray(data[offsets[0] : offsets[-1]])
    texts = contents.ListOffsetArray(
        index(offsets - offsets[0]),
        contents.NumpyArray(held, parameters={"__array__": "byte"}),
        parameters={"__array__": "bytestring"},
    )
    found = fast.encode_batch(awkward.Array(texts), parallel=False).layout
    assert len(found) == len(offsets) - 1
    ends = np.asarray(found.offsets.data, np.int64)
    ids = np.asarray(found.content.data, np.uint32)
    return Tokens(ids[ends[0] : ends[-1]], ends - ends[0])

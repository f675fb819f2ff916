"""Encoding many texts at once: one flat buffer of bytes in, one flat array of ids out.

`tokenizers` is the reference; gigatoken gives the same ids about 80 times as fast and does the work
where it is installed and the tokenizer is of the kind it is trusted with. Neither makes a special
token of text that spells one. Callers compare a sample of every run with the reference, so that a
difference is found where it would do harm, not only where somebody thought of testing it.

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
import orjson

from corpus.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Text until the library is opened afresh. Measured: 200 MB of prose take 40 MB of memory, and text
# of random words, the worst there is, ten times its size.
REOPEN_AFTER_BYTES = 256 * 2**20
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
        return _encode_fast(self._fast, data, offsets)


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
        # Without its special tokens the library takes `<s>` for the three characters it is.
        fields = orjson.loads(tokenizer.definition) | {"added_tokens": [], "post_processor": None}
        return library.load_hf_json(orjson.dumps(fields))
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

"""Byte-level BPE as RoBERTa uses it: building, opening, encoding, decoding.

`tokenizers` is the reference and does the encoding. Text that spells `<s>` or `<mask>` is encoded
as the characters it is, never as a special token. Decoding gives back the bytes exactly.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import AddedToken, Encoding, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from corpus.files import exists, join, read_bytes

# RoBERTa's special tokens with its ids 0 to 3; <mask> is the last entry of the vocabulary.
BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
LEADING_SPECIALS = (BOS, PAD, EOS, UNK)

# What fairseq published with RoBERTa: GPT-2's vocabulary and merges, and RoBERTa's order of them.
ROBERTA_FILES = ("encoder.json", "vocab.bpe", "dict.txt")

# Texts that every tokenizer must give back: spaces, several scripts, spelt special tokens.
_PROBES = ("Cut  here\n\tna\u00efve", "\u4f60\u597d \U0001f600", "<s><mask> </s>", " ", "e\u0301")


class Tokenizer:
    """A byte-level BPE with RoBERTa's special tokens."""

    def __init__(self, definition: bytes) -> None:
        """Open the content of a tokenizer.json; `ValueError` where its specials are not ours."""
        self._tokenizer = FastTokenizer.from_str(definition.decode())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.definition = definition
        self.fingerprint = hashlib.sha256(definition).hexdigest()
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.mask_id: int = self.vocab_size - 1
        fields: Mapping[str, Any] = orjson.loads(definition)
        if fields["model"].get("dropout"):
            raise ValueError("the tokenizer has a dropout: it would encode a text anew every time")
        # Then no token reaches over the place between a character and white space after it.
        self.splits_as_gpt2 = _splits_as_gpt2(fields["pre_tokenizer"])
        expected = dict(zip(LEADING_SPECIALS, range(4), strict=True)) | {MASK: self.mask_id}
        for token, position in expected.items():
            found = self._tokenizer.token_to_id(token)
            if found != position:
                raise ValueError(f"the tokenizer has {token} at {found}, expected {position}")
        for probe, ids in zip(_PROBES, self.encode(_PROBES), strict=True):
            if self.decode(ids) != probe or set(ids) & {*range(4), self.mask_id}:
                raise ValueError(
                    f"the tokenizer does not give {probe!r} back: expected a byte-level BPE "
                    "without a prefix space and without normalization"
                )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts without adding special tokens."""
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, special tokens as they are spelt."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of every entry; special tokens as they are spelt."""
        return list(self._pieces)

    @cached_property
    def _pieces(self) -> list[bytes]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        specials = {*range(4), self.mask_id}
        tokens = [""] * self.vocab_size
        for token, position in vocabulary.items():
            tokens[position] = token
        # All in one go: a character of the alphabet is a byte.
        plain = "".join(token for n, token in enumerate(tokens) if n not in specials)
        data, place, pieces = plain.translate(_to_bytes()).encode("latin-1"), 0, []
        for position, token in enumerate(tokens):
            if position in specials:
                pieces.append(token.encode())
            else:
                pieces.append(data[place : place + len(token)])
                place += len(token)
        return pieces

    def spaces(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Tell of every entry whether it begins with white space, and whether it ends with it."""
        pieces = self._pieces
        begins = np.array([piece[:1].isspace() for piece in pieces])
        ends = np.array([piece[-1:].isspace() for piece in pieces])
        return begins, ends


@cache
def byte_alphabet() -> dict[int, str]:
    """Return the printable character that stands for each byte (GPT-2's table, by its rule)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable}
    return stand_ins | {byte: chr(256 + n) for n, byte in enumerate(others)}


@cache
def _to_bytes() -> dict[int, int]:
    """Return the table that turns GPT-2's alphabet back into bytes, as Latin-1 has them."""
    return {ord(char): byte for byte, char in byte_alphabet().items()}


def split_words(text: str) -> list[bytes]:
    """Split a text as GPT-2's tokenizer does before it merges: `"a b's"` -> a, ␣b, 's."""
    to_byte = {char: byte for byte, char in byte_alphabet().items()}
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [bytes(map(to_byte.__getitem__, word)) for word, _ in words]


def _splits_as_gpt2(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    return (
        pre_tokenizer is not None
        and pre_tokenizer["type"] == "ByteLevel"
        and not pre_tokenizer["add_prefix_space"]
        and bool(pre_tokenizer.get("use_regex", True))
    )


def build_definition(merges: Sequence[tuple[str, str]]) -> bytes:
    """Build a tokenizer.json from merges: specials, 256 bytes, merges in order, <mask> last."""
    tokens = [*LEADING_SPECIALS, *sorted(byte_alphabet().values())]
    tokens += [left + right for left, right in merges]
    return _define({token: n for n, token in enumerate([*tokens, MASK])}, merges)


def roberta_definition(encoder: bytes, merges: bytes, dictionary: bytes) -> bytes:
    """Build RoBERTa's own tokenizer from GPT-2's two files and fairseq's dictionary.

    `encoder` is encoder.json (token -> GPT-2 id), `merges` is vocab.bpe. Line n of `dictionary`,
    dict.txt, names the token with RoBERTa id n + 4: a GPT-2 id, or itself where it is a filler.
    """
    tokens = {str(number): token for token, number in orjson.loads(encoder).items()}
    names = [line.split()[0] for line in dictionary.decode().splitlines()]
    ordered = [*LEADING_SPECIALS, *(tokens.get(name, name) for name in names), MASK]
    pairs = [tuple(line.split()) for line in merges.decode().splitlines()[1:] if line]
    return _define(
        {token: n for n, token in enumerate(ordered)}, [(left, right) for left, right in pairs]
    )


def _define(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> bytes:
    # Of the special tokens alone, and the rest put in as the library writes it: it takes ten times
    # as long. What opens the definition checks that they fit together.
    specials = {token: position for position, token in enumerate((*LEADING_SPECIALS, MASK))}
    tokenizer = FastTokenizer(models.BPE(vocab=specials, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, EOS_ID), (BOS, BOS_ID), add_prefix_space=False
    )
    tokenizer.add_special_tokens(
        [*LEADING_SPECIALS, AddedToken(MASK, lstrip=True, special=True, normalized=False)]
    )
    fields = orjson.loads(tokenizer.to_str())
    fields["model"]["vocab"] = dict(sorted(vocabulary.items(), key=itemgetter(1)))
    fields["model"]["merges"] = merges
    fields["added_tokens"][-1]["id"] = vocabulary[MASK]
    return orjson.dumps(fields)


def canonical_definition(definition: bytes) -> bytes:
    """Write a tokenizer.json so that equal tokenizers are equal bytes."""
    return orjson.dumps(orjson.loads(definition))


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files of a tokenizer directory that `AutoTokenizer` opens, by name."""
    model: Mapping[str, Any] = orjson.loads(tokenizer.definition)["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    specials = {
        "bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "sep_token": EOS, "pad_token": PAD,
        "cls_token": BOS,
        "mask_token": {
            "content": MASK, "lstrip": True, "normalized": False, "rstrip": False,
            "single_word": False,
        },
    }  # fmt: skip
    return {
        "tokenizer.json": tokenizer.definition,
        "vocab.json": orjson.dumps(model["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
        "special_tokens_map.json": orjson.dumps(specials),
    }


def open_tokenizer(directory: str) -> Tokenizer:
    """Open the tokenizer.json of a directory, or GPT-2's files with RoBERTa's dictionary."""
    path = join(directory, "tokenizer.json")
    if exists(path):
        return Tokenizer(canonical_definition(read_bytes(path)))
    paths = [join(directory, name) for name in ROBERTA_FILES]
    if all(map(exists, paths)):
        return Tokenizer(roberta_definition(*map(read_bytes, paths)))
    raise ValueError(f"{directory} holds no tokenizer.json, nor all of {', '.join(ROBERTA_FILES)}")


def local_tokenizer(definition: bytes, directory: Path) -> None:
    """Write the files of a tokenizer into a local directory."""
    for name, data in tokenizer_files(Tokenizer(definition)).items():
        (directory / name).write_bytes(data)

"""How well a masked language model knows a text, without any task.

- *Perplexity*: a share of each window's tokens is hidden as in training (80 % <mask>, 10 % a random
  token, 10 % as they are), drawn by a hash of (seed, window, place). One pass over the text. It is
  of tokens: it compares checkpoints of one tokenizer only.
- *Pseudo-perplexity*: each token is hidden alone, the mean is over tokens (Salazar et al. 2020,
  "Masked Language Model Scoring", section 2). A pass a token, so of a sample of the words.
- *Bits a byte*: a word is hidden whole and told from left to right, which is the probability of the
  word given the rest of its window, whatever pieces it is cut into (Kauf and Ivanova 2023, "A
  Better Way to Do Masked Language Model Scoring", section 3); its bits are divided by its UTF-8
  bytes, the white space before it included. So checkpoints of different tokenizers compare. Pieces
  hidden at once would be told apart from each other, and short pieces would pay for it.

A word is a run without white space: in scripts that write none it is a sentence. Windows are filled
with whole words; what they hold in bytes depends on the tokenizer, as it does in use. A tokenizer
that has to write <unk> knows less of the text than its bits say: `unknown_tokens` counts them.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForMaskedLM

from pretrain.dataset import Int64s, UInt64s, derive_keys
from pretrain.evaluation.heads import (
    NO_LIMIT,
    load_model,
    max_tokens,
    open_config,
    open_tokenizer,
)
from pretrain.evaluation.pieces import tokens_of
from pretrain.metrics import perplexity

MASK_PROB = 0.15  # Devlin et al. 2019, section 3.1, as the two shares below
_MASKED, _REPLACED = 0.8, 0.9
_DOMAIN = 32  # of hashes; the others are named in masking.py
# Logits of one forward pass: 2^26 of them are 256 MiB in fp32. Guess.
_MAX_LOGITS = 2**26
_ROW = 512  # tokens of a row where neither model nor tokenizer has a limit; guess
_WORDS = re.compile(r"\S+")


@dataclass(frozen=True)
class MaskedModel:
    """A masked language model with its tokenizer, in evaluation mode."""

    network: Any
    tokenizer: Any
    max_length: int  # tokens of a row, special ones included

    @property
    def mask_id(self) -> int:
        """The id that hides a token."""
        return int(self.tokenizer.mask_token_id)

    @cached_property
    def wrapping(self) -> tuple[int, int]:
        """The special tokens before and after a text."""
        found = self.tokenizer("")["input_ids"]
        if len(found) != 2:
            raise ValueError(
                f"the tokenizer wraps a text in {len(found)} special tokens, expected one before "
                "and one after it"
            )
        return found[0], found[1]

    @cached_property
    def ordinary(self) -> npt.NDArray[np.bool_]:
        """Tell for each id whether it is a token of text: [vocabulary]."""
        ordinary = np.arange(self.vocab_size) < len(self.tokenizer)
        ordinary[list(self.tokenizer.all_special_ids)] = False
        return ordinary

    @property
    def vocab_size(self) -> int:
        """Entries of the model, which may have more than the tokenizer."""
        return int(self.network.config.vocab_size)

    def pieces(self, text: str) -> "Pieces":
        """Cut a text into tokens; what spells a special one is text, as in training."""
        (tokens,) = tokens_of(self.tokenizer, [text], offsets=True)
        return Pieces.of(text, tokens.ids, tokens.offsets)

    @torch.no_grad()
    def logits(self, rows: Iterable[Int64s]) -> Iterator[torch.Tensor]:
        """Give the logits of rows of token ids, each [length, vocabulary]."""
        for batch in batched(rows, max(1, _MAX_LOGITS // (self.max_length * self.vocab_size))):
            lengths = torch.tensor([len(row) for row in batch])
            ids = nn.utils.rnn.pad_sequence(
                [torch.from_numpy(row) for row in batch],
                batch_first=True,
                padding_value=self.tokenizer.pad_token_id,
            )
            real = torch.arange(ids.shape[1]) < lengths[:, None]
            device = self.network.device
            found = self.network(
                input_ids=ids.to(device), attention_mask=real.long().to(device)
            ).logits
            for row, length in zip(found, lengths.tolist(), strict=True):
                yield row[:length]


def batched(items: Iterable[Int64s], size: int) -> Iterator[list[Int64s]]:
    """Give items in lists of a size, the last one shorter (itertools.batched of Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class Pieces(NamedTuple):
    """The tokens of a text: ids, the number of the word of each, and the bytes that it adds."""

    ids: Int64s
    words: Int64s
    sizes: Int64s

    @classmethod
    def of(cls, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> "Pieces":
        """Take tokens with the characters that they cover; white space goes with what follows."""
        starts = np.array([found.start() for found in _WORDS.finditer(text)], np.int64)
        words, sizes, end = [], [], 0
        for start, stop in offsets:
            if text[start:stop].strip():
                words.append(int(np.searchsorted(starts, stop - 1, side="right")) - 1)
            else:
                words.append(int(np.searchsorted(starts, start, side="left")))
            sizes.append(len(text[end:stop].encode()))
            end = max(end, stop)
        return cls(np.array(ids, np.int64), np.array(words, np.int64), np.array(sizes, np.int64))

    def windows(self, room: int) -> Iterator["Pieces"]:
        """Cut into stretches of at most `room` tokens, between words where there are several."""
        start = 0
        while start < len(self.ids):
            stop = min(start + room, len(self.ids))
            if stop < len(self.ids):
                cuts = np.flatnonzero(np.diff(self.words[start : stop + 1])) + 1
                stop = start + int(cuts[-1]) if len(cuts) else stop
            yield Pieces(*(part[start:stop] for part in self))
            start = stop


class Word(NamedTuple):
    """A word to be told: tokens [start, stop) of a window."""

    window: int
    start: int
    stop: int


@dataclass(frozen=True)
class Intrinsic:
    """What was found: losses are natural logarithms, per token; None where nothing was scored."""

    texts: int
    text_bytes: int
    tokens: int
    unknown_tokens: int
    windows: int
    masked_tokens: int
    loss: float | None
    perplexity: float | None
    scored_words: int
    scored_tokens: int
    scored_bytes: int
    pseudo_perplexity: float | None
    bits_per_byte: float | None


def open_model(directory: str) -> MaskedModel:
    """Open any checkpoint directory that transformers loads; nothing is fetched or executed."""
    config = open_config(directory)
    problem = f"{directory} holds no masked language model"
    network: Any = load_model(AutoModelForMaskedLM, config, directory, problem)
    tokenizer = open_tokenizer(directory)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer of {directory} has no token for masking")
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer of {directory} has {len(tokenizer):,} entries, the model "
            f"{config.vocab_size:,}: they do not belong together"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = max_tokens(directory, tokenizer)
    length = _ROW if length == NO_LIMIT else length
    return MaskedModel(network.to(device).eval(), tokenizer, length)


def measure(model: MaskedModel, texts: Iterable[str], words: int = 512, seed: int = 0) -> Intrinsic:
    """Measure a model on texts; `words` is how many of theirs are told one by one, 0 for none."""
    count = size = 0
    windows: list[Pieces] = []
    for text in texts:
        count, size = count + 1, size + len(text.encode())
        windows += model.pieces(text).windows(model.max_length - 2)
    loss_sum, labels = _masked_loss(model, windows, seed)
    chosen = _choose(windows, words)
    alone, whole, told, told_bytes = _tell(model, windows, chosen)
    loss = loss_sum / labels if labels else None
    tokens = sum(len(window.ids) for window in windows)
    unknown = model.tokenizer.unk_token_id
    return Intrinsic(
        texts=count,
        text_bytes=size,
        tokens=tokens,
        unknown_tokens=sum(int((window.ids == unknown).sum()) for window in windows),
        windows=len(windows),
        masked_tokens=labels,
        loss=loss,
        perplexity=None if loss is None else perplexity(loss),
        scored_words=len(chosen),
        scored_tokens=told,
        scored_bytes=told_bytes,
        pseudo_perplexity=perplexity(alone / told) if told else None,
        bits_per_byte=whole / math.log(2) / told_bytes if told_bytes else None,
    )


def _row(model: MaskedModel, ids: Int64s) -> Int64s:
    before, after = model.wrapping
    return np.concatenate([[before], ids, [after]]).astype(np.int64)


def _masked_loss(model: MaskedModel, windows: Sequence[Pieces], seed: int) -> tuple[float, int]:
    """Sum the loss over the hidden tokens of all windows; give it with their number."""
    drawn = [hide(model, window.ids, number, seed) for number, window in enumerate(windows)]
    rows = (_row(model, ids) for ids, _ in drawn)
    losses = [
        _nats(logits, places, window.ids[places])
        for window, (_, places), logits in zip(windows, drawn, model.logits(rows), strict=True)
    ]
    return math.fsum(losses), sum(len(places) for _, places in drawn)


def _nats(logits: torch.Tensor, places: Int64s, ids: Int64s) -> float:
    """Sum the loss of the true ids at places of a window; the row begins with a special token."""
    truth = torch.from_numpy(ids).to(logits.device)
    chosen = logits[torch.from_numpy(places).to(logits.device) + 1].double()
    return float(functional.cross_entropy(chosen, truth, reduction="sum"))


def hide(model: MaskedModel, ids: Int64s, window: int, seed: int) -> tuple[Int64s, Int64s]:
    """Hide a share of a window's tokens; give what the model sees and the places to predict.

    Of n tokens of text floor(0.15 n + u) are chosen, u uniform in [0, 1), as in training.
    """
    places = np.flatnonzero(model.ordinary[ids])
    numbers = np.full(len(places), window, np.int64)
    order, fate, other = (
        derive_keys(seed, _DOMAIN, numbers, places, np.full(len(places), draw, np.int64))
        for draw in range(3)
    )
    luck = derive_keys(seed, _DOMAIN, np.array([window], np.int64), np.array([-1], np.int64))
    count = math.floor(MASK_PROB * len(places) + _shares(luck)[0])
    chosen = np.sort(np.argsort(order, kind="stable")[:count])
    seen, hidden, share = ids.copy(), places[chosen], _shares(fate[chosen])
    words = np.flatnonzero(model.ordinary)
    random = words[(other[chosen] % np.uint64(len(words))).astype(np.int64)]
    masked = np.where(share < _MASKED, model.mask_id, random)
    seen[hidden] = np.where(share < _REPLACED, masked, ids[hidden])
    return seen, hidden.astype(np.int64)


def _shares(keys: UInt64s) -> npt.NDArray[np.float64]:
    """Turn hashes into numbers in [0, 1)."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53  # the bits that it holds


def _choose(windows: Sequence[Pieces], limit: int) -> list[Word]:
    """Choose at most so many words, spread evenly over all of them."""
    found = [
        Word(number, int(start), int(stop))
        for number, window in enumerate(windows)
        for start, stop in _stretches(window.words)
    ]
    if len(found) <= limit:
        return found
    return [found[at * len(found) // limit] for at in range(limit)]


def _stretches(words: Int64s) -> Iterator[tuple[int, int]]:
    cuts = np.flatnonzero(np.diff(words)) + 1
    bounds = [0, *cuts.tolist(), len(words)] if len(words) else []
    yield from pairwise(bounds)


class _Hidden(NamedTuple):
    """One question to the model: token `at` of a window, where [at, stop) is hidden."""

    word: Word
    at: int
    stop: int


def _tell(
    model: MaskedModel, windows: Sequence[Pieces], chosen: Sequence[Word]
) -> tuple[float, float, int, int]:
    """Score words: nats of tokens hidden alone, nats of words told left to right, tokens, bytes."""
    # The last token of a word is hidden alone in both ways, and asked for once.
    asked = [
        _Hidden(word, at, stop)
        for word in chosen
        for at in range(word.start, word.stop)
        for stop in sorted({at + 1, word.stop})
    ]
    rows = (_hide_stretch(model, windows[each.word.window], each) for each in asked)
    alone, whole = [], []
    for each, logits in zip(asked, model.logits(rows), strict=True):
        at = np.array([each.at], np.int64)
        nats = _nats(logits, at, windows[each.word.window].ids[at])
        if each.stop == each.at + 1:
            alone.append(nats)
        if each.stop == each.word.stop:
            whole.append(nats)
    size = sum(int(windows[word.window].sizes[word.start : word.stop].sum()) for word in chosen)
    return math.fsum(alone), math.fsum(whole), len(alone), size


def _hide_stretch(model: MaskedModel, window: Pieces, asked: _Hidden) -> Int64s:
    row = _row(model, window.ids)
    row[1 + asked.at : 1 + asked.stop] = model.mask_id
    return row


class Filling(NamedTuple):
    """A token for a hidden place, and its probability."""

    token: str
    id: int
    probability: float


def fill(model: MaskedModel, text: str, top: int = 5) -> list[list[Filling]]:
    """Give the likeliest tokens for each <mask> of a text, each with the others still hidden."""
    encoded = model.tokenizer(text, truncation=False, padding=False, verbose=False)
    row = np.array(encoded["input_ids"], np.int64)
    places = np.flatnonzero(row == model.mask_id)
    mask = model.tokenizer.mask_token
    if not len(places):
        raise ValueError(f"{text!r} has no {mask}: write it where a token is to be filled in")
    if len(row) > model.max_length:
        raise ValueError(
            f"the text has {len(row):,} tokens with the special ones, the model takes "
            f"{model.max_length:,}: shorten it"
        )
    (logits,) = model.logits([row])
    filled = []
    for place in places:
        found = logits[place].double().softmax(-1).topk(min(top, logits.shape[1]))
        filled.append(
            [
                Filling(model.tokenizer.decode([number]), number, probability)
                for number, probability in zip(
                    found.indices.tolist(), found.values.tolist(), strict=True
                )
            ]
        )
    return filled

"""RoBERTa for masked language modelling (Liu et al. 2019), in plain torch.

Parameter names and shapes are those of `transformers.RobertaForMaskedLM`, so that export is a copy;
the decoder is the word embedding, as there. Some things differ in cost, not in result:

- logits exist only at the masked slots (of 512 positions 77: at 50k entries a quarter of a base
  model's work), and so does all that follows the last layer's attention (1/20 of it);
- attention gets no S x S mask (attention.py);
- the vocabulary is padded to a multiple that matrix kernels like on its way into the logits, with a
  bias of minus infinity: no parameter is padded, and no padded entry can be predicted.

A run on sentence pairs adds BERT's next-sentence head, which is not exported.

Documents of a row are isolated from each other where their starts are given; positions go on
through the row all the same, as in rows that are not isolated.

Shapes: B rows, S tokens a row, M slots a row, P documents a row, D width, H heads, K width of a
head, V vocabulary, F feed-forward width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from corpus.tokenizer import PAD_ID
from corpus.training import Pretrain
from pretrain.attention import Reach, attend, reach_of
from pretrain.config import ModelShape
from pretrain.fused import drop_out, is_fused, summed_loss

NORM_EPSILON = 1e-5  # RoBERTa's released configuration
# Rows of a bf16 matrix that NVIDIA's kernels take whole: "Matrix Multiplication Background", 2023.
_GPU_MULTIPLE = 64
INITIAL_DEVIATION = 0.02  # Devlin et al. 2019; RoBERTa's released configuration


class Dropout(nn.Dropout):
    """Torch's, but for what fused.py does faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop out while training."""
        if self.training and is_fused(input):
            return drop_out(input, self.p)
        return super().forward(input)


class Embeddings(nn.Module):
    """Word, position and the single token-type embedding, normed."""

    def __init__(self, shape: ModelShape, dropout: float) -> None:
        """Make the tables."""
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.width, padding_idx=PAD_ID)
        self.position_embeddings = nn.Embedding(
            shape.max_positions, shape.width, padding_idx=PAD_ID
        )
        self.token_type_embeddings = nn.Embedding(1, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, inputs_BS: Tensor, real_BS: Tensor) -> Tensor:
        """Embed tokens; padding has the padding position, the others count from the next one."""
        counted_S = torch.arange(inputs_BS.shape[1], device=inputs_BS.device) + PAD_ID + 1
        positions_BS = torch.where(real_BS, counted_S, PAD_ID)
        x_BSD = self.word_embeddings(inputs_BS) + self.token_type_embeddings.weight[0]
        x_BSD = x_BSD + self.position_embeddings(positions_BS)
        return self.dropout(self.LayerNorm(x_BSD))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention."""

    def __init__(self, shape: ModelShape, dropout: float) -> None:
        """Make the three projections."""
        super().__init__()
        self.heads = shape.heads
        self.dropout = dropout
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)

    def forward(self, x_BSD: Tensor, reach: Reach) -> Tensor:
        """Attend to what is in reach."""
        parts = (self.query(x_BSD), self.key(x_BSD), self.value(x_BSD))
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        dropout = self.dropout if self.training else 0.0
        return attend(query, key, value, reach, dropout).flatten(2)


class Residual(nn.Module):
    """Project, drop out, add the residual, norm: the end of both halves of a layer."""

    def __init__(self, inner: int, shape: ModelShape, dropout: float) -> None:
        """Make the projection from `inner` to the width."""
        super().__init__()
        self.dense = nn.Linear(inner, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, x_BSF: Tensor, residual_BSD: Tensor) -> Tensor:
        """Join the two streams."""
        return self.LayerNorm(self.dropout(self.dense(x_BSF)) + residual_BSD)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One post-norm transformer layer; the containers exist for their names."""

    def __init__(self, shape: ModelShape, dropout: float, attention_dropout: float) -> None:
        """Make attention and feed-forward."""
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "self": SelfAttention(shape, attention_dropout),
                "output": Residual(shape.width, shape, dropout),
            }
        )
        self.intermediate = nn.ModuleDict(
            {"dense": nn.Linear(shape.width, shape.feedforward_width)}
        )
        self.output = Residual(shape.feedforward_width, shape, dropout)

    def forward(self, x_BSD: Tensor, reach: Reach, places_BM: Tensor | None) -> Tensor:
        """Attend, then feed forward with the exact GELU, at all places or at the given ones."""
        mixed_BSD = self.attention["self"](x_BSD, reach)
        if places_BM is not None:
            mixed_BSD, x_BSD = _at(mixed_BSD, places_BM), _at(x_BSD, places_BM)
        x_BSD = self.attention["output"](mixed_BSD, x_BSD)
        inner_BSF = functional.gelu(self.intermediate["dense"](x_BSD))
        return self.output(inner_BSF, x_BSD)  # type: ignore[no-any-return]


def _at(x_BSD: Tensor, places_BM: Tensor) -> Tensor:
    """Pick places of each row: [B, M, D]."""
    rows_B = torch.arange(len(x_BSD), device=x_BSD.device) * x_BSD.shape[1]
    flat = (places_BM + rows_B[:, None]).flatten()
    return x_BSD.flatten(0, 1).index_select(0, flat).view(*places_BM.shape, -1)


class Encoder(nn.Module):
    """Embeddings and layers."""

    def __init__(
        self, shape: ModelShape, dropout: float, attention_dropout: float, recompute: bool
    ) -> None:
        """Stack the layers; with `recompute` their activations are made again going backward."""
        super().__init__()
        self.recompute = recompute
        self.embeddings = Embeddings(shape, dropout)
        layers = [Layer(shape, dropout, attention_dropout) for _ in range(shape.layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(
        self,
        inputs_BS: Tensor,
        lengths_B: Tensor,
        places_BM: Tensor,
        has_padding: bool,
        starts_BP: Tensor | None,
    ) -> Tensor:
        """Encode rows of which the first `lengths_B` tokens are real; give `places_BM`: [B, M, D].

        `has_padding` may be False where all rows are full; `starts_BP` isolates documents.
        """
        length = inputs_BS.shape[1]
        real_BS = torch.arange(length, device=inputs_BS.device) < lengths_B[:, None]
        reach = reach_of(lengths_B, starts_BP, length, has_padding)
        x_BSD = self.embeddings(inputs_BS, real_BS)
        *layers, last = self.encoder["layer"].children()
        for layer in layers:
            x_BSD = self._run(layer, x_BSD, reach, None)
        return self._run(last, x_BSD, reach, places_BM)

    def _run(self, layer: nn.Module, x_BSD: Tensor, reach: Reach, places: Tensor | None) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(layer, x_BSD, reach, places, use_reentrant=False)  # type: ignore[no-any-return]
        return layer(x_BSD, reach, places)  # type: ignore[no-any-return]


class Head(nn.Module):
    """From hidden states to logits, with the word embedding as decoder."""

    def __init__(self, shape: ModelShape, vocabulary_multiple: int) -> None:
        """Make the transform and the bias."""
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.layer_norm = nn.LayerNorm(shape.width, NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.padding = -shape.vocab_size % vocabulary_multiple

    def forward(self, x_BMD: Tensor, words_VD: Tensor, labels_BM: Tensor | None = None) -> Tensor:
        """Give logits over the vocabulary and its padding, which has minus infinity.

        Or, with labels, the sum of their cross-entropies in fp32 and nats.
        """
        x_BMD = self.layer_norm(functional.gelu(self.dense(x_BMD)))
        if labels_BM is not None and is_fused(x_BMD):
            return summed_loss(x_BMD.flatten(0, 1), words_VD, self.bias, labels_BM.flatten())
        bias_V: Tensor = self.bias
        if self.padding:  # a padding of nothing would be a copy
            words_VD = functional.pad(words_VD, (0, 0, 0, self.padding))
            bias_V = functional.pad(bias_V, (0, self.padding), value=-math.inf)
        logits_BMV = functional.linear(x_BMD, words_VD, bias_V)
        if labels_BM is None:
            return logits_BMV
        return _summed_loss(logits_BMV.flatten(0, 1), labels_BM.flatten())


class NextSentenceHead(nn.Module):
    """From the hidden state of <s> to two logits, as BERT's pooler and classifier."""

    def __init__(self, shape: ModelShape) -> None:
        """Make the two projections."""
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.out_proj = nn.Linear(shape.width, 2)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Give the logits: [B, 2]."""
        return self.out_proj(torch.tanh(self.dense(x_BD)))  # type: ignore[no-any-return]


class Extras(NamedTuple):
    """What the batches of some runs have besides: where documents start, and pair labels."""

    starts_BP: Tensor | None = None
    next_sentence_B: Tensor | None = None


class MaskedLanguageModel(nn.Module):
    """RoBERTa with its masked-language-model head."""

    def __init__(
        self,
        shape: ModelShape,
        dropout: float,
        seed: int,
        attention_dropout: float | None = None,
        recompute: bool = False,
        vocabulary_multiple: int = 1,
    ) -> None:
        """Make the model with weights drawn from `seed`; attention drops out like the rest."""
        super().__init__()
        if attention_dropout is None:
            attention_dropout = dropout
        self.vocab_size = shape.vocab_size
        self.roberta = Encoder(shape, dropout, attention_dropout, recompute)
        self.lm_head = Head(shape, vocabulary_multiple)
        # Last, so that the other weights are those of a model without it.
        self.next_sentence_head = NextSentenceHead(shape) if shape.next_sentence else None
        self._initialize(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """Draw matrices from N(0, 0.02); biases, norms and padding keep their neutral values."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, INITIAL_DEVIATION, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
        for table in self.modules():
            if isinstance(table, nn.Embedding) and table.padding_idx is not None:
                table.weight[table.padding_idx].zero_()

    @property
    def decoder_weight(self) -> nn.Parameter:
        """The word embedding, which the head uses from outside its own module."""
        return self.roberta.embeddings.word_embeddings.weight  # type: ignore[return-value]

    def logits(
        self,
        inputs_BS: Tensor,
        lengths_B: Tensor,
        slots_BM: Tensor,
        has_padding: bool = True,
        starts_BP: Tensor | None = None,
    ) -> Tensor:
        """Give the logits at the slots: [B, M, V]."""
        x_BMD = self.roberta(inputs_BS, lengths_B, slots_BM, has_padding, starts_BP)
        return self.lm_head(x_BMD, self.decoder_weight)[..., : self.vocab_size]  # type: ignore[no-any-return]

    def forward(
        self,
        inputs_BS: Tensor,
        lengths_B: Tensor,
        slots_BM: Tensor,
        labels_BM: Tensor,
        has_padding: bool = True,
        extras: Extras | None = None,
    ) -> Tensor:
        """Sum cross-entropies in fp32 and nats, [1] or [2]; the caller divides.

        The first is over the labels of masked tokens, the second over those of next sentences,
        where `extras` has them.
        """
        starts_BP, next_sentence_B = extras or Extras()
        if next_sentence_B is not None:
            slots_BM = functional.pad(slots_BM, (1, 0))  # <s> before the slots
        x_BMD = self.roberta(inputs_BS, lengths_B, slots_BM, has_padding, starts_BP)
        if next_sentence_B is None:
            return self._masked_loss(x_BMD, labels_BM)[None]
        assert self.next_sentence_head is not None
        pair_logits_B2 = self.next_sentence_head(x_BMD[:, 0])
        masked = self._masked_loss(x_BMD[:, 1:], labels_BM)
        return torch.stack([masked, _summed_loss(pair_logits_B2, next_sentence_B)])

    def _masked_loss(self, x_BMD: Tensor, labels_BM: Tensor) -> Tensor:
        return self.lm_head(x_BMD, self.decoder_weight, labels_BM)  # type: ignore[no-any-return]


def make_model(shape: ModelShape, config: Pretrain) -> MaskedLanguageModel:
    """Make the model of a recipe."""
    return MaskedLanguageModel(
        shape,
        config.dropout,
        config.seed,
        config.attention_dropout,
        config.recompute_activations,
        config.vocabulary_multiple or (_GPU_MULTIPLE if torch.cuda.is_available() else 1),
    )


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def is_exported(name: str) -> bool:
    """Tell whether a parameter is one of `RobertaForMaskedLM`."""
    return not name.startswith("next_sentence_head.")


def decays(name: str) -> bool:
    """Tell whether weight decay acts on a parameter: not on biases and norms."""
    return not (name.endswith("bias") or "LayerNorm" in name or "layer_norm" in name)

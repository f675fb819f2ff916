"""RoBERTa for masked language modelling (Liu et al. 2019), in plain torch.

Parameter names and shapes are those of `transformers.RobertaForMaskedLM`, so that export is a copy;
the decoder is the word embedding, as there. Two things differ in cost, not in result: logits exist
only at the masked slots (of 512 positions 77: at 50k entries a quarter of a base model's work is
saved), and attention gets no S x S mask: full rows need none, others a row of S bits.

It does not isolate the documents of a row from each other.

Shapes: B rows, S tokens a row, M slots a row, D width, H heads, K width of a head, V vocabulary,
F feed-forward width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from corpus.tokenizer import PAD_ID
from pretrain.config import ModelShape

NORM_EPSILON = 1e-5  # RoBERTa's released configuration
INITIAL_DEVIATION = 0.02  # Devlin et al. 2019; RoBERTa's released configuration


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
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs_BS: Tensor, real_BS: Tensor) -> Tensor:
        """Embed tokens; padding has the padding position, the others count from the next one."""
        counted_S = torch.arange(inputs_BS.shape[1], device=inputs_BS.device) + PAD_ID + 1
        positions_BS = torch.where(real_BS, counted_S, PAD_ID)
        x_BSD = self.word_embeddings(inputs_BS) + self.token_type_embeddings.weight[0]
        x_BSD = x_BSD + self.position_embeddings(positions_BS)
        return self.dropout(self.LayerNorm(x_BSD))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention over the real tokens of a row."""

    def __init__(self, shape: ModelShape, dropout: float) -> None:
        """Make the three projections."""
        super().__init__()
        self.heads = shape.heads
        self.dropout = dropout
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)

    def forward(self, x_BSD: Tensor, keys_B11S: Tensor | None) -> Tensor:
        """Attend; `keys_B11S` says which keys are real, None that all are."""
        dropout = self.dropout if self.training else 0.0
        out_BHSK = functional.scaled_dot_product_attention(
            self._split(self.query(x_BSD)),
            self._split(self.key(x_BSD)),
            self._split(self.value(x_BSD)),
            attn_mask=keys_B11S,
            dropout_p=dropout,
        )
        return out_BHSK.transpose(1, 2).flatten(2)

    def _split(self, x_BSD: Tensor) -> Tensor:
        rows, length, _ = x_BSD.shape
        return x_BSD.view(rows, length, self.heads, -1).transpose(1, 2)


class Residual(nn.Module):
    """Project, drop out, add the residual, norm: the end of both halves of a layer."""

    def __init__(self, inner: int, shape: ModelShape, dropout: float) -> None:
        """Make the projection from `inner` to the width."""
        super().__init__()
        self.dense = nn.Linear(inner, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSF: Tensor, residual_BSD: Tensor) -> Tensor:
        """Join the two streams."""
        return self.LayerNorm(self.dropout(self.dense(x_BSF)) + residual_BSD)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One post-norm transformer layer; the containers exist for their names."""

    def __init__(self, shape: ModelShape, dropout: float) -> None:
        """Make attention and feed-forward."""
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(shape, dropout), "output": Residual(shape.width, shape, dropout)}
        )
        self.intermediate = nn.ModuleDict(
            {"dense": nn.Linear(shape.width, shape.feedforward_width)}
        )
        self.output = Residual(shape.feedforward_width, shape, dropout)

    def forward(self, x_BSD: Tensor, keys_B11S: Tensor | None) -> Tensor:
        """Attend, then feed forward with the exact GELU."""
        x_BSD = self.attention["output"](self.attention["self"](x_BSD, keys_B11S), x_BSD)
        inner_BSF = functional.gelu(self.intermediate["dense"](x_BSD))
        return self.output(inner_BSF, x_BSD)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Embeddings and layers."""

    def __init__(self, shape: ModelShape, dropout: float) -> None:
        """Stack the layers."""
        super().__init__()
        self.embeddings = Embeddings(shape, dropout)
        layers = nn.ModuleList([Layer(shape, dropout) for _ in range(shape.layers)])
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, inputs_BS: Tensor, lengths_B: Tensor, has_padding: bool) -> Tensor:
        """Encode rows of which the first `lengths_B` tokens are real."""
        places_S = torch.arange(inputs_BS.shape[1], device=inputs_BS.device)
        real_BS = places_S < lengths_B[:, None]
        keys_B11S = real_BS[:, None, None, :] if has_padding else None
        x_BSD = self.embeddings(inputs_BS, real_BS)
        for layer in self.encoder["layer"].children():
            x_BSD = layer(x_BSD, keys_B11S)
        return x_BSD  # type: ignore[no-any-return]


class Head(nn.Module):
    """From hidden states to logits, with the word embedding as decoder."""

    def __init__(self, shape: ModelShape) -> None:
        """Make the transform and the bias."""
        super().__init__()
        self.dense = nn.Linear(shape.width, shape.width)
        self.layer_norm = nn.LayerNorm(shape.width, NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))

    def forward(self, x_BMD: Tensor, words_VD: Tensor) -> Tensor:
        """Give logits over the vocabulary: [B, M, V]."""
        return functional.linear(
            self.layer_norm(functional.gelu(self.dense(x_BMD))), words_VD, self.bias
        )


class MaskedLanguageModel(nn.Module):
    """RoBERTa with its masked-language-model head."""

    def __init__(self, shape: ModelShape, dropout: float, seed: int) -> None:
        """Make the model with weights drawn from `seed`."""
        super().__init__()
        self.roberta = Encoder(shape, dropout)
        self.lm_head = Head(shape)
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
        self, inputs_BS: Tensor, lengths_B: Tensor, slots_BM: Tensor, has_padding: bool = True
    ) -> Tensor:
        """Give the logits at the slots: [B, M, V]."""
        x_BSD = self.roberta(inputs_BS, lengths_B, has_padding)
        x_BMD = torch.take_along_dim(x_BSD, slots_BM[:, :, None], 1)
        return self.lm_head(x_BMD, self.decoder_weight)  # type: ignore[no-any-return]

    def forward(
        self,
        inputs_BS: Tensor,
        lengths_B: Tensor,
        slots_BM: Tensor,
        labels_BM: Tensor,
        has_padding: bool = True,
    ) -> Tensor:
        """Sum the cross-entropy over all labels, in fp32 and nats; the caller divides."""
        logits_BMV = self.logits(inputs_BS, lengths_B, slots_BM, has_padding)
        return functional.cross_entropy(
            logits_BMV.flatten(0, 1).float(), labels_BM.flatten(), reduction="sum"
        )


def decays(name: str) -> bool:
    """Tell whether weight decay acts on a parameter: not on biases and norms."""
    return not (name.endswith("bias") or "LayerNorm" in name or "layer_norm" in name)

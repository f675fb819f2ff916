"""How many parameters a model has, and how many bytes a rank holds while it trains.

Counted from shapes, not measured. A parameter costs what DeepSpeed keeps of it (0.19.8, read off
live tensors for every stage and precision; ZeRO, Rajbhandari et al. 2020, section 3.1, has the
idea): its weight, its gradient in fp32 (with bf16 also the microbatch's own in bf16), from stage 1
on a master weight in fp32, and two moments. Stage 1 shares out master weights and moments over the
ranks, stage 2 gradients too, stage 3 weights too. Activations are what the backward pass finds
again (Korthikanti et al. 2022, section 4, with our residual layout and without a score matrix, as
attention is fused), and the logits with their gradient. The libraries' own buffers, an allocator's
gaps and the checkpoint on its way out are not in it.
"""

from corpus.training import Pretrain
from pretrain.config import ModelShape

_FP32, _BF16 = 4, 2  # bytes
_MOMENTS = 2
# Elements in which DeepSpeed collects gradients by default; its BF16_Optimizer (stage 1) has none.
_BUCKET = 500_000_000


def parameter_count(shape: ModelShape) -> int:
    """Count the parameters; the decoder is the word embedding."""
    width, inner = shape.width, shape.feedforward_width
    norm = 2 * width
    embeddings = (shape.vocab_size + shape.max_positions + 1) * width + norm
    attention = 4 * (width * width + width) + norm
    feedforward = width * inner + inner + inner * width + width + norm
    head = width * width + width + norm + shape.vocab_size
    return embeddings + shape.layers * (attention + feedforward) + head


def state_bytes(parameters: int, config: Pretrain, ranks: int) -> dict[str, int]:
    """Count a rank's bytes of weights, gradients, master weights, moments and buckets.

    100 parameters, bf16, stage 1, 4 ranks -> 200, 600, 100, 200 and no bucket
    """
    stage, is_bf16 = config.zero_stage, config.precision == "bf16"

    def shared(least_stage: int) -> int:
        return -(-parameters // ranks) if stage >= least_stage else parameters

    has_bucket = stage >= 2 or (stage == 1 and not is_bf16)
    return {
        "weights": shared(3) * (_BF16 if is_bf16 else _FP32),
        "gradients": shared(2) * _FP32 + (parameters * _BF16 if is_bf16 else 0),
        "master_weights": shared(1) * _FP32 if stage else 0,
        "moments": shared(1) * _FP32 * _MOMENTS,
        "buckets": _BUCKET * _FP32 if has_bucket else 0,
    }


def saved_bytes(shape: ModelShape, config: Pretrain, rows: int, slots: int) -> int:
    """Count the bytes that the forward pass keeps for the backward pass.

    A token in a layer: its input, three projections, their mixture, the two sums and the norm
    between them, the feed-forward width before and after its activation; the norms' means
    and deviations, a logarithm a head; a byte for each element of a dropout.
    """
    size = _BF16 if config.precision == "bf16" else _FP32
    width, tokens = shape.width, rows * shape.sequence_length
    elements = 8 * width + 2 * shape.feedforward_width
    masks = 2 * width if config.dropout else 0
    layer = elements * size + masks + (4 + shape.heads) * _FP32
    ends = 2 * width * size + (width if config.dropout else 0) + 2 * _FP32
    head = 4 * width * size + shape.vocab_size * _FP32
    return tokens * (shape.layers * layer + ends) + rows * slots * head


def activation_bytes(shape: ModelShape, config: Pretrain, rows: int, slots: int) -> int:
    """Count the activations of a microbatch, with the logits and their gradient at the peak."""
    size = _BF16 if config.precision == "bf16" else _FP32
    logits = rows * slots * shape.vocab_size * (size + _FP32)
    return saved_bytes(shape, config, rows, slots) + logits

"""How many parameters a model has, and how many bytes a rank holds while it trains.

Counted from shapes, not measured. A parameter costs what DeepSpeed keeps of it (0.19.8, read off
live tensors for every stage and precision; ZeRO, Rajbhandari et al. 2020, section 3.1, has the
idea): its weight, its gradient in fp32 (with bf16 also the microbatch's own in bf16), from stage 1
on a master weight in fp32, and two moments. Stage 1 shares out master weights and moments over the
ranks, stage 2 gradients too, stage 3 weights too. Activations are what the backward pass finds
again (Korthikanti et al. 2022, section 4, with our residual layout and without a score matrix, as
attention is fused), and the logits with their gradient: as on a GPU. On a CPU the logits
are made in pieces of 64 MB and dropouts kept as seeds, but the embedding's gradient is there twice
(fused.py). The libraries' own buffers, an allocator's gaps, a padded copy of the vocabulary and the
checkpoint on its way out are not in it.
"""

from corpus.training import Pretrain
from pretrain.config import ModelShape

_FP32, _BF16 = 4, 2  # bytes
_MOMENTS = 2
# Elements in which DeepSpeed collects gradients by default.
_BUCKET = 500_000_000


def bucket_elements(parameters: int) -> int:
    """Count the elements in which DeepSpeed collects gradients: no more than there are."""
    return min(parameters, _BUCKET)


def parameter_count(shape: ModelShape) -> int:
    """Count the parameters; the decoder is the word embedding."""
    width, inner = shape.width, shape.feedforward_width
    norm = 2 * width
    embeddings = (shape.vocab_size + shape.max_positions + 1) * width + norm
    attention = 4 * (width * width + width) + norm
    feedforward = width * inner + inner + inner * width + width + norm
    head = width * width + width + norm + shape.vocab_size
    pairs = width * width + width + 2 * width + 2 if shape.next_sentence else 0
    return embeddings + shape.layers * (attention + feedforward) + head + pairs


def single_moments(shape: ModelShape, config: Pretrain) -> int:
    """Count the parameters of which the optimizer keeps one moment, not two: Muon's matrices."""
    matrices = 4 * shape.width**2 + 2 * shape.width * shape.feedforward_width
    return shape.layers * matrices if config.optimizer == "muon" else 0


def state_bytes(parameters: int, config: Pretrain, ranks: int, single: int = 0) -> dict[str, int]:
    """Count a rank's bytes of weights, gradients, master weights, moments and buckets.

    `single` parameters have one moment, which is so at stage 0 only.
    100 parameters, bf16, stage 1, 4 ranks -> 200, 600, 100, 200 and no bucket
    """
    stage, is_bf16 = config.zero_stage, config.precision == "bf16"

    def shared(least_stage: int) -> int:
        return -(-parameters // ranks) if stage >= least_stage else parameters

    # In bf16 stage 1, DeepSpeed's BF16_Optimizer, has no bucket, and stage 2 one in bf16.
    sizes = (0, 0, _BF16, _FP32) if is_bf16 else (0, _FP32, _FP32, _FP32)
    return {
        "weights": shared(3) * (_BF16 if is_bf16 else _FP32),
        "gradients": shared(2) * _FP32 + (parameters * _BF16 if is_bf16 else 0),
        "master_weights": shared(1) * _FP32 if stage else 0,
        "moments": shared(1) * _FP32 * _MOMENTS - single * _FP32,
        "buckets": bucket_elements(parameters) * sizes[stage],
    }


def saved_bytes(shape: ModelShape, config: Pretrain, rows: int, slots: int) -> int:
    """Count the bytes that the forward pass keeps for the backward pass.

    A token in a layer: its input, three projections, their mixture, the two sums and the norm
    between them, the feed-forward width before and after its activation; the norms' means
    and deviations, a logarithm a head; a byte for each element of a dropout. Behind the last
    attention there are only the slots. Recomputed layers keep their input, one at a time the rest.
    """
    size = _BF16 if config.precision == "bf16" else _FP32
    width, tokens, places = shape.width, rows * shape.sequence_length, rows * slots
    masks = 2 * width if config.dropout else 0
    mixing = 5 * width * size + shape.heads * _FP32
    rest = (3 * width + 2 * shape.feedforward_width) * size + masks + 4 * _FP32
    layer = tokens * (mixing + rest)
    last = tokens * mixing + places * (rest + width * size)
    layers = (shape.layers - 1) * layer + last
    if config.recompute_activations:
        layers = shape.layers * tokens * width * size + layer
    ends = width * size + (width if config.dropout else 0) + 2 * _FP32
    head = 4 * width * size + shape.vocab_size * _FP32
    return layers + tokens * ends + places * head


def activation_bytes(shape: ModelShape, config: Pretrain, rows: int, slots: int) -> int:
    """Count the activations of a microbatch, with the logits and their gradient at the peak."""
    size = _BF16 if config.precision == "bf16" else _FP32
    logits = rows * slots * shape.vocab_size * (size + _FP32)
    return saved_bytes(shape, config, rows, slots) + logits

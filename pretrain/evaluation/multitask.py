"""Several tasks on one encoder: each has a head of its own, and all of them train what is shared.

Every task's model is a whole `transformers` model; embeddings and layers are the same objects in
all of them, so that a step on one moves all. Poolers and heads belong to one task each.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn


def share(models: Sequence[Any]) -> tuple[nn.Module, ...]:
    """Give all models the first one's encoder; the models are changed."""
    first = getattr(models[0], models[0].base_model_prefix)
    shared = {name: part for name, part in first.named_children() if name != "pooler"}
    for model in models[1:]:
        base = getattr(model, model.base_model_prefix)
        for name in [name for name, _ in base.named_children() if name in shared]:
            setattr(base, name, shared[name])
    return tuple(models)

"""Fine-tuning of few weights through `peft`: the checkpoint stays as it is, small parts learn.

LoRA (Hu et al. 2021) and IA3 (Liu et al. 2022) change how layers multiply and are merged into the
weights when a model is saved, so that it is a plain `transformers` model. Prefix tuning (Li and
Liang 2021) and prompt tuning (Lester et al. 2021) prepend what is learned; such a model is saved as
an adapter beside its checkpoint and needs `peft` to load. The head of the task always learns.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from corpus.section import Section

_MERGED = ("lora", "ia3")


class Adapter(Section):
    """What learns beside the head, and how large it is."""

    kind: Literal["lora", "ia3", "prefix", "prompt"] = Field(description="method of `peft`")
    rank: int = Field(8, ge=1, description="of LoRA's matrices")
    alpha: float = Field(16.0, gt=0, description="LoRA's update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="on LoRA's input")
    virtual_tokens: int = Field(16, ge=1, description="of prefix and prompt tuning")
    modules: tuple[str, ...] = Field(
        ("query", "value"), description="layers LoRA is put on, by the end of their names"
    )

    @property
    def is_merged(self) -> bool:
        """Tell whether a saved model has it within its weights."""
        return self.kind in _MERGED


def add_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Put an adapter on a model with its head; only the adapter and the head learn from now on."""
    raise NotImplementedError

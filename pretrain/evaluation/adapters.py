"""Fine-tuning of few weights through `peft`: the checkpoint stays as it is, small parts learn.

LoRA (Hu et al. 2021) and IA3 (Liu et al. 2022) change how layers multiply and are merged into the
weights when a model is saved, so that it is a plain `transformers` model. Prefix tuning (Li and
Liang 2021) and prompt tuning (Lester et al. 2021) prepend what is learned; such a model is saved as
an adapter beside its checkpoint and needs `peft` to load. The head of the task always learns.
"""

import warnings
from typing import Any, Literal

from pydantic import Field
from torch import nn

from corpus.section import Section
from pretrain.evaluation.tasks import Kind

_MERGED = ("lora", "ia3")
_TASK_TYPES: dict[Kind, str] = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "answering": "QUESTION_ANS",
}
# peft 0.21 prepends prompts to the outputs of each token too, and knows no options.
_PREPENDED: dict[str, tuple[Kind, ...]] = {
    "prefix": ("classification", "regression", "tagging", "answering"),
    "prompt": ("classification", "regression"),
}
# Where the heads of transformers' encoders lie.
_HEADS = ("classifier", "qa_outputs", "score", "pooler")


class Adapter(Section):
    """What learns beside the head, and how large it is."""

    kind: Literal["lora", "ia3", "prefix", "prompt"] = Field(description="method of `peft`")
    rank: int = Field(8, ge=1, description="of LoRA's matrices")
    alpha: int = Field(16, ge=1, description="LoRA's update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="on LoRA's input")
    virtual_tokens: int = Field(16, ge=1, description="of prefix and prompt tuning")
    modules: tuple[str, ...] = Field(
        ("query", "value"), min_length=1, description="LoRA's layers, by the end of their names"
    )

    @property
    def is_merged(self) -> bool:
        """Tell whether a saved model has it within its weights."""
        return self.kind in _MERGED


def add_adapter(model: nn.Module, adapter: Adapter, kind: Kind) -> nn.Module:
    """Put an adapter on a model with its head; only the adapter and the head learn from now on."""
    import peft  # noqa: PLC0415 - takes seconds, and most fine-tuning does without

    heads = [name for name, _ in model.named_children() if name in _HEADS]
    common: dict[str, Any] = {"task_type": _TASK_TYPES.get(kind), "modules_to_save": heads}
    if adapter.kind == "lora":
        config: Any = peft.LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=list(adapter.modules),
            **common,
        )
    elif adapter.kind == "ia3":
        config = peft.IA3Config(
            target_modules=["key", "value", "output.dense"],
            feedforward_modules=["output.dense"],
            **common,
        )
    else:
        if kind not in _PREPENDED[adapter.kind]:
            raise ValueError(
                f"{adapter.kind} tuning does not fit tasks of {kind}: take lora or ia3"
            )
        method = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}
        config = method[adapter.kind](num_virtual_tokens=adapter.virtual_tokens, **common)
    with warnings.catch_warnings():
        # peft asks for what transformers calls by another name since.
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


def merged(model: Any) -> nn.Module:  # noqa: ANN401 - peft has no types
    """Return the plain model with its adapter within the weights."""
    whole: nn.Module = model.merge_and_unload()
    return whole


def with_adapter(model: nn.Module, directory: str) -> nn.Module:
    """Put a saved adapter back on its checkpoint."""
    import peft  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = peft.PeftModel.from_pretrained(model, directory)
    return adapted

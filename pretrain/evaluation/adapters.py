"""Fine-tuning of few weights through `peft`: the checkpoint stays as it is, small parts learn.

LoRA (Hu et al. 2021) and IA3 (Liu et al. 2022) change how layers multiply and are merged into the
weights when a model is saved, so that it is a plain `transformers` model. Prefix tuning (Li and
Liang 2021) and prompt tuning (Lester et al. 2021) prepend what is learned; such a model is saved as
an adapter beside its checkpoint and needs `peft` to load. The head of the task always learns, and
so does the pooler that some heads have: a checkpoint may lack both.
"""

import warnings
from typing import Any, Literal

from pydantic import Field
from torch import nn

from corpus.section import Section
from pretrain.evaluation.tasks import Kind

_MERGED = ("lora", "ia3")
# For what is prepended only: of a question's inputs peft 0.21 hands no types of tokens on.
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

    @property
    def positions(self) -> int:
        """Positions of an input that it takes from the text."""
        return 0 if self.is_merged else self.virtual_tokens


def add_adapter(model: Any, adapter: Adapter, kind: Kind) -> nn.Module:  # noqa: ANN401
    """Put an adapter on a model with its head; only the adapter and the head learn from now on."""
    import peft  # noqa: PLC0415 - takes seconds, and most fine-tuning does without

    common: dict[str, Any] = {"modules_to_save": _heads(model)}
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
        if kind == "answering" and (getattr(model.config, "type_vocab_size", None) or 1) > 1:
            raise ValueError(
                f"{adapter.kind} tuning hides from this checkpoint which tokens are the "
                "question's: take lora or ia3"
            )
        method = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}
        common |= {"task_type": _TASK_TYPES[kind], "num_virtual_tokens": adapter.virtual_tokens}
        config = method[adapter.kind](**common)
    with warnings.catch_warnings():
        # peft asks for what transformers calls by another name since.
        warnings.simplefilter("ignore", FutureWarning)
        # The encoder that tasks share has the first one's adapter, which is meant.
        warnings.filterwarnings("ignore", ".*modify a model with PEFT for a second", UserWarning)
        adapted: nn.Module = peft.get_peft_model(model, config)
    for part in adapted.modules():
        if isinstance(part, peft.utils.ModulesToSaveWrapper):
            # What it is a copy of; peft leaves it learning where the encoder is shared.
            part.original_module.requires_grad_(False)
    return adapted


def _heads(model: Any) -> list[str]:  # noqa: ANN401 - a model of transformers
    """Name what a task has of its own: all with weights beside the encoder, and its pooler."""
    base = model.base_model_prefix
    heads = [name for name, part in model.named_children() if name != base and _has_weights(part)]
    pooler = getattr(getattr(model, base), "pooler", None)
    return heads + [f"{base}.pooler"] * (pooler is not None and _has_weights(pooler))


def _has_weights(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def merged(model: Any) -> nn.Module:  # noqa: ANN401 - peft has no types
    """Return the plain model with its adapter within the weights."""
    from peft.utils import ModulesToSaveWrapper  # noqa: PLC0415

    # peft 0.21 merges IA3 only where a head is a single layer: heads are taken out here.
    plain = model.get_base_model()
    for name, part in list(plain.named_modules()):
        if isinstance(part, ModulesToSaveWrapper):
            plain.set_submodule(name, part.modules_to_save["default"])
    whole: nn.Module = model.merge_and_unload()
    return whole


def with_adapter(model: nn.Module, directory: str) -> nn.Module:
    """Put a saved adapter back on its checkpoint."""
    import peft  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = peft.PeftModel.from_pretrained(model, directory)
    return adapted

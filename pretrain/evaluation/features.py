"""Examples as token ids of a model, and batches of them as the keyword arguments of its head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pretrain.evaluation.examples import Example
from pretrain.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of a model; a long text of tagging or answering makes several.

    `input_ids` has one row, choice one an option. `labels` is what the head learns: one class or
    number, a class a token (-100 where none), or the first and last token of the answer; empty
    where unknown. `places` tells for each token of the row what it stands for, None for
    special tokens: tagging (word, first piece or not), answering (start, stop) in characters.
    """

    example: int
    input_ids: tuple[tuple[int, ...], ...]
    type_ids: tuple[tuple[int, ...], ...] | None
    labels: tuple[int, ...] | tuple[float, ...]
    places: tuple[tuple[int, int] | None, ...]

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.input_ids))


@dataclass(frozen=True)
class Encoded:
    """Features in the order of their examples, and what did not fit.

    `truncated` examples lost text or were cut into pieces; `lost` answers lie whole in no piece;
    `vanished` words have no token.
    """

    features: tuple[Feature, ...]
    truncated: int
    lost: int
    vanished: int


def encode(
    task: Task,
    labels: Sequence[str],
    examples: Sequence[Example],
    tokenizer: Any,  # noqa: ANN401 - a fast tokenizer of transformers
) -> Encoded:
    """Make features of examples."""
    raise NotImplementedError


def collate(task: Task, features: Sequence[Feature], pad_id: int) -> dict[str, Tensor]:
    """Pad features to the longest of them: what the model's `forward` takes, labels if known.

    Shapes: (batch, tokens); choice (batch, options, tokens).
    """
    raise NotImplementedError

"""What of a task's texts did not fit into a checkpoint's inputs: counts by split, and their words.

A text of classification, regression or choice that is too long loses its end. Tagging and answering
lose nothing by the cut into pieces, but an answer may lie whole in none of them, and is then
learned as no answer; a word may have no token, and then has no tag.
"""

from collections.abc import Mapping

from pydantic import Field

from corpus.section import Section
from pretrain.evaluation.features import Encoded
from pretrain.evaluation.tasks import Task


class Fit(Section):
    """How the examples of a split fit into inputs."""

    examples: int = Field(ge=0, description="examples of the split")
    limit: int = Field(ge=1, description="tokens of an input, special ones included")
    truncated: int = Field(ge=0, description="examples that lost text or were cut into pieces")
    lost: int = Field(ge=0, description="answers that lie whole in no piece")
    vanished: int = Field(ge=0, description="words without a token")


def fit_of(encoded: Encoded, examples: int, limit: int) -> Fit:
    """Count how so many examples fit."""
    return Fit(
        examples=examples,
        limit=limit,
        truncated=encoded.truncated,
        lost=encoded.lost,
        vanished=encoded.vanished,
    )


def tell_fits(task: Task, fits: Mapping[str, Fit]) -> list[str]:
    """Say what did not fit, a line for each split and kind of loss; of what fits nothing."""
    in_pieces = task.kind in ("tagging", "answering")
    lines = []
    for name, fit in fits.items():
        how = f"cut {'into pieces of' if in_pieces else 'at'} {fit.limit:,} tokens"
        of = f"of {fit.examples:,} {name}"
        if fit.truncated:
            lines.append(f"{task.name}: {fit.truncated:,} {of} texts {how}")
        if fit.lost:
            lines.append(f"{task.name}: {fit.lost:,} {of} answers lie whole in no piece")
        if fit.vanished:
            lines.append(f"{task.name}: {fit.vanished:,} {name} words have no token, so no tag")
    return lines

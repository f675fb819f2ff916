"""Draws the loss of a run beside what a model that reads no context could reach.

Two lines give the scale: ln(vocabulary), the loss of an untrained model, and the unigram entropy of
the validation tokens, the least loss of any model that knows only how frequent each token is. What
lies below the second was learned from context.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SMOOTHED_STEPS = 25  # the masks of one small batch make a single step's loss jump by 0.2 or so


def smooth(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Average every value with its neighbours, an odd `width` of values, fewer at the ends.

    [1, 2, 3, 7], width 3 -> [1.5, 2, 4, 5]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    begins = np.maximum(0, places - width // 2)
    ends = np.minimum(len(values), places + width // 2 + 1)
    averages: npt.NDArray[np.float64] = (sums[ends] - sums[begins]) / (ends - begins)
    return averages


def draw_loss(
    path: Path, metrics: Sequence[dict[str, Any]], unigram_entropy: float, log_vocabulary: float
) -> None:
    """Write the curve of a run's metrics as a PNG."""
    # Without a display, and without a window even where there is one.
    mpl.use("Agg")
    figure = Figure(figsize=(9, 5.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, metrics)
    last_step = metrics[-1]["step"] + 1
    for level, name in (
        (log_vocabulary, f"ln(vocabulary) = {log_vocabulary:.2f}: knows nothing"),
        (
            unigram_entropy,
            f"unigram entropy = {unigram_entropy:.2f}: knows how frequent tokens are",
        ),
    ):
        axes.axhline(level, color="0.35", linewidth=1, linestyle=(0, (5, 3)))
        axes.annotate(
            name, (last_step, level), (0, 4), textcoords="offset points", ha="right", color="0.25"
        )
    tokens = sum(line["tokens"] for line in metrics)
    axes.set_title(f"Masked-language-model loss over {tokens / 1e6:.1f} million tokens", loc="left")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a masked token")
    axes.set_xlim(0, last_step * 1.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9), frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _draw_curves(axes: Axes, metrics: Sequence[dict[str, Any]]) -> None:
    steps = np.array([line["step"] + 1 for line in metrics])
    losses = np.array([line["loss"] for line in metrics])
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.6)
    smoothed = smooth(losses, _SMOOTHED_STEPS)
    label = f"training, mean of {_SMOOTHED_STEPS} steps"
    axes.plot(steps, smoothed, color="#2171b5", linewidth=1.6, label=label)
    measured = [line for line in metrics if "validation_loss" in line]
    places = [line["step"] + 1 for line in measured]
    levels = [line["validation_loss"] for line in measured]
    axes.plot(places, levels, "o-", color="#d94801", markersize=5, label="validation")
    for place, level in list(zip(places, levels, strict=True))[-1:]:
        axes.annotate(
            f"{level:.2f}", (place, level), (-4, -14), textcoords="offset points",
            ha="right", color="#d94801", weight="bold",
        )  # fmt: skip

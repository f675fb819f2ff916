"""From the measures of all runs to a verdict on each published order.

A loss on rows of one's own packing is a home game: pairs of settings that differ in their packing
are compared on the packings that neither was trained on, by the mean loss over them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pretrain.evaluation.arms import Setting
from pretrain.evaluation.published import CLAIMS, LOSS, Claim, published_order
from pretrain.evaluation.verdicts import Interval, Verdict, judge, paired_gain

# Of one run: its loss by the packing of the rows that it was measured on.
Losses = Mapping[str, float]


class Comparison(NamedTuple):
    """One published order, and what the seeds say about it; a positive gain is for the paper."""

    claim: Claim
    measure: str
    better: str
    worse: str
    is_printed: bool
    measured_on: tuple[str, ...]
    gains: tuple[float, ...]
    gain: Interval
    verdict: Verdict

    def as_values(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "table": self.claim.table,
            "measure": self.measure,
            "better": self.better,
            "worse": self.worse,
            "claim": self.claim.text,
            "numbers_in_paper": self.is_printed,
            "measured_on": list(self.measured_on),
            "gains": list(self.gains),
            "gain": self.gain._asdict(),
            "verdict": self.verdict,
        }


def compare(results: Mapping[Setting, Sequence[Losses]], confidence: float) -> list[Comparison]:
    """Judge every claim of the tables that were asked; losses are listed by seed."""
    by_name = {(setting.table, setting.name): setting for setting in results}
    found = []
    for claim in CLAIMS:
        if (claim.table, claim.better) not in by_name:
            continue
        order = published_order(claim, LOSS)
        assert order is not None, "no two losses are equal in the paper"
        pair = [by_name[claim.table, name] for name in (order.better, order.worse)]
        rows = measured_on(pair, list(results[pair[0]][0]))
        better, worse = ([_mean(each, rows) for each in results[setting]] for setting in pair)
        gain = paired_gain(worse, better, confidence)  # a lower loss is better
        gains = tuple(one - other for one, other in zip(worse, better, strict=True))
        found.append(Comparison(claim, LOSS, *order, rows, gains, gain, judge(gain)))
    return found


def measured_on(pair: Sequence[Setting], packings: Sequence[str]) -> tuple[str, ...]:
    """Choose the rows to compare on: the common packing, or those that are home to neither."""
    homes = {setting.packing for setting in pair}
    if len(homes) == 1:
        return tuple(homes)
    return tuple(packing for packing in packings if packing not in homes)


def _mean(losses: Losses, rows: Sequence[str]) -> float:
    return math.fsum(losses[packing] for packing in rows) / len(rows)

"""From the measures of all runs to a verdict on each published order.

A loss on rows of one's own packing is a home game: pairs of settings that differ in their packing
are compared on the packings that neither was trained on, by the mean loss over them. Fine-tuned
scores, where tasks were given, are compared as they are.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from pretrain.evaluation.arms import Setting
from pretrain.evaluation.published import CLAIMS, LOSS, Claim, published_order
from pretrain.evaluation.verdicts import Interval, Verdict, judge, paired_gain


class Measured(NamedTuple):
    """What one run came to: losses by the packing of the rows measured on, scores by task."""

    losses: Mapping[str, float]
    scores: Mapping[str, float]


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


def compare(results: Mapping[Setting, Sequence[Measured]], confidence: float) -> list[Comparison]:
    """Judge every claim of the tables that were asked, by every measure; runs are in seed order."""
    by_name = {(setting.table, setting.name): setting for setting in results}
    asked = [claim for claim in CLAIMS if (claim.table, claim.better) in by_name]
    measures = [LOSS, *next(iter(results.values()))[0].scores]
    found = []
    for claim, measure in product(asked, measures):
        order = published_order(claim, measure)
        if order is None:
            continue
        pair = [by_name[claim.table, name] for name in (order.better, order.worse)]
        rows = measured_on(pair, list(results[pair[0]][0].losses)) if measure == LOSS else ()
        better, worse = (
            [_value(run, measure, rows) for run in results[setting]] for setting in pair
        )
        gain = paired_gain(better, worse, confidence)
        gains = tuple(one - other for one, other in zip(better, worse, strict=True))
        found.append(Comparison(claim, measure, *order, rows, gains, gain, judge(gain)))
    return found


def measured_on(pair: Sequence[Setting], packings: Sequence[str]) -> tuple[str, ...]:
    """Choose the rows to compare losses on: the common packing, or those that are home to none."""
    homes = {setting.packing for setting in pair}
    if len(homes) == 1:
        return tuple(homes)
    return tuple(packing for packing in packings if packing not in homes)


def _value(run: Measured, measure: str, rows: Sequence[str]) -> float:
    """Give what is better the higher it is."""
    if measure != LOSS:
        return run.scores[measure]
    return -math.fsum(run.losses[packing] for packing in rows) / len(rows)

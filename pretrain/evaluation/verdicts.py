"""What a few seeds allow to say: intervals of means, and verdicts on a published order.

Runs of two settings are paired by their seed: it draws the same weights for both and, where rows
are the same, the same order of rows, so that part of the chance is common and falls out of the
difference. The interval of the mean difference is Student's (1908), with n - 1 degrees of freedom:
of three seeds it is 4.3 standard errors wide to each side at 95 %, and rightly so.

*agrees*: the whole interval lies on the side of the published order; *disagrees*: on the other;
*undecided*: it holds zero. Where there is no difference at all, one verdict in twenty is decided
nonetheless (at 95 %), half of them against the paper; orders are judged one by one, uncorrected.
Undecided is no evidence of equality: the interval says how large a difference it leaves room for.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy import special

Verdict = Literal["agrees", "disagrees", "undecided"]


class Interval(NamedTuple):
    """A mean with the interval that holds the true one."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Give the mean of at least two values with its interval; no numbers where one is infinite.

    1, 2, 3 at 95 % -> 2 - 4.303 / sqrt(3) to 2 + 4.303 / sqrt(3)
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs two values or more, found {count}")
    if not all(map(math.isfinite, values)):  # a run that diverged has no score to compare
        return Interval(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(variance / count)
    return Interval(mean, mean - reach, mean + reach)


def paired_gain(better: Sequence[float], worse: Sequence[float], confidence: float) -> Interval:
    """Give the mean of `better - worse`, seed by seed, with its interval."""
    gains = [one - other for one, other in zip(better, worse, strict=True)]
    return mean_interval(gains, confidence)


def judge(gain: Interval) -> Verdict:
    """Say what a gain means for the claim that it is positive."""
    if gain.low > 0:
        return "agrees"
    return "disagrees" if gain.high < 0 else "undecided"

"""Answers cut from contexts: found in start and end scores, compared as SQuAD compares them.

The search is that of BERT's run_squad.py: the best starts and ends of every piece of a context, and
the score of no answer is the least that any piece gives to its blank token. Normalization, exact
match, F1 and the search of a threshold follow the definitions of SQuAD's official evaluation
(Rajpurkar et al. 2016, section 6.1; 2018, section 4: the best threshold is chosen on the examples).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluation.features import Feature

# n_best_size of BERT's run_squad.py.
N_BEST = 20

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Candidate(NamedTuple):
    """A possible answer: characters [start, stop) of the context, and start plus end score."""

    start: int
    stop: int
    score: float


def candidates_of(
    feature: Feature, scores: NDArray[np.float32], max_tokens: int
) -> list[Candidate]:
    """Return the best answers that one piece of a context holds."""
    inside = [at for at, place in enumerate(feature.places) if place is not None]
    if not inside:
        return []
    first, stop = inside[0], inside[-1] + 1
    begins, ends = scores[:, first:stop].astype(np.float64)
    starts, stops = _largest(begins)[:, None], _largest(ends)[None, :]
    fits = (starts <= stops) & (stops < starts + max_tokens)
    sums = np.where(fits, begins[starts] + ends[stops], -np.inf).ravel()
    best = _largest(sums)[: int(fits.sum())]
    found = []
    for row, column in zip(*np.divmod(best, stops.size), strict=True):
        begin = feature.places[first + int(starts[row, 0])]
        end = feature.places[first + int(stops[0, column])]
        assert begin is not None
        assert end is not None
        found.append(Candidate(begin[0], end[1], float(sums[row * stops.size + column])))
    return [each for each in found if each.start < each.stop]


def _largest(values: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.argsort(-values, kind="stable")[:N_BEST]


def blank_score(feature: Feature, scores: NDArray[np.float32]) -> float:
    """Return the score that a piece gives to no answer."""
    return float(scores[0, feature.blank]) + float(scores[1, feature.blank])


def best_of(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the best candidates of all pieces, each span once, the earlier of equals first."""
    best: dict[tuple[int, int], Candidate] = {}
    for each in sorted(found, key=lambda one: (-one.score, one.start, one.stop)):
        best.setdefault((each.start, each.stop), each)
    return list(best.values())[:N_BEST]


def normalize(text: str) -> str:
    """Lower the case, take out ASCII punctuation and English articles, join words by one space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """Return 1 if an answer equals one of the true ones, normalized; 0 otherwise."""
    return float(any(normalize(answer) == normalize(truth) for truth in truths))


def overlap_f1(answer: str, truths: Sequence[str], blanks: bool) -> float:
    """Return the largest F1 of the words of an answer and those of a true one.

    Two answers without words score 1 with `blanks` (SQuAD 2.0), 0 without (1.1).
    """
    words = normalize(answer).split()
    return max(_word_f1(words, normalize(truth).split(), blanks) for truth in truths)


def _word_f1(answer: list[str], truth: list[str], blanks: bool) -> float:
    if not answer or not truth:
        return float(blanks and answer == truth)
    common = sum((Counter(answer) & Counter(truth)).values())
    # 2pr / (p + r) of p = common / answer, r = common / truth, as one division.
    return 2 * common / (len(answer) + len(truth))


def best_threshold(
    margins: Sequence[float], answered: Sequence[float], blank: Sequence[float]
) -> tuple[float, float]:
    """Return the best mean score and the threshold that gives it.

    An example scores `blank` where its margin is above the threshold, else `answered`. Thresholds
    tried are the margins and one below all; of equals the lowest.
    """
    order = sorted(range(len(margins)), key=lambda n: margins[n])
    total = sum(blank)
    best, threshold = total, (margins[order[0]] - 1.0 if order else 0.0)
    for at, n in enumerate(order):
        total += answered[n] - blank[n]
        last = at + 1 == len(order) or margins[order[at + 1]] > margins[n]
        if last and total > best:
            best, threshold = total, margins[n]
    return best / max(len(margins), 1), threshold

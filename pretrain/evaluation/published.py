"""What the RoBERTa paper (Liu et al. 2019, arXiv 1907.11692) found in its Tables 1, 2 and 3.

Numbers are the tables'; claims are what sections 4.1 to 4.3 conclude, in our words. Where a table
has a number for a measure, its order of two settings is what is judged for this measure, even
where it runs against the claim (dynamic masks lose 0.3 on MNLI); equal numbers have no order. For
measures that a table does not have, such as the loss in Tables 1 and 2 or a task of one's own, the
claim is judged.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Table = Literal["masking", "formats", "batches"]
TABLES: tuple[Table, ...] = ("masking", "formats", "batches")
TITLES: Mapping[Table, str] = {
    "masking": "Table 1: static or dynamic masks",
    "formats": "Table 2: input formats, with and without next sentences",
    "batches": "Table 3: batch size at equal passes",
}
FORMATS = ("segment-pair", "sentence-pair", "full-sentences", "doc-sentences")
BATCHES = ("small", "medium", "large")  # 256, 2K, 8K sequences in the paper
LOSS = "loss"  # of masked tokens; the paper gives its exponential, the perplexity

# Table -> setting -> measure; tasks by the names of their presets. F1 for squad and squad2.
NUMBERS: Mapping[Table, Mapping[str, Mapping[str, float]]] = {
    "masking": {
        "static": {"squad2": 78.3, "mnli": 84.3, "sst2": 92.5},
        "dynamic": {"squad2": 78.7, "mnli": 84.0, "sst2": 92.9},
    },
    "formats": {
        "segment-pair": {"squad": 90.4, "squad2": 78.7, "mnli": 84.0, "sst2": 92.9, "race": 64.2},
        "sentence-pair": {"squad": 88.7, "squad2": 76.2, "mnli": 82.9, "sst2": 92.1, "race": 63.0},
        "full-sentences": {"squad": 90.4, "squad2": 79.1, "mnli": 84.7, "sst2": 92.5, "race": 64.8},
        "doc-sentences": {"squad": 90.6, "squad2": 79.7, "mnli": 84.7, "sst2": 92.7, "race": 65.6},
    },
    "batches": {
        "small": {LOSS: 3.99, "mnli": 84.7, "sst2": 92.7},
        "medium": {LOSS: 3.68, "mnli": 85.2, "sst2": 92.9},
        "large": {LOSS: 3.77, "mnli": 84.6, "sst2": 92.8},
    },
}


class Claim(NamedTuple):
    """That one setting of a table is better than another, and why the paper says so."""

    table: Table
    better: str
    worse: str
    text: str


CLAIMS = (
    Claim("masking", "dynamic", "static", "dynamic masks are as good or slightly better (4.1)"),
    Claim("formats", "segment-pair", "sentence-pair", "single sentences hurt (4.2)"),
    Claim(
        "formats", "full-sentences", "segment-pair",
        "without next sentences as good or slightly better (4.2)",
    ),
    Claim(
        "formats", "doc-sentences", "segment-pair",
        "without next sentences as good or slightly better (4.2)",
    ),
    Claim(
        "formats", "doc-sentences", "full-sentences",
        "rows of one document are slightly better (4.2)",
    ),
    Claim("batches", "medium", "small", "large batches are better at equal passes (4.3)"),
    Claim("batches", "large", "small", "large batches are better at equal passes (4.3)"),
    Claim("batches", "medium", "large", "2K is the best of the three by perplexity (4.3)"),
)  # fmt: skip


class Order(NamedTuple):
    """What is judged for one measure; `is_printed` where the table has numbers for it."""

    better: str
    worse: str
    is_printed: bool


def published_order(claim: Claim, measure: str) -> Order | None:
    """Give the order of a claim's settings that the paper has for a measure; None for a tie."""
    numbers = NUMBERS[claim.table]
    one, other = (numbers[name].get(measure) for name in (claim.better, claim.worse))
    if one is None or other is None:
        return Order(claim.better, claim.worse, is_printed=False)
    if one == other:
        return None
    if (one > other) != (measure == LOSS):
        return Order(claim.better, claim.worse, is_printed=True)
    return Order(claim.worse, claim.better, is_printed=True)

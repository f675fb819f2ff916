"""Which orders the paper has, on which rows they are compared, and what comes out."""

import pytest

from corpus.training import Pretrain
from pretrain.evaluation.arms import Setting
from pretrain.evaluation.comparison import Measured, compare, measured_on
from pretrain.evaluation.published import (
    BATCHES,
    CLAIMS,
    FORMATS,
    LOSS,
    NUMBERS,
    Claim,
    Order,
    published_order,
)


def claim_of(better: str, worse: str) -> Claim:
    return next(claim for claim in CLAIMS if (claim.better, claim.worse) == (better, worse))


def test_orders_are_those_of_the_tables() -> None:
    masking = claim_of("dynamic", "static")
    assert published_order(masking, "squad2") == Order("dynamic", "static", True)  # 78.7 > 78.3
    assert published_order(masking, "mnli") == Order("static", "dynamic", True)  # 84.3 > 84.0
    assert published_order(masking, LOSS) == Order("dynamic", "static", False)
    assert published_order(masking, "trec") == Order("dynamic", "static", False)
    large = claim_of("large", "small")
    assert published_order(large, LOSS) == Order("large", "small", True)  # 3.77 < 3.99
    assert published_order(large, "mnli") == Order("small", "large", True)  # 84.7 > 84.6
    assert published_order(claim_of("medium", "large"), LOSS) == Order("medium", "large", True)
    full = claim_of("full-sentences", "segment-pair")
    assert published_order(full, "squad") is None  # 90.4 both
    assert published_order(full, "sst2") == Order("segment-pair", "full-sentences", True)


def test_claims_are_about_settings_of_the_tables() -> None:
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= NUMBERS[claim.table].keys()
        # Each claim holds for the table's numbers as a whole, whatever single ones say.
        one, other = NUMBERS[claim.table][claim.better], NUMBERS[claim.table][claim.worse]
        higher = sum(one[each] - other[each] for each in one if each != LOSS)
        assert higher > 0 or one[LOSS] < other[LOSS]
    assert set(NUMBERS["formats"]) == set(FORMATS)
    assert set(NUMBERS["batches"]) == set(BATCHES)


def setting(table: str, name: str, packing: str = "full-sentences") -> Setting:
    return Setting(table, name, packing, Pretrain())  # type: ignore[arg-type]


def test_packings_are_compared_on_rows_that_are_home_to_neither() -> None:
    full, doc = setting("formats", "full-sentences"), setting("formats", "doc", "doc-sentences")
    assert measured_on([full, doc], FORMATS) == ("segment-pair", "sentence-pair")
    assert measured_on([full, full], FORMATS) == ("full-sentences",)


def run(loss: float, **scores: float) -> Measured:
    return Measured({"full-sentences": loss}, scores)


def test_gains_by_hand() -> None:
    results = {
        setting("masking", "static"): [run(5.0, sst2=0.8), run(5.2, sst2=0.9), run(5.1, sst2=0.7)],
        setting("masking", "dynamic"): [run(4.9, sst2=0.7), run(5.0, sst2=0.8), run(4.9, sst2=0.6)],
    }
    loss, score = compare(results, 0.95)
    assert (loss.measure, loss.better, loss.worse) == (LOSS, "dynamic", "static")
    assert loss.gains == pytest.approx((0.1, 0.2, 0.2))
    assert loss.measured_on == ("full-sentences",)
    assert (loss.verdict, loss.is_printed) == ("agrees", False)
    assert score.gains == pytest.approx((-0.1, -0.1, -0.1))
    assert (score.verdict, score.is_printed, score.measured_on) == ("disagrees", True, ())


def test_the_home_game_does_not_count() -> None:
    def formats(home: float, away: float, packing: str) -> list[Measured]:
        return [
            Measured({name: home if name == packing else away + seed / 100 for name in FORMATS}, {})
            for seed in range(3)
        ]

    # doc-sentences is worse wherever it is not at home, and far better there.
    losses = {name: (1.0, 5.0) if name == "doc-sentences" else (4.0, 4.0) for name in FORMATS}
    results = {setting("formats", name, name): formats(*losses[name], name) for name in FORMATS}
    found = {(each.better, each.worse): each.verdict for each in compare(results, 0.95)}
    assert found["doc-sentences", "full-sentences"] == "disagrees"
    assert found["doc-sentences", "segment-pair"] == "disagrees"
    assert found["segment-pair", "sentence-pair"] == "undecided"  # equal to the last digit

"""What is left of a source step by step: the order of steps, and that nothing is lost between."""

import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from corpus.recipe import Clean
from pipeline.dedup import METHODS
from pipeline.funnel_report import bars_of, steps_of, what_is_left
from pipeline.rules import RULES, thresholds

CONFIG = Clean(rules=("c4", "gopher_quality"), user_rules=("mine:z@12", "mine:a@12"))
ALL = Clean(rules=("gopher_repetition", "gopher_quality", "c4", "fineweb"))


def test_steps_stand_in_the_order_that_a_record_meets_them() -> None:
    rules = (
        *("minhash", "same_id", "user_a", "user_z", "contaminated", "gopher_min_words"),
        *("c4_curly_bracket", "language_score", "language_not_kept", "empty", "page_not_text"),
        *("url_blocked", "invalid_json", "http_status", "forgotten", "c4_lorem_ipsum"),
    )
    assert steps_of(CONFIG, {**dict.fromkeys(rules, 2), "exact": 0}) == [
        ("reading", 4), ("url_blocked", 2), ("page_not_text", 2), ("empty", 2),
        ("language_not_kept", 2), ("language_score", 2),
        ("c4_lorem_ipsum", 2), ("c4_curly_bracket", 2), ("gopher_min_words", 2),
        ("contaminated", 2), ("user_z", 2), ("user_a", 2), ("forgotten", 2),
        ("same_id", 2), ("minhash", 2),
    ]  # fmt: skip


def test_where_rules_are_many_a_set_is_one_step() -> None:
    every = dict.fromkeys([*thresholds(ALL), *METHODS, "empty"], 1)
    assert [step for step, _ in steps_of(ALL, every)] == ["no text", *ALL.rules, *METHODS]


counts = st.dictionaries(
    st.sampled_from([*(rule.name for rule in RULES), *METHODS, "empty", "odd"]), st.integers(0, 9)
)


@given(st.integers(0, 9), counts)
def test_each_step_leaves_what_it_did_not_drop(kept: int, dropped: dict[str, int]) -> None:
    drawn = bars_of(ALL, {"documents": kept, "dropped": dropped})
    assert drawn[0].values == (kept + sum(dropped.values()), 0, 0)
    for before, after in pairwise(drawn):
        assert sum(after.values) == before.values[0]
        assert before.whole == after.whole == drawn[0].values[0]
    assert drawn[-1].values[0] == kept
    duplicates = sum(bar.values[1] for bar in drawn)
    assert duplicates == sum(dropped.get(method, 0) for method in METHODS)


def test_the_largest_sources_are_drawn_by_name() -> None:
    sources = {f"s{n}": {"documents": 100 * (n != 3), "dropped": {"exact": 100}} for n in range(9)}
    drawn = list(what_is_left(CONFIG, sources))
    assert drawn == list(what_is_left(CONFIG, dict(reversed(sources.items()))))
    shown = ET.fromstring(f"<div>{''.join(drawn)}</div>")
    titles = [each.text or "" for each in shown.iter("title")]
    assert [title.split()[4] for title in titles] == [f"s{n}" for n in range(9) if n != 3]
    labels = [each.text for each in shown.iter("text") if "left," in (each.text or "")]
    assert labels == ["exact: 100 left, 100 dropped"] * 8
    boxes = [each for each in next(shown.iter("svg")).iter("rect") if each.get("y") != "2"]
    assert [(each.get("class"), each.get("x"), each.get("width")) for each in boxes] == [
        ("kept", "0.0", "420.0"), ("kept", "0.0", "210.0"), ("duplicate", "210.0", "210.0"),
    ]  # fmt: skip

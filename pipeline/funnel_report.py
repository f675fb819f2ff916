"""The report's picture of each source step by step: how many records are left after every rule.

Steps stand in the order in which a record meets them: reading, the chain of cleaning
(`pipeline/chain.py`) with its sets of rules as the recipe lists them, take-downs, duplicates. So a
source shows at a glance where it loses most, and beside which other source it does. Everything
comes from the counts of the manifest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpus.recipe import Clean
from pipeline import pictures
from pipeline.dedup import METHODS
from pipeline.languages import SCORE
from pipeline.pictures import Bar, Html
from pipeline.rules import BY_NAME, thresholds

# Of sources and of steps: more are no picture any more; the tables beside have all.
_SOURCES, _STEPS = 8, 24
_KINDS = (("kept", "left"), ("duplicate", "duplicates"), ("rule", "dropped by the step"))

_PAGE = "page_"  # what the rules begin with that refuse a page (`pipeline/html.py`)

Entry = Mapping[str, Any]  # of a source: `documents` kept, and `dropped` by rule


def what_is_left(config: Clean, sources: Mapping[str, Entry]) -> Iterator[Html]:
    """Draw, source by source, the records that are left after each step; the largest sources."""
    came = {source: came_of(entry) for source, entry in sources.items()}
    largest = sorted(sources, key=lambda source: (-came[source], source))[:_SOURCES]
    for source in sorted(largest):
        title = f"What is left of {source} after each step that dropped something"
        yield pictures.bars(title, _KINDS, bars_of(config, sources[source]))


def came_of(entry: Entry) -> int:
    """Count the records of a source."""
    return sum((entry["documents"], *entry["dropped"].values()))


def bars_of(config: Clean, entry: Entry) -> list[Bar]:
    """Return a bar of all records, and one a step of what it leaves and what it drops."""
    came = left = came_of(entry)
    drawn = [Bar(f"records in: {came:,}", (came, 0, 0), came)]
    for step, count in steps_of(config, entry["dropped"]):
        left -= count
        by_duplicates = count if step in METHODS else 0
        values = (left, by_duplicates, count - by_duplicates)
        drawn.append(Bar(f"{step}: {left:,} left, {count:,} dropped", values, came))
    return drawn


def steps_of(config: Clean, dropped: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the rules that dropped something in the order of steps, or sets where rules are many.

    What reading drops is one step.
    """
    stages = _stages(config)
    order = {
        rule: (number, place)
        for number, (_, rules) in enumerate(stages)
        for place, rule in enumerate(rules)
    }
    placed = sorted((order.get(_known(rule), (0, 0)), rule) for rule in dropped if dropped[rule])
    are_many = len(placed) > _STEPS
    counted = Counter[str]()
    for (number, _), rule in placed:
        name, rules = stages[number]
        whole = not number or (are_many and rules != METHODS)
        counted[name if whole else rule] += dropped[rule]
    return list(counted.items())


def _stages(config: Clean) -> list[tuple[str, Sequence[str]]]:
    """Return the steps by name with the rules of each, in order; reading has all the others."""
    limits = thresholds(config)
    sets = [
        (preset, tuple(rule for rule in limits if BY_NAME[rule].preset == preset))
        for preset in config.rules
    ]
    own = [spec.partition("@")[0].rpartition(":")[2] for spec in config.user_rules]
    return [
        ("reading", ()),
        ("URL lists", ("url_blocked",)),
        ("page to text", (_PAGE,)),
        ("no text", ("empty",)),
        ("language", ("language_not_kept", SCORE)),
        *sets,
        ("decontamination", ("contaminated",)),
        ("own rules", tuple(f"user_{name}" for name in own)),
        ("taken down", ("forgotten",)),
        ("duplicates", METHODS),
    ]


def _known(rule: str) -> str:
    """Return what stands for a rule in the order of steps: one for all that pages can break."""
    return _PAGE if rule.startswith(_PAGE) else rule

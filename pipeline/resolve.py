"""Resolve: the stages of deduplication in order, from the index of every part to its duplicates.

*Group* finds what shares a key, *verify* what is alike, *judge* decides who stays, *resolve* writes
the duplicates of every part. Where there are many pairs, *fetch* comes before verify and brings
together the texts that it compares. Where more documents have an edge than one task shall hold,
*deal* comes before judge and cuts them into shares that no edge joins. What the stages leave below
work/ is deleted with the commit; the records of resolve say that it is not needed any more.
"""

import logging
from collections import Counter
from itertools import pairwise

from corpus.recipe import Dedup
from pipeline import components, dedup, fetch, pairs
from pipeline.components import Found
from pipeline.index import Corpus, within
from pipeline.jobs import Record, Stages, Task

logger = logging.getLogger(__name__)


def deduplicate(config: Dedup, corpus: Corpus, identity: str, stages: Stages) -> dict[str, Record]:
    """Run the stages on the parts that wait for a verdict; `identity` names what they depend on."""
    bounds = [*range(corpus.settled, len(corpus.parts), dedup.PARTS_PER_TASK), len(corpus.parts)]
    spans = list(pairwise(bounds))
    names = _numbered(len(spans), identity)
    judges = []
    if stages.missing("resolve", names):
        found = _find_edges(config, corpus, identity, stages)
        judges = _judge(config, corpus, found, (identity, stages))
    return stages.run(
        "resolve",
        [
            Task(name, dedup.resolve_parts, (config, corpus, (span, judges)))
            for name, span in zip(names, spans, strict=True)
        ],
    )


def _find_edges(config: Dedup, corpus: Corpus, identity: str, stages: Stages) -> Found:
    """Run group and verify, and deal where it is needed; return the names of their tasks."""
    # Each task of a refresh opens all old parts.
    most = len(corpus.new_parts) if corpus.settled else config.partitions
    total = max(1, min(config.partitions, most))
    groups = _numbered(total, identity)
    grouped = stages.run(
        "group",
        [
            Task(name, pairs.group_partition, (corpus, (number, total), config.memory_bytes))
            for number, name in enumerate(groups)
        ],
    )
    counts = _sum_counts(grouped)
    if counts["large_buckets"]:
        logger.info("group: %d large buckets, compared in judge", counts["large_buckets"])
    tasks = -(-(counts["pairs"] + counts["large_members"]) // pairs.PAIRS_PER_TASK)
    tasks = max(tasks, min(total, stages.workers))
    # Where shares are cut depends on the groups; those cut by other groups are not to be mixed in.
    cut = f"{total}-{identity}"
    checks = _numbered(tasks, cut)
    is_fetched = counts["pairs"] >= fetch.LEAST_PAIRS
    fetched = _fetch(config, corpus, (tasks, groups, cut), stages) if is_fetched else []
    verified = stages.run(
        "verify",
        [
            Task(name, pairs.verify_share, (config, corpus, (number, tasks, groups), fetched))
            for number, name in enumerate(checks)
        ],
    )
    # A document with an edge is counted once at least, many are several times.
    at_most = counts["members"] + counts["large_members"] + 2 * _sum_counts(verified)["verified"]
    is_large = at_most > within(config.memory_bytes, components.DOCUMENTS_PER_SHARE)
    return Found(tuple(groups), tuple(checks), f"deal-{cut}" if is_large else None)


def _fetch(
    config: Dedup, corpus: Corpus, wanted_by: tuple[int, list[str], str], stages: Stages
) -> list[str]:
    """Fetch the texts that verify tasks want of the new parts; return the files.

    `wanted_by`: how many tasks, of which groups, and what names them.
    """
    tasks, groups, cut = wanted_by
    if not stages.missing("verify", _numbered(tasks, cut)):
        return []
    # Of a pair the second is new: settled documents are not paired with each other.
    each = max(1, min(fetch.PARTS_PER_TASK, len(corpus.new_parts) // stages.workers))
    bounds = [*range(corpus.settled, len(corpus.parts), each), len(corpus.parts)]
    done = stages.run(
        "fetch",
        [
            Task(
                f"{first:06d}-{stop:06d}-{tasks}-{cut}",
                fetch.fetch_texts,
                (corpus, (first, stop), (tasks, groups), config.memory_bytes),
            )
            for first, stop in pairwise(bounds)
        ],
    )
    return [file["path"] for record in done.values() for file in record.files]


def _judge(config: Dedup, corpus: Corpus, found: Found, given: tuple[str, Stages]) -> list[str]:
    """Run judge, on shares where there is much to decide; return the names of its tasks."""
    identity, stages = given
    shares = 1 if found.dealt is None else _deal(corpus, found, config.memory_bytes, stages)
    names = _numbered(shares, f"{len(found.groups)}-{identity}")
    stages.run(
        "judge",
        [
            Task(name, dedup.judge_share, (config, corpus, (found, number)))
            for number, name in enumerate(names)
        ],
    )
    return names


def _deal(corpus: Corpus, found: Found, memory_bytes: int, stages: Stages) -> int:
    """Deal components to shares; return how many shares there are."""
    limit = within(memory_bytes, components.DOCUMENTS_PER_SHARE)
    name = found.dealt
    assert name is not None
    task = Task(name, components.deal_components, (corpus, found, limit, memory_bytes))
    dealt = stages.run("deal", [task])[name].counts
    if dealt["largest"] > limit:
        logger.warning(
            "deal: %d documents hang together and are judged by one task, %d is the aim",
            dealt["largest"],
            limit,
        )
    return int(dealt["shares"])


def _numbered(tasks: int, identity: str) -> list[str]:
    return [f"{number:05d}-of-{tasks:05d}-{identity}" for number in range(tasks)]


def _sum_counts(records: dict[str, Record]) -> Counter[str]:
    total = Counter[str]()
    for record in records.values():
        total.update(record.counts)
    return total

"""Forget: a take-down, as a new snapshot without some documents.

The documents are named by id, by URL prefix or by source; whatever has the text of a named one goes
too. They join the store's suppression list first, so that no later delivery brings them back; then
the snapshot is made that is without them (takedown.py).

Old snapshots stay readable. `purge` deletes what holds the text from their directories and marks
each that held it withdrawn. Tokenizer merges, learned lists, checkpoints, exports and raw inputs
are out of reach: they are listed by path.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from corpus.files import check_absolute_in_job, create, exists, read_bytes
from corpus.forgotten import Forgotten, forgotten_path, hash_id, read_forgotten, read_takedown
from corpus.lease import Lease, holding
from corpus.recipe import LABEL_PATTERN
from corpus.snapshots import Snapshot, find_snapshot, open_snapshot
from pipeline.outcome import Outcome
from pipeline.purge import find_holdings, labels_that_hold
from pipeline.takedown import HELD, finish_killed, point_head_at, read_identities

logger = logging.getLogger(__name__)

# What every URL of a scheme begins with: left over where a variable of the shell was not set.
_NO_HOST = re.compile(r"[a-z][a-z0-9+.-]*:/*", re.IGNORECASE)


class Request(NamedTuple):
    """What is to be forgotten."""

    ids: tuple[str, ...] = ()
    url_prefixes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def forget(store: str, label: str, request: Request, workers: int | None = None) -> Outcome:
    """Take documents out of a store; the new snapshot is called `label`."""
    _check_words(label, request)
    complete = find_snapshot(store, label)
    if complete is not None:
        _check_same_request(store, label, request)
        point_head_at(store, complete)
        return Outcome(complete, 0, 0.0, {})
    check_absolute_in_job("store", store)
    open_snapshot(store)  # where no store is, no lease shall be left either
    with holding(store, f"take-down {label}") as lease:
        return _forget(store, label, request, (workers, lease))


def _forget(store: str, label: str, request: Request, given: tuple[int | None, Lease]) -> Outcome:
    start = time.perf_counter()
    finished = finish_killed(store, *given)  # an earlier one, or this one begun before
    complete = find_snapshot(store, label)
    if complete is not None:
        _check_same_request(store, label, request)
        if finished is not None and finished.snapshot.label == label:
            return finished
        return Outcome(complete, 0, time.perf_counter() - start, {})
    parent = open_snapshot(store)
    _check_sources(parent, request)
    listed = make_list(store, parent, request)
    if not create(forgotten_path(store, label), listed.to_bytes()):
        _check_same_request(store, label, request)
    outcome = finish_killed(store, *given)
    if outcome is not None:
        return outcome
    logger.info("no document of %s is on the list: no snapshot is made", parent.label)
    return Outcome(parent, 0, time.perf_counter() - start, {})


def _check_words(label: str, request: Request) -> None:
    """Refuse what names nothing or everything, before it is written down for good."""
    if re.fullmatch(LABEL_PATTERN, label) is None:
        raise ValueError(f"{label!r} is no label: it has to match {LABEL_PATTERN}")
    if not any(request):
        raise ValueError("nothing to forget: name ids, URL prefixes or sources")
    for kind, words in (
        ("id", request.ids),
        ("URL prefix", request.url_prefixes),
        ("source", request.sources),
    ):
        if not all(word.strip() for word in words):
            raise ValueError(f"an empty {kind} is given: is a variable not set? nothing was done")
    for prefix in request.url_prefixes:
        if _NO_HOST.fullmatch(prefix):
            raise ValueError(f"the URL prefix {prefix} names no host: nothing was done")


def _check_sources(parent: Snapshot, request: Request) -> None:
    known = {part.source for part in parent.parts}
    for source in request.sources:
        if source not in known:
            raise ValueError(f"there is no source {source}; there are {', '.join(sorted(known))}")


def _check_same_request(store: str, label: str, request: Request) -> None:
    if not exists(forgotten_path(store, label)):
        raise ValueError(f"{store} holds a snapshot {label} already: give another label")
    stored = read_takedown(store, label)
    if (stored.ids, stored.url_prefixes, stored.sources) != (
        frozenset(map(hash_id, request.ids)),
        frozenset(request.url_prefixes),
        frozenset(request.sources),
    ):
        raise ValueError(f"{label} is another take-down: give this one a label of its own")


def make_list(store: str, parent: Snapshot, request: Request) -> Forgotten:
    """Return what joins the suppression list: the request and the texts that it names."""
    named = Forgotten(
        ids=frozenset(map(hash_id, request.ids)),
        url_prefixes=frozenset(request.url_prefixes),
    )
    texts: set[str] = set()
    for _, rows in read_identities(parent, parent.tree(store)):
        texts |= {row["text_hash"].hex() for row in rows if named.covers(row)}
    return Forgotten(
        ids=named.ids,
        texts=frozenset(texts),
        url_prefixes=named.url_prefixes,
        sources=frozenset(request.sources),
    )


def read_ids(path: str) -> list[str]:
    """Read document ids, one a line; white space around them is none of theirs."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None


def tell(store: str, label: str, request: Request, outcome: Outcome) -> Iterator[str]:
    """Give what a take-down did and what held the documents, as lines of text."""
    snapshot = outcome.snapshot
    known = {hash_id(identity): identity for identity in request.ids}
    if snapshot.label != label:
        yield f"{snapshot.label} holds none of them; they stay out from now on"
        for found in find_holdings(store, read_takedown(store, label)):
            yield _tell_holding(found._asdict() | {"document": hash_id(found.document)}, known)
        labels = labels_that_hold(store, read_forgotten(store))
        if labels:
            yield f"text on the list is still in {', '.join(labels)}: `--purge` deletes it there"
        return
    yield f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s"
    yield f"{label} {snapshot.fingerprint} is without them"
    held = orjson.loads(read_bytes(snapshot.tree(store).own(HELD)))
    yield from (_tell_holding(each, known) for each in held["sequences"])
    yield from (f"out of reach: {each}" for each in held["out_of_reach"])


def _tell_holding(held: Mapping[str, Any], known: Mapping[str, str]) -> str:
    name = known.get(held["document"], f"document {held['document'][:16]}")
    rows = f"rows {held['first_row']} to {held['last_row']} of {held['shard']}"
    return f"{name}: {rows}, in {', '.join(held['snapshots'])}"

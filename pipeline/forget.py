"""Forget: a take-down, as a new snapshot without some documents.

The documents are named by id, by URL prefix or by source; whatever has the text of a named one goes
too. They join the store's suppression list first, so that no later delivery brings them back; then
the snapshot is made that is without them (takedown.py).

Old snapshots stay readable. `purge` deletes what holds the text from their directories and marks
each that held it withdrawn. Tokenizer merges, learned lists, checkpoints, exports and raw inputs
are out of reach: they are listed by path. `preview` tells before what would go.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson

from corpus.files import check_absolute_in_job, check_no_file_url, create, exists, read_bytes
from corpus.forgotten import Forgotten, forgotten_path, hash_id, read_forgotten, read_takedown
from corpus.lease import Lease, holding
from corpus.recipe import LABEL_PATTERN
from corpus.snapshots import (
    Snapshot,
    Tree,
    find_snapshot,
    list_snapshots,
    open_snapshot,
    read_manifest,
)
from pipeline.explain import Store
from pipeline.jobs import HERE, LOOKS, Pool
from pipeline.outcome import Outcome
from pipeline.parquet import read_table
from pipeline.purge import covered_by, find_holdings, labels_that_hold
from pipeline.takedown import (
    HELD,
    Held,
    finish_killed,
    identity_files,
    point_head_at,
    read_identities,
)

logger = logging.getLogger(__name__)

# What a URL prefix has to begin with, or `h` and `https:` would take out nearly all that has a URL.
# URLs that are written without a scheme are told by a dot before the first slash.
_HOST = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#]|[^\s/?#:]+\.[^\s/?#:]+/", re.IGNORECASE)
# Ids, prefixes or rows that are told one by one; the others are counted. Guess.
_MAX_NAMED = 10


class Request(NamedTuple):
    """What is to be forgotten."""

    ids: tuple[str, ...] = ()
    url_prefixes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def forget(store: str, label: str, request: Request, pool: Pool = HERE) -> Outcome:
    """Take documents out of a store; the new snapshot is called `label`."""
    _check_words(label, request)
    check_no_file_url("store", store)
    complete = find_snapshot(store, label)
    if complete is not None:
        _check_same_request(store, label, request)
        point_head_at(store, complete)
        return Outcome(complete, 0, 0.0, {})
    check_absolute_in_job("store", store)
    open_snapshot(store)  # where no store is, no lease shall be left either
    with holding(store, f"take-down {label}") as lease:
        return _forget(store, label, request, (pool, lease))


def _forget(store: str, label: str, request: Request, given: tuple[Pool, Lease]) -> Outcome:
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
    listed = make_list(store, parent, request, given[0])
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
        if not _HOST.match(prefix):
            raise ValueError(
                f"the URL prefix {prefix} names no host: write it as https://example.com/, as the "
                "documents' URLs begin; nothing was done"
            )


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


def make_list(store: str, parent: Snapshot, request: Request, pool: Pool = HERE) -> Forgotten:
    """Return what joins the suppression list: the request and the texts that it names."""
    named = Forgotten(
        ids=frozenset(map(hash_id, request.ids)),
        url_prefixes=frozenset(request.url_prefixes),
    )
    found = pool.map(
        "take-down", _texts_named, identity_files(parent), parent.tree(store), named, least=LOOKS
    )
    return Forgotten(
        ids=named.ids,
        texts=frozenset().union(*found),
        url_prefixes=named.url_prefixes,
        sources=frozenset(request.sources),
    )


def _texts_named(held: Held, tree: Tree, named: Forgotten) -> set[str]:
    """Return the hashes of the texts of a part's documents that are named."""
    documents = read_identities(held, tree)
    hashes = documents.filter(named.which(documents))["text_hash"]
    return {digest.hex() for digest in hashes.to_pylist()}


def read_ids(path: str) -> list[str]:
    """Read document ids, one a line; white space around them is none of theirs."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--ids {path} is not UTF-8: {error}") from None
    except FileNotFoundError:
        raise ValueError(f"--ids {path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"--ids {path} is a directory, expected a file of ids") from None
    except OSError as error:
        raise ValueError(f"--ids {path} cannot be read: {error.strerror or error}") from error


def preview(store: str, label: str, request: Request, pool: Pool = HERE) -> Iterator[str]:
    """Give what a take-down would take out of the newest snapshot; nothing is written.

    What comes back for it, as a near-duplicate of what went, is known once it is done.
    """
    _check_words(label, request)
    check_no_file_url("store", store)
    if find_snapshot(store, label) is not None or exists(forgotten_path(store, label)):
        _check_same_request(store, label, request)
    parent = open_snapshot(store)
    _check_sources(parent, request)
    listed = make_list(store, parent, request, pool)
    covered = list(covered_by(Store(store, parent.tree(store), parent), listed, pool))
    kept = [row["id"] for row, is_kept in covered if is_kept]
    yield "nothing is written: this is what would go"
    yield (
        f"{parent.label} would lose {len(kept):,} of {parent.counts.documents_kept:,} kept "
        f"documents and {len(covered) - len(kept):,} dropped duplicates"
    )
    if kept:
        yield f"kept ones: {_first(kept)}"
    found = [each._asdict() for each in find_holdings(store, listed, pool)]
    yield from _tell_holdings(found, {name: name for name in kept})
    yield from _tell_uncovered(store, request, pool)
    yield from _tell_spared(store, parent, request, pool)


def tell(
    store: str, label: str, request: Request, outcome: Outcome, pool: Pool = HERE
) -> Iterator[str]:
    """Give what a take-down did, what held the documents and what none has, as lines of text."""
    yield from _tell_taken(store, label, request, outcome, pool)
    yield from _tell_uncovered(store, request, pool)
    yield from _tell_spared(store, outcome.snapshot, request, pool)


def _tell_taken(
    store: str, label: str, request: Request, outcome: Outcome, pool: Pool
) -> Iterator[str]:
    snapshot = outcome.snapshot
    known = {hash_id(identity): identity for identity in request.ids}
    if snapshot.label != label:
        yield f"{snapshot.label} holds none of them; they stay out from now on"
        found = find_holdings(store, read_takedown(store, label), pool)
        hashed = [each._asdict() | {"document": hash_id(each.document)} for each in found]
        yield from _tell_holdings(hashed, known, f"the {HELD} of the take-downs that took them out")
        labels = labels_that_hold(store, read_forgotten(store), pool)
        if labels:
            yield f"text on the list is still in {', '.join(labels)}: `--purge` deletes it there"
        return
    yield f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s"
    yield f"{label} {snapshot.fingerprint} is without them"
    path = snapshot.tree(store).own(HELD)
    held = orjson.loads(read_bytes(path))
    if held.get("documents") is not None:  # an older version did not count them
        yield _tell_documents(Counter(held["documents"]), snapshot.counts.documents_kept)
    yield from _tell_holdings(held["sequences"], known, path)
    yield from (f"out of reach: {each}" for each in held["out_of_reach"])


def _tell_documents(counted: Mapping[str, int], kept: int) -> str:
    """Say how many documents went, what became of others for it, and how many are left."""
    return (
        f"documents: {counted['kept']:,} kept ones and {counted['dropped']:,} dropped duplicates "
        f"are gone, {counted['came_back']:,} came back, {counted['evicted']:,} went as duplicates "
        f"of those; {kept:,} are kept now"
    )


def _tell_holdings(
    held: Sequence[Mapping[str, Any]], known: Mapping[str, str], lists: str | None = None
) -> Iterator[str]:
    """Count the rows that held the documents; give the first, those of named documents before."""
    if not held:
        return
    rows = {
        (each["shard"], row)
        for each in held
        for row in range(each["first_row"], each["last_row"] + 1)
    }
    shards = {each["shard"] for each in held}
    snapshots = sorted({label for each in held for label in each["snapshots"]})
    yield f"held by {len(rows):,} rows of {len(shards):,} shards, in {', '.join(snapshots)}"
    ordered = sorted(held, key=lambda each: each["document"] not in known)
    yield from (_tell_holding(each, known) for each in ordered[:_MAX_NAMED])
    more = [f"{len(held) - _MAX_NAMED:,} more"] if len(held) > _MAX_NAMED else []
    told = [*more, *([f"all are listed in {lists}"] if lists else ())]
    if told:
        yield "; ".join(told)


def _tell_holding(held: Mapping[str, Any], known: Mapping[str, str]) -> str:
    name = known.get(held["document"], f"document {held['document'][:16]}")
    rows = f"rows {held['first_row']} to {held['last_row']} of {held['shard']}"
    return f"{name}: {rows}, in {', '.join(held['snapshots'])}"


def _tell_uncovered(store: str, request: Request, pool: Pool) -> Iterator[str]:
    """Count and name the ids and prefixes that no document has: one may be misspelt."""
    wanted = frozenset(request.ids), request.url_prefixes
    paths = _identity_tables(store) if any(wanted) else []
    found: tuple[set[str], set[str]] = set(), set()
    for ids, prefixes in pool.map("names", _covering, paths, *wanted, least=LOOKS):
        found[0].update(ids)
        found[1].update(prefixes)
    left = [
        [each for each in dict.fromkeys(asked) if each not in those]
        for asked, those in zip((request.ids, request.url_prefixes), found, strict=True)
    ]
    hint = "" if all("/" in each for each in left[0]) else "; ids read SOURCE/KEY"
    if left[0]:
        yield f"{_count(left[0], len(wanted[0]), 'ids')}{hint}"
    if left[1]:
        yield _count(left[1], len(set(wanted[1])), "URL prefixes")


def _covering(
    path: str, ids: frozenset[str], prefixes: tuple[str, ...]
) -> tuple[set[str], set[str]]:
    """Return which of some ids and prefixes a document of a table has."""
    documents = read_table(path, columns=["id", "url"])
    urls = documents["url"].drop_null().to_pylist() if prefixes else ()
    covered = [url for url in urls if url.startswith(prefixes)]
    return (
        {identity for identity in documents["id"].to_pylist() if identity in ids},
        {prefix for prefix in prefixes if any(url.startswith(prefix) for url in covered)},
    )


def _identity_tables(store: str) -> list[str]:
    """Return the tables with the documents of all snapshots, but for what was purged."""
    paths = set()
    for label in list_snapshots(store):
        snapshot = read_manifest(store, label)
        assert snapshot is not None
        names = [each.path for each in snapshot.files]
        tree = snapshot.tree(store)
        paths |= {tree.find(each) for each in names if each.startswith(("clean/", "nearest/"))}
    return sorted(filter(exists, paths))


def _count(names: Collection[str], asked: int, kind: str) -> str:
    return (
        f"{len(names):,} of {asked:,} {kind} cover no document that a snapshot holds, and are "
        f"to stay out: {_first(names)}"
    )


def _first(names: Collection[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(islice(names, _MAX_NAMED)) + more


def _tell_spared(store: str, snapshot: Snapshot, request: Request, pool: Pool) -> Iterator[str]:
    """Name a document for every prefix whose host another URL writes in other letters."""
    wanted = {_with_plain_host(prefix): prefix for prefix in request.url_prefixes}
    parts = identity_files(snapshot) if wanted else []
    for found in pool.map(
        "names", _spared, parts, snapshot.tree(store), tuple(wanted), least=LOOKS
    ):
        for plain, url in found.items():
            if plain in wanted:
                yield (
                    f"{url} stays: it is covered by {wanted.pop(plain)} but for capitals of the "
                    "host; name it as it is written"
                )


def _spared(held: Held, tree: Tree, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return for some prefixes in plain letters the first URL of a part that each covers."""
    found: dict[str, str] = {}
    for url in read_identities(held, tree)["url"].drop_null().to_pylist():
        plain = _with_plain_host(url)
        covering = wanted if plain.startswith(wanted) else ()
        found = {each: url for each in covering if plain.startswith(each)} | found
    return found


def _with_plain_host(url: str) -> str:
    """Return a URL with scheme and host in lower case, which mean the same (RFC 3986, 6.2.2.1)."""
    start = url.find("/", url.find("://") + 3 if "://" in url else 0)
    return url.lower() if start < 0 else url[:start].lower() + url[start:]

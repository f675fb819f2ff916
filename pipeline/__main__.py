"""The command line of the corpus half: `python -m pipeline COMMAND ...`.

Each command imports what it needs itself, so that `explain` answers before the compiler and the
readers of pages, which it has no use for, would be loaded.
"""

# ruff: noqa: PLC0415

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from corpus.arguments import INTERRUPTED, at_least_one, parse
from corpus.files import absolute, check_absolute_in_job
from corpus.recipe import Recipe, load_recipe
from corpus.snapshots import open_snapshot
from pipeline.outcome import Outcome

# Tasks run side by side; within one, libraries shall not start threads of their own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parsed = parse(_parser(), arguments)
    # Of libraries warnings only: those that speak over a network tell of every request.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for package in ("corpus", "pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        return int(parsed.run(parsed))
    except BrokenPipeError:  # what reads our lines, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # from a worker it comes with a traceback, whose last line says it
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"error: {lines[-1]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_makers(commands)
    _add_viewers(commands)
    return parser


def _add_workers(command: argparse.ArgumentParser, absent: str = "a CPU") -> None:
    help_ = f"parallel tasks; absent: one {absent}"
    command.add_argument("--workers", type=at_least_one, help=help_)


def _add_makers(commands: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    """Add the commands that write."""
    command = commands.add_parser("refresh", help="build the snapshot that a recipe describes")
    command.add_argument("recipe", help="YAML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument(
        "--json", action="store_true", help="print one JSON object; the rest to stderr"
    )
    command.set_defaults(run=_refresh)
    command = commands.add_parser("rebuild", help="make the newest snapshot anew, in one batch")
    command.add_argument("store")
    command.add_argument("into", help="an empty store for the rebuilt snapshot")
    _add_workers(command)
    command.set_defaults(run=_rebuild)
    command = commands.add_parser("forget", help="take documents out, for good")
    command.add_argument("store")
    command.add_argument("--label", required=True, help="label of the new snapshot")
    command.add_argument("--id", action="append", default=[], metavar="DOC_ID")
    command.add_argument("--ids", metavar="FILE", help="a file with one document id a line")
    command.add_argument("--url-prefix", action="append", default=[], metavar="URL")
    command.add_argument("--source", action="append", default=[], metavar="NAME")
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--purge", action="store_true", help="delete their text from all older snapshots too"
    )
    how.add_argument("--dry-run", action="store_true", help="say what would go; write nothing")
    _add_workers(command)
    command.set_defaults(run=_forget)
    command = commands.add_parser("boilerplate", help="learn the lines that documents repeat")
    command.add_argument("recipe", help="YAML file of a store that holds a snapshot")
    command.add_argument("out", help="list to write, JSON lines")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument("--min-documents", type=int, required=True, metavar="N")
    command.set_defaults(run=_boilerplate)
    command = commands.add_parser("stats", help="write every rule's value of every document")
    command.add_argument("recipe", help="YAML file")
    command.add_argument("out", help="directory for the tables")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.set_defaults(run=_stats)


def _add_viewers(commands: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    """Add the commands that read."""
    command = commands.add_parser("diff", help="say what came and went between two snapshots")
    command.add_argument("store")
    command.add_argument("earlier", metavar="A")
    command.add_argument("later", metavar="B")
    command.add_argument("--list", action="store_true", help="name every document")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    _add_workers(command)
    command.set_defaults(run=_diff)
    command = commands.add_parser("clusters", help="count duplicates by the document that stays")
    command.add_argument("store")
    command.add_argument("--table", metavar="FILE", help="write id and size as Parquet")
    command.set_defaults(run=_clusters)
    command = commands.add_parser("schedule", help="print a crontab line and a KubeRay RayCronJob")
    command.add_argument("recipe", help="YAML file")
    command.add_argument("--cron", required=True, metavar='"17 3 * * 1"')
    command.set_defaults(run=_schedule)
    command = commands.add_parser("explain", help="say what became of a document, and why")
    command.add_argument("store")
    command.add_argument("document", metavar="DOC_ID")
    command.set_defaults(run=_explain)
    command = commands.add_parser("audit", help="recompute every proof; exit 1 where one fails")
    command.add_argument("store")
    _add_workers(command, "a CPU, or but one for a small store")
    command.set_defaults(run=_audit)
    command = commands.add_parser("show", help="say what a store holds; decode a row")
    command.add_argument("store")
    command.add_argument("--snapshot", metavar="LABEL", help="absent: the newest")
    command.add_argument("--row", metavar="SNAPSHOT/SOURCE/SPLIT-00000:ROW", help="decode this row")
    command.set_defaults(run=_show)
    command = commands.add_parser("schema", help="print the JSON Schema of a recipe, for editors")
    command.set_defaults(run=_schema)


def _refresh(parsed: argparse.Namespace) -> int:
    from pipeline.refresh import refresh, summarize
    from pipeline.report import REPORT

    recipe = load_recipe(parsed.recipe, parsed.overrides)
    store = absolute(recipe.store)
    # Standard output holds nothing but the object, so that it can be piped: Ray too prints there.
    with redirect_stdout(sys.stderr if parsed.json else sys.stdout):
        outcome = refresh(recipe)
        summary = summarize(outcome.snapshot)
        for line in _tell_refresh(store, outcome, summary):
            print(line)
    report = outcome.snapshot.tree(store).own(REPORT)
    print(json.dumps(summary) if parsed.json else f"report: {report}")
    return 0


def _tell_refresh(store: str, outcome: Outcome, summary: Mapping[str, Any]) -> Iterator[str]:
    """Give what a refresh did, what the snapshot holds and what is odd about it."""
    from pipeline.drift import tell_drift
    from pipeline.losses import tell_lost
    from pipeline.takedown import tell_taken_since

    snapshot = outcome.snapshot
    tasks = f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s"
    yield tasks if outcome.tasks_run else "nothing to do"
    yield from _tell(summary)
    yield from tell_drift(snapshot.parts, snapshot.deliveries)
    yield from tell_lost(snapshot, snapshot.tree(store))
    yield from tell_taken_since(store, snapshot)


def _tell(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lay out a summary: a count of drops by reason as their sum, with the reasons below."""
    for key, value in summary.items():
        whole = sum(value.values()) if isinstance(value, dict) else value
        yield f"{key:>18}  {whole:,}" if isinstance(whole, int) else f"{key:>18}  {whole}"
        if isinstance(value, dict):
            reasons = sorted(value.items(), key=lambda item: (-item[1], item[0]))
            yield from (f"{'':>18}  {count:>11,}  {reason}" for reason, count in reasons)


def _rebuild(parsed: argparse.Namespace) -> int:
    from pipeline.refresh import rebuild

    outcome = rebuild(parsed.store, parsed.into, parsed.workers)
    made, original = outcome.snapshot, open_snapshot(parsed.store)
    print(f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s")
    if made.fingerprint != original.fingerprint:
        print(f"differs: {original.fingerprint} in {parsed.store}, {made.fingerprint} rebuilt")
        return 1
    print(f"{made.label} {made.fingerprint}: the rebuild is equal")
    return 0


def _forget(parsed: argparse.Namespace) -> int:
    from pipeline.forget import Request, forget, preview, read_ids, tell
    from pipeline.jobs import Pool
    from pipeline.purge import purge

    ids = [*parsed.id, *(read_ids(parsed.ids) if parsed.ids is not None else ())]
    request = Request(tuple(ids), tuple(parsed.url_prefix), tuple(parsed.source))
    check_absolute_in_job("store", parsed.store)
    store = absolute(parsed.store)
    with Pool(parsed.workers) as pool:
        if parsed.dry_run:
            for line in preview(store, parsed.label, request, pool):
                print(line)
            return 0
        outcome = forget(store, parsed.label, request, pool)
        for line in tell(store, parsed.label, request, outcome, pool):
            print(line)
        if parsed.purge:
            labels = purge(store, pool)
            print(f"withdrawn: {', '.join(labels) or 'no snapshot, none held them'}")
    if outcome.snapshot.label == parsed.label:
        print(f"set `snapshot: {parsed.label}` in the recipe to train without them")
    return 0


def _boilerplate(parsed: argparse.Namespace) -> int:
    from pipeline.repeats import boilerplate

    recipe = load_recipe(parsed.recipe, parsed.overrides)
    for line in boilerplate(recipe, parsed.out, parsed.min_documents):
        print(line)
    return 0


def _stats(parsed: argparse.Namespace) -> int:
    from pipeline.survey import survey

    for line in survey(load_recipe(parsed.recipe, parsed.overrides), parsed.out):
        print(line)
    return 0


def _diff(parsed: argparse.Namespace) -> int:
    from pipeline.diff import describe, to_json
    from pipeline.explain import open_store
    from pipeline.jobs import Pool

    check_absolute_in_job("store", parsed.store)
    root = absolute(parsed.store)
    earlier, later = (open_store(root, label) for label in (parsed.earlier, parsed.later))
    with Pool(parsed.workers) as pool:
        if parsed.json:
            sys.stdout.writelines(to_json(earlier, later, pool))
            print()
            return 0
        for line in describe(earlier, later, pool, parsed.list):
            print(line)
    return 0


def _clusters(parsed: argparse.Namespace) -> int:
    from pipeline.clusters import clusters
    from pipeline.explain import open_store

    for line in clusters(open_store(parsed.store), parsed.table):
        print(line)
    return 0


def _schedule(parsed: argparse.Namespace) -> int:
    from pipeline.schedule import schedule

    for line in schedule(parsed.recipe, parsed.cron):
        print(line)
    return 0


def _explain(parsed: argparse.Namespace) -> int:
    from pipeline.explain import explain, open_store

    for line in explain(open_store(parsed.store), parsed.document):
        print(line)
    return 0


def _audit(parsed: argparse.Namespace) -> int:
    from pipeline.explain import open_store
    from pipeline.jobs import Pool
    from pipeline.proofs import audit, workers_for

    check_absolute_in_job("store", parsed.store)
    store = open_store(absolute(parsed.store))
    with Pool(parsed.workers or workers_for(store.snapshot)) as pool:
        outcome = audit(store, pool)
    for line in outcome.not_checked:
        print(f"not checked: {line}")
    for line in outcome.problems:
        print(f"wrong: {line}")
    if outcome.problems:
        print(f"{len(outcome.problems)} things are wrong with {store.snapshot.label}")
        return 1
    print(f"{store.snapshot.label} {store.snapshot.fingerprint}: every proof holds")
    return 0


def _show(parsed: argparse.Namespace) -> int:
    from pipeline.explain import open_store, show, show_row

    store = open_store(parsed.store, parsed.snapshot)
    for line in show_row(store, parsed.row) if parsed.row else show(store):
        print(line)
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(Recipe.model_json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the corpus half: `python -m pipeline COMMAND ...`."""

import argparse
import json
import logging
import os
import sys

from corpus.recipe import Recipe, load_recipe
from pipeline.explain import explain, open_store, show, show_row
from pipeline.proofs import audit
from pipeline.refresh import refresh, summarize

# Tasks run side by side; within one, libraries shall not start threads of their own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parsed = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return int(parsed.run(parsed))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; overrides may stand before or after options."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(parsed, "overrides") and all(map(_is_override, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("refresh", help="build the snapshot that a recipe describes")
    command.add_argument("recipe", help="YAML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    command.set_defaults(run=_refresh)
    command = commands.add_parser("explain", help="say what became of a document, and why")
    command.add_argument("store")
    command.add_argument("document", metavar="DOC_ID")
    command.set_defaults(run=_explain)
    command = commands.add_parser("audit", help="recompute every proof; exit 1 where one fails")
    command.add_argument("store")
    command.set_defaults(run=_audit)
    command = commands.add_parser("show", help="say what a store holds; decode a row")
    command.add_argument("store")
    command.add_argument("--row", metavar="SOURCE/SPLIT-00000:ROW", help="decode this row")
    command.set_defaults(run=_show)
    command = commands.add_parser("schema", help="print the JSON Schema of a recipe, for editors")
    command.set_defaults(run=_schema)
    return parser


def _refresh(parsed: argparse.Namespace) -> int:
    outcome = refresh(load_recipe(parsed.recipe, parsed.overrides))
    summary = summarize(outcome.snapshot)
    if outcome.tasks_run:
        print(f"{outcome.tasks_run} tasks in {outcome.elapsed_seconds:.1f} s")
    else:
        print("nothing to do")
    for key, value in summary.items():
        print(f"{key:>18}  {value}")
    if parsed.json:
        print(json.dumps(summary))
    return 0


def _explain(parsed: argparse.Namespace) -> int:
    for line in explain(open_store(parsed.store), parsed.document):
        print(line)
    return 0


def _audit(parsed: argparse.Namespace) -> int:
    store = open_store(parsed.store)
    outcome = audit(store)
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
    store = open_store(parsed.store)
    for line in show_row(store, parsed.row) if parsed.row else show(store):
        print(line)
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(Recipe.model_json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

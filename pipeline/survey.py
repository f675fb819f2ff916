"""Statistics of raw files without a verdict: every rule's value of every document, nothing dropped.

`python -m pipeline stats RECIPE OUT` reads the recipe's inputs, cleans each text as a refresh would
and writes the value that each rule of all sets would look at, beside id, place and language. So
thresholds can be set by what a corpus holds. What cannot be read, or has no text, is counted.

The values of one way of cleaning lie in a directory of their own, so another way, or another code,
reads the files again, and another threshold does not: but for those of C4's rules on lines, which
change the text that later sets see.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from corpus.archives import InputFile
from corpus.files import join
from corpus.readers import read_records
from corpus.recipe import Clean, Recipe
from corpus.records import Record
from corpus.snapshots import Input, Tree
from pipeline.chain import open_chain, record_id
from pipeline.clean import batches, input_name
from pipeline.inputs import find_inputs
from pipeline.jobs import Output, Stages, Task
from pipeline.judging import statistics_table
from pipeline.parquet import read_table, write_table
from pipeline.refresh import code_versions, with_absolute_store
from pipeline.rules import BY_NAME, PRESETS, Limits, Rule, thresholds
from pipeline.settled import keep_lists, settle

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_SHOWN = ("1 %", "10 %", "50 %", "90 %", "99 %")


def survey(recipe: Recipe, out: str) -> Iterator[str]:
    """Write the statistics of all inputs below OUT; give a table of them, line by line."""
    limits = thresholds(recipe.clean)
    recipe = with_absolute_store(recipe.model_copy(update={"store": out}))
    config, lists = settle(_without_verdicts(recipe.clean))
    keep_lists(recipe.store, lists)
    inputs, _ = find_inputs(recipe)
    stages = Stages(Tree(recipe.store), recipe.workers)
    directory = _identify(config)
    try:
        done = stages.run(
            "statistics",
            [
                Task(f"{directory}-{input_name(each)}", measure_file, arguments)
                for each in inputs
                for arguments in [(each, recipe.store, config, f"statistics/{directory}")]
            ],
        )
    finally:
        stages.close()
    counted: Counter[str] = Counter()
    for record in done.values():
        counted.update(record.counts)
    yield ", ".join(f"{count:,} {what}" for what, count in sorted(counted.items()))
    paths = [path["path"] for each in done.values() for path in each.files]
    yield from _tell(recipe.store, paths, limits)
    yield f"the values lie in {join(recipe.store, 'statistics', directory)}"


def _without_verdicts(config: Clean) -> Clean:
    """Return a section that cleans texts in the same way and lets all of them pass.

    Of its thresholds those stay that say which lines C4 takes out.
    """
    languages = config.languages.model_copy(update={"keep": (), "min_score": 0})
    on_lines = {name: limit for name, limit in config.thresholds.items() if BY_NAME[name].on_lines}
    everything = {"rules": (), "thresholds": on_lines, "languages": languages, "url_blocklists": ()}
    return config.model_copy(update={**everything, "decontaminate": (), "user_rules": ()})


def _identify(config: Clean) -> str:
    """Name what the values depend on beside the inputs: how texts are cleaned, and by what code."""
    identity = [config.model_dump(mode="json"), code_versions()]
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def measure_file(
    tree: Tree, _task: str, source: Input, store: str, config: Clean, directory: str
) -> Output:
    """Write the statistics of one raw file into a directory of the tree."""
    chain = open_chain(store, config)
    every = config.model_copy(update={"rules": PRESETS})
    tables, counts = [], Counter[str]()
    file = InputFile(source.path)
    try:
        records = read_records(file, source.format, config.max_record_bytes, source.options)
        for batch in batches(records):
            readable = [each for each in batch if isinstance(each, Record)]
            counts["unreadable"] += len(batch) - len(readable)
            judged = chain.clean(readable, source.source)
            counts["without text"] += len(readable) - len(judged.rows)
            rows = judged.rows.tolist()
            languages = [judged.languages[row] for row in rows]
            places: dict[str, list[Any]] = {
                "id": [record_id(source.source, readable[row]) for row in rows],
                "file": [source.name] * len(rows),
                "position": [readable[row].position for row in rows],
                "language": languages,
            }
            values = statistics_table(judged.texts, every, languages)
            for name in values.column_names:
                places[name] = values[name]
            tables.append(pa.table(places, schema=_schema(every)))
    finally:
        file.close()
    table = pa.concat_tables([_schema(every).empty_table(), *tables])
    counts["documents"] += len(table)
    path = f"{directory}/{input_name(source)}.parquet"
    write_table(tree.own(path), table)
    return Output((path,), dict(counts))


def _schema(config: Clean) -> pa.Schema:
    places = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("language", pa.string()),
    ]
    return pa.schema([*places, *((name, pa.float64()) for name in thresholds(config))])


def _tell(store: str, paths: list[str], limits: Limits) -> Iterator[str]:
    """Give the quantiles of every rule's value and the share that its threshold would drop."""
    yield f"{'rule':>38} {'threshold':>12} {'drops':>8}" + "".join(f"{q:>10}" for q in _SHOWN)
    for rule in BY_NAME.values():
        columns = [read_table(join(store, path), columns=[rule.name])[rule.name] for path in paths]
        values = np.concatenate([np.empty(0), *(each.drop_null().to_numpy() for each in columns)])
        if not len(values):
            continue
        limit = limits.get(rule.name, rule.threshold)
        shown = f"{rule.side} {'off' if limit is None else format(limit, 'g'):>8}"
        quantiles = "".join(f"{each:10.4g}" for each in np.quantile(values, _QUANTILES))
        yield f"{rule.name:>38} {shown} {_share(rule, limit, values):>8}{quantiles}"


def _share(rule: Rule, limit: float | None, values: npt.NDArray[np.float64]) -> str:
    """Say what share of documents a threshold drops, or that the rule drops lines."""
    if limit is None or rule.on_lines:
        return "-" if limit is None else "lines"
    beyond = values < limit if rule.side == "min" else values > limit
    return f"{100 * beyond.mean():.1f} %"

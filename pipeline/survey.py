"""Statistics of raw files without a verdict: every rule's value of every document, nothing dropped.

`python -m pipeline stats RECIPE OUT` reads the recipe's inputs, cleans each text as a refresh would
and writes the value that each rule of all sets would look at, beside id, place and language. So
thresholds can be set by what a corpus holds. What cannot be read, or has no text, is counted.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
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
from pipeline.refresh import with_absolute_store
from pipeline.rules import BY_NAME, PRESETS, thresholds
from pipeline.settled import keep_lists, settle

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_SHOWN = ("1 %", "10 %", "50 %", "90 %", "99 %")


def survey(recipe: Recipe, out: str) -> Iterator[str]:
    """Write the statistics of all inputs below OUT; give a table of them, line by line."""
    recipe = with_absolute_store(recipe.model_copy(update={"store": out}))
    config, lists = settle(_without_verdicts(recipe.clean))
    keep_lists(recipe.store, lists)
    inputs, _ = find_inputs(recipe)
    stages = Stages(Tree(recipe.store), recipe.workers)
    try:
        done = stages.run(
            "statistics",
            [
                Task(f"{input_name(each)}", measure_file, (each, recipe.store, config))
                for each in inputs
            ],
        )
    finally:
        stages.close()
    counted: Counter[str] = Counter()
    for record in done.values():
        counted.update(record.counts)
    yield ", ".join(f"{count:,} {what}" for what, count in sorted(counted.items()))
    yield from _tell(recipe.store, [path["path"] for each in done.values() for path in each.files])


def _without_verdicts(config: Clean) -> Clean:
    """Return a section that cleans texts in the same way and lets all of them pass."""
    languages = config.languages.model_copy(update={"keep": (), "min_score": 0})
    everything = {"rules": (), "thresholds": {}, "languages": languages, "url_blocklists": ()}
    return config.model_copy(update={**everything, "decontaminate": (), "user_rules": ()})


def measure_file(tree: Tree, _task: str, source: Input, store: str, config: Clean) -> Output:
    """Write the statistics of one raw file."""
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
    path = f"statistics/{input_name(source)}.parquet"
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


def _tell(store: str, paths: list[str]) -> Iterator[str]:
    """Give the quantiles of every rule's value and the share that its threshold would drop."""
    yield f"{'rule':>38} {'threshold':>12} {'drops':>8}" + "".join(f"{q:>10}" for q in _SHOWN)
    for rule in BY_NAME.values():
        columns = [read_table(join(store, path), columns=[rule.name])[rule.name] for path in paths]
        values = np.concatenate([np.empty(0), *(each.drop_null().to_numpy() for each in columns)])
        if not len(values):
            continue
        beyond = values < rule.threshold if rule.side == "min" else values > rule.threshold
        share = "lines" if rule.on_lines else f"{100 * beyond.mean():.1f} %"
        quantiles = "".join(f"{each:10.4g}" for each in np.quantile(values, _QUANTILES))
        yield f"{rule.name:>38} {rule.side} {rule.threshold:8g} {share:>8}{quantiles}"

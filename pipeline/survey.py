"""Statistics of raw files without a verdict: every rule's value of every document, nothing dropped.

`python -m pipeline stats RECIPE OUT` reads the recipe's inputs, cleans each text as a refresh would
and writes the value that each rule of all sets would look at, beside id, place, language and how
sure that is (`language_score`). So thresholds can be set by what a corpus holds. What cannot be
read, or has no text, is counted. What is asked of a list or of the user's own code (blocked URLs,
evaluation n-grams, `clean.user_rules`) has no threshold to set and no column.

A large file is measured in the pieces that it is cleaned in, and a piece's values are written some
thousand rows at a time. The values of one way of cleaning lie in a directory of their own, so
another way, or another code, reads the files again, and another threshold does not: but for those
of C4's rules on lines, which change the text that later sets see.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from corpus.files import join
from corpus.recipe import Clean, Languages, Recipe
from corpus.records import Record
from corpus.snapshots import Tree
from pipeline.chain import Judged, open_chain, record_id
from pipeline.clean import batches, readable
from pipeline.cuts import Cut, Read, cut_inputs
from pipeline.inputs import find_inputs
from pipeline.jobs import Output, Pool, Stages, Task
from pipeline.judging import statistics_table
from pipeline.languages import SCORE, UNDETERMINED
from pipeline.parquet import read_table, write_tables
from pipeline.refresh import code_versions, with_absolute_store
from pipeline.rules import BY_NAME, PRESETS, Limits, thresholds
from pipeline.settled import keep_lists, settle

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_SHOWN = ("1 %", "10 %", "50 %", "90 %", "99 %")
# Languages that have a line of their own, the most frequent: a guess at what a page holds.
_LANGUAGES = 10


class Measuring(NamedTuple):
    """The store of the lists, how texts are cleaned, and the directory of the values."""

    store: str
    config: Clean
    directory: str


def survey(recipe: Recipe, out: str) -> Iterator[str]:
    """Write the statistics of all inputs below OUT; give a table of them, line by line."""
    limits = thresholds(recipe.clean)
    recipe = with_absolute_store(recipe.model_copy(update={"store": out}))
    config, lists = settle(_without_verdicts(recipe.clean))
    keep_lists(recipe.store, lists)
    stages = Stages(Tree(recipe.store), recipe.workers)
    directory = _identify(config)
    how = Measuring(recipe.store, config, f"statistics/{directory}")
    with Pool(recipe.workers) as pool:
        inputs, _ = find_inputs(recipe, pool)
        try:
            cuts = cut_inputs(inputs, config.max_record_bytes, stages, (f"{directory}-", ""))
            tasks = [Task(cut.name, measure_cut, (cut, how)) for cut in cuts]
            done = stages.run("statistics", tasks)
        finally:
            stages.close()
    counted: Counter[str] = Counter()
    for record in done.values():
        counted.update(record.counts)
    yield ", ".join(f"{count:,} {what}" for what, count in sorted(counted.items()))
    paths = [join(recipe.store, path["path"]) for each in done.values() for path in each.files]
    yield f"{'rule':>38} {'threshold':>12} {'drops':>8}" + "".join(f"{q:>10}" for q in _SHOWN)
    yield from _tell_languages(paths, recipe.clean.languages)
    yield from _tell_rules(paths, limits)
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


def measure_cut(tree: Tree, _task: str, cut: Cut, how: Measuring) -> Output:
    """Write the statistics of what a task reads into a directory of the tree."""
    chain = open_chain(how.store, how.config)
    every = how.config.model_copy(update={"rules": PRESETS})
    schema, counts = _schema(every), Counter[str]()
    path = f"{how.directory}/{cut.stem}values.parquet"

    def measure(batch: list[Read]) -> pa.Table:
        files, records = readable(batch)
        judged = chain.clean(records, cut.source)
        counts["unreadable"] += len(batch) - len(records)
        counts["without text"] += len(records) - len(judged.rows)
        places = _places(cut.source, (files, records), judged)
        values = statistics_table(judged.texts, every, places["language"], chain.lists.bad_words)
        columns = places | {name: values[name] for name in values.column_names}
        return pa.table(columns, schema=schema)

    tables = (measure(batch) for batch in batches(cut.read(how.config.max_record_bytes)))
    counts["documents"] += write_tables(tree.own(path), schema, tables)
    return Output((path,), dict(counts))


def _places(
    source: str, read: tuple[list[str], list[Record]], judged: Judged
) -> dict[str, list[Any]]:
    """Return what says which document a row is of, its language, and how sure that is."""
    files, records = read
    rows = judged.rows.tolist()
    scores: dict[int, float] = {}
    for looked in judged.looked:
        if SCORE in looked.values:
            scores |= zip(looked.rows.tolist(), looked.values[SCORE].tolist(), strict=True)
    return {
        "id": [record_id(source, records[row]) for row in rows],
        "file": [files[row] for row in rows],
        "position": [records[row].position for row in rows],
        "language": [judged.languages[row] for row in rows],
        SCORE: [scores.get(row) for row in rows],
    }


def _schema(config: Clean) -> pa.Schema:
    places = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("language", pa.string()),
        pa.field(SCORE, pa.float64()),
    ]
    return pa.schema([*places, *((name, pa.float64()) for name in thresholds(config))])


def _tell_languages(paths: list[str], config: Languages) -> Iterator[str]:
    """Tell of the scores of documents whose language stays, of all and of the most frequent."""
    columns = ["language", SCORE]
    tables = [read_table(path, columns=columns).drop_null() for path in paths]
    if not sum(map(len, tables)):
        return
    table = pa.concat_tables(tables)
    # Where none was found the record's own label stands, but the verdict goes by what was found.
    found = pa.compute.if_else(pa.compute.equal(table[SCORE], 0), UNDETERMINED, table["language"])
    # Coded first: of a billion labels the letters are too many for one array.
    coded = found.dictionary_encode().combine_chunks()
    labels, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    scores = table[SCORE].to_numpy()
    counts = np.bincount(codes, minlength=len(labels)).tolist()
    stays = [not config.keep or label in config.keep for label in labels]
    least = np.array([config.least_score(label) for label in labels])
    asked = np.array(stays)[codes]
    limit = (
        _limit("min", config.min_score or None)
        if isinstance(config.min_score, int)
        else "min by code"
    )
    yield from _tell(SCORE, limit, scores[asked], _share((scores < least[codes])[asked]))
    order = sorted((-counts[n], labels[n], n) for n in range(len(labels)) if stays[n])
    for _, label, n in order[:_LANGUAGES]:
        mine = scores[codes == n]
        limit = _limit("min", least[n] or None)
        yield from _tell(f"{SCORE}.{label}", limit, mine, _share(mine < least[n]))


def _tell_rules(paths: list[str], limits: Limits) -> Iterator[str]:
    """Tell of every rule; one column at a time is held, 8 bytes a document."""
    asked = [rule for rule in BY_NAME.values() if not rule.listed or rule.name in limits]
    for rule in asked:
        columns = [read_table(path, columns=[rule.name])[rule.name] for path in paths]
        values = np.concatenate([np.empty(0), *(each.drop_null().to_numpy() for each in columns)])
        limit = limits.get(rule.name, rule.threshold)
        if limit is None or rule.on_lines:
            drops = "-" if limit is None else "lines"
        else:
            drops = _share(values < limit if rule.side == "min" else values > limit)
        yield from _tell(rule.name, _limit(rule.side, limit), values, drops)


def _limit(side: str, limit: float | None) -> str:
    return f"{side} {'off' if limit is None else format(limit, 'g'):>8}"


def _share(beyond: npt.NDArray[np.bool_]) -> str:
    """Say what share of documents lies beyond a threshold."""
    return f"{100 * beyond.mean():.1f} %" if len(beyond) else "-"


def _tell(name: str, limit: str, values: npt.NDArray[np.float64], drops: str) -> Iterator[str]:
    """Give a line with the quantiles of a rule's values, where there are any."""
    if len(values):
        quantiles = "".join(f"{each:10.4g}" for each in np.quantile(values, _QUANTILES))
        yield f"{name:>38} {limit:>12} {drops:>8}{quantiles}"

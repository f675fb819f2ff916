"""Published tasks by name: how their files are laid out, and what is reported on them.

Layouts of GLUE are those of its TSV files (gluebenchmark.com), names beside them those of the same
data in `nyu-mll/glue`; CoNLL-2003 is Tjong Kim Sang and De Meulder 2003, SQuAD Rajpurkar et al.
2016 and 2018, RACE Lai et al. 2017, TREC Li and Roth 2002, the Chinese ones FewCLUE (Xu et al.
2021). Metrics are those of the RoBERTa paper's Tables 5 to 7 where it reports the task (accuracy
for MRPC and QQP), with GLUE's second one beside. MNLI has two sets to report: the matched one
validates, `also: {mismatched: [FILE]}` names the other. `format: datasets` reads all from a name.
"""

from typing import Any

_FIRST = ("sentence1", "premise", "question1")
_SECOND = ("sentence2", "hypothesis", "question2")


def _pairs(text: object, pair: object, label: object = "label", **others: object) -> dict[str, Any]:
    return {
        "kind": "classification",
        "format": "tsv",
        "columns": {"text": text, "pair": pair, "label": label},
        "metrics": ("accuracy",),
        **others,
    }


def _single(text: object, label: object = "label", **others: object) -> dict[str, Any]:
    return {
        "kind": "classification",
        "format": "jsonl",
        "columns": {"text": text, "label": label},
        "metrics": ("accuracy",),
        **others,
    }


def _tags(word: int, tag: int, **others: object) -> dict[str, Any]:
    return {
        "kind": "tagging",
        "format": "conll",
        "columns": {"words": ("tokens", word), "tags": ("ner_tags", tag)},
        "metrics": ("span_f1", "accuracy"),
        **others,
    }


PRESETS: dict[str, dict[str, Any]] = {
    # GLUE. CoLA's files have no header: source, label, the author's mark, sentence.
    "cola": _single(
        ("sentence", 3),
        ("label", 1),
        format="tsv",
        header=False,
        metrics=("matthews", "accuracy"),
    ),
    "sst2": _single(("sentence", "content"), format="tsv"),
    "mrpc": _pairs(
        ("#1 String", *_FIRST),
        ("#2 String", *_SECOND),
        ("Quality", "label"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": _pairs(
        _FIRST, _SECOND, ("score", "label"), kind="regression", metrics=("pearson", "spearman")
    ),
    "qqp": _pairs(_FIRST, _SECOND, ("is_duplicate", "label"), metrics=("accuracy", "f1")),
    "mnli": _pairs(_FIRST, _SECOND, ("gold_label", "label")),
    "qnli": _pairs("question", "sentence"),
    "rte": _pairs(_FIRST, _SECOND),
    "wnli": _pairs(_FIRST, _SECOND),
    # Questions by what is asked for: `DESC:manner How did ...`, six coarse or fifty fine classes.
    "trec": {
        "kind": "classification",
        "format": "lines",
        "encoding": "latin-1",
        "label_until": ":",
        "metrics": ("accuracy", "macro_f1"),
    },
    "trec-fine": {
        "kind": "classification",
        "format": "lines",
        "encoding": "latin-1",
        "metrics": ("accuracy", "macro_f1"),
    },
    "movie-reviews": _single("text"),
    # Word, part of speech, chunk, entity; WikiGold and GUM have word and entity.
    "conll2003": _tags(0, 3),
    "wikigold": _tags(0, 1),
    "gum": _tags(0, 1),
    "squad": {"kind": "answering", "format": "squad", "metrics": ("f1", "exact_match")},
    "squad2": {
        "kind": "answering",
        "format": "squad",
        "no_answer": True,
        "metrics": ("best_f1", "best_exact_match", "f1", "exact_match"),
    },
    "race": {"kind": "choice", "format": "race", "metrics": ("accuracy",)},
    # FewCLUE: topics of news titles, sentiment of reviews, whether keywords belong to an abstract.
    "tnews": _single("sentence", ("label_desc", "label")),
    "eprstmt": _single("sentence"),
    "csl": _pairs("abst", "keyword", format="jsonl"),
}

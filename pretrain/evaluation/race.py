"""RACE's JSON: a file a passage, with its questions, their options and the letters of the answers.

As published (Lai et al. 2017) a split is a directory of such files; one object a line is read too.
"""

from collections.abc import Iterator
from typing import Any

from pretrain.evaluation.records import Record, documents_of


def race_records(name: str, data: bytes) -> Iterator[Record]:
    """Give the questions of passages as records."""
    for place, passage in documents_of(name, data):
        lists = [_list(passage, key) for key in ("questions", "options")]
        if any(each is None for each in lists):
            raise ValueError(
                f"{place} is not RACE's JSON: expected lists `questions` and `options`"
            )
        questions, options = (each or [] for each in lists)
        answers = _list(passage, "answers") or [None] * len(questions)
        if not len(questions) == len(options) == len(answers):
            yield Record(place, {}, "questions, options and answers differ in number")
            continue
        for n, (question, each, answer) in enumerate(zip(questions, options, answers, strict=True)):
            roles = {
                "id": f"{passage.get('id', place)}-{n}",
                "context": passage.get("article"),
                "question": question,
                "options": each,
                "label": answer,
            }
            yield Record(f"{place}, question {n + 1}", roles)


def _list(passage: Any, key: str) -> list[Any] | None:  # noqa: ANN401 - any JSON
    found = passage.get(key) if isinstance(passage, dict) else None
    return found if isinstance(found, list) else None

"""SQuAD's JSON: articles of paragraphs, each a context with questions and their answers.

Version 1.1 (Rajpurkar et al. 2016) and 2.0 (2018), where `is_impossible` marks a question without
an answer. A file in which that nesting is broken is refused, a single bad question is a fault.
"""

from collections.abc import Iterator
from typing import Any

from pretrain.evaluation.records import Record, documents_of


def squad_records(name: str, data: bytes) -> Iterator[Record]:
    """Give the questions of a SQuAD file as records."""
    for place, document in documents_of(name, data):
        articles = document.get("data") if isinstance(document, dict) else None
        if not isinstance(articles, list):
            raise ValueError(f"{place} is not SQuAD's JSON: expected an object with a list `data`")
        for n, article in enumerate(articles):
            yield from _questions(f"{place}, article {n + 1}", article)


def _questions(place: str, article: Any) -> Iterator[Record]:  # noqa: ANN401 - any JSON
    paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
    if not isinstance(paragraphs, list):
        raise ValueError(f"{place} is not SQuAD's JSON: it has no list `paragraphs`")
    for n, paragraph in enumerate(paragraphs):
        here = f"{place}, paragraph {n + 1}"
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            raise ValueError(f"{here} is not SQuAD's JSON: it has no list `qas`")
        for number, question in enumerate(questions):
            yield _record(f"{here}, question {number + 1}", paragraph, question)


def _record(place: str, paragraph: dict[str, Any], question: Any) -> Record:  # noqa: ANN401
    if not isinstance(question, dict):
        return Record(place, {}, "not a JSON object")
    roles = {"context": paragraph.get("context"), "question": question.get("question")}
    for role, key in (("id", "id"), ("answers", "answers"), ("impossible", "is_impossible")):
        if key in question:
            roles[role] = question[key]
    return Record(place, roles)

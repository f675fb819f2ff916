"""Linear models on counted text: TF-IDF with logistic regression or ridge, a tagger of words.

Each strength of regularization gives a predictor; who calls chooses by validation. All is sparse,
and the number of n-grams bounded, so SST-2's 67,349 phrases take seconds, not minutes.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import FeatureUnion

from pretrain.evaluation.examples import (
    ChoiceExample,
    Example,
    TaggedExample,
    TaskData,
    TextExample,
)
from pretrain.evaluation.predictions import (
    ChoicePrediction,
    LabelPrediction,
    Prediction,
    TagsPrediction,
    ValuePrediction,
)
from pretrain.evaluation.tasks import Task

Predictor = Callable[[Sequence[Example]], list[Prediction]]

_NGRAMS = 50_000  # of words, and of characters, the most frequent ones: guess, bounds the memory
_STRENGTHS = (1.0, 10.0)  # inverse regularization: sklearn's default, and for many rare features
_PENALTIES = (0.3, 1.0, 3.0)  # of ridge, around sklearn's default
_DECAYS = (1e-6, 1e-5)  # of the tagger: guess, for some 100,000 words
_HASHED = 2**20  # columns for the features of words
_AFFIX = 3  # letters; as in the features of conditional random fields for names


def linear_predictors(task: Task, data: TaskData) -> Iterator[Predictor]:
    """Give a trained predictor a strength of regularization; none where none makes sense."""
    if task.kind == "classification":
        yield from _classifiers(data)
    elif task.kind == "regression":
        yield from _regressors(data)
    elif task.kind == "tagging":
        yield from _taggers(data)
    elif task.kind == "choice":
        yield _choose


def _texts(examples: Sequence[Example]) -> list[TextExample]:
    return [example for example in examples if isinstance(example, TextExample)]


class _Vectors:
    """TF-IDF of texts, and of pairs: either text, and what both share."""

    def __init__(self, examples: Sequence[TextExample]) -> None:
        texts = [text for each in examples for text in (each.text, each.pair) if text is not None]
        words = TfidfVectorizer(ngram_range=(1, 2), max_features=_NGRAMS, sublinear_tf=True,
                                token_pattern=r"\w+|[^\w\s]")  # fmt: skip
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True,
                                     max_features=_NGRAMS)  # fmt: skip
        self._union = FeatureUnion([("words", words), ("characters", characters)]).fit(texts)

    def of(self, examples: Sequence[TextExample]) -> Any:  # noqa: ANN401 - a sparse matrix
        """Return a row an example."""
        first = self._union.transform([each.text for each in examples])
        if all(each.pair is None for each in examples):
            return first
        second = self._union.transform([each.pair or "" for each in examples])
        return sparse.hstack((first, second, first.multiply(second))).tocsr()


def _classifiers(data: TaskData) -> Iterator[Predictor]:
    train = _texts(data.train.examples)
    names = [str(each.label) for each in train]
    if len(set(names)) < 2:
        return
    vectors = _Vectors(train)
    rows = vectors.of(train)
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3).fit(rows, names)
        yield functools.partial(_classify, vectors, model, data.labels)


def _classify(
    vectors: _Vectors,
    model: Any,  # noqa: ANN401 - scikit-learn has no types
    labels: Sequence[str],
    examples: Sequence[Example],
) -> list[Prediction]:
    shares = np.zeros((len(examples), len(labels)))
    columns = [labels.index(name) for name in model.classes_]
    shares[:, columns] = model.predict_proba(vectors.of(_texts(examples)))
    return [LabelPrediction(labels[int(row.argmax())], tuple(row.tolist())) for row in shares]


def _regressors(data: TaskData) -> Iterator[Predictor]:
    train = _texts(data.train.examples)
    vectors = _Vectors(train)
    rows, values = vectors.of(train), [float(each.label or 0.0) for each in train]
    for penalty in _PENALTIES:
        model = Ridge(alpha=penalty, solver="lsqr").fit(rows, values)
        yield functools.partial(_regress, vectors, model)


def _regress(vectors: _Vectors, model: Any, examples: Sequence[Example]) -> list[Prediction]:  # noqa: ANN401
    return [ValuePrediction(float(value)) for value in model.predict(vectors.of(_texts(examples)))]


def _taggers(data: TaskData) -> Iterator[Predictor]:
    train = [each for each in data.train.examples if isinstance(each, TaggedExample)]
    tags = [tag for each in train for tag in each.tags or ()]
    if len(set(tags)) < 2:
        return
    rows = _word_features([each.words for each in train])
    for decay in _DECAYS:
        model = SGDClassifier(loss="log_loss", alpha=decay, random_state=0, max_iter=20, tol=None)
        yield functools.partial(_tag, model.fit(rows, tags))


def _tag(model: Any, examples: Sequence[Example]) -> list[Prediction]:  # noqa: ANN401
    words = [example.words for example in examples if isinstance(example, TaggedExample)]
    rows = _word_features(words)
    tags = iter(model.predict(rows).tolist())
    shares = iter(model.predict_proba(rows).max(axis=1).tolist())
    return [
        TagsPrediction(
            tuple(str(next(tags)) for _ in each), tuple(float(next(shares)) for _ in each)
        )
        for each in words
    ]


def _word_features(sentences: Sequence[Sequence[str]]) -> Any:  # noqa: ANN401 - a sparse matrix
    hasher = FeatureHasher(_HASHED, input_type="string")
    return hasher.transform(
        [_describe(words, at) for words in sentences for at in range(len(words))]
    )


def _describe(words: Sequence[str], at: int) -> list[str]:
    """Say what is known of a word: itself, its shape, its ends, its neighbours and theirs."""
    found = ["bias"]
    for offset in (-2, -1, 0, 1, 2):
        place = at + offset
        word = words[place] if 0 <= place < len(words) else "\n"
        found += [f"{offset} {word.lower()}", f"{offset} shape {_shape(word)}"]
    word = words[at]
    return [*found, f"begins {word[:_AFFIX]}", f"ends {word[-_AFFIX:]}", f"exactly {word}"]


def _shape(word: str) -> str:
    """`McDonald's-9` is `XxXx'x-d`: kinds of letters, runs of one kind once."""
    kinds = [
        "X"
        if letter.isupper()
        else "x"
        if letter.isalpha()
        else "d"
        if letter.isdigit()
        else letter
        for letter in word
    ]
    runs = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    return "".join(runs)


def _choose(examples: Sequence[Example]) -> list[Prediction]:
    chosen: list[Prediction] = []
    for each in examples:
        assert isinstance(each, ChoiceExample)
        asked = [f"{each.question} {option}" for option in each.options]
        vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
        rows = vectors.fit_transform([each.context, *asked]).toarray()
        nearness = rows[1:] @ rows[0]
        total = float(nearness.sum())
        shares = nearness / total if total else np.full(len(asked), 1 / len(asked))
        chosen.append(ChoicePrediction(int(nearness.argmax()), tuple(shares.tolist())))
    return chosen

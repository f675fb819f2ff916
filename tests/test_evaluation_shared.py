"""The real labelled files: every row is an example or a counted drop, and labels come back."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from evaluation_helpers import byte_tokenizer, perfect
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pretrain.evaluation.answers import normalize
from pretrain.evaluation.conll import DOCUMENT_BOUNDARY
from pretrain.evaluation.examples import (
    QuestionExample,
    TaggedExample,
    labels_of,
    read_split,
    read_task,
)
from pretrain.evaluation.features import encode
from pretrain.evaluation.predictions import AnswerPrediction, TagsPrediction, decode
from pretrain.evaluation.scores import details, score
from pretrain.evaluation.tasks import load_task

# (preset, file, rows as the data's README counts them, drops, labels)
FILES: list[tuple[str, str, int, dict[str, int], int]] = [
    ("cola", "cola/in_domain_train.tsv.gz", 8551, {}, 2),
    ("cola", "cola/in_domain_dev.tsv.gz", 527, {}, 2),
    ("cola", "cola/out_of_domain_dev.tsv.gz", 516, {}, 2),
    ("sst2", "sst2/train.tsv.gz", 67349, {}, 2),
    ("sst2", "sst2/dev.tsv.gz", 872, {}, 2),
    ("sst2", "sst2/test.tsv.gz", 1821, {}, 2),
    ("rte", "rte/train.tsv.gz", 2490, {}, 2),
    ("rte", "rte/dev.tsv.gz", 277, {}, 2),
    ("trec", "trec/train.txt.gz", 5452, {}, 6),
    ("trec", "trec/test.txt.gz", 500, {}, 6),
    ("trec-fine", "trec/train.txt.gz", 5452, {}, 50),
    ("movie-reviews", "movie-reviews.jsonl.zst", 2000, {}, 2),
    ("tnews", "zh/tnews-train_few_all.jsonl.gz", 1185, {}, 15),
    ("tnews", "zh/tnews-dev_few_all.jsonl.gz", 1098, {}, 15),
    ("tnews", "zh/tnews-test_public.jsonl.gz", 2010, {}, 15),
    ("eprstmt", "zh/eprstmt-train_few_all.jsonl.gz", 160, {}, 2),
    ("eprstmt", "zh/eprstmt-dev_few_all.jsonl.gz", 160, {}, 2),
    ("eprstmt", "zh/eprstmt-test_public.jsonl.gz", 610, {}, 2),
    ("csl", "zh/csl-train_few_all.jsonl.gz", 160, {}, 2),
    ("csl", "zh/csl-dev_few_all.jsonl.gz", 160, {}, 2),
    ("csl", "zh/csl-test_public.jsonl.gz", 2838, {}, 2),
    ("conll2003", "ner/conll2003-eng.train.gz", 14987, {DOCUMENT_BOUNDARY: 946}, 9),
    ("conll2003", "ner/conll2003-eng.testa.gz", 3466, {DOCUMENT_BOUNDARY: 216}, 9),
    ("gum", "ner/gum-train.conll.gz", 2495, {}, 23),
    ("gum", "ner/gum-test.conll.gz", 1000, {}, 23),
    ("wikigold", "ner/wikigold.conll.gz", 1841, {DOCUMENT_BOUNDARY: 145}, 9),
    ("squad", "qa/squadshifts-new-wiki-train.json.gz", 5942, {}, 0),
    ("squad2", "qa/squad2-dev-half.json.gz", 5349, {}, 0),
    ("squad", "qa/squad2-dev-half.json.gz", 5349, {"no answer": 2774}, 0),
]


@pytest.mark.parametrize(
    ("preset", "name", "rows", "drops", "labels"), FILES, ids=[f"{f[0]}-{f[1]}" for f in FILES]
)
def test_every_row_is_read(
    shared_data: Path, preset: str, name: str, rows: int, drops: dict[str, int], labels: int
) -> None:
    task = load_task({"name": preset})
    split = read_split(task, [str(shared_data / "finetune" / name)])
    assert len(split.examples) + split.drops.total() == rows
    assert split.drops == drops
    assert len(labels_of(task, split.examples)) == labels


def test_titles_without_labels_are_read_for_prediction(shared_data: Path) -> None:
    path = str(shared_data / "finetune/zh/tnews-unlabeled.jsonl.gz")
    assert len(read_split(load_task({"name": "tnews"}), [path], labelled=False).examples) == 20_000
    with pytest.raises(ValueError, match=r"no usable example of tnews: .*:1: no label"):
        read_split(load_task({"name": "tnews"}), [path])


def test_latin_1_as_utf_8_loses_only_its_lines(shared_data: Path) -> None:
    path = str(shared_data / "finetune/trec/train.txt.gz")
    split = read_split(load_task({"name": "trec", "encoding": "utf-8"}), [path])
    assert len(split.examples) + split.drops.total() == 5452
    assert set(split.drops) == {"not in the encoding of the task"}


def test_one_file_is_split_for_validation(shared_data: Path) -> None:
    path = str(shared_data / "finetune/ner/wikigold.conll.gz")
    data = read_task(load_task({"name": "wikigold", "train": [path]}))
    assert len(data.train.examples) + len(data.validation.examples) == 1696
    # Binomial: a tenth of 1,696 is 170, five deviations are 62.
    assert 108 < len(data.validation.examples) < 232


def trained_tokenizer(texts: set[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 4,000 entries, so that words are some pieces and some whole."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator(sorted(texts), trainer)
    merges = orjson.loads(fast.to_str())["model"]["merges"]
    return byte_tokenizer(merges=[(left, right) for left, right in merges])


# Of each file all examples, and a sample that takes a second.
EVERY = pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 20])


@EVERY
@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("squad", "qa/squadshifts-new-wiki-train.json.gz"),
        ("squad2", "qa/squad2-dev-half.json.gz"),
    ],
)
def test_every_answer_is_found_again(shared_data: Path, preset: str, name: str, every: int) -> None:
    values: dict[str, Any] = {"name": preset, "max_length": 128, "stride": 48}
    task = load_task({**values, "max_answer_tokens": 128})
    examples = read_split(task, [str(shared_data / "finetune" / name)]).examples
    questions = [each for each in examples[::every] if isinstance(each, QuestionExample)]
    encoded = encode(task, (), questions, trained_tokenizer({each.context for each in questions}))
    assert len(encoded.features) > 2 * len(questions)
    found = decode(task, (), questions, encoded, perfect(task, (), encoded))
    missed = cut = 0
    for example, answer in zip(questions, found, strict=True):
        assert isinstance(answer, AnswerPrediction)
        if not example.answers:
            assert answer.margin >= 0
            continue
        text, start = example.answers[0]
        inside = answer.start <= start + len(text) - len(text.lstrip())
        if not inside or answer.start + len(answer.text) < start + len(text.rstrip()):
            missed += 1
        elif normalize(answer.text) != normalize(text):
            # The annotation ends within a word that is one token.
            cut += 1
            assert text.strip() in answer.text
    assert missed == encoded.lost <= 4
    assert cut <= 8
    scores = score(task, (), questions, found)
    assert scores["exact_match"] == pytest.approx(1 - (missed + cut) / len(questions))


@EVERY
@pytest.mark.parametrize(
    ("preset", "name"),
    [("conll2003", "ner/conll2003-eng.testa.gz"), ("gum", "ner/gum-test.conll.gz")],
)
def test_every_tag_is_found_again(shared_data: Path, preset: str, name: str, every: int) -> None:
    task = load_task({"name": preset, "max_length": 32, "stride": 8})
    examples = read_split(task, [str(shared_data / "finetune" / name)]).examples
    labels = labels_of(task, examples)
    examples = examples[::every]
    encoded = encode(task, labels, examples, byte_tokenizer())
    assert encoded.vanished == 0
    assert len(encoded.features) > 2 * len(examples)
    found = decode(task, labels, examples, encoded, perfect(task, labels, encoded))
    for example, prediction in zip(examples, found, strict=True):
        assert isinstance(example, TaggedExample)
        assert isinstance(prediction, TagsPrediction)
        assert prediction.tags == example.tags
    assert score(task, labels, examples, found) == {"span_f1": 1.0, "accuracy": 1.0}
    assert all(row["f1"] == 1.0 for row in details(task, labels, examples, found)["classes"])

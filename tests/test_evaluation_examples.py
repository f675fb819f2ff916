"""Labelled files as examples: every layout, and everything that can be wrong with one."""

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from evaluation_helpers import task_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.evaluation.examples import (
    UNSEEN_LABEL,
    ChoiceExample,
    QuestionExample,
    Split,
    TaggedExample,
    TextExample,
    labels_of,
    read_split,
    read_stream,
    read_task,
)
from pretrain.evaluation.records import WRONG_COLUMNS
from pretrain.evaluation.tasks import ROLES, Task, load_task


def read(task: Task, data: bytes | str, labelled: bool = True) -> Split:
    stream = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    return read_stream(task, stream, "f", labelled=labelled)


def texts(split: Split) -> list[tuple[str, str | None, str | float | None]]:
    return [
        (each.text, each.pair, each.label)
        for each in split.examples
        if isinstance(each, TextExample)
    ]


def tags(split: Split) -> list[tuple[tuple[str, ...], tuple[str, ...] | None]]:
    return [(each.words, each.tags) for each in split.examples if isinstance(each, TaggedExample)]


@pytest.mark.parametrize(
    ("values", "data", "expected"),
    [
        ({"name": "cola"}, 'a\t1\t*\tHe said "go\n', [('He said "go', None, "1")]),
        ({"name": "sst2"}, "\ufeffsentence\tlabel\r\ngood\t1\r\n", [("good", None, "1")]),
        ({"name": "sst2"}, "label\tcontent\n0\tbad\n", [("bad", None, "0")]),
        ({"name": "rte"}, "index\tsentence1\tsentence2\tlabel\n0\ta\tb\te\n", [("a", "b", "e")]),
        (
            {"name": "mrpc"},
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t8\t9\ta\tb\n",
            [("a", "b", "1")],
        ),
        (
            {"name": "stsb"},
            "index\tgenre\tsentence1\tsentence2\tscore\n0\tg\ta\tb\t2.50\n",
            [("a", "b", 2.5)],
        ),
        (
            {"name": "trec"},
            "DESC:manner What is caf\u00e9 ?\n",
            [("What is caf\u00e9 ?", None, "DESC")],
        ),
        ({"name": "trec-fine"}, "NUM:dist\tHow far ?\n", [("How far ?", None, "NUM:dist")]),
        (
            {"name": "sst2", "format": "csv"},
            'label,sentence\n1,"one, ""two""\nthree"\n',
            [('one, "two"\nthree', None, "1")],
        ),
        ({"name": "eprstmt"}, '{"sentence": "\u597d", "label": 1}\n', [("\u597d", None, "1")]),
        (
            {"name": "csl"},
            '{"abst": "a\u2028b", "keyword": ["x", "y"], "label": "0"}\n',
            [("a\u2028b", "x, y", "0")],
        ),
    ],
)
def test_layouts_of_texts(
    values: dict[str, Any], data: str, expected: list[tuple[str, str | None, str | float]]
) -> None:
    task = load_task(values)
    split = read(task, data.encode(task.encoding if "\ufeff" not in data else "utf-8"))
    assert texts(split) == expected
    assert not split.drops


MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 label1 gold_label"
)
# Columns of GLUE's own files and of `nyu-mll/glue`: text, pair, label.
GLUE = [
    ("qqp", "id qid1 qid2 question1 question2 is_duplicate", "question1 question2 is_duplicate"),
    ("mnli", MNLI, "sentence1 sentence2 gold_label"),
    ("qnli", "index question sentence label", "question sentence label"),
    ("wnli", "index sentence1 sentence2 label", "sentence1 sentence2 label"),
    (
        "stsb",
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        "sentence1 sentence2 score",
    ),
    ("mrpc", "idx sentence1 sentence2 label", "sentence1 sentence2 label"),
    ("qqp", "idx question1 question2 label", "question1 question2 label"),
    ("mnli", "idx premise hypothesis label", "premise hypothesis label"),
    ("stsb", "idx sentence1 sentence2 label", "sentence1 sentence2 label"),
]


@pytest.mark.parametrize(("preset", "header", "expected"), GLUE)
def test_columns_of_glue(preset: str, header: str, expected: str) -> None:
    task = load_task({"name": preset})
    text, pair, label = expected.split()
    cells = {name: name for name in header.split()} | {label: "1"}
    found = [(text, pair, 1.0 if preset == "stsb" else "1")]
    table = "\t".join(header.split()) + "\n" + "\t".join(cells.values()) + "\n"
    assert texts(read(task, table)) == found
    rows = load_task({"name": preset, "format": "jsonl"})
    assert texts(read(rows, json.dumps(cells))) == found


@pytest.mark.parametrize(
    ("preset", "row", "label"),
    [
        ("sst2", {"sentence": "a", "idx": 3, "label": "x"}, "x"),
        ("cola", {"sentence": "a", "label": 0}, "0"),
    ],
)
def test_single_sentences_by_name(preset: str, row: dict[str, Any], label: str) -> None:
    task = load_task({"name": preset, "format": "jsonl", "header": True})
    assert texts(read(task, json.dumps(row))) == [("a", None, label)]


CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER
Ann NNP I-NP B-PER
"""


def test_conll_with_boundaries_of_documents() -> None:
    split = read(load_task({"name": "conll2003"}), CONLL)
    assert tags(split) == [
        (("EU", "rejects"), ("B-ORG", "O")),
        (("Peter", "Ann"), ("B-PER", "B-PER")),
    ]
    assert split.drops == Counter({"-DOCSTART-": 1})
    assert not split.dropped
    assert [each.id for each in split.examples] == ["f:3", "f:6"]


@pytest.mark.parametrize(
    "column", ["I-A I-A O I-B B-B", "B-A I-A O B-B B-B", "B-A E-A O S-B S-B", "B-A L-A O U-B U-B"]
)
def test_every_scheme_of_tags_is_read(column: str) -> None:
    lines = "".join(f"w{n}\t{tag}\n" for n, tag in enumerate(column.split()))
    ((words, found),) = tags(read(task_of("tagging"), lines))
    assert words == ("w0", "w1", "w2", "w3", "w4")
    assert found == ("B-A", "I-A", "O", "B-B", "B-B")


def test_words_may_be_odd_characters() -> None:
    data = "a\u00a0b O\n\u00a0 O\n\x1c B-X\n# O\n"
    assert tags(read(task_of("tagging"), data)) == [
        (("a\u00a0b", "\u00a0", "\x1c", "#"), ("O", "O", "B-X", "O"))
    ]


def test_plain_tags_stay_as_they_are() -> None:
    task = task_of("tagging", spans=False, metrics=["accuracy"])
    split = read(task, "the DT\ndog NN\n")
    assert tags(split) == [(("the", "dog"), ("DT", "NN"))]
    assert labels_of(task, split.examples) == ("DT", "NN")


def test_a_sentence_with_broken_columns_is_dropped_and_named() -> None:
    data = "a O\nb O\n\nc O\nbroken\nd O\n\ne O\n\nf O O\n"
    split = read(task_of("tagging"), data)
    assert [words for words, _ in tags(split)] == [("a", "b"), ("e",)]
    assert split.drops == Counter({WRONG_COLUMNS: 2})
    assert split.dropped == (f"f:5: {WRONG_COLUMNS}", f"f:10: {WRONG_COLUMNS}")


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (task_of("tagging"), "only\nwords\n", "f has 1 columns, expected the word in 0"),
        (load_task({"name": "conll2003"}), "a O\n", "f has 2 columns, .* the tag in 3"),
        (load_task({"name": "sst2"}), "x\ty\n1\ta\n", "no column sentence or content .* has x, y"),
        (load_task({"name": "cola"}), "1\ta\n", "no column sentence or 3 for text.* 2 columns"),
        (load_task({"name": "sst2"}), "", "f is empty: expected a header"),
        (task_of("classification", format="csv"), 'text,label\n"a,1\n', "f:2 is not CSV"),
        (task_of("classification", format="csv"), b"text,label\n\xff,1", "f is not utf-8 at byte"),
        (load_task({"name": "squad"}), "{", "f is not JSON"),
        (load_task({"name": "squad"}), "[]", "f is not SQuAD's JSON: expected an object"),
        (load_task({"name": "squad"}), '{"data": [1]}', "article 1 is not SQuAD's"),
        (load_task({"name": "squad"}), '{"data": [{"paragraphs": [{}]}]}', "paragraph 1 is not"),
        (load_task({"name": "race"}), '{"questions": 1}', "f is not RACE's JSON"),
    ],
)
def test_an_unusable_file_is_refused(task: Task, data: bytes | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(task, data)


@pytest.mark.parametrize(
    ("task", "line", "reason"),
    [
        (task_of("classification"), {"text": " ", "label": "a"}, "empty text"),
        (task_of("classification"), {"text": 3, "label": "a"}, "text is no text"),
        (task_of("classification"), {"label": "a"}, "no text"),
        (task_of("classification"), {"text": "x"}, "no label"),
        (task_of("classification"), {"text": "x", "label": " "}, "no label"),
        (task_of("classification", label_until=":"), {"text": "x", "label": ":a"}, "no label"),
        (task_of("classification"), {"text": "x", "label": []}, "label is no single value"),
        (task_of("classification"), ["x"], "not a JSON object"),
        (load_task({"name": "csl"}), {"abst": "x", "keyword": [], "label": 1}, "empty pair"),
        (load_task({"name": "csl"}), {"abst": "x", "label": 1}, "no pair"),
        (task_of("regression"), {"text": "x", "label": "high"}, "label is no number"),
        (task_of("regression"), {"text": "x", "label": "nan"}, "label is no number"),
        (task_of("tagging", format="jsonl"), {"words": [], "tags": []}, "empty text"),
        (task_of("tagging", format="jsonl"), {"words": ["a", ""], "tags": []}, "empty word"),
        (task_of("tagging", format="jsonl"), {"words": "a", "tags": ["O"]}, "words is no list"),
        (task_of("tagging", format="jsonl"), {"words": ["a"], "tags": [1]}, "tags is no list"),
        (task_of("tagging", format="jsonl"), {"words": ["a"], "tags": []}, "differ in number"),
        (task_of("tagging", format="jsonl"), {"words": ["a"], "tags": ["PER"]}, "neither O nor"),
        (task_of("tagging", format="jsonl"), {"words": ["a"]}, "no label"),
    ],
)
def test_a_line_that_is_no_example_is_counted(task: Task, line: object, reason: str) -> None:
    split = read(task, json.dumps(line) + "\n")
    assert not split.examples
    ((found, count),) = split.drops.items()
    assert reason in found
    assert count == 1
    (told,) = split.dropped
    assert told.startswith(f"f:1: {found}")


def test_lines_in_another_encoding_or_of_no_json_cost_only_themselves() -> None:
    task = task_of("classification")
    data = b'{"text": "\xff", "label": 1}\n{"text": \n{"text": "a", "label": 1}\n'
    split = read(task, data)
    assert texts(split) == [("a", None, "1")]
    assert split.drops == Counter({"not in the encoding of the task": 1, "not JSON": 1})


def test_a_row_with_a_tab_too_many_is_dropped() -> None:
    split = read(load_task({"name": "sst2"}), "sentence\tlabel\na\t1\nb\tc\t0\nd\t0\n")
    assert texts(split) == [("a", None, "1"), ("d", None, "0")]
    assert split.dropped == (f"f:3: {WRONG_COLUMNS}",)


def question(answers: object, **others: object) -> str:
    qas = [{"id": "q1", "question": "who?", "answers": answers, **others}]
    return json.dumps({"data": [{"paragraphs": [{"context": "It was Ann.", "qas": qas}]}]})


@pytest.mark.parametrize(
    ("preset", "data", "reason"),
    [
        ("squad", question([{"text": "Ann", "answer_start": 6}]), "answer not at its place"),
        ("squad", question([{"text": "Bob", "answer_start": 7}]), "answer not at its place"),
        ("squad", question([{"text": "Ann", "answer_start": 99}]), "answer not at its place"),
        ("squad", question([{"text": "Ann.", "answer_start": -4}]), "answer not at its place"),
        ("squad", question([{"text": "Ann", "answer_start": "7"}]), "answer not at its place"),
        ("squad", question([{"text": " ", "answer_start": 2}]), "empty answer"),
        ("squad", question([]), "no answer"),
        ("squad", question([{"text": "Ann", "answer_start": 7}], is_impossible=True), "no answer"),
        ("squad", question("Ann"), "answers is no list"),
        ("squad", question({"text": ["a"], "answer_start": []}), "answers is no list"),
        ("squad", question([{"text": "Ann", "answer_start": 7}], question=""), "empty question"),
    ],
)
def test_bad_questions_are_counted(preset: str, data: str, reason: str) -> None:
    split = read(load_task({"name": preset}), data)
    assert not split.examples
    assert [reason in each for each in split.drops] == [True]
    assert split.dropped[0].startswith("f, article 1, paragraph 1, question 1: ")


def test_questions_with_and_without_answers() -> None:
    good = [{"text": "Ann", "answer_start": 7}, {"text": "It was Ann", "answer_start": 0}]
    expected = QuestionExample("q1", "who?", "It was Ann.", (("Ann", 7), ("It was Ann", 0)), False)
    assert read(load_task({"name": "squad"}), question(good)).examples == (expected,)
    two = load_task({"name": "squad2"})
    assert read(two, question(good, is_impossible=False)).examples == (expected,)
    (blank,) = read(two, question([], is_impossible=True)).examples
    assert blank == QuestionExample("q1", "who?", "It was Ann.", (), True)
    (unknown,) = read(two, question(good), labelled=False).examples
    assert unknown == QuestionExample("q1", "who?", "It was Ann.", (), False)


def test_answers_as_two_lists() -> None:
    task = load_task({"name": "squad", "format": "jsonl"})
    line = {"question": "q", "context": "a b", "answers": {"text": ["b"], "answer_start": [2]}}
    assert read(task, json.dumps(line)).examples == (
        QuestionExample("f:1", "q", "a b", (("b", 2),), False),
    )


PASSAGE = {
    "id": "high1.txt", "article": "Long ago.", "questions": ["When?", "_ ago"],
    "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]], "answers": ["D", "A"],
}  # fmt: skip


def test_race_from_a_directory_and_from_lines(tmp_path: Path) -> None:
    expected = (
        ChoiceExample("high1.txt-0", "Long ago.", "When?", ("a", "b", "c", "d"), 3),
        ChoiceExample("high1.txt-1", "Long ago.", "_ ago", ("e", "f", "g", "h"), 0),
    )
    task = load_task({"name": "race"})
    directory = tmp_path / "high"
    directory.mkdir()
    (directory / "1.txt").write_text(json.dumps(PASSAGE))
    (directory / "2.txt").write_text(json.dumps(PASSAGE))
    (directory / ".hidden").write_text("no JSON")
    assert read_split(task, [str(directory)]).examples == expected * 2
    lines = f"{json.dumps(PASSAGE)}\n{json.dumps(PASSAGE)}\n"
    assert read(task, lines).examples == expected * 2
    assert labels_of(task, expected) == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": ["E", "A"]}, "label is none of the options"),
        ({"answers": [7, 0]}, "label is none of the options"),
        ({"answers": ["", "A"]}, "no label"),
        ({"options": [["a", "b", "c"], ["e", "f", "g", "h"]]}, "other than 4 options"),
        ({"options": [["a", 1, "c", "d"], ["e", "f", "g", "h"]]}, "options is no list of texts"),
        ({"questions": [None, "_"]}, "question is no text"),
    ],
)
def test_bad_choices_are_counted(change: dict[str, Any], reason: str) -> None:
    split = read(load_task({"name": "race"}), json.dumps(PASSAGE | change))
    assert len(split.examples) == 1
    assert split.drops == Counter({reason: 1})


def test_a_passage_whose_lists_differ_is_counted() -> None:
    split = read(load_task({"name": "race"}), json.dumps(PASSAGE | {"answers": ["A"]}))
    assert split.drops == Counter({"questions, options and answers differ in number": 1})


@given(st.lists(st.sampled_from(["a\t1", "b\t0", "\t1", "c\t", "d", "e\t1\t2", "f\t9"])))
def test_what_goes_in_is_kept_or_dropped(lines: list[str]) -> None:
    split = read(
        load_task({"name": "sst2", "labels": [0, 1]}), "\n".join(["sentence\tlabel", *lines])
    )
    assert len(split.examples) + split.drops.total() == len(lines)
    assert len(split.examples) == sum(line in ("a\t1", "b\t0") for line in lines)
    assert split.drops[UNSEEN_LABEL] == lines.count("f\t9")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-9, 9),
        st.floats(),
        st.sampled_from(["", " ", "a", "B", "O", "B-X", "I-X", "1"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["text", "answer_start"]), inner, max_size=2),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", sorted(ROLES))
@pytest.mark.parametrize("labelled", [True, False])
@settings(max_examples=25)
@given(data=st.data())
def test_whatever_a_json_object_holds(kind: str, labelled: bool, data: st.DataObject) -> None:
    task = task_of(kind, format="jsonl", options=2)
    roles = st.fixed_dictionaries({}, optional=dict.fromkeys(ROLES[kind], VALUES))
    objects = data.draw(st.lists(st.one_of(roles, roles, VALUES), min_size=1, max_size=5))
    split = read(task, "\n".join(map(json.dumps, objects)), labelled=labelled)
    assert len(split.examples) + split.drops.total() == len(objects)


FORMS = [
    load_task({"name": name, **values})
    for name, values in [
        ("cola", {}), ("sst2", {}), ("sst2", {"format": "csv"}), ("trec", {}), ("wikigold", {}),
        ("squad", {}), ("race", {}), ("tnews", {}),
    ]
]  # fmt: skip


@pytest.mark.parametrize("task", FORMS, ids=lambda task: f"{task.name}-{task.format}")
@settings(max_examples=25)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=4),
            st.sampled_from([b"sentence\tlabel\n", b"sentence,label\n", b"\n", b"\t", b" ", b'"']),
            st.sampled_from([b"a O\n", b"x\t1\t\ty\n", b'{"data": []}', b"[", b"{}\n", b"\r"]),
        ),
        max_size=10,
    )
)
def test_whatever_a_file_holds(task: Task, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    try:
        split = read(task, data)
    except ValueError as error:
        assert str(error).startswith("f")
    else:
        assert len(split.examples) + split.drops.total() <= data.count(b"\n") + 1


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.tsv.zst"])
def test_files_may_be_compressed(tmp_path: Path, name: str) -> None:
    data = b"sentence\tlabel\na\t1\n"
    packed = {"gz": gzip.compress(data), "zst": zstandard.compress(data)}
    path = tmp_path / name
    path.write_bytes(packed.get(name.rpartition(".")[2], data))
    split = read_split(load_task({"name": "sst2"}), [str(path)])
    assert [each.id for each in split.examples] == [f"{name}:2"]


def test_broken_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    task = load_task({"name": "sst2"})
    broken, empty = tmp_path / "b.gz", tmp_path / "e.tsv"
    broken.write_bytes(gzip.compress(b"sentence\tlabel\n" * 100)[:20])
    empty.write_text("sentence\tlabel\n")
    with pytest.raises(ValueError, match=r"b.gz cannot be decompressed"):
        read_split(task, [str(broken)])
    with pytest.raises(ValueError, match=r"there is no file .*gone"):
        read_split(task, [str(tmp_path / "gone")])
    with pytest.raises(ValueError, match=r"e.tsv has no usable example of sst2: it holds none"):
        read_split(task, [str(empty)])
    empty.write_text("sentence\tlabel\n\t1\n\t0\n")
    with pytest.raises(ValueError, match=r"no usable example of sst2: .*e.tsv:2: empty text"):
        read_split(task, [str(empty)])


@pytest.mark.parametrize(
    ("columns", "lacks"),
    [({}, "no text"), ({"text": "review"}, "no label"), ({"text": "title"}, "no text")],
)
@pytest.mark.parametrize("layout", ["jsonl", "csv"])
def test_where_columns_have_other_names_they_are_told_once(
    tmp_path: Path, layout: str, columns: dict[str, str], lacks: str
) -> None:
    task = task_of("classification", format=layout, columns=columns)
    path = tmp_path / f"own.{layout}"
    if layout == "jsonl":
        path.write_text('{"id": 1, "sentiment": "good", "review": "so so"}\n' * 12)
        said = rf"own.jsonl:1: {lacks} \(it has id, sentiment, review: set columns\); dropped: 12 "
    else:
        path.write_text("id,sentiment,review\n" + "1,good,so so\n" * 12)
        said = "it has id, sentiment, review(; set columns$|: set columns.; dropped: 12 no label$)"
    with pytest.raises(ValueError, match=said) as refused:
        read_split(task, [str(path)])
    assert str(refused.value).count("sentiment") == 1


def test_a_record_that_has_the_columns_is_told_none() -> None:
    split = read(task_of("classification"), '{"text": "", "label": "a"}\n{"text": "b"}\n')
    assert split.dropped == ("f:1: empty text", "f:2: no label (it has text: set columns)")


def test_a_file_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.evaluation.records.MAX_FILE_BYTES", 20)
    path = tmp_path / "large.tsv"
    path.write_text("sentence\tlabel\n" + "a\t1\n" * 10)
    with pytest.raises(ValueError, match=r"large.tsv has more than 20 bytes: split it"):
        read_split(load_task({"name": "sst2"}), [str(path)])


def write_sst(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def test_labels_unseen_in_training_are_dropped_from_the_other_splits(tmp_path: Path) -> None:
    train = write_sst(tmp_path / "train.tsv", [("a", "10"), ("b", "9")])
    other = write_sst(tmp_path / "dev.tsv", [("c", "9"), ("d", "7"), ("e", "10")])
    paths = {"train": [train], "validation": [other], "test": [other]}
    data = read_task(load_task({"name": "sst2", **paths}))
    assert data.labels == ("9", "10")
    assert dict(data.scored) == {"test": data.validation}
    assert len(data.validation.examples) == 2
    assert data.validation.drops == Counter({UNSEEN_LABEL: 1})
    assert data.validation.dropped == (f"{other}:3: {UNSEEN_LABEL}",)


def test_tags_unseen_in_training_are_dropped(tmp_path: Path) -> None:
    train, other = tmp_path / "train.conll", tmp_path / "dev.conll"
    train.write_text("a I-PER\nb O\n")
    other.write_text("a B-PER\nb I-PER\n\nc B-ORG\n")
    task = task_of("tagging", train=[str(train)], validation=[str(other)])
    data = read_task(task)
    assert data.labels == ("O", "B-PER", "I-PER")
    assert [words for words, _ in tags(data.validation)] == [("a", "b")]
    assert data.validation.drops == Counter({UNSEEN_LABEL: 1})


def test_validation_is_held_out_by_text(tmp_path: Path) -> None:
    rows = [(f"text {n % 300}", str(n % 2)) for n in range(600)] + [("only here", "2")]
    task = load_task(
        {"name": "sst2", "train": [write_sst(tmp_path / "a.tsv", rows)], "held_out": 0.2}
    )
    data = read_task(task)
    train, held = ({text for text, _, _ in texts(each)} for each in (data.train, data.validation))
    assert not train & held
    kept = len(data.train.examples) + len(data.validation.examples)
    assert kept + data.validation.drops.total() == 601
    # Binomial: 300 texts at 0.2 are 60, five deviations are 35.
    assert 25 < len(held) < 95
    assert read_task(task) == data


def test_a_held_out_part_that_is_empty_is_refused(tmp_path: Path) -> None:
    train = write_sst(tmp_path / "a.tsv", [("a", "1"), ("b", "0")])
    with pytest.raises(ValueError, match=r"held_out 0.01 parts the 2 examples of sst2 into 2 and"):
        read_task(load_task({"name": "sst2", "train": [train], "held_out": 0.01}))


def test_a_task_without_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task sst2 names no train files"):
        read_task(load_task({"name": "sst2"}))
    one = write_sst(tmp_path / "a.tsv", [("a", "1"), ("b", "1")])
    with pytest.raises(ValueError, match=r"train of sst2 has the labels \['1'\], expected two"):
        read_task(load_task({"name": "sst2", "train": [one], "validation": [one]}))


def test_prediction_needs_no_labels() -> None:
    assert texts(read(load_task({"name": "sst2"}), "sentence\na\n", labelled=False)) == [
        ("a", None, None)
    ]
    assert texts(read(load_task({"name": "trec"}), "What is it ?\n", labelled=False)) == [
        ("What is it ?", None, None)
    ]
    assert tags(read(task_of("tagging"), "a\nb\n", labelled=False)) == [(("a", "b"), None)]
    assert not read(load_task({"name": "sst2"}), "sentence\n", labelled=False).examples

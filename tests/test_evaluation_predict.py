"""What is saved is used: by our command, by transformers, with adapters, on good and bad input."""

import io
import logging
import os
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification
from tuning_helpers import write_checkpoint, write_task

from pretrain.evaluation.drawing import Curve, chart, confusion, table, text
from pretrain.evaluation.evaluate import evaluate
from pretrain.evaluation.loop import Hyperparameters
from pretrain.evaluation.predict import predict_files
from pretrain.evaluation.recipe import Evaluation
from pretrain.evaluation.saved import save_best
from pretrain.evaluation.tuning import Run, Settings, perform, trained_models


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "checkpoint")


def save(directory: Path, checkpoint: str, kind: str, **contestant: object) -> Path:
    """Evaluate one task of one seed, and return where its model was saved."""
    evaluation = Evaluation.model_validate(
        {
            "output": str(directory / "out"),
            "checkpoints": [{"name": "ours", "path": checkpoint} | contestant],
            "tasks": [write_task(directory, kind)],
            "grid": {"learning_rates": [5e-3], "batch_sizes": [8], "epochs": 1},
            "seeds": [0],
            "baselines": [],
        }
    )
    (saved,) = save_best(evaluation, evaluate(evaluation).entries)
    return Path(saved)


def predict(model: Path, *files: Path, layout: str | None = None) -> list[dict[str, Any]]:
    lines = predict_files(str(model), [str(file) for file in files], layout, 3)
    return [orjson.loads(line) for line in lines]


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_saved_adapter_says_what_the_trained_model_says(
    kind: Literal["lora", "prefix"], checkpoint: str, tmp_path: Path
) -> None:
    adapter = {"kind": kind, "rank": 2, "virtual_tokens": 2}
    model = save(tmp_path, checkpoint, "classification", adapter=adapter)
    names = {path.name for path in model.iterdir()}
    assert ("adapter_config.json" in names) == (kind == "prefix")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "the rain zzz"}\n{"text": "hat qqq"}\n')
    found = [line["probabilities"] for line in predict(model, lines)]
    run = Run(
        checkpoint=checkpoint,
        tasks=(write_task(tmp_path, "classification"),),
        hyperparameters=Hyperparameters(learning_rate=5e-3, batch_size=8, epochs=1),
        seed=0,
        settings=Settings.model_validate({"adapter": adapter}),
    )
    (trained,), (part,) = trained_models(run, str(tmp_path / "out" / "runs"))
    given = part.tokenizer(["the rain zzz", "hat qqq"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = trained.eval()(**given).logits.softmax(-1).tolist()
    assert [list(shares.values()) for shares in found] == [
        pytest.approx(shares, rel=1e-4) for shares in expected
    ]


def test_weights_that_were_dropped_are_made_again(checkpoint: str, tmp_path: Path) -> None:
    run = Run(
        checkpoint=checkpoint,
        tasks=(write_task(tmp_path, "choice"),),
        hyperparameters=Hyperparameters(learning_rate=5e-3, batch_size=8, epochs=1),
        seed=0,
    )
    (first,) = perform(run, str(tmp_path / "out"))
    (weights,) = tmp_path.rglob("weights.safetensors")
    weights.unlink()
    trained_models(run, str(tmp_path / "out"))
    (again,) = perform(run, str(tmp_path / "out"))
    assert again.checksum == first.checksum


def test_every_layout_is_read(
    checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save(tmp_path, checkpoint, "classification")
    plain, table_file = tmp_path / "a.txt", tmp_path / "b.tsv"
    plain.write_bytes(b"the rain zzz\n\nhat qqq\n\xff zzz\n" + b"the " * 5000 + b"\n")
    table_file.write_text("text\tother\nthe rain zzz\t1\n")
    with caplog.at_level(logging.WARNING, logger="pretrain"):
        from_text, from_table = predict(model, plain), predict(model, table_file)
    assert [line["id"].rpartition(":")[2] for line in from_text] == ["1", "3", "4", "5"]
    assert "1 dropped: empty text" in caplog.text
    told = f"{plain}: 1 lines are not UTF-8 and read with \ufffd, the first is line 4"
    assert told in caplog.text
    assert caplog.text.count("not UTF-8") == 1
    assert from_table[0]["label"] == from_text[0]["label"]
    assert "toy-classification: 1 of 2 given texts cut at 32 tokens" in caplog.text
    assert caplog.text.count("cut at") == 1
    with pytest.raises(ValueError, match="its name does not tell its format, give --format"):
        predict(model, tmp_path / "what")
    # Of a table without a header the first example is taken for one.
    table_file.write_text("the rain zzz\n")
    with caplog.at_level(logging.WARNING, logger="pretrain"):
        assert predict(model, table_file) == []
    assert f"{table_file} holds no example below the header" in caplog.text


def test_ids_are_file_and_line_whatever_the_layout(
    checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save(tmp_path, checkpoint, "classification")
    # More lines than are read at once, which is three.
    rows = ["the rain"] * 5
    written = {
        "q.txt": "\n".join(rows),
        "q.jsonl": "\n".join(orjson.dumps({"text": row}).decode() for row in rows) + "\nno JSON",
        "q.tsv": "\n".join(["text", *rows]),
    }
    ids = {}
    for name, data in written.items():
        (tmp_path / name).write_text(data)
        ids[name] = [line["id"] for line in predict(model, tmp_path / name)]
    assert ids == {
        name: [f"{name}:{line + (name == 'q.tsv')}" for line in range(1, 6)] for name in written
    }
    assert f"{tmp_path}/q.jsonl:6: not JSON" in caplog.text


def test_bad_lines_are_counted_and_good_ones_answered(
    checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save(tmp_path, checkpoint, "answering")
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "how", "context": "the 42"}\nnot json\n{"question": "how"}\n')
    with caplog.at_level(logging.WARNING, logger="pretrain"):
        assert len(predict(model, asked)) == 1
    assert caplog.text.count("1 dropped") == 2
    with pytest.raises(ValueError, match="answering needs more than a text a line"):
        predict(model, asked, layout="text")


def test_a_model_of_others_is_used_by_its_architecture(checkpoint: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        theirs.mkdir(exist_ok=True)
        (theirs / name).write_bytes((Path(checkpoint) / name).read_bytes())
    with torch.random.fork_rng():
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
    model.config.id2label = {0: "low", 1: "mid", 2: "high"}
    model.save_pretrained(theirs)
    given = tmp_path / "given.txt"
    given.write_text("the rain\n")
    (line,) = predict(theirs, given)
    assert set(line["probabilities"]) == {"low", "mid", "high"}
    with pytest.raises(ValueError, match="RobertaForMaskedLM, which has no head for a task"):
        predict(Path(checkpoint), given)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_model_of_others_takes_texts_and_pairs(
    at_once: int, checkpoint: str, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (theirs / name).write_bytes((Path(checkpoint) / name).read_bytes())
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "pair"}\n{"text": "red", "pair": "hat"}\n{"text": "red"}\n')
    found = [orjson.loads(line) for line in predict_files(str(theirs), [str(lines)], None, at_once)]
    assert [line["id"] for line in found] == ["lines.jsonl:1", "lines.jsonl:2", "lines.jsonl:3"]
    assert found[1]["probabilities"] != found[2]["probabilities"]


def test_a_model_of_others_chooses_among_any_options(checkpoint: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        AutoModelForMultipleChoice.from_pretrained(checkpoint).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((Path(checkpoint) / name).read_bytes())
    asked = [{"context": "rain", "question": "?", "options": ["a"] * n} for n in (2, 5, 1, 3, 2)]
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in asked))
    found = [line["probabilities"] for line in predict(tmp_path, lines)]
    assert found == [pytest.approx([1 / n] * n) for n in (2, 5, 3, 2)]


def test_a_model_of_several_labels_a_text_is_refused(checkpoint: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=3, problem_type="multi_label_classification"
        )
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="may give a text several labels"):
        predict(tmp_path, tmp_path / "no.txt")


def test_a_model_that_lacks_its_head_is_refused(checkpoint: str, tmp_path: Path) -> None:
    """transformers would draw one, and its answers would look like others."""
    model = save(tmp_path, checkpoint, "classification")
    weights = load_file(model / "model.safetensors")
    given = tmp_path / "given.txt"
    given.write_text("the rain\n")
    (model / "task.json").write_text("{")
    with pytest.raises(ValueError, match=r"task\.json is damaged or of another version") as error:
        predict(model, given)
    assert len(str(error.value).splitlines()) == 1
    (model / "task.json").unlink()
    assert len(predict(model, given)) == 1
    encoder = {name: one for name, one in weights.items() if name.startswith("roberta.")}
    save_file(encoder, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack classifier\.dense\.bias and 3 more"):
        predict(model, given)


def test_no_model_is_told_as_everywhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*/none: expected a directory"):
        predict(tmp_path / "none")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"has no config\.json that loads") as error:
        predict(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_nothing_from_outside_is_markup() -> None:
    bad = "<script>\u202e&"
    assert text(bad) == "&lt;script&gt;[U+202E]&amp;"
    drawn = [
        table(bad, [bad], [[bad]]),
        confusion([bad, "b"], [[3, 1], [0, 0]]),
        chart(bad, bad, [Curve(bad, ((1.0, 0.5), (2.0, 0.5)))], percent=True),
    ]
    assert not any("<script" in each or "\u202e" in each for each in drawn)
    assert "0.56)" in drawn[1], "three of four: 0.75 of the darkest"


def test_a_curve_lies_where_its_numbers_are() -> None:
    drawn = chart("loss", "step", [Curve("a", ((0.0, 1.0), (1.0, 3.0), (2.0, 2.0)))])
    assert 'points="46.0,206.0 248.0,10.0 450.0,108.0"' in drawn
    assert "nothing was measured" in chart("loss", "step", [Curve("a", ())])


def test_standard_input_is_answered_line_by_line(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(tmp_path, checkpoint, "tagging")
    stream = io.BufferedReader(io.BytesIO(b"rain on Zurich\nthe hat\n"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    lines = predict_files(str(model), [], None, 1)
    assert orjson.loads(next(lines))["words"] == ["rain", "on", "Zurich"]
    assert orjson.loads(next(lines))["words"] == ["the", "hat"]
    assert next(lines, None) is None


def test_tasks_learned_together_are_saved_each(checkpoint: str, tmp_path: Path) -> None:
    tasks = [write_task(tmp_path, kind) for kind in ("answering", "tagging")]
    evaluation = Evaluation.model_validate(
        {
            "output": str(tmp_path / "out"),
            "checkpoints": [{"name": "all at once", "path": checkpoint, "together": True}],
            "tasks": tasks,
            "grid": {
                "learning_rates": [5e-3, 1e-3],
                "batch_sizes": [8],
                "epochs": 1,
                "weight_decay": 0.1,
            },
            "seeds": [0, 1],
            "baselines": [],
        }
    )
    report = evaluate(evaluation)
    assert [entry.task for entry in report.entries] == [task.name for task in tasks]
    assert {entry.best_cell for entry in report.entries} == {report.entries[0].best_cell}
    directories = [Path(each) for each in save_best(evaluation, report.entries)]
    assert [each.parent.name for each in directories] == ["all-at-once"] * 2
    encoders = [
        {
            name: weight
            for name, weight in load_file(each / "model.safetensors").items()
            if name.startswith("roberta.encoder")
        }
        for each in directories
    ]
    assert encoders[0].keys() == encoders[1].keys() != set()
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    kept = list(tmp_path.rglob("weights.safetensors"))
    assert len(kept) == 1, "four runs, one of them is the best"


def test_a_byte_order_mark_is_no_text(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = save(tmp_path, checkpoint, "classification"), b'{"text": "the rain zzz"}\n'
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"the rain zzz\n")
    (expected,) = predict(model, plain)
    plain.write_bytes(b"\xef\xbb\xbfthe rain zzz\n")
    assert predict(model, plain) == [expected]
    stream = io.BufferedReader(io.BytesIO(b"\xef\xbb\xbf" + rows))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    (line,) = map(orjson.loads, predict_files(str(model), [], None, 1))
    assert line["probabilities"] == expected["probabilities"]


def test_the_card_is_that_of_all_seeds_and_of_what_was_learned(
    checkpoint: str, tmp_path: Path
) -> None:
    values = {
        "output": str(tmp_path / "out"),
        "checkpoints": [{"name": "ours", "path": checkpoint}],
        "tasks": [write_task(tmp_path, "classification")],
        "grid": {"learning_rates": [1e-9], "batch_sizes": [8], "epochs": 1, "train_examples": 20},
        "baselines": [],
    }
    for seeds in ([0], [0, 7]):
        evaluation = Evaluation.model_validate(values | {"seeds": seeds})
        entries = evaluate(evaluation).entries
        directory = Path(save_best(evaluation, entries)[0])
        # What a process of our number left that was killed while it saved.
        (directory.parent / f".{directory.name}.{os.getpid()}").mkdir(exist_ok=True)
        card = (directory / "README.md").read_text()
        assert f"the best of {len(seeds)} |" in card
        assert "| training examples | 20 of 48 |" in card
    (directory / "model.safetensors").unlink()
    (directory / "task.json").unlink()
    (again,) = save_best(evaluation, entries)
    assert (Path(again) / "model.safetensors").exists()

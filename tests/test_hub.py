"""Datasets of the Hugging Face hub by their names, over HTTP from a server that speaks as it does.

The server is on loopback (`hub_helpers`); the client is `huggingface_hub` itself, as installed.
"""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from chain_helpers import compare_snapshots, prepare
from corpus_helpers import make_documents, random_text, start
from hub_helpers import TOKEN, Hub, serving

from corpus.files import RemoteError
from corpus.recipe import Recipe
from corpus.snapshots import Input, Snapshot
from pipeline.inputs import find_inputs
from pipeline.refresh import refresh
from pretrain.evaluation.examples import TextExample, read_split, read_task
from pretrain.evaluation.tasks import load_task

NAME = "owner/name"
GIVEN = {"store", "snapshot", "sources"}
CARD = """---
dataset_info:
- config_name: reviews
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': bad, '1': good}}}
configs:
- config_name: reviews
  data_files:
  - {split: train, path: reviews/train-*}
  - {split: validation, path: reviews/validation-*}
---
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, which this process takes for the real one; nobody is logged in."""
    with serving() as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        for offline in ("huggingface_hub.constants", "datasets.config"):
            monkeypatch.setattr(f"{offline}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The client waits 27 seconds in all before it gives up.
        silent = SimpleNamespace(sleep=lambda _: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time", silent)
        yield hub


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset's files: lines, Parquet of two splits, and what describes it."""
    root = tmp_path / "raw"
    lines = [json.dumps(document) + "\n" for document in make_documents(0, 40)]
    for name, data in (
        ("README.md", b"# A dataset\n"),
        (".gitattributes", b"*.parquet filter=lfs\n"),
        ("lines/plain.jsonl", "".join(lines[:20]).encode()),
        ("lines/deep/packed.jsonl.zst", zstandard.compress("".join(lines[20:]).encode())),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "tables").mkdir()
    for split in ("train", "test"):
        texts = [random_text(random.Random(f"{split} {n}"), 60) for n in range(10)]
        pq.write_table(pa.table({"text": texts}), root / "tables" / f"{split}-0.parquet")
    return root


def recipe(root: str, store: Path | str = "/nowhere", *paths: str, **fields: Any) -> Recipe:  # noqa: ANN401
    """Name the whole dataset, a glob and a file, each as a source, or just the given paths."""
    named = paths or ("", "/tables/train-*.parquet", "/lines/plain.jsonl")
    sources = [{"name": f"s{n}", "paths": [root + path]} for n, path in enumerate(named)]
    return Recipe.model_validate(
        {
            "store": str(store),
            "snapshot": "first",
            "sources": sources,
            "tokenizer": {"vocab_size": 280},
            "pack": {"sequence_length": 64, "shard_size_bytes": 9000, "validation_fraction": 0.2},
            "dedup": {"partitions": 1},
            "workers": 1,
        }
        | fields
    )


def known(inputs: tuple[Input, ...]) -> list[tuple[object, ...]]:
    """Return all that is known of inputs but where they lie."""
    return [(*each.identity, each.format, each.size_bytes) for each in inputs]


def find(*paths: str) -> list[Input]:
    return list(find_inputs(recipe("", "/nowhere", *paths))[0])


def made(root: str, store: Path, **fields: Any) -> Snapshot:  # noqa: ANN401
    return refresh(recipe(root, store, **fields)).snapshot


def test_a_dataset_gives_what_its_copy_on_a_disk_gives(
    hub: Hub, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    hub.page_entries = 2
    root = hub.add(NAME, raw)
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    copied, served = made(str(raw), tmp_path / "here"), made(root, tmp_path / "there")
    assert known(served.inputs) == known(copied.inputs)
    assert {each.path.split("/")[0] for each in served.inputs} == {"hf:"}
    compare_snapshots((here, there), (copied, served))
    assert any("/lfs/" in each for each in hub.asked)

    hub.asked.clear()
    shutil.copy(raw / "lines" / "plain.jsonl", raw / "lines" / "later.jsonl")
    with (raw / "lines" / "later.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": random_text(random.Random(1), 80)}) + "\n")
    again = {"snapshot": "second"}
    compare_snapshots(
        (here, there),
        (made(str(raw), tmp_path / "here", **again), made(root, tmp_path / "there", **again)),
    )
    fetched = {each.rpartition("/")[2] for each in hub.asked if "/resolve/" in each}
    assert fetched == {"later.jsonl"}


def test_a_revision_is_read_as_it_was(hub: Hub, raw: Path, tmp_path: Path) -> None:
    before = shutil.copytree(raw, tmp_path / "before")
    (raw / "lines" / "plain.jsonl").write_text('{"text": "another"}\n')
    now, then = hub.add(NAME, raw), hub.add(NAME, before, "v1.0")
    assert then == f"hf://datasets/{NAME}@v1.0"
    for path in ("", "/lines/*.jsonl", "/lines/plain.jsonl"):
        assert known(tuple(find(then + path))) == known(tuple(find(str(before) + path)))
        assert known(tuple(find(now + path))) == known(tuple(find(str(raw) + path)))


def test_a_file_that_is_written_again_is_another_input(hub: Hub, raw: Path) -> None:
    root = hub.add(NAME, raw)
    ((first,), states) = find_inputs(recipe(root, "/nowhere", "/lines/plain.jsonl"))
    ((same,), same_states) = find_inputs(recipe(root, "/nowhere", "/lines/plain.jsonl"))
    assert (same, same_states) == (first, states)
    (raw / "lines" / "plain.jsonl").write_text('{"text": "another"}\n')
    ((second,), new_states) = find_inputs(recipe(root, "/nowhere", "/lines/plain.jsonl"))
    assert second.checksum != first.checksum
    assert new_states != states


def test_many_files_are_few_questions(hub: Hub, raw: Path) -> None:
    """The hub counts what is asked beside the files themselves, and refuses who asks too often."""
    for n in range(40):
        (raw / "lines" / f"{n:02}.jsonl").write_text(f'{{"text": "number {n}"}}\n')
    found = find(hub.add(NAME, raw))
    assert len(found) == 44
    assert sum("/api/datasets/" in each for each in hub.asked) < 10


def test_what_is_not_there_or_not_for_everybody_is_named(
    hub: Hub, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hub.add(NAME, raw)
    private, gated = hub.add("owner/private", raw), hub.add("owner/gated", raw)
    hub.private.add("owner/private")
    hub.gated.add("owner/gated")
    for missing in (
        "hf://datasets/owner/none", "hf://datasets/owner/none/*.parquet", f"hf://{NAME}",
        f"{root}/none.jsonl", f"{root}/none/*", f"{root}@v9", private, f"{private}/lines",
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            find(missing)
        said = f"source s0: there is no file at {missing}, or the hub does not show it to you: "
        assert str(caught.value).startswith(said)
        assert "HF_TOKEN" in str(caught.value)
    with pytest.raises(ValueError, match="Repository id must be 'namespace/name', got 'owner'"):
        find("hf://datasets/owner")
    with pytest.raises(
        RemoteError, match=f"^{gated}/lines/.* could not be read .*GatedRepoError.* is restricted"
    ) as refused:
        find(f"{gated}/lines")
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    copied = known(tuple(find(str(raw))))
    assert known(tuple(find(private))) == known(tuple(find(gated))) == copied


def test_the_command_line_says_it_in_one_line(hub: Hub, raw: Path, tmp_path: Path) -> None:
    """As a user meets it: the address and a wrong token from the environment, no request shown."""
    hub.add(NAME, raw)
    hub.private.add(NAME)
    path = tmp_path / "recipe.yaml"
    root = f"hf://datasets/{NAME}"
    path.write_text(recipe(root, tmp_path / "store").model_dump_json(include=GIVEN))
    extra = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_of_somebody_else"}
    extra["HF_HUB_OFFLINE"] = "0"
    command = start("pipeline", "refresh", str(path), extra=extra)
    _, said = command.communicate(timeout=600)
    assert command.returncode == 2
    (line,) = said.splitlines()
    assert line.startswith(f"error: source s0: there is no file at {root}, or the hub does not ")
    assert "GET /api/datasets/owner/name" in hub.asked


def test_a_hub_that_goes_away_halfway_is_one_line_and_no_loss(
    hub: Hub, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    root = hub.add(NAME, raw)
    expected = made(str(raw), tmp_path / "here")
    made(root, tmp_path / "counted")
    contents = sum("/lfs/" in each or each.endswith(".jsonl") for each in hub.asked)
    for answered in (3, contents - 2):  # while checksums are made, and while records are read
        hub.files_left = answered
        with pytest.raises(
            RemoteError, match=rf"^{root}/\S+ could not be read over the network: \w+: .*discon"
        ):
            made(root, tmp_path / "there")
        hub.files_left = None
    records = tmp_path / "there" / "snapshots" / "first" / "records" / "clean"
    assert 0 < len(list(records.iterdir())) < len(expected.inputs)
    snapshot = made(root, tmp_path / "there")
    compare_snapshots((str(tmp_path / "here"), str(tmp_path / "there")), (expected, snapshot))


def test_a_task_is_read_by_its_name(hub: Hub, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    root = tmp_path / "task"
    (root / "reviews").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    for split, texts in (("train", ["fine", "dull"]), ("validation", ["great"])):
        table = pa.table({"sentence": texts, "label": [1, 0][: len(texts)]})
        pq.write_table(table, root / "reviews" / f"{split}-00000-of-00001.parquet")
    hub.add("owner/task", root)
    hub.add("owner/private", root)
    hub.private.add("owner/private")
    train, validation = (f"owner/task:reviews@{split}" for split in ("train", "validation"))
    fields = {"name": "sst2", "format": "datasets", "train": [train], "validation": [validation]}
    task = load_task(fields)
    data = read_task(task)
    examples = [each for each in data.train.examples if isinstance(each, TextExample)]
    assert [(each.text, each.label) for each in examples] == [("fine", "good"), ("dull", "bad")]
    assert len(data.validation.examples) == 1
    for name, said in (
        ("owner/none@train", "doesn't exist on the Hub or cannot be accessed"),
        ("owner/private@train", "doesn't exist on the Hub or cannot be accessed"),
        ("owner/task:reviews@test", 'Unknown split "test"'),
        ("owner/task:other@train", "'other' not found"),
    ):
        with pytest.raises(ValueError, match=f"^{name} cannot be loaded by `datasets`: .*{said}"):
            read_split(task, [name])

import ast
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from chain_helpers import Chain, Delivery, prepare
from packed_helpers import FORMATS, write_packed
from pretrain_helpers import make_recipe, write_snapshot
from test_checkpoints import IDENTITY, STATE

from corpus.recipe import Recipe
from corpus.shards import PAIRED
from corpus.snapshots import open_snapshot
from pipeline.__main__ import main as pipeline
from pipeline.explain import open_store, show_row
from pipeline.forget import Request
from pretrain.__main__ import main as command_line
from pretrain.batches import hash_batches, open_stream
from pretrain.checkpoints import CheckpointState, read_state, save_checkpoint
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.explain import explain_batch, explain_step, show_place
from pretrain.metrics import read_metrics, write_metrics


def explain(store: Path, step: int, **changes: Any) -> tuple[list[str], Recipe]:  # noqa: ANN401
    """Explain a step that no run has taken."""
    recipe = make_recipe(store, store / "run", max_steps=100, batch_sequences=10, **changes)
    (store / "run").mkdir()
    (store / "run" / "recipe.json").write_text(recipe.model_dump_json())
    return explain_step(str(store / "run"), step).splitlines(), recipe


def test_mixing_shows_what_comes_of_each_source(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    lines, _ = explain(tmp_path, 20, mixing={"books": 0.2, "wiki": 0.8})
    assert "sequences   200 to 209" in lines
    # Of wiki's 26 rows 160 were taken before: pass 6; of the 71 of books 40: pass 0.
    assert "        2 of books, weight 1 of 5, pass 0 of 71 rows" in lines
    assert "        8 of wiki, weight 4 of 5, pass 6 of 26 rows" in lines
    assert "        8 rows of shards/one/wiki/train-00002.arrow" in lines


def test_masks_and_ramps_are_those_of_the_step(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    ramps = {
        "batch_ramp": {"from_sequences": 2, "batches": 4},
        "mask_ramp": {"from_prob": 0.35, "steps": 4},
    }
    lines, _ = explain(tmp_path, 2, masking="span", **ramps)
    # 2, 4 and 6 sequences; 35 % and two of four steps to 15 %.
    assert "sequences   6 to 11, pass 0 of 97 rows" in lines
    assert "masks       span, 25.00% of real tokens" in lines


def test_static_masks_are_told(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    lines, _ = explain(tmp_path, 2, mask_copies=10)
    assert "masks       fixed, 15.00% of real tokens, 10 static copies" in lines


def test_as_many_rows_are_shown_as_asked(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    explain(tmp_path, 3)
    for asked, shown in ((0, 0), (4, 4), (99, 10)):
        lines = explain_step(str(tmp_path / "run"), 3, asked).splitlines()
        assert sum(line.startswith("sequence ") for line in lines) == shown
        assert sum(line.startswith("labels at ") for line in lines) == shown
    with pytest.raises(ValueError, match="--rows is -1, expected 0 or more"):
        explain_step(str(tmp_path / "run"), 3, -1)


URL = "https://example.org/{}"


def deliver_pages(chain: Chain) -> dict[str, str]:
    """Deliver twelve documents in two files, every other with an address; give their texts."""
    texts = {f"a/d{n}": " ".join(f"t{n}x{k}" for k in range(9)) for n in range(12)}
    records: list[dict[str, Any]] = []
    for n, (name, text) in enumerate(texts.items()):
        url = {"url": URL.format(n)} if n % 2 else {}
        records.append({"id": name.removeprefix("a/"), "text": text} | url)
    files = {("a", "1.jsonl"): records[:5], ("a", "2.jsonl"): records[5:]}
    chain.deliver(Delivery("s1", files))
    return texts


@pytest.fixture
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Chain, Path, dict[str, str]]:
    """A store in a directory with a name that a shell would cut, a run over it, its texts."""
    prepare(monkeypatch)
    chain = Chain(tmp_path / "a store's home", {"threshold": 0.9, "ngram": 2})
    texts, run = deliver_pages(chain), tmp_path / "run"
    run.mkdir()
    recipe = make_recipe(Path(chain.store), run, "s1", batch_sequences=4)
    (run / "recipe.json").write_text(recipe.model_dump_json())
    return chain, run, texts


def sections(shown: str) -> list[list[str]]:
    """Cut what is shown into its rows."""
    return [part.splitlines() for part in shown.split("\n\n")[1:]]


def test_rows_are_shown_with_their_documents(taught: tuple[Chain, Path, dict[str, str]]) -> None:
    chain, run, texts = taught
    before = explain_step(str(run), 1, 4)
    told = set()
    for head, *lines in sections(before):
        assert head.endswith(", source a")
        names = [line for line in lines if line.startswith("  from token ")]
        place = head.partition(": row ")[2].removesuffix(", source a")
        row, _, path = place.partition(" of shards/")
        place = f"{path.removesuffix('.arrow')}:{row}"
        held = list(show_row(open_store(chain.store, "s1"), place))[1:]
        assert len(names) == len(held)
        for name, other in zip(names, held, strict=True):
            document = name.split(": ")[1].split(",")[0].removesuffix(" (continued)")
            shown, _, text = other.strip().partition(": ")
            assert document == shown
            assert ast.literal_eval(text).strip() in texts[document]
            number = int(document.removeprefix("a/d"))
            assert name.endswith(f", {URL.format(number)}") == bool(number % 2)
            is_begun = texts[document].startswith(ast.literal_eval(text).strip())
            assert name.partition(",")[0].endswith(" (continued)") != is_begun
            told.add(document)
    assert len(told) > 3
    # A later snapshot has other shards in the place of those.
    chain.take_down("s2", Request(ids=tuple(list(texts)[:6])))
    held_now = {each.path: each.checksum for each in open_snapshot(chain.store).shards}
    then = open_snapshot(chain.store, "s1").shards
    assert any(held_now.get(each.path) != each.checksum for each in then)
    assert explain_step(str(run), 1, 4) == before


def test_without_tokens_files_there_is_a_command_that_names_the_documents(
    taught: tuple[Chain, Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    chain, run, _ = taught
    told = sections(explain_step(str(run), 1))
    tokens = Path(chain.store, "snapshots", "s1", "tokens")
    tokens.rename(tokens.with_name("away"))
    assert command_line(["explain-step", str(run), "1"]) == 0
    without = sections(capsys.readouterr().out)
    tokens.with_name("away").rename(tokens)
    assert [lines[0] for lines in without] == [lines[0] for lines in told]
    for known, (_, numbers, missing, hint, *_) in zip(told, without, strict=True):
        named = [line for line in known if line.startswith("  from token ")]
        assert numbers.count(" from token ") == len(named)
        assert missing.startswith(f"their ids are not here ({tokens}/")
        program, *arguments = shlex.split(hint.removeprefix("where the whole store is: "))
        assert [program, *arguments[:2]] == ["python", "-m", "pipeline"]
        assert pipeline(arguments[2:]) == 0
        place, *documents = capsys.readouterr().out.splitlines()
        assert place.startswith(f"{arguments[-1]}: ")
        assert len(documents) == len(named)
        for document, line in zip(documents, named, strict=True):
            assert f": {document.split(':')[0].strip()}" in line


def test_without_the_documents_ids_are_shown_alone(
    taught: tuple[Chain, Path, dict[str, str]],
) -> None:
    chain, run, _ = taught
    told = explain_step(str(run), 1).splitlines()
    clean = Path(chain.store, "snapshots", "s1", "clean")
    clean.rename(clean.with_name("away"))
    without = explain_step(str(run), 1).splitlines()
    assert sum(line.startswith("their addresses are not here") for line in without) == 3
    shown = [line.split(", ")[0] for line in told if line.startswith("  from token ")]
    assert [line for line in without if line.startswith("  from token ")] == shown


@pytest.mark.parametrize("packing", FORMATS)
def test_rows_number_their_documents(tmp_path: Path, packing: str) -> None:
    snapshot = write_packed(tmp_path, packing)
    lines, recipe = explain(tmp_path, 3)
    stream = open_stream(str(tmp_path), snapshot, data_plan(recipe.pretrain, snapshot))
    (batch,) = stream.train_batches(Shares(10, 1, 10), 3, 0)
    shown = [line for line in lines if line.startswith("documents of the shard: ")]
    assert len(shown) == 3
    for line, row in zip(shown, batch.rows, strict=False):
        shard, local = stream.train.open(int(row))
        pieces = shard.pieces()
        here = pieces.rows == local
        values = zip(pieces.documents, pieces.starts, pieces.offsets, strict=True)
        held = [each for each, is_here in zip(values, here, strict=True) if is_here]
        assert line.split(": ")[1].split(", ") == [
            f"{document} from token {start}{' (continued)' if offset else ''}"
            for document, start, offset in held
        ]
    halves = Counter(line for line in lines if line.startswith("second half: "))
    assert halves.total() == (3 if packing in PAIRED else 0)


def write_run(root: Path, left_out: tuple[int, ...], steps: int) -> list[str]:
    """Write the metrics of a run that took steps without some batches; give their hashes."""
    snapshot, run = write_snapshot(root), root / "run"
    run.mkdir()
    recipe = make_recipe(root, run, max_steps=9, batch_sequences=4)
    (run / "recipe.json").write_text(recipe.model_dump_json())
    plan = data_plan(recipe.pretrain, snapshot, left_out)
    stream = open_stream(str(root), snapshot, plan)
    lines: list[dict[str, Any]] = []
    for step in range(steps):
        (batch,) = stream.train_batches(Shares(4, 1, 4), step, 0)
        found = {"batch": plan.batch_of(step).number, "batch_hash": f"{hash_batches([batch]):064x}"}
        lines.append({"step": step, "loss": 1.0} | found)
    write_metrics(str(run), lines)
    return [line["batch_hash"] for line in lines]


def test_a_lost_list_of_batches_left_out_is_found_again_in_the_metrics(tmp_path: Path) -> None:
    hashes = write_run(tmp_path, (0, 2), 5)
    run = str(tmp_path / "run")
    for step, expected in enumerate(hashes):
        assert f"{expected} (what the ranks trained on)" in explain_step(run, step)
    assert "batch       6, left out before it: [0, 2]" in explain_step(run, 4)
    assert "(the run left this batch out)" in explain_batch(run, 2)
    assert "(the run has not taken this batch)" in explain_batch(run, 7)
    # Only lines of steps in a row tell: of those far apart nobody knows what is between.
    write_metrics(run, [line for line in read_metrics(run) if line["step"] in {1, 4}])
    message = r"step 4 took batch 6 by .*, but what is known to be left out before it is nothing"
    with pytest.raises(ValueError, match=message):
        explain_step(run, 4)


def test_a_step_that_is_to_be_taken_again_is_shown_as_it_was_taken(tmp_path: Path) -> None:
    hashes = write_run(tmp_path, (), 5)
    run = tmp_path / "run"
    entry = {"step": 5, "reason": "leap", "batches": [4, 5], "went_back_to": 3}
    (run / "skipped.json").write_bytes(orjson.dumps([entry]))  # and killed before going on
    assert f"{hashes[4]} (what the ranks trained on)" in explain_step(str(run), 4)
    assert "batch       8, left out before it: [4, 5]" in explain_step(str(run), 6)


def test_a_root_of_checkpoints_is_as_good_as_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = write_snapshot(tmp_path)
    recipe = make_recipe(tmp_path, tmp_path / "run", max_steps=9)
    plan = data_plan(recipe.pretrain, snapshot, (1,))
    identity = IDENTITY.model_copy(update={"plan": plan})
    root = f"memory://{tmp_path.name}"
    save_checkpoint(root, 2, identity, recipe.model_dump(mode="json"), STATE)
    shown = explain_step(root, 1)
    assert "batch       2, left out before it: [1]" in shown
    assert "(there is no metrics.jsonl here)" in shown
    stream = open_stream(str(tmp_path), snapshot, plan)
    (batch,) = stream.train_batches(Shares(6, 1, 6), 1, 0)
    line = {"step": 1, "batch": 2, "batch_hash": f"{hash_batches([batch]):064x}"}
    carried = {"metrics.jsonl": orjson.dumps(line) + b"\n"}
    save_checkpoint(root, 3, identity, recipe.model_dump(mode="json"), STATE, carried)
    assert f"{line['batch_hash']} (what the ranks trained on)" in explain_step(root, 1)
    assert "(the run has not taken this batch)" in explain_step(root, 3)
    # Each look for the newest one is several requests where the root is in a bucket.
    looks: list[str] = []

    def read(path: str) -> CheckpointState:
        looks.append(path)
        return read_state(path)

    monkeypatch.setattr("pretrain.checkpoints.read_state", read)
    explain_step(root, 1)
    assert len(looks) == 1
    explain_batch(root, 2)
    assert len(looks) == 2


def test_batches_left_out_are_named(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)
    recipe = make_recipe(tmp_path, tmp_path, batch_sequences=10)
    plan = data_plan(recipe.pretrain, snapshot, skipped_batches=(2, 3, 8))
    stream = open_stream(str(tmp_path), snapshot, plan)
    assert show_place(stream, 3) == [
        "batch       5, left out before it: [2, 3]",
        "sequences   50 to 59, pass 0 of 97 rows",
    ]
    assert show_place(stream, 1)[0] == "batch       1, left out before it: none"

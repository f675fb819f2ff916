"""Fine-tuning: the same run gives the same bits, whatever happens to it, and is done once."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from evaluation_helpers import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel
from tuning_helpers import KINDS, write_checkpoint, write_task

from pretrain.evaluation import loop, tuning
from pretrain.evaluation.adapters import Adapter
from pretrain.evaluation.heads import identity, max_tokens, open_model, open_tokenizer
from pretrain.evaluation.loop import Hyperparameters, epoch_order, is_over, rate_at
from pretrain.evaluation.multitask import share
from pretrain.evaluation.states import Progress
from pretrain.evaluation.tasks import Task
from pretrain.evaluation.tuning import Result, Run, Settings, fine_tune, fingerprint, perform

SHORT = Hyperparameters(learning_rate=5e-3, batch_size=8, epochs=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "checkpoint")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    directory = tmp_path_factory.mktemp("tasks")
    return {kind: write_task(directory, kind) for kind in KINDS}


def without_time(result: Result) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds"})


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=300),
    size=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_an_epoch_takes_every_input_once(lengths: list[int], size: int, epoch: int) -> None:
    batches = epoch_order(np.array(lengths), size, (7, epoch))
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    assert max(map(len, batches)) <= size
    assert batches == epoch_order(np.array(lengths), size, (7, epoch))


def test_batches_hold_inputs_of_about_one_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 2000)
    batches = epoch_order(lengths, 16, (0, 0))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.05 * lengths.sum()
    means = [lengths[batch].mean() for batch in batches]
    assert means != sorted(means), "short ones must not all come first"


def test_the_rate_goes_up_then_down() -> None:
    given = Hyperparameters(learning_rate=1.0, epochs=2, warmup_fraction=0.25)
    rates = [rate_at(passes, given) for passes in (0.0, 0.25, 0.5, 1.25, 2.0)]
    assert rates == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert rate_at(0.0, Hyperparameters(learning_rate=1.0, warmup_fraction=0.0)) == 1.0


@pytest.mark.parametrize(("scores", "best", "over"), [(3, 2, False), (4, 2, False), (5, 2, True)])
def test_patience_counts_epochs_since_the_best(scores: int, best: int, over: bool) -> None:
    progress = Progress(scores=(({"f1": 0.0},),) * scores, best_epoch=best)
    assert is_over(progress, 2) is over
    assert not is_over(progress, None)


def test_a_run_gives_the_same_bits_again(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    runs = [
        fine_tune(checkpoint, tasks["answering"], SHORT, seed, str(tmp_path / name))
        for seed, name in ((0, "one"), (0, "two"), (1, "one"))
    ]
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator is moved"
    assert without_time(runs[0]) == without_time(runs[1])
    assert runs[0].checksum != runs[2].checksum
    assert runs[0].losses[-1][1] < runs[0].losses[0][1]
    assert runs[0].best is not None
    assert runs[0].best["f1"] == max(scores["f1"] for scores in runs[0].scores)
    assert runs[0].test is not None


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let training be killed before a step, once; return what counts the steps taken."""
    taken, really = [0], loop._step

    def count(*arguments: Any) -> float:  # noqa: ANN401 - passed on
        taken[0] += 1
        if taken[0] == step:
            raise KeyboardInterrupt
        return really(*arguments)

    monkeypatch.setattr(loop, "_step", count)
    return lambda: taken[0]


def test_a_killed_run_goes_on_to_the_same_bits(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SHORT.model_copy(update={"epochs": 3})
    task = tasks["tagging"]
    whole = fine_tune(checkpoint, task, given, 0, str(tmp_path / "whole"))
    killed_before = whole.steps - 3  # in the last epoch: a best one is known
    monkeypatch.setattr(loop, "STATE_EVERY_SECONDS", -1.0)
    taken = interrupt_at(killed_before, monkeypatch)
    out = str(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(checkpoint, task, given, 0, out)
    run = tmp_path / "killed" / whole.fingerprint
    assert len(list(run.glob("state-*.safetensors"))) == 1
    again = fine_tune(checkpoint, task, given, 0, out)
    assert taken() - killed_before == 4, "steps were taken twice"
    assert without_time(again) == without_time(whole)
    assert sorted(path.name for path in run.iterdir()) == ["result.json", "weights.safetensors"]


def test_a_damaged_state_is_no_reason_to_fail(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks["answering"]
    whole = fine_tune(checkpoint, task, SHORT, 0, str(tmp_path / "whole"))
    monkeypatch.setattr(loop, "STATE_EVERY_SECONDS", -1.0)
    interrupt_at(whole.steps - 2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(checkpoint, task, SHORT, 0, str(tmp_path / "killed"))
    (state,) = (tmp_path / "killed").glob("*/state-*.safetensors")
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    again = fine_tune(checkpoint, task, SHORT, 0, str(tmp_path / "killed"))
    assert without_time(again) == without_time(whole)


def test_what_was_done_is_not_done_again(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fine_tune(checkpoint, tasks["choice"], SHORT, 0, str(tmp_path))
    monkeypatch.setattr(tuning, "learn", lambda _: pytest.fail("trained again"))
    assert fine_tune(checkpoint, tasks["choice"], SHORT, 0, str(tmp_path)) == first
    renamed = tasks["choice"].model_copy(update={"name": "other"})
    assert fine_tune(checkpoint, renamed, SHORT, 0, str(tmp_path)).task == "other"


def test_what_determines_a_run_is_in_its_name(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    task = write_task(tmp_path / "a", "choice")
    moved = write_task(tmp_path / "b", "choice", name="other name")
    run = Run(checkpoint=checkpoint, tasks=(task,), hyperparameters=SHORT, seed=0)
    drawn = Settings(random_weights=True)
    shorter = task.model_copy(update={"max_length": 16})
    others = [
        run.model_copy(update={"seed": 1}),
        run.model_copy(update={"hyperparameters": Hyperparameters()}),
        run.model_copy(update={"settings": drawn}),
        run.model_copy(update={"tasks": (shorter,)}),
        run.model_copy(update={"tasks": (write_task(tmp_path / "b", "choice", 40),)}),
        run.model_copy(update={"checkpoint": write_checkpoint(tmp_path / "c", seed=1)}),
    ]
    names = [fingerprint(each) for each in others]
    assert len({fingerprint(run), *names}) == len(others) + 1
    write_task(tmp_path / "b", "choice")
    assert fingerprint(run) == fingerprint(run.model_copy(update={"tasks": (moved,)}))


def test_a_run_that_diverges_has_no_score(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    given = SHORT.model_copy(update={"learning_rate": 1e30})
    result = fine_tune(checkpoint, tasks["classification"], given, 0, str(tmp_path))
    assert result.diverged
    assert (result.best, result.value, result.checksum) == (None, -math.inf, None)


def test_tasks_together_share_their_encoder(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    chosen = (tasks["tagging"], tasks["answering"], tasks["choice"])
    models: Any = share([open_model(checkpoint, task, ("O", "B-LOC")) for task in chosen])
    assert models[0].roberta.encoder is models[1].roberta.encoder is models[2].roberta.encoder
    assert models[0].roberta.embeddings is models[2].roberta.embeddings
    assert models[0].classifier is not models[2].classifier
    run = Run(checkpoint=checkpoint, tasks=chosen, hyperparameters=SHORT, seed=0)
    results = perform(run, str(tmp_path))
    alone = [fine_tune(checkpoint, task, SHORT, 0, str(tmp_path)) for task in chosen]
    assert [result.task for result in results] == [task.name for task in chosen]
    assert results[0].steps == sum(result.steps for result in alone)
    assert len({result.best_epoch for result in results}) == 1


@pytest.mark.parametrize("kind", ["lora", "ia3", "prefix"])
def test_an_adapter_learns_few_weights(
    kind: Literal["lora", "ia3", "prefix"], checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    settings = Settings(adapter=Adapter(kind=kind, rank=2, virtual_tokens=2))
    out = str(tmp_path)
    result = fine_tune(checkpoint, tasks["answering"], SHORT, 0, out, settings)
    assert 0 < result.trained_parameters < result.parameters / 10
    assert result.losses[-1][1] < result.losses[0][1]


def test_an_adapter_that_does_not_fit_is_refused(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    settings = Settings(adapter=Adapter(kind="prompt"))
    with pytest.raises(ValueError, match="prompt tuning does not fit tasks of tagging: take lora"):
        fine_tune(checkpoint, tasks["tagging"], SHORT, 0, str(tmp_path), settings)


def test_the_limit_of_tokens_is_the_lower_one(checkpoint: str) -> None:
    tokenizer = open_tokenizer(checkpoint, "classification")
    assert max_tokens(checkpoint, tokenizer) == 64
    tokenizer.model_max_length = 10**30
    assert max_tokens(checkpoint, tokenizer) == 64, "66 positions, two of them before the first"


@pytest.mark.parametrize(
    "architecture",
    ["bert", "data2vec-text", "esm", "ibert", "luke", "markuplm", "nystromformer", "roberta"],
)
def test_the_limit_is_what_an_architecture_takes(architecture: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        architecture,
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    config.save_pretrained(tmp_path)
    limit = max_tokens(str(tmp_path), byte_tokenizer(max_length=10**30))
    model = AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_no_checkpoint_is_told(tasks: dict[str, Task], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no checkpoint at .*expected a directory"):
        fine_tune(str(tmp_path), tasks["choice"], SHORT, 0, str(tmp_path / "out"))


def test_weights_that_are_no_safetensors_are_refused(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(checkpoint).iterdir():
        if path.suffix != ".safetensors":
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ValueError, match="does not load for choice"):
        fine_tune(str(copy), tasks["choice"], SHORT, 0, str(tmp_path / "out"))


def test_an_encoder_that_is_not_whole_is_refused(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    kept = {name: one for name, one in weights.items() if ".layer.1." not in name}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights lack roberta\.enc.*layer\.1\..* and 15 more"):
        open_model(str(copy), tasks["choice"], ())


def test_a_head_for_other_labels_is_drawn_anew(
    checkpoint: str, tasks: dict[str, Task], tmp_path: Path
) -> None:
    """Fine-tuned on one task, then on another: it ended in a traceback."""
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    task = tasks["classification"]
    tuned: Any = open_model(str(copy), task, ("up", "down"))
    tuned.save_pretrained(copy)
    again: Any = open_model(str(copy), task, ("low", "mid", "high"))
    assert again.classifier.out_proj.weight.shape[0] == 3
    assert torch.equal(again.classifier.dense.weight, tuned.classifier.dense.weight)
    with pytest.raises(ValueError, match=r"lack classifier\.out_proj\.bias and 1 more, or have"):
        open_model(str(copy), task, ("low", "mid", "high"), is_trained=True)


def test_a_vocabulary_without_tokenizer_json_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    root = Path(write_checkpoint(tmp_path / "checkpoint"))
    merges = (root / "merges.txt").read_text()
    before = identity(str(root), random_weights=True)
    (root / "merges.txt").write_text(merges + "q q\n")
    assert identity(str(root), random_weights=True) == before, "tokenizer.json is what is read"
    (root / "tokenizer.json").unlink()
    after = identity(str(root), random_weights=True)
    (root / "merges.txt").write_text(merges)
    assert identity(str(root), random_weights=True) != after

"""Scores without a task: against transformers' own loss, and by cases worked out by hand."""

import io
import math
import random
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from checkpoint_helpers import MAX_LENGTH, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from pretrain.__main__ import main
from pretrain.evaluation.intrinsic import MaskedModel, Pieces, fill, hide, measure, open_model

TEXTS = (
    "the inner rain in the other lane",
    "naïve 東京 and the  thin\nthing, " * 6,
    "an end",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(directory: Path) -> MaskedModel:
    return open_model(str(directory))


def windows_of(model: MaskedModel, texts: tuple[str, ...] = TEXTS) -> list[Pieces]:
    return [window for text in texts for window in model.pieces(text).windows(model.max_length - 2)]


def test_perplexity_is_the_loss_of_transformers(directory: Path, model: MaskedModel) -> None:
    theirs = AutoModelForMaskedLM.from_pretrained(directory).eval()
    total, count = 0.0, 0
    for number, window in enumerate(windows_of(model)):
        seen, places = hide(model, window.ids, number, seed=5)
        if not len(places):
            continue
        labels = torch.full((1, len(window.ids) + 2), -100)
        labels[0, 1 + places] = torch.from_numpy(window.ids[places])
        inputs = torch.tensor([[0, *seen.tolist(), 2]])
        with torch.no_grad():
            loss = float(theirs(input_ids=inputs, labels=labels).loss)
        total, count = total + loss * len(places), count + len(places)
    found = measure(model, TEXTS, words=0, seed=5)
    assert found.masked_tokens == count > 10
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found.pseudo_perplexity is None and found.bits_per_byte is None


def test_words_are_told_as_by_hand(directory: Path, model: MaskedModel) -> None:
    theirs = AutoModelForMaskedLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "the inner rain, an end"
    ids = tokenizer(text)["input_ids"]
    words = [text.split().index(word) for word in text.split()]
    # Its pieces: "the" is one, " inner" begins anew, and so on; found here from the strings.
    owner, word = [], -1
    for token in tokenizer.convert_ids_to_tokens(ids)[1:-1]:
        word += token.startswith("Ġ") or word < 0
        owner.append(word)
    assert sorted(set(owner)) == words
    alone: list[float] = []
    whole: list[float] = []
    for at, true in enumerate(ids[1:-1]):
        last = max(n for n, each in enumerate(owner) if each == owner[at])
        for kind, hidden in ((alone, [at]), (whole, range(at, last + 1))):
            row = torch.tensor([ids])
            row[0, [1 + n for n in hidden]] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = theirs(input_ids=row).logits[0, 1 + at]
            kind.append(-float(torch.log_softmax(logits, -1)[true]))
    found = measure(model, [text], words=100)
    assert found.scored_tokens == len(ids) - 2
    assert found.scored_words == len(words)
    assert found.scored_bytes == found.text_bytes == len(text)
    assert found.pseudo_perplexity == pytest.approx(math.exp(np.mean(alone)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(sum(whole) / math.log(2) / len(text), rel=1e-5)
    assert not np.allclose(alone, whole)


def toy_model(pieces: str, vocabulary: list[str]) -> MaskedModel:
    """A model of texts whose words are ab or cd with equal chances; tokens are `pieces`."""
    specials = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    ids = {token: n for n, token in enumerate([*specials, *vocabulary])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", None, [("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip

    class Network(torch.nn.Module):
        device = torch.device("cpu")
        config = SimpleNamespace(vocab_size=len(ids))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            logits = torch.full((*input_ids.shape, len(ids)), -50.0)
            for row, place in (input_ids == ids["<mask>"]).nonzero().tolist():
                logits[row, place, list(self.possible(input_ids[row], place))] = 0.0
            return SimpleNamespace(logits=logits)

        def possible(self, row: torch.Tensor, place: int) -> set[int]:
            """Tell which tokens can stand here: certain once the other letter is seen."""
            if vocabulary == ["ab", "cd"]:
                return {ids["ab"], ids["cd"]}
            is_first = place % 2 == 1
            other = int(row[place + 1 if is_first else place - 1])
            pairs = [(ids["a"], ids["b"]), (ids["c"], ids["d"])]
            fitting = [pair for pair in pairs if other in (*pair, ids["<mask>"])]
            seen = [pair for pair in fitting if other in pair] or fitting
            return {pair[0 if is_first else 1] for pair in seen}

    return MaskedModel(Network(), tokenizer, 42)


LETTERS = toy_model(r"\S", ["a", "b", "c", "d"])


def test_bits_a_byte_do_not_depend_on_the_tokenizer() -> None:
    draw = random.Random(3)
    words = [draw.choice(["ab", "cd"]) for _ in range(200)]
    text = " ".join(words)
    coarse = measure(toy_model(r"\S+", ["ab", "cd"]), [text], words=1000)
    fine = measure(LETTERS, [text], words=1000)
    # A bit a word, and nothing for the white space between.
    for found in (coarse, fine):
        assert found.bits_per_byte == pytest.approx(200 / (3 * 200 - 1))
    # Of tokens: each word a guess of two; each letter certain, as the other one is seen.
    assert coarse.pseudo_perplexity == pytest.approx(2)
    assert fine.pseudo_perplexity == pytest.approx(1)


@given(st.text(max_size=200), st.integers(1, 40))
def test_windows_hold_every_token_and_byte_once(text: str, room: int) -> None:
    whole = LETTERS.pieces(text)
    cut = list(whole.windows(room))
    for part, whole_part in zip(zip(*cut, strict=True), whole, strict=False):
        assert np.array_equal(np.concatenate(part), whole_part)
    assert all(1 <= len(each.ids) <= room for each in cut)
    assert (np.diff(whole.words) >= 0).all()
    # Python and the tokenizer disagree on which control characters are white space.
    assert len(text.rstrip().encode()) <= whole.sizes.sum() <= len(text.encode())
    for left, right in pairwise(cut):
        if left.words[-1] == right.words[0]:  # a word longer than the room
            assert len(set(left.words)) == 1


@given(st.text(max_size=100))
def test_pieces_of_a_byte_level_tokenizer_add_up(model: MaskedModel, text: str) -> None:
    pieces = model.pieces(text)
    assert (np.diff(pieces.words) >= 0).all()
    assert (pieces.sizes >= 0).all()
    assert len(text.rstrip().encode()) <= pieces.sizes.sum() <= len(text.encode())


def test_special_tokens_that_a_text_spells_are_text(model: MaskedModel) -> None:
    ids = model.pieces("the <mask> and <unk> in </s>").ids
    assert model.ordinary[ids].all()
    found = fill(model, "the <mask> in", top=1)  # what is asked for still is one
    assert len(found) == 1


def test_masks_are_drawn_as_in_training(model: MaskedModel) -> None:
    generator = np.random.default_rng(0)
    counts = np.zeros(4)
    for window in range(300):
        ids = generator.integers(4, model.vocab_size - 1, 30)
        ids[:3] = [0, model.mask_id, 3]  # special tokens that a text spells out
        seen, places = hide(model, ids, window, seed=1)
        assert np.array_equal(hide(model, ids, window, seed=1)[0], seen)
        assert len(set(places)) == len(places) in (4, 5)  # 0.15 * 27 = 4.05
        assert places.min() > 2
        untouched = np.setdiff1d(np.arange(30), places)
        assert np.array_equal(seen[untouched], ids[untouched])
        hidden, true = seen[places], ids[places]
        assert model.ordinary[hidden[hidden != model.mask_id]].all()
        counts += [
            len(places), (hidden == model.mask_id).sum(), (hidden == true).sum(), len(places) - 4
        ]  # fmt: skip
    total = counts[0]
    for share, expected in ((counts[1], 0.8), (counts[2], 0.1 + 0.1 / 261)):
        deviation = math.sqrt(total * expected * (1 - expected))
        assert abs(share - total * expected) < 5 * deviation
    assert abs(counts[3] - 300 * 0.05) < 5 * math.sqrt(300 * 0.05 * 0.95)


def test_other_seeds_and_windows_have_other_masks(model: MaskedModel) -> None:
    ids = np.arange(10, 40)
    drawn = [hide(model, ids, window, seed)[1].tolist() for window in (0, 1) for seed in (0, 1)]
    assert len(set(map(tuple, drawn))) == 4


def test_fill_equals_the_pipeline_of_transformers(directory: Path, model: MaskedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pipeline("fill-mask", model=str(directory), tokenizer=str(directory))
    ((one,), two) = fill(model, "the <mask> in", 3), fill(model, "<mask> rain <mask>", 4)
    expected = theirs("the <mask> in", top_k=3)
    assert [each.id for each in one] == [each["token"] for each in expected]
    for ours, other in zip(one, expected, strict=True):
        assert ours.probability == pytest.approx(other["score"], rel=1e-4)
    both: list[Any] = theirs("<mask> rain <mask>", top_k=4)
    for fillings, others in zip(two, both, strict=True):
        assert [each.id for each in fillings] == [each["token"] for each in others]


def test_blank_lines_of_standard_input_are_no_texts(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the <mask>\n\n<mask> rain\n"))
    assert main(["fill", str(directory), "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_texts_that_cannot_be_filled_are_refused(model: MaskedModel) -> None:
    with pytest.raises(ValueError, match="has no <mask>: write it where a token"):
        fill(model, "the rain")
    with pytest.raises(ValueError, match=r"tokens with the special ones, the model takes 32"):
        fill(model, "q" * MAX_LENGTH + "<mask>")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint at roberta-base: expected"):
        open_model("roberta-base")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ValueError, match="holds no masked language model"):
        open_model(str(tmp_path))


def test_weights_that_would_be_drawn_are_refused(directory: Path, tmp_path: Path) -> None:
    """transformers fills up what a checkpoint lacks: a classifier would fill masks at random."""
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    weights = load_file(directory / "model.safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="holds no masked language model: Error while deserial"):
        open_model(str(tmp_path))
    encoder = {name: one for name, one in weights.items() if not name.startswith("lm_head.")}
    save_file(encoder, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack lm_head\.bias and 5 more, or have"):
        open_model(str(tmp_path))
    name = "lm_head.dense.weight"
    save_file(weights | {name: weights[name][1:].clone()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack lm_head\.dense\.weight, or have"):
        open_model(str(tmp_path))


def test_the_command_line_measures_and_fills(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "the rain"}\n{"text": " "}\n{broken\n{"text": "in an inner end"}\n')
    assert main(["perplexity", str(directory), str(file), "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["texts"] == 2
    assert found["dropped"] == {"empty": 1, "invalid_json": 1}
    assert found["bits_per_byte"] > 0 and not found["is_cut"]
    assert main(["perplexity", str(directory), str(file), "--max-bytes", "12"]) == 0
    shown = capsys.readouterr().out
    assert "text_bytes         12\n" in shown
    assert "is_cut             yes" in shown
    assert main(["fill", str(directory), "the <mask>", "--top", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["fill", str(directory), "--top", "2", "the <mask>", "- <mask>"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert main(["fill", str(directory), "the <mask>", "--json"]) == 0
    assert len(orjson.loads(capsys.readouterr().out)["masks"][0]) == 5
    assert main(["fill", str(directory), "nothing"]) == 2
    assert "has no <mask>" in capsys.readouterr().err
    assert main(["perplexity", str(directory), str(tmp_path / "none.txt")]) == 2
    assert "there is no text file at" in capsys.readouterr().err
    assert main(["perplexity", str(directory), str(tmp_path)]) == 2
    assert f"error: {tmp_path} is a directory, expected a file\n" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"error: {tmp_path} is a directory, expected a file\n" in capsys.readouterr().err
    assert main(["perplexity", f"{file}/below", str(file)]) == 2
    assert "there is no checkpoint at" in capsys.readouterr().err

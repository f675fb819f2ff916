from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_helpers import make_recipe, write_snapshot
from transformers import RobertaConfig, RobertaForMaskedLM

from benchmarks.curves import torch_only
from pretrain import attention
from pretrain.batches import Batch, open_stream
from pretrain.config import ModelShape, data_plan
from pretrain.dataset import Shares
from pretrain.masking import IGNORED
from pretrain.model import Extras, MaskedLanguageModel, decays, is_exported

SHAPE = ModelShape(
    layers=3, width=48, heads=4, feedforward_width=96, vocab_size=267, sequence_length=64
)


@pytest.fixture(scope="module")
def reference() -> RobertaForMaskedLM:
    config = RobertaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.width,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        intermediate_size=SHAPE.feedforward_width,
        max_position_embeddings=SHAPE.max_positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return RobertaForMaskedLM(config)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Full rows, padded rows and surplus rows in one microbatch."""
    store = tmp_path_factory.mktemp("store")
    snapshot = write_snapshot(store)
    plan = data_plan(make_recipe(store, store, batch_sequences=7).pretrain, snapshot)
    stream = open_stream(str(store), snapshot, plan)
    (drawn,) = stream.train_batches(Shares(7, 2, 4), step=0, rank=1)
    assert (drawn.numbers < 0).any()
    assert (drawn.lengths == 64).any()
    return drawn


def test_names_and_shapes_are_those_of_transformers(reference: RobertaForMaskedLM) -> None:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    ours = {name: value.shape for name, value in model.named_parameters()}
    assert ours == {name: value.shape for name, value in reference.named_parameters()}
    assert set(model.state_dict()) == set(ours)


Reference = tuple[list[torch.Tensor], float, dict[str, torch.Tensor]]
# Every option of the model that must not show in its results.
OPTIONS: list[dict[str, Any]] = [
    {}, {"recompute": True}, {"vocabulary_multiple": 64},
    {"attention_dropout": 2.0**-32},  # as good as none, but it takes the attention with dropout
]  # fmt: skip


def make_model(seed: int = 1, **options: Any) -> MaskedLanguageModel:  # noqa: ANN401
    """A model whose biases and norms too are random: neutral ones would hide some mistakes."""
    shape = SHAPE.model_copy(update={"next_sentence": options.pop("next_sentence", False)})
    model = MaskedLanguageModel(shape, 0.0, seed, **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def pieces_of(batch: Batch) -> list[tuple[int, int, int]]:
    """List (row, start, stop) of what attention may mix: rows or, isolated, their documents."""
    pieces = []
    for row, length in enumerate(batch.lengths.tolist()):
        starts = [0] if batch.starts is None else batch.starts[row].tolist()
        bounds = [min(start, length) for start in [*starts, length]]
        pieces += [(row, *pair) for pair in pairwise(bounds)]
    return [piece for piece in pieces if piece[1] < piece[2]]


def run_reference(
    reference: RobertaForMaskedLM, model: MaskedLanguageModel, batch: Batch
) -> Reference:
    """Run every piece through transformers alone, at the positions it has in its row."""
    weights = {name: value for name, value in model.state_dict().items() if is_exported(name)}
    reference.load_state_dict(weights, strict=False)
    reference.tie_weights()
    reference.zero_grad()
    used = batch.labels != IGNORED
    logits, total = [], torch.zeros(())
    for row, start, stop in pieces_of(batch):
        slots, labels = batch.slots[row][used[row]], batch.labels[row][used[row]]
        inside = (slots >= start) & (slots < stop)
        output = reference(
            input_ids=batch.inputs[row : row + 1, start:stop].long(),
            position_ids=torch.arange(start + 2, stop + 2)[None],
        )
        logits.append(output.logits[0, slots[inside] - start])
        total = total + torch.nn.functional.cross_entropy(
            logits[-1], labels[inside], reduction="sum"
        )
    loss = total / batch.label_count
    torch.autograd.backward(loss)
    gradients = {name: value.grad for name, value in reference.named_parameters()}
    return logits, loss.item(), gradients  # type: ignore[return-value]


def check_against(expected: Reference, model: MaskedLanguageModel, batch: Batch) -> None:
    """Compare logits, loss and every gradient."""
    logits, loss, gradients = expected
    has_padding = bool((batch.lengths < SHAPE.sequence_length).any())
    used = batch.labels != IGNORED
    found = model.logits(batch.inputs, batch.lengths, batch.slots, has_padding, batch.starts)
    assert found.shape[-1] == SHAPE.vocab_size
    assert (found[used] - torch.cat(logits)).abs().max() < 1e-5
    tensors = (batch.inputs, batch.lengths, batch.slots, batch.labels)
    sums = model(*tensors, has_padding, Extras(batch.starts))
    assert sums.shape == (1,)
    ours = sums[0] / batch.label_count
    assert abs(ours.item() - loss) < 1e-5
    ours.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - gradients[name]).abs().max() < 1e-5, name


def full_rows(batch: Batch) -> Batch:
    """The rows of a batch that have no padding."""
    full = batch.lengths == SHAPE.sequence_length
    values = {name: getattr(batch, name)[full] for name in ("inputs", "lengths", "slots", "labels")}
    return replace(batch, **values)


def isolated(batch: Batch) -> Batch:
    """The same rows with documents: none, one or two begin within a row."""
    starts = torch.tensor([[0, 64, 64], [0, 9, 40], [0, 1, 64], [0, 30, 31]])[: len(batch.lengths)]
    starts = torch.where(starts < batch.lengths[:, None], starts, 64)
    return replace(batch, starts=starts.to(torch.int32))


ROWS: dict[str, Callable[[Batch], Batch]] = {
    "padded": lambda batch: batch, "packed": full_rows, "isolated": isolated,
}  # fmt: skip


@pytest.fixture(params=[nullcontext, torch_only], ids=["fused", "torch"])
def is_fused(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test as on a CPU, then with torch's own functions only, as elsewhere."""
    with request.param():
        yield


@pytest.mark.usefixtures("is_fused")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_logits_loss_and_gradients_equal_those_of_transformers(
    reference: RobertaForMaskedLM, batch: Batch, rows: str, options: dict[str, Any]
) -> None:
    chosen = ROWS[rows](batch)
    assert chosen.label_count > 5
    model = make_model(**options)
    check_against(run_reference(reference, model, chosen), model, chosen)


@pytest.mark.usefixtures("is_fused")
def test_isolated_documents_do_not_see_each_other(batch: Batch) -> None:
    model, rows = make_model(), isolated(batch)
    assert rows.starts is not None
    row = int((rows.starts < 64).sum(1).argmax())
    start = int(rows.starts[row, 1])
    slots = torch.arange(64).expand(len(rows.inputs), 64)
    before = model.logits(rows.inputs, rows.lengths, slots, True, rows.starts)
    changed = rows.inputs.clone()
    changed[row, start] = 100
    after = model.logits(changed, rows.lengths, slots, True, rows.starts)
    differs = (before != after).any(-1)
    assert not differs[row, :start].any()
    assert differs[row, start]
    # Without starts the same change reaches the whole row.
    joint = (model.logits(each, rows.lengths, slots) for each in (rows.inputs, changed))
    assert torch.ne(*joint).any(-1)[row, : int(rows.lengths[row])].all()


def test_padded_entries_are_never_predicted_and_hold_nothing(batch: Batch) -> None:
    model = make_model(vocabulary_multiple=64)
    assert all(320 not in parameter.shape for parameter in model.parameters())
    logits = model.lm_head(torch.randn(3, SHAPE.width), model.decoder_weight)
    assert logits.shape == (3, 320)
    assert (logits[:, SHAPE.vocab_size :] == -torch.inf).all()
    assert logits[:, : SHAPE.vocab_size].isfinite().all()


def test_full_rows_need_no_key_mask() -> None:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    inputs = torch.randint(4, 266, (3, 64), generator=torch.Generator().manual_seed(0))
    lengths, slots = torch.full((3,), 64), torch.arange(10).expand(3, 10)
    with_mask = model.logits(inputs, lengths, slots, True)
    assert (with_mask - model.logits(inputs, lengths, slots, False)).abs().max() < 1e-5


def test_padding_has_no_influence(batch: Batch) -> None:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    padded = batch.inputs.clone()
    padded[torch.arange(64) >= batch.lengths[:, None]] = 50
    before = model(batch.inputs, batch.lengths, batch.slots, batch.labels)
    assert model(padded, batch.lengths, batch.slots, batch.labels).item() == before.item()


def test_weights_follow_the_seed() -> None:
    one, same, other = (
        torch.cat([p.flatten() for p in MaskedLanguageModel(SHAPE, 0.0, seed).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_initial_weights_have_the_published_deviation() -> None:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    for name, parameter in model.named_parameters():
        if name.endswith("dense.weight"):
            assert abs(parameter.std().item() / 0.02 - 1) < 0.05, name
    assert not model.roberta.embeddings.word_embeddings.weight[1].any()


def test_the_first_loss_is_the_logarithm_of_the_vocabulary(batch: Batch) -> None:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    loss = model(batch.inputs, batch.lengths, batch.slots, batch.labels) / batch.label_count
    assert abs(loss.item() - np.log(SHAPE.vocab_size)) < 0.1


@pytest.mark.usefixtures("is_fused")
def test_dropout_acts_in_training_only(batch: Batch) -> None:
    model = MaskedLanguageModel(SHAPE, 0.5, seed=1)
    arguments = (batch.inputs, batch.lengths, batch.slots, batch.labels)
    torch.manual_seed(0)
    first = model(*arguments).item()
    assert model(*arguments).item() != first
    model.eval()
    assert model(*arguments).item() == model(*arguments).item()


def test_weight_decay_spares_biases_and_norms() -> None:
    names = [name for name, _ in MaskedLanguageModel(SHAPE, 0.0, 1).named_parameters()]
    spared = [name for name in names if not decays(name)]
    matrices = [name for name in names if decays(name)]
    assert len(spared) == 2 + 3 * 10 + 4
    assert all(name.endswith(".weight") and "orm" not in name for name in matrices)


@pytest.mark.usefixtures("is_fused")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_next_sentence_loss_is_that_of_its_formula(
    batch: Batch, options: dict[str, Any]
) -> None:
    model, plain = make_model(next_sentence=True, **options), make_model()
    pairs = torch.tensor([1, 0, 1, IGNORED])
    tensors = (batch.inputs, batch.lengths, batch.slots, batch.labels)
    sums = model(*tensors, True, Extras(None, pairs))
    assert sums.shape == (2,)
    assert (sums[0] - plain(*tensors)[0]).abs() < 1e-4  # a sum of some thirty

    head = model.next_sentence_head
    assert head is not None
    first_B1 = torch.zeros(len(pairs), 1, dtype=torch.int64)
    x_BD = plain.roberta(batch.inputs, batch.lengths, first_B1, True, None)[:, 0]
    pooled = torch.tanh(x_BD @ head.dense.weight.T + head.dense.bias)
    scores = (pooled @ head.out_proj.weight.T + head.out_proj.bias).log_softmax(-1)
    assert (sums[1] + scores[0, 1] + scores[1, 0] + scores[2, 1]).abs() < 1e-5
    sums[1].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_next_sentence_head_changes_no_other_weight() -> None:
    other = SHAPE.model_copy(update={"next_sentence": True})
    with_head = MaskedLanguageModel(other, 0.0, seed=1).state_dict()
    for name, value in MaskedLanguageModel(SHAPE, 0.0, seed=1).state_dict().items():
        assert torch.equal(value, with_head.pop(name)), name
    assert with_head
    assert not any(map(is_exported, with_head))


@pytest.mark.usefixtures("is_fused")
def test_attention_may_drop_out_otherwise_than_the_rest(batch: Batch) -> None:
    arguments = (batch.inputs, batch.lengths, batch.slots, batch.labels)
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1, attention_dropout=0.5)
    assert model(*arguments).item() != model(*arguments).item()
    model = MaskedLanguageModel(SHAPE, 0.5, seed=1, attention_dropout=0.0)
    layer = model.roberta.encoder["layer"][0]  # type: ignore[index]
    assert layer.attention["self"].dropout == 0.0
    assert model(*arguments).item() != model(*arguments).item()


@pytest.mark.usefixtures("is_fused")
def test_recomputation_repeats_the_dropout(batch: Batch) -> None:
    gradients = []
    for recompute in (False, True):
        model = MaskedLanguageModel(SHAPE, 0.3, seed=1, recompute=recompute)
        torch.manual_seed(3)
        model(batch.inputs, batch.lengths, batch.slots, batch.labels).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert torch.equal(one, other)


GPU_PATHS = pytest.mark.parametrize(
    ("has_padding", "isolate", "attention_dropout"),
    [
        (False, False, 0.0),
        (True, False, 0.0),
        (True, True, 0.0),
        (False, False, 0.1),
        (True, False, 0.1),
        (True, True, 0.1),
    ],
)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Let tensors without values stand for those of a GPU: torch checks their shapes and types.

    What asks for a value fails there, as it would wait on a GPU.
    """
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    monkeypatch.setattr(MaskedLanguageModel, "_initialize", lambda self, generator: None)

    def make(has_padding: bool, isolate: bool, attention_dropout: float) -> tuple[Any, Any]:
        with torch.device("meta"):
            model = MaskedLanguageModel(
                SHAPE, 0.1, 0, attention_dropout, vocabulary_multiple=64
            ).bfloat16()
            rows = torch.empty(4, 64, dtype=torch.int32)
            starts = torch.empty(4, 8, dtype=torch.int32)
            slots, lengths = torch.empty(4, 10, dtype=torch.int64), rows[:, 0]
        extras = Extras(starts) if isolate else None
        return model, (rows, lengths, slots, slots, has_padding, extras)

    return make


@GPU_PATHS
def test_a_step_on_a_gpu_reads_no_value_back(
    on_gpu: Callable[..., Any], has_padding: bool, isolate: bool, attention_dropout: float
) -> None:
    model, arguments = on_gpu(has_padding, isolate, attention_dropout)
    with torch.device("meta"):
        loss = model(*arguments)
    assert (loss.shape, loss.dtype, loss.device.type) == ((1,), torch.float32, "meta")
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@GPU_PATHS
def test_for_a_gpu_the_model_is_one_graph(
    on_gpu: Callable[..., Any], has_padding: bool, isolate: bool, attention_dropout: float
) -> None:
    """What torch's compiler cannot follow would cut the model in parts; `fullgraph` refuses it."""
    model, arguments = on_gpu(has_padding, isolate, attention_dropout)
    compiled: Any = torch.compile(model.forward, dynamic=False, fullgraph=True, backend="eager")
    assert compiled(*arguments).shape == (1,)

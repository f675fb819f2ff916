from typing import Any

import numpy as np
import pytest
import torch
from pretrain_helpers import make_recipe, write_snapshot
from transformers import RobertaConfig, RobertaForMaskedLM

from pretrain.batches import Batch, open_stream
from pretrain.config import ModelShape, data_plan
from pretrain.dataset import Shares
from pretrain.masking import IGNORED
from pretrain.model import MaskedLanguageModel, decays

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


def run_both(reference: RobertaForMaskedLM, batch: Batch) -> tuple[MaskedLanguageModel, Any]:
    model = MaskedLanguageModel(SHAPE, 0.0, seed=1)
    # Biases and norms too: at their initial values some mistakes would not show.
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    reference.load_state_dict(model.state_dict(), strict=False)
    reference.tie_weights()
    reference.zero_grad()
    labels = torch.full(batch.inputs.shape, IGNORED)
    used = batch.labels != IGNORED
    rows = torch.arange(len(labels))[:, None].expand_as(batch.slots)
    labels[rows[used], batch.slots[used]] = batch.labels[used]
    attention = (torch.arange(64) < batch.lengths[:, None]).long()
    theirs = reference(input_ids=batch.inputs.long(), attention_mask=attention, labels=labels)
    return model, theirs


def test_logits_loss_and_gradients_equal_those_of_transformers(
    reference: RobertaForMaskedLM, batch: Batch
) -> None:
    model, theirs = run_both(reference, batch)
    logits = model.logits(batch.inputs, batch.lengths, batch.slots)
    expected = torch.take_along_dim(theirs.logits, batch.slots[:, :, None], 1)
    used = batch.labels != IGNORED
    assert (logits - expected)[used].abs().max() < 1e-5

    loss = model(batch.inputs, batch.lengths, batch.slots, batch.labels) / batch.label_count
    assert abs(loss.item() - theirs.loss.item()) < 1e-5
    loss.backward()
    theirs.loss.backward()
    wanted = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        found, exact = parameter.grad, wanted[name].grad
        assert found is not None
        assert exact is not None
        assert (found - exact).abs().max() < 1e-5, name


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

"""The masked loss of a run's newest checkpoint on the validation rows of any store.

Same rows, same masks for whoever is measured: they are keyed by the row alone (masking.py), of one
kind (15 %, 80/10/10, `fixed`) however the run was masked, and the next-sentence head is left out.
So runs of different packings can be measured on each other's rows, as long as the tokenizer is one.
"""

import torch

from corpus.snapshots import Snapshot
from corpus.training import Pretrain
from pretrain.batches import Batch, open_stream
from pretrain.checkpoints import CheckpointState, load_weights
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.model import MaskedLanguageModel, is_exported

_MICROBATCH = 32  # of the recipe's default; bounds the memory


@torch.no_grad()
def held_out_loss(
    checkpoint: str, state: CheckpointState, store: str, snapshot: Snapshot, sequences: int
) -> float:
    """Give the mean loss of a checkpoint over at most so many validation rows, in nats."""
    found = (state.identity.tokenizer, state.identity.model.sequence_length)
    expected = (snapshot.tokenizer, snapshot.sequence_length)
    if found != expected:
        raise ValueError(
            f"{checkpoint} has (tokenizer, sequence length) {found}, {store} has {expected}: "
            "their losses are not of the same tokens"
        )
    plan = data_plan(Pretrain(next_sentence=False), snapshot)
    stream = open_stream(store, snapshot, plan)
    rows = min(sequences, stream.validation.count)
    if rows == 0:
        raise ValueError(f"{store} has no validation rows: raise pack.validation_fraction")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _open_model(checkpoint, state).to(device).eval()
    loss_sum, labels = 0.0, 0
    for batch in stream.validation_batches(Shares(rows, 1, _MICROBATCH), rank=0):
        loss_sum += _loss(model, batch, device)
        labels += batch.label_count
    stream.close()
    return loss_sum / max(1, labels)


def _loss(model: MaskedLanguageModel, batch: Batch, device: torch.device) -> float:
    tensors = (batch.inputs, batch.lengths, batch.slots, batch.labels)
    return float(model(*(tensor.to(device) for tensor in tensors)))


def _open_model(checkpoint: str, state: CheckpointState) -> MaskedLanguageModel:
    shape = state.identity.model.model_copy(update={"next_sentence": False})
    model = MaskedLanguageModel(shape, dropout=0.0, seed=0)
    weights = load_weights(checkpoint, state)
    model.load_state_dict({name: each for name, each in weights.items() if is_exported(name)})
    return model

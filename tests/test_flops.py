"""The count of operations: by hand, against torch's own counter, against published figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_helpers import make_recipe, write_snapshot
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.curves import torch_only
from corpus.snapshots import open_snapshot
from pretrain.batches import Batch, open_stream
from pretrain.config import ModelShape, data_plan, fit_preset
from pretrain.dataset import Shares
from pretrain.flops import (
    attended_pairs,
    device_name,
    has_bf16,
    peak_flops,
    row_flops,
    train_flops,
)
from pretrain.model import MaskedLanguageModel


def test_the_case_worked_out_by_hand() -> None:
    shape = ModelShape(
        layers=1, width=2, heads=1, feedforward_width=3, vocab_size=10, sequence_length=4
    )
    # Forward: three projections of 4 tokens, scores and mixtures of 16 pairs; where there is a
    # label the fourth projection, two feed-forward matrices, the head's matrix, the vocabulary.
    projections = 4 * 3 * 2 * 2
    attention = 2 * 16 * 2
    rest = 2 * 2 + 2 * 2 * 3
    head = 2 * 2 + 2 * 10
    assert train_flops(shape, 4, 16, 1) == 2 * (projections + attention + rest + head) * 3 == 912


def test_it_equals_what_torch_counts_in_the_model() -> None:
    shape = fit_preset("tiny", 267, 64)
    model = MaskedLanguageModel(shape, 0.0, 0)
    rows, slots = 3, 10
    inputs = torch.full((rows, 64), 7)
    lengths = torch.full((rows,), 64, dtype=torch.int32)
    places = torch.arange(slots).expand(rows, slots)
    labels = torch.full((rows, slots), 7)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch_only():  # it knows torch's functions only
        model(inputs, lengths, places, labels, False).backward()
    assert counter.get_total_flops() == train_flops(shape, rows * 64, rows * 64**2, rows * slots)


def whole_row(shape: ModelShape, labels: float) -> float:
    """What published figures count: the last layer at all places."""
    left_out = shape.width**2 + 2 * shape.width * shape.feedforward_width
    return row_flops(shape, labels) + 6 * (shape.sequence_length - labels) * left_out


@pytest.mark.parametrize(("preset", "published"), [("base", 1.26e21), ("large", 4.22e21)])
def test_the_papers_whole_run(preset: str, published: float) -> None:
    # 500,000 steps of 8,192 rows of 512 tokens; the totals are those of PaLM's formula per token,
    # 6 N + 12 L h s and 6 (h V + h h) for every label, worked out apart from this code.
    row = whole_row(fit_preset(preset, 50_304, 512), 0.15 * 512)
    assert 500_000 * 8192 * row == pytest.approx(published, rel=0.005)


def test_bert_large_on_a_v100_as_deepspeed_reports_it() -> None:
    # DeepSpeed's page on BERT: 52 sequences of 512 tokens a second are 53 TFLOPS. Its model makes
    # logits at the masked tokens, 80 at most (the documented max_predictions_per_seq).
    row = whole_row(fit_preset("large", 30_528, 512), 80)
    assert 52 * row / 1e12 == pytest.approx(53, rel=0.02)


@given(st.integers(50, 1000), st.integers(0, 1000), st.integers(0, 50))
def test_batches_add_up(tokens: int, more: int, labels: int) -> None:
    shape = fit_preset("small", 1000, 64)
    both = train_flops(shape, tokens + more, 9 * (tokens + more), labels)
    parts = train_flops(shape, tokens, 9 * tokens, labels) + train_flops(shape, more, 9 * more, 0)
    assert both == parts


def test_pairs_leave_padding_and_surplus_rows_out() -> None:
    batch = Batch(
        numbers=np.array([4, 5, -1]),
        rows=np.array([0, 1, -1]),
        inputs=torch.zeros(3, 8),
        lengths=torch.tensor([8, 3, 1], dtype=torch.int32),
        slots=torch.zeros(3, 2),
        labels=torch.zeros(3, 2),
    )
    assert attended_pairs(batch) == 8 * 8 + 3 * 3


def test_pairs_do_not_depend_on_the_world(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    config = make_recipe(tmp_path, tmp_path).pretrain
    snapshot = open_snapshot(str(tmp_path))
    stream = open_stream(str(tmp_path), snapshot, data_plan(config, snapshot))
    found = {
        sum(
            attended_pairs(batch)
            for rank in range(size)
            for batch in stream.train_batches(Shares(6, size, 2), 3, rank)
        )
        for size in (1, 2, 3)
    }
    assert len(found) == 1


def test_peaks_of_known_devices() -> None:
    assert peak_flops("NVIDIA H200", "bf16") == pytest.approx(989.4e12)
    assert peak_flops("NVIDIA H200", "fp32") == pytest.approx(66.9e12)


@pytest.mark.parametrize(
    "name", [None, "", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla T4", "NVIDIA H300"]
)
def test_a_device_that_is_not_in_the_table_has_no_peak(name: str | None) -> None:
    assert peak_flops(name, "bf16") is None


def test_a_cpu_has_no_name_and_so_no_peak() -> None:
    assert peak_flops(device_name(torch.device("cpu")), "fp32") is None


def test_isolated_documents_attend_to_themselves_alone() -> None:
    batch = Batch(
        numbers=np.array([4, 5]),
        rows=np.array([0, 1]),
        inputs=torch.zeros(2, 8),
        lengths=torch.tensor([8, 3], dtype=torch.int32),
        slots=torch.zeros(2, 2),
        labels=torch.zeros(2, 2),
        starts=torch.tensor([[0, 5, 8, 8], [0, 2, 8, 8]], dtype=torch.int32),
    )
    assert attended_pairs(batch) == 5**2 + 3**2 + 2**2 + 1**2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx2", False), ("avx512_bf16", True), ("amx_bf16", True), ("i8mm bf16", True)],
)
def test_a_processor_tells_of_bf16(
    flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t: {flags}\n")
    assert has_bf16(torch.device("cpu")) is expected
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert has_bf16(torch.device("cpu"))

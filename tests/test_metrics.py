import logging
import math
from pathlib import Path

import pytest

from pretrain.metrics import Reporter, perplexity, read_metrics

VALUES = {"loss": 5.5, "tokens": 100, "seconds": 0.5}


def test_every_step_stands_there_once_after_going_on(tmp_path: Path) -> None:
    with Reporter(str(tmp_path), 0, 6, active=True) as reporter:
        for step in range(5):
            reporter.report(step, VALUES)
    with Reporter(str(tmp_path), 3, 6, active=True) as reporter:
        for step in range(3, 6):
            reporter.report(step, VALUES | {"loss": 4.0})
    lines = read_metrics(str(tmp_path))
    assert [line["step"] for line in lines] == list(range(6))
    assert [line["loss"] for line in lines] == [5.5] * 3 + [4.0] * 3
    assert lines[0]["tokens_per_second"] == 200.0


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step":0}\n{"step":1,"lo')
    assert read_metrics(str(tmp_path)) == [{"step": 0}]
    Reporter(str(tmp_path), 1, 2, active=True).report(1, VALUES)
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [0, 1]


def test_other_ranks_report_nothing(tmp_path: Path) -> None:
    with Reporter(str(tmp_path), 0, 2, active=False) as reporter:
        reporter.report(0, VALUES)
    assert list(tmp_path.iterdir()) == []


def test_log_lines_carry_units(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pretrain.metrics")
    with Reporter(str(tmp_path), 0, 5, active=True) as reporter:
        reporter.report(0, VALUES)
        reporter.report(1, VALUES)  # within ten seconds of the first: no line
        reporter.report(2, VALUES | {"validation_loss": 2.0, "perplexity": math.exp(2)})
    first, second = caplog.messages
    assert first.startswith("step 0 of 5: loss 5.500, 200 tokens/s, 0:00:0")
    assert "validation loss 2.000 (perplexity 7.4)" in second


def test_perplexity_of_a_hopeless_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf

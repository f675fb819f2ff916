import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from pretrain.metrics import Reporter, perplexity, rates, read_metrics

VALUES = {
    "loss": 5.5,
    "tokens": 100,
    "seconds": 0.5,
    "data_wait_seconds": 0.05,
    "flops": 3_000_000,
    "gradient_norm": None,
    "batch_hash": "ab" * 32,
}


class Memory:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.is_closed = False

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.rows.append((step, dict(numbers)))

    def close(self) -> None:
        self.is_closed = True


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
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step":0}\n{"st\n{"step":1}\n')
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl: line \d+ is not JSON \(.*\): delete that line"
    ):
        read_metrics(str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    message = f"No space left on device: '{path}'"
    reporter = Reporter(str(tmp_path), 0, 2, active=True)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=message):
        reporter.report(0, VALUES)


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
    assert first.endswith(" left, data wait 10.0%, utilization unknown")


def test_skipped_steps_are_told_where_there_are_any(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pretrain.metrics")
    for skipped in (0, 1, 2):
        reporter = Reporter(str(tmp_path / str(skipped)), 0, 5, active=True)
        reporter.report(0, VALUES | {"skipped_steps": skipped})
    none, one, two = caplog.messages
    assert "skipped" not in none
    assert "200 tokens/s, 1 step skipped, 0:00:0" in one
    assert "200 tokens/s, 2 steps skipped, 0:00:0" in two


def test_what_was_left_out_is_told_where_there_is_any(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pretrain.metrics")
    for batches, rollbacks in ((0, 0), (1, 1), (6, 3)):
        found = VALUES | {"skipped_batches": batches, "rollbacks": rollbacks}
        Reporter(str(tmp_path / str(batches)), 0, 5, active=True).report(0, found)
    none, one, many = caplog.messages
    assert "left out" not in none
    assert "200 tokens/s, 1 batch left out in 1 rollback, 0:00:0" in one
    assert "200 tokens/s, 6 batches left out in 3 rollbacks, 0:00:0" in many


def test_the_bar_tells_of_skipped_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("pretrain.metrics.Console", lambda **_: terminal)
    with Reporter(str(tmp_path), 0, 5, active=True) as reporter:
        reporter.report(0, VALUES | {"skipped_steps": 2})
        assert reporter._bar is not None
        (task,) = reporter._bar.tasks
        assert "200 tokens/s, 2 steps skipped" in task.fields["shown"]


def test_rates_and_shares_of_a_step() -> None:
    # 100 tokens in half a second, a tenth of it waiting; 6 million operations a second of the
    # 12 million that the devices can do.
    assert rates(VALUES, 12e6) == {
        "tokens_per_second": 200.0,
        "data_wait_share": 0.1,
        "flops_per_second": 6_000_000,
        "utilization": 0.5,
    }


def test_an_unknown_peak_gives_no_utilization(tmp_path: Path) -> None:
    Reporter(str(tmp_path), 0, 2, active=True).report(0, VALUES)
    (line,) = read_metrics(str(tmp_path))
    assert line["utilization"] is None
    assert line["flops_per_second"] == 6_000_000
    assert line["data_wait_share"] == 0.1


def test_a_known_peak_shows_in_lines_and_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pretrain.metrics")
    Reporter(str(tmp_path), 0, 2, active=True, peak=12e6).report(0, VALUES)
    assert caplog.messages[0].endswith("utilization 50.0%")
    assert read_metrics(str(tmp_path))[0]["utilization"] == 0.5


def test_time_left_shrinks_to_nothing(tmp_path: Path) -> None:
    with Reporter(str(tmp_path), 0, 3, active=True) as reporter:
        for step in range(3):
            reporter.report(step, VALUES)
    left = [line["seconds_left"] for line in read_metrics(str(tmp_path))]
    assert left[-1] == 0
    assert all(seconds >= 0 for seconds in left)


def test_trackers_get_the_numbers_and_are_closed(tmp_path: Path) -> None:
    memory = Memory()
    with Reporter(str(tmp_path), 4, 9, active=True, trackers=[memory]) as reporter:
        reporter.report(4, VALUES | {"perplexity": math.inf})
    assert memory.is_closed
    ((step, numbers),) = memory.rows
    assert step == 4
    assert numbers["loss"] == 5.5
    assert numbers["tokens_per_second"] == 200.0
    # No text, nothing absent, nothing infinite.
    assert not {"batch_hash", "gradient_norm", "utilization", "perplexity"} & set(numbers)


def test_trackers_are_closed_when_a_step_fails(tmp_path: Path) -> None:
    memory = Memory()
    with (
        pytest.raises(RuntimeError),
        Reporter(str(tmp_path), 0, 9, active=True, trackers=[memory]),
    ):
        raise RuntimeError
    assert memory.is_closed


def test_perplexity_of_a_hopeless_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf

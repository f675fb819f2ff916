"""The benchmark of an hour: its curve, its picture and its steps."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.hour import curves, draw, make_recipe

SVG = "{http://www.w3.org/2000/svg}"


def test_curves_are_means_over_steps_and_count_tokens() -> None:
    metrics = [{"tokens": 10, "loss": float(step)} for step in range(60)]
    metrics[29]["validation_loss"] = 4.0
    metrics[59]["validation_loss"] = 3.0
    training, validation = curves(metrics)
    assert training == [(500, 24.5), (600, 54.5)]
    assert validation == [(300, 4.0), (600, 3.0)]


def test_the_picture_is_svg_with_both_curves(tmp_path: Path) -> None:
    path = tmp_path / "hour.svg"
    draw(path, "a & title".replace("&", "and"), [(0, 9), (1e6, 5)], [(1e6, 4)], 6.0)
    root = ElementTree.fromstring(path.read_text())
    points = [line.attrib["points"] for line in root.iter(f"{SVG}polyline")]
    # From the upper left, 9 nats, to the right, where 5 of the 5 nats' height are 4 down.
    assert points[1].split() == ["56.0,40.0", "704.0,305.6"]
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "unigram entropy 6.00" in words
    assert "4.00" in words


def test_the_steps_fill_the_time(tmp_path: Path) -> None:
    (tmp_path / "classics-en-000.jsonl.zst").touch()
    (tmp_path / "classics-en-001.jsonl.zst").touch()
    (tmp_path / "peps-en.jsonl.zst").touch()
    recipe = make_recipe(tmp_path, tmp_path / "out", 60, 0.72)
    assert recipe.pretrain.max_steps == 5000
    assert recipe.pretrain.validate_every_steps == 125
    assert recipe.pretrain.warmup_steps == pytest.approx(250)
    assert [(one.name, len(one.paths)) for one in recipe.sources] == [("classics", 2), ("peps", 1)]

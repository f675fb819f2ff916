"""Markup of pages: what is cut, what is escaped, on which side a cell stands."""

import xml.etree.ElementTree as ET

from pretrain.evaluation.drawing import Curve, chart, paragraph, table


def test_names_are_cut_and_prose_is_not() -> None:
    long = "word " * 60
    assert "\u2026" not in paragraph(long)
    assert "\u2026" in table("caption", ("a", "b"), [(long, "1")])


def test_figures_stand_right_and_prose_left() -> None:
    shown = table("numbers", ("name", "value", "why"), [("x", "0.5", "because " * 6)])
    cells = ET.fromstring(f"<p>{shown}</p>").iter("td")
    assert [cell.get("class") for cell in cells] == ["n", None]


def test_what_comes_from_outside_is_text() -> None:
    assert "&lt;b&gt;" in paragraph("<b>")
    assert "[U+202E]" in table("caption", ("a",), [("\u202eabc",)])


def test_a_lone_point_has_axes_close_around_it() -> None:
    picture = chart("scores", "epoch", [Curve("one", ((1.0, 0.035),))], percent=True)
    ticks = [each.text for each in ET.fromstring(picture).iter("text")]
    assert "3.3" in ticks
    assert "-46.5" not in ticks

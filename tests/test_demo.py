"""The demo's parts: what is collected, what the summary computes, that every recipe loads."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import orjson
import pytest
from corpus_helpers import RECIPES, REPOSITORY
from rich.console import Console

from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.recipe import load_recipe
from corpus.records import Record
from demo import docstrings
from demo.docstrings import COUNTS, FILES, Tree, collect, find_modules
from demo.duplicates import Piece, compare
from demo.picture import draw_loss, smooth
from demo.summary import check_learned, funnel, show_funnel, show_learning, unigram_entropy

MODULE = '''"""A module about trees."""

if True:
    def walk(tree):
        """Walk the tree once."""
else:
    def walk(tree):
        """Walk the tree twice."""


class Tree:
    """A tree."""

    def grow(self):
        """Grow by a leaf.

            Indented.
        Not.
        """

    def cut(self):
        pass


class Bare:
    def only(self):
        """Say only this."""
'''


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A site-packages of four modules that count and some that do not."""
    root = tmp_path / "site-packages"
    contents = {
        "garden/__init__.py": MODULE,
        "garden/broken.py": '"""Not Python."""\ndef (:\n',
        "garden/silent.py": "x = 1\n",
        "garden/tests/test_garden.py": '"""A test."""\n',
        "garden/surrogate.py": '"""Half a pair: \\ud800."""\n',
        "corpus/__init__.py": '"""Our own."""\n',
        "__editable___maskline_finder.py": '"""Our own too."""\n',
        "six.py": '"""A single file."""\n',
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Tree("packages", root)


def read_files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read_documents(directory: Path) -> dict[str, Record]:
    """Read every file as a refresh does; ids are unique."""
    found: dict[str, Record] = {}
    for path in sorted(directory.glob("*.jsonl*")):
        file = InputFile(str(path))
        for record in read_records(file, "jsonl", 2**20):
            assert isinstance(record, Record)
            assert record.key is not None and record.key not in found
            found[record.key] = record
        file.close()
    return found


def test_own_packages_and_tests_are_left_out(tree: Tree) -> None:
    assert find_modules(tree.root) == [
        "garden/__init__.py",
        "garden/broken.py",
        "garden/silent.py",
        "garden/surrogate.py",
        "six.py",
    ]


def test_documents_are_modules_functions_and_classes_with_methods(
    tree: Tree, tmp_path: Path
) -> None:
    counts = collect([tree], tmp_path / "out", 1)
    documents = read_documents(tmp_path / "out" / "packages")
    assert {name: record.text for name, record in documents.items()} == {
        "garden/__init__.py": "A module about trees.",
        "garden/__init__.py:walk": "Walk the tree once.",
        "garden/__init__.py:walk#2": "Walk the tree twice.",
        "garden/__init__.py:Tree": "A tree.\n\nGrow by a leaf.\n\n    Indented.\nNot.",
        "garden/__init__.py:Bare": "Say only this.",
        "garden/surrogate.py": "Half a pair: ?.",
        "six.py": "A single file.",
    }
    assert counts["packages"]["modules"] == 5
    assert counts["packages"]["unparsable"] == 1
    assert counts["packages"]["documents"] == 7


def test_the_same_packages_give_the_same_bytes(tree: Tree, tmp_path: Path) -> None:
    collect([tree], tmp_path / "one", 1)
    collect([tree], tmp_path / "two", 2)
    files = read_files(tmp_path / "one")
    assert files == read_files(tmp_path / "two")
    assert set(files) == {COUNTS, *(f"packages/{name}" for name in FILES)}


def test_complete_directory_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docstrings, "collect", None)
    (tmp_path / COUNTS).write_text("{}")
    assert docstrings.main([str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().out.replace("\n", " ")


def test_unigram_entropy_by_hand() -> None:
    assert unigram_entropy(np.array([0, 2, 1, 1])) == pytest.approx(1.5 * math.log(2))
    assert unigram_entropy(np.array([0, 7, 0])) == 0
    assert unigram_entropy(np.full(8, 3)) == pytest.approx(math.log(8))


STATS = {
    "packages": {"dropped": {"exact": 2, "gopher_min_words": 5}, "documents": 3},
    "stdlib": {"dropped": {"gopher_min_words": 1}, "documents": 4},
}


def test_funnel_adds_up_with_the_most_frequent_reason_first() -> None:
    assert funnel(STATS) == [
        ("in", [10, 5, 15]),
        ("gopher_min_words", [5, 1, 6]),
        ("exact", [2, 0, 2]),
        ("kept", [3, 4, 7]),
    ]


def test_funnel_is_shown_with_its_reasons() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(show_funnel(STATS))
    assert "fewer than 50 words" in captured.get()


def test_compare_marks_what_differs_and_shortens_what_does_not() -> None:
    assert compare("a b c", "a x c") == (
        [Piece("a", False), Piece("b", True), Piece("c", False)],
        [Piece("a", False), Piece("x", True), Piece("c", False)],
    )
    same = " ".join(f"w{number}" for number in range(40))
    (piece,), (other, extra) = compare(same, f"{same} more")
    assert (
        piece
        == other
        == Piece("w0 w1 w2 w3 w4 w5 w6 w7 [...] w32 w33 w34 w35 w36 w37 w38 w39", False)
    )
    assert extra == Piece("more", True)


def test_smooth_averages_with_the_neighbours() -> None:
    np.testing.assert_allclose(smooth(np.array([1.0, 2, 3, 7]), 3), [1.5, 2, 4, 5])


METRICS = [
    {"step": 0, "loss": 2.0, "tokens": 10},
    {"step": 1, "loss": 1.0, "tokens": 10, "validation_loss": 1.25},
]


def test_losses_are_shown_beside_their_levels() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(show_learning(METRICS, 1.5, 8))
    text = captured.get()
    assert "ln(vocabulary) 2.079" in text and "-0.079" in text
    assert "unigram entropy of its tokens 1.500" in text and "-0.250" in text


def test_a_model_that_learned_nothing_is_told() -> None:
    check_learned(METRICS, 2.25)
    with pytest.raises(ValueError, match=r"ends at 1.250, expected 1.0 nats or more below"):
        check_learned(METRICS, 2.2)


def test_picture_is_a_png(tmp_path: Path) -> None:
    draw_loss(tmp_path / "loss.png", METRICS, 1.5, math.log(8))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert mpl.get_backend().lower() == "agg"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.pretrain.run is not None


def test_base_recipe_is_the_papers() -> None:
    pretrain = load_recipe(str(REPOSITORY / "recipes" / "base.yaml")).pretrain
    assert (pretrain.batch_sequences, pretrain.max_steps) == (8192, 500_000)
    assert (pretrain.learning_rate, pretrain.warmup_steps) == (6e-4, 24_000)
    assert (pretrain.adam_betas, pretrain.adam_epsilon) == ((0.9, 0.98), 1e-6)


def test_documents_carry_their_package(tree: Tree, tmp_path: Path) -> None:
    collect([tree._replace(source="stdlib")], tmp_path, 1)
    documents = read_documents(tmp_path / "stdlib")
    assert len(documents) == 7
    for record in documents.values():
        assert record.meta is not None
        meta = orjson.loads(record.meta)
        assert (meta["package"], meta["licence"]) == ("python", "PSF-2.0")

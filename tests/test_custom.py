"""The user's own rules: what a function is given and may return, and errors that name it."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.custom import SCHEMA, UserRule, load, load_all
from pipeline.rules import Failure

RULES = """
import pyarrow as pa
import pyarrow.compute as pc

NUMBER = 3

def short(batch):
    length = pc.utf8_length(batch["text"])
    return pa.RecordBatch.from_arrays(
        [pc.less_equal(length, 5), length, pa.array([5] * len(batch))],
        names=["keep", "value", "threshold"],
    )

def from_books(batch):
    return pc.equal(batch["source"], "books")

def raises(batch):
    return batch["no such column"]
"""


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Write a module that only this test has; return its name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = "rules_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]

    def write_module(source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write_module


def batch() -> pa.RecordBatch:
    rows = [("a/1", "tiny", None, "books", "en", None), ("b/1", "longer", "u", "web", None, "{}")]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def test_a_rule_says_what_stays(write: Callable[[str], str]) -> None:
    module = write(RULES)
    short, books = load_all([f"{module}:short", f"{module}:from_books"])
    assert short.find(batch(), "a file") == [None, Failure("user_short", 6.0, 5.0)]
    assert books.find(batch(), "a file") == [None, Failure("user_from_books", 0.0, 1.0)]
    assert short.find(batch()[:0], "a file") == []


def test_a_rule_is_known_by_its_source(write: Callable[[str], str]) -> None:
    before = load(f"{write(RULES)}:short").fingerprint
    assert before == hashlib.sha256(RULES.encode()).hexdigest()
    assert load(f"{write(RULES + '# changed')}:short").fingerprint != before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (True, "returned a bool, expected an Arrow array"),
        (pa.array([True]), "returned 1 verdicts for 2 documents"),
        (pa.array([True, None]), "returned 1 nulls"),
        (pa.array([1, 0]), "returned int64, expected bool"),
        (pa.array([{"keep": True}, None]), "returned 1 nulls"),
        (pa.array([{"kept": True}] * 2), "returned kept, expected keep, value, threshold"),
        (pa.array([{"keep": True, "value": "x"}] * 2), "returned string, expected double"),
        (pa.array([{"keep": False, "value": None}] * 2), "returned (2 nulls|null, expected)"),
    ],
)
def test_what_is_no_verdict_is_refused(given: object, message: str) -> None:
    rule = UserRule("mine:rule", lambda _: given, "")
    with pytest.raises(ValueError, match=f"rule mine:rule on x.jsonl {message}"):
        rule.find(batch(), "x.jsonl")


def test_verdicts_may_come_in_chunks_and_without_values() -> None:
    chunks = pa.chunked_array([[True], [False]])
    rows = pa.array([{"keep": True}, {"keep": False}])
    rules = UserRule("mine:rule", lambda _: chunks, ""), UserRule("mine:rule", lambda _: rows, "")
    for rule in rules:
        assert rule.find(batch(), "x") == [None, Failure("user_rule", 0.0, 1.0)]


def test_an_error_inside_names_rule_and_place(write: Callable[[str], str]) -> None:
    module = write(RULES)
    message = f"rule {module}:raises failed on x.jsonl: KeyError: .*no such column"
    with pytest.raises(ValueError, match=message):
        load(f"{module}:raises").find(batch(), "x.jsonl")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rules", "not of the form module:function"),
        (":f", "not of the form module:function"),
        ("rules:f g", "not of the form module:function"),
        ("no_such_module_anywhere:f", "there is no module no_such_module_anywhere"),
        ("no_such_package.rules:f", "No module named 'no_such_package'"),
        (".rules:f", "user rule .rules:f"),
        ("sys:exit", "sys is built in or frozen and has no file to fingerprint: call it in a mod"),
        ("os:getcwd", "os is built in or frozen and has no file to fingerprint"),
        ("pipeline.rules:nothing", r"rules.py has no nothing"),
        ("pipeline.rules:VERSION", "VERSION is a int, no function"),
    ],
)
def test_a_rule_that_is_not_there_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(spec)


def test_a_module_that_does_not_import_is_named(write: Callable[[str], str]) -> None:
    module = write("1 / 0\n")
    with pytest.raises(ValueError, match=f"importing {module}: ZeroDivisionError"):
        load(f"{module}:f")


def test_two_rules_of_one_name_are_refused(write: Callable[[str], str]) -> None:
    module = write(RULES)
    with pytest.raises(ValueError, match="two user rules are called user_short"):
        load_all([f"{module}:short", f"{module}:short"])

"""Compiled code is found by the content of its source, and compiled by one process at a time."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from numba import config

from corpus import compiled
from corpus.compiled import (
    PACKAGES,
    ROOT,
    cache_directory,
    imported_files,
    make_own_directory,
    source_digest,
)

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
KERNELS = [path for path in SOURCES if "@numba.njit" in path.read_text()]

CONSTANT = "OFFSET = 1\n"
INNER = """
import numba
from corpus.compiled import share_compiled_code
from pipeline.constant import OFFSET

share_compiled_code()

@numba.njit(cache=True)
def add(value):
    return value + OFFSET
"""
OUTER = """
import numba
from pipeline import (
    inner,
)

add = inner.add

@numba.njit(cache=True)
def count(value):
    return count(value - 1) + 1 if value > 0 else add(value)
"""
# Waits for a line, so that several can begin at once.
USE = """
import json, shutil, sys
from pathlib import Path
from pipeline.inner import add
from pipeline.outer import count

if sys.stdin.readline().strip() == "spoil":
    for each in (add, count):
        shutil.rmtree(each.stats.cache_path)
        Path(each.stats.cache_path).touch()
result = count(3)
hits, misses = (
    {each.__name__: sum(getattr(each.stats, kind).values()) for each in (add, count)}
    for kind in ("cache_hits", "cache_misses")
)
print(json.dumps([result, hits, misses, count.stats.cache_path]))
"""


def write_tree(root: Path) -> Path:
    """Write a small corpus and pipeline, which find their code as the real ones do."""
    for name, text in (("constant", CONSTANT), ("inner", INNER), ("outer", OUTER)):
        (root / "pipeline").mkdir(parents=True, exist_ok=True)
        (root / "pipeline" / f"{name}.py").write_text(text)
    (root / "corpus").mkdir()
    shutil.copy(ROOT / "corpus" / "compiled.py", root / "corpus")
    return root


def begin(root: Path, cache: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", USE], cwd=root, text=True,
        env=os.environ | {"PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(cache)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: "subprocess.Popen[str]") -> Any:  # noqa: ANN401 - JSON
    out, err = process.communicate("go\n", timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_copy_elsewhere_compiles_nothing(tmp_path: Path) -> None:
    cache, first = tmp_path / "cache", write_tree(tmp_path / "first")
    result, hits, misses, path = end(begin(first, cache))
    assert (result, set(hits.values()), misses) == (4, {0}, {"add": 1, "count": 1})
    assert Path(path).parent == cache / "maskline"
    second = shutil.copytree(first, tmp_path / "second", ignore=shutil.ignore_patterns("__*"))
    os.utime(second / "pipeline" / "outer.py", (0, 0))
    assert end(begin(second, cache)) == [4, {"add": 0, "count": 1}, {"add": 0, "count": 0}, path]
    assert not list(tmp_path.glob("*/pipeline/__pycache__/*.nbi"))


def test_what_a_kernel_is_made_from_is_compiled_anew(tmp_path: Path) -> None:
    cache, root = tmp_path / "cache", write_tree(tmp_path / "tree")
    _, _, _, before = end(begin(root, cache))
    (root / "pipeline" / "constant.py").write_text("OFFSET = 2\n")
    result, hits, misses, after = end(begin(root, cache))
    assert (result, set(hits.values()), misses) == (5, {0}, {"add": 1, "count": 1})
    assert before != after


def test_processes_that_begin_at_once_compile_once(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    processes = [begin(root, tmp_path / "cache") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [end(process) for process in processes]
    assert [result for result, *_ in ends] == [4, 4, 4]
    for name in ("add", "count"):
        assert sum(misses[name] for _, _, misses, _ in ends) == 1


def test_what_cannot_be_kept_is_compiled_all_the_same(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree")
    (tmp_path / "cache" / "maskline").mkdir(parents=True)
    (tmp_path / "cache" / "maskline").chmod(0o777)
    result, _, misses, path = end(begin(root, tmp_path / "cache"))
    assert (result, misses["add"]) == (4, 1)
    assert not list((tmp_path / "cache" / "maskline").iterdir())
    assert Path(path).parent == tmp_path / "cache"  # where numba would keep it


def test_a_directory_that_is_spoiled_is_told(tmp_path: Path) -> None:
    process = begin(write_tree(tmp_path / "tree"), tmp_path / "cache")
    out, err = process.communicate("spoil\n", timeout=300)
    assert json.loads(out)[0] == 4
    assert err.count("compiled code is not kept: ") == 2


def test_a_directory_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_own_directory(tmp_path / "a" / "own")
    assert (tmp_path / "a" / "own").stat().st_mode & 0o777 == 0o700
    make_own_directory(tmp_path / "a" / "own")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="own belongs to others"):
        make_own_directory(tmp_path / "a" / "own")


def test_where_compiled_code_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_directory() == tmp_path / ".cache" / "maskline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "maskline"
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "numba"))
    assert cache_directory() == tmp_path / "numba" / "maskline"


def test_every_kernel_lies_there() -> None:
    for path in KERNELS:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        members = vars(importlib.import_module(name)).values()
        found = [each for each in members if getattr(each, "__module__", None) == name]
        caches = {each.stats.cache_path for each in found if hasattr(each, "stats")}
        assert caches == {str(cache_directory() / source_digest(path))}, name


@cache
def imports_of(path: Path) -> set[str]:
    """Return the files of ours that a file imports, read as Python reads it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    names = {name.replace(".", "/") for name in found if name.split(".")[0] in PACKAGES}
    candidates = [f"{name}{end}" for name in names for end in (".py", "/__init__.py")]
    return {name for name in candidates if (ROOT / name).is_file()}


def test_imports_are_read_as_python_reads_them() -> None:
    for path in SOURCES:
        todo = {path.relative_to(ROOT).as_posix()}
        found: set[str] = set()
        while todo:
            found |= todo
            todo = set().union(*(imports_of(ROOT / name) for name in todo)) - found
        assert imported_files(path.relative_to(ROOT).as_posix()) == found


def test_code_that_can_be_kept_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled._SharedCodeImpl, "_locator_classes", ())
    with pytest.raises(OSError, match=r"kept nowhere: .*set XDG_CACHE_HOME or NUMBA_CACHE_DIR"):
        compiled._SharedCache(make_own_directory)

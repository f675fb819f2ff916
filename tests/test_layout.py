"""The walls of the house: who imports whom, how large things are, where output happens."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("corpus", "pipeline", "pretrain")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_NESTING = 400, 60, 6, 3

# The only modules that may import these.
SINGLE_IMPORTERS = {
    "ray": ("pipeline/jobs.py", "pretrain/cluster.py"),
    "deepspeed": ("pretrain/engine.py", "pretrain/quirks.py"),
}
FORBIDDEN = {
    "corpus": {"pipeline", "pretrain", "ray", "torch", "deepspeed", "transformers"},
    "pipeline": {"pretrain", "torch", "deepspeed", "transformers"},
    "pretrain": {"pipeline"},
}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Give the top-level package of every import, also of those by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are by full path"
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.literal_eval(node.args[0]).split(".")[0]


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return how deep blocks lie in one another; an `elif` lies no deeper than its `if`."""
    deepest = depth
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.FunctionDef):
                continue
            block = isinstance(child, ast.For | ast.While | ast.If | ast.With | ast.Try)
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If)
            deepest = max(deepest, nesting(child, depth + (block and not is_elif)))
    return deepest


def test_the_three_packages_are_there() -> None:
    assert {package_of(path) for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_walls(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = set(imports_of(tree))
    assert not imported & FORBIDDEN[package_of(path)]
    for package, importers in SINGLE_IMPORTERS.items():
        assert package not in imported or name_of(path) in importers
    assert ast.get_docstring(tree)
    if path.name == "__init__.py":
        assert len(tree.body) == 1, "re-exports nothing"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [each for each in arguments if each.arg not in ("self", "cls")]
            assert len(named) <= MAX_PARAMETERS, node.name
            kernel = any("njit" in ast.unparse(each) for each in node.decorator_list)
            assert kernel or nesting(node) <= MAX_NESTING, f"{node.name}: {nesting(node)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_prints_only_on_the_command_line(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printing = [call for call in calls if ast.unparse(call.func) == "print"]
    assert not printing or path.name == "__main__.py"


def test_a_forbidden_import_is_seen() -> None:
    code = "import ray.util\nfrom torch import nn\nimportlib.import_module('deepspeed.ops')"
    assert set(imports_of(ast.parse(code))) == {"ray", "torch", "deepspeed"}


def test_nesting_is_counted() -> None:
    code = "def f():\n for a in b:\n  if a:\n   pass\n  elif b:\n   while c:\n    pass"
    (function,) = ast.parse(code).body
    assert nesting(function) == 3

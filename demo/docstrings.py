"""Collects the docstrings of the installed Python packages: real technical English, no download.

Source files are parsed with `ast` and never imported. A document is what a reader would look up at
once: a module's docstring, a top-level function's, or a class's followed by its methods'. The
standard library is one source and site-packages the other; bundled copies of libraries and classes
written from one template give natural duplicates and near-duplicates. Test directories hold code
rather than documentation and are left out, and so is maskline itself.

A module's documents go to one file, dealt by a checksum of its path, in the order of the paths. So
the same environment gives the same bytes, and the files are of three kinds that the readers know.
The cost is parsing: about 15 s of two cores for 200 MB of source.

    python -m demo.docstrings OUT_DIR
"""

import argparse
import ast
import gc
import inspect
import os
import platform
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageMetadata, metadata, packages_distributions
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
from rich.console import Console

# Every source has these files; the name says how each is compressed.
FILES = ("0.jsonl.zst", "1.jsonl.zst", "2.jsonl.zst", "3.jsonl.zst", "4.jsonl.gz", "5.jsonl")
COUNTS = "counts.json"  # written last: it exists exactly when all files are complete

_OWN_PACKAGES = {"corpus", "pipeline", "pretrain", "demo"}
_SKIPPED_DIRECTORIES = {"test", "tests", "__pycache__", "site-packages", "dist-packages"}
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_MAX_LICENCE_CHARACTERS = 60  # some packages put the whole text of the licence there


class Tree(NamedTuple):
    """A directory of Python packages and the source its documents belong to."""

    source: str
    root: Path


class Package(NamedTuple):
    """What every document says of the package it comes from."""

    package: str
    version: str
    licence: str


class Extracted(NamedTuple):
    """What one file gave: (qualified name, text) pairs; None where it cannot be parsed."""

    path: str
    documents: list[tuple[str, str]] | None


PYTHON = Package("python", platform.python_version(), "PSF-2.0")


def installed_trees() -> list[Tree]:
    """Return where the standard library and the packages of the running Python lie."""
    paths = sysconfig.get_paths()
    return [Tree("stdlib", Path(paths["stdlib"])), Tree("packages", Path(paths["purelib"]))]


def find_modules(root: Path) -> list[str]:
    """List the Python files below a root, sorted, as relative paths with forward slashes."""
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED_DIRECTORIES]
        here = Path(directory).relative_to(root)
        if here.parts[:1] and here.parts[0] in _OWN_PACKAGES:
            continue
        found += [(here / name).as_posix() for name in files if name.endswith(".py")]
    return sorted(name for name in found if not name.startswith("__editable__"))


def documents_of(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Give (name, text) for the module, then for its classes and functions in their order.

    The module's own name is empty; a name that is defined twice is told apart by `#2`.
    """
    seen: dict[str, int] = {}
    if text := _docstring(module):
        yield "", text
    for node in _definitions(module.body):
        if isinstance(node, ast.ClassDef):
            methods = (_docstring(each) for each in _definitions(node.body))
            text = "\n\n".join(filter(None, (_docstring(node), *methods)))
        else:
            text = _docstring(node)
        if text:
            seen[node.name] = seen.get(node.name, 0) + 1
            count = seen[node.name]
            yield (node.name if count == 1 else f"{node.name}#{count}"), text


def _definitions(
    body: Iterable[ast.stmt],
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give the definitions of a body, those below `if` and `try` included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body)
            yield from _definitions(node.orelse)
            for handler in getattr(node, "handlers", ()):
                yield from _definitions(handler.body)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node, clean=False)
    if text is None:
        return ""
    # A lone surrogate can be written in a literal and has no UTF-8.
    return inspect.cleandoc(text).encode(errors="replace").decode().strip()


def extract(root: str, path: str) -> Extracted:
    """Parse one file; most of those without triple quotes need no parsing."""
    code = (Path(root) / path).read_bytes()
    if b'"""' not in code and b"'''" not in code:
        return Extracted(path, [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the code of others
            module = ast.parse(code)
    except (SyntaxError, ValueError):
        return Extracted(path, None)
    return Extracted(path, list(documents_of(module)))


def collect(trees: Sequence[Tree], directory: Path, workers: int) -> dict[str, dict[str, int]]:
    """Write the documents of every tree below `directory`; return counts by source."""
    counts = {}
    with ProcessPoolExecutor(workers, initializer=gc.disable) as pool:
        for tree in trees:
            modules = find_modules(tree.root)
            extracted = pool.map(extract, repeat(str(tree.root)), modules, chunksize=64)
            counts[tree.source] = _write_source(tree, extracted, directory)
    (directory / COUNTS).write_bytes(orjson.dumps(counts, option=orjson.OPT_INDENT_2))
    return counts


def _write_source(tree: Tree, extracted: Iterable[Extracted], directory: Path) -> dict[str, int]:
    counts = dict.fromkeys(("modules", "unparsable", "documents", "text_bytes"), 0)
    lines: list[list[bytes]] = [[] for _ in FILES]
    packages = _known_packages() if tree.source == "packages" else {}
    for path, documents in extracted:
        counts["modules"] += 1
        counts["unparsable"] += documents is None
        top = path.split("/")[0].removesuffix(".py")
        package = packages.get(top, PYTHON if tree.source == "stdlib" else Package(top, "", ""))
        for name, text in documents or ():
            record = {"id": f"{path}:{name}" if name else path, "text": text, **package._asdict()}
            lines[zlib.crc32(path.encode()) % len(FILES)].append(orjson.dumps(record) + b"\n")
            counts["documents"] += 1
            counts["text_bytes"] += len(text.encode())
    target = directory / tree.source
    target.mkdir(parents=True, exist_ok=True)
    for file, content in zip(FILES, lines, strict=True):
        _write_file(target / file, b"".join(content))
    return counts


def _write_file(path: Path, data: bytes) -> None:
    if codec := _CODECS.get(path.suffix):
        with pa.CompressedOutputStream(str(path), codec) as stream:
            stream.write(data)
    else:
        path.write_bytes(data)


def _known_packages() -> dict[str, Package]:
    """Return what the installed distributions say of their top-level packages."""
    return {
        top: _describe(metadata(sorted(names)[0]))
        for top, names in packages_distributions().items()
    }


def _describe(fields: PackageMetadata) -> Package:
    licence: str = next(
        (fields[key] for key in ("License-Expression", "License") if key in fields), ""
    )
    known = licence if len(licence) <= _MAX_LICENCE_CHARACTERS else ""
    return Package(fields["Name"], fields["Version"], known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect once; a complete directory is left as it is."""
    parser = argparse.ArgumentParser("python -m demo.docstrings", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="OUT_DIR")
    directory: Path = parser.parse_args(arguments).directory
    console = Console(highlight=False)
    if (directory / COUNTS).exists():
        console.print(f"{directory} is complete: nothing to do")
        return 0
    counts = collect(installed_trees(), directory, os.cpu_count() or 1)
    for source, count in counts.items():
        console.print(
            f"{source}: {count['documents']:,} documents, {count['text_bytes'] / 1e6:.1f} MB, from "
            f"{count['modules']:,} modules ({count['unparsable']:,} cannot be parsed)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

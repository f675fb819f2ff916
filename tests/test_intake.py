"""A large file is read by several tasks, and nothing of it shows in a snapshot."""

from pathlib import Path

import pytest
import zstandard
from chain_helpers import prepare
from corpus_helpers import write_corpus

from corpus.recipe import load_recipe
from corpus.snapshots import Snapshot, open_snapshot
from pipeline import intake
from pipeline.explain import open_store
from pipeline.proofs import audit
from pipeline.refresh import refresh


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    prepare(monkeypatch)


def in_frames(path: Path) -> None:
    """Compress a file as zstd frames of a few lines each, so that it can be split."""
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines(True)
    frames = [b"".join(lines[start : start + 7]) for start in range(0, len(lines), 7)]
    path.write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, frames)))


def build(directory: Path, store: str) -> Snapshot:
    recipe = load_recipe(str(directory / "recipe.yaml"), [f"store={directory / store}"])
    return refresh(recipe).snapshot


def test_pieces_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path, files=4, documents=60)
    for path in sorted((tmp_path / "raw").rglob("*.jsonl.zst")):
        in_frames(path)
    whole = build(tmp_path, "whole")
    monkeypatch.setattr(intake, "PIECE_BYTES", 3000)
    split = build(tmp_path, "split")
    assert len(split.parts) > 2 * len(whole.parts)
    assert split.fingerprint == whole.fingerprint
    assert split.counts == whole.counts
    assert [each.checksum for each in split.shards] == [each.checksum for each in whole.shards]
    # The audit reads every file whole and finds the same rows.
    assert audit(open_store(str(tmp_path / "split"))).problems == []


def test_a_large_file_that_changed_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, files=2, documents=60)
    monkeypatch.setattr(intake, "PIECE_BYTES", 3000)
    build(tmp_path, "store")
    (source, *_) = open_snapshot(str(tmp_path / "store")).inputs
    changed = source.model_copy(update={"checksum": "0" * 64})
    with pytest.raises(ValueError, match="changed since it was listed: its checksum was 0000"):
        intake.survey_file(None, "task", changed, 1000)  # type: ignore[arg-type]

"""The streamed file is a safetensors file, byte for byte the same for the same tensors."""

import hashlib
import io
import tempfile
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpus.files import writing
from pretrain.tensors import DamagedFileError, read_tensors, write_tensors

shapes = st.lists(st.integers(0, 5), max_size=3)


@given(st.dictionaries(st.text("ab.é", min_size=1, max_size=4), shapes, max_size=5))
def test_the_library_reads_what_is_written(sizes: dict[str, list[int]]) -> None:
    tensors = {name: torch.randn(shape) for name, shape in sizes.items()}
    stream = io.BytesIO()
    found = write_tensors(stream, tensors)
    assert found == hashlib.sha256(stream.getvalue()).hexdigest()
    loaded = safetensors.torch.load(stream.getvalue())
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_equal_tensors_are_equal_bytes_in_any_order_and_layout() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    one, other = io.BytesIO(), io.BytesIO()
    write_tensors(one, {"a": whole.t().contiguous(), "b": whole})
    write_tensors(other, {"b": whole, "a": whole.t()})
    assert one.getvalue() == other.getvalue()


@pytest.mark.parametrize("remote", [False, True])
def test_another_checksum_is_refused(tmp_path: Path, remote: bool) -> None:
    path = f"memory://{tmp_path.name}.safetensors" if remote else str(tmp_path / "a.safetensors")
    with writing(path) as stream:
        expected = write_tensors(stream, {"a": torch.ones(3)})
    assert torch.equal(read_tensors(path, expected)["a"], torch.ones(3))
    with pytest.raises(DamagedFileError, match=f"has checksum {expected}"):
        read_tensors(path, "0" * 64)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_of_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"memory://{tmp_path.name}.safetensors"
    with writing(path) as stream:
        expected = write_tensors(stream, {"a": torch.ones(3)})
    monkeypatch.setattr("tempfile.NamedTemporaryFile", partial(Path("/dev/full").open, "r+b"))
    with pytest.raises(OSError, match=f"No space left on device: '{tempfile.gettempdir()}'"):
        read_tensors(path, expected)

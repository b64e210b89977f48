from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gta_datasets.errors import CacheError
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)

TENSORS = {
    "module.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "module.bias": torch.tensor([1.5, -0.0, 1e-40]),
    "average.half": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
    "optimizer.0.1.step": torch.tensor(7.0),
    "optimizer.0.1.exp_avg": torch.tensor([[1e300]], dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "numbers": torch.tensor([2**40, -1]),
    "flags": torch.tensor([True, False]),
}


@settings(max_examples=40, deadline=None)
@given(record=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, record: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint(TENSORS, record))
    found = load_checkpoint(path)
    assert found is not None
    assert found.record == record
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert torch.equal(found.tensors[name], tensor)


def test_numbers_as_keys_come_back_as_json_has_them(tmp_path: Path) -> None:
    """Numbers and their texts sort differently, and the checksum is of both or of neither."""
    save_checkpoint(tmp_path / "file", Checkpoint({}, {"scores": {30_000: 1.5, 120_000: 2.5}}))
    found = load_checkpoint(tmp_path / "file")
    assert found is not None
    assert found.record == {"scores": {"30000": 1.5, "120000": 2.5}}


def test_nothing_there(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "missing.safetensors") is None


def test_views_and_parameters_are_saved_by_value(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.float32).view(3, 4)
    tensors = {"transposed": whole.t(), "column": whole[:, 1], "parameter": torch.nn.Parameter(whole[0].clone())}
    save_checkpoint(tmp_path / "file", Checkpoint(tensors, {}))
    found = load_checkpoint(tmp_path / "file")
    assert found is not None
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert not found.tensors[name].requires_grad


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "file", Checkpoint({"x": torch.ones(3)}, {"step": 2}))
    assert torch.equal(safetensors.torch.load_file(tmp_path / "file")["x"], torch.ones(3))
    with safetensors.safe_open(tmp_path / "file", framework="pt") as file:
        assert json.loads(file.metadata()["record"]) == {"step": 2}


def test_saving_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for step in range(3):
        save_checkpoint(path, Checkpoint({"x": torch.full((2,), float(step))}, {"step": step}))
    found = load_checkpoint(path)
    assert found is not None
    assert found.record["step"] == 2
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_what_was_loaded_survives_the_next_save_and_removal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_checkpoint(path, Checkpoint({"x": torch.ones(1000)}, {}))
    found = load_checkpoint(path)
    save_checkpoint(path, Checkpoint({"x": torch.zeros(10)}, {}))
    path.unlink()
    assert found is not None
    assert (found.tensors["x"] == 1).all()


def test_under_selects_by_whole_prefixes() -> None:
    names = ["module.a", "module.b.c", "modules.d", "other.module.e"]
    checkpoint = Checkpoint({name: torch.zeros(1) for name in names}, {})
    assert set(checkpoint.under("module")) == {"a", "b.c"}
    assert set(checkpoint.under("module.b")) == {"c"}
    assert checkpoint.under("nothing") == {}


def test_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    checkpoint = Checkpoint(TENSORS, {"step": 1, "losses": [0.5]})
    shuffled = Checkpoint(dict(reversed(TENSORS.items())), {"losses": [0.5], "step": 1})
    assert checkpoint.digest == shuffled.digest
    save_checkpoint(tmp_path / "file", checkpoint)
    found = load_checkpoint(tmp_path / "file")
    assert found is not None
    assert found.digest == checkpoint.digest


@pytest.mark.parametrize(
    "changed",
    [
        Checkpoint({"x": torch.tensor([1.0, 2.5])}, {"step": 1}),
        Checkpoint({"y": torch.tensor([1.0, 2.0])}, {"step": 1}),
        Checkpoint({"x": torch.tensor([[1.0, 2.0]])}, {"step": 1}),
        Checkpoint({"x": torch.tensor([1.0, 2.0]).view(torch.int32)}, {"step": 1}),
        Checkpoint({"x": torch.tensor([1.0, 2.0])}, {"step": 2}),
        Checkpoint({"x": torch.tensor([1.0]), "y": torch.tensor([2.0])}, {"step": 1}),
    ],
)
def test_digest_changes_with_values_names_shapes_dtypes_and_record(changed: Checkpoint) -> None:
    assert changed.digest != Checkpoint({"x": torch.tensor([1.0, 2.0])}, {"step": 1}).digest


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="missing"):
        save_checkpoint(tmp_path / "missing" / "file", Checkpoint({}, {}))


def test_what_is_written_can_be_read_within_the_same_limit(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "file", Checkpoint({"x": torch.ones(100)}, {})
    save_checkpoint(path, checkpoint)
    size = path.stat().st_size
    save_checkpoint(path, checkpoint, limit=size)
    assert load_checkpoint(path, limit=size) is not None
    with pytest.raises(CacheError, match=rf"file would have {size:,} bytes, more than the {size - 1:,} allowed"):
        save_checkpoint(path, checkpoint, limit=size - 1)
    with pytest.raises(CacheError, match=rf"file has {size:,} bytes, more than the {size - 1:,} allowed"):
        load_checkpoint(path, limit=size - 1)

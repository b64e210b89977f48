"""Damaged files of replay buffers are refused, also where what is wrong with their content has a valid checksum."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gta_datasets.data.endings import Limits
from gta_datasets.errors import CacheError, DatasetError
from gta_datasets.online import ATraDiffReplayBuffer
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.online.test_buffer import same, walk
from tests.online.worlds import Line, line_dataset, quick_buffer

Record = dict[str, Any]
Load = Callable[[dict[str, Tensor], Record], ATraDiffReplayBuffer]
REFUSED = r"damaged .*(does not hold what|holds no ATraDiffReplayBuffer|in version)"


@pytest.fixture(scope="module", autouse=True)
def every_model_is_needed() -> Iterator[None]:
    """Also that of terminations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limits, "of", lambda source: None)
        yield


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("faults/line-v0")


@pytest.fixture(scope="module")
def sound(dataset: minari.MinariDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which nothing is empty: adapted models, states that wait, a buffer that is full."""
    buffer = quick_buffer(dataset, buffer_size=60, starts_per_batch=3, cache_dir=tmp_path_factory.mktemp("cache"))
    walk(buffer, 50)
    buffer.adapt()
    buffer.sample(5)
    walk(buffer, 60, 50)
    while not len(buffer.state.waiting):
        walk(buffer, 1, buffer.state.added)
    path = tmp_path_factory.mktemp("sound") / "buffer"
    buffer.save(path)
    return path


def contents(path: Path) -> tuple[dict[str, Tensor], Record]:
    found = load_checkpoint(path)
    assert found is not None
    return dict(found.tensors), copy.deepcopy(found.record)


@pytest.fixture
def load(dataset: minari.MinariDataset, tmp_path: Path) -> Load:
    """Loads a file that holds the given things."""

    def loaded(tensors: dict[str, Tensor], record: Record) -> ATraDiffReplayBuffer:
        path = tmp_path / "damaged"
        save_checkpoint(path, Checkpoint(tensors, record))
        return ATraDiffReplayBuffer.load(path, dataset, Line(), device="cpu")

    return loaded


def test_the_file_itself_is_sound(sound: Path, load: Load) -> None:
    tensors, record = contents(sound)
    assert all(tensor.numel() for tensor in tensors.values())
    assert all(record["places"][part][1] for part in ("recorded", "generated"))
    assert record["in_use"]
    assert same(load(tensors, record).sample(50), load(tensors, record).sample(50))


def some(tensors: dict[str, Tensor]) -> list[str]:
    """Names of all tensors but weights, and of a weight of every network."""
    networks = {tuple(name.split(".")[:3]): name for name in tensors if name.startswith("weights.")}
    assert len(networks) >= 6
    return [*(name for name in tensors if not name.startswith("weights.")), *networks.values()]


def test_every_tensor_is_missed(sound: Path, load: Load) -> None:
    tensors, record = contents(sound)
    for name in some(tensors):
        with pytest.raises(CacheError, match=REFUSED):
            load({other: value for other, value in tensors.items() if other != name}, record)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "an axis more": lambda value: value[None],
    "a row less": lambda value: value[:-1] if value.ndim else value.repeat(2),
    "a row more": lambda value: torch.cat([value, value[-1:]]) if value.ndim else value.repeat(3),
    "one number": lambda value: value.flatten()[0] if value.ndim else value.repeat(4),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_are_refused(sound: Path, load: Load, shape: str) -> None:
    tensors, record = contents(sound)
    for name in some(tensors):
        if name == "state.subset" and shape.startswith("a row"):
            continue  # another subset is as good
        with pytest.raises(CacheError, match=REFUSED):
            load(tensors | {name: SHAPES[shape](tensors[name])}, record)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_other_dtypes_of_transitions_are_refused(sound: Path, load: Load, dtype: torch.dtype) -> None:
    tensors, record = contents(sound)
    for name in (name for name in tensors if name.startswith(("recorded.", "generated."))):
        with pytest.raises(CacheError, match=REFUSED):
            load(tensors | {name: tensors[name].to(dtype)}, record)


STATES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "windows of the future": lambda tensors: tensors["state.subset"].add_(10_000),
    "windows of the past": lambda tensors: tensors["state.subset"].sub_(10_000),
    "states of other spaces": lambda tensors: tensors.update({"state.waiting": tensors["state.waiting"][:, :1]}),
    "states that are nowhere": lambda tensors: tensors["state.waiting"].fill_(np.nan),
    "estimates that say nothing": lambda tensors: tensors["state.waiting_steps"].fill_(np.inf),
}


@pytest.mark.parametrize("name", STATES)
def test_states_that_cannot_be_are_refused(sound: Path, load: Load, name: str) -> None:
    tensors, record = contents(sound)
    tensors = {name: value.clone() for name, value in tensors.items()}
    STATES[name](tensors)
    with pytest.raises(CacheError, match=REFUSED):
        load(tensors, record)


def places(record: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to everything in a record."""
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from places(value, (*way, key))


def within(record: Any, way: tuple[Any, ...]) -> Any:
    for key in way[:-1]:
        record = record[key]
    return record


@pytest.mark.parametrize("garbage", [None, "x", -1, 2.5, 2**61, float("inf"), [], {}], ids=repr)
def test_garbled_records_are_refused_or_can_be_used(sound: Path, load: Load, garbage: object) -> None:
    """Values of the right type that make sense cannot be told from what was saved, such as another learning rate."""
    tensors, record = contents(sound)
    refused: dict[tuple[Any, ...], Exception] = {}
    for way in places(record):
        if garbage == 2**61 and way[0] == "config":
            continue  # networks that no computer can hold
        garbled = copy.deepcopy(record)
        within(garbled, way)[way[-1]] = garbage
        try:
            buffer = load(tensors, garbled)
        except (CacheError, DatasetError) as error:
            refused[way] = error
        else:
            buffer.sample(5)
            walk(buffer, 3, buffer.state.added)
    assert all("damaged " in str(error) for error in refused.values())
    assert [way for way, error in refused.items() if isinstance(error, DatasetError)] == [("source",)]
    assert len(refused) > 15


def test_every_part_of_the_record_is_missed(sound: Path, load: Load) -> None:
    tensors, record = contents(sound)
    for way in places(record):
        if way[0] == "config" or way == ("in_use", 0):
            continue  # fields of a configuration have defaults
        garbled = copy.deepcopy(record)
        del within(garbled, way)[way[-1]]
        with pytest.raises(CacheError, match=REFUSED):
            load(tensors, garbled)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), in_header=st.booleans())
def test_flipped_bytes_are_noticed(
    sound: Path, dataset: minari.MinariDataset, tmp_path: Path, place: float, flip: int, in_header: bool
) -> None:
    damaged = bytearray(sound.read_bytes())
    begin = 8 + int.from_bytes(damaged[:8], "little")
    header = len(damaged[:begin].rstrip(b" "))  # what pads it may change
    damaged[int(place * header) if in_header else begin + int(place * (len(damaged) - begin))] ^= flip
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with pytest.raises(CacheError, match="damaged "):
        ATraDiffReplayBuffer.load(path, dataset, Line(), device="cpu")


def test_a_buffer_that_no_computer_has_room_for_is_refused(sound: Path, load: Load) -> None:
    tensors, record = contents(sound)
    with pytest.raises(CacheError, match=r"damaged .*too little memory"):
        load(tensors, record | {"buffer_size": 2**48})

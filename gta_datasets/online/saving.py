"""Buffers in files: one safetensors file with transitions, weights and a JSON record; reading it runs no code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import minari
import torch

from gta_datasets.adapters.sb3_layout import STORED
from gta_datasets.config import ATraDiffConfig
from gta_datasets.config.fields import whole_number
from gta_datasets.errors import CacheError, DatasetError, requires_extra
from gta_datasets.online.opening import SEEDS, SIZES, Opened, open_data
from gta_datasets.online.state import State
from gta_datasets.training.checkpoint import Checkpoint, load_chosen, save_chosen

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["Saved", "read_saved", "refusing_damage", "write_saved"]

KIND, VERSION = "ATraDiffReplayBuffer", 5
"""The version is raised whenever a file of the one before would be read wrongly."""

REMEDY = "give the file that buffer.save(path) wrote"

MAX_BYTES = 1024**4
"""Larger files are neither written nor read: transitions lie in memory, where a buffer of this size has no place."""


@dataclass(frozen=True)
class Saved:
    """What a file holds."""

    opened: Opened
    buffer_size: int
    state: State
    contents: Checkpoint

    def fill(self, recorded: ReplayBuffer, generated: ReplayBuffer) -> None:
        """Put the transitions into two empty buffers of the right sizes; KeyError or ValueError if they do not fit."""
        for buffer, part in ((recorded, "recorded"), (generated, "generated")):
            pos, full = self.contents.record["places"][part]
            buffer.pos = whole_number(f"pos of {part}", pos, 0, buffer.buffer_size - 1)
            buffer.full = bool(whole_number(f"full of {part}", full, 0, 1))
            arrays = self.contents.under(part)
            for name in STORED:
                room, held = getattr(buffer, name)[: buffer.size()], arrays[name].numpy()
                if (held.shape, held.dtype) != (room.shape, room.dtype):
                    needed = f"where {room.dtype} of shape {room.shape} is needed"
                    raise ValueError(f"{part}.{name} is {held.dtype} of shape {held.shape}, {needed}")
                room[:] = held
        added, size = self.state.added, recorded.buffer_size
        if (recorded.pos, recorded.full) != (added % size, added >= size):
            raise ValueError(f"{added} transitions were added to {size} places, and {recorded.size()} are recorded")


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Around what reads the content of a file: whatever it trips over is a CacheError that names the file."""
    try:
        yield
    except MemoryError as error:
        raise CacheError(f"{path} holds a {KIND} for which there is too little memory ({error}); free some") from error
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CacheError(f"{path} does not hold what a {KIND} needs ({reason}); save it again") from error


def write_saved(path: Path, opened: Opened, state: State, recorded: ReplayBuffer, generated: ReplayBuffer) -> None:
    """Write a buffer; a crash at any moment leaves the old file or the new one.

    Args:
        path: the file.
        opened: what the buffer was made of.
        state: where it stands.
        recorded: its recorded transitions.
        generated: its generated ones.

    Raises:
        CacheError: the file cannot be written, or would be too large to be read again.
    """
    numbers, arrays = state.split()
    parts = {"recorded": recorded, "generated": generated}
    tensors = {f"state.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    for part, buffer in parts.items():
        tensors |= {f"{part}.{name}": torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in STORED}
    tensors |= {f"weights.{name}": value for name, value in opened.diffuser.weights.items()}
    record = {
        "kind": KIND,
        "version": VERSION,
        "source": opened.key,
        "config": opened.config.to_dict(),
        "seeds": [opened.seed, opened.model_seed],
        "buffer_size": recorded.buffer_size,
        "places": {part: [buffer.pos, int(buffer.full)] for part, buffer in parts.items()},
        "in_use": sorted(opened.diffuser.in_use),
        "state": numbers,
    }
    save_chosen(path, Checkpoint(tensors, record), limit=MAX_BYTES)


def read_saved(
    path: Path, dataset: minari.MinariDataset | str, env: gymnasium.Env[Any, Any] | VecEnv, *, device: str
) -> Saved:
    """What `write_saved` left in a file; arguments and errors as of `ATraDiffReplayBuffer.load`."""
    found = load_chosen(path, remedy=REMEDY, limit=MAX_BYTES)
    if found is None:
        raise CacheError(f"there is no file {path}; buffer.save(path) writes one")
    record = found.record
    _check_kind(path, record)
    with refusing_damage(path):
        config = ATraDiffConfig.from_dict(record["config"])
        seed, model_seed = (whole_number("seed", each, *SEEDS) for each in record["seeds"])
        buffer_size = whole_number("buffer_size", record["buffer_size"], *SIZES)
        key = record["source"]
    data = open_data(dataset, env, invalid=config.trajectories.invalid)
    if data.key != key:
        raise DatasetError(
            f"{path} was made from other data or spaces than dataset {data.dataset.id!r} has now; give the dataset it "
            "was made from"
        )
    with refusing_damage(path):
        opened = data.with_models(config, seed=seed, model_seed=model_seed, device=device)
        opened.diffuser.restore(found.under("weights"))
        opened.diffuser.in_use = set(record["in_use"])
        if not opened.diffuser.in_use <= set(config.trajectories.lengths):
            raise ValueError(f"in_use={record['in_use']}, where there are models of {config.trajectories.lengths}")
        state = State.joined(record["state"], {name: value.numpy() for name, value in found.under("state").items()})
        if len(state.waiting) and state.waiting.shape[1] != data.source.observation_codec.size:
            raise ValueError(f"states of {state.waiting.shape[1]} numbers wait")
        return Saved(opened, buffer_size, state, found)


def _check_kind(path: Path, record: dict[str, Any]) -> None:
    if record.get("kind") != KIND:
        raise CacheError(f"{path} holds no {KIND}; {REMEDY}")
    if record.get("version") != VERSION:
        raise CacheError(
            f"{path} was saved in version {record.get('version')} of its format, and this library reads version "
            f"{VERSION}; load it with the version of gta-datasets that saved it"
        )

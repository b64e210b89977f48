"""Episodes as an ordinary Minari dataset on disk.

Minari's own writer makes a chunked, resizable HDF5 dataset of every field of every episode, and holds all episodes in
memory. This one streams, writes each field contiguously in one call, and leaves what stock Minari reads.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces
from minari.serialization import serialize_space
from numpy.typing import NDArray

from gta_datasets.atomic import atomic_write, make_folders, sync_folder, write_error
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.screen import dataset_path, datasets_root
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import CacheError, ConfigError, DatasetError

__all__ = ["write_minari"]

BLOCK = 64  # episodes that are unflattened at once: enough to make its cost vanish, few enough to hold
WRITTEN_HERE = (
    "action_space",
    "data_format",
    "dataset_id",
    "dataset_size",
    "jpeg_encoding",
    "minari_version",
    "observation_space",
    "total_episodes",
    "total_steps",
)


def write_minari(
    dataset_id: str,
    parts: Iterable[Episodes],
    *,
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    metadata: Mapping[str, Any] | None = None,
    infos: Iterable[Mapping[str, Any]] | None = None,
) -> minari.MinariDataset:
    """Write the episodes of all `parts`, in order, as the new local dataset `dataset_id`, and open it with Minari.

    Values are written as they are: recorded actions outside of their space are not clipped. `metadata` are Minari's own
    (algorithm_name, author, description, env_spec, eval_env_spec, ref_min_score, ref_max_score, requirements, ...) or
    any others that JSON can hold; a specification may be an `EnvSpec` or its JSON. `infos` gives for every episode a
    mapping of names to arrays (or further mappings); without it they are empty.

    The dataset appears under its name complete or not at all, also after a power cut: it is written to a hidden folder
    in Minari's root, which is synced and renamed at the end and removed after any failure. One part and 64 unflattened
    episodes are in memory at a time.

    Raises DatasetError if the dataset exists or would lie within another, if there are no episodes, or if `infos` has
    another length; UntrustedDatasetError for an id that leaves Minari's root; ConfigError for metadata that cannot be
    written; CacheError where the files cannot be written.
    """
    target = dataset_path(dataset_id)
    _refuse_existing(dataset_id, target)
    entries = _json_entries(metadata or {}) | {
        "dataset_id": dataset_id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": minari.__version__,
        "observation_space": serialize_space(observation_codec.space),
        "action_space": serialize_space(action_codec.space),
    }
    root = datasets_root()
    work = root / f".export-{uuid.uuid4().hex}"
    try:
        data = work / "data"
        make_folders(data)
        counts = _write_episodes(data / "main_data.hdf5", parts, observation_codec, action_codec, infos)
        size = round((data / "main_data.hdf5").stat().st_size / 1e6, 1)
        atomic_write(data / "metadata.json", json.dumps(entries | counts | {"dataset_size": size}).encode())
        _sync(data / "main_data.hdf5")
        for folder in (data, work):
            sync_folder(folder)
        _create_namespace(dataset_id)
        try:
            work.rename(target)
        except OSError as error:
            _refuse_existing(dataset_id, target)  # another process was faster
            raise CacheError(error.errno, f"cannot name the dataset {target}: {error.strerror}") from error
        for folder in target.relative_to(root).parents:
            sync_folder(root / folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return minari.MinariDataset(target / "data")


def _refuse_existing(dataset_id: str, target: Path) -> None:
    root = datasets_root()
    for folder in target.relative_to(root).parents:
        if (root / folder / "data" / "metadata.json").exists():
            raise DatasetError(
                f"{dataset_id!r} would lie in the folder of the dataset {folder.as_posix()!r}; choose another name"
            )
    if target.exists():
        raise DatasetError(
            f"dataset {dataset_id!r} already exists at {target}; choose another name or version, or remove it with "
            f"minari.delete_dataset({dataset_id!r})"
        )


def _json_entries(metadata: Mapping[str, Any]) -> dict[str, Any]:
    clashes = sorted(set(metadata) & set(WRITTEN_HERE))
    if clashes:
        raise ConfigError(f"metadata must not hold {', '.join(clashes)}; the export writes these itself")
    entries = {key: _plain(value) for key, value in metadata.items()}
    for key in ("author", "author_email"):
        if isinstance(entries.get(key), str):
            entries[key] = [entries[key]]  # Minari makes a set of it, of letters if it were a string
    for key, value in entries.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metadata {key!r} cannot be written as JSON: {error}") from error
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, EnvSpec):
        return value.to_json()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _write_episodes(
    path: Path,
    parts: Iterable[Episodes],
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    infos: Iterable[Mapping[str, Any]] | None,
) -> dict[str, int]:
    """Write the HDF5 file and count what was written."""
    # HDF5 1.10 (2016) and later read this; the older format takes a quarter more space.
    with _Sink(path) as sink:
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            writer = _Writer(file, observation_codec, action_codec, infos)
            for part in parts:
                writer.add(part)
                sink.check()
                del part  # freed before the next one is made
            writer.finish()
        sink.check()
    return {"total_episodes": writer.episodes, "total_steps": writer.steps}


class _Sink(io.FileIO):
    """The file below HDF5, which kills the process when it closes a file that it could not write.

    So it is told that all is well, and the first error is kept for whoever checks.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._path, self._needed = path, 0
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        if self._error is None:
            try:
                while rest:
                    rest = rest[super().write(rest) :]
            except OSError as error:
                self._error, self._needed = error, self.tell() + len(rest)
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self._error is None else self.tell()
        except OSError as error:
            self._error = error
            return self.tell()

    def check(self) -> None:
        """Raise CacheError if not everything was written."""
        if self._error is not None:
            raise write_error(self._path, self._needed, self._error) from self._error


class _Writer:
    """Episodes in Minari's HDF5 layout, through h5py's low-level interface: its high-level one takes twice the time."""

    def __init__(
        self,
        file: Any,
        observation_codec: SpaceCodec,
        action_codec: SpaceCodec,
        infos: Iterable[Mapping[str, Any]] | None,
    ) -> None:
        self.episodes = self.steps = 0
        self._root = file.id
        self._observation_codec, self._action_codec = observation_codec, action_codec
        self._infos: Iterator[Mapping[str, Any]] = itertools.repeat({}) if infos is None else iter(infos)
        self._infos_given = infos is not None
        self._types: dict[np.dtype[Any], Any] = {}
        self._extents: dict[tuple[int, ...], Any] = {(): h5py.h5s.create(h5py.h5s.SCALAR)}

    def add(self, part: Episodes) -> None:
        for first in range(0, part.num_episodes, BLOCK):
            block = part.slice(first, min(first + BLOCK, part.num_episodes))
            observations = self._observation_codec.unflatten(block.observations, clip=False)
            actions = self._action_codec.unflatten(block.actions, clip=False)
            for index, (start, stop) in enumerate(itertools.pairwise(block.offsets.tolist())):
                info = next(self._infos, None)
                if info is None:
                    raise DatasetError(f"infos end before episode {self.episodes}; give one mapping per episode")
                fields = {
                    "observations": _rows(observations, start + index, stop + index + 1),
                    "actions": _rows(actions, start, stop),
                    "rewards": block.rewards[start:stop],
                    "terminations": block.terminations[start:stop],
                    "truncations": block.truncations[start:stop],
                    "infos": info,
                }
                self._episode(stop - start, fields)

    def finish(self) -> None:
        if self.episodes == 0:
            raise DatasetError("there are no episodes to export")
        if self._infos_given and next(self._infos, None) is not None:
            raise DatasetError(f"infos go on after the last of {self.episodes} episodes; give one mapping per episode")

    def _episode(self, steps: int, fields: Mapping[str, Any]) -> None:
        group = h5py.h5g.create(self._root, f"episode_{self.episodes}".encode())
        for name, value in (("id", self.episodes), ("total_steps", steps)):
            array = np.array(value, np.int64)
            h5py.h5a.create(group, name.encode(), self._type(array.dtype), self._extent(())).write(array)
        self._group(group, fields)
        self.episodes, self.steps = self.episodes + 1, self.steps + steps

    def _group(self, group: Any, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if not isinstance(name, str) or "/" in name or name in ("", "."):
                raise DatasetError(f"Minari cannot store the key {name!r}; rename it to a string without '/'")
            if isinstance(value, Mapping):
                self._group(h5py.h5g.create(group, name.encode()), value)
            else:
                self._array(group, name, np.asarray(value, order="C"))

    def _array(self, group: Any, name: str, array: NDArray[Any]) -> None:
        if array.dtype.kind not in "fiub":
            raise DatasetError(f"{name!r} has dtype {array.dtype}; only numbers and booleans can be exported")
        kind, extent = self._type(array.dtype), self._extent(array.shape)
        h5py.h5d.create(group, name.encode(), kind, extent).write(h5py.h5s.ALL, h5py.h5s.ALL, array)

    def _type(self, dtype: np.dtype[Any]) -> Any:
        if dtype not in self._types:
            self._types[dtype] = h5py.h5t.py_create(dtype, logical=True)
        return self._types[dtype]

    def _extent(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._extents:
            self._extents[shape] = h5py.h5s.create_simple(shape)
        return self._extents[shape]


def _rows(batch: Any, start: int, stop: int) -> Any:
    """Rows of every array of a nested batch, in Minari's layout, where tuples are groups too."""
    if isinstance(batch, dict):
        return {key: _rows(child, start, stop) for key, child in batch.items()}
    if isinstance(batch, tuple):
        return {f"_index_{index}": _rows(child, start, stop) for index, child in enumerate(batch)}
    return batch[start:stop]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _create_namespace(dataset_id: str) -> None:
    namespace = parse_dataset_id(dataset_id)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        with suppress(ValueError):  # another process made it in the meantime
            create_namespace(namespace)

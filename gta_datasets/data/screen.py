"""Checks on a dataset folder from an untrusted place, made before Minari opens it.

Minari trusts its folders: `MinariStorage.read` imports and calls whatever `env_spec` names when the metadata hold no
spaces, `recover_environment` always does, and HDF5 follows links out of the folder. These checks read `metadata.json`
and the structure of the HDF5 file, import nothing and call nothing that a dataset names. They judge the folder as it is
now; whoever can write to it later can still change it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
from minari.dataset.minari_dataset import parse_dataset_id
from minari.serialization import deserialize_space
from minari.storage.datasets_root_dir import get_dataset_path

from gta_datasets.errors import DatasetError, UntrustedDatasetError

__all__ = ["dataset_path", "screen", "screen_id"]

# Environments and wrappers only. Whole packages would admit `minari:delete_dataset` and `gymnasium:make`.
ALLOWED_PACKAGES = (
    "ale_py",
    "gymnasium.envs",
    "gymnasium.wrappers",
    "gymnasium_robotics.envs",
    "minigrid.envs",
    "minigrid.wrappers",
)

MAX_METADATA_BYTES = 16 * 2**20  # the bounds of a space with a million elements fit
MAX_SPACE_ELEMENTS = 2**24  # a scalar bound with a huge shape would otherwise fill the memory
MAX_INFLATION = 1100  # DEFLATE cannot compress by more than 1032
DTYPES = frozenset(["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))])
DTYPES |= {"float16", "float32", "float64"}
FORMATS = ("hdf5", "arrow", "parquet")
# A class in a module: factories such as `make` take module names as arguments.
ENTRY_POINT = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Z]\w*", re.ASCII)


def screen(path: str | os.PathLike[str], *, environments: bool = True) -> None:
    """Raise unless Minari can open the dataset folder `path` without running code or leaving the folder.

    `path` is the folder of one dataset, or the `data` folder in it. Its environment specifications may name what is in
    `ALLOWED_PACKAGES` or below, or anything if `environments` are not to be checked: then Minari may run it.
    UntrustedDatasetError says what was found; DatasetError if there is no readable dataset at `path`.
    """
    folder = _data_folder(Path(path))
    entries = list(_regular_entries(folder))
    metadata = _metadata(folder)
    budget = MAX_SPACE_ELEMENTS
    for key in ("observation_space", "action_space"):
        budget -= _check_space(folder, key, metadata.get(key), budget)
    for key in ("env_spec", "eval_env_spec") if environments else ():
        _check_env_spec(folder, key, metadata.get(key))
    data_format = metadata.get("data_format")
    if data_format not in FORMATS:
        raise DatasetError(f"{folder} has data_format {data_format!r}; Minari knows {', '.join(FORMATS)}")
    if data_format == "hdf5":
        episodes = _check_hdf5(folder / "main_data.hdf5")
    else:
        episodes = sum(entry.is_dir() for entry in entries if entry.parent == folder)
    for key, most in (("total_episodes", episodes), ("total_steps", 2**63 - 1)):
        count = metadata.get(key)
        if type(count) is not int or not 0 <= count <= most:
            raise UntrustedDatasetError(f"{folder} announces {key} {count!r}; it must be a whole number up to {most}")


def dataset_path(dataset_id: str) -> Path:
    """Where the dataset `dataset_id` lies or would lie; UntrustedDatasetError for an id that leaves Minari's root."""
    try:
        parse_dataset_id(dataset_id)
        parts = PurePosixPath(dataset_id).parts
        valid = "/".join(parts) == dataset_id and ".." not in parts and "\\" not in dataset_id
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise UntrustedDatasetError(
            f"dataset id {dataset_id!r} is not allowed; an id looks like 'namespace/name-v0', of letters, digits, "
            f"'-' and '_' between single slashes"
        )
    root = datasets_root()
    path = root.joinpath(*parts)
    for folder in (path, *path.parents[: len(parts) - 1]):
        if folder.is_symlink():
            raise UntrustedDatasetError(
                f"dataset {dataset_id!r} is reached through the link {folder}; put the data in its place, or point "
                f"MINARI_DATASETS_PATH at the real folder"
            )
    return path


def datasets_root() -> Path:
    """The folder of all local datasets, which is made; DatasetError if it cannot be."""
    try:
        root: Path = get_dataset_path().resolve()
    except OSError as error:
        raise DatasetError(f"cannot use the folder that MINARI_DATASETS_PATH names: {error}") from error
    return root


def screen_id(dataset_id: str, *, environments: bool = True) -> Path:
    """The folder of `dataset_id` under Minari's root, screened if it exists."""
    path = dataset_path(dataset_id)
    if path.exists():
        screen(path, environments=environments)
    return path


def _data_folder(path: Path) -> Path:
    folder = path if (path / "metadata.json").exists() else path / "data"
    if folder.is_symlink():
        raise UntrustedDatasetError(f"{folder} is a link; a dataset's files must lie in its own folder")
    if not (folder / "metadata.json").exists():
        raise DatasetError(f"{path} holds no Minari dataset: there is no data/metadata.json in it")
    return folder


def _regular_entries(folder: Path) -> Iterator[Path]:
    """Every file and folder below `folder`; links, pipes and devices are refused."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(parent, name)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise UntrustedDatasetError(f"{entry} is a link or not a regular file; copy the data in its place")
            yield entry


def _metadata(folder: Path) -> dict[str, Any]:
    file = folder / "metadata.json"
    if file.stat().st_size > MAX_METADATA_BYTES:
        raise UntrustedDatasetError(f"{file} has {file.stat().st_size} bytes; at most {MAX_METADATA_BYTES} are read")
    metadata = _parse(str(file), file.read_bytes())
    if not isinstance(metadata, dict):
        raise UntrustedDatasetError(f"{file} holds a {type(metadata).__name__}, where a JSON object is needed")
    return metadata


def _parse(where: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UntrustedDatasetError(f"{where} is not JSON that can be read: {error}") from error


def _check_space(folder: Path, key: str, text: Any, budget: int) -> int:
    """Elements of a serialised space that Minari's own parser accepts, counted before anything is allocated."""
    where = f"{folder}: {key}"
    if not isinstance(text, str):
        raise UntrustedDatasetError(
            f"{where} is missing or not a string; Minari would run the dataset's env_spec to find it out"
        )
    elements = 0
    stack = [_parse(where, text)]
    while stack:
        node = stack.pop()
        children = node.get("subspaces", []) if isinstance(node, dict) else None
        if not isinstance(children, dict | list) or str(node.get("dtype", "int8")) not in DTYPES:
            raise UntrustedDatasetError(
                f"{where} has a part that is no space, or has an unknown dtype: {str(node)[:80]}"
            )
        elements += _elements(where, node)
        if elements > budget:
            raise UntrustedDatasetError(f"{where} has more than {MAX_SPACE_ELEMENTS} elements")
        stack.extend(children.values() if isinstance(children, dict) else children)
    try:
        deserialize_space(text)
    except Exception as error:
        raise UntrustedDatasetError(f"{where} is no space that Minari can read: {error!r}") from error
    return elements


def _elements(where: str, node: dict[str, Any]) -> int:
    size = node.get("shape", node.get("n") if node.get("type") == "MultiBinary" else 1)
    shape = size if isinstance(size, list) else [size]
    if not all(type(length) is int and length >= 0 for length in shape):
        raise UntrustedDatasetError(f"{where} has the shape {str(size)[:80]}; sizes must be whole numbers")
    return math.prod(shape)


def _check_env_spec(folder: Path, key: str, text: Any) -> None:
    if text is None:
        return
    where = f"{folder}: {key}"
    if not isinstance(text, str):
        raise UntrustedDatasetError(f"{where} is a {type(text).__name__}, where a string of JSON is needed")
    minari_reads = text.replace('"order_enforce": true,', "").replace('"apply_api_compatibility": false,', "")
    for variant in {text, minari_reads.replace('"autoreset": false, ', "")}:
        spec = _parse(where, variant)
        wrappers = spec.get("additional_wrappers", []) if isinstance(spec, dict) else None
        if not isinstance(wrappers, list) or not all(isinstance(wrapper, dict) for wrapper in wrappers):
            raise UntrustedDatasetError(f"{where} is not an environment specification")
        for part in (spec, *wrappers):
            for name in (part.get("entry_point"), part.get("vector_entry_point")):
                _check_entry_point(where, name)
            _check_arguments(where, part.get("kwargs"))


def _check_entry_point(where: str, name: Any) -> None:
    if name is None:
        return
    match = ENTRY_POINT.fullmatch(name) if isinstance(name, str) else None
    module = match["module"] if match else ""
    if not any(module == package or module.startswith(f"{package}.") for package in ALLOWED_PACKAGES):
        raise UntrustedDatasetError(
            f"{where} would run {name!r}; allowed are classes ('module:Class') from {', '.join(ALLOWED_PACKAGES)}. If "
            f"you trust the dataset, give what minari.load_dataset returns in the place of its id, in a shell --trust"
        )


def _check_arguments(where: str, arguments: Any) -> None:
    """Arguments of an environment must not be paths out of its package or names of modules to import."""
    stack = [arguments]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack.extend((*value.keys(), *value.values()))
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, str) and (value.startswith(("/", "~", ".")) or re.search(r"[\\:]|\.\.", value)):
            raise UntrustedDatasetError(f"{where} has the argument {value!r}, which is a path or a module to import")


def _check_hdf5(file: Path) -> int:
    """The number of episodes in an HDF5 file whose data all lie in the file and are not far larger than it."""
    if not file.exists():
        raise DatasetError(f"{file} is missing")
    try:
        with h5py.File(file, "r") as opened:
            root = h5py.h5g.open(opened.id, b"/")
            logical_bytes = sum(_dataset_bytes(file, root))
            episodes = len(opened)
    except OSError as error:
        raise DatasetError(f"{file} is no readable HDF5 file: {error}") from error
    if logical_bytes > 2**20 + MAX_INFLATION * file.stat().st_size:
        raise UntrustedDatasetError(f"{file} announces {logical_bytes} bytes of data, far more than it can hold")
    return episodes


def _dataset_bytes(file: Path, root: Any) -> Iterator[int]:
    stack, visited = [root], set()
    while stack:
        group = stack.pop()
        links: list[tuple[bytes, int]] = []
        group.links.iterate(lambda name, info, links=links: links.append((name, info.type)), info=True)
        for name, kind in links:
            if kind != h5py.h5l.TYPE_HARD:
                raise UntrustedDatasetError(f"{file}: {name.decode(errors='replace')!r} is a soft or external link")
            item = h5py.h5o.open(group, name)
            if isinstance(item, h5py.h5g.GroupID):
                address = h5py.h5o.get_info(item).addr
                if address not in visited:
                    visited.add(address)
                    stack.append(item)
            elif isinstance(item, h5py.h5d.DatasetID):
                storage = item.get_create_plist()
                if storage.get_layout() == h5py.h5d.VIRTUAL or storage.get_external_count():
                    raise UntrustedDatasetError(
                        f"{file}: {name.decode(errors='replace')!r} keeps its data in other files"
                    )
                yield item.get_space().get_simple_extent_npoints() * item.get_type().get_size()

"""Real and generated transitions for TorchRL (https://docs.pytorch.org/rl): a replay buffer, and a TensorDict."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any, NoReturn

import minari
import numpy as np
import torch
from numpy.typing import ArrayLike

from gta_datasets.adapters.corpus import Corpus
from gta_datasets.adapters.indexing import resolve
from gta_datasets.adapters.mixing import Fraction, Mixture
from gta_datasets.adapters.torchrl_layout import Layout
from gta_datasets.atomic import make_folders
from gta_datasets.config.fields import whole_number
from gta_datasets.data.normalize import chunks
from gta_datasets.device import torch_device
from gta_datasets.errors import CacheError, ConfigError, requires_extra

with requires_extra("torchrl", "torchrl", "the adapter needs"):
    from tensordict import TensorDict
    from torchrl.data.replay_buffers import ImmutableDatasetWriter, Sampler, Storage, TensorDictReplayBuffer

__all__ = ["to_tensordict", "to_torchrl"]

CHUNK = 1 << 14  # transitions copied at once
READ_ONLY = (
    "the buffer is a view on a dataset and cannot be written to; make a TorchRL buffer of your own for online data, "
    "and combine both in a ReplayBufferEnsemble"
)


def to_torchrl(
    dataset: minari.MinariDataset,
    *,
    batch_size: int | None = 256,
    real_fraction: Fraction | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
    device: torch.device | str | None = "cpu",
) -> TensorDictReplayBuffer:
    """A TorchRL replay buffer on the dataset's own arrays; what is missing in the cache is generated now.

    Samples have the keys, shapes and dtypes that TorchRL's `GymEnv` gives in a rollout of the same environment (rewards
    are float32, discrete actions one-hot), and also "episode", the number of the trajectory, and "generated". At the
    root "done", "terminated" and "truncated" are always False; below "next" a trajectory that ends without termination
    is truncated. Transitions are gathered when they are sampled or indexed; the buffer is read-only.

    Args:
        dataset: an augmented dataset, or any other Minari dataset.
        batch_size: of `sample()`; None to give it to every `sample(batch_size)`.
        real_fraction: share of real data in every batch, in [0, 1], or a function of the number of batches drawn so far
            (`gta_datasets.adapters.linear_schedule`); None draws from all transitions alike.
        weights: how much more likely each transition is drawn than others, (N,), the real ones first.
        seed: of the draws.
        device: where samples go; None leaves them on the CPU without a device of their own.

    Raises:
        MissingExtraError: torchrl is not installed.
        ConfigError: an option that is not allowed.
        DatasetError: the dataset breaks Minari's contract or is empty.
        UnsupportedSpaceError: a key of its spaces has another meaning in TorchRL's layout.
        CacheError: the cache cannot be read or written.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    device = None if device is None else torch_device(device)
    corpus = Corpus(dataset)
    layout = Layout(corpus)
    mixture = Mixture(corpus.num_real, corpus.num_generated, real_fraction=real_fraction, weights=weights, seed=seed)
    corpus.open()
    return TensorDictReplayBuffer(
        storage=_CorpusStorage(layout, device),
        sampler=_MixtureSampler(mixture),
        writer=_NoWriter(),
        collate_fn=_as_it_is,
        batch_size=batch_size,
    )


def to_tensordict(dataset: minari.MinariDataset, folder: str | Path | None = None) -> TensorDict:
    """All transitions in one TensorDict, in the layout of `to_torchrl` and in the order of the episodes.

    It is a copy, for what needs tensors of its own, such as `SliceSampler` on a `TensorStorage`.

    Args:
        dataset: an augmented dataset, or any other Minari dataset; what is missing in the cache is generated now.
        folder: a new folder for memory-mapped tensors, which appears when it is complete and which
            `TensorDict.load_memmap` opens again; None keeps the tensors in memory.

    Raises:
        MissingExtraError: torchrl is not installed.
        ConfigError: `folder` exists.
        DatasetError: the dataset breaks Minari's contract or is empty.
        UnsupportedSpaceError: a key of its spaces has another meaning in TorchRL's layout.
        CacheError: the cache cannot be read or written, or there is no space for the folder.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    target = None if folder is None else Path(folder)
    if target is not None:
        if target.exists():
            raise ConfigError(
                f"folder={str(target)!r} exists; choose a new one, or open it with TensorDict.load_memmap()"
            )
        make_folders(target.parent)  # before what is to lie in it is generated
    layout = Layout(Corpus(dataset))
    everything = layout.read(np.zeros(1, np.int64)).expand(len(layout))
    if target is None:
        return _fill(everything.contiguous(), layout)
    _check_space(everything, target)
    work = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
    try:
        _fill(everything.memmap_like(prefix=str(work)), layout)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TensorDict.load_memmap(target)


def _fill(everything: TensorDict, layout: Layout) -> TensorDict:
    """Copy all transitions into tensors that are there already, a chunk at a time."""
    for part in chunks(len(layout), CHUNK):
        everything[part].update_(layout.read(np.arange(part.start, part.stop)))
    return everything


def _check_space(everything: TensorDict, target: Path) -> None:
    """Writing to a memory-mapped file on a full disk would kill the process."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in everything.values(True, True))
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise CacheError(f"{target} needs {needed:,} bytes and {free:,} are free there; choose another folder")


class _CorpusStorage(Storage):  # type: ignore[misc]
    """TorchRL's storage interface over the arrays of a dataset."""

    def __init__(self, layout: Layout, device: torch.device | str | None) -> None:
        super().__init__(len(layout))
        # Not `device`: TorchRL would then move indices there, which are needed on the CPU.
        self._layout, self._target = layout, device

    def get(self, index: Any) -> TensorDict:
        numbers = resolve(index, len(self))
        found = self._layout.read(numbers.reshape(-1), self._target)
        return found if numbers.ndim == 1 else found.reshape(numbers.shape)

    def set(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(READ_ONLY)

    def __len__(self) -> int:
        return len(self._layout)

    def contains(self, item: Any) -> bool | torch.Tensor:
        numbers = torch.as_tensor(item)
        inside = (numbers >= -len(self)) & (numbers < len(self))
        return inside if inside.ndim else bool(inside)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the dataset keeps the data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def _empty(self) -> NoReturn:
        raise RuntimeError(READ_ONLY)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} transitions)"


class _MixtureSampler(Sampler):  # type: ignore[misc]
    """TorchRL's sampler interface over a `Mixture`."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def sample(self, _storage: Storage, batch_size: int) -> tuple[torch.Tensor, dict[str, Any]]:
        return torch.from_numpy(self._mixture.draw(batch_size)), {}

    def _empty(self) -> None: ...

    def dumps(self, path: Any) -> None: ...

    def loads(self, path: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class _NoWriter(ImmutableDatasetWriter):  # type: ignore[misc]
    WRITING_ERR = READ_ONLY


def _as_it_is(batch: TensorDict) -> TensorDict:
    return batch

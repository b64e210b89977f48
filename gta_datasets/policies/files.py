"""Saved policies: one safetensors file, weights and settings together; reading runs no code.

d3rlpy's own `save` and `load_learnable` work too, but pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gta_datasets.errors import CacheError, ConfigError, requires_extra
from gta_datasets.policies.actor import VERSION, check_version
from gta_datasets.policies.gtp import GTP, GTPBC
from gta_datasets.training.checkpoint import Checkpoint, load_chosen, save_chosen

with requires_extra("d3rlpy", "d3rlpy", "gta_datasets.policies needs"):
    from d3rlpy.base import LearnableConfigWithShape

if TYPE_CHECKING:
    from d3rlpy.base import DeviceArg

__all__ = ["load_policy", "save_policy"]

KIND = "gta_datasets policy"
REMEDY = "give a file that save_policy wrote"


def save_policy(algorithm: GTP | GTPBC, path: Path | str) -> None:
    """Write networks, settings and fitted scalers to the file `path`; a crash leaves the old file or the new one.

    Optimisers are not saved: training that goes on after `load_policy` starts them anew.

    Raises:
        ConfigError: the algorithm has not been fitted or built.
        CacheError: the file cannot be written.
    """
    impl = algorithm.impl
    if impl is None:
        raise ConfigError("there is nothing to save before fit() or create_impl() made the networks; call one of them")
    settings = LearnableConfigWithShape(impl.observation_shape, impl.action_size, algorithm.config)
    record = {"kind": KIND, "version": VERSION, "settings": json.loads(settings.serialize())}
    tensors = {
        f"{name}.{key}": tensor
        for name, module in impl.modules.get_torch_modules().items()
        for key, tensor in module.state_dict().items()
    }
    save_chosen(path, Checkpoint(tensors, record))


def load_policy(path: Path | str, device: DeviceArg = None) -> GTP | GTPBC:
    """The algorithm that `save_policy` wrote, ready to predict or to go on training.

    Args:
        path: the file.
        device: as in `create`.

    Raises:
        CacheError: there is no such file, it is no policy or damaged, or it was saved by a release that acts otherwise.
    """
    found = load_chosen(path, remedy=REMEDY)
    if found is None:
        raise CacheError(f"there is no policy at {path}")
    if found.record.get("kind") != KIND:
        raise CacheError(f"{path} is a file of this library, but not a policy; {REMEDY}")
    check_version(found.record.get("version"))
    try:
        return _restored(found, device)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CacheError(f"{path} does not hold a whole policy ({reason}); train again") from error


def _restored(found: Checkpoint, device: DeviceArg) -> GTP | GTPBC:
    settings = LearnableConfigWithShape.deserialize_from_dict(found.record["settings"])
    algorithm = settings.create(device)
    if not isinstance(algorithm, GTP | GTPBC) or algorithm.impl is None:
        raise ValueError(f"it holds settings of {type(algorithm).__name__}")
    for name, module in algorithm.impl.modules.get_torch_modules().items():
        module.load_state_dict(found.under(name))
    return algorithm

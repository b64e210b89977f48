"""Flat vectors of a dataset as the observations and actions that Stable-Baselines3 keeps in its replay buffers."""

from __future__ import annotations

from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from gta_datasets.data.spaces import Leaf, SpaceCodec
from gta_datasets.errors import ConfigError, requires_extra

with requires_extra("sb3", "stable-baselines3", "the adapter needs"):
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["STORED", "Array", "Layout", "Observations", "check_spaces"]

Array = NDArray[Any]
Observations = Array | dict[str, Array]

STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""The arrays of Stable-Baselines3's replay buffers."""


class Layout:
    """How Stable-Baselines3 sees the flat vectors of a dataset whose spaces `check_spaces` let pass.

    Observations have the dtype of their space; those of a Dict stay apart. Continuous actions are scaled to [-1, 1] as
    `policy.scale_action` does, and Discrete ones are indices.

    Args:
        observation_space: of the dataset.
        action_space: that of the environment, whose bounds the policy scales by.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.is_dict = isinstance(observation_space, spaces.Dict)
        self._parts = {leaf.keys: _Part(leaf) for leaf in SpaceCodec.of(observation_space).leaves}
        if isinstance(action_space, spaces.Box):
            self._low = action_space.low.reshape(-1)
            self._range = (action_space.high - action_space.low).reshape(-1)
            self._is_two_wide = bool((self._range == 2).all())

    def observations(self, flat: Array) -> Observations:
        """`flat (B, obs_dim)` as an array `(B, *shape)`, or a dict of such arrays; views where possible."""
        if self.is_dict:
            return {str(key): part.read(flat) for (key,), part in self._parts.items()}
        return self._parts[()].read(flat)

    def actions(self, flat: Array) -> Array:
        """`flat (B, act_dim)` as `(B, A)`, scaled; indices `(B, 1)` of discrete actions."""
        if isinstance(self.action_space, spaces.Box):
            # The operations and the precision of policy.scale_action.
            scaled: Array = flat.astype(self.action_space.dtype, copy=False) - self._low
            if not self._is_two_wide:  # dividing by 2 and multiplying by it again changes no digit
                scaled /= self._range
                scaled *= 2.0
            scaled -= 1.0
            return scaled.astype(np.float32) if scaled.dtype == np.float64 else scaled
        indices: Array = flat.argmax(axis=1, keepdims=True)
        return indices


class _Part:
    """One elementary observation space and its columns."""

    def __init__(self, leaf: Leaf) -> None:
        self._columns, self._dtype = slice(leaf.start, leaf.stop), np.dtype(leaf.space.dtype)
        self._shape = leaf.space.shape or (1,)  # of a Discrete space: SB3 keeps one number
        is_choice = isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete)
        self._codec = SpaceCodec.of(leaf.space) if is_choice else None

    def read(self, flat: Array) -> Array:
        """Its values `(B, *shape)` from `flat (B, obs_dim)`."""
        values = flat[:, self._columns]
        if self._codec is not None:
            values = self._codec.unflatten(values)
        # Data of a dataset lie in their space, so nothing has to be rounded.
        return values.astype(self._dtype, copy=False).reshape(len(flat), *self._shape)


def check_spaces(
    dataset: minari.MinariDataset,
    env: gymnasium.Env[Any, Any] | VecEnv | None,
    *,
    flat: bool = False,
    optional: bool = True,
) -> None:
    """Raise ConfigError if `env` has other spaces than the dataset, or SB3's off-policy algorithms lack such spaces.

    Args:
        dataset: the dataset.
        env: the environment; None for no comparison.
        flat: the environment has to give the dataset's observations as gymnasium.wrappers.FlattenObservation does.
        optional: whether the advice may be to give no environment.
    """
    or_none = ", or None" if optional else ""
    observation_space = spaces.flatten_space(dataset.observation_space) if flat else dataset.observation_space
    of_dataset = {"observation space": observation_space, "action space": dataset.action_space}
    if env is not None:
        if not isinstance(env, gymnasium.Env | VecEnv):
            raise ConfigError(
                f"env is of type {type(env).__name__}; give a gymnasium.Env or a VecEnv of Stable-Baselines3{or_none}"
            )
        of_env = (env.observation_space, env.action_space)
        for (name, recorded), given in zip(of_dataset.items(), of_env, strict=True):
            difference = _difference(given, recorded, name)
            if difference is not None:
                remedy = "in gymnasium.wrappers.FlattenObservation" if flat else "(dataset.recover_environment())"
                raise ConfigError(
                    f"the environment does not fit dataset {dataset.id!r}: {difference}; give the environment that was "
                    f"recorded {remedy}{or_none}"
                )
    problem = _observation_problem(observation_space) or _action_problem(dataset.action_space)
    if problem is not None:
        raise ConfigError(f"dataset {dataset.id!r} has {problem}; rebuild it with other spaces, or use another adapter")


def _difference(given: Space[Any], recorded: Space[Any], where: str) -> str | None:
    if given == recorded:
        return None
    if isinstance(given, spaces.Dict) and isinstance(recorded, spaces.Dict) and given.keys() == recorded.keys():
        found = (_difference(given[key], recorded[key], f"{where}/{key}") for key in given)
        return next((difference for difference in found if difference is not None), None)
    if (
        isinstance(given, spaces.Box)
        and isinstance(recorded, spaces.Box)
        and (given.shape, given.dtype) == (recorded.shape, recorded.dtype)
    ):
        place = int(np.flatnonzero((given.low != recorded.low) | (given.high != recorded.high))[0])
        bounds = [f"[{box.low.flat[place]}, {box.high.flat[place]}]" for box in (given, recorded)]
        return f"the {where} has the bounds {bounds[0]} in element {place} instead of {bounds[1]}"
    return f"the {where} is {given} instead of {recorded}"


def _observation_problem(space: Space[Any]) -> str | None:
    """What SB3 cannot read in an observation space, if anything."""
    children = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, child in children.items():
        where = f" under {key!r}" if key else ""
        if isinstance(child, spaces.Dict | spaces.Tuple):
            kind = "nested observations" if key else "observations in a Tuple"
            return f"{kind}{where} ({child}), which Stable-Baselines3 does not have"
        if isinstance(child, spaces.Box) and child.shape == ():
            return f"observations of shape (){where}, which Stable-Baselines3 does not have"
        if np.any(getattr(child, "start", 0)):
            return f"observations{where} in {child}; Stable-Baselines3 counts from 0"
        if isinstance(child, spaces.MultiDiscrete) and len(child.shape) != 1:
            return f"observations{where} in {child}; Stable-Baselines3 takes one axis"
    return None


def _action_problem(space: Space[Any]) -> str | None:
    """What SB3's off-policy algorithms cannot do with an action space, if anything."""
    if isinstance(space, spaces.Box):
        if space.dtype.kind != "f":
            return f"actions of {space.dtype}, which Stable-Baselines3 cannot scale"
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
            return f"actions in {space}, and Stable-Baselines3 scales them by bounds that are finite and apart"
    elif isinstance(space, spaces.Discrete):
        if space.start != 0:
            return f"actions in {space}; Stable-Baselines3 counts from 0"
    else:
        return f"actions in {space}, and the off-policy algorithms of Stable-Baselines3 have only Box and Discrete ones"
    return None

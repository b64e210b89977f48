"""Real and generated episodes in d3rlpy's form, made when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gta_datasets.adapters.corpus import Corpus, ReturnToGo
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import ConfigError, requires_extra

with requires_extra("d3rlpy", "d3rlpy", "the adapter needs"):
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import (
        BasicTrajectorySlicer,
        DatasetInfo,
        Episode,
        EpisodeBase,
        PartialTrajectory,
        Signature,
    )

__all__ = ["EpisodeSequence", "Layout", "PlacedEpisode", "PlacedTrajectorySlicer"]

FLOAT = np.dtype(np.float32)


class Layout:
    """How d3rlpy sees the flat vectors of a dataset.

    A Dict observation with the keys "observation" and "desired_goal" becomes these two, one after the other, as in
    d3rlpy's own loader, or a tuple of them; any other observation is the flat vector. Discrete actions are indices.

    Raises:
        ConfigError: a tuple is asked for where there is no goal, or d3rlpy has no such actions.
    """

    def __init__(self, corpus: Corpus, *, tuple_observation: bool) -> None:
        blocks = _goal_blocks(corpus.observation_codec)
        if tuple_observation and blocks is None:
            raise ConfigError(
                "tuple_observation=True needs a Dict observation with the keys 'observation' and 'desired_goal'; this "
                f"dataset has {corpus.dataset.observation_space}"
            )
        self.is_tuple = tuple_observation
        self._blocks = blocks if tuple_observation else [np.concatenate(blocks)] if blocks else None
        sizes = [len(block) for block in self._blocks] if self._blocks else [corpus.observation_codec.size]
        self.is_discrete, action_size = _action_kind(corpus.action_codec)
        self.info = DatasetInfo(
            observation_signature=Signature([FLOAT] * len(sizes), [(size,) for size in sizes]),
            action_signature=(
                Signature([np.dtype(np.int64)], [(1,)]) if self.is_discrete else Signature([FLOAT], [(action_size,)])
            ),
            reward_signature=Signature([FLOAT], [(1,)]),
            action_space=ActionSpace.DISCRETE if self.is_discrete else ActionSpace.CONTINUOUS,
            action_size=action_size,
        )

    def observations(self, flat: NDArray[Any], *, nothing: NDArray[np.bool_] | None = None) -> Any:
        """`flat (..., obs_dim)` as float32, `(..., D)`, or a tuple of such arrays; zeros where `nothing` is there."""
        parts = (
            [flat.astype(np.float32)]
            if self._blocks is None
            else [flat[..., block].astype(np.float32) for block in self._blocks]
        )
        if nothing is not None and nothing.any():
            for part in parts:
                part[nothing] = 0
        return tuple(parts) if self.is_tuple else parts[0]

    def actions(self, flat: NDArray[Any]) -> NDArray[np.float32]:
        """`flat (..., act_dim)` as float32, `(..., A)`; indices, `(..., 1)`, of discrete actions."""
        if self.is_discrete:
            flat = flat.argmax(axis=-1)[..., None]
        return flat.astype(np.float32)

    def actions_of_episode(self, flat: NDArray[Any]) -> NDArray[Any]:
        """As `actions`, but indices are integers, by which d3rlpy tells discrete actions from continuous ones."""
        actions = self.actions(flat)
        return actions.astype(np.int64) if self.is_discrete else actions


@dataclasses.dataclass(frozen=True)
class PlacedEpisode(Episode):
    """An episode of d3rlpy that knows where in the environment's episode it lies.

    d3rlpy has no place for the observation after the last action of an episode that was cut, and drops that action.
    Such an episode therefore ends in a step that only holds this observation: action 0, reward 0, never sampled.
    """

    first_timestep: int = 0  # steps since the start of the environment's episode
    return_shift: float = 0.0  # return-to-go at the first step beyond the sum of the episode's own rewards


class PlacedTrajectorySlicer(BasicTrajectorySlicer):
    """d3rlpy's slicer, with timesteps and returns-to-go of generated trajectories counted from their source episode."""

    def __call__(self, episode: EpisodeBase, end_index: int, size: int) -> PartialTrajectory:
        if not isinstance(episode, PlacedEpisode):
            return super().__call__(episode, end_index, size)
        # Who fits scalers asks for whole episodes, with the step that is no step.
        beyond = max(0, end_index - (episode.transition_count - 1))
        found = super().__call__(episode, end_index - beyond, size - beyond)
        return dataclasses.replace(
            found,
            timesteps=found.timesteps + (episode.first_timestep * found.masks).astype(found.timesteps.dtype),
            returns_to_go=found.returns_to_go + np.float32(episode.return_shift) * found.masks[:, None],
        )


class EpisodeSequence(Sequence[PlacedEpisode]):
    """All episodes, the real ones first; each is made anew when it is asked for."""

    def __init__(self, corpus: Corpus, layout: Layout, return_to_go: ReturnToGo) -> None:
        self._corpus, self._layout, self._return_to_go = corpus, layout, return_to_go

    @cached_property
    def _return_shift(self) -> NDArray[np.float64]:
        return self._corpus.start_returns(self._return_to_go) - self._corpus.episode_returns

    def __len__(self) -> int:
        return self._corpus.episodes.num_episodes

    @overload
    def __getitem__(self, index: int) -> PlacedEpisode: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlacedEpisode]: ...

    def __getitem__(self, index: int | slice) -> PlacedEpisode | list[PlacedEpisode]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        number = range(len(self))[index]
        episode = self._corpus.episodes.episode(number)
        terminated = bool(episode.terminations[-1])
        observations, rewards = episode.observations, episode.rewards[:, None].astype(np.float32)
        actions = self._layout.actions_of_episode(episode.actions)
        if terminated:
            observations = observations[:-1]
        else:
            actions = np.concatenate([actions, np.zeros_like(actions[:1])])
            rewards = np.concatenate([rewards, np.zeros_like(rewards[:1])])
        return PlacedEpisode(
            observations=self._layout.observations(observations),
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            first_timestep=int(self._corpus.first_timestep[number]),
            return_shift=float(self._return_shift[number]),
        )

    def locate(self, transition: int) -> tuple[PlacedEpisode, int]:
        """The episode of a transition, numbered over all episodes, and its place there."""
        places = self._corpus.episodes.locate(np.array([transition]))
        return self[int(places.episode[0])], int(places.step[0])


def _goal_blocks(codec: SpaceCodec) -> list[NDArray[np.int64]] | None:
    """Columns of the observation and of the goal, or None if there is no goal."""
    space = codec.space
    if not isinstance(space, spaces.Dict) or not {"observation", "desired_goal"} <= space.spaces.keys():
        return None
    return [
        np.concatenate([np.arange(leaf.start, leaf.stop) for leaf in codec.leaves if leaf.keys[0] == key])
        for key in ("observation", "desired_goal")
    ]


def _action_kind(codec: SpaceCodec) -> tuple[bool, int]:
    """Whether actions are discrete, and their dimension or number."""
    space = codec.space
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return True, int(space.n)
    if isinstance(space, spaces.Box):
        return False, codec.size
    raise ConfigError(f"d3rlpy has no actions such as {space}; it knows Box and Discrete with start 0")

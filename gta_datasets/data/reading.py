"""Minari datasets as `Episodes`: read once, episode by episode, checked on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import minari
import numpy as np
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import ConfigError, DatasetError

__all__ = ["Source", "holds_generated", "read_episodes"]


@dataclass(frozen=True)
class Source:
    """What was read from a dataset, with how to turn it back into Minari's form."""

    episodes: Episodes
    observation_codec: SpaceCodec
    action_codec: SpaceCodec
    episode_ids: NDArray[np.int64]  # (E,) the dataset's own numbers of the episodes
    dropped: tuple[str, ...]  # one sentence per episode that was left out
    augmented: bool = False  # whether generated episodes are among them, most of which end where their window does

    @property
    def identity(self) -> Mapping[str, Any]:
        """What was read and of which spaces, for the cache key; neither the dataset's name nor what was left out."""
        return {
            "source": self.episodes.arrays(),
            "spaces": [self.observation_codec.identity, self.action_codec.identity],
        }

    def within_spaces(self, episodes: Episodes) -> Episodes:
        """`episodes` with the nearest observations and actions that lie in the dataset's spaces."""
        return dataclasses.replace(
            episodes,
            observations=self.observation_codec.project(episodes.observations),
            actions=self.action_codec.project(episodes.actions),
        )


def read_episodes(
    dataset: minari.MinariDataset,
    *,
    invalid: Literal["error", "drop"] = "error",
    remedy: str = 'pass invalid="drop" (in a shell --set invalid=drop) to leave it out',
) -> Source:
    """Read every episode of `dataset` into contiguous arrays; the dataset is not modified.

    An episode is invalid if it has no steps, if its fields disagree in length, if it does not hold one observation
    more than steps, if a termination or truncation comes before its last step, or if any number in it is not finite.
    Invalid episodes raise a DatasetError that names the episode, the field, the step and the `remedy` that the caller
    has; with `invalid="drop"` they are left out and named in `Source.dropped`. An episode whose last step has no flag
    was cut, and counts as truncated; one that is both terminated and truncated counts as terminated. Actions outside of
    their space stay as recorded.

    Observations and actions take the codecs' dtypes; rewards are float32, or float64 if they were recorded so or as
    integers of 32 bits or more. Raises UnsupportedSpaceError for spaces without a float form, and DatasetError if no
    episode is left or Minari cannot read the file.
    """
    if invalid not in ("error", "drop"):
        raise ConfigError(f'invalid={invalid!r} is not known; choose "error" or "drop"')
    observation_codec = SpaceCodec.of(dataset.observation_space, name="observation")
    action_codec = SpaceCodec.of(dataset.action_space, name="action")
    if dataset.total_episodes == 0:
        raise DatasetError(f"dataset {dataset.id!r} has no episodes; if it was filtered, loosen the filter")
    columns = _allocate(dataset, observation_codec, action_codec)
    dropped = []
    for episode in _episodes(dataset):
        try:
            columns.add(episode)
        except DatasetError as problem:
            sentence = f"dataset {dataset.id!r}, episode {int(episode.id)}: {problem}"
            if invalid == "error":
                raise DatasetError(f"{sentence}; repair the dataset, or {remedy}") from None
            dropped.append(sentence)
    if not columns.ids:
        raise DatasetError(
            f"none of the {len(dropped)} episodes of dataset {dataset.id!r} can be used; the first: {dropped[0]}"
        )
    return Source(
        columns.finish(),
        observation_codec,
        action_codec,
        np.array(columns.ids, np.int64),
        tuple(dropped),
        augmented=holds_generated(dataset),
    )


def holds_generated(dataset: minari.MinariDataset) -> bool:
    """Whether this library generated some of the episodes: it is augmented, part of an augmented one, or an export."""
    return "gta_datasets" in dataset.storage.metadata


class _Columns:
    """The arrays being filled. They are sized once when the dataset announces its size truly, and grow otherwise."""

    def __init__(self, observation_codec: SpaceCodec, action_codec: SpaceCodec, steps: int, episodes: int) -> None:
        self._observation_codec = observation_codec
        self._action_codec = action_codec
        self._observations = np.empty((steps + episodes, observation_codec.size), observation_codec.dtype)
        self._actions = np.empty((steps, action_codec.size), action_codec.dtype)
        self._rewards: NDArray[Any] = np.zeros(steps, np.float32)
        self._terminations = np.empty(steps, np.bool_)
        self._truncations = np.empty(steps, np.bool_)
        self._offsets = [0]
        self.ids: list[int] = []

    def add(self, episode: minari.EpisodeData) -> None:
        """Check and append one episode; nothing is appended if it raises DatasetError."""
        rewards, terminations, truncations = _step_fields(episode)
        start, stop = self._offsets[-1], self._offsets[-1] + len(rewards)
        first_row = start + len(self.ids)
        last_row = stop + len(self.ids) + 1
        self._reserve(stop, last_row, rewards.dtype)
        _check_counts(self._observation_codec, self._action_codec, episode)
        _encode(self._observation_codec, episode.observations, self._observations[first_row:last_row])
        _encode(self._action_codec, episode.actions, self._actions[start:stop])
        self._rewards[start:stop] = rewards
        self._terminations[start:stop] = terminations
        self._truncations[start:stop] = truncations
        self._truncations[stop - 1] = not terminations[-1]
        self._offsets.append(stop)
        self.ids.append(int(episode.id))

    def finish(self) -> Episodes:
        steps, rows = self._offsets[-1], self._offsets[-1] + len(self.ids)
        self._resize(steps, rows)
        return Episodes(
            observations=self._observations,
            actions=self._actions,
            rewards=self._rewards,
            terminations=self._terminations,
            truncations=self._truncations,
            offsets=np.array(self._offsets, np.int64),
        )

    def _reserve(self, steps: int, rows: int, reward_dtype: np.dtype[Any]) -> None:
        self._rewards = self._rewards.astype(np.result_type(self._rewards, reward_dtype), copy=False)
        if steps > len(self._actions) or rows > len(self._observations):
            self._resize(max(steps, 2 * len(self._actions)), max(rows, 2 * len(self._observations)))

    def _resize(self, steps: int, rows: int) -> None:
        # In place, where a slice or a copy would hold the memory twice. No view of these arrays outlives `add`.
        self._observations.resize((rows, self._observation_codec.size), refcheck=False)
        self._actions.resize((steps, self._action_codec.size), refcheck=False)
        for column in (self._rewards, self._terminations, self._truncations):
            column.resize(steps, refcheck=False)


def _allocate(dataset: minari.MinariDataset, observation_codec: SpaceCodec, action_codec: SpaceCodec) -> _Columns:
    """Columns of the size that the dataset's metadata announce."""
    steps, episodes = max(dataset.total_steps, 0), dataset.total_episodes
    try:
        return _Columns(observation_codec, action_codec, steps, episodes)
    except (MemoryError, ValueError) as error:
        raise DatasetError(
            f"dataset {dataset.id!r} announces {steps} steps in {episodes} episodes, more than memory can hold; "
            f"filter it with filter_episodes, or repair its metadata if they are wrong"
        ) from error


def _episodes(dataset: minari.MinariDataset) -> Iterator[minari.EpisodeData]:
    """The dataset's episodes; what Minari cannot read is a DatasetError that names the place."""
    position = 0
    try:
        for episode in dataset.iterate_episodes():
            yield episode
            position += 1
    except (KeyError, OSError, ValueError, AssertionError) as error:
        number = int(dataset.episode_indices[position])
        raise DatasetError(
            f"dataset {dataset.id!r}, episode {number}: Minari cannot read it ({type(error).__name__}: {error}); "
            f"the file is damaged or does not match the dataset's spaces"
        ) from error


def _step_fields(episode: minari.EpisodeData) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Rewards, terminations and truncations, (T,) each, checked."""
    fields = {name: np.asarray(getattr(episode, name)) for name in ("rewards", "terminations", "truncations")}
    rewards = fields["rewards"]
    if rewards.size == 0:
        raise DatasetError("it has no steps")
    for name, values in fields.items():
        if values.shape != (rewards.size,):
            raise DatasetError(f"{name} have shape {values.shape} where ({rewards.size},) is needed")
        if values.dtype.kind not in "fiub":
            raise DatasetError(f"{name} have dtype {values.dtype} where numbers are needed")
        _check_finite(values[:, None], [name].__getitem__)
    flags = {name: fields[name].astype(np.bool_) for name in ("terminations", "truncations")}
    for name, values in flags.items():
        if values[:-1].any():
            raise DatasetError(f"{name} are set at step {values.argmax()} of {len(values)}, before the last one")
    return rewards, flags["terminations"], flags["truncations"]


def _check_counts(observation_codec: SpaceCodec, action_codec: SpaceCodec, episode: minari.EpisodeData) -> None:
    steps = len(episode.rewards)
    actions, observations = action_codec.count(episode.actions), observation_codec.count(episode.observations)
    if actions != steps:
        raise DatasetError(f"{actions} actions for {steps} rewards")
    if observations != steps + 1:
        raise DatasetError(
            f"{observations} observations for {steps} steps, where {steps + 1} are needed: the last one is what "
            f"follows the last action"
        )


def _encode(codec: SpaceCodec, batch: Any, out: NDArray[Any]) -> None:
    """Flatten into `out`, (T, size) or (T + 1, size), and check that it is finite."""
    codec.flatten(batch, out=out)
    _check_finite(out, codec.column_name)


def _check_finite(values: NDArray[Any], column_name: Callable[[int], str]) -> None:
    """`values` is (steps, columns)."""
    finite = np.isfinite(values)
    if not finite.all():
        step, column = np.argwhere(~finite)[0]
        raise DatasetError(f"{column_name(int(column))} is {values[step, column]} at step {step}; it must be finite")

"""Rows back into episodes: without noise the way there and back is the identity, and the flags follow the contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gta_datasets.data.bank import Columns, WindowBank
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import Source
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.data.windows import WindowIndex, Windows
from gta_datasets.errors import DivergenceError
from gta_datasets.methods.assemble import assemble_shard, decoded
from tests.builders import LINEAR_ACTION_SPACE, WALK_LOW, episode_buffer, linear_episodes, linear_source, walks
from tests.smoke import leaves

HORIZON = 4
LENGTHS, TERMINATED = (1, 3, 4, 9, 12), (0, 2, 4)

GOAL = spaces.Dict(
    desired_goal=spaces.Box(-1, 1, (2,), np.float64),
    observation=spaces.Box(-np.inf, np.inf, (3,), np.float64),
)
NESTED = spaces.Tuple(
    [
        spaces.Dict(mode=spaces.Discrete(3, start=-1), gears=spaces.MultiDiscrete([2, 4])),
        spaces.MultiBinary([2, 2]),
        spaces.Box(-5, 9, (2,), np.int32),
        spaces.Box(0, np.inf, (1,), np.float32),
    ]
)


def linear() -> Source:
    return linear_source(linear_episodes(LENGTHS, terminated=TERMINATED))


def random_source(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Source:
    """Random members of the spaces; goals, where there are any, stay the same during an episode."""
    codecs = SpaceCodec.of(observation_space), SpaceCodec.of(action_space, name="action")
    buffers = [episode_buffer(observation_space, action_space, steps, seed=seed) for seed, steps in enumerate(LENGTHS)]
    for buffer in buffers:
        if isinstance(buffer.observations, dict):
            buffer.observations["desired_goal"][:] = buffer.observations["desired_goal"][0]
    steps = sum(LENGTHS)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    truncations = np.zeros(steps, bool)
    truncations[offsets[1:] - 1] = True
    episodes = Episodes(
        observations=np.concatenate([codecs[0].flatten(buffer.observations) for buffer in buffers]),
        actions=np.concatenate([codecs[1].flatten(buffer.actions) for buffer in buffers]),
        rewards=np.random.default_rng(0).normal(size=steps),
        terminations=np.zeros(steps, bool),
        truncations=truncations,
        offsets=offsets,
    )
    return Source(episodes, *codecs, np.arange(len(LENGTHS)), ())


def all_windows(source: Source) -> Windows:
    index = WindowIndex.of(source.episodes, HORIZON)
    return index.locate(np.arange(len(index)))


def there_and_back(
    source: Source, windows: Windows, spoil: Any = None, *, limits: Limits | None = None
) -> dict[str, np.ndarray]:
    """The shard that is assembled from the normalised source windows themselves."""
    columns = Columns.of(source.episodes)
    rows = WindowBank(source.episodes, columns, HORIZON, torch.device("cpu")).gather(windows).rows.numpy().copy()
    if spoil is not None:
        spoil(rows)
    returns = np.arange(len(windows), dtype=np.float64)
    asked = {"source_return": returns, "asked_return": returns + 1 / 3}
    return dict(assemble_shard(rows, windows, source, columns, limits=limits, **asked))


def cut(source: Source, windows: Windows) -> list[dict[str, np.ndarray]]:
    """The same windows cut out of the source by slicing."""
    episodes, found = source.episodes, []
    for episode, start, length in zip(windows.episode, windows.start, windows.length, strict=True):
        part = episodes.slice(episode, episode + 1)
        found.append(
            {
                "observations": part.observations[start : start + length + 1],
                "actions": part.actions[start : start + length],
                "rewards": part.rewards[start : start + length],
                "terminations": part.terminations[start : start + length],
            }
        )
    return found


def test_without_noise_the_windows_of_the_source_come_back() -> None:
    source = linear()
    windows = all_windows(source)
    shard = there_and_back(source, windows)
    made = Episodes.from_arrays(shard)
    assert made.lengths.tolist() == windows.length.tolist()
    assert {1, 3, 4} == set(windows.length.tolist())
    for number, expected in enumerate(cut(source, windows)):
        part = made.slice(number, number + 1)
        for name in ("observations", "actions", "rewards"):
            assert getattr(part, name).dtype == np.float32
            np.testing.assert_allclose(getattr(part, name), expected[name], atol=2e-6)
        np.testing.assert_array_equal(part.terminations, expected["terminations"])


def test_decoded_windows_take_what_is_constant_from_elsewhere_and_stop_at_their_lengths() -> None:
    episodes = random_source(GOAL, LINEAR_ACTION_SPACE).episodes
    lengths, chosen = np.array([2, 4, 1]), episodes.observations[episodes.observation_offsets[[4, 0, 2]]]
    rows = np.random.default_rng(0).normal(size=(3, HORIZON + 1, 6)).astype(np.float32)
    observations, actions, rewards = decoded(rows, lengths, chosen, Columns.of(episodes))
    parts = [episodes.observations[:, 2:], episodes.actions, episodes.rewards[:, None]]
    mean, std = (np.concatenate([getattr(part, name)(axis=0) for part in parts]) for name in ("mean", "std"))
    units = rows * std + mean
    states = np.concatenate([units[window, : length + 1, :3] for window, length in enumerate(lengths)])
    taken = np.concatenate([units[window, :length, 3:] for window, length in enumerate(lengths)])
    np.testing.assert_array_equal(observations[:, :2], np.repeat(chosen[:, :2], lengths + 1, axis=0))
    np.testing.assert_allclose(observations[:, 2:], states, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.column_stack([actions, rewards]), taken, rtol=1e-5, atol=1e-5)


def test_every_window_ends_once_and_at_its_last_step() -> None:
    source = linear()
    windows = all_windows(source)
    made = Episodes.from_arrays(there_and_back(source, windows))
    last = made.offsets[1:] - 1
    ends = np.flatnonzero(made.terminations | made.truncations)
    np.testing.assert_array_equal(ends, last)
    assert not (made.terminations & made.truncations).any()
    lengths = np.array(LENGTHS)
    reaches_the_end = windows.start + windows.length == lengths[windows.episode]
    expected = reaches_the_end & np.isin(windows.episode, TERMINATED)
    np.testing.assert_array_equal(made.terminations[last], expected)
    assert 0 < expected.sum() < len(expected)


def test_where_the_windows_come_from_and_what_was_asked() -> None:
    source = linear()
    windows = all_windows(source)
    shard = there_and_back(source, windows)
    np.testing.assert_array_equal(shard["source_episode"], windows.episode)
    np.testing.assert_array_equal(shard["source_start"], windows.start)
    np.testing.assert_array_equal(shard["source_return"], np.arange(len(windows), dtype=np.float32))
    assert shard["asked_return"].dtype == shard["source_return"].dtype == np.float32
    np.testing.assert_allclose(shard["asked_return"] - shard["source_return"], 1 / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (GOAL, LINEAR_ACTION_SPACE),
        (NESTED, spaces.Discrete(4)),
        (spaces.Discrete(6), spaces.MultiDiscrete([3, 2])),
        (spaces.MultiBinary(3), spaces.Box(-1, 1, (), np.float64)),
    ],
)
def test_every_kind_of_space_there_and_back(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """What is discrete and what is constant comes back exactly, what is continuous to float32's precision."""
    source = random_source(observation_space, action_space)
    windows = all_windows(source)
    made = Episodes.from_arrays(there_and_back(source, windows))
    pairs = (("observations", source.observation_codec), ("actions", source.action_codec))
    for number, expected in enumerate(cut(source, windows)):
        part = made.slice(number, number + 1)
        for name, codec in pairs:
            found, wanted = (codec.unflatten(values) for values in (getattr(part, name), expected[name]))
            for left, right in zip(leaves(found), leaves(wanted), strict=True):
                assert left.dtype == right.dtype
                if left.dtype.kind == "f":
                    np.testing.assert_allclose(left, right, atol=1e-5)
                else:
                    np.testing.assert_array_equal(left, right)
        if observation_space is GOAL:
            np.testing.assert_array_equal(part.observations[:, :2], expected["observations"][:, :2])


@pytest.mark.parametrize(
    ("offset", "scale", "tolerance"),
    [(0.0, 1e-9, 1e-15), (1e9, 1.0, 1e-5), (-1e9, 1e3, 1e-2), (0.0, 1e9, 1e4), (1e-9, 1e-12, 1e-18)],
)
def test_row_29_ranges_keep_a_millionth_of_their_scale(offset: float, scale: float, tolerance: float) -> None:
    """float64 stays float64, and values come back to 1e-5 of the column's scale."""
    world = linear_episodes(LENGTHS)
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    episodes = Episodes(
        observations=world.observations.astype(np.float64) * scale + offset,
        actions=world.actions,
        rewards=world.rewards.astype(np.float64) * scale + offset,
        terminations=world.terminations,
        truncations=world.truncations,
        offsets=world.offsets,
    )
    source = Source(episodes, SpaceCodec.of(box), SpaceCodec.of(LINEAR_ACTION_SPACE), np.arange(len(LENGTHS)), ())
    windows = all_windows(source)
    made = Episodes.from_arrays(there_and_back(source, windows))
    assert made.observations.dtype == made.rewards.dtype == np.float64
    for number, expected in enumerate(cut(source, windows)):
        part = made.slice(number, number + 1)
        np.testing.assert_allclose(part.observations, expected["observations"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(part.rewards, expected["rewards"], rtol=0, atol=tolerance)


def test_row_30_actions_lie_within_their_bounds_and_unbounded_observations_are_not_clipped() -> None:
    source = linear()

    def spoil(rows: np.ndarray) -> None:
        rows *= 50

    made = Episodes.from_arrays(there_and_back(source, all_windows(source), spoil))
    assert np.abs(made.actions).max() == 1
    assert np.abs(made.observations).max() > 10 * np.abs(source.episodes.observations).max()


def test_row_30_half_bounded_boxes() -> None:
    source = random_source(NESTED, LINEAR_ACTION_SPACE)

    def spoil(rows: np.ndarray) -> None:
        rows -= 30

    made = Episodes.from_arrays(there_and_back(source, all_windows(source), spoil))
    *_, counts, positive = leaves(source.observation_codec.unflatten(made.observations))
    assert positive.min() == 0
    assert counts.min() == -5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("column", "name"), [(0, "observation"), (3, "action"), (5, "reward")])
def test_row_20_a_generated_value_that_is_not_finite_is_an_error(value: float, column: int, name: str) -> None:
    source = linear()

    def spoil(rows: np.ndarray) -> None:
        rows[7, 2, column] = value

    with pytest.raises(DivergenceError, match=f"a generated {name} is not finite; train longer or lower guidance"):
        there_and_back(source, all_windows(source), spoil)


@pytest.mark.parametrize("value", [1e20, -1e20])
@pytest.mark.parametrize(("column", "name"), [(0, "observation"), (3, "action"), (5, "reward")])
def test_row_20_a_generated_value_beyond_float32_is_an_error(value: float, column: int, name: str) -> None:
    world, large = linear_episodes(LENGTHS), np.float32(1e30)
    source = linear_source(
        dataclasses.replace(
            world,
            observations=large * world.observations,
            actions=large * world.actions,
            rewards=large * world.rewards,
        )
    )

    def spoil(rows: np.ndarray) -> None:
        rows[7, 2, column] = value

    with pytest.raises(DivergenceError, match=f"a generated {name} is not finite; train longer or lower guidance"):
        there_and_back(source, all_windows(source), spoil)


def fallen(rows: np.ndarray, source: Source, windows: np.ndarray, row: int) -> None:
    """Put a state of some windows beyond the first column's limit."""
    mean, std = (getattr(source.episodes.observations[:, 0], name)() for name in ("mean", "std"))
    rows[windows, row, 0] = (WALK_LOW - 0.5 - mean) / std


def test_a_task_ends_where_a_last_state_is_beyond_the_limits_and_nowhere_else() -> None:
    """A window of which a fall is made ends in one; that of a recorded fall which is caught does not."""
    source = linear_source(walks())
    windows, limits = all_windows(source), Limits.of(source)
    recorded = Episodes.from_arrays(there_and_back(source, windows))
    ends = recorded.offsets[1:] - 1
    falls = np.flatnonzero(recorded.terminations[ends])
    caught, whole = falls[::2], np.flatnonzero(windows.length == HORIZON)
    tripped = np.setdiff1d(whole, falls)[::50]

    def spoil(rows: np.ndarray) -> None:
        rows[caught, windows.length[caught], :3] = 0.0
        fallen(rows, source, tripped, HORIZON)

    made = Episodes.from_arrays(there_and_back(source, windows, spoil, limits=limits))
    expected = np.union1d(np.setdiff1d(falls, caught), tripped)
    np.testing.assert_array_equal(np.flatnonzero(made.terminations[ends]), expected)
    np.testing.assert_array_equal(made.truncations[ends], ~made.terminations[ends])
    assert min(len(caught), len(tripped), len(expected)) > 20


@pytest.mark.parametrize("row", range(HORIZON))
def test_what_goes_on_beyond_the_limits_stays_as_it_was_recorded(row: int) -> None:
    source = linear_source(walks())
    windows, limits = all_windows(source), Limits.of(source)
    chosen = np.flatnonzero(windows.length == HORIZON)[::100]

    def spoil(rows: np.ndarray) -> None:
        rows[:] *= 0.5
        fallen(rows, source, chosen, row)

    shard = there_and_back(source, windows, spoil, limits=limits)
    made = Episodes.from_arrays(shard)
    for number, expected in enumerate(cut(source, windows)):
        part = made.slice(number, number + 1)
        same = [np.array_equal(getattr(part, name), expected[name]) for name in ("observations", "actions", "rewards")]
        assert same == [number in chosen] * 3
        if number in chosen:
            np.testing.assert_array_equal(part.terminations, expected["terminations"])
    np.testing.assert_array_equal(np.flatnonzero(shard["recorded"]), chosen)
    assert ((shard["asked_return"] == shard["source_return"]) == shard["recorded"]).all()


def test_returns_beyond_float32_stay_finite() -> None:
    source = linear()
    windows = all_windows(source)
    rows = np.zeros((len(windows), HORIZON + 1, 6), np.float32)
    returns = np.linspace(-1, 1, len(windows))
    asked = {"source_return": 1e38 * returns, "asked_return": 1e39 * returns}
    shard = assemble_shard(rows, windows, source, Columns.of(source.episodes), limits=None, **asked)
    np.testing.assert_array_equal(shard["source_return"], (1e38 * returns).astype(np.float32))
    np.testing.assert_array_equal(shard["asked_return"], 1e39 * returns)


def test_padding_is_never_looked_at() -> None:
    source = linear()
    windows = all_windows(source)
    clean = there_and_back(source, windows)
    short = np.flatnonzero(windows.length < HORIZON)
    assert len(short) == 2

    def spoil(rows: np.ndarray) -> None:
        for window in short:
            rows[window, windows.length[window] + 1 :] = np.nan
            rows[window, windows.length[window] :, 3:] = np.nan
        rows[:, HORIZON, 3:] = np.nan

    spoilt = there_and_back(source, windows, spoil)
    assert all(clean[name].tobytes() == spoilt[name].tobytes() for name in clean)


def test_row_28_constant_columns_come_back() -> None:
    world = linear_episodes(LENGTHS)
    constant = np.float32(0.1)
    episodes = Episodes(
        observations=np.concatenate([world.observations, np.full((len(world.observations), 1), constant)], axis=1),
        actions=np.stack([world.actions[:, 0], np.full(len(world.actions), constant)], axis=1),
        rewards=np.full(len(world.rewards), constant),
        terminations=world.terminations,
        truncations=world.truncations,
        offsets=world.offsets,
    )
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    source = Source(
        episodes, SpaceCodec.of(observation_space), SpaceCodec.of(LINEAR_ACTION_SPACE), np.arange(len(LENGTHS)), ()
    )

    def spoil(rows: np.ndarray) -> None:
        rows += 3

    made = Episodes.from_arrays(there_and_back(source, all_windows(source), spoil))
    assert set(made.observations[:, 3]) == set(made.actions[:, 1]) == set(made.rewards) == {constant}
    assert len(set(made.actions[:, 0])) > 1

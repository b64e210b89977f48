"""Rows 20 to 31 of the fault matrix, through augment(): what is generated obeys its contract whatever the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets import GTAAugmentedDataset
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import DatasetError
from tests.builders import LINEAR_ACTION_SPACE, LINEAR_OBSERVATION_SPACE, edit_file, linear_dataset, make_dataset
from tests.smoke import leaves, tiny, trajectories

HORIZON = 7
LENGTHS, TERMINATED = (1, 3, 7, 8, 20, 20, 30), (0, 1, 4)

GOAL = spaces.Dict(
    achieved_goal=spaces.Box(-9, 9, (2,), np.float64),
    desired_goal=spaces.Box(-9, 9, (2,), np.float64),
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
SPACES = {
    "box": (LINEAR_OBSERVATION_SPACE, LINEAR_ACTION_SPACE),
    "goal": (GOAL, spaces.Box(-1, 1, (2,), np.float64)),
    "nested": (NESTED, NESTED),
    "discrete": (spaces.Discrete(6, start=2), spaces.Discrete(4)),
    "multi": (spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)),
    "integers": (spaces.Box(-100, 100, (2,), np.int16), spaces.Box(0, 3, (1,), np.int64)),
    "scalar": (spaces.Box(-1, 1, (), np.float32), spaces.Box(-2, 2, (), np.float64)),
    "matrix": (spaces.Box(-1, 1, (2, 3), np.float32), spaces.Box(-2, 2, (2, 1), np.float16)),
}


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("generation/linear-v0", lengths=LENGTHS, terminated=TERMINATED)


@pytest.fixture(scope="module")
def augmented(dataset: minari.MinariDataset) -> GTAAugmentedDataset:
    return tiny(dataset, num_transitions=2_500, windows_per_shard=64).generate()


def origins(augmented: GTAAugmentedDataset) -> list[dict[str, Any]]:
    """Where every generated trajectory comes from."""
    return list(augmented.generated.storage.get_episode_metadata(range(len(augmented.generated))))


def check_contract(augmented: GTAAugmentedDataset) -> None:
    """What holds for all that is generated, whatever the source."""
    observation_space, action_space = augmented.observation_space, augmented.action_space
    source = {int(episode.id): episode for episode in augmented.source}
    generated = list(augmented.generated)
    assert generated
    for episode, origin in zip(generated, origins(augmented), strict=True):
        steps, original = len(episode), source[origin["source_episode"]]
        start, stop = origin["source_start"], origin["source_start"] + steps
        assert 1 <= steps == min(len(original), augmented.config.data.horizon)
        assert 0 <= start <= stop <= len(original)
        assert all(len(array) == steps + 1 for array in leaves(episode.observations))
        assert all(len(array) == steps for array in leaves(episode.actions))
        for batch in (episode.observations, episode.actions, episode.rewards):
            assert all(np.isfinite(array).all() for array in leaves(batch))
        assert np.isfinite([origin["source_return"], origin["asked_return"]]).all()
        assert not episode.terminations[:-1].any()
        assert not episode.truncations[:-1].any()
        terminates = bool(original.terminations[-1]) and stop == len(original)
        assert (bool(episode.terminations[-1]), bool(episode.truncations[-1])) == (terminates, not terminates)
        for step in range(steps):
            assert action_space.contains(member(action_space, episode.actions, step))
        for step in range(steps + 1):
            assert observation_space.contains(member(observation_space, episode.observations, step))


def member(space: spaces.Space[Any], batch: Any, step: int) -> Any:
    """One sample of a batch in the form that gymnasium's `contains` takes."""
    if isinstance(space, spaces.Dict):
        return {key: member(child, batch[key], step) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(member(child, batch[place], step) for place, child in enumerate(space.spaces))
    sample = batch[step]
    return sample if isinstance(space, spaces.Discrete) else np.asarray(sample, space.dtype)


def test_generated_trajectories_obey_the_contract(augmented: GTAAugmentedDataset) -> None:
    check_contract(augmented)
    made = trajectories(augmented)
    assert {1, 3, 7} == set(made.lengths.tolist())
    assert 0 < made.terminations.sum() < made.num_episodes


def test_generated_trajectories_are_new(augmented: GTAAugmentedDataset) -> None:
    known = {row.tobytes() for episode in augmented.source for row in episode.observations}
    made = [row.tobytes() for episode in augmented.generated for row in episode.observations]
    assert not known & set(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("kind", SPACES)
def test_row_27_every_kind_of_space(kind: str) -> None:
    observation_space, action_space = SPACES[kind]
    dataset = make_dataset(
        f"generation/{kind}-v0",
        observation_space=observation_space,
        action_space=action_space,
        lengths=(9, 3, 12, 7),
        endings=("terminated", "truncated", "truncated", "none"),
    )
    check_contract(tiny(dataset))


def test_row_27_goals_are_copied_bit_by_bit() -> None:
    def same_goal(file: Any) -> None:
        for number in range(4):
            goals = file[f"episode_{number}/observations/desired_goal"]
            goals[...] = goals[0]

    lengths = (9, 3, 12, 7)
    dataset = make_dataset("generation/goals-v0", observation_space=GOAL, lengths=lengths)
    augmented = tiny(edit_file(dataset, same_goal), num_transitions=400)
    seen = set()
    for episode, origin in zip(augmented.generated, origins(augmented), strict=True):
        goal = augmented[origin["source_episode"]].observations["desired_goal"][0]
        seen.add(goal.tobytes())
        assert all(row.tobytes() == goal.tobytes() for row in episode.observations["desired_goal"])
        assert len(np.unique(episode.observations["achieved_goal"])) > 2
    assert len(seen) == 4


@pytest.mark.parametrize(("field", "value"), [("observations", np.nan), ("rewards", np.inf), ("actions", -np.inf)])
def test_row_20_a_number_that_is_not_finite(tmp_path: Path, field: str, value: float) -> None:
    def spoil(file: Any) -> None:
        file[f"episode_2/{field}"][3] = value

    dataset = edit_file(linear_dataset(f"generation/broken-{field}-v0"), spoil)
    with pytest.raises(DatasetError, match=r"episode 2: \w+ is -?(nan|inf) at step 3"):
        len(tiny(dataset))
    augmented = tiny(dataset, invalid="drop", cache_dir=tmp_path)
    with pytest.warns(UserWarning, match="nothing is generated from 1 of 8 source episodes.*episode 2: ") as caught:
        made = trajectories(augmented)
    assert len(caught) == 1
    assert len(augmented.skipped) == 1
    assert "episode 2: " in augmented.skipped[0]
    assert np.isfinite(made.observations).all()
    assert np.isfinite(made.rewards).all()
    numbers = {origin["source_episode"] for origin in origins(augmented)}
    assert numbers <= {0, 1, 3, 4, 5, 6, 7}
    assert max(numbers) > 2, "this test needs an origin behind the dropped episode"


def test_row_20_a_dropped_episode_is_in_nothing_that_is_read() -> None:
    def spoil(file: Any) -> None:
        file["episode_1/rewards"][0] = np.nan

    dataset = edit_file(linear_dataset("generation/dropped-v0", lengths=(9, 8, 7)), spoil)
    augmented = tiny(dataset, invalid="drop")
    with pytest.warns(UserWarning, match="from 1 of 3 source episodes, and 1 of these are left out as invalid"):
        real = [augmented[0], augmented[1]]
    assert augmented.total_episodes - len(augmented.generated) == 2
    assert augmented.total_steps - augmented.generated.total_steps == 9 + 7
    for found, episode in zip(real, (dataset[0], dataset[2]), strict=True):
        np.testing.assert_array_equal(found.observations, episode.observations)
    assert [found.id for found in real] == [0, 1]
    facts = list(augmented.storage.get_episode_metadata([0, 1]))
    assert [(found["total_steps"], found["source_episode"]) for found in facts] == [(9, 0), (7, 2)]
    assert all(np.isfinite(episode.rewards).all() for episode in augmented)
    long = augmented.filter_episodes(lambda episode: len(episode.rewards) > 8)
    assert Corpus(long).num_real == 9
    weights = np.ones(augmented.total_steps)
    assert augmented.to_d3rlpy(weights=weights).transition_count == len(weights)
    with pytest.warns(UserWarning, match="generated data are augmented"):
        assert len(tiny(augmented)) > 0


def test_row_20_dropped_and_short_episodes_are_named_once() -> None:
    def spoil(file: Any) -> None:
        file["episode_1/rewards"][0] = np.nan

    dataset = edit_file(linear_dataset("generation/both-v0", lengths=(20, 20, 3, 20)), spoil)
    augmented = tiny(dataset, invalid="drop", short_episodes="skip")
    with pytest.warns(UserWarning, match="nothing is generated from 2 of 4 source episodes"):
        len(augmented)
    assert [sentence.count("episode 1") for sentence in augmented.skipped] == [1, 0]
    assert "episode 2 of 'generation/both-v0' has 3 transitions" in augmented.skipped[1]


def test_row_20_an_export_leaves_dropped_episodes_out() -> None:
    def spoil(file: Any) -> None:
        file["episode_1/rewards"][0] = np.nan

    dataset = edit_file(linear_dataset("generation/export-source-v0", lengths=(9, 9, 9)), spoil)
    augmented = tiny(dataset, invalid="drop")
    with pytest.warns(UserWarning, match="nothing is generated from 1 of 3"):
        exported = augmented.export("generation/export-v0")
    assert len(exported) == 2 + len(augmented.generated)
    np.testing.assert_array_equal(exported[1].observations, dataset[2].observations)


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@pytest.mark.parametrize("steps", range(1, HORIZON + 1))
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_row_21_episodes_shorter_than_the_horizon_are_padded(steps: int, ending: Any) -> None:
    dataset = make_dataset(f"generation/short-{steps}-{ending}-v0", lengths=(steps,) * 3, endings=ending)
    augmented = tiny(dataset)
    check_contract(augmented)
    assert {len(episode) for episode in augmented.generated} == {steps}
    assert augmented.skipped == ()


def test_row_21_short_episodes_are_skipped_with_a_count() -> None:
    dataset = linear_dataset("generation/skip-v0", lengths=range(1, 10))
    augmented = tiny(dataset, short_episodes="skip", num_transitions=150)
    with pytest.warns(UserWarning, match="nothing is generated from 6 of 9 source episodes"):
        check_contract(augmented)
    assert len(augmented.skipped) == 6
    assert {origin["source_episode"] for origin in origins(augmented)} == {6, 7, 8}


def test_row_21_no_episode_is_long_enough() -> None:
    dataset = linear_dataset("generation/all-short-v0", lengths=(3, 5, 4))
    message = r"horizon=7 is longer than every episode .*longest: 5 transitions.*choose horizon <= 5"
    with pytest.raises(DatasetError, match=message):
        len(tiny(dataset, short_episodes="skip"))


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
def test_row_22_terminal_only_episodes_keep_their_flags() -> None:
    dataset = linear_dataset("generation/terminal-v0", lengths=(1,) * 6, terminated=range(6))
    augmented = tiny(dataset)
    check_contract(augmented)
    made = trajectories(augmented)
    assert made.terminations.all()
    assert not made.truncations.any()


@pytest.mark.filterwarnings("ignore:horizon=.* is longer than every episode")
@pytest.mark.parametrize("steps", [1, 5, 7, 40])
def test_row_23_one_episode(steps: int) -> None:
    augmented = tiny(linear_dataset(f"generation/one-{steps}-v0", lengths=(steps,)), num_transitions=30)
    check_contract(augmented)
    assert augmented.generated.total_steps >= 30


def test_row_24_nothing_left(dataset: minari.MinariDataset) -> None:
    augmented = tiny(dataset.filter_episodes(lambda episode: False))
    for action in (lambda: len(augmented), augmented.fit, augmented.generate, lambda: augmented[0]):
        with pytest.raises(DatasetError, match="'generation/linear-v0' has no episodes; if it was filtered, loosen"):
            action()


def test_row_25_a_missing_last_observation() -> None:
    def cut(file: Any) -> None:
        rows = file["episode_3/observations"][:-1]
        del file["episode_3/observations"]
        file["episode_3/observations"] = rows

    dataset = edit_file(linear_dataset("generation/cut-v0"), cut)
    with pytest.raises(DatasetError, match="episode 3: 20 observations for 20 steps, where 21 are needed"):
        tiny(dataset).fit()


def test_row_26_terminated_and_truncated_at_once_is_terminated() -> None:
    augmented = tiny(make_dataset("generation/both-flags-v0", lengths=(4,) * 4, endings="both"), horizon=4)
    made = trajectories(augmented)
    last = made.offsets[1:] - 1
    assert made.terminations[last].all()
    assert not made.truncations.any()


def test_row_28_constant_columns_come_back() -> None:
    def flatten(file: Any) -> None:
        for number in range(8):
            file[f"episode_{number}/observations"][:, 1] = np.float32(0.1)
            file[f"episode_{number}/actions"][:, 0] = np.float32(-0.3)
            file[f"episode_{number}/rewards"][...] = np.float32(0.7)

    augmented = tiny(edit_file(linear_dataset("generation/constant-v0"), flatten))
    check_contract(augmented)
    made = trajectories(augmented)
    assert set(made.observations[:, 1]) == {np.float32(0.1)}
    assert set(made.actions[:, 0]) == {np.float32(-0.3)}
    assert set(made.rewards) == {np.float32(0.7)}
    assert len(set(made.observations[:, 0])) > 50


@pytest.mark.parametrize(("offset", "scale"), [(1e9, 1.0), (0.0, 1e-9), (-1e9, 1e-3)])
def test_row_29_ranges_keep_type_and_scale(offset: float, scale: float) -> None:
    """With the least exploration a trajectory stays within a few hundredths of its source, in units of the scale."""
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    dataset = make_dataset(
        f"generation/range-{offset}-{scale}-v0".replace(".", "_"), observation_space=space, lengths=(20,) * 4
    )

    def stretch(file: Any) -> None:
        for number in range(4):
            rows = file[f"episode_{number}/observations"]
            rows[...] = rows[...] * scale + offset

    augmented = tiny(edit_file(dataset, stretch), mu=0.01)
    check_contract(augmented)
    for episode, origin in zip(augmented.generated, origins(augmented), strict=True):
        assert episode.observations.dtype == np.float64
        start = origin["source_start"]
        original = augmented[origin["source_episode"]].observations[start : start + len(episode) + 1]
        assert np.abs(episode.observations - original).max() < 0.05 * scale + np.spacing(abs(offset))
        assert not np.array_equal(episode.observations, original)


def test_row_30_bounds() -> None:
    """Recorded actions lie on and beyond the bounds; generated ones within, and observations are not clipped."""

    def push(file: Any) -> None:
        for number in range(8):
            actions = file[f"episode_{number}/actions"]
            actions[...] = np.sign(actions[...]) * 1.5

    augmented = tiny(edit_file(linear_dataset("generation/bounds-v0"), push))
    check_contract(augmented)
    made = trajectories(augmented)
    assert np.abs(made.actions).max() == 1
    assert np.abs(augmented[0].actions).max() == 1.5, "the source stays as recorded"


def test_row_31_an_unflagged_cut_ends_in_a_truncation_and_nothing_crosses_it() -> None:
    dataset = make_dataset("generation/cuts-v0", lengths=(9, 4, 8), endings="none")
    augmented = tiny(dataset, mu=0.01)
    check_contract(augmented)
    last_steps = 0
    for episode, origin in zip(augmented.generated, origins(augmented), strict=True):
        assert bool(episode.truncations[-1])
        original = augmented[origin["source_episode"]]
        start = origin["source_start"]
        rows = original.observations[start : start + len(episode) + 1]
        np.testing.assert_allclose(episode.observations, rows, atol=0.1)
        last_steps += start + len(episode) == len(original)
    assert last_steps > 0


def test_shards_are_episodes_with_their_origin(augmented: GTAAugmentedDataset) -> None:
    """What other readers of the cache rely on."""
    shard = augmented.storage.pipeline.shard(0)
    made = Episodes.from_arrays(shard)
    assert made.num_episodes == 64
    dtypes = {
        "source_episode": np.int64,
        "source_start": np.int64,
        "asked_return": np.float32,
        "source_return": np.float32,
    }
    for name, dtype in dtypes.items():
        assert shard[name].shape == (64,)
        assert shard[name].dtype == dtype

"""DiffStitch: recorded pieces, and a bridge between them that is generated."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch

from gta_datasets import GTAAugmentedDataset, augment
from gta_datasets.config import DiffStitchConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import ConfigError, DatasetError, DivergenceError, QualificationError
from gta_datasets.methods.base import Shard
from gta_datasets.methods.diffstitch import DiffStitch
from gta_datasets.presets import METHOD_PRESETS, PRESETS
from tests.builders import linear_dataset, linear_episodes, linear_source
from tests.smoke import TINY, digest_of_files, shard_bytes, trajectories

HORIZON, BEFORE, AFTER = 7, 3, 3  # of the preset "smoke"
LENGTH = BEFORE + HORIZON + AFTER
CPU = torch.device("cpu")
SMALL = {name: TINY[name] for name in ("training_steps", "train_batch_size", "width", "depth", "sampler_steps")}
JUDGES = {"dynamics_members": 2, "dynamics_width": 16, "dynamics_depth": 1, "dynamics_steps": 50}
SETTINGS = {**SMALL, **JUDGES, "trajectories_per_shard": 12}


def method(episodes: Episodes, *, seed: int = 0, **overrides: Any) -> DiffStitch:
    """DiffStitch on episodes in memory, with the smallest settings there are."""
    preset = {**PRESETS["smoke"], **METHOD_PRESETS["diffstitch"]["smoke"]}
    known = {name: value for name, value in preset.items() if name in DiffStitchConfig.keywords()}
    config = DiffStitchConfig().replace(**known).replace(**{**SETTINGS, **overrides})
    return DiffStitch(linear_source(episodes), config, seed=seed, device=CPU)


def fitted(episodes: Episodes, folder: Path, **overrides: Any) -> DiffStitch:
    found = method(episodes, **overrides)
    for name, model in {"states": found, **found.models}.items():
        (folder / name).mkdir(exist_ok=True)
        model.fit(folder / name, progress=False)
    return found


def as_bytes(shard: Shard) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in shard.items()}


@pytest.fixture(scope="module")
def recorded() -> Episodes:
    """Half of the actions lie outside of their space, as in many a recording."""
    episodes = linear_episodes((24,) * 8 + (2, 30), terminated=(0, 1, 5, 9))  # of the high ones, 0 and 3, one
    return dataclasses.replace(episodes, actions=2 * episodes.actions)


@pytest.fixture(scope="module")
def generator(recorded: Episodes, tmp_path_factory: pytest.TempPathFactory) -> DiffStitch:
    return fitted(recorded, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def source() -> minari.MinariDataset:
    return linear_dataset("diffstitch/linear-v0", lengths=(20,) * 8 + (3, 25), terminated=(2, 9))


def stitched(source: minari.MinariDataset, folder: Path, **options: Any) -> GTAAugmentedDataset:
    fixed = {"preset": "smoke", "device": "cpu", "progress": False, "cache_dir": folder, **SETTINGS}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing is generated from 1 of 10 source episodes", UserWarning)
        augmented = augment(source, "diffstitch", **{**fixed, **options})
        assert len(augmented.skipped) <= 1
    return augmented


def test_it_consults_a_model_of_actions_and_one_of_rewards(generator: DiffStitch) -> None:
    assert set(generator.models) == {"inverse", "reward"}


def test_recorded_parts_are_exact_copies_but_within_the_spaces(recorded: Episodes, generator: DiffStitch) -> None:
    shard = generator.generate(0)
    made = Episodes.from_arrays(shard)
    names = ("source_episode", "source_start", "target_episode", "target_start", "stitch_start", "stitch_length")
    for place, (source, start, target, arrival, before, bridge) in enumerate(
        zip(*(shard[n] for n in names), strict=True)
    ):
        assert before == BEFORE
        end, rest = before + bridge, LENGTH - before - bridge
        trajectory, first, second = (
            part.slice(number, number + 1) for part, number in ((made, place), (recorded, source), (recorded, target))
        )
        recorded_states = np.r_[: before + 1, end : LENGTH + 1]
        expected = np.concatenate([first.observations[start:][: before + 1], second.observations[arrival:][: rest + 1]])
        assert trajectory.observations[recorded_states].tobytes() == expected.tobytes()
        for name in ("actions", "rewards"):
            values, left, right = (getattr(part, name) for part in (trajectory, first, second))
            expected = np.concatenate([left[start:][:before], right[arrival:][:rest]])
            if name == "actions":
                expected = np.clip(expected, -1, 1)
            assert values[np.r_[:before, end:LENGTH]].tobytes() == expected.tobytes()
    assert np.abs(made.actions).max() == 1


def test_only_the_marked_steps_are_generated(recorded: Episodes, generator: DiffStitch) -> None:
    shard = generator.generate(0)
    made = Episodes.from_arrays(shard)
    observations = made.observations.reshape(-1, LENGTH + 1, 3)
    real = {row.tobytes() for row in recorded.observations}
    step = np.arange(LENGTH + 1)
    start, count = shard["stitch_start"][:, None], shard["stitch_length"][:, None]
    between = (step > start) & (step < start + count)
    assert not any(row.tobytes() in real for row in observations[between])
    assert all(row.tobytes() in real for row in observations[~between])
    actions = made.actions.reshape(-1, LENGTH, 2)
    generated = (step >= start)[:, :-1] & (step < start + count)[:, :-1]
    assert np.abs(actions[generated]).max() <= 1  # what is generated is valid in its space
    known = {row.tobytes() for row in recorded.actions}
    assert not any(row.tobytes() in known for row in actions[generated])
    assert shard["stitch_length"].min() >= 2
    assert shard["stitch_length"].max() <= HORIZON


def test_bridges_lead_from_low_to_high_returns(recorded: Episodes, generator: DiffStitch) -> None:
    shard = generator.generate(0)
    returns = np.add.reduceat(recorded.rewards.astype(np.float64), recorded.offsets[:-1])
    assert returns[shard["source_episode"]].max() < returns[shard["target_episode"]].min()


def test_actions_and_rewards_of_the_bridge_are_the_models(generator: DiffStitch) -> None:
    shard = generator.generate(0)
    made = Episodes.from_arrays(shard)
    step = np.tile(np.arange(LENGTH), made.num_episodes)
    start, count = (np.repeat(shard[name], LENGTH) for name in ("stitch_start", "stitch_length"))
    rows = np.flatnonzero((step >= start) & (step < start + count))
    states, following = made.observations[made.transition_rows[rows]], made.next_observations[rows]
    actions = np.clip(generator.models["inverse"].predict(states, following), -1, 1)
    np.testing.assert_allclose(made.actions[rows], actions, atol=1e-5)
    rewards = generator.models["reward"].predict(states, made.actions[rows], following)
    np.testing.assert_allclose(made.rewards[rows], rewards, atol=1e-5)


def test_trajectories_end_as_their_second_piece(recorded: Episodes, generator: DiffStitch) -> None:
    ended = 0
    for number in range(12):
        shard = generator.generate(number)
        made = Episodes.from_arrays(shard)
        last = made.offsets[1:] - 1
        rest = LENGTH - shard["stitch_start"] - shard["stitch_length"]
        of_target = recorded.offsets[shard["target_episode"]] + shard["target_start"] + rest - 1
        assert (of_target < recorded.offsets[shard["target_episode"] + 1]).all()
        np.testing.assert_array_equal(made.terminations[last], recorded.terminations[of_target])
        np.testing.assert_array_equal(made.truncations[last], ~made.terminations[last])
        flags = np.count_nonzero(made.terminations | made.truncations)
        assert flags == made.num_episodes
        ended += np.count_nonzero(made.terminations)
    assert 0 < ended < 12 * 12


def test_no_bridge_starts_where_the_task_has_ended(recorded: Episodes, generator: DiffStitch) -> None:
    for number in range(12):
        shard = generator.generate(number)
        left = shard["source_start"] + shard["stitch_start"]
        assert (left < recorded.lengths[shard["source_episode"]]).all()


def test_returns_are_those_of_the_whole_way(recorded: Episodes, generator: DiffStitch) -> None:
    """What is asked for is what the stitched trajectory gets if it goes on as its second piece did."""
    shard = generator.generate(0)
    made = Episodes.from_arrays(shard)
    for place in range(made.num_episodes):
        source, target = (
            recorded.slice(shard[n][place], shard[n][place] + 1) for n in ("source_episode", "target_episode")
        )
        rest = LENGTH - BEFORE - shard["stitch_length"][place]
        own = made.rewards[made.offsets[place] : made.offsets[place + 1]].sum(dtype=np.float64)
        later = target.rewards[shard["target_start"][place] + rest :].sum(dtype=np.float64)
        assert shard["asked_return"][place] == pytest.approx(own + later, abs=1e-3)
        real = source.rewards[shard["source_start"][place] :].sum(dtype=np.float64)
        assert shard["source_return"][place] == pytest.approx(real, abs=1e-3)


def test_lengths_are_known_without_a_model(recorded: Episodes, generator: DiffStitch) -> None:
    lengths = method(recorded).lengths(5)
    assert lengths.tolist() == [LENGTH] * 12
    np.testing.assert_array_equal(Episodes.from_arrays(generator.generate(5)).lengths, lengths)
    np.testing.assert_array_equal(Episodes.from_arrays(generator.attempt(5, 3, lengths[:4])).lengths, lengths[:4])


def test_a_shard_is_a_function_of_its_number(recorded: Episodes, generator: DiffStitch, tmp_path: Path) -> None:
    again = fitted(recorded, tmp_path, generate_batch_size=1)
    again.generate(3)
    assert as_bytes(again.generate(1)) == as_bytes(generator.generate(1))
    assert as_bytes(generator.generate(2)) != as_bytes(generator.generate(1))
    assert as_bytes(generator.attempt(1, 0, generator.lengths(1))) == as_bytes(generator.generate(1))


def test_other_attempts_draw_other_pairs(generator: DiffStitch) -> None:
    pairs = []
    for attempt in range(3):
        shard = generator.attempt(0, attempt, generator.lengths(0))
        pairs.append(set(zip(shard["source_episode"].tolist(), shard["source_start"].tolist(), strict=True)))
    assert pairs[0] != pairs[1] != pairs[2]


def test_seeds_differ(recorded: Episodes, generator: DiffStitch, tmp_path: Path) -> None:
    other = fitted(recorded, tmp_path, seed=1)
    assert as_bytes(other.generate(0)) != as_bytes(generator.generate(0))


def test_generating_needs_a_model(recorded: Episodes) -> None:
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called"):
        method(recorded).generate(0)


def test_goals_stay(tmp_path: Path) -> None:
    """What is constant within an episode is so in a stitched one: only episodes with the same goal are joined."""
    episodes = linear_episodes((20,) * 12)
    goals = np.arange(12) % 3
    column = np.repeat(goals.astype(np.float32), episodes.lengths + 1)[:, None]
    found = fitted(
        dataclasses.replace(episodes, observations=np.concatenate([episodes.observations, column], axis=1)), tmp_path
    )
    shard = found.generate(0)
    observations = Episodes.from_arrays(shard).observations.reshape(-1, LENGTH + 1, 4)
    np.testing.assert_array_equal(
        observations[..., 3], np.repeat(goals[shard["source_episode"]][:, None], LENGTH + 1, 1)
    )


def test_what_is_not_finite_is_an_error(recorded: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitted(recorded, tmp_path)
    for model, name in (("reward", "reward"), ("inverse", "action")):
        monkeypatch.setattr(
            found.models[model],
            "predict",
            lambda *steps, size=model: np.full(len(steps[0]) if size == "reward" else (len(steps[0]), 2), np.nan),
        )
        with pytest.raises(DivergenceError, match=f"a generated {name} is not finite; train longer"):
            found.generate(0)
    monkeypatch.setattr(found._states, "complete", lambda states, *_: np.full_like(states, np.inf))
    with pytest.raises(DivergenceError, match="a generated state is not finite"):
        found.generate(0)


def test_what_is_beyond_float32_is_an_error(
    recorded: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fitted(dataclasses.replace(recorded, observations=np.float32(1e30) * recorded.observations), tmp_path)
    for model, name in (("reward", "reward"), ("inverse", "action")):
        shape = () if model == "reward" else (2,)
        monkeypatch.setattr(
            found.models[model], "predict", lambda *steps, shape=shape: np.full((len(steps[0]), *shape), 1e39)
        )
        with pytest.raises(DivergenceError, match=f"a generated {name} is not finite; train longer"):
            found.generate(0)
    monkeypatch.setattr(found._states, "complete", lambda states, *_: np.full_like(states, 1e15))
    with pytest.raises(DivergenceError, match="a generated observation is not finite"):
        found.generate(0)


def test_no_pair_is_an_error_that_says_what_to_change(source: minari.MinariDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no two episodes can be joined: .* lower steps_before, steps_after or hor"):
        augment(source, "diffstitch", preset="smoke", steps_after=40, cache_dir=tmp_path).generate()
    assert digest_of_files(tmp_path) == {}


def test_from_start_to_end(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = stitched(source, tmp_path, num_transitions=500).generate()
    assert augmented.skipped == (f"episode 8 of '{source.id}' has 3 transitions, fewer than the 4 of a piece: skipped",)
    made = trajectories(augmented)
    assert set(made.lengths.tolist()) == {LENGTH}
    assert 500 <= made.num_transitions < 500 + LENGTH
    assert augmented.acceptance_rate == 1
    first = augmented.generated[0]
    assert augmented.observation_space.contains(first.observations[5])
    assert augmented.is_complete


def test_processes_and_batches_agree(source: minari.MinariDataset, tmp_path: Path) -> None:
    one, other = (stitched(source, tmp_path / name, generate_batch_size=size) for name, size in (("a", 1), ("b", 64)))
    assert shard_bytes(one, 1) == shard_bytes(other, 1)
    assert one.key == other.key


def test_only_the_bridge_is_judged(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = stitched(source, tmp_path).fit()
    judged = augmented.storage.pipeline.augmenter
    shard = dict(judged.generate(0))
    worst = judged.worst_errors(shard)
    for place in range(3):
        trajectory = Episodes.from_arrays(shard).slice(place, place + 1)
        begin, bridge = shard["stitch_start"][place], shard["stitch_length"][place]
        errors = judged.models["judge"].errors(trajectory)
        assert worst[place] == pytest.approx(errors[begin : begin + bridge].max(), rel=1e-5)
    spoiled = {**shard, "observations": shard["observations"].copy()}
    spoiled["observations"][0] += 50  # the first recorded step of the first trajectory
    np.testing.assert_allclose(judged.worst_errors(spoiled), worst, rtol=1e-5)
    del spoiled["stitch_start"]
    assert judged.worst_errors(spoiled)[0] > worst[0]


def test_some_are_drawn_again(source: minari.MinariDataset, tmp_path: Path) -> None:
    loose = stitched(source, tmp_path)
    shard = loose.storage.pipeline.shard(0)
    limit = float(np.median(loose.storage.pipeline.augmenter.worst_errors(shard)))
    strict = stitched(source, tmp_path, qualify=limit, num_transitions=200).generate()
    pipeline = strict.storage.pipeline
    assert pipeline.augmenter.worst_errors(pipeline.shard(0)).max() <= limit
    assert 0.1 < strict.acceptance_rate < 0.9
    assert set(trajectories(strict).lengths.tolist()) == {LENGTH}


def test_what_nothing_passes_is_given_up(source: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = stitched(source, tmp_path, qualify=1e-9, qualify_attempts=2)
    with pytest.raises(QualificationError, match=r"12 of 12 trajectories .* after 2 attempts \(0 passed in 24\)"):
        augmented.generate()


def test_keys_tell_settings_apart(source: minari.MinariDataset, tmp_path: Path) -> None:
    changes = ({}, {"candidates": 3}, {"steps_before": 2}, {"min_bridge": 1}, {"high_quantile": 0.6}, {"qualify": 9.0})
    models = set()
    keys = set()
    for options in changes:
        augmented = stitched(source, tmp_path, **options)
        keys.add(augmented.key)
        models.add(augmented.storage.pipeline.model_store.key)
    assert len(keys) == len(changes)
    assert len(models) == 1  # none of these trains anything anew


@pytest.mark.parametrize(
    ("name", "value"),
    [("high_quantile", 1.0), ("steps_before", -1), ("steps_after", 0), ("candidates", 0), ("min_bridge", 8)],
)
def test_settings_are_checked(source: minari.MinariDataset, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        augment(source, "diffstitch", preset="smoke", **{name: value})


def test_a_configuration_serves_as_method() -> None:
    config = DiffStitchConfig().replace(candidates=5)
    assert DiffStitchConfig.from_dict(config.to_dict()) == config
    assert config.qualification.qualify > 0

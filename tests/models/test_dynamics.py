"""The learned forward model, in a world whose physics are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gta_datasets.config import DynamicsConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.models import ensemble
from gta_datasets.models.dynamics import DynamicsModel
from tests.builders import linear_episodes, linear_source

SMALL = DynamicsConfig(dynamics_members=2, dynamics_width=32, dynamics_depth=1, dynamics_steps=300)


def model_of(episodes: Episodes, config: DynamicsConfig = SMALL, seed: int = 0) -> DynamicsModel:
    return DynamicsModel(linear_source(episodes), config, seed=seed, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return linear_episodes((50,) * 40, seed=1)


@pytest.fixture(scope="module")
def fitted(episodes: Episodes, tmp_path_factory: pytest.TempPathFactory) -> DynamicsModel:
    model = model_of(episodes)
    model.fit(tmp_path_factory.mktemp("dynamics"), progress=False)
    return model


def test_it_predicts_unseen_episodes(fitted: DynamicsModel) -> None:
    unseen = linear_episodes((50,) * 4, seed=9)
    errors = fitted.errors(unseen)
    assert errors.shape == (200,)
    assert np.median(errors) < 0.02


def test_a_wrong_next_state_costs_its_square_in_the_sources_units(fitted: DynamicsModel, episodes: Episodes) -> None:
    spread = episodes.observations.std(axis=0)
    off = Episodes(**{**episodes.arrays(), "observations": episodes.observations.copy()})
    off.observations[50] += 3 * spread  # the last observation of the first episode: only one transition leads there
    difference = fitted.errors(off) - fitted.errors(episodes)
    assert difference[49] == pytest.approx(9, rel=0.2)
    np.testing.assert_allclose(np.delete(difference, 49), 0, atol=1e-6)


def test_predictions_are_near_the_world(fitted: DynamicsModel, episodes: Episodes) -> None:
    unseen = linear_episodes((50,) * 4, seed=9)
    following, rewards = fitted.predict(unseen.observations[unseen.transition_rows], unseen.actions)
    missed = (following - unseen.next_observations) / episodes.observations.std(axis=0)
    np.testing.assert_allclose(np.square(missed).mean(axis=1), fitted.errors(unseen), rtol=1e-3, atol=1e-6)
    assert np.corrcoef(rewards, unseen.rewards)[0, 1] > 0.5


def test_data_are_normalised_in_parts_as_they_would_be_at_once(
    episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model_of(episodes)
    expected = whole._examples()
    monkeypatch.setattr(ensemble, "CHUNK", 7)
    parts = model_of(episodes)
    np.testing.assert_allclose(parts._change_scale, whole._change_scale, rtol=1e-6)
    changes = np.diff(episodes.observations[:51], axis=0) / episodes.observations.std(axis=0)
    assert expected[0].shape == (2_000, 5)
    for found, of_whole in zip(parts._examples(), expected, strict=True):
        torch.testing.assert_close(found, of_whole)
    np.testing.assert_allclose(expected[1][:50, :-1].numpy() * whole._change_scale, changes, rtol=1e-3, atol=1e-4)


def test_what_all_transitions_have_in_common_is_found_once_however_many_parts_there_are(
    episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time that it takes to put them together grows with the square of the dataset."""
    found, property_of = [], Episodes.transition_rows.fget

    def record(of: Episodes) -> np.ndarray:
        found.append(of)
        return property_of(of)

    monkeypatch.setattr(ensemble, "CHUNK", 7)
    monkeypatch.setattr(Episodes, "transition_rows", property(record))
    inputs, _ = model_of(episodes)._examples()
    assert len(inputs) == 2_000
    assert 1 <= len(found) <= 3


def test_what_is_constant_in_an_episode_is_predicted_as_it_is(tmp_path: Path) -> None:
    linear = linear_episodes((30,) * 5)
    goal = np.repeat(np.arange(5.0, dtype=np.float32), 31)[:, None]
    wide = Episodes(**{**linear.arrays(), "observations": np.hstack([linear.observations, goal])})
    model = model_of(wide, DynamicsConfig(dynamics_members=1, dynamics_width=8, dynamics_depth=1, dynamics_steps=5))
    model.fit(tmp_path, progress=False)
    following, _ = model.predict(wide.observations[wide.transition_rows], wide.actions)
    np.testing.assert_array_equal(following[:, 3], np.repeat(np.arange(5.0), 30))
    assert not np.array_equal(following[:, :3], wide.observations[wide.transition_rows, :3])


def test_what_is_fitted_is_loaded(fitted: DynamicsModel, episodes: Episodes, tmp_path: Path) -> None:
    first, second = model_of(episodes), model_of(episodes)
    assert not first.is_fitted(tmp_path)
    digest = first.fit(tmp_path, progress=False)
    assert second.is_fitted(tmp_path)
    assert second.fit(tmp_path, progress=False) == digest
    np.testing.assert_array_equal(first.errors(episodes), second.errors(episodes))
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}


def with_column(episodes: Episodes, values: np.ndarray) -> Episodes:
    """The episodes with a column more in their observations."""
    wide = np.hstack([episodes.observations, values.astype(np.float32)[:, None]])
    return Episodes(**{**episodes.arrays(), "observations": wide})


def test_constant_columns_count_for_nothing(tmp_path: Path) -> None:
    linear = linear_episodes((30,) * 5)
    wide = with_column(linear, np.full(5 * 31, 7.0))
    few = DynamicsConfig(dynamics_members=1, dynamics_width=8, dynamics_depth=1, dynamics_steps=5)
    narrow_model, wide_model = model_of(linear, few), model_of(wide, few)
    for name, model in (("narrow", narrow_model), ("wide", wide_model)):
        (tmp_path / name).mkdir()
        model.fit(tmp_path / name, progress=False)
    np.testing.assert_allclose(narrow_model.errors(linear), wide_model.errors(wide), rtol=1e-5)


def test_a_clock_does_not_drown_the_rest(tmp_path: Path) -> None:
    """Every step changes it alike: beside a spread that is rounding only, the change would be enormous."""
    clock = np.tile(0.1 * np.arange(51), 40)
    model = model_of(with_column(linear_episodes((50,) * 40, seed=1), clock))
    model.fit(tmp_path, progress=False)
    assert np.median(model.errors(with_column(linear_episodes((50,) * 4, seed=9), clock[: 4 * 51]))) < 0.02


def test_without_states_there_is_no_error(tmp_path: Path) -> None:
    linear = linear_episodes((30,) * 5)
    still = Episodes(**{**linear.arrays(), "observations": np.zeros_like(linear.observations)})
    model = model_of(still, DynamicsConfig(dynamics_members=1, dynamics_width=8, dynamics_depth=1, dynamics_steps=5))
    model.fit(tmp_path, progress=False)
    np.testing.assert_array_equal(model.errors(still), np.zeros(150))


def test_identities_tell_models_apart(episodes: Episodes) -> None:
    base = model_of(episodes).identity
    assert model_of(episodes, seed=1).identity["seed"] != base["seed"]
    other = DynamicsConfig(dynamics_members=3, dynamics_width=32, dynamics_depth=1, dynamics_steps=300)
    assert model_of(episodes, other).identity["config"] != base["config"]


def test_errors_need_a_fitted_model(episodes: Episodes) -> None:
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called"):
        model_of(episodes).errors(episodes)

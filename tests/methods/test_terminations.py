"""Which generated transitions end the task, from the configuration to the shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gta_datasets.augment import configuration
from gta_datasets.data.endings import Limits
from gta_datasets.data.episodes import Episodes
from gta_datasets.methods import build_augmenter
from gta_datasets.methods.base import Augmenter
from gta_datasets.shelf import Shelf
from tests.builders import linear_source, walks

SMALL = {"gta": {"mu": 0.25, "windows_per_shard": 2_000}, "synther": {"transitions_per_shard": 2_000}}


def fitted(method: str, folder: Path, **overrides: Any) -> Augmenter:
    config = configuration(method, "smoke", None, "cpu", {**SMALL[method], **overrides})
    found = build_augmenter(linear_source(walks()), config, seed=0, device=torch.device("cpu"))
    shelf = Shelf(folder, "cpu", {}, progress=False)
    for model in found.models.values():
        shelf.fit(shelf.store_of(model), model)
    found.fit(folder, progress=False)
    return found


@pytest.mark.parametrize(("method", "other"), [("gta", "source"), ("synther", "generated")])
def test_limits_decide_unless_something_else_is_to(method: str, other: str, tmp_path: Path) -> None:
    """A generator of 30 steps: what else could decide disagrees with where the states are."""
    limits = Limits.of(linear_source(walks()))
    assert limits is not None
    shards = {kind: fitted(method, tmp_path, terminations=kind).generate(0) for kind in ("limits", other)}
    wrong = {}
    for kind, shard in shards.items():
        made = Episodes.from_arrays(shard)
        wrong[kind] = (limits.passed(made.next_observations) != made.terminations).mean()
    assert wrong["limits"] == 0
    assert wrong[other] > 0.005


@pytest.mark.parametrize("method", ["gta", "synther"])
def test_no_episode_of_windows_goes_on_beyond_the_limits(method: str, tmp_path: Path) -> None:
    limits = Limits.of(linear_source(walks()))
    assert limits is not None
    made = Episodes.from_arrays(fitted(method, tmp_path).generate(0))
    assert limits.overrun(made).any() == (method == "synther")  # whose transitions may begin anywhere
    np.testing.assert_array_equal(made.truncations, ~made.terminations & _is_last(made))


def test_returns_follow_from_where_a_trajectory_ends(tmp_path: Path) -> None:
    """A recording has the rest of its episode's rewards, what ends where its window goes on its own, others none."""
    world = walks()
    shard = fitted("gta", tmp_path).generate(0)
    made = Episodes.from_arrays(shard)
    recorded, first = shard["recorded"], world.offsets[shard["source_episode"]] + shard["source_start"]
    rest = [
        world.rewards[start : world.offsets[episode + 1]].sum()
        for start, episode in zip(first, shard["source_episode"], strict=True)
    ]
    ended, then = made.terminations[made.offsets[1:] - 1], world.terminations[first + made.lengths - 1]
    new = ended & ~then
    np.testing.assert_allclose(shard["start_return"][recorded], np.array(rest)[recorded], rtol=1e-4)
    np.testing.assert_allclose(shard["start_return"][new], made.returns[new], rtol=1e-4)
    assert np.isnan(shard["start_return"][~recorded & ~new]).all()
    assert min(recorded.sum(), new.sum(), (~recorded & ~new).sum()) >= 5


def test_a_recording_in_the_place_of_a_trajectory_passes_no_filter(tmp_path: Path) -> None:
    strict = fitted("gta", tmp_path, qualify=1e6)
    assert not strict.generate(0)["recorded"].any()
    assert fitted("gta", tmp_path).generate(0)["recorded"].any()


def test_a_recording_keeps_its_rewards_where_others_get_those_of_a_model(tmp_path: Path) -> None:
    plain, relabelled = (fitted("gta", tmp_path, relabel=relabel).generate(0) for relabel in (False, True))
    of_recordings = np.repeat(plain["recorded"], Episodes.from_arrays(plain).lengths)
    np.testing.assert_array_equal(plain["rewards"] == relabelled["rewards"], of_recordings)


def _is_last(episodes: Episodes) -> np.ndarray:
    last = np.zeros(episodes.num_transitions, np.bool_)
    last[episodes.offsets[1:] - 1] = True
    return last

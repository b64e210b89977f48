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
from tests.builders import linear_source, walks

SMALL = {"gta": {"mu": 0.25, "windows_per_shard": 2_000}, "synther": {"transitions_per_shard": 2_000}}


def fitted(method: str, folder: Path, **overrides: Any) -> Augmenter:
    config = configuration(method, "smoke", None, "cpu", {**SMALL[method], **overrides})
    found = build_augmenter(linear_source(walks()), config, seed=0, device=torch.device("cpu"))
    found.fit(folder, progress=False)
    return found


@pytest.mark.parametrize(("method", "other"), [("gta", "source"), ("synther", "generated")])
def test_limits_decide_unless_something_else_is_to(method: str, other: str, tmp_path: Path) -> None:
    """A generator of 30 steps: what else could decide disagrees with where the states are."""
    limits = Limits.of(walks())
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
    limits = Limits.of(walks())
    assert limits is not None
    made = Episodes.from_arrays(fitted(method, tmp_path).generate(0))
    assert limits.overrun(made).any() == (method == "synther")  # whose transitions may begin anywhere
    np.testing.assert_array_equal(made.truncations, ~made.terminations & _is_last(made))


def _is_last(episodes: Episodes) -> np.ndarray:
    last = np.zeros(episodes.num_transitions, np.bool_)
    last[episodes.offsets[1:] - 1] = True
    return last

"""Where generating fails, a warning says why, learning goes on, and what is missing is generated later."""

from __future__ import annotations

import re
import warnings
from typing import Any

import minari
import numpy as np
import pytest
from stable_baselines3 import SAC

from gta_datasets.online import ATraDiffReplayBuffer
from tests.online.test_buffer import walk
from tests.online.worlds import Line, line_dataset, quick_buffer

GENERATED = r"nothing is generated from [12] of .*: a generated observation is not finite; train longer, or adapt less"
ESTIMATED = r"nothing is generated from 1 of .*: the transitions left there are estimated at nan"


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return line_dataset("failing/line-v0", terminated=False)


def meet(buffer: ATraDiffReplayBuffer, value: float, times: int) -> None:
    """Record transitions from a state that no data hold."""
    state = np.array([[value, 0.5]])
    for _ in range(times):
        buffer.add(state, state, np.zeros((1, 1), np.float32), np.zeros(1), np.zeros(1), [{}])


@pytest.mark.parametrize(
    ("value", "message"), [(1e30, GENERATED), (1e60, ESTIMATED), (np.inf, ESTIMATED), (np.nan, ESTIMATED)]
)
def test_what_is_missing_is_generated_later(dataset: minari.MinariDataset, value: float, message: str) -> None:
    buffer = quick_buffer(dataset, lengths=(5,), buffer_size=4_000, starts_per_batch=1)
    walk(buffer, 100)
    before = buffer.synthetic.size()
    with pytest.warns(UserWarning, match=message) as told:
        meet(buffer, value, 200)
    assert all("look at what the environment observes" in str(each.message) for each in told)
    assert 10 < len(told) < 120
    assert buffer.synthetic.size() <= before + 5
    assert 100 < buffer.state.missing < 300
    assert np.isfinite(buffer.state.waiting).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk(buffer, 3_000)
    assert buffer.synthetic.size() / buffer.size() == pytest.approx(1.0, rel=0.05)


def test_warnings_say_how_far_the_states_are_from_the_data(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, lengths=(5,), starts_per_batch=1)
    spread = np.concatenate([episode.observations for episode in dataset])[:, 0].std()
    with pytest.warns(UserWarning, match=re.escape(f"lies {1e30 / spread:.3g} standard deviations from the data")):
        meet(buffer, 1e30, 30)


class Broken(Line):
    """A sensor fails now and then."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        state, *others = super().step(action)
        return (np.array([1e30, 0.0]) if self._step % 7 == 3 else state, *others)


def test_learning_goes_on(dataset: minari.MinariDataset) -> None:
    buffer = quick_buffer(dataset, lengths=(5,), adapt_every=0)
    model = SAC("MlpPolicy", Broken(), policy_kwargs={"net_arch": [8]}, learning_starts=1_000, device="cpu", seed=0)
    with pytest.warns(UserWarning, match=GENERATED) as told:
        model.learn(200, callback=buffer.callback())
    assert {warning.filename for warning in told} == {__file__}, "the line that learns"
    assert buffer.size() == 200
    assert buffer.synthetic.size() > 50
    assert np.isfinite(buffer.synthetic.observations[: buffer.synthetic.size()]).all()

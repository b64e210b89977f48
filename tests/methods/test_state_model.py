"""DiffStitch's model of states, on lines whose way is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gta_datasets.config import DiffStitchConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.windows import Windows, cut, take
from gta_datasets.diffusion.edm import Condition
from gta_datasets.methods.sampling import normal_numbers
from gta_datasets.methods.state_model import StateModel
from gta_datasets.methods.stitching import estimate_steps
from tests.builders import linear_source

LINES, STEPS, HORIZON = 60, 10, 7
CPU = torch.device("cpu")


def straight_lines() -> Episodes:
    """Every episode moves on by the same vector in every step, past the origin at some distance."""
    rng = np.random.default_rng(0)
    starts = np.stack([rng.uniform(-3, -2, LINES), rng.uniform(1.5, 2.5, LINES) * rng.choice([-1, 1], LINES)], axis=1)
    observations = starts[:, None] + np.arange(STEPS + 1)[:, None] * [0.6, 0.1]
    return Episodes(
        observations=observations.astype(np.float32).reshape(-1, 2),
        actions=np.zeros((LINES * STEPS, 2), np.float32),
        rewards=rng.normal(size=LINES * STEPS).astype(np.float32),
        terminations=np.zeros(LINES * STEPS, np.bool_),
        truncations=np.tile(np.arange(STEPS) == STEPS - 1, LINES),
        offsets=np.arange(LINES + 1) * STEPS,
    )


@pytest.fixture(scope="module")
def on_lines(tmp_path_factory: pytest.TempPathFactory) -> StateModel:
    settings = {"training_steps": 900, "train_batch_size": 32, "width": 32, "depth": 2, "sampler_steps": 8}
    settings |= {"warmup_steps": 5, "precision": "float32", "ema_decay": 0.98}
    config = DiffStitchConfig().replace(horizon=HORIZON, **settings)
    found = StateModel(linear_source(straight_lines()), config, seed=0, device=CPU)
    found.fit(tmp_path_factory.mktemp("lines"), progress=False)
    return found


def completed(model: StateModel, states: np.ndarray, revealed: np.ndarray) -> np.ndarray:
    noise = normal_numbers(states.shape, seed=0, prefix="", number=0, device=CPU)
    return model.complete(states, revealed, np.zeros((len(states), 0), np.float32), noise)


def lines(model: StateModel) -> np.ndarray:
    """Normalised windows at the beginnings of the recorded lines, (B, H + 1, 2)."""
    states = straight_lines().observations.reshape(LINES, STEPS + 1, 2)[:, : HORIZON + 1]
    return model.columns.observation.forward(states)


def test_the_known_number_of_steps_is_estimated(on_lines: StateModel) -> None:
    states = lines(on_lines)
    revealed = np.zeros(states.shape[:2], np.bool_)
    revealed[:, 0] = True
    imagined = completed(on_lines, states, revealed)
    for delta in (2, 4, 7):
        steps, _ = estimate_steps(imagined, states[:, delta : delta + 1], shortest=1)
        assert (steps == delta).mean() >= 0.8


def test_revealed_states_stay_and_the_rest_leads_there(on_lines: StateModel) -> None:
    states = lines(on_lines)
    for delta in (2, 4, 7):
        revealed = np.zeros(states.shape[:2], np.bool_)
        revealed[:, 0] = revealed[:, delta:] = True
        hidden = np.where(revealed[..., None], states, 99).astype(np.float32)
        made = completed(on_lines, hidden, revealed)
        assert made[revealed].tobytes() == states[revealed].tobytes()
        # A step is 0.3 long; half way between start and target is off by up to 1.
        assert np.sqrt(np.square(made - states)[~revealed].mean()) < 0.1


def test_nothing_is_revealed_beyond_the_end_of_a_short_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = take(straight_lines(), np.arange(4))
    short = cut(episodes, Windows(np.arange(4), np.zeros(4, np.int64), np.full(4, 3)))
    sizes = {"horizon": HORIZON, "width": 8, "depth": 1, "train_batch_size": 64, "precision": "float32"}
    model = StateModel(linear_source(short), DiffStitchConfig().replace(**sizes), seed=0, device=CPU)
    denoiser, told = model._new_denoiser(), []
    forward = denoiser.forward

    def watched(x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        told.append(condition)
        return forward(x, sigma, condition)

    monkeypatch.setattr(denoiser, "forward", watched)
    with pytest.warns(UserWarning, match="every window is filled up"):
        model._loss(denoiser)(0)
    given, shown = told[0].context[..., :-1], told[0].context[..., -1]
    assert shown[:, 1:4].any(), "the ends of some windows are revealed"
    assert not shown[:, 4:].any()
    assert not given[:, 4:].any()

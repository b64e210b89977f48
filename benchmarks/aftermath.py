"""What becomes of the states in which windows end, if the policy behind the data goes on from there.

python -m benchmarks.aftermath sim/walker2d/medium-v0 --variant alpha=1.3 --variant alpha=1.1

A window of high return is worth little if it ends in a fall. Recorded windows are compared with generated ones, of
which every variant names settings. Writes `results/aftermath/<dataset>.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium
import minari
import numpy as np
from numpy.typing import NDArray

import gta_datasets
from benchmarks.datasets import behaviour
from benchmarks.record import write_record
from gta_datasets.cli import parse_setting
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.reading import read_episodes
from gta_datasets.data.windows import WindowIndex, cut
from gta_datasets.errors import ConfigError
from gta_datasets.rollouts import SquashedGaussian, make_env

__all__ = ["follow", "main", "recorded_windows"]

HORIZONS = (20, 50, 200)
"""Steps within which falls are counted; rewards are added up over the last."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Follow recorded and generated windows, and write what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument(
        "--variant", type=_variant, action="append", required=True, help="settings, such as alpha=1.1,mu=0.25"
    )
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source, policy = minari.load_dataset(options.dataset), behaviour(options.dataset)
    env = make_env(source.env_spec.id)
    found: dict[str, Any] = {}
    for name, settings in options.variant:
        augmented = gta_datasets.augment(
            source, preset=options.preset, num_transitions=40 * options.windows, seed=options.seed, **settings
        )
        generated = read_episodes(augmented.generated).episodes
        if not found:
            windows = recorded_windows(read_episodes(source).episodes, int(generated.lengths.max()), options.windows)
            found["source"] = judge(windows, env, policy, options.seed)
        some = generated.slice(0, min(options.windows, generated.num_episodes))  # they were drawn at random
        found[name] = judge(some, env, policy, options.seed)
    measured = {"dataset": options.dataset, "preset": options.preset, "seed": options.seed, "windows_end_in": found}
    path = write_record(f"aftermath/{options.dataset.replace('/', '-')}", "benchmarks.aftermath", measured)
    print(path.read_text())


def _variant(text: str) -> tuple[str, dict[str, Any]]:
    """A variant's name, and its settings: numbers, and words as they are."""
    try:
        settings = dict(parse_setting(part) for part in text.split(","))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if "horizon" in settings:
        raise argparse.ArgumentTypeError(f"{text!r} changes how long windows are; the compared have one length")
    return text, settings


def recorded_windows(episodes: Episodes, horizon: int, number: int) -> Episodes:
    """`number` windows of `horizon` transitions, spread evenly over all that do not end the task."""
    index = WindowIndex.of(episodes, horizon, short_episodes="skip")
    numbers = np.flatnonzero(~episodes.terminations[index.first_transitions + horizon - 1])
    return cut(episodes, index.locate(numbers[np.linspace(0, len(numbers) - 1, number).astype(np.int64)]))


def judge(windows: Episodes, env: gymnasium.Env[Any, Any], policy: SquashedGaussian, seed: int) -> dict[str, Any]:
    """What becomes of the last states of windows that do not end the task."""
    goes_on = ~windows.terminated
    states = windows.observations[windows.last_rows][goes_on]
    per_step = (windows.returns / windows.lengths)[goes_on]
    lasted, earned = follow(states, env, policy, steps=HORIZONS[-1], seed=seed)
    return {
        "windows": int(goes_on.sum()),
        "reward_per_step": round(float(per_step.mean()), 2),
        "fallen_within": {str(steps): round(float((lasted < steps).mean()), 4) for steps in HORIZONS},
        f"return_of_next_{HORIZONS[-1]}": round(float(earned.mean()), 1),
        "standard_error": round(float(earned.std(ddof=1) / np.sqrt(len(earned))), 1),
    }


def follow(
    states: NDArray[Any], env: gymnasium.Env[Any, Any], policy: SquashedGaussian, *, steps: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Let a policy act from observed states on.

    What an observation hides is 0 at first (the way covered) or its clipped value (velocities).

    Args:
        states: observations (n, obs_dim): all positions but the first, and all velocities.
        env: of Gymnasium's MuJoCo family, without a limit of time.
        policy: what acts.
        steps: at most.
        seed: of the policy.

    Returns:
        Steps without a termination (n,), and the rewards until then (n,), that of the termination included.
    """
    lasted, earned = np.full(len(states), steps), np.zeros(len(states))
    simulation: Any = env.unwrapped
    positions = simulation.model.nq - 1
    for number, state in enumerate(np.asarray(states, np.float64)):
        rng = np.random.default_rng((seed, number))
        env.reset(seed=seed)
        simulation.set_state(np.append(0.0, state[:positions]), state[positions:])
        observation = state
        for step in range(steps):
            observation, reward, terminated, _, _ = simulation.step(policy.act(observation, rng))
            earned[number] += reward
            if terminated:
                lasted[number] = step
                break
    return lasted, earned


if __name__ == "__main__":
    main()

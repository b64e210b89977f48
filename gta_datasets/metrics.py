"""How good generated trajectories are, beside the source: true rewards, true dynamics, novelty, asked returns.

The metrics are those of GTA (appendix D), with the tail of the dynamics error added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.data.returns import returns_to_go
from gta_datasets.data.windows import WindowIndex, Windows, cut
from gta_datasets.errors import DatasetError, MissingExtraError
from gta_datasets.novelty import Novelty, novelty
from gta_datasets.scores import Checked, Evidence, Quality, Scores
from gta_datasets.simulator import Simulator, StandIn, Steps, roll_out, simulator_for, unavailable_reason

__all__ = ["LONGEST", "Quality", "quality"]

LONGEST = 128
"""Transitions of a window that is judged: of a few whole episodes, which copying methods make, chance would decide."""


def quality(
    generated: Episodes,
    source: Episodes,
    *,
    env_spec: EnvSpec | str | None = None,
    simulator: Simulator | None = None,
    stand_in: Callable[[], StandIn] | None = None,
    asked_returns: NDArray[np.floating[Any]] | None = None,
    recorded: float = 0.0,
    sample: int = 16_384,
    novelty_sample: int = 1_024,
    threshold: float = 0.05,
    discount: float = 0.99,
    seed: int = 0,
) -> Quality:
    """Measure `generated` against `source`.

    Args:
        generated: one window per episode. Longer ones count as windows of 128 transitions, and what is left.
        source: the data the windows were made from.
        env_spec: the source's environment, from which the simulator is made.
        simulator: true dynamics to use instead.
        stand_in: makes what judges rewards and dynamics where there are no true ones, a model without a part in making
            `generated`; the notes and `learned` say so.
        asked_returns: (E,) return every window was generated for.
        recorded: share of `generated` that are recordings in the place of something generated, for the notes.
        sample: transitions that are simulated, in whole windows drawn at random; as many windows of the same lengths
            are drawn from the source.
        novelty_sample: transitions whose nearest source point is searched.
        threshold: dynamics error of one step from which on its window counts as bad.
        discount: gamma of the return that is compared with `asked_returns`.
        seed: of the samples.

    Returns:
        The numbers. What cannot be measured is None, and `notes` says why.

    Raises:
        DatasetError: nothing to measure, or arrays that do not belong together.
    """
    _check(generated, source, asked_returns)
    rng = np.random.default_rng(seed)
    notes: list[str] = []
    if recorded > 0:
        notes.append(
            f"{100 * recorded:.2g} % of the trajectories are recordings: what was generated in their place goes on"
            " where the task has ended."
        )
    if simulator is None:
        simulator = simulator_for(env_spec)
    simulator = _usable(simulator, env_spec, source, notes)
    if simulator is None and stand_in is not None:
        simulator = stand_in()
        notes.append(
            "Rewards and dynamics are judged by a learned model of the source instead, one that had no part in making"
            " or choosing what is generated. It knows the neighbourhood of the source only: what lies far from it is"
            " judged by a guess."
        )
    windows = _draw_windows(generated, sample, rng)
    scale = Standardizer.fit(source.observations).scale
    made = _checked(cut(generated, windows), simulator, scale)
    in_pieces = generated.lengths.max() > LONGEST  # which weigh all transitions alike, and so have the source's to
    like = _draw_windows(source, sample, rng) if in_pieces else _like(windows, source, rng)
    real = _checked(cut(source, like), simulator, scale)
    new, known = _novelty(generated, source, novelty_sample, rng, notes)
    returns = returns_to_go(generated, discount=discount)[generated.offsets[:-1]]
    pearson, spearman = _correlations(asked_returns, returns, notes)
    return Quality(
        generated=_scores(generated, made, threshold, new),
        source=_scores(source, real, threshold, known),
        pearson=pearson,
        spearman=spearman,
        simulator=None if simulator is None else simulator.name,
        learned=isinstance(simulator, StandIn),
        threshold=threshold,
        checked_windows=made.windows.num_episodes,
        checked_transitions=made.windows.num_transitions,
        seed=seed,
        notes=tuple(notes),
        evidence=Evidence(made, real, returns, asked_returns, *_example(made, simulator)),
    )


def _check(generated: Episodes, source: Episodes, asked_returns: NDArray[Any] | None) -> None:
    for name, episodes in (("generated", generated), ("source", source)):
        if episodes.num_episodes == 0 or episodes.lengths.min() == 0:
            raise DatasetError(f"quality needs transitions in every episode; {name} has lengths {episodes.lengths}")
    for name in ("observations", "actions"):
        made, real = getattr(generated, name).shape[1], getattr(source, name).shape[1]
        if made != real:
            raise DatasetError(f"generated {name} have {made} dimensions and those of the source {real}")
    if asked_returns is not None and asked_returns.shape != (generated.num_episodes,):
        raise DatasetError(
            f"asked_returns of shape {asked_returns.shape} do not fit the {generated.num_episodes} generated windows;"
            f" give one return per window, shape ({generated.num_episodes},)"
        )


def _usable(
    simulator: Simulator | None, env_spec: EnvSpec | str | None, source: Episodes, notes: list[str]
) -> Simulator | None:
    """The simulator if it takes the source's observations and actions; otherwise a note why not."""
    if simulator is None:
        notes.append(f"No true rewards and dynamics: {unavailable_reason(env_spec)}")
        return None
    given = source.observations.shape[1], source.actions.shape[1]
    needed = simulator.observation_size, simulator.action_size
    if given == needed:
        return simulator
    notes.append(
        f"No true rewards and dynamics: states and actions have {given[0]} and {given[1]} dimensions, those of"
        f" {simulator.name} {needed[0]} and {needed[1]}."
    )
    return None


def _draw_windows(episodes: Episodes, sample: int, rng: np.random.Generator) -> Windows:
    """Whole episodes in random order, or pieces of those that are long, until they hold `sample` transitions."""
    counts = -(-episodes.lengths // LONGEST)
    episode = np.repeat(np.arange(episodes.num_episodes), counts)
    start = LONGEST * (np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts))
    length = np.minimum(LONGEST, episodes.lengths[episode] - start)
    order = rng.permutation(len(episode))
    needed = int(np.searchsorted(np.cumsum(length[order]), sample)) + 1
    chosen = np.sort(order[:needed])
    return Windows(episode[chosen], start[chosen], length[chosen])


def _like(windows: Windows, source: Episodes, rng: np.random.Generator) -> Windows:
    """Windows of the source of the same lengths, each start equally likely; shorter where no episode is long enough."""
    longest = int(source.lengths.max())
    parts = []
    for length, count in zip(*np.unique(np.minimum(windows.length, longest), return_counts=True), strict=True):
        index = WindowIndex.of(source, int(length), short_episodes="skip")
        parts.append(index.locate(rng.integers(len(index), size=count)))
    return Windows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("episode", "start", "length"))
    )


def _checked(windows: Episodes, simulator: Simulator | None, scale: NDArray[np.float64]) -> Checked:
    if simulator is None:
        return Checked(windows, None, None, None)
    steps = simulator.step(windows.observations[windows.transition_rows], windows.actions)
    errors = np.square((windows.next_observations - steps.next_observations) / scale).mean(axis=1)
    return Checked(windows, errors, steps.rewards, None if isinstance(simulator, StandIn) else steps.terminations)


def _scores(episodes: Episodes, checked: Checked, threshold: float, found: Novelty | None) -> Scores:
    reward = float(episodes.rewards.mean(dtype=np.float64))
    if checked.errors is None or checked.oracle_rewards is None:
        return Scores(reward, None, None, None, None, None, None, None, None, None, None, found)
    stable = np.isfinite(checked.errors)
    bad = ~(checked.errors <= threshold)
    wrong = None if checked.terminations is None else (checked.terminations ^ checked.windows.terminations)[stable]
    errors, oracle = checked.errors[stable], checked.oracle_rewards[stable]
    surplus = checked.windows.rewards[stable] - oracle
    return Scores(
        reward=reward,
        oracle_reward=_mean(oracle),
        dynamics_mse=_mean(errors),
        dynamics_median=_quantile(errors, 0.5),
        dynamics_p99=_quantile(errors, 0.99),
        bad_step_share=float(bad.mean()),
        bad_window_share=float(np.logical_or.reduceat(bad, checked.windows.offsets[:-1]).mean()),
        reward_mse=_mean(surplus**2),
        reward_bias=_mean(surplus),
        unstable_share=float(1 - stable.mean()),
        wrong_terminations=None if wrong is None else _mean(wrong),
        novelty=found,
    )


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _quantile(values: NDArray[Any], level: float) -> float | None:
    return float(np.quantile(values, level)) if len(values) else None


def _novelty(
    generated: Episodes, source: Episodes, sample: int, rng: np.random.Generator, notes: list[str]
) -> tuple[Novelty | None, Novelty | None]:
    try:
        return novelty(generated, source, sample=sample, rng=rng)
    except MissingExtraError as error:
        notes.append(f"No novelty: {error}")
        return None, None


def _correlations(
    asked: NDArray[np.floating[Any]] | None, returns: NDArray[np.float64], notes: list[str]
) -> tuple[float | None, float | None]:
    """Pearson's and Spearman's correlation."""
    if asked is None:
        notes.append("No correlation with the asked returns: none were asked for.")
        return None, None
    if np.ptp(asked) == 0 or np.ptp(returns) == 0:
        notes.append("No correlation with the asked returns: one side is constant.")
        return None, None
    pearson = np.corrcoef(asked, returns)[0, 1]
    spearman = np.corrcoef(_ranks(asked), _ranks(returns))[0, 1]
    return float(pearson), float(spearman)


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Rank of every value; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _example(made: Checked, simulator: Simulator | None) -> tuple[int | None, Steps | None]:
    """The window of median error among the longest ones, and the simulator's version of it."""
    if simulator is None or made.errors is None:
        return None, None
    windows = made.windows
    means = np.add.reduceat(made.errors, windows.offsets[:-1]) / windows.lengths
    candidates = np.flatnonzero((windows.lengths == windows.lengths.max()) & np.isfinite(means))
    if len(candidates) == 0:
        return None, None
    number = int(candidates[np.argsort(means[candidates])[len(candidates) // 2]])
    window = windows.slice(number, number + 1)
    return number, roll_out(simulator, window.observations[0], window.actions)

"""A bandit with two-dimensional actions in several modes: what GTP learns of it, and what a Gaussian policy can.

python -m benchmarks.bandit

Eight modes of actions lie on a ring, every second one is rewarded. GTP's flow map and a Gaussian learn from the same
actions with the same weights; the Gaussian's maximum of the weighted likelihood is found in closed form, without
networks, as advantage-weighted algorithms seek it (AWAC, arXiv 2006.09359). A Gaussian that seeks one mode could sit on
a good one, and would know no other. Writes `results/bandit.json` and `results/bandit.png`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.quiet import fit, import_d3rlpy
from gta_datasets.plots.drawing import GENERATED, SOURCE, TRUTH, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MODES", "REWARDS", "coverage", "draw_data", "gaussian_policy", "main"]

Points = NDArray[np.float32]

ANGLES = np.arange(8) * np.pi / 4
MODES = (0.7 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)).astype(np.float32)
REWARDS = np.array([1.0, 0.0, 0.9, 0.2, 1.0, 0.0, 0.9, 0.2])
"""Of the modes; those above a half are good."""

GOOD = REWARDS > 0.5
SPREAD, REWARD_NOISE = 0.05, 0.1
NEAR = 4 * SPREAD
"""How far from its mode an action may lie; from the middle between two modes it is further."""

LEAST_SHARE = 0.25
"""Of what a good mode would get if all good ones got the same; with less it is not covered."""

SAMPLES = 2_000
STEPS = (1, 2, 5, 10)
SHOWN = 5


def main() -> None:
    """Train, count modes, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=4_000)
    parser.add_argument("--actions", type=int, default=4_000, help="to learn from")
    parser.add_argument("--eta", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    actions, rewards = draw_data(arguments.actions, rng)
    started = time.process_time()
    sampled = gtp_samples(actions, rewards, arguments)
    seconds = time.process_time() - started
    gaussian = gaussian_policy(actions, rewards, arguments.eta, rng)
    measured = {
        "settings": {name: getattr(arguments, name) for name in ("updates", "actions", "eta", "seed")},
        "good_modes": int(GOOD.sum()),
        "cpu_seconds": round(seconds, 1),
        "gtp": {str(steps): coverage(found) for steps, found in sampled.items()},
        "gaussian": coverage(gaussian),
    }
    path = record.write_record("bandit", "benchmarks.bandit", measured, packages=("d3rlpy",))
    draw({"data": actions, "Gaussian policy": gaussian, f"GTP, {SHOWN} steps": sampled[SHOWN]}, rewards, path)
    print(path.read_text())


def draw_data(number: int, rng: np.random.Generator) -> tuple[Points, NDArray[np.float32]]:
    """Actions (N, 2), all modes alike, and rewards (N,)."""
    mode = rng.integers(len(MODES), size=number)
    actions = MODES[mode] + SPREAD * rng.standard_normal((number, 2))
    rewards = REWARDS[mode] + REWARD_NOISE * rng.standard_normal(number)
    return actions.astype(np.float32), rewards.astype(np.float32)


def gtp_samples(actions: Points, rewards: NDArray[np.float32], arguments: argparse.Namespace) -> dict[int, Points]:
    """What GTP does in the only state there is, by number of jumps."""
    d3rlpy = import_d3rlpy()
    from gta_datasets.policies import GTPConfig

    small = d3rlpy.models.VectorEncoderFactory([64, 64])
    slower = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=arguments.updates)
    d3rlpy.seed(arguments.seed)
    algorithm = GTPConfig(
        width=64,
        depth=2,
        eta=arguments.eta,
        actor_learning_rate=2e-3,
        actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=slower),
        critic_learning_rate=1e-3,
        critic_encoder_factory=small,
    ).create()
    data = d3rlpy.dataset.MDPDataset(
        np.zeros((len(actions), 1), np.float32), actions, rewards, np.ones(len(actions), np.float32)
    )
    fit(algorithm, data, arguments.updates)
    state = np.zeros((SAMPLES, 1), np.float32)
    return {steps: algorithm.sample_action(state, steps=steps) for steps in STEPS}


def gaussian_policy(
    actions: Points, rewards: NDArray[np.float32], eta: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Samples (SAMPLES, 2) of the Gaussian that is most likely to have done the weighted actions."""
    from gta_datasets.policies.updates import advantage_weights

    advantages = torch.from_numpy(rewards - rewards.mean())
    weights = advantage_weights(advantages, eta, 100.0).double().numpy()
    mean = np.average(actions, axis=0, weights=weights)
    return rng.multivariate_normal(mean, np.cov(actions.T, aweights=weights), SAMPLES)


def coverage(actions: NDArray[Any]) -> dict[str, Any]:
    """How many good modes are covered, and where the actions lie: at good modes, at others, at none; shares."""
    distances = np.linalg.norm(actions[:, None] - MODES, axis=2)
    near = distances.min(axis=1) < NEAR
    shares = np.bincount(distances.argmin(axis=1)[near], minlength=len(MODES)) / len(actions)
    return {
        "good_modes_covered": int((shares[GOOD] >= LEAST_SHARE / GOOD.sum()).sum()),
        "at_good_modes": round(float(shares[GOOD].sum()), 3),
        "at_other_modes": round(float(shares[~GOOD].sum()), 3),
        "at_no_mode": round(float(1 - shares.sum()), 3),
    }


def draw(panels: dict[str, NDArray[Any]], rewards: NDArray[np.float32], path: Path) -> None:
    """Actions side by side; circles around the good modes."""
    figure, axes = new_figure(columns=len(panels), height=2.7)
    for place, (name, points) in enumerate(panels.items()):
        _draw_modes(axes[place])
        colours: Any = [GENERATED if reward > 0.5 else SOURCE for reward in rewards] if name == "data" else GENERATED
        axes[place].scatter(points[:, 0], points[:, 1], s=2, c=colours, alpha=0.4, linewidths=0)
        axes[place].set_title(name, fontsize=9)
    axes[0].set_xlabel("blue: rewarded, grey: not", fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=150)


def _draw_modes(axes: Axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 60)
    for centre in MODES[GOOD]:
        axes.plot(*(centre[:, None] + NEAR * np.stack([np.cos(angle), np.sin(angle)])), color=TRUTH, linewidth=0.9)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))


if __name__ == "__main__":
    main()

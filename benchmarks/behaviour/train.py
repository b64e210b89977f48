"""Train a behaviour policy with Soft Actor-Critic and keep a snapshot of it every so many steps.

python -m benchmarks.behaviour.train HalfCheetah-v5 --steps 400000 --output benchmarks/behaviour/halfcheetah
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.datasets import EVERY

LAYERS = {"latent_pi.0": "hidden_0", "latent_pi.2": "hidden_1", "mu": "mean", "log_std": "log_std"}
"""Stable-Baselines3's names of the actor's layers, and ours."""


def main() -> None:
    """Train one policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--every", type=int, default=EVERY)
    parser.add_argument("--learning-starts", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = SAC(
        "MlpPolicy",
        gymnasium.make(arguments.env),
        learning_starts=arguments.learning_starts,
        batch_size=256,
        train_freq=8,
        gradient_steps=8,
        policy_kwargs={"net_arch": [128, 128]},
        seed=arguments.seed,
        device="cpu",
    )
    model.learn(arguments.steps, callback=_Snapshots(arguments.output, arguments.every))


class _Snapshots(BaseCallback):
    """Saves the actor in the form that `gta_datasets.rollouts.SquashedGaussian` reads."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.folder, self.every = folder, every

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            actor: Any = self.model.policy.actor
            state = actor.state_dict()
            weights = {}
            for theirs, ours in LAYERS.items():
                weights[f"{ours}.weight"] = state[f"{theirs}.weight"].numpy().T
                weights[f"{ours}.bias"] = state[f"{theirs}.bias"].numpy()
            self.folder.mkdir(parents=True, exist_ok=True)
            np.savez(self.folder / f"{self.num_timesteps:07d}.npz", **weights)
        return True


if __name__ == "__main__":
    main()

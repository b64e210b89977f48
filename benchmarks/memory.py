"""Peak memory while training on a large dataset, against the size of its raw arrays.

python -m benchmarks.memory --episodes 1000 --steps 1000
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np

import gta_datasets
from benchmarks.record import write_record
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.export import write_minari

OBSERVATIONS, ACTIONS = 17, 6
DATASET = "benchmarks/memory-v0"


def make(episodes: int, steps: int) -> None:
    """Write a random dataset of float32 arrays, one part per episode."""
    rng = np.random.default_rng(0)

    def part() -> Episodes:
        truncations = np.zeros(steps, np.bool_)
        truncations[-1] = True
        return Episodes(
            rng.standard_normal((steps + 1, OBSERVATIONS), np.float32),
            rng.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
            rng.standard_normal(steps, np.float32),
            np.zeros(steps, np.bool_),
            truncations,
            np.array([0, steps]),
        )

    write_minari(
        DATASET,
        (part() for _ in range(episodes)),
        observation_codec=SpaceCodec.of(gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)),
        action_codec=SpaceCodec.of(gymnasium.spaces.Box(-1, 1, (ACTIONS,), np.float32), name="action"),
        metadata={"algorithm_name": "random"},
    )


def train() -> None:
    """A few steps of training with the default network, and the peak resident memory they needed, in bytes."""
    gta_datasets.augment(DATASET, preset="cpu", training_steps=20, progress=False).fit()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure(episodes: int, steps: int) -> int:
    """Peak of a fresh process that trains on a fresh dataset."""
    with tempfile.TemporaryDirectory() as folder:
        minari_root = Path(folder) / "minari"
        minari_root.mkdir()
        environment = os.environ | {"MINARI_DATASETS_PATH": str(minari_root), "GTA_DATASETS_CACHE": folder}
        command = [sys.executable, "-m", "benchmarks.memory", "--episodes", str(episodes), "--steps", str(steps)]
        subprocess.run([*command, "--stage", "make"], env=environment, check=True)
        trained = subprocess.run(
            [*command, "--stage", "train"], env=environment, capture_output=True, text=True, check=True
        )
        return int(trained.stdout)


def main() -> None:
    """Write `results/memory.json`: the peak over what the same training needs on a tiny dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--stage", choices=("make", "train", "all"), default="all", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage == "make":
        make(arguments.episodes, arguments.steps)
        return
    if arguments.stage == "train":
        train()
        return
    tiny, full = measure(4, arguments.steps), measure(arguments.episodes, arguments.steps)
    transitions = arguments.episodes * arguments.steps
    raw = 4 * (OBSERVATIONS * (transitions + arguments.episodes) + (ACTIONS + 1) * transitions) + 2 * transitions
    ratio = (full - tiny) / raw
    path = write_record(
        "memory",
        "benchmarks.memory",
        {
            "transitions": transitions,
            "raw_bytes": raw,
            "peak_bytes": full,
            "peak_bytes_on_4_episodes": tiny,
            "extra_over_raw": round(ratio, 3),
        },
    )
    print(f"raw arrays {raw / 1e6:.0f} MB; training needs {ratio:.2f} times that beyond network and libraries; {path}")


if __name__ == "__main__":
    main()

"""Adapters against what d3rlpy and Stable-Baselines3 build themselves, in one run.

python -m benchmarks.adapters --transitions 1000000
python -m benchmarks.adapters --transitions 5000000
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import gta_datasets
from benchmarks.quiet import fit, import_d3rlpy
from benchmarks.record import write_record
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.export import write_minari

DATASET = "benchmarks/adapters-v0"
OBSERVATION_SPACE = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float64)  # HalfCheetah's
ACTION_SPACE = gymnasium.spaces.Box(-1, 1, (6,), np.float32)
SOURCE_EPISODES, SOURCE_STEPS = 100, 1_000
ROUNDS = 5
"""Repetitions of a pair of timings; the median of their ratios counts."""


def make_source() -> None:
    """A dataset of random episodes of 1,000 steps."""
    rng = np.random.default_rng(0)
    write_minari(
        DATASET,
        (random_episodes(rng, np.array([SOURCE_STEPS])) for _ in range(SOURCE_EPISODES)),
        observation_codec=SpaceCodec.of(OBSERVATION_SPACE),
        action_codec=SpaceCodec.of(ACTION_SPACE, name="action"),
        metadata={"algorithm_name": "random"},
    )


def random_episodes(rng: np.random.Generator, lengths: np.ndarray) -> Episodes:
    """Truncated episodes of random numbers."""
    steps, episodes = int(lengths.sum()), len(lengths)
    truncations = np.zeros(steps, np.bool_)
    truncations[np.cumsum(lengths) - 1] = True
    return Episodes(
        rng.standard_normal((steps + episodes, 17)),
        rng.uniform(-1, 1, (steps, 6)).astype(np.float32),
        rng.standard_normal(steps, np.float32),
        np.zeros(steps, np.bool_),
        truncations,
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def open_dataset(transitions: int) -> gta_datasets.GTAAugmentedDataset:
    """The source and enough generated transitions to make `transitions` in total."""
    generated = transitions - SOURCE_EPISODES * SOURCE_STEPS
    return gta_datasets.augment(
        DATASET, preset="cpu", training_steps=1, width=8, depth=1, num_transitions=generated, progress=False
    )


def fill_cache(transitions: int) -> None:
    """Commit shards of random numbers in the form that generating would give them."""
    pipeline = open_dataset(transitions).storage.pipeline
    rng = np.random.default_rng(1)
    for number in range(pipeline.plan.num_shards):
        lengths = pipeline.augmenter.lengths(number)
        origin = {"source_episode": np.zeros(len(lengths), np.int64), "source_start": np.zeros(len(lengths), np.int64)}
        returns = {name: np.zeros(len(lengths), np.float32) for name in ("source_return", "asked_return")}
        pipeline.fit().put(number, {**random_episodes(rng, lengths).arrays(), **origin, **returns})


def opening(transitions: int) -> dict[str, float]:
    """Time and memory of a first batch from a complete cache, in this fresh process; imports aside."""
    import_d3rlpy()
    imported = resident_bytes()
    started = time.perf_counter()
    buffer = open_dataset(transitions).to_d3rlpy()
    opened, before = time.perf_counter(), resident_bytes()
    buffer.sample_transition_batch(256)
    return {
        "open_seconds": round(opened - started, 3),
        "first_batch_seconds": round(time.perf_counter() - started, 3),
        "resident_mb_after_imports": round(imported / 1e6, 1),
        "resident_mb_opened": round(before / 1e6, 1),
        "resident_mb_after_first_batch": round(resident_bytes() / 1e6, 1),
    }


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds(work: Callable[[], object], number: int = 1) -> float:
    """How long one of `number` calls of `work` takes."""
    started = time.perf_counter()
    for _ in range(number):
        work()
    return (time.perf_counter() - started) / number


def compare(
    stock: Callable[[], object], ours: Callable[[], object], *, calls: tuple[int, int] = (1, 1), rounds: int = ROUNDS
) -> dict[str, float]:
    """Both in turn, `calls` times each; seconds per call, and how many times faster ours is (medians of rounds)."""
    pairs = [(seconds(stock, calls[0]), seconds(ours, calls[1])) for _ in range(rounds)]
    return {
        "stock_seconds": float(np.median([first for first, _ in pairs])),
        "ours_seconds": float(np.median([second for _, second in pairs])),
        "ratio": round(float(np.median([first / second for first, second in pairs])), 2),
    }


def bench_d3rlpy(transitions: int, fit_steps: int) -> dict[str, Any]:
    """Building a buffer, batches, trajectories, TD3+BC."""
    augmented, d3rlpy = open_dataset(transitions), import_d3rlpy()
    episodes = list(augmented.to_d3rlpy().episodes)  # stock d3rlpy builds its buffer from these, ready in memory

    def build() -> Any:
        return d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=episodes)

    # Ours is on maps that all adapters share; opening them is measured by itself.
    found = {"build": compare(build, augmented.to_d3rlpy, rounds=1)}
    stock, ours = build(), augmented.to_d3rlpy()
    for size in (256, 1024):
        found[f"batch_{size}"] = compare(
            functools.partial(stock.sample_transition_batch, size),
            functools.partial(ours.sample_transition_batch, size),
            calls=(10_000 // size, 100_000 // size),
        )
    found["trajectories_64x20"] = compare(
        lambda: stock.sample_trajectory_batch(64, 20), lambda: ours.sample_trajectory_batch(64, 20), calls=(40, 400)
    )

    def train(buffer: Any) -> None:
        fit(d3rlpy.algos.TD3PlusBCConfig(batch_size=256).create(), buffer, fit_steps)

    found["td3_bc_fit"] = compare(lambda: train(stock), lambda: train(ours), rounds=3)
    return found


def bench_sb3(transitions: int) -> dict[str, Any]:
    """Filling a buffer and batches of 256."""
    from stable_baselines3.common.buffers import ReplayBuffer

    augmented = open_dataset(transitions)
    rows = Corpus(augmented).transitions(np.arange(transitions))
    info: list[dict[str, Any]] = [{}]

    def fill() -> ReplayBuffer:
        buffer = ReplayBuffer(transitions, OBSERVATION_SPACE, ACTION_SPACE, device="cpu")
        done = rows.terminated | rows.truncated
        for row in range(transitions):
            buffer.add(
                rows.observations[row : row + 1],
                rows.next_observations[row : row + 1],
                rows.actions[row : row + 1],
                rows.rewards[row : row + 1],
                done[row : row + 1],
                info,
            )
        return buffer

    found = {
        "fill_copy": compare(fill, lambda: augmented.to_sb3(device="cpu", copy=True), rounds=1),
        "fill_view": compare(fill, lambda: augmented.to_sb3(device="cpu"), rounds=1),
    }
    stock, ours = augmented.to_sb3(device="cpu", copy=True), augmented.to_sb3(device="cpu")
    found["batch_256"] = compare(lambda: stock.sample(256), lambda: ours.sample(256), calls=(1_000, 1_000))
    return found


def in_new_process(stage: str, transitions: int, environment: dict[str, str]) -> dict[str, Any]:
    """What this module measures in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.adapters", "--stage", stage, "--transitions", str(transitions)]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Write `results/adapters-<transitions>.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--fit-steps", type=int, default=2_000, help="updates of TD3+BC")
    parser.add_argument("--stage", choices=("open", "d3rlpy", "sb3"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "open": lambda: opening(arguments.transitions),
        "d3rlpy": lambda: bench_d3rlpy(arguments.transitions, arguments.fit_steps),
        "sb3": lambda: bench_sb3(arguments.transitions),
    }
    if arguments.stage:
        print(json.dumps(stages[arguments.stage]()))
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "minari").mkdir()
        environment = {"MINARI_DATASETS_PATH": f"{folder}/minari", "GTA_DATASETS_CACHE": f"{folder}/cache"}
        os.environ.update(environment)
        make_source()
        fill_cache(arguments.transitions)
        found = {stage: in_new_process(stage, arguments.transitions, dict(os.environ)) for stage in stages}
        path = write_record(
            f"adapters-{arguments.transitions}",
            "benchmarks.adapters",
            {"transitions": arguments.transitions, **found},
            packages=("d3rlpy", "stable-baselines3"),
        )
    print(json.dumps(found, indent=2))
    print(path)


if __name__ == "__main__":
    main()

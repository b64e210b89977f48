"""The qualification filter against the simulator: what it keeps, what it costs, and where the two disagree.

python -m benchmarks.qualify sim/halfcheetah/medium-v0 --preset cpu
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import gta_datasets
from benchmarks.record import write_record
from gta_datasets.data.bank import Columns
from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.errors import DatasetError
from gta_datasets.methods.qualified import Qualified
from gta_datasets.simulator import Simulator, simulator_for

DELTAS = (0.01, 0.02, 0.03, 0.05, 0.08)
THRESHOLD = 0.05
"""A trajectory is bad if the simulator's error of one of its steps is larger (`Quality.threshold`)."""


def main() -> None:
    """Write `results/qualify/<dataset>-<preset>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=4, help="shards that are judged")
    arguments = parser.parse_args()
    # A filter that lets everything pass: every shard is judged as it is generated.
    augmented = gta_datasets.augment(arguments.dataset, preset=arguments.preset, seed=arguments.seed, qualify=1e9)
    simulator = simulator_for(augmented.env_spec)
    if simulator is None:
        raise DatasetError(f"the simulator of {arguments.dataset} cannot be set to a state, so nothing can be compared")
    pipeline, started = augmented.storage.pipeline, time.perf_counter()
    augmented.fit()
    shards = [pipeline.shard(number) for number in range(min(arguments.shards, pipeline.plan.num_shards))]
    assert isinstance(pipeline.augmenter, Qualified)  # noqa: S101
    learned = np.concatenate([pipeline.augmenter.worst_errors(shard) for shard in shards])
    generated = concatenate(Episodes.from_arrays(shard) for shard in shards)
    path = write_record(
        f"qualify/{arguments.dataset.replace('/', '-')}-{arguments.preset}",
        "benchmarks.qualify",
        {
            "dataset": arguments.dataset,
            "preset": arguments.preset,
            "seed": arguments.seed,
            "trajectories": generated.num_episodes,
            "seconds": round(time.perf_counter() - started, 1),
            **compare(generated, learned, pipeline.source.episodes, simulator),
        },
    )
    print(path.read_text())


def compare(generated: Episodes, learned: np.ndarray, source: Episodes, simulator: Simulator) -> dict[str, Any]:
    """Figures of all trajectories and of those that pass each delta; `learned` holds their worst errors, (G,)."""
    steps = simulator.step(generated.observations[generated.transition_rows], generated.actions)
    columns = Columns.of(source)
    given, true = (columns.observation.forward(rows) for rows in (generated.next_observations, steps.next_observations))
    errors = np.square(given - true).mean(axis=1)
    worst = np.maximum.reduceat(errors, generated.offsets[:-1])

    def figures(kept: np.ndarray) -> dict[str, float | None]:
        rows, good = np.repeat(kept, generated.lengths), worst <= THRESHOLD
        if not kept.any():
            return {"share_kept": 0.0}
        return {
            "share_kept": round(float(kept.mean()), 4),
            "dynamics_mse": round(float(errors[rows].mean()), 6),
            "oracle_reward": round(float(steps.rewards[rows].mean()), 4),
            "bad_window_share": round(float(1 - good[kept].mean()), 4),
            "recall_of_good": round(float(kept[good].mean()), 4) if good.any() else None,
        }

    logs = np.log(learned), np.log(worst)
    return {
        "log_error_correlation": round(float(np.corrcoef(*logs)[0, 1]), 4),
        "all": figures(np.ones(len(worst), np.bool_)),
        "by_delta": {str(delta): figures(learned <= delta) for delta in DELTAS},
        "by_simulator": figures(worst <= THRESHOLD),
    }


if __name__ == "__main__":
    main()

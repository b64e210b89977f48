"""Do DiffStitch's bridges end where the recorded trajectory goes on? The simulator says.

python -m benchmarks.stitching sim/hopper/medium-replay-v0 --preset demo
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import gta_datasets
from benchmarks.record import write_record
from gta_datasets.data.episodes import Episodes
from gta_datasets.data.normalize import Standardizer
from gta_datasets.errors import DatasetError
from gta_datasets.methods.base import Shard
from gta_datasets.simulator import Simulator, simulator_for

NEAR = 0.5
"""Standard deviations of the source from which on a target counts as missed."""


def main() -> None:
    """Write `results/stitching/<dataset>-<preset>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--num-transitions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    augmented = gta_datasets.augment(
        arguments.dataset,
        "diffstitch",
        preset=arguments.preset,
        num_transitions=arguments.num_transitions,
        seed=arguments.seed,
    )
    simulator = simulator_for(augmented.env_spec)
    if simulator is None:
        raise DatasetError(f"the simulator of {arguments.dataset} cannot be set to a state, so nothing can be judged")
    pipeline = augmented.generate().storage.pipeline
    scale = Standardizer.fit(pipeline.source.episodes.observations).scale
    judged = [judge(pipeline.shard(number), simulator, scale) for number in range(pipeline.plan.num_shards)]
    last, within = (np.concatenate([part[name] for part in judged]) for name in ("last", "within"))
    path = write_record(
        f"stitching/{arguments.dataset.replace('/', '-')}-{arguments.preset}",
        "benchmarks.stitching",
        {
            "dataset": arguments.dataset,
            "preset": arguments.preset,
            "seed": arguments.seed,
            "config": augmented.config.to_dict(),
            "acceptance_rate": augmented.acceptance_rate,
            "trajectories": len(last),
            "distance_to_target": {
                "median": round(float(np.median(last)), 4),
                "95 %": round(float(np.quantile(last, 0.95)), 4),
                f"share within {NEAR}": round(float((last <= NEAR).mean()), 4),
            },
            "bridge_dynamics_mse": round(float(within.mean()), 6),
        },
    )
    print(path.read_text())


def judge(shard: Shard, simulator: Simulator, scale: np.ndarray) -> dict[str, np.ndarray]:
    """Accepted trajectories of a shard against the true dynamics, in standard deviations of the source.

    Returns:
        `last`: L2 distance from where the last generated action truly leads to the recorded state, (B,); `within`: mean
        squared error of every generated step.
    """
    episodes = Episodes.from_arrays(shard)
    first = episodes.offsets[:-1] + shard["stitch_start"]
    lengths = shard["stitch_length"]
    steps = np.concatenate([np.arange(*ends) for ends in zip(first, first + lengths, strict=True)])
    true = simulator.step(episodes.observations[episodes.transition_rows[steps]], episodes.actions[steps])
    gaps: Any = (true.next_observations - episodes.next_observations[steps]) / scale
    last = np.cumsum(lengths) - 1
    return {"last": np.sqrt(np.square(gaps[last]).sum(axis=1)), "within": np.square(gaps).mean(axis=1)}


if __name__ == "__main__":
    main()

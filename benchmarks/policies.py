"""Policies trained on the source and on augmented data: TD3+BC of d3rlpy, evaluated in the environment.

python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant source --seed 0
python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant gta --seed 0
python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant qualified --seed 0

Every run adds one line to `results/policies.jsonl`; a run that is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium
import minari
import numpy as np

import gta_datasets
from benchmarks import record
from benchmarks.adapters import import_d3rlpy
from gta_datasets.adapters import to_d3rlpy

VARIANTS: dict[str, dict[str, Any] | None] = {"source": None, "gta": {}, "qualified": {"qualify": 0.03}}
"""What is added to the source: nothing, or what `augment` generates with these settings."""

EVALUATION_SEED = 10_000


def main() -> None:
    """Train one policy and add its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the policy; the generator's is 0")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--num-transitions", type=int, default=200_000, help="generated")
    parser.add_argument("--updates", type=int, default=150_000)
    parser.add_argument("--every", type=int, default=30_000, help="updates between two evaluations")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--real-fraction", type=float, default=None)
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    arguments = parser.parse_args()
    unit = {name: value for name, value in vars(arguments).items() if name != "every"}
    ledger = record.RESULTS / "policies.jsonl"
    if any(line["unit"] == unit for line in record.read_lines(ledger)):
        print("done already")
        return
    started = time.perf_counter()
    scores = train(arguments)
    record.append_line(
        ledger,
        "benchmarks.policies",
        {"unit": unit, "returns": scores, "seconds": round(time.perf_counter() - started)},
    )
    print(json.dumps(scores))


def train(arguments: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Mean and spread of episode returns by number of updates."""
    d3rlpy = import_d3rlpy()
    dataset, settings = minari.load_dataset(arguments.dataset), VARIANTS[arguments.variant]
    options = {"seed": arguments.seed, "real_fraction": arguments.real_fraction}
    if settings is None:
        buffer = to_d3rlpy(dataset, **options)
    else:
        buffer = gta_datasets.augment(
            dataset, preset=arguments.preset, num_transitions=arguments.num_transitions, **settings
        ).to_d3rlpy(**options)
    d3rlpy.seed(arguments.seed)
    scaler = to_d3rlpy(dataset).observation_scaler()  # the same for all variants
    algorithm = d3rlpy.algos.TD3PlusBCConfig(batch_size=arguments.batch_size, observation_scaler=scaler).create()
    env = gymnasium.make(dataset.env_spec)
    scores: dict[int, dict[str, float]] = {}

    def evaluate(algo: Any, _epoch: int, updates: int) -> None:
        returns = [episode_return(algo, env, EVALUATION_SEED + number) for number in range(arguments.episodes)]
        scores[updates] = {"mean": round(float(np.mean(returns)), 1), "std": round(float(np.std(returns)), 1)}

    algorithm.fit(
        buffer,
        n_steps=arguments.updates,
        n_steps_per_epoch=arguments.every,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        epoch_callback=evaluate,
    )
    return scores


def episode_return(algorithm: Any, env: gymnasium.Env[Any, Any], seed: int) -> float:
    """Sum of rewards of one episode of the policy's mean action."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = algorithm.predict(observation[None].astype(np.float32))[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    main()

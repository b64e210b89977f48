"""GTP and GTP-BC beside d3rlpy's BC, on a source or on what GTA adds to it, evaluated in the environment.

python -m benchmarks.gtp --dataset sim/hopper/medium-v0 --variant gtp --variant gtp-bc --variant bc --seed 0 --seed 1
python -m benchmarks.gtp --dataset sim/hopper/medium-v0 --variant gtp --data gta --steps 1 --steps 2 --steps 5
python -m benchmarks.gtp --dataset sim/hopper/medium-v0 --variant gtp --no-score-targets
python -m benchmarks.gtp --dataset sim/hopper/medium-v0 --show

Every run adds one line to `results/gtp.jsonl`; a run that is there already is not done again. `--show`
trains nothing: it prints and draws what all runs of as many updates on a dataset say, `gtp-<dataset>.png`. TD3+BC and
IQL on the same data are units of `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import minari
import numpy as np

import gta_datasets
from benchmarks import record
from benchmarks.environments import make_flat
from benchmarks.episodes import Act, episode_returns, evaluation_seeds, summary
from benchmarks.gtp_table import picture, table, ways
from benchmarks.quiet import fit, import_d3rlpy
from benchmarks.stepping import Group
from gta_datasets.adapters import to_d3rlpy

__all__ = ["act_seconds", "main"]

LEDGER = "gtp.jsonl"
CALLS = 200
"""Actions for which the time of one is taken."""

SETTINGS = (
    "dataset",
    "data",
    "preset",
    "num_transitions",
    "updates",
    "batch_size",
    "episodes",
    "steps",
    "score_targets",
    "eta",
    "action_samples",
    "temperature",
)
"""What tells runs apart, besides variant and seed."""

GTA: dict[str, Any] = {"alpha": 1.3, "terminations": "source"}
"""Of GTA's data in all lines of the ledger."""


def main() -> None:
    """Train the policies that are missing and add their lines."""
    arguments = parse()
    path = record.RESULTS / LEDGER
    lines = record.read_lines(path)
    if arguments.show:
        show(lines, arguments.dataset, arguments.updates)
        return
    done = [line["unit"] for line in lines]
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    for variant in arguments.variant or VARIANTS:
        for seed in arguments.seed or [0]:
            unit = settings | {"variant": variant, "seed": seed}
            if unit in done:
                print(f"{variant}, seed {seed}: done already")
                continue
            measured = {"unit": unit} | run(unit)
            record.append_line(path, "benchmarks.gtp", measured, packages=("d3rlpy",))
            print(json.dumps(measured), flush=True)


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="may be given again (default: all)")
    parser.add_argument("--data", choices=("source", "gta"), default="source")
    parser.add_argument("--seed", type=int, action="append", help="of the policy; may be given again")
    parser.add_argument("--updates", type=int, default=150_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    parser.add_argument("--steps", type=int, action="append", help="K, jumps per action; may be given again")
    parser.add_argument("--no-score-targets", dest="score_targets", action="store_false", help="a solver's targets")
    parser.add_argument("--eta", type=float, default=1.0, help="how much an advantage counts")
    parser.add_argument(
        "--action-samples", type=int, action="append", help="of which GTP's critics choose one; may be given again"
    )
    parser.add_argument(
        "--temperature", type=float, action="append", help="of the noise that actions are made from; may be given again"
    )
    parser.add_argument("--preset", default="cpu", help="of GTA")
    parser.add_argument("--num-transitions", type=int, default=200_000, help="that GTA generates")
    parser.add_argument("--show", action="store_true", help="train nothing, print a table and draw")
    arguments = parser.parse_args()
    arguments.steps, arguments.temperature = arguments.steps or [5], arguments.temperature or [1.0]
    arguments.action_samples = arguments.action_samples or [1]
    return arguments


def show(lines: Sequence[Mapping[str, Any]], dataset: str, updates: int) -> None:
    """Print a table and draw a picture."""
    found = ways(lines, dataset, updates)
    print(table(found))
    path = record.RESULTS / f"gtp-{dataset.replace('/', '-')}.png"
    picture(found).savefig(path, dpi=120)
    print(path)


def run(unit: dict[str, Any]) -> dict[str, Any]:
    """Train one policy and evaluate it at every number of jumps and temperature."""
    d3rlpy = import_d3rlpy()
    source = minari.load_dataset(unit["dataset"])
    buffer = to_d3rlpy(data_of(unit, source), seed=unit["seed"])
    d3rlpy.seed(unit["seed"])
    config = VARIANTS[unit["variant"]](unit)
    config.batch_size, config.observation_scaler = unit["batch_size"], to_d3rlpy(source).observation_scaler()
    algorithm = config.create()
    started = time.perf_counter()
    losses = fit(algorithm, buffer, unit["updates"])
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "losses": {name: round(value, 4) for name, value in losses[-1][1].items() if not name.startswith("time")},
        "evaluations": evaluations(algorithm, unit, make_flat(source, unit["episodes"])),
    }


def data_of(unit: dict[str, Any], source: minari.MinariDataset) -> minari.MinariDataset:
    """The source, or the source and what GTA generates from it."""
    if unit["data"] == "source":
        return source
    return gta_datasets.augment(
        source, preset=unit["preset"], num_transitions=unit["num_transitions"], progress=False, **GTA
    )


def evaluations(
    algorithm: Any, unit: dict[str, Any], environments: Sequence[gymnasium.Env[Any, Any]]
) -> list[dict[str, Any]]:
    """Mean and spread of returns and the seconds of one action, in every way that the policy acts."""
    if unit["variant"] == "bc":
        return [evaluate(algorithm.predict, environments)]
    found = []
    ways = {
        # Nobody chooses for the clone, and without noise there is nothing to choose from.
        (temperature, steps, 1 if unit["variant"] == "gtp-bc" or temperature == 0 else samples): None
        for temperature, steps, samples in itertools.product(unit["temperature"], unit["steps"], unit["action_samples"])
    }
    for temperature, steps, samples in ways:
        way = {"temperature": temperature, "steps": steps, "samples": samples}
        algorithm.config.temperature = temperature
        if unit["variant"] == "gtp":
            algorithm.config.n_action_samples = samples
        found.append({**way, **evaluate(partial(algorithm.predict, steps=steps), environments)})
    return found


def evaluate(act: Act, environments: Sequence[gymnasium.Env[Any, Any]]) -> dict[str, float]:
    """Mean and spread of returns, and milliseconds of one action."""
    returns = episode_returns(act, Group(environments), evaluation_seeds(len(environments)))
    size = environments[0].observation_space.shape or ()
    return {
        **summary(returns),
        "milliseconds_per_action": round(1e3 * act_seconds(act, np.zeros((1, *size), np.float32)), 3),
    }


def act_seconds(act: Act, observation: np.ndarray) -> float:
    """Median seconds of one action, of the processor: what other programs take does not count."""
    taken = []
    for _ in range(CALLS):
        started = time.process_time()
        act(observation)
        taken.append(time.process_time() - started)
    return float(np.median(taken))


def _gtp(unit: dict[str, Any]) -> Any:
    from gta_datasets.policies import GTPConfig

    return GTPConfig(
        score_targets=unit["score_targets"],
        eta=unit["eta"],
    )


def _gtp_bc(unit: dict[str, Any]) -> Any:
    from gta_datasets.policies import GTPBCConfig

    return GTPBCConfig(score_targets=unit["score_targets"])


def _bc(_unit: dict[str, Any]) -> Any:
    return import_d3rlpy().algos.BCConfig()


VARIANTS = {"gtp": _gtp, "gtp-bc": _gtp_bc, "bc": _bc}

if __name__ == "__main__":
    main()

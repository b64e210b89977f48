"""Policies trained by TD3+BC or IQL on the source and on augmented data, evaluated in the environment.

python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant source --variant gta --variant qualified --seed 0
python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant gta --seed 0 --algorithm iql --engine d3rlpy
python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant gta --real-fraction 0.8 --seed 0
python -m benchmarks.policies sim/halfcheetah/medium-v0 --variant source --variant gta --variant qualified --plot curves
python -m benchmarks.policies sim/halfcheetah/medium-v0 --plot ends

Every run adds one line to `results/policies.jsonl`; a run that is there already is not done again. Those that are
missing are trained together by `benchmarks.vectorised`, or one after the other by d3rlpy. `--plot` trains nothing: it
draws the returns by updates of all seeds that have the settings, or where all runs on the dataset end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import minari
import numpy as np
import torch

import gta_datasets
from benchmarks import record
from benchmarks.adapters import import_d3rlpy
from benchmarks.charts import draw_curves, draw_ends
from benchmarks.environments import evaluation_spec, make_flat
from benchmarks.episodes import EVALUATION_SEED, episode_returns, evaluation_seeds, summary
from benchmarks.record import Line
from benchmarks.vectorised import ALGORITHMS
from benchmarks.vectorised.draws import Run
from benchmarks.vectorised.tables import read_table
from benchmarks.vectorised.training import Course, Scores, train_and_evaluate
from gta_datasets.adapters import to_d3rlpy
from gta_datasets.augment import configuration
from gta_datasets.plots.drawing import legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS: dict[str, dict[str, Any] | None] = {
    "source": None,
    "gta": {},
    "qualified": {"qualify": 0.03},
    "alpha 1.1": {"alpha": 1.1},
    "mu 0.25": {"mu": 0.25},
    "mu 0.75": {"mu": 0.75},
    "fixed": {"condition": "fixed"},
}
"""What is added to the source: nothing, or what `augment` generates with these settings."""

LEDGER = "policies.jsonl"
SETTINGS = ("dataset", "engine", "preset", "num_transitions", "updates", "batch_size", "real_fraction", "episodes")
"""What tells runs apart, besides variant and seed, and the algorithm where it is not TD3+BC."""

RETURN_RANGE = 1_000.0
"""What IQL's rewards are scaled to, between the worst and the best return of the source; the paper's for locomotion."""


def main() -> None:
    """Train the policies that are missing and add their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="may be given again (default: gta)")
    parser.add_argument(
        "--seed", type=int, action="append", help="of a policy, not of what it learns from; may be given again"
    )
    parser.add_argument("--engine", choices=ENGINES, default="vectorised")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="td3_bc")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--num-transitions", type=int, default=200_000, help="generated")
    parser.add_argument("--updates", type=int, default=150_000)
    parser.add_argument("--every", type=int, default=30_000, help="updates between two evaluations")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--real-fraction", type=float, default=None)
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoints", type=Path, help="a folder, so that an interrupted stack can go on")
    parser.add_argument("--plot", choices=("curves", "ends"), help="draw what there is")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or ["gta"]
    ledger = record.RESULTS / LEDGER
    lines = record.read_lines(ledger)
    done = [line["unit"] for line in lines]
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    if arguments.algorithm != "td3_bc":
        settings["algorithm"] = arguments.algorithm
    if arguments.plot is not None:
        figure = curves(lines, settings, arguments.variant) if arguments.plot == "curves" else ends(lines, settings)
        print(save(figure, settings, arguments.plot))
        return
    asked = [
        settings | {"variant": variant, "seed": seed} for variant in arguments.variant for seed in arguments.seed or [0]
    ]
    missing = [unit for unit in asked if unit not in done]
    if not missing:
        print("done already")
        return
    for unit, scores, seconds in ENGINES[arguments.engine](missing, arguments):
        measured = {"unit": unit, "returns": scores, "seconds": round(seconds), "config": config_of(unit)}
        record.append_line(ledger, "benchmarks.policies", measured, packages=("d3rlpy",))
        print(json.dumps(measured), flush=True)


def curves(lines: list[Line], settings: dict[str, Any], variants: list[str]) -> Figure:
    """Returns by updates."""
    figure, (axes,) = new_figure()
    found = {name: record.of_settings(lines, settings | {"variant": name}) for name in variants}
    draw_curves(axes, {f"{name}, {len(runs)} runs": runs for name, runs in found.items()})
    legend(figure, axes)
    return figure


def ends(lines: list[Line], settings: dict[str, Any]) -> Figure:
    """Where all runs of a dataset, engine and algorithm end that have as many updates; a row per setting."""
    compared = {name: settings.get(name) for name in ("dataset", "engine", "updates", "algorithm")}
    found: dict[str, list[float]] = {}
    for line in lines:
        if {name: line["unit"].get(name) for name in compared} == compared:
            end = line["returns"][str(settings["updates"])]["mean"]
            found.setdefault(_difference(line["unit"], settings), []).append(end)
    figure, (axes,) = new_figure(height=0.8 + 0.28 * len(found))
    draw_ends(axes, dict(sorted(found.items(), key=lambda row: np.mean(row[1]))))
    return figure


def _difference(unit: dict[str, Any], settings: dict[str, Any]) -> str:
    """The variant, and what is set otherwise than usual."""
    others = [f"{name} {value}" for name, value in unit.items() if name in settings and value != settings[name]]
    return ", ".join([unit["variant"], *others])


def save(figure: Figure, settings: dict[str, Any], kind: str) -> Path:
    """The file, `results/policies-<dataset>-<algorithm>-<kind>.png`."""
    dataset, algorithm = settings["dataset"].replace("/", "-"), settings.get("algorithm", "td3_bc")
    path = record.RESULTS / f"policies-{dataset}-{algorithm}-{kind}.png"
    figure.savefig(path, dpi=120)
    return path


Results = Iterator[tuple[Line, Scores, float]]
"""Units with their scores and seconds."""


def train_stack(units: list[dict[str, Any]], arguments: argparse.Namespace) -> Results:
    """Together, in equal shares of the seconds."""
    source = minari.load_dataset(arguments.dataset)
    scalers = fitted_scalers(source, arguments)
    variants = {unit["variant"] for unit in units}
    tables = {name: read_table(variant(name, source, arguments), **scalers) for name in variants}
    runs = [Run(tables[unit["variant"]], unit["seed"], arguments.real_fraction) for unit in units]
    course = Course(
        ALGORITHMS[arguments.algorithm],
        evaluation_spec(source),
        batch_size=arguments.batch_size,
        updates=arguments.updates,
        every=arguments.every,
        episodes=arguments.episodes,
        seed=EVALUATION_SEED,
        device=device_of(arguments),
    )
    kept = None if arguments.checkpoints is None else [checkpoint_of(unit, arguments.checkpoints) for unit in units]
    for trained in train_and_evaluate(runs, course, checkpoints=kept):
        yield units[trained.place], trained.scores, trained.seconds
        if kept is not None:
            kept[trained.place].unlink()


def checkpoint_of(unit: dict[str, Any], folder: Path) -> Path:
    """Where a unit is kept while it is trained."""
    digest = hashlib.blake2b(json.dumps(unit, sort_keys=True).encode(), digest_size=8)
    return folder / f"{digest.hexdigest()}.safetensors"


def train_one_by_one(units: list[dict[str, Any]], arguments: argparse.Namespace) -> Results:
    """With d3rlpy."""
    for unit in units:
        started = time.perf_counter()
        scores = train_with_d3rlpy(unit["variant"], unit["seed"], arguments)
        yield unit, scores, time.perf_counter() - started


def train_with_d3rlpy(name: str, seed: int, arguments: argparse.Namespace) -> Scores:
    """The scores of one run."""
    d3rlpy = import_d3rlpy()
    source = minari.load_dataset(arguments.dataset)
    buffer = to_d3rlpy(variant(name, source, arguments), seed=seed, real_fraction=arguments.real_fraction)
    d3rlpy.seed(seed)
    config = getattr(d3rlpy.algos, ALGORITHMS[arguments.algorithm].config)
    settings = {"batch_size": arguments.batch_size, **fitted_scalers(source, arguments)}
    algorithm = config(**settings).create(device=device_of(arguments))
    environments, seeds = make_flat(source, arguments.episodes), evaluation_seeds(arguments.episodes)
    scores: Scores = {}

    def evaluate(algo: Any, _epoch: int, updates: int) -> None:
        if updates % arguments.every == 0 or updates == arguments.updates:
            scores[updates] = summary(episode_returns(algo.predict, environments, seeds))

    algorithm.fit(
        buffer,
        n_steps=arguments.updates,
        n_steps_per_epoch=math.gcd(arguments.every, arguments.updates),  # d3rlpy trains whole epochs only
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        epoch_callback=evaluate,
    )
    return scores


def variant(name: str, source: minari.MinariDataset, arguments: argparse.Namespace) -> minari.MinariDataset:
    """The source, or the source and what is generated from it."""
    settings = VARIANTS[name]
    if settings is None:
        return source
    return gta_datasets.augment(source, preset=arguments.preset, num_transitions=arguments.num_transitions, **settings)


def config_of(unit: Line) -> Line | None:
    """All settings of the data that are generated, if any are."""
    settings = VARIANTS[unit["variant"]]
    return None if settings is None else configuration("gta", unit["preset"], None, "cpu", settings).to_dict()


def fitted_scalers(source: minari.MinariDataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """d3rlpy's scalers, the same for all variants."""
    buffer = to_d3rlpy(source)
    scalers: dict[str, Any] = {"observation_scaler": buffer.observation_scaler()}
    if arguments.algorithm == "iql":
        scalers["reward_scaler"] = buffer.reward_scaler("return", multiplier=RETURN_RANGE)
    return scalers


def device_of(arguments: argparse.Namespace) -> str:
    """The device asked for, or the best there is."""
    if arguments.device != "auto":
        return str(arguments.device)
    return "cuda:0" if torch.cuda.is_available() else "cpu"


ENGINES = {"vectorised": train_stack, "d3rlpy": train_one_by_one}

if __name__ == "__main__":
    main()

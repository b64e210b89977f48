"""Methods and ablations side by side: true rewards, true dynamics and novelty of what they generate, and seconds.

python -m benchmarks.quality methods                     # tables 19 and 21 to 25: all datasets, methods and conditions
python -m benchmarks.quality ablations                   # tables 17 and 18, and levels found from the data
python -m benchmarks.quality horizons                    # table 10
python -m benchmarks.quality levels                      # table 29, coarser: mu x alpha
python -m benchmarks.quality methods --show              # the tables of what was measured so far

Every unit (dataset, variant) adds one line to `results/quality.jsonl`; one that is there already is not done again.
Models stay in the cache, so variants that share one train it once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import gta_datasets
from benchmarks import record
from benchmarks.quality_tables import show

DATASETS = (
    *(f"sim/{body}/{level}-v0" for body in ("halfcheetah", "hopper", "walker2d") for level in
      ("medium", "medium-replay", "expert")),
    "human/door/demonstrations-v0",
)  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "s4rl": {"method": "s4rl"},
    "synther": {"method": "synther"},
    "diffstitch": {"method": "diffstitch"},
    "gta": {},
    "gta reweighted": {"reweighting": "dense"},
    "gta fixed": {"condition": "fixed"},
    "gta unconditioned": {"condition": "none"},
    "gta unlimited": {"return_limit": 0.0},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "gta": {},
    "gta reward inpainting": {"condition": "rewards"},
    "gta relabelled": {"relabel": True},
    "gta auto": {"alpha": "auto", "mu": "auto"},
}
HORIZONS: dict[str, dict[str, Any]] = {f"horizon {horizon}": {"horizon": horizon} for horizon in (1, 15, 31, 63)}
LEVELS: dict[str, dict[str, Any]] = {
    f"mu {mu} alpha {alpha}": {"mu": mu, "alpha": alpha}
    for mu, alpha in itertools.product((0.1, 0.25, 0.5, 0.75), (1.0, 1.1, 1.3, 1.5))
}
EXPERIMENTS = {
    "methods": (DATASETS, METHODS),
    "ablations": (DATASETS[:2], ABLATIONS),
    "horizons": (DATASETS[:1], HORIZONS),
    "levels": (DATASETS[:1], LEVELS),
}
"""Datasets and variants by experiment."""


def main() -> None:
    """Measure what is missing of an experiment, or show what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--dataset", action="append", help="only these")
    parser.add_argument("--variant", action="append", help="only these")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--num-transitions", type=int, default=20_000, help="generated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=16_384, help="transitions set into the simulator")
    parser.add_argument("--show", action="store_true", help="measure nothing, print the tables")
    arguments = parser.parse_args()
    datasets, variants = EXPERIMENTS[arguments.experiment]
    ledger = record.RESULTS / "quality.jsonl"
    if arguments.show:
        lines = [line for line in record.read_lines(ledger) if line["unit"]["preset"] == arguments.preset]
        print(show(arguments.experiment, datasets, tuple(variants), lines))
        return
    done = [line["unit"] for line in record.read_lines(ledger)]
    for dataset, variant in itertools.product(arguments.dataset or datasets, arguments.variant or variants):
        unit = {"dataset": dataset, "variant": variant} | {
            name: getattr(arguments, name) for name in ("preset", "num_transitions", "seed", "sample")
        }
        if unit not in done:
            measured = measure(unit, variants[variant])
            record.append_line(ledger, "benchmarks.quality", {"unit": unit} | measured)
            print(json.dumps(unit), json.dumps(measured["quality"]["generated"]), flush=True)


def measure(unit: dict[str, Any], settings: dict[str, Any], novelty_sample: int = 4_096) -> dict[str, Any]:
    """Numbers and seconds of one unit."""
    augmented = gta_datasets.augment(
        unit["dataset"],
        preset=unit["preset"],
        num_transitions=unit["num_transitions"],
        seed=unit["seed"],
        progress=False,
        **settings,
    )
    fitted_before = augmented.is_fitted
    started = time.perf_counter()
    augmented.fit()
    fitted = time.perf_counter()
    augmented.generate()
    seconds = {
        "fit": None if fitted_before else round(fitted - started, 1),
        "generate": round(time.perf_counter() - fitted, 1),
    }
    quality = augmented.quality(sample=unit["sample"], novelty_sample=novelty_sample, seed=unit["seed"])
    return {
        "config": augmented.config.to_dict(),
        "seconds": seconds,
        "acceptance_rate": augmented.acceptance_rate,
        "levels": augmented.levels,
        "quality": json.loads(quality.to_json()),
    }


if __name__ == "__main__":
    main()

"""The whole way on one dataset: fit, generate, open again, measure.

python -m benchmarks.core sim/halfcheetah/medium-v0 --preset cpu --num-transitions 200000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import gta_datasets
from benchmarks.record import write_record
from gta_datasets.cli import parse_setting
from gta_datasets.errors import ConfigError


def main() -> None:
    """Measure and write `results/core/<dataset>-<preset>.json`, and the report beside the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--num-transitions", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=30_000, help="transitions set into the simulator")
    parser.add_argument("--cache-dir", type=Path, default=None, help="keep the cache here (default: a new folder)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--name", help="name of the result (default: dataset and preset)")
    arguments = parser.parse_args()
    try:
        settings = dict(parse_setting(setting) for setting in arguments.settings)
    except ConfigError as error:
        parser.error(str(error))
    dataset_and_preset = f"{arguments.dataset.replace('/', '-')}-{arguments.preset}"
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache_dir or Path(scratch)

        def open_dataset() -> gta_datasets.GTAAugmentedDataset:
            return gta_datasets.augment(
                arguments.dataset,
                preset=arguments.preset,
                num_transitions=arguments.num_transitions,
                seed=arguments.seed,
                cache_dir=cache,
                **settings,
            )

        was_empty = not cache.exists() or not any(cache.iterdir())
        augmented = open_dataset()
        already_fitted = augmented.is_fitted
        started = time.perf_counter()
        augmented.fit()
        fitted = time.perf_counter()
        augmented.generate()
        generated = time.perf_counter()
        again = open_dataset()
        again[0]
        first_source = time.perf_counter()
        again.generated[0]
        first_generated = time.perf_counter()
        quality = augmented.report(cache / "report.html", sample=arguments.sample)
        path = write_record(
            f"core/{arguments.name or dataset_and_preset}",
            "benchmarks.core",
            {
                "dataset": arguments.dataset,
                "preset": arguments.preset,
                "seed": arguments.seed,
                "config": augmented.config.to_dict(),
                "transitions": augmented.generated.total_steps,
                "cache_was_empty": was_empty,  # else a part of fitting and generating may have been done before
                "seconds": {
                    "fit": None if already_fitted else round(fitted - started, 1),
                    "generate": round(generated - fitted, 1),
                    "second_open_to_first_episode": round(first_source - generated, 3),
                    "second_open_to_first_generated_episode": round(first_generated - generated, 3),
                },
                "quality": json.loads(quality.to_json()),
            },
        )
        print(quality.table())
        print(path)


if __name__ == "__main__":
    main()

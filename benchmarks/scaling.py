"""Generation by several processes with one thread each, against one process with one thread, on the same shards.

python -m benchmarks.scaling sim/hopper/medium-v0 --preset cpu --workers 2

The parts of a run: one process, several workers, and several workers of which one is killed (SIGKILL) in mid-run. All
must leave the same files. `speedup` is the ratio of rates after the start, `speedup_with_start` that of whole runs, and
`matrix_product_speedup` that of nothing but matrix products: cores share clock and memory.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import gta_datasets
from benchmarks.record import write_record
from benchmarks.speed import peak


def main() -> None:
    """Write `results/scaling.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="id of a local Minari dataset")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num-transitions", type=int, default=50_000)
    parser.add_argument("--training-steps", type=int, default=50, help="the time of a shard does not depend on it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the workers then have one each, too
    options = {
        "preset": arguments.preset,
        "num_transitions": arguments.num_transitions,
        "training_steps": arguments.training_steps,
    }
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments.dataset, arguments.workers, Path(folder), options)
    measured["matrix_product_speedup"] = matrix_product_speedup(arguments.workers)
    path = write_record("scaling", "benchmarks.scaling", {"dataset": arguments.dataset, **measured})
    print(
        f"{measured['speedup']:.2f} times as fast with {arguments.workers} workers ({measured['shards']} shards); same "
        f"files: {measured['same_files']}; {path}"
    )


def measure(dataset: str, workers: int, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every part, the ratios, and whether all parts left the same files."""
    parts = {"one_process": 1, "workers": workers, "workers_one_killed": workers}
    seconds: dict[str, float] = {}
    rates: dict[str, float] = {}
    files: list[dict[str, str]] = []
    for part, processes in parts.items():
        augmented = gta_datasets.augment(dataset, device="cpu", progress=False, cache_dir=folder, **options).fit()
        if part == "workers_one_killed":
            threading.Thread(target=kill_one, args=(augmented.path,), daemon=True).start()
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            augmented.generate(workers=processes)
        seconds[part] = time.perf_counter() - started
        rates[part] = rate(augmented.path, processes)
        files.append(digests(augmented.path))
        shutil.rmtree(augmented.path)
    return {
        "preset": options["preset"],
        "workers": workers,
        "shards": len(files[0]),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "speedup": round(rates["workers"] / rates["one_process"], 3),
        "speedup_with_start": round(seconds["one_process"] / seconds["workers"], 3),
        "killed": [str(warning.message) for warning in told if "SIGKILL" in str(warning.message)],
        "same_files": files[0] == files[1] == files[2],
    }


def matrix_product_speedup(workers: int) -> float:
    """Matrix products per second of several processes with one thread each, in multiples of one process's."""
    rates = []
    for count in (1, workers):
        with multiprocessing.get_context("spawn").Pool(count, torch.set_num_threads, (1,)) as pool:
            rates.append(sum(found["bfloat16"] for found in pool.map(peak, ["cpu"] * count, chunksize=1)))
    return round(rates[1] / rates[0], 3)


def kill_one(folder: Path) -> None:
    """Kill a worker as soon as the first shard is there."""
    while not any(folder.glob("shard-*")):
        time.sleep(0.01)
    pid = multiprocessing.active_children()[0].pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def rate(folder: Path, processes: int) -> float:
    """Shards per second once every process had time for its first one: what starting costs is left out."""
    times = sorted(path.stat().st_mtime for path in folder.glob("shard-*"))
    return (len(times) - processes) / (times[-1] - times[processes - 1])


def digests(folder: Path) -> dict[str, str]:
    """The shards in a folder by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("shard-*")}


if __name__ == "__main__":
    main()

"""How fast windows are made, how good they are, and what share of the machine's matrix products that takes.

python -m benchmarks.speed samplers sim/halfcheetah/medium-v0 --preset cpu --horizon 31
python -m benchmarks.speed training sim/halfcheetah/medium-v0 --horizon 31 --minutes 10
python -m benchmarks.speed networks sim/halfcheetah/medium-v0 --preset demo --horizon 15
python -m benchmarks.speed steps sim/halfcheetah/medium-v0 --preset fast --horizon 31

`samplers` makes the same windows from one trained model with every sampler of `SAMPLERS`. The first is the paper's, the
others are to be as good in less time. `training` gives the paper's network that many minutes and the preset a tenth of
them. `networks` trains every one of `NETWORKS` with as many operations as the preset's takes. `steps` times steps of
training, also with the network compiled. Seconds are both of the clock and of the processor, which other work on the
machine does not change much; shares are of the processor's, and on a GPU of the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gta_datasets
from benchmarks.candidates import DiffusionTransformer, TemporalUNet
from benchmarks.record import write_record
from gta_datasets.config import GTAConfig
from gta_datasets.device import torch_device
from gta_datasets.training import loop

PAPER = {
    "sampler": "stochastic_heun",
    "sampler_steps": 128,
    "sigma_end": 0.002,
    "guidance_start": 0.0,
    "guidance": 2.0,
}
"""The paper's sampler; the preset of that name has its network as well."""

SAMPLERS: dict[str, dict[str, Any]] = {
    "the paper's": PAPER,
    "default": {},
    "32 steps, less noise": {"sampler_steps": 32, "sigma_end": 0.02, "eta": 5.0},
    "8 steps": {"sampler_steps": 8},
    "5 steps": {"sampler_steps": 5, "sigma_end": 0.2},
    "16 steps of the ODE": {"sampler": "dpm_2m"},
    "guidance 3": {"guidance": 3.0},
    "compiled": {"compile": True},
    **{f"flow map, {steps}": {"flow_steps": steps} for steps in (1, 2, 4)},
}
ADAM = {"optimizer": "adam", "learning_rate": 1e-3}
NETWORKS: dict[str, tuple[Callable[..., nn.Module] | None, dict[str, Any]]] = {
    **{
        f"temporal mixer, {width} x {depth}": (None, {"width": width, "depth": depth})
        for width, depth in ((96, 4), (128, 4), (192, 4), (256, 6))
    },
    **{f"transformer, {width} x 4": (partial(DiffusionTransformer, width=width, depth=4), {}) for width in (96, 160)},
    **{f"U-Net, {width}": (partial(TemporalUNet, width=width), ADAM) for width in (32, 64)},
    "the paper's, width 8": (None, {"network": "mixer_unet", "width": 8, **ADAM}),
    "the paper's": (None, {"network": "mixer_unet", "width": 16, **ADAM}),
}
"""How to build a network that is not in the library, and settings. Muon wants blocks, so the U-Nets have Adam."""
SCORES = ("oracle_reward", "dynamics_mse", "dynamics_median", "dynamics_p99", "bad_window_share")
WANTED = 5_000_000
"""Transitions that the paper generates."""
BUILDER = "gta_datasets.methods.gta.build_network"
MOST_JUDGED = 100_000
"""Generated transitions that the simulator, on one core, is asked about."""

Measured = Iterator[tuple[str, dict[str, Any]]]
"""Names of what was measured, and what was found, as soon as it is."""


def main() -> None:
    """Measure and write `results/speed/<stage>-<dataset>-<preset>-horizon-<horizon>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--horizon", type=int, default=31)
    parser.add_argument("--num-transitions", type=int, default=32_768)
    parser.add_argument("--only", action="append", help="these samplers, networks or steps")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training that the paper's network gets")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path, default=None, help="keep models here (default: a new folder)")
    arguments = parser.parse_args()
    warnings.filterwarnings("error", "torch.compile does not work")  # rather than time what is not compiled
    with tempfile.TemporaryDirectory() as scratch:
        arguments.cache_dir = arguments.cache_dir or Path(scratch)
        kept = ("dataset", "preset", "horizon", "num_transitions", "seed")
        of = {name: getattr(arguments, name) for name in kept}
        highest, measured = peak(arguments.device), {}
        place = (
            f"{arguments.stage}-{arguments.dataset.replace('/', '-')}-{arguments.preset}-horizon-{arguments.horizon}"
        )
        for name, found in STAGES[arguments.stage](arguments, highest):
            print(name, json.dumps(found), flush=True)
            measured[name] = found
            # What there is, in case that the time does not suffice for all.
            path = write_record(f"speed/{place}", "benchmarks.speed", of | {"peak": highest, "measured": measured})
    print(path)


def samplers(arguments: argparse.Namespace, highest: dict[str, float]) -> Measured:
    """Quality, time and work of every sampler."""
    for name in arguments.only or SAMPLERS:
        made = augmented(arguments, **SAMPLERS[name])
        made.fit()
        yield name, generation(made, highest, augmented(arguments, **{**SAMPLERS[name], "compile": False}))


def training(arguments: argparse.Namespace, highest: dict[str, float]) -> Measured:
    """The paper's network after some minutes of training, and the preset's after a tenth of them."""
    fast = arguments.preset
    few = {"windows_per_shard": 64}  # the paper's sampler takes seconds for each
    for preset, minutes, settings in (("paper", arguments.minutes, PAPER), (fast, arguments.minutes / 10, {})):
        arguments.preset = preset
        steps = round(60 * minutes / seconds_per_step(arguments))
        made = augmented(arguments, training_steps=steps, warmup_steps=steps // 10, **settings, **few)
        started = time.perf_counter(), time.process_time()
        made.fit()
        seconds = _since(started)
        yield preset, {"training_steps": steps, "fit_seconds": seconds} | generation(made, highest, made)


def networks(arguments: argparse.Namespace, highest: dict[str, float]) -> Measured:
    """Every network after a training of as many operations as the preset's own takes."""
    cache = arguments.cache_dir
    config = augmented(arguments).config
    assert isinstance(config, GTAConfig)  # noqa: S101 - it is the default method
    own = config.training
    budget = own.training_steps * training_flops(arguments)
    for name in arguments.only or NETWORKS:
        build, settings = NETWORKS[name]
        with _networks_by(build):
            steps = max(1, round(budget / training_flops(arguments, **settings)))
            warmup = round(steps * own.warmup_steps / own.training_steps)
            arguments.cache_dir = cache / name
            made = augmented(arguments, training_steps=steps, warmup_steps=warmup, **settings)
            fitted_before = made.is_fitted
            started = time.perf_counter(), time.process_time()
            made.fit()
            seconds = None if fitted_before else _since(started)
            trained = {"training_steps": steps, "training_gflop": round(budget / 1e9), "fit_seconds": seconds}
            measured = trained | generation(made, highest, made)
        yield name, measured


def steps(arguments: argparse.Namespace, highest: dict[str, float]) -> Measured:
    """Seconds of a step of training, as it is, and with the network compiled."""
    flops = training_flops(arguments)
    number = 100 if on_gpu(arguments.device) else 10
    kinds = {"eager": False, "compiled": True}
    for name in arguments.only or kinds:
        seconds = seconds_per_step(arguments, number, compile=kinds[name])
        shares = {kind: round(flops / seconds / 1e9 / most, 3) for kind, most in highest.items()}
        yield name, {"seconds": round(seconds, 5), "gflop": round(flops / 1e9, 2), "share_of_peak": shares}


def training_flops(arguments: argparse.Namespace, **settings: Any) -> int:
    """Floating-point operations of one step of training."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = argparse.Namespace(**{**vars(arguments), "cache_dir": Path(scratch)})
        made = augmented(fresh, training_steps=1, warmup_steps=0, **settings)
        with FlopCounterMode(display=False) as counter:
            made.fit()
    found: int = counter.get_total_flops()
    return found


def _networks_by(build: Callable[..., nn.Module] | None) -> contextlib.AbstractContextManager[Any]:
    """Have the library train a network of ours."""
    if build is None:
        return contextlib.nullcontext()
    return mock.patch(BUILDER, lambda _config, *sizes: build(*sizes))


def seconds_per_step(arguments: argparse.Namespace, number: int = 10, **settings: Any) -> float:
    """Of the processor, in so many steps of training after the first two; of the clock on a GPU."""
    clock = time.perf_counter if on_gpu(arguments.device) else time.process_time
    looks, advance = [], loop._Run.advance

    def timed(run: loop._Run, loss_of_step: Callable[[int], Tensor]) -> None:
        advance(run, loss_of_step)
        if run.step in (2, 2 + number):  # before, what is done once, such as compiling
            if on_gpu(arguments.device):
                torch.cuda.synchronize()
            looks.append(clock())

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(loop._Run, "advance", timed):
        fresh = argparse.Namespace(**{**vars(arguments), "cache_dir": Path(scratch)})
        augmented(fresh, training_steps=2 + number, warmup_steps=1, **settings).fit()
    first, last = looks
    return (last - first) / number


def augmented(arguments: argparse.Namespace, **settings: Any) -> gta_datasets.GTAAugmentedDataset:
    """What is to be measured."""
    return gta_datasets.augment(
        arguments.dataset,
        preset=arguments.preset,
        num_transitions=arguments.num_transitions,
        horizon=arguments.horizon,
        seed=arguments.seed,
        device=arguments.device,
        cache_dir=arguments.cache_dir,
        progress=False,
        **settings,
    )


def generation(
    made: gta_datasets.GTAAugmentedDataset, highest: dict[str, float], eager: gta_datasets.GTAAugmentedDataset
) -> dict[str, Any]:
    """Seconds to generate and write everything, work done meanwhile, and quality; `eager` is the same, not compiled."""
    pipeline = made.storage.pipeline
    if eager is not made:
        pipeline.augmenter.generate(0)  # for what is done once, as compiling, which is not while operations are counted
    eager.fit()
    with FlopCounterMode(display=False) as counter:
        eager.storage.pipeline.augmenter.generate(0)
    pipeline.fit().clear()  # of an earlier run
    started = time.perf_counter(), time.process_time()
    made.generate()
    seconds = _since(started)
    # All of them: the last shard holds more than was asked for.
    shards = pipeline.fit().get_many(range(pipeline.plan.num_shards))
    transitions = sum(len(shard["rewards"]) for shard in shards if shard is not None)
    flops = counter.get_total_flops() * pipeline.plan.num_shards
    at_work = seconds["clock" if on_gpu(pipeline.device) else "processor"]
    quality = made.quality(sample=min(transitions, MOST_JUDGED), novelty_sample=2_048)
    scores = json.loads(quality.to_json())["generated"]
    return {
        "transitions": transitions,
        "seconds": seconds,
        "transitions_per_cpu_second": round(transitions / seconds["processor"], 1),
        f"minutes_for_{WANTED}": round(WANTED / transitions * seconds["clock"] / 60, 1),
        f"core_minutes_for_{WANTED}": round(WANTED / transitions * seconds["processor"] / 60, 1),
        "gflop_per_transition": round(flops / transitions / 1e9, 4),
        "gflop_per_cpu_second": round(flops / seconds["processor"] / 1e9, 1),
        "share_of_peak": {name: round(flops / at_work / 1e9 / most, 3) for name, most in highest.items()},
        **{name: scores[name] for name in SCORES},
        "novelty": scores["novelty"],
    }


def on_gpu(device: str) -> bool:
    """Whether that is what a device, possibly "auto", stands for."""
    return torch.device(torch_device(device)).type == "cuda"


def peak(device: str, *, repeats: int = 20) -> dict[str, float]:
    """GFLOP per second (per second of the processor on a CPU) of square matrix products, by precision."""
    on, size, clock = ("cuda", 8_192, time.perf_counter) if on_gpu(device) else ("cpu", 1_024, time.process_time)
    found = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.randn(size, size, dtype=kind, device=on)
        best = float("inf")
        for _ in range(5):
            started = clock()
            for _ in range(repeats):
                product = matrix @ matrix
            product.sum().item()  # waits for a GPU
            best = min(best, clock() - started)
        found[name] = round(2 * size**3 * repeats / best / 1e9, 1)
    return found


def _since(started: tuple[float, float]) -> dict[str, float]:
    return {
        "clock": round(time.perf_counter() - started[0], 2),
        "processor": round(time.process_time() - started[1], 2),
    }


STAGES = {"samplers": samplers, "training": training, "networks": networks, "steps": steps}

if __name__ == "__main__":
    main()

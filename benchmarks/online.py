"""SAC with ATraDiff, SAC alone, and SAC with the offline data in its buffer, where the environment may have changed.

python -m benchmarks.online sim/pointmaze/umaze-v0 --variant none --variant offline --variant atradiff --seed 0
python -m benchmarks.online sim/hopper/medium-replay-v0 --variant atradiff --reward milestones --steps 100000
python -m benchmarks.online sim/halfcheetah/medium-replay-v0 --variant atradiff --variant no-adaptation --shift friction
python -m benchmarks.online sim/pointmaze/umaze-v0 --show 100

All variants have the same offline data, and all agents models of the same seed, because a generator costs more than an
agent. Every finished run adds one line to `results/online.jsonl`: returns of the deterministic policy by number of
steps, and seconds per step, those that ATraDiff adds among them. A run that is there already is not done again.
`--show` trains nothing: it prints what the runs with the settings say about a return, and draws them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks import record
from benchmarks.episodes import episode_returns, evaluation_seeds, summary
from benchmarks.online_table import picture, table
from benchmarks.online_tasks import REWARDS, SHIFTS, make_env, offline_part
from benchmarks.stepping import Group
from gta_datasets.adapters import to_sb3
from gta_datasets.online import ATraDiffReplayBuffer

__all__ = ["VARIANTS", "main", "run"]

VARIANTS: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "offline": None,
    "offline-half": None,
    "atradiff": {},
    "no-pruning": {"loop_tolerance": 0.0},
    "no-adaptation": {"adapt_every": 0},
    "single-length": {"lengths": (15,)},
}
"""Settings of ATraDiff; None where there is none of it."""

ONLINE_SHARES: Mapping[str, float | None] = {"offline": None, "offline-half": 0.5}
"""What an agent with the offline data in its buffer has of its own in a batch; None draws from all alike."""

SETTINGS = ("dataset", "offline_steps", "reward", "shift", "steps", "every", "episodes", "rho", "preset")
"""What tells runs apart, besides variant and seed."""

RARE_SETTINGS = ("adapt_every", "entropy")
"""The same where they were given."""

MODEL_SEED = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs that are missing and add their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="may be given again (default: all)")
    parser.add_argument("--seed", type=int, action="append", help="of the agent; may be given again")
    parser.add_argument("--steps", type=int, default=50_000, help="of the environment")
    parser.add_argument("--offline-steps", type=int, default=100_000, help="transitions of the dataset that are used")
    parser.add_argument("--reward", choices=REWARDS, default="own", help="own: the dataset's")
    parser.add_argument("--shift", choices=SHIFTS, help="what differs online")
    parser.add_argument("--every", type=int, default=5_000, help="steps between two evaluations")
    parser.add_argument("--episodes", type=int, default=10, help="of an evaluation")
    parser.add_argument("--rho", type=float, default=0.5)
    parser.add_argument("--adapt-every", type=int, help="steps between two adaptations (default: the library's)")
    parser.add_argument("--entropy", type=float, help="where SAC's weight of entropy starts, which adapts (default: 1)")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the ledger")
    parser.add_argument("--show", type=float, metavar="RETURN", help="how soon agents reach this return")
    options = parser.parse_args(arguments)
    path, settings = options.results / "online.jsonl", {name: getattr(options, name) for name in SETTINGS}
    settings |= {name: getattr(options, name) for name in RARE_SETTINGS if getattr(options, name) is not None}
    if options.show is not None:
        show(known(path), settings, options.variant or VARIANTS, options.show, options.results)
        return
    for variant in options.variant or VARIANTS:
        for seed in options.seed or [0]:
            unit = settings_of(variant, settings) | {"seed": seed}
            if unit in [line["unit"] for line in known(path)]:
                print(f"{variant}, seed {seed}: done already")
                continue
            measured = {"unit": unit, **run(unit, options.device)}
            record.append_line(path, "benchmarks.online", measured, packages=("stable-baselines3",))
            print(json.dumps(measured), flush=True)


def known(path: Path) -> list[dict[str, Any]]:
    """The lines of the ledger; how often models adapt counts only where they do."""
    return [{**line, "unit": settings_of(line["unit"]["variant"], line["unit"])} for line in record.read_lines(path)]


def settings_of(variant: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells runs of a variant apart, besides the seed."""
    own = VARIANTS[variant]
    adapts = own is not None and own.get("adapt_every") != 0
    return {name: value for name, value in settings.items() if adapts or name != "adapt_every"} | {"variant": variant}


def show(
    lines: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    variants: Iterable[str],
    target: float,
    results: Path,
) -> None:
    """Print a table and draw a picture, `online-<dataset>-<reward>[-<shift>].png`."""
    found = {variant: record.of_settings(lines, settings_of(variant, settings)) for variant in variants}
    print(table(found, target))
    shift = "" if settings["shift"] is None else f"-{settings['shift']}"
    path = results / f"online-{settings['dataset'].replace('/', '-')}-{settings['reward']}{shift}.png"
    picture(found, target).savefig(path, dpi=120)
    print(path)


def run(unit: Mapping[str, Any], device: str) -> dict[str, Any]:
    """One agent: its returns by number of steps, and what it cost."""
    source = minari.load_dataset(unit["dataset"])
    dataset = offline_part(source, unit["reward"], unit["offline_steps"])
    env, *others = (make_env(source, unit["reward"], unit["shift"]) for _ in range(1 + unit["episodes"]))
    entropy = f"auto_{unit['entropy']}" if "entropy" in unit else "auto"
    model = SAC("MlpPolicy", env, seed=unit["seed"], ent_coef=entropy, device=device)
    evaluation = Evaluation(others, unit["every"])
    settings, buffer, started = VARIANTS[unit["variant"]], None, time.perf_counter()
    callbacks: list[BaseCallback] = [evaluation]
    if settings is not None:
        buffer = ATraDiffReplayBuffer.from_dataset(
            dataset,
            env,
            rho=unit["rho"],
            preset=unit["preset"],
            seed=unit["seed"],
            model_seed=MODEL_SEED,
            device=device,
            progress=False,
            **({"adapt_every": unit["adapt_every"]} if "adapt_every" in unit else {}) | settings,
        )
        callbacks.append(buffer.callback())
    elif unit["variant"] in ONLINE_SHARES:
        share = ONLINE_SHARES[unit["variant"]]
        model.replay_buffer = to_sb3(
            dataset, model.get_env(), online_fraction=share, seed=unit["seed"], device=model.device
        )
    prepared, started = time.perf_counter() - started, time.perf_counter()
    model.learn(unit["steps"], callback=callbacks)
    seconds = time.perf_counter() - started - evaluation.seconds
    return {
        "returns": evaluation.returns,
        "seconds_to_prepare": round(prepared, 1),
        "seconds_per_step": seconds / unit["steps"],
        "environment": source.env_spec.id,
        "offline_transitions": int(dataset.total_steps),
        **({} if buffer is None else added(buffer, unit["steps"])),
    }


def added(buffer: ATraDiffReplayBuffer, steps: int) -> dict[str, Any]:
    """What ATraDiff cost and made."""
    return {
        "seconds_per_step_generation": buffer.costs.generation / steps,
        "seconds_per_step_adaptation": buffer.costs.adaptation / steps,
        "generated": buffer.synthetic.size(),
        "pruned": buffer.opened.diffuser.pruned,
        "adaptations": buffer.state.adaptations,
        "config": buffer.config.to_dict(),
    }


class Evaluation(BaseCallback):
    """Returns of the deterministic policy every so many steps; the clock of learning does not count them."""

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]], every: int) -> None:
        super().__init__()
        self._environments, self._every = environments, every
        self.returns: dict[str, dict[str, float]] = {}
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            started = time.perf_counter()
            group = Group(self._environments)
            returns = episode_returns(self._act, group, evaluation_seeds(len(group)))
            self.returns[str(self.num_timesteps)] = summary(returns)
            self.seconds += time.perf_counter() - started
        return True

    def _act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """(E, O) -> (E, A)."""
        actions, _ = self.model.predict(observations, deterministic=True)
        return actions


if __name__ == "__main__":
    main()

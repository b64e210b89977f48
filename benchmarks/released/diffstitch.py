"""DiffStitch: its diffusion and inverse model, its ensemble of the dynamics and its stitching, by its own settings.

Steps, batches and the number of bridges are given. What is drawn is judged twice: with every bridge kept, and with
those alone that pass the method's own check. Where the released network has another width than its own, it is not
compared with our `paper` preset.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import random
import tempfile
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.released.common import Setting, as_long, importable, judged, ours, show, steps, timed, windows
from benchmarks.released.diffstitch_parts import Remembered, candidates, diffuser, ensemble, environment, fields
from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.data.windows import Windows, cut
from gta_datasets.methods.qualified import Qualified

REPOSITORY = "guangheli12/DiffStitch"
SCRIPT = "scripts/batch_stitch.py"
PACKAGES = {"einops": "einops", "gym": "gym", "imageio": "imageio", "pandas": "pandas", "scipy": "scipy"}
ABSENT = (
    *("d4rl", "git", "ml_logger", "mujoco_py", "params_proto", "params_proto.neo_proto"),
    *("skvideo", "skvideo.io", "tap"),
)
DEFAULTS = {"dataset": "sim/hopper/medium-replay-v0", "steps": 40, "batch_size": 16, "samples": 4}

DYNAMICS_STEPS = 1_000
"""Training steps of every network of an ensemble; the released one finishes the epoch."""

LIMITS = {"paper": 0.2, "cpu": 0.02}
"""`qualify` of our presets."""


def measure(setting: Setting) -> dict[str, Any]:
    """Figures of the released code and of ours."""
    source = setting.source()
    env = environment(source)
    with (
        importable(setting.checkout, *ABSENT, folders=(".", "scripts/mopo")),
        mock.patch.object(collections, "Mapping", collections.abc.Mapping, create=True),  # gone since Python 3.10
        mock.patch("gym.make", return_value=env),
    ):
        found = {"released": show("released", released(setting, source, env))}
    with tempfile.TemporaryDirectory() as cache:
        # The models beside the diffusion model, which all of ours share.
        alone, *_ = ours(setting, cache, preset="cpu", qualify=1e9, dynamics_steps=DYNAMICS_STEPS, **steps(1))
        found["ours, models alone"] = {"seconds": alone["seconds"]}
        for preset in ("paper", "cpu") if setting.width is None else ("cpu",):
            found[f"ours, {preset}"] = bridged(setting, cache, source, preset, steps(setting.steps))
        longer = as_long(setting, found["released"]["seconds"]["train_cpu"], found["ours, cpu"])
        found["ours, cpu, as many seconds"] = bridged(setting, cache, source, "cpu", longer)
    return found


def released(setting: Setting, source: Episodes, env: Any) -> dict[str, Any]:
    """Train and stitch with the released code."""
    script = importlib.import_module("scripts.batch_stitch")
    config = script.import_config("_".join(setting.dataset.replace("-", "_").split("/")[1:])[: -len("v0")] + "v2")
    seed_all(setting.seed)
    (trainer, data), preparing = timed("prepare", diffuser, config=config, setting=setting)
    _, training = timed("train", trainer.train, n_train_steps=setting.steps)
    dynamics, modelling = timed("models", ensemble, source=source, env=env, config=config, limit=DYNAMICS_STEPS)
    sampler = trainer.ema_model.conditional_sample = Remembered(trainer.ema_model.conditional_sample)
    given = candidates(script, config, setting.samples, source)

    def stitch(limit: float) -> Any:
        seed_all(setting.seed)
        return script.augment_trajectories_new(
            **given,
            **fields(config, "dream_len horizon test_ret sample_optim_batch dreamer_similarity stitch_L stitch_R"),
            dataset=data,
            renderer=None,
            trainer=trainer,
            dynamics_model=dynamics,
            dynamics_deviate=limit,
            action_dim=source.actions.shape[1],
            obs_dim=source.observations.shape[1],
            save_dir="",
            save_name="",
            render_option=False,
            device="cpu",
            original_discounted_reward=0,
            stitch_batch_size=setting.samples,
        )

    (formed, _, (similar, _)), sampling = timed("generate", stitch, limit=np.inf)
    sampler.again()
    kept, _, (_, refused) = stitch(config.dynamics_deviate)
    return {
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "seconds": preparing | training | modelling | sampling,
        "limit": config.dynamics_deviate,
        "starts": setting.samples,
        "similar_enough": int(similar),
        "refused": int(refused),
        "accepted": len(kept),
        "generated": judged(joined(formed), source, setting) if formed else None,
        "generated_and_accepted": judged(joined(kept), source, setting) if kept else None,
    }


def seed_all(seed: int) -> None:
    """Seed what the released code draws from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def joined(bridges: list[tuple[np.ndarray, ...]]) -> Episodes:
    """Bridges as the released code returns them."""
    return concatenate(
        windows(np.concatenate([states, following[-1:]])[None], actions[None], rewards[None])
        for states, actions, rewards, following, _ in bridges
    )


def bridged(setting: Setting, cache: str, source: Episodes, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train, stitch and judge with this library: every bridge, and those that pass the preset's check."""
    # A check that lets everything pass: every bridge is judged as it is generated.
    measured, shard, pipeline = ours(
        setting, cache, preset=preset, qualify=1e9, dynamics_steps=DYNAMICS_STEPS, **settings
    )
    places = np.arange(setting.samples)
    bridges = cut(Episodes.from_arrays(shard), Windows(places, shard["stitch_start"], shard["stitch_length"]))
    assert isinstance(pipeline.augmenter, Qualified)  # noqa: S101
    passed = np.flatnonzero(pipeline.augmenter.worst_errors(shard) <= LIMITS[preset])
    kept = [bridges.slice(place, place + 1) for place in passed.tolist()]
    return show(
        f"ours, {preset}",
        measured
        | {
            "limit": LIMITS[preset],
            "starts": setting.samples,
            "accepted": len(kept),
            "generated": judged(bridges, source, setting),
            "generated_and_accepted": judged(concatenate(kept), source, setting) if kept else None,
        },
    )

"""SynthER: its `Trainer` and `SimpleDiffusionGenerator` by its own gin file, but for steps and batch.

Only the worker processes that load its batches are turned off, so that both sides use the same cores.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks.released.common import (
    Setting,
    both_weights,
    columns,
    cpu_figures,
    importable,
    judged,
    our_figures,
    show,
    spaces,
    timed,
    windows,
)
from gta_datasets.data.episodes import Episodes

REPOSITORY = "conglu1997/SynthER"
SCRIPT = "synther/diffusion/train_diffuser.py"
PACKAGES = {
    "accelerate": "accelerate",
    "einops": "einops",
    "ema_pytorch": "ema-pytorch",
    "gin": "gin-config",
    "gym": "gym",
    "torchdiffeq": "torchdiffeq",
}
ABSENT = ("d4rl", "redq", "redq.algos", "redq.algos.core", "wandb")
DEFAULTS = {"dataset": "sim/halfcheetah/medium-v0", "steps": 150, "batch_size": 256, "samples": 256}

CONFIG = "config/resmlp_denoiser.gin"


def measure(setting: Setting) -> dict[str, Any]:
    """Figures of the released code, with its averaged and its last weights, and of ours."""
    source = setting.source()
    found = released(setting, source)
    size = found["released"]["size"]
    # A block of ours has two matrices around a stream of half the width: as many products, as many parameters.
    same_size = {"width": size["mlp_width"] // 2, "depth": size["num_layers"]}
    with tempfile.TemporaryDirectory() as cache:
        paper = {"preset": "paper", "training_steps": setting.steps, **same_size}
        found["ours, paper"] = our_figures(setting, cache, source, **paper)
        found |= cpu_figures(setting, cache, source, found)
    return found


def released(setting: Setting, source: Episodes) -> dict[str, Any]:
    """Train and sample with the released code."""
    gin = importlib.import_module("gin")
    with importable(setting.checkout, *ABSENT):
        names = ("elucidated_diffusion", "train_diffuser", "utils")
        modules: list[Any] = [importlib.import_module(f"synther.diffusion.{name}") for name in names]
    core, script, utils = modules
    core.cpu_count = lambda: 0
    utils.d4rl = SimpleNamespace(qlearning_dataset=lambda _: columns(source))
    configure(gin, setting)
    env = spaces(source)
    torch.manual_seed(setting.seed)
    rows = torch.from_numpy(utils.make_inputs(env)).float()
    model = utils.construct_diffusion_model(inputs=rows)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = script.Trainer(model, TensorDataset(rows), results_folder=scratch, use_gpu=False)
        _, training = timed("train", trainer.train)
    found: dict[str, Any] = {}
    for name, chosen in both_weights(trainer).items():
        generator = script.SimpleDiffusionGenerator(env=env, ema_model=chosen)
        made, sampling = timed("generate", generator.sample, num_samples=setting.samples)
        states, actions, rewards, following, _ = made
        transitions = windows(np.stack([states, following], axis=1), actions[:, None], rewards[:, None])
        found[name] = show(
            name,
            {
                "size": {key: gin.query_parameter(f"ResidualMLPDenoiser.{key}") for key in ("mlp_width", "num_layers")},
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "seconds": training | sampling,
                "generated": judged(transitions, source, setting),
            },
        )
    return found


def configure(gin: Any, setting: Setting) -> None:
    """The released settings, but for steps and sizes of batches."""
    changed = {
        "Trainer.train_num_steps": setting.steps,
        "Trainer.train_batch_size": setting.batch_size,
        "Trainer.small_batch_size": setting.batch_size,
        "Trainer.save_and_sample_every": setting.steps + 1,
        "SimpleDiffusionGenerator.sample_batch_size": setting.samples,
    }
    gin.add_config_file_search_path(str(Path(setting.checkout).resolve()))
    gin.parse_config_files_and_bindings([CONFIG], [f"{name} = {value}" for name, value in changed.items()])

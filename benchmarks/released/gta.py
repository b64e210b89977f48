"""GTA: its `Trainer` and `SimpleDiffusionGenerator` by its own configuration, but for steps, batch and dataset."""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

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
    steps,
    timed,
    windows,
)
from gta_datasets.data.episodes import Episodes

REPOSITORY = "Jaewoopudding/GTA"
SCRIPT = "src/diffusion/train_diffuser.py"
PACKAGES = {
    "accelerate": "accelerate",
    "einops": "einops",
    "ema_pytorch": "ema-pytorch",
    "gym": "gym",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "torchdiffeq": "torchdiffeq",
}
ABSENT = ("d4rl", "pyrootutils", "wandb")
DEFAULTS = {"dataset": "sim/halfcheetah/medium-v0", "steps": 100, "batch_size": 32, "samples": 32}


def measure(setting: Setting) -> dict[str, Any]:
    """Figures of the released code, with its averaged and its last weights, and of ours."""
    source = setting.source()
    with importable(setting.checkout, *ABSENT):
        found = released(setting, source)
    with tempfile.TemporaryDirectory() as cache:
        paper = {"preset": "paper", **steps(setting.steps)}
        found["ours, paper"] = our_figures(setting, cache, source, **paper)
        # The paper's guidance is 2, that of the released code 1; the model is the same.
        found["ours, paper, guidance 1"] = our_figures(setting, cache, source, **paper, guidance=1.0)
        found |= cpu_figures(setting, cache, source, found)
    return found


def released(setting: Setting, source: Episodes) -> dict[str, Any]:
    """Train and sample with the released code."""
    script = importlib.import_module("src.diffusion.train_diffuser")
    config = importlib.import_module("omegaconf").OmegaConf.load(setting.checkout / "configs" / "gta.yaml")
    trainer, windows_of_source, preparing = prepare(script, config, setting, source)
    _, training = timed("train", trainer.train)
    env = spaces(source)
    sampler, found = config.SimpleDiffusionGenerator, {}
    for name, chosen in both_weights(trainer).items():
        generator = script.SimpleDiffusionGenerator(
            env=env,
            ema_model=chosen,
            num_sample_steps=sampler.num_sample_steps,
            sample_batch_size=setting.samples,
            modalities=config.Dataset.modalities,
        )
        made, sampling = timed(
            "generate",
            generator.sample_back_and_forth,
            data_loader=DataLoader(windows_of_source, shuffle=True, batch_size=setting.samples),
            num_samples=setting.samples,
            noise_level=sampler.noise_level,
            temperature=sampler.temperature,
            device="cpu",
            guidance_rewardscale=sampler.amplify_returnscale,
            reward_scale=config.Dataset.reward_scale,
            state_conditioning=sampler.state_conditioning,
            max_conditioning_return=windows_of_source.trajectory_returns.max(),
            discounted_return=config.Dataset.discounted_return,
            retain_original=True,
        )
        found[name] = show(
            name,
            {
                "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
                "seconds": preparing | training | sampling,
                "generated": judged(joined(made), source, setting),
            },
        )
    return found


def prepare(script: Any, config: Any, setting: Setting, source: Episodes) -> tuple[Any, Any, dict[str, float]]:
    """The released trainer, the windows it draws from, and the seconds it took to cut them."""
    size = config.Dataset.seq_len + 1
    shape = {
        "observations": (size, source.observations.shape[1]),
        "actions": (size, source.actions.shape[1]),
        "rewards": (size, 1),
    }
    arrays = columns(source)
    rows = np.concatenate([arrays["observations"], arrays["actions"], arrays["rewards"][:, None]], axis=1)
    bounds = source.offsets[1:-1]
    parts = {key: np.split(values, bounds) for key, values in arrays.items()}
    episodes = [{key: values[number].copy() for key, values in parts.items()} for number in range(source.num_episodes)]
    np.random.seed(setting.seed)  # noqa: NPY002 - the released code draws from it
    torch.manual_seed(setting.seed)
    windows_of_source, seconds = timed(
        "prepare",
        script.DiffusionTrajectoryDataset,
        dataset=episodes,
        dataset_nm=setting.dataset,
        seq_len=config.Dataset.seq_len,
        discounted_return=config.Dataset.discounted_return,
        gamma=config.Dataset.gamma,
        restore_rewards=config.Dataset.restore_rewards,
        penalty=config.Dataset.penalty,
    )
    network = config.construct_diffusion_model.denoising_network
    model = script.construct_diffusion_model(
        data_shape=shape,
        normalizer=script.normalizer_factory(config.Dataset.normalizer_type, torch.from_numpy(rows), skip_dims=[]),
        denoising_network=network,
        edm_config=config.ElucidatedDiffusion,
        disable_terminal_norm=config.construct_diffusion_model.disable_terminal_norm,
        cond_dim=network.cond_dim,
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = script.Trainer(
            diffusion_model=model,
            dataset=windows_of_source,
            dataset_nm=setting.dataset,
            results_folder=scratch,
            train_batch_size=setting.batch_size,
            train_lr=config.Trainer.train_lr,
            lr_scheduler=config.Trainer.lr_scheduler,
            weight_decay=config.Trainer.weight_decay,
            train_num_steps=setting.steps,
            save_and_sample_every=setting.steps + 1,
            cond_dim=network.cond_dim,
            modalities=config.Dataset.modalities,
            reweighted_training=config.Trainer.reweighted_training,
            reward_scale=config.Dataset.reward_scale,
            discounted_return=config.Dataset.discounted_return,
        )
    return trainer, windows_of_source, seconds


def joined(made: list[dict[str, np.ndarray]]) -> Episodes:
    """Windows as the released sampler returns them."""
    arrays = {
        name: np.stack([window[name] for window in made])
        for name in ("observations", "actions", "rewards", "next_observations")
    }
    states = np.concatenate([arrays["observations"], arrays["next_observations"][:, -1:]], axis=1)
    return windows(states, arrays["actions"], arrays["rewards"])

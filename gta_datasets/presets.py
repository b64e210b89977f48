"""Named sets of settings: by machine, by method and by kind of task."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["METHOD_PRESETS", "PRESETS", "TASKS"]

PRESETS: Mapping[str, Mapping[str, object]] = {
    "paper": {
        "horizon": 31,
        "network": "mixer_unet",
        "width": 16,
        "precision": "float32",
        "training_steps": 1_000_000,
        "learning_rate": 3e-4,
        "warmup_steps": 0,
        "ema_decay": 0.9995,  # the authors': 0.995 at every tenth step
        "optimizer": "adam",
        "sampler": "stochastic_heun",
        "sampler_steps": 128,
        "sigma_end": 0.002,
        "alpha": 1.3,
        "terminations": "source",
        "guidance_start": 0.0,
        "return_limit": 0.0,
        "guidance": 2.0,
    },
    "fast": {"horizon": 31, "width": 384, "depth": 8, "training_steps": 60_000, "train_batch_size": 1_024},
    "cpu": {"horizon": 15, "width": 192, "depth": 4, "training_steps": 5_500, "train_batch_size": 128},
    "demo": {"horizon": 15, "width": 128, "depth": 4, "training_steps": 2_000, "train_batch_size": 128},
    "smoke": {
        "horizon": 7,
        "width": 32,
        "depth": 2,
        "training_steps": 30,
        "train_batch_size": 32,
        "warmup_steps": 5,
        "sampler_steps": 4,
        "windows_per_shard": 16,
        "dynamics_members": 2,
        "dynamics_width": 32,
        "dynamics_steps": 30,
    },
}
"""Overrides of the defaults by preset: the paper's settings; a GPU; two CPU cores; the demo; tests."""

METHOD_PRESETS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # "paper": as the authors released it for 800,000 transitions and more; smaller datasets have batches of 256 there.
    "synther": {
        "paper": {
            "width": 1_024,
            "depth": 6,
            "training_steps": 100_000,
            "train_batch_size": 1_024,
            "terminations": "generated",
        },
        "fast": {
            "width": 512,
            "depth": 6,
            "precision": "bfloat16",
            "training_steps": 60_000,
            "train_batch_size": 1_024,
        },
        "cpu": {"width": 256, "depth": 4, "precision": "bfloat16", "training_steps": 4_000, "train_batch_size": 1_024},
        "demo": {"width": 256, "depth": 4, "precision": "bfloat16", "training_steps": 1_000, "train_batch_size": 512},
        "smoke": {"transitions_per_shard": 64},
    },
    # A generation holds up the agent: few and fast steps. Network and sampler of "paper" are GTA's.
    "atradiff": {
        "paper": {"starts_per_batch": 1},
        "cpu": {"width": 128, "depth": 3, "training_steps": 3_000},
        "smoke": {"lengths": (3, 7), "starts_per_batch": 4, "adapt_steps": 10, "adapt_batch_size": 16},
    },
    # "paper": bridges, candidates and limit as the authors released them for hopper-medium-replay; 0.8 for the sum over
    # 11 columns between -1 and 1 is about 0.2 in the units of `qualify`. Network and training are GTA's.
    "diffstitch": {
        "paper": {"horizon": 39, "min_bridge": 10, "candidates": 512, "qualify": 0.2},
        "cpu": {"sampler_steps": 8},
        "demo": {"sampler_steps": 8},
        # After 30 steps no bridge is true, and every one passes.
        "smoke": {
            "qualify": 1e3,
            "steps_before": 3,
            "steps_after": 3,
            "candidates": 8,
            "trajectories_per_shard": 16,
        },
    },
}
"""What a method sets otherwise than `PRESETS`, by method and preset."""

TASKS: Mapping[str, Mapping[str, object]] = {
    "locomotion": {"alpha": 1.3, "mu": 0.5, "reweighting": "dense", "terminal_penalty": 100.0},
    "maze2d": {"alpha": 1.3, "mu": 0.5, "reweighting": "sparse", "terminal_penalty": 0.0},
    "antmaze": {"alpha": 1.1, "mu": 0.1, "reweighting": "sparse", "terminal_penalty": 0.0},
    "adroit": {"alpha": 1.1, "mu": 0.1, "reweighting": "dense", "terminal_penalty": 100.0},
    "kitchen": {"alpha": 1.1, "mu": 0.1, "reweighting": "sparse", "terminal_penalty": 100.0},
}
"""Settings by kind of task, among those that the paper searched (GTA, appendix C); its code has no penalty in mazes."""

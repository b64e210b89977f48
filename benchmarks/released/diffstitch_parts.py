"""The parts of DiffStitch's released code, made as its scripts make them, but from a Minari dataset and on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.released.common import Nothing, Setting, columns
from gta_datasets.data.episodes import Episodes

D4RL_TRANSITIONS = {"hopper-medium-replay-v2": 402_000}
"""Size of the datasets for which the released settings say how many starts (`top_k`) and targets there are."""


def environment(source: Episodes) -> Any:
    """What the released code takes for the dataset's environment."""
    env = SimpleNamespace(
        get_dataset=lambda: columns(source),
        observation_space=SimpleNamespace(shape=source.observations.shape[1:]),
        action_space=SimpleNamespace(shape=source.actions.shape[1:]),
        _max_episode_steps=1_000,
    )
    env.unwrapped = env
    return env


def fields(config: Any, names: str) -> dict[str, Any]:
    """Some of the released settings."""
    return {name: getattr(config, name) for name in names.split()}


def diffuser(config: Any, setting: Setting) -> tuple[Any, Any]:
    """The trainer of the diffusion model and the inverse model, and its dataset (`scripts/train.py`)."""
    datasets, models, utils = (importlib.import_module(f"diffuser.{name}") for name in ("datasets", "models", "utils"))
    data = datasets.CondSequenceDataset(
        env=config.dataset,
        **fields(config, "horizon normalizer preprocess_fns use_padding max_path_length include_returns"),
        **fields(config, "returns_scale discount termination_penalty"),
    )
    network = models.TemporalUnet(
        transition_dim=data.observation_dim,
        cond_dim=data.observation_dim,
        dim=setting.width or config.dim,
        **fields(config, "horizon dim_mults returns_condition condition_dropout calc_energy"),
    )
    model = models.GaussianInvDynDiffusion(
        network,
        observation_dim=data.observation_dim,
        action_dim=data.action_dim,
        n_timesteps=config.n_diffusion_steps,
        **fields(config, "horizon loss_type clip_denoised predict_epsilon hidden_dim ar_inv train_only_inv"),
        **fields(config, "action_weight loss_weights loss_discount returns_condition condition_guidance_w"),
    )
    trainer = utils.Trainer(
        model,
        data,
        None,
        train_batch_size=setting.batch_size,
        train_lr=config.learning_rate,
        gradient_accumulate_every=1,
        ema_decay=config.ema_decay,
        sample_freq=0,
        log_freq=setting.steps + 1,
        train_device="cpu",
        env=config.dataset,
    )
    trainer.save = Nothing.save
    return trainer, data


def ensemble(source: Episodes, env: Any, config: Any, limit: int) -> Any:
    """The model of dynamics and rewards, trained for about `limit` steps (`scripts/mopo/train.py`)."""
    names = ("common.util", "common.buffer", "models.transition_model", "algo.mopo", "config.hopper")
    modules: list[Any] = [importlib.import_module(name) for name in (*names, "scripts.mopo.utils_trans")]
    common, buffer, transition, mopo, settings, predicting = modules
    common.device = torch.device("cpu")
    body = config.dataset.partition("-")[0]
    ends = {"hopper": "StaticFnsHopper", "walker2d": "StaticFnsWalker2d", "halfcheetah": "StaticFnsCheetah"}[body]
    model = transition.TransitionModel(
        obs_space=env.observation_space,
        action_space=env.action_space,
        static_fns=getattr(predicting, ends),
        lr=1e-3,
        **settings.default_config["transition_params"],
    )
    rows = buffer.ReplayBuffer(
        source.num_transitions, env.observation_space.shape, np.float32, source.actions.shape[1], np.float32
    )
    rows.load_dataset(columns(source))
    mopo.MOPO(
        policy=None,
        dynamics_model=model,
        offline_buffer=rows,
        model_buffer=None,
        reward_penalty_coef=1.0,
        rollout_length=1,
        batch_size=256,
        real_ratio=0.05,
        logger=Nothing,
        **settings.default_config["mopo_params"] | {"max_model_train_iterations": limit},
    ).learn_dynamics()
    found = object.__new__(predicting.RewardPredictingModel)  # its constructor loads a pickle
    found.dynamics_model = model
    return found


def candidates(script: Any, config: Any, number: int, source: Episodes) -> dict[str, Any]:
    """Starts, and what they may be led to, drawn as in the loop of `scripts/batch_stitch.py`.

    The settings count them for D4RL's dataset; of a smaller one the same shares are taken.
    """
    share = source.num_transitions / D4RL_TRANSITIONS[config.dataset]
    episodes = script.LoadSequenceDataset(env_name=config.dataset)
    best, _ = script.get_bad_traj(episodes, int(config.top_k * share))
    targets = script.OptimalBuffer()
    for place in range(episodes.num_traj):
        targets.insert_traj(episodes.get_full_info_traj(place))
    targets.info = sorted(targets.info, key=lambda item: item[0])[-int(config.number_optimum * share) :]
    return {"expert_infos": [start(script, episodes, best) for _ in range(number)], "expert_buffer": targets}


def start(script: Any, episodes: Any, best: list[Any]) -> dict[str, Any]:
    """A piece to start from."""
    episode, first, discounted_return = script.sample_traj_from_dict(best)
    found = episodes.get_full_info_traj(episode)
    piece = {name: found[name][first : first + 100] for name in ("act", "obs", "rew")}
    more: dict[str, Any] = found | piece
    return more | {"original_discounted_reward": discounted_return}


class Remembered:
    """A sampler whose results can be had again, in the same order."""

    def __init__(self, sample: Callable[..., torch.Tensor]) -> None:
        self._sample = sample
        self._made: list[torch.Tensor] = []
        self._left: list[torch.Tensor] = []

    def __call__(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """The next result: remembered after `again`, new before it."""
        if self._left:
            return self._left.pop(0)
        self._made.append(self._sample(*arguments, **named))
        return self._made[-1]

    def again(self) -> None:
        """Begin again with the first result."""
        self._left = list(self._made)

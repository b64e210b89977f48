"""Replay buffers for Stable-Baselines3 (https://stable-baselines3.readthedocs.io), and offline training on them."""

from __future__ import annotations

from typing import Any, TypeVar

import gymnasium
import minari
import torch
from numpy.typing import ArrayLike

from gta_datasets.adapters.corpus import Corpus
from gta_datasets.adapters.mixing import Fraction, Mixture
from gta_datasets.adapters.sb3_buffers import (
    AugmentedDictReplayBuffer,
    AugmentedReplayBuffer,
    filled_buffer,
    num_added,
)
from gta_datasets.adapters.sb3_layout import Layout, check_spaces
from gta_datasets.adapters.sb3_training import check_trainable, train_offline
from gta_datasets.config.fields import truth, whole_number
from gta_datasets.device import torch_device
from gta_datasets.errors import ConfigError, requires_extra

with requires_extra("sb3", "stable-baselines3", "the adapter needs"):
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["pretrain", "to_sb3"]

Model = TypeVar("Model", bound=OffPolicyAlgorithm)


def to_sb3(
    dataset: minari.MinariDataset,
    env: gymnasium.Env[Any, Any] | VecEnv | None = None,
    *,
    real_fraction: Fraction | None = None,
    weights: ArrayLike | None = None,
    online_fraction: float | None = None,
    seed: int = 0,
    buffer_size: int = 1_000_000,
    device: torch.device | str = "auto",
    copy: bool = False,
) -> ReplayBuffer:
    """A replay buffer of the dataset's transitions, and of those that are added to it online.

    Args:
        dataset: an augmented dataset, or any other Minari dataset; what is missing in the cache is generated now.
        env: where the model goes on online, for its number of parallel environments and to check its spaces; None for
            one environment with the dataset's spaces.
        real_fraction: share of real data, those added online among them, in every batch, in [0, 1], or a function of
            the number of batches drawn so far (`gta_datasets.adapters.linear_schedule`); None draws from all alike.
        weights: how much more likely each transition is drawn than others, (N,), the real ones first; one that was
            added online is as likely as one of average weight.
        online_fraction: share of transitions added online in every batch, in [0, 1], once there are any, whatever
            `real_fraction` says of the rest; 0.5 is the symmetric sampling of RLPD (Ball et al. 2023, arXiv 2302.02948,
            section 4.1). None draws them like the other real ones, of which they are few for long.
        seed: of the draws.
        buffer_size: room for transitions that are added online; when it is full the oldest of these make way.
        device: where batches go.
        copy: copy all transitions into an ordinary `ReplayBuffer` (`DictReplayBuffer` for Dict observations), which
            draws by NumPy's global state, instead of reading them from the dataset's own arrays.

    Raises:
        MissingExtraError: stable-baselines3 is not installed.
        ConfigError: an option that is not allowed, spaces that Stable-Baselines3's off-policy algorithms do not have,
            or an environment whose spaces differ from the dataset's.
        DatasetError: the dataset breaks Minari's contract or is empty.
        CacheError: the cache cannot be read or written.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    buffer_size, device = whole_number("buffer_size", buffer_size, 1), torch_device(device)
    copy = truth("copy", copy)
    if copy and not (real_fraction is None and weights is None and online_fraction is None):
        raise ConfigError(
            "real_fraction, online_fraction and weights need copy=False: an ordinary ReplayBuffer draws from all "
            "transitions alike"
        )
    if isinstance(dataset, minari.MinariDataset):  # of anything else, Corpus says that it is not a dataset
        check_spaces(dataset, env)  # before what is missing is generated, which may take long
    corpus = Corpus(dataset)
    layout = Layout(dataset.observation_space, dataset.action_space if env is None else env.action_space)
    n_envs = env.num_envs if isinstance(env, VecEnv) else 1
    if copy:
        return filled_buffer(corpus.open(), layout, buffer_size, device, n_envs)
    mixture = Mixture(
        corpus.num_real,
        corpus.num_generated,
        real_fraction=real_fraction,
        weights=weights,
        online_fraction=online_fraction,
        seed=seed,
    )
    kind = AugmentedDictReplayBuffer if layout.is_dict else AugmentedReplayBuffer
    return kind(corpus.open(), layout, mixture, buffer_size, device, n_envs)


def pretrain(
    model: Model,
    dataset: minari.MinariDataset,
    gradient_steps: int,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    **options: Any,
) -> Model:
    """Train an off-policy model (TD3, SAC, DQN, TQC, ...) on a dataset; `model.learn()` then goes on online.

    The model gets the buffer of `to_sb3` as its replay buffer, with room for `model.buffer_size` online transitions,
    unless it already has one of this very dataset. Set `model.learning_starts = 0` before `learn()`, or it begins with
    random actions and without training.

    Args:
        model: any off-policy algorithm of Stable-Baselines3 or sb3-contrib.
        dataset: an augmented dataset, or any other Minari dataset; what is missing in the cache is generated now.
        gradient_steps: updates.
        batch_size: of an update; None for the model's.
        progress: show a bar.
        options: of `to_sb3`.

    Returns:
        The model.

    Raises:
        ConfigError: a model that cannot be trained so, whose buffer would lose transitions, or as of `to_sb3`.
        DatasetError: the dataset breaks Minari's contract or is empty.
        CacheError: the cache cannot be read or written.
        DivergenceError, QualificationError: what is missing cannot be generated, as of the dataset's `generate`.
    """
    check_trainable(model)
    gradient_steps = whole_number("gradient_steps", gradient_steps, 1)
    batch_size = whole_number("batch_size", model.batch_size if batch_size is None else batch_size, 1)
    held = model.replay_buffer
    if not (isinstance(held, AugmentedReplayBuffer) and held.dataset is dataset):
        _check_replaceable(held)
        options = {"buffer_size": model.buffer_size, "device": model.device, **options}
        model.replay_buffer = to_sb3(dataset, model.get_env(), **options)
    elif options:
        raise ConfigError(
            f"the model already has a buffer of this dataset, which {', '.join(options)} cannot change; leave that "
            "out, or set model.replay_buffer = to_sb3(...) before"
        )
    train_offline(model, gradient_steps, batch_size, progress=progress)
    return model


def _check_replaceable(held: ReplayBuffer | None) -> None:
    if held is not None and (held.full or held.pos):
        raise ConfigError(
            f"the model's replay buffer holds {num_added(held)} transitions, and a buffer of the dataset would replace "
            "it; empty it by model.replay_buffer.reset(), or go on with its own dataset, model.replay_buffer.dataset"
        )

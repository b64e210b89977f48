"""A replay buffer of Stable-Baselines3 that fills itself with generated trajectories while an agent learns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import minari
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from gta_datasets.adapters.mixing import whole_part
from gta_datasets.augment import cache_root, configured
from gta_datasets.config import ATraDiffConfig
from gta_datasets.config.fields import whole_number
from gta_datasets.device import torch_device
from gta_datasets.errors import ConfigError, requires_extra
from gta_datasets.online.assembling import Imagined
from gta_datasets.online.callback import ATraDiffCallback
from gta_datasets.online.following import followed
from gta_datasets.online.opening import SEEDS, SIZES, Opened, open_data
from gta_datasets.online.ratio import per_step
from gta_datasets.online.recorded import Recorded
from gta_datasets.online.saving import read_saved, refusing_damage, write_saved
from gta_datasets.online.state import Costs, State
from gta_datasets.online.subset import important, surviving
from gta_datasets.seeding import numpy_generator
from gta_datasets.shelf import Shelf

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

__all__ = ["ATraDiffReplayBuffer"]

Importance = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Importance (n,) of the recorded transitions in the given rows (n,) of the buffer."""


class ATraDiffReplayBuffer(ReplayBuffer):
    """Recorded transitions, and generated ones beside them (ATraDiff, arXiv 2406.04323).

    Make it with `from_dataset` and give `callback()` to `learn()`. Stable-Baselines3's own arrays, `pos`, `full` and
    `size()` are those of the recorded part; `synthetic` is the generated part, a buffer of its own. For every recorded
    transition a trajectory of `L` transitions from its state is generated with probability rho / ((1 - rho) L); of
    every batch the share rho is generated, exactly over time, once there are any. All draws come from `seed`.

    What a model makes of the class alone (`replay_buffer_class`) is a placeholder, with Stable-Baselines3's arguments:
    the callback of a real one replaces it, and without that its first transition is a ConfigError.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        opened: Opened | None = None,
    ) -> None:
        super().__init__(buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage)
        share = 0.0 if opened is None else per_step(opened.config.imagination.rho)
        room = max(1, math.ceil(buffer_size * share))
        self.synthetic = ReplayBuffer(room, observation_space, action_space, device)
        self.costs, self.state, self._opened = Costs(), State(), opened

    @classmethod
    def _empty(cls, opened: Opened, buffer_size: int, device: torch.device | str) -> ATraDiffReplayBuffer:
        """A buffer without transitions."""
        layout = opened.layout
        return cls(buffer_size, layout.observation_space, layout.action_space, device, opened=opened)

    @property
    def opened(self) -> Opened:
        """The dataset, and what generates from it; ConfigError for a placeholder, which has neither."""
        if self._opened is None:
            raise ConfigError(
                "this ATraDiffReplayBuffer was made by a model (replay_buffer_class) and has no dataset to generate "
                "from; make buffer = ATraDiffReplayBuffer.from_dataset(dataset, env), and pass "
                "callback=buffer.callback() to model.learn()"
            )
        return self._opened

    @property
    def config(self) -> ATraDiffConfig:
        return self.opened.config

    @classmethod
    def from_dataset(
        cls,
        dataset: minari.MinariDataset | str,
        env: gymnasium.Env[Any, Any] | VecEnv,
        *,
        rho: float = 0.5,
        preset: str = "auto",
        seed: int = 0,
        model_seed: int | None = None,
        buffer_size: int = 1_000_000,
        device: str = "auto",
        cache_dir: str | Path | None = None,
        progress: bool = True,
        **overrides: object,
    ) -> ATraDiffReplayBuffer:
        """An empty buffer whose models have learned from a dataset; they are trained now unless the cache has them.

        Args:
            dataset: a Minari dataset, never modified, or the id of one.
            env: where the agent will learn, for its spaces; in gymnasium.wrappers.FlattenObservation where the
                dataset has observations in a Dict or Tuple.
            rho: share of generated transitions, in [0, 1).
            preset: "paper", "fast", "cpu", "demo", "smoke" or "auto", as for `gta_datasets.augment`.
            seed: of generation, batches and adaptation.
            model_seed: of training before, where agents of several seeds are to share their models; None for `seed`.
            buffer_size: room for recorded transitions; when it is full the oldest of these make way. There is
                rho / (1 - rho) times as much for generated ones.
            device: a torch device, or "auto" for a GPU if there is one.
            cache_dir: folder of the cache, as for `gta_datasets.augment`.
            progress: show bars while training.
            **overrides: any field of `ATraDiffConfig` by its name, such as `lengths=(5, 15)`, `loop_tolerance=0.0` (no
                pruning) or `adapt_every=0` (no adaptation).

        Raises:
            ConfigError: an unknown keyword, a value out of range, spaces of `env` other than the dataset's or not Box,
                more than one environment, or trajectories longer than every episode.
            UnsupportedSpaceError: images, or another space without a float form.
            DatasetError: there is no such dataset, or it breaks Minari's contract.
            DivergenceError: training diverged.
            CacheError: the cache cannot be read or written.
        """
        device = torch_device(device)
        config = configured(ATraDiffConfig(), preset, device, {}, {"rho": rho, **overrides})
        seed, buffer_size = whole_number("seed", seed, *SEEDS), whole_number("buffer_size", buffer_size, *SIZES)
        model_seed = seed if model_seed is None else whole_number("model_seed", model_seed, *SEEDS)
        data = open_data(dataset, env, invalid=config.trajectories.invalid)
        opened = data.with_models(config, seed=seed, model_seed=model_seed, device=device)
        description = {"dataset": opened.dataset.id, "method": config.method, "config": config.to_dict()}
        opened.diffuser.fit(Shelf(cache_root(cache_dir), device, {**description, "seed": model_seed}, progress))
        return cls._empty(opened, buffer_size, device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        dataset: minari.MinariDataset | str,
        env: gymnasium.Env[Any, Any] | VecEnv,
        *,
        device: str = "auto",
    ) -> ATraDiffReplayBuffer:
        """The buffer that `save` left in a file, with all its weights; nothing is trained and no code is run.

        Args:
            path: the file.
            dataset: the dataset that the buffer was made from.
            env: where the agent goes on.
            device: a torch device, or "auto" for a GPU if there is one.

        Raises:
            CacheError: there is no file, or it is damaged, no buffer, or of another version.
            DatasetError: it was made from other data or spaces.
            ConfigError: spaces of `env` other than the dataset's, or more than one environment.
        """
        saved = read_saved(Path(path), dataset, env, device=torch_device(device))
        with refusing_damage(Path(path)):
            buffer = cls._empty(saved.opened, saved.buffer_size, torch_device(device))
            saved.fill(buffer, buffer.synthetic)
        buffer.state = saved.state
        return buffer

    def save(self, path: str | Path) -> None:
        """Write everything but the dataset to a file, from which `load` goes on as if nothing had happened.

        Raises:
            CacheError: the file cannot be written, or would be too large to be read again.
        """
        write_saved(Path(path), self.opened, self.state, self, self.synthetic)

    def callback(self) -> ATraDiffCallback:
        """What makes a model learn from this buffer: `model.learn(steps, callback=buffer.callback())`."""
        return ATraDiffCallback(self)

    def reset(self) -> None:
        """Forget all transitions, recorded and generated; what the models learned stays."""
        super().reset()
        self.synthetic.reset()
        self.state = State()

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Record a transition, and generate from its state if it is its turn; ConfigError for a placeholder."""
        opened, number = self.opened, self.state.added
        super().add(obs, next_obs, action, reward, done, infos)
        started = time.perf_counter()
        self.state.added += 1  # whatever becomes of the rest
        made = followed(opened, self.state, obs, number)
        if made is not None:
            self._keep(made)
        self.costs.generation += time.perf_counter() - started

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        generator = numpy_generator(self.opened.seed, "sample", self.state.batches)
        self.state.batches += 1
        generated = self._num_generated(batch_size)
        rows = generator.integers(self.size(), size=batch_size - generated)
        recorded = self._get_samples(rows, env)
        if generated == 0:
            return recorded
        other = self.synthetic._get_samples(generator.integers(self.synthetic.size(), size=generated), env)
        # Of one step each, neither has a discount.
        return ReplayBufferSamples(*(torch.cat([mine, its]) for mine, its in zip(recorded[:5], other[:5], strict=True)))

    @property
    def is_adaptation_due(self) -> bool:
        every = self.config.adaptation.adapt_every
        return 0 < every <= self.state.added - self.state.adapted_at

    def adapt(self, importance: Importance | None = None) -> float:
        """Let the models learn from recorded windows; the callback calls it when it is due.

        Args:
            importance: how much is to be learned from the transitions that windows begin with; None for the sum of the
                rewards of a window.

        Returns:
            The mean loss.

        Raises:
            ConfigError: nothing has been recorded.
            DivergenceError: training diverged; the models stay as they were until the next adaptation is due.
        """
        if self.size() == 0:
            raise ConfigError("there is nothing to adapt to: no transition has been recorded; call learn() first")
        started, adaptation = time.perf_counter(), self.config.adaptation
        recorded = Recorded(self, self.state.added, self.opened.source)
        generator = numpy_generator(self.opened.seed, "subset", self.state.adaptations)
        old = surviving(self.state.subset, adaptation.drop_share, recorded.oldest, generator)
        pool = np.concatenate([old, np.arange(max(self.state.adapted_at, recorded.oldest), self.state.added)])
        if len(pool) == 0:  # nothing new, and all the old dropped out
            pool = np.arange(recorded.oldest, self.state.added)
        longest = self.config.trajectories.lengths[-1]
        scores = recorded.rewards(pool, longest) if importance is None else importance(pool % self.buffer_size)
        subset = pool[important(scores, adaptation.subset_size, generator)]
        try:
            loss = self.opened.diffuser.adapt(lambda length: recorded.windows(subset, length), self.state.adaptations)
        finally:  # at once, what diverged would do so again
            self.state.adaptations, self.state.adapted_at = self.state.adaptations + 1, self.state.added
            self.state.subset = subset
            self.costs.adaptation += time.perf_counter() - started
        return loss

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ConfigError(
            "an ATraDiffReplayBuffer is not pickled (model.save_replay_buffer, copy.deepcopy): use buffer.save(path) "
            "beside model.save(path), and ATraDiffReplayBuffer.load(path, dataset, env)"
        )

    def _num_generated(self, batch_size: int) -> int:
        """How many transitions of the next batch are generated."""
        if self.synthetic.size() == 0:
            return 0
        owed = self.state.owed + self.config.imagination.rho * batch_size
        self.state.owed, generated = whole_part(owed, batch_size)
        return generated

    def _keep(self, made: Imagined) -> None:
        """Put generated transitions into the generated part."""
        layout = self.opened.layout
        observations, following = (
            np.asarray(layout.observations(flat)) for flat in (made.observations, made.next_observations)
        )
        actions = layout.actions(made.actions)
        for row in range(len(made.rewards)):
            one = slice(row, row + 1)
            self.synthetic.add(
                observations[one], following[one], actions[one], made.rewards[one], made.terminated[one], [{}]
            )

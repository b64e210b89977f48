"""What connects an `ATraDiffReplayBuffer` with a model of Stable-Baselines3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gta_datasets.adapters.sb3_buffers import AugmentedReplayBuffer, num_added
from gta_datasets.errors import ConfigError, DivergenceError, requires_extra
from gta_datasets.online.critics import check_critic, td_errors
from gta_datasets.online.opening import check_one_environment
from gta_datasets.online.state import Costs
from gta_datasets.seeding import derived_seed
from gta_datasets.warn import warn

with requires_extra("sb3", "stable-baselines3", "gta_datasets.online needs"):
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

if TYPE_CHECKING:
    from gta_datasets.online.buffer import ATraDiffReplayBuffer

__all__ = ["ATraDiffCallback"]


class ATraDiffCallback(BaseCallback):
    """Gives a model its buffer when `learn()` begins, adapts the buffer's models when it is due, and logs.

    In Stable-Baselines3's logger: `atradiff/generation_share` and `atradiff/adaptation_share` (of the wall-clock time
    since `learn()` began), `atradiff/seconds_per_step` (that both add to a step of the environment),
    `atradiff/recorded` and `atradiff/generated` (transitions in the buffer), `atradiff/pruned` (transitions that were
    cut out as loops), and after an adaptation `atradiff/adaptations` and `atradiff/adaptation_loss`. An adaptation
    that diverges is a warning, and the models stay as they were.

    A dataset's buffer, from `gta_datasets.adapters.pretrain`, is replaced like an empty one unless something was
    recorded in it.

    Args:
        buffer: the buffer; the same in every call of `learn()` on a model.

    Raises:
        ConfigError: when `learn()` begins, for a model that is not off-policy, has several environments or other
            spaces than the buffer, holds transitions in another buffer, or whose temporal-difference error is asked for
            and not known; and beside a callback that would pickle the buffer.
    """

    def __init__(self, buffer: ATraDiffReplayBuffer) -> None:
        super().__init__()
        self.buffer = buffer

    def _init_callback(self) -> None:
        model, buffer = self.model, self.buffer
        if not isinstance(model, OffPolicyAlgorithm):
            raise ConfigError(f"a model of type {type(model).__name__} has no replay buffer; give a SAC or TD3 one")
        check_one_environment(model.n_envs)
        for mine, its in (
            (buffer.observation_space, model.observation_space),
            (buffer.action_space, model.action_space),
        ):
            if mine != its:
                raise ConfigError(f"the buffer was made for an environment with {mine}, and the model's has {its}")
        if buffer.config.adaptation.adapt_every and buffer.config.adaptation.importance == "td_error":
            check_critic(model)
        held = model.replay_buffer
        replaceable = (ReplayBuffer, AugmentedReplayBuffer, type(buffer), type(None))
        if model.optimize_memory_usage or type(held) not in replaceable:
            raise ConfigError(
                f"the model asks for a replay buffer of another kind ({type(held).__name__}, "
                f"optimize_memory_usage={model.optimize_memory_usage}), which this one cannot stand in for; leave "
                "replay_buffer_class, n_steps and optimize_memory_usage of the model as they are"
            )
        # A dataset that the model was pretrained on stays where it is.
        if held is not buffer and held is not None and num_added(held):
            raise ConfigError(
                f"the model's replay buffer holds {num_added(held)} transitions, which would be lost; empty it by "
                "model.replay_buffer.reset()"
            )
        model.replay_buffer = buffer
        buffer.device = buffer.synthetic.device = model.device

    def _on_training_start(self) -> None:
        _check_none_pickles(self.locals.get("callback", self))  # all that learn() was given
        costs = self.buffer.costs
        self._started, self._steps = time.perf_counter(), self.num_timesteps
        self._before = Costs(costs.generation, costs.adaptation)

    def _on_step(self) -> bool:
        if self.buffer.is_adaptation_due:
            by_error = self.buffer.config.adaptation.importance == "td_error"
            try:
                loss = self.buffer.adapt(self._td_errors if by_error else None)
            except DivergenceError as error:  # a long run need not end: it has the models from before
                warn(str(error))
            else:
                self.logger.record("atradiff/adaptations", self.buffer.state.adaptations)
                self.logger.record("atradiff/adaptation_loss", loss)
        return True

    def _on_rollout_end(self) -> None:
        costs, since = self.buffer.costs, max(time.perf_counter() - self._started, 1e-9)
        generation = costs.generation - self._before.generation
        adaptation = costs.adaptation - self._before.adaptation
        steps = max(self.num_timesteps - self._steps, 1)
        self.logger.record("atradiff/generation_share", generation / since)
        self.logger.record("atradiff/adaptation_share", adaptation / since)
        self.logger.record("atradiff/seconds_per_step", (generation + adaptation) / steps)
        self.logger.record("atradiff/recorded", self.buffer.size())
        self.logger.record("atradiff/generated", self.buffer.synthetic.size())
        self.logger.record("atradiff/pruned", self.buffer.opened.diffuser.pruned)

    def _td_errors(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Of the recorded transitions in the given rows of the buffer."""
        model, buffer = self.model, self.buffer
        batch = buffer._get_samples(rows, env=model.get_vec_normalize_env())
        seed = derived_seed(buffer.opened.seed, f"td errors {buffer.state.adaptations}")
        return td_errors(model, batch, seed)  # type: ignore[arg-type]


def _check_none_pickles(callback: BaseCallback) -> None:
    """Raise ConfigError if a checkpoint of `callback`, or of those that it calls, would end `learn()` later."""
    for each in _all_of(callback):
        if isinstance(each, CheckpointCallback) and each.save_replay_buffer:
            raise ConfigError(
                "CheckpointCallback(save_replay_buffer=True) pickles the replay buffer, which an ATraDiffReplayBuffer "
                "refuses; leave save_replay_buffer out, and call buffer.save(path) after learn(), or from a callback "
                "of your own"
            )


def _all_of(callback: BaseCallback) -> Iterator[BaseCallback]:
    """The callback, and those that it calls: of a list, at an event, after an evaluation."""
    yield callback
    children = [getattr(callback, name, None) for name in ("callback", "callback_on_new_best")]
    for child in [*children, *getattr(callback, "callbacks", [])]:
        if isinstance(child, BaseCallback):
            yield from _all_of(child)

"""Updates of a Stable-Baselines3 model without its environment."""

from __future__ import annotations

from gta_datasets.errors import ConfigError, requires_extra
from gta_datasets.progress import progress_bar

with requires_extra("sb3", "stable-baselines3", "the adapter needs"):
    from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

__all__ = ["check_trainable", "train_offline"]


def check_trainable(model: object) -> None:
    """Raise ConfigError unless `model` is off-policy, has an environment, and learns from single transitions."""
    if not isinstance(model, OffPolicyAlgorithm):
        raise ConfigError(
            f"a model of type {type(model).__name__} cannot learn from recorded data; give an off-policy one of "
            "Stable-Baselines3 or sb3-contrib, such as TD3, SAC, DQN or TQC"
        )
    if model.get_env() is None:
        raise ConfigError("the model has no environment; give it one by model.set_env()")
    kind = model.replay_buffer_class
    if kind not in (None, ReplayBuffer, DictReplayBuffer):
        raise ConfigError(
            f"the model was made for a {kind.__name__} (replay_buffer_class, or n_steps > 1), and a dataset's buffer "
            "gives single recorded transitions; make the model without these"
        )


def train_offline(model: OffPolicyAlgorithm, gradient_steps: int, batch_size: int, *, progress: bool) -> None:
    """Update `model` that many times from its replay buffer, in the portions that `learn()` would take.

    Losses are in `model.logger.name_to_value` afterwards, and beside the bar.
    """
    if not hasattr(model, "_logger"):
        model._logger = configure(None, [])  # by set_logger(), learn() would keep this silent one
    portion, env_steps = _rhythm(model)
    with progress_bar(gradient_steps, "pretraining", "step", shown=progress) as bar:
        for start in range(0, gradient_steps, portion):
            steps = min(portion, gradient_steps - start)
            model.train(gradient_steps=steps, batch_size=batch_size)
            for _ in range(env_steps):
                model._on_step()  # where DQN and QR-DQN update their target network
            bar.update(steps)
            if start % 100 < steps:
                bar.set_postfix(_losses(model), refresh=False)


def _rhythm(model: OffPolicyAlgorithm) -> tuple[int, int]:
    """Updates that `learn()` does at once, and steps of the environment before them."""
    frequency = model.train_freq
    if isinstance(frequency, TrainFreq) and frequency.unit is TrainFrequencyUnit.STEP:
        steps = frequency.frequency
        return (model.gradient_steps if model.gradient_steps > 0 else steps * model.n_envs), steps
    portion = max(model.gradient_steps, 1)  # once an episode, which may have any length
    return portion, portion


def _losses(model: OffPolicyAlgorithm) -> dict[str, float]:
    return {
        name.removeprefix("train/"): float(value)
        for name, value in model.logger.name_to_value.items()
        if name.endswith("loss")
    }

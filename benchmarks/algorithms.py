"""The algorithms of the tables with CORL's hyper-parameters, by d3rlpy.

The values are those of CORL (https://github.com/tinkoff-ai/CORL, revision 6afec90, `algorithms/offline/*.py`), which
the GTA paper builds on. Where d3rlpy's default is the same value it is not repeated here. Known differences: CORL's
`configs/offline` change some by dataset (IQL for hopper; Decision Transformer has batches of 4,096 windows and a
learning rate of 8e-4), where here, as in GTA's copy of it, all have the values of the algorithm's file. CORL
initialises CQL's networks orthogonally, which d3rlpy does not offer, its targets are of a drawn action, where d3rlpy
takes the policy's mean, and it scales rewards of some locomotion datasets only, where here IQL scales those of all, as
the GTA paper does. MCQ is neither in CORL nor in d3rlpy: `benchmarks.mcq` is ours, with the sizes and rates of its
authors' code, and one weight for all datasets, that of their example (0.9), where their paper chose one for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.quiet import import_d3rlpy
from benchmarks.vectorised.iql import IQL
from benchmarks.vectorised.learner import MakeLearner
from benchmarks.vectorised.td3_bc import TD3BC

__all__ = ["ALGORITHMS", "Algorithm"]


@dataclass(frozen=True)
class Algorithm:
    """How an algorithm is made."""

    config: Callable[[Any, str, int], Any]
    """d3rlpy's, of the source's buffer, the kind of task and the number of updates; without batches and scalers."""
    is_transformer: bool = False
    is_steady: bool = False  # a longer run begins as a shorter one does
    rewards: Callable[[Any, str], Any] = lambda _source, _kind: None
    """d3rlpy's scaler of rewards, of the source's buffer and the kind of task; None leaves them as they are."""
    learner: Callable[[str, int], MakeLearner | None] = lambda _kind, _updates: None
    """The same for many runs at once, of the kind of task and the number of updates; None where there is none."""

    def create(self, source: Any, kind: str, *, updates: int, batch_size: int, device: str) -> Any:
        """The algorithm, untrained; observations are standardised as in the source, rewards scaled by kind of task."""
        config = self.config(source, kind, updates)
        config.batch_size = batch_size
        config.observation_scaler = source.observation_scaler()
        config.reward_scaler = self.rewards(source, kind)
        return config.create(device=device)


def _td3_bc(_source: Any, _kind: str, _updates: int) -> Any:
    return import_d3rlpy().algos.TD3PlusBCConfig()


IQL_BY_KIND = {"antmaze": (0.9, 10.0), "adroit": (0.8, 3.0)}
"""Expectile and temperature, where they are not 0.7 and 3."""


def _iql(_source: Any, kind: str, updates: int) -> Any:
    """Learning rate of the policy down to zero along a cosine; expectile and temperature by kind of task."""
    d3rlpy = import_d3rlpy()
    scheduler = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=updates)
    expectile, temperature = IQL_BY_KIND.get(kind, (0.7, 3.0))
    config = d3rlpy.algos.IQLConfig(
        actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=scheduler),
        expectile=expectile,
        weight_temp=temperature,
    )
    if kind == "adroit":
        config.actor_encoder_factory = d3rlpy.models.VectorEncoderFactory(dropout_rate=0.1)
    return config


def _iql_learner(kind: str, updates: int) -> MakeLearner | None:
    """Not for adroit, whose policies have dropout."""
    if kind == "adroit":
        return None
    expectile, temperature = IQL_BY_KIND.get(kind, (0.7, 3.0))
    return partial(IQL, expectile=expectile, temperature=temperature, anneal=updates)


def _cql(_source: Any, _kind: str, _updates: int) -> Any:
    """Three layers, weight 10 that is not adapted."""
    d3rlpy = import_d3rlpy()
    encoder = d3rlpy.models.VectorEncoderFactory([256, 256, 256])
    return d3rlpy.algos.CQLConfig(
        actor_learning_rate=3e-5,
        temp_learning_rate=3e-5,
        alpha_learning_rate=0.0,
        conservative_weight=10.0,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
    )


def _mcq(_source: Any, _kind: str, _updates: int) -> Any:
    """Networks of three layers of 400 units, a behaviour model of two of 750."""
    d3rlpy = import_d3rlpy()
    from benchmarks.mcq import MCQConfig

    encoder = d3rlpy.models.VectorEncoderFactory([400, 400, 400])
    return MCQConfig(
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        behaviour_encoder_factory=d3rlpy.models.VectorEncoderFactory([750, 750]),
    )


def _decision_transformer(_source: Any, _kind: str, updates: int) -> Any:
    """AdamW with a tenth of the updates as warm-up: CORL's 10,000 of 100,000."""
    d3rlpy = import_d3rlpy()
    optimiser = d3rlpy.optimizers.GPTAdamWFactory(
        weight_decay=1e-4,
        clip_grad_norm=0.25,
        lr_scheduler_factory=d3rlpy.optimizers.WarmupSchedulerFactory(warmup_steps=max(1, updates // 10)),
    )
    encoder = d3rlpy.models.VectorEncoderFactory([128], exclude_last_activation=True)
    return d3rlpy.algos.DecisionTransformerConfig(
        encoder_factory=encoder, activation_type="gelu", optim_factory=optimiser
    )


def _iql_rewards(source: Any, kind: str) -> Any:
    """Locomotion: a thousand over the range of returns; antmaze: less one."""
    if kind == "locomotion":
        return source.reward_scaler("return", multiplier=1_000.0)
    return import_d3rlpy().preprocessing.ConstantShiftRewardScaler(-1.0) if kind == "antmaze" else None


def _in_thousands(_source: Any, _kind: str) -> Any:
    """Returns in thousands, those of mazes too."""
    return import_d3rlpy().preprocessing.MultiplyRewardScaler(0.001)


ALGORITHMS = {
    "TD3BC": Algorithm(_td3_bc, is_steady=True, learner=lambda _kind, _updates: TD3BC),
    "IQL": Algorithm(_iql, rewards=_iql_rewards, learner=_iql_learner),
    "TD3BC-d3rlpy": Algorithm(_td3_bc),
    "IQL-d3rlpy": Algorithm(_iql, rewards=_iql_rewards),
    "CQL": Algorithm(_cql),
    "MCQ": Algorithm(_mcq),
    "DT": Algorithm(_decision_transformer, is_transformer=True, rewards=_in_thousands),
}
"""By the names in the tables; those ending in `-d3rlpy` are what the stack is compared with."""

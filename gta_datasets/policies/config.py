"""Settings of the policies, in d3rlpy's form: they are saved with an algorithm and logged with a run."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gta_datasets.config.fields import require
from gta_datasets.errors import ConfigError, requires_extra

with requires_extra("d3rlpy", "d3rlpy", "gta_datasets.policies needs"):
    from d3rlpy.base import DeviceArg, LearnableConfig, register_learnable
    from d3rlpy.models.encoders import EncoderFactory, make_encoder_field
    from d3rlpy.optimizers.optimizers import OptimizerFactory, make_optimizer_field

if TYPE_CHECKING:
    from gta_datasets.policies.gtp import GTP, GTPBC

__all__ = ["GTPBCConfig", "GTPConfig"]


@dataclasses.dataclass()
class GTPBCConfig(LearnableConfig):
    """Behaviour cloning by a generative trajectory policy (GTP-BC, arXiv 2510.11499): GTP without critics.

    Besides d3rlpy's own `batch_size`, `gamma` and scalers. Actions have to lie within -1 and 1, as for every policy of
    d3rlpy; an `action_scaler` sees to that.
    """

    actor_learning_rate: float = 3e-4
    actor_optim_factory: OptimizerFactory = make_optimizer_field()
    width: int = 128  # channels of the actor
    depth: int = 3  # residual blocks of the actor
    actor_tau: float = 0.05  # how far the target actor follows per update
    levels: int = 20  # noise levels between which jumps are learned, 0 not counted
    sampling_steps: int = 5  # K, jumps per action; `predict` may be asked for another number
    temperature: float = 1.0  # standard deviation of the noise, over the usual one, that `predict` makes actions from
    flow_weight: float = 1.0  # lambda, of the flow error beside the consistency error
    score_targets: bool = True  # consistency targets on the noise ray; else a solver's step with the average's score

    def __post_init__(self) -> None:
        _check_counts(self, "width", "depth", "levels", "sampling_steps")
        _check_share("actor_tau", self.actor_tau)
        for name in ("temperature", "flow_weight"):
            _check_not_negative(name, getattr(self, name))
        if self.compile_graph:
            raise ConfigError("compile_graph=True is not supported by GTP; leave it out")

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> GTPBC:
        """The algorithm, untrained.

        Raises:
            ConfigError: `enable_ddp` is not supported.
        """
        from gta_datasets.policies.gtp import GTPBC

        return GTPBC(self, device, refuse_ddp(enable_ddp))

    @staticmethod
    def get_type() -> str:
        return "gtp_bc"


@dataclasses.dataclass()
class GTPConfig(GTPBCConfig):
    """Generative trajectory policy (GTP, arXiv 2510.11499): twin critics weight the actions that it learns from."""

    critic_learning_rate: float = 3e-4
    critic_optim_factory: OptimizerFactory = make_optimizer_field()
    critic_encoder_factory: EncoderFactory = make_encoder_field()
    n_critics: int = 2
    tau: float = 0.005  # how far target critics follow per update
    target_steps: int = 2  # jumps per action that critics learn from and advantages are measured against
    eta: float = 1.0  # how much more an advantage of one standard deviation counts; 0: nothing, as GTP-BC
    max_weight: float = 100.0  # of an action
    n_action_samples: int = 1  # of which `predict` takes the one that the critics prefer

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "n_critics", "target_steps", "n_action_samples")
        _check_share("tau", self.tau)
        _check_not_negative("eta", self.eta)
        require(self.max_weight >= 1, "max_weight", self.max_weight, "a number of at least 1")

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> GTP:  # type: ignore[override]
        """The algorithm, untrained.

        Raises:
            ConfigError: `enable_ddp` is not supported.
        """
        from gta_datasets.policies.gtp import GTP

        return GTP(self, device, refuse_ddp(enable_ddp))

    @staticmethod
    def get_type() -> str:
        return "gtp"


# Comparisons hold for what is allowed, so that NaN, of which none holds, is refused.


def _check_counts(config: GTPBCConfig, *names: str) -> None:
    """Raise ConfigError unless these settings are whole numbers of at least 1; numpy's become Python's."""
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        require(whole and value >= 1, name, value, "a whole number of at least 1")
        setattr(config, name, int(value))


def _check_share(name: str, value: float) -> None:
    require(0 < value <= 1, name, value, "a number in (0, 1]")


def _check_not_negative(name: str, value: float) -> None:
    require(0 <= value < math.inf, name, value, "a finite number of at least 0")


def refuse_ddp(enable_ddp: bool) -> bool:
    """False.

    Raises:
        ConfigError: it is True.
    """
    if enable_ddp:
        raise ConfigError("enable_ddp=True is not supported by GTP; leave it out")
    return False


register_learnable(GTPBCConfig)
register_learnable(GTPConfig)

"""Configuration: one frozen dataclass per stage and per method, JSON both ways.

Fields marked `affects_data=False` (through `_io`) steer only how a result is computed or stored, never what it is; they
stay out of `data_fields`, and so out of the cache key.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np

from gta_datasets.errors import ConfigError

__all__ = [
    "DataConfig",
    "DynamicsConfig",
    "GTAConfig",
    "MethodConfig",
    "NetworkConfig",
    "NoiseConfig",
    "QualificationConfig",
    "ReadingConfig",
    "S4RLConfig",
    "SamplingConfig",
    "TrainingConfig",
]


def _io(default: Any) -> Any:
    """A field that cannot change the data."""
    return field(default=default, metadata={"affects_data": False})


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value!r} is not allowed; choose {allowed}")


def _require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    _require(value in choices, name, value, "one of " + ", ".join(repr(choice) for choice in choices))


@dataclass(frozen=True)
class _Stage:
    """Checks the type of every field against its default; whole numbers serve as floats, numpy's as Python's."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, wanted = getattr(self, item.name), type(item.default)
            value = value.item() if isinstance(value, np.generic) else value
            if wanted is float and type(value) is int:
                value = float(value)
            _require(type(value) is wanted, item.name, value, f"a value of type {wanted.__name__}")
            _require(not isinstance(value, float) or math.isfinite(value), item.name, value, "a finite number")
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Check ranges."""


@dataclass(frozen=True)
class DataConfig(_Stage):
    """Which windows exist and how often each is drawn for training."""

    horizon: int = 31  # transitions per window; a window has one row more
    discount: float = 0.99  # gamma of the return-to-go
    terminal_penalty: float = 100.0  # subtracted from terminal rewards before returns are computed
    short_episodes: Literal["pad", "skip"] = "pad"  # episodes of fewer than `horizon` transitions
    invalid: Literal["error", "drop"] = "error"  # episodes with values that are not finite
    reweighting: Literal["none", "dense", "sparse"] = "none"  # GTA section 4.1
    bins: int = 50  # dense: bins of the return histogram
    smoothing: float = 0.001  # dense: k, the share of windows below which a bin is drawn less
    temperature: float = 5.0  # dense: tau, for returns in hundreds
    success_weight: float = 10.0  # sparse: how much more often a successful episode is drawn

    def _check(self) -> None:
        _require(self.horizon >= 1, "horizon", self.horizon, "at least 1 transition")
        _require(0 <= self.discount <= 1, "discount", self.discount, "a number in [0, 1]")
        _require(self.terminal_penalty >= 0, "terminal_penalty", self.terminal_penalty, "a number of at least 0")
        _require_choice("short_episodes", self.short_episodes, ("pad", "skip"))
        _require_choice("invalid", self.invalid, ("error", "drop"))
        _require_choice("reweighting", self.reweighting, ("none", "dense", "sparse"))
        _require(self.bins >= 1, "bins", self.bins, "at least 1")
        _require(self.smoothing > 0, "smoothing", self.smoothing, "a positive number")
        _require(self.temperature > 0, "temperature", self.temperature, "a positive number")
        _require(self.success_weight > 0, "success_weight", self.success_weight, "a positive number")


@dataclass(frozen=True)
class NetworkConfig(_Stage):
    """The denoiser's network."""

    network: Literal["temporal_mixer", "mixer_unet"] = "temporal_mixer"
    width: int = 0  # channels of a row, or of the first resolution of mixer_unet; 0 for the network's own (256, 16)
    depth: int = 6  # blocks (temporal_mixer only)
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of matrix products, in training and in sampling

    def _check(self) -> None:
        _require_choice("network", self.network, ("temporal_mixer", "mixer_unet"))
        if self.network == "mixer_unet":
            _require(self.width in range(0, 65, 8), "width", self.width, "a multiple of 8 up to 64 (the paper: 16)")
        _require(self.width == 0 or self.width >= 8, "width", self.width, "at least 8, or 0")
        _require(self.depth >= 1, "depth", self.depth, "at least 1")
        _require_choice("precision", self.precision, ("float32", "bfloat16"))


@dataclass(frozen=True)
class TrainingConfig(_Stage):
    """How the denoiser is trained."""

    training_steps: int = 100_000
    train_batch_size: int = 256  # windows per step
    learning_rate: float = 3e-3
    warmup_steps: int = 500
    ema_decay: float = 0.999
    gradient_clip: float = 1.0  # global norm
    condition_dropout: float = 0.25  # share of windows trained without their return
    log_sigma_mean: float = -1.2  # P_mean of EDM: mean of ln sigma
    log_sigma_std: float = 1.2  # P_std of EDM: standard deviation of ln sigma
    optimizer: Literal["adam", "muon"] = "muon"  # muon: for the matrices of the temporal mixer's blocks only
    checkpoint_seconds: float = _io(60.0)  # time between two checkpoints

    def _check(self) -> None:
        _require(self.training_steps >= 1, "training_steps", self.training_steps, "at least 1")
        _require(self.train_batch_size >= 1, "train_batch_size", self.train_batch_size, "at least 1")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number in [0, 1)")
        _require(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "a positive number")
        _require(0 <= self.condition_dropout < 1, "condition_dropout", self.condition_dropout, "a number in [0, 1)")
        _require(self.log_sigma_std > 0, "log_sigma_std", self.log_sigma_std, "a positive number")
        _require_choice("optimizer", self.optimizer, ("adam", "muon"))
        _require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "at least 0")


@dataclass(frozen=True)
class SamplingConfig(_Stage):
    """How windows are noised and denoised again."""

    mu: float = 0.5  # exploration level: share of the 128-step noise schedule that is undone
    alpha: float = 1.3  # exploitation level: amplification of the return
    condition: Literal["amplified", "fixed", "none"] = "amplified"  # what is asked for: fixed is the data's best return
    source_quantile: float = 0.0  # windows come from the episodes whose return reaches this quantile
    return_limit: float = 1.0  # no more is asked than the best return in the data amplified by this; 0 for no limit
    guidance: float = 1.5  # classifier-free guidance scale; 1 is plain conditioning
    guidance_start: float = 0.3  # lowest noise level at which guidance applies; at most an eighth of the highest
    sampler: Literal["dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun"] = "dpm_2m_sde"
    sampler_steps: int = 32  # noise levels from the exploration level down; stochastic_heun: of the full schedule
    sigma_end: float = 0.02  # last noise level before 0; at most an eighth of the highest
    eta: float = 5.0  # stochasticity of dpm_2m_sde
    churn: float = 80.0  # S_churn of stochastic_heun
    churn_min: float = 0.05  # S_tmin: lowest noise level at which it adds noise
    churn_max: float = 50.0  # S_tmax: highest noise level at which it adds noise
    churn_noise: float = 1.003  # S_noise: standard deviation of the noise it adds
    windows_per_shard: int = 1_024
    generate_batch_size: int = _io(128)  # windows per network evaluation, in blocks of 32

    def _check(self) -> None:
        _require(0 < self.mu <= 1, "mu", self.mu, "a number in (0, 1]")
        # Beyond 2 a negative return would change its sign.
        _require(1 <= self.alpha <= 2, "alpha", self.alpha, "a number in [1, 2]")
        _require(
            self.return_limit == 0 or self.return_limit >= 1,
            "return_limit",
            self.return_limit,
            "0 or a number of at least 1",
        )
        _require_choice("condition", self.condition, ("amplified", "fixed", "none"))
        _require(0 <= self.source_quantile < 1, "source_quantile", self.source_quantile, "a number in [0, 1)")
        _require(self.guidance >= 0, "guidance", self.guidance, "a number of at least 0")
        _require(self.guidance_start >= 0, "guidance_start", self.guidance_start, "a noise level of at least 0")
        _require_choice("sampler", self.sampler, ("dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun"))
        _require(self.sampler_steps >= 2, "sampler_steps", self.sampler_steps, "at least 2")
        _require(self.sigma_end > 0, "sigma_end", self.sigma_end, "a positive noise level")
        _require(self.eta >= 0, "eta", self.eta, "a number of at least 0")
        for name in ("churn", "churn_min", "churn_max", "churn_noise"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        _require(self.windows_per_shard >= 1, "windows_per_shard", self.windows_per_shard, "at least 1")
        _require(self.generate_batch_size >= 1, "generate_batch_size", self.generate_batch_size, "at least 1")


@dataclass(frozen=True)
class QualificationConfig(_Stage):
    """Which generated trajectories are kept."""

    qualify: float = 0.0  # largest dynamics error of a step by the learned model, in the source's units; 0 keeps all
    qualify_attempts: int = 50  # how often a trajectory is drawn anew before giving up

    def _check(self) -> None:
        _require(self.qualify >= 0, "qualify", self.qualify, "a number of at least 0")
        _require(self.qualify_attempts >= 1, "qualify_attempts", self.qualify_attempts, "at least 1")


@dataclass(frozen=True)
class DynamicsConfig(_Stage):
    """The learned model of the dynamics, which `qualify` needs."""

    dynamics_members: int = 3  # networks in the ensemble
    dynamics_width: int = 256
    dynamics_depth: int = 2  # residual layers
    dynamics_steps: int = 4_000
    dynamics_batch_size: int = 256  # transitions per step and network

    def _check(self) -> None:
        for item in dataclasses.fields(self):
            _require(getattr(self, item.name) >= 1, item.name, getattr(self, item.name), "at least 1")


@dataclass(frozen=True)
class MethodConfig(ABC):
    """Everything one method can be told: a field per stage, each stage a dataclass. Names of fields are unique."""

    method: ClassVar[str]

    qualification: QualificationConfig = QualificationConfig()
    dynamics: DynamicsConfig = DynamicsConfig()

    @property
    @abstractmethod
    def invalid(self) -> Literal["error", "drop"]:
        """What happens to episodes that cannot be used."""

    @classmethod
    def stages(cls) -> dict[str, type[Any]]:
        """The class of every stage by its name."""
        return {item.name: type(item.default) for item in dataclasses.fields(cls)}

    @classmethod
    def keywords(cls) -> tuple[str, ...]:
        """Names of all fields of all stages."""
        return tuple(item.name for stage in cls.stages().values() for item in dataclasses.fields(stage))

    def replace(self, **overrides: object) -> Self:
        """A copy with some fields changed, each by its own name whatever stage it belongs to.

        Raises:
            ConfigError: an unknown keyword, a value of the wrong type or out of range.
        """
        unknown = sorted(set(overrides) - set(self.keywords()))
        if unknown:
            raise ConfigError(
                f"unknown keyword {', '.join(map(repr, unknown))}; known: {', '.join(sorted(self.keywords()))}"
            )
        stages: dict[str, Any] = {}
        for stage in dataclasses.fields(self):
            current = getattr(self, stage.name)
            chosen = {f.name: overrides[f.name] for f in dataclasses.fields(current) if f.name in overrides}
            stages[stage.name] = dataclasses.replace(current, **chosen)
        return dataclasses.replace(self, **stages)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """A JSON-compatible form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, form: Mapping[str, Mapping[str, object]]) -> Self:
        """The inverse of `to_dict`; missing fields take their defaults, unknown ones are an error."""
        known = cls.stages()
        stages: dict[str, Any] = {}
        for name, values in form.items():
            _require_choice("stage", name, tuple(sorted(known)))
            for key in values:
                _require_choice(f"a field of {name}", key, tuple(f.name for f in dataclasses.fields(known[name])))
            stages[name] = known[name](**values)
        return cls(**stages)

    def data_fields(self, *stages: str) -> dict[str, dict[str, Any]]:
        """The fields that affect what is generated, of some stages (default: all), JSON-compatible."""
        chosen = stages or tuple(f.name for f in dataclasses.fields(self))
        return {
            stage: {
                f.name: getattr(getattr(self, stage), f.name)
                for f in dataclasses.fields(getattr(self, stage))
                if f.metadata.get("affects_data", True)
            }
            for stage in chosen
        }


@dataclass(frozen=True)
class GTAConfig(MethodConfig):
    """Everything Generative Trajectory Augmentation can be told (GTA, arXiv 2405.16907)."""

    method: ClassVar[str] = "gta"

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def invalid(self) -> Literal["error", "drop"]:
        return self.data.invalid


@dataclass(frozen=True)
class ReadingConfig(_Stage):
    """Which episodes of the source are used."""

    invalid: Literal["error", "drop"] = "error"  # episodes with values that are not finite

    def _check(self) -> None:
        _require_choice("invalid", self.invalid, ("error", "drop"))


@dataclass(frozen=True)
class NoiseConfig(_Stage):
    """How states are perturbed."""

    noise: float = 3e-4  # standard deviation, in standard deviations of the source's states
    transitions_per_shard: int = 16_384  # about; a shard holds whole episodes

    def _check(self) -> None:
        _require(self.noise >= 0, "noise", self.noise, "a number of at least 0")
        _require(self.transitions_per_shard >= 1, "transitions_per_shard", self.transitions_per_shard, "at least 1")


@dataclass(frozen=True)
class S4RLConfig(MethodConfig):
    """Everything S4RL's Gaussian state noise can be told (Sinha et al. 2021, arXiv 2103.06326)."""

    method: ClassVar[str] = "s4rl"

    data: ReadingConfig = ReadingConfig()
    perturbation: NoiseConfig = NoiseConfig()

    @property
    def invalid(self) -> Literal["error", "drop"]:
        return self.data.invalid

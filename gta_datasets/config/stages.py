"""The stages that generative methods share: data, network, training, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gta_datasets.config.fields import Stage, auto_field, io_field, require, require_choice
from gta_datasets.errors import ConfigError

__all__ = [
    "ConditionalTrainingConfig",
    "DataConfig",
    "NetworkConfig",
    "ReadingConfig",
    "SamplingConfig",
    "SolverConfig",
    "TrainingConfig",
    "require_batch_size",
    "require_horizon",
]

LONGEST = 10_000
"""Windows of more transitions fit no network's memory."""


@dataclass(frozen=True)
class ReadingConfig(Stage):
    """Which episodes of the source are used."""

    # Unusable episodes: an error, or left out and named in `skipped`.
    invalid: Literal["error", "drop"] = field(default="error", kw_only=True)

    def _check(self) -> None:
        require_choice("invalid", self.invalid, ("error", "drop"))


@dataclass(frozen=True)
class DataConfig(ReadingConfig):
    """Which windows exist and how often each is drawn for training."""

    horizon: int = 31  # transitions per window; a window has one row more
    discount: float = 0.99  # gamma of the return-to-go
    terminal_penalty: float = 100.0  # subtracted from terminal rewards before returns are computed
    # What a window is worth: the rewards recorded from its first transition to the end of the episode (the paper), or
    # those of its own transitions and what a learned value function expects after them. Then it counts neither whether
    # luck followed nor where the recording was cut off.
    returns: Literal["recorded", "expected"] = "recorded"
    # Episodes of fewer than `horizon` transitions: windows filled up, or nothing made from them, as `skipped` says.
    short_episodes: Literal["pad", "skip"] = "pad"
    # How often a window is trained on (GTA section 4.1): all alike, those of high returns more often, or those of
    # successful episodes. An episode succeeds by any positive reward above the lowest one, or where none is positive,
    # as with -1 and 0, by any above the lowest.
    reweighting: Literal["none", "dense", "sparse"] = "none"
    bins: int = 50  # dense: bins of the return histogram
    smoothing: float = 0.001  # dense: k, the share of windows below which a bin is drawn less
    temperature: float = 5.0  # dense: tau, for returns in hundreds
    success_weight: float = 10.0  # sparse: how much more often a successful episode is drawn

    def _check(self) -> None:
        super()._check()
        require_horizon(self.horizon)
        require(0 <= self.discount <= 1, "discount", self.discount, "a number in [0, 1]")
        require_choice("returns", self.returns, ("recorded", "expected"))
        endless = self.returns == "expected" and self.discount == 1
        require(not endless, "discount", self.discount, "below 1 with returns='expected'")
        require(self.terminal_penalty >= 0, "terminal_penalty", self.terminal_penalty, "a number of at least 0")
        require_choice("short_episodes", self.short_episodes, ("pad", "skip"))
        require_choice("reweighting", self.reweighting, ("none", "dense", "sparse"))
        require(self.bins >= 1, "bins", self.bins, "at least 1")
        require(self.smoothing > 0, "smoothing", self.smoothing, "a positive number")
        require(self.temperature > 0, "temperature", self.temperature, "a positive number")
        require(self.success_weight > 0, "success_weight", self.success_weight, "a positive number")


@dataclass(frozen=True)
class NetworkConfig(Stage):
    """The denoiser's network."""

    network: Literal["temporal_mixer", "mixer_unet"] = "temporal_mixer"  # a compact one, or the GTA paper's
    width: int = 0  # channels of a row, or of the first resolution of mixer_unet; 0 for the network's own (256, 16)
    depth: int = 6  # blocks, of temporal_mixer only
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of matrix products, in training and in sampling

    def _check(self) -> None:
        require_choice("network", self.network, ("temporal_mixer", "mixer_unet"))
        if self.network == "mixer_unet":
            require(self.width in range(0, 65, 8), "width", self.width, "a multiple of 8 up to 64 (the paper: 16)")
        require(self.width == 0 or self.width >= 8, "width", self.width, "at least 8, or 0")
        require(self.depth >= 1, "depth", self.depth, "at least 1")
        require_choice("precision", self.precision, ("float32", "bfloat16"))


@dataclass(frozen=True)
class TrainingConfig(Stage):
    """How the denoiser is trained."""

    training_steps: int = 100_000  # updates of the network
    train_batch_size: int = 256  # windows per step
    learning_rate: float = 3e-3  # its peak; from there it falls to a hundredth along half a cosine
    warmup_steps: int = 500  # steps in which the learning rate rises to its peak
    ema_decay: float = 0.999  # of the moving average of the weights, which is what generates
    gradient_clip: float = 1.0  # largest norm of all gradients together
    log_sigma_mean: float = -1.2  # P_mean of EDM: mean logarithm of the noise levels that are trained on
    log_sigma_std: float = 1.2  # P_std of EDM: its standard deviation
    optimizer: Literal["adam", "muon"] = "muon"  # Muon: for the matrices of blocks alone, of which mixer_unet has none
    checkpoint_seconds: float = io_field(60.0)  # time between two checkpoints, from which training is resumed

    def _check(self) -> None:
        require(self.training_steps >= 1, "training_steps", self.training_steps, "at least 1")
        require(self.train_batch_size >= 1, "train_batch_size", self.train_batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number in [0, 1)")
        require(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "a positive number")
        require(self.log_sigma_std > 0, "log_sigma_std", self.log_sigma_std, "a positive number")
        require_choice("optimizer", self.optimizer, ("adam", "muon"))
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "at least 0")


@dataclass(frozen=True)
class ConditionalTrainingConfig(TrainingConfig):
    """How a denoiser that is told the return is trained."""

    condition_dropout: float = 0.25  # share of windows trained without their return

    def _check(self) -> None:
        super()._check()
        require(0 <= self.condition_dropout < 1, "condition_dropout", self.condition_dropout, "a number in [0, 1)")


@dataclass(frozen=True)
class SolverConfig(Stage):
    """How noise is taken away."""

    # DPM-Solver++(2M) with noise added at every step or without any; EDM's sampler without noise or, as in the papers,
    # with it.
    sampler: Literal["dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun"] = "dpm_2m_sde"
    sampler_steps: int = 32  # noise levels from the start down; for stochastic_heun, of the full schedule
    sigma_end: float = 0.02  # last noise level before 0; at most an eighth of the highest, but for stochastic_heun
    eta: float = 5.0  # how much noise dpm_2m_sde adds; more makes it forget the errors of earlier steps
    churn: float = 80.0  # S_churn of stochastic_heun: how much noise it adds
    churn_min: float = 0.05  # S_tmin: lowest noise level at which it adds noise
    churn_max: float = 50.0  # S_tmax: highest noise level at which it adds noise
    churn_noise: float = 1.003  # S_noise: standard deviation of the noise it adds

    def _check(self) -> None:
        require_choice("sampler", self.sampler, ("dpm_2m_sde", "dpm_2m", "heun", "stochastic_heun"))
        require(self.sampler_steps >= 2, "sampler_steps", self.sampler_steps, "at least 2")
        require(self.sigma_end > 0, "sigma_end", self.sigma_end, "a positive noise level")
        for name in ("eta", "churn", "churn_min", "churn_max", "churn_noise"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")


@dataclass(frozen=True)
class SamplingConfig(SolverConfig):
    """How windows are noised and denoised again."""

    sampler_steps: int = 16
    sigma_end: float = 0.1
    eta: float = 20.0
    # Exploration level: share of the 128-step noise schedule that is undone.
    mu: float | Literal["auto"] = auto_field(0.5)
    # Exploitation level: amplification of the return. More makes data of more reward, and not always better policies.
    alpha: float | Literal["auto"] = auto_field(1.1)
    # What is asked for: the amplified return, the best of any window, nothing, or the window's rewards, each amplified.
    condition: Literal["amplified", "fixed", "none", "rewards"] = "amplified"
    relabel: bool = False  # rewards from a learned model of them instead of from the generator
    source_quantile: float = 0.0  # windows come from the episodes whose return reaches this quantile
    # Where a trajectory ends the task: if recorded terminations lie beyond limits of the state, beyond these, and what
    # would go on there stays as it was recorded; or where its source window does, as in the paper.
    terminations: Literal["limits", "source"] = "limits"
    # What is equally likely to be augmented: every window (the paper), or every transition, in a window around it. The
    # first and the last windows of an episode then come (horizon + 1) / 2 times as often.
    coverage: Literal["windows", "transitions"] = "windows"
    return_limit: float = 1.0  # no more is asked than the best return of a window amplified by this; 0 for no limit
    guidance: float = 1.5  # classifier-free guidance scale; 1 is plain conditioning
    guidance_start: float = 0.3  # lowest noise level at which guidance applies; at most an eighth of the highest
    compile: bool = False  # networks by torch.compile, also for training; rounds otherwise, and takes a while to start
    windows_per_shard: int = 1_024  # windows in a file of the cache
    # Windows per network evaluation, in blocks of 32; 0: 128 on a CPU, all at once on a GPU, where it may change last
    # bits. Halved if memory is short.
    generate_batch_size: int = io_field(0)

    def _check(self) -> None:
        super()._check()
        require_choice("terminations", self.terminations, ("limits", "source"))
        require(isinstance(self.mu, str) or 0 < self.mu <= 1, "mu", self.mu, "a number in (0, 1] or 'auto'")
        # Beyond 2 a negative return would change its sign.
        sound = isinstance(self.alpha, str) or 1 <= self.alpha <= 2
        require(sound, "alpha", self.alpha, "a number in [1, 2] or 'auto'")
        require(
            self.return_limit == 0 or self.return_limit >= 1,
            "return_limit",
            self.return_limit,
            "0 or a number of at least 1",
        )
        require_choice("condition", self.condition, ("amplified", "fixed", "none", "rewards"))
        require_choice("coverage", self.coverage, ("windows", "transitions"))
        require(0 <= self.source_quantile < 1, "source_quantile", self.source_quantile, "a number in [0, 1)")
        require(self.guidance >= 0, "guidance", self.guidance, "a number of at least 0")
        require(self.guidance_start >= 0, "guidance_start", self.guidance_start, "a noise level of at least 0")
        require(self.windows_per_shard >= 1, "windows_per_shard", self.windows_per_shard, "at least 1")
        require_batch_size(self.generate_batch_size)

    @property
    def amplification(self) -> float:
        """`alpha`, which must be known."""
        return self._known("alpha", self.alpha)

    @property
    def exploration(self) -> float:
        """`mu`, which must be known."""
        return self._known("mu", self.mu)

    @staticmethod
    def _known(name: str, value: float | Literal["auto"]) -> float:
        if isinstance(value, str):
            raise ConfigError(f"{name} is found when the model has been trained, and was needed before")
        return value


def require_batch_size(size: int) -> None:
    """Raise ConfigError unless `size` windows may be asked for per network evaluation; 0 leaves the number open."""
    require(size >= 0, "generate_batch_size", size, "a number, or 0 for one that suits")


def require_horizon(horizon: int) -> None:
    """Raise ConfigError for windows of no transition, or of more than a network could take."""
    require(1 <= horizon <= LONGEST, "horizon", horizon, f"at least 1 transition and at most {LONGEST:,}")

"""Configuration: one frozen dataclass per stage and per method, JSON both ways.

Fields marked `affects_data=False` (through `io_field`) steer only how a result is computed or stored, never what it is;
they stay out of `data_fields`, and so out of the cache key.
"""

from gta_datasets.config.atradiff import AdaptationConfig, ATraDiffConfig, ImaginationConfig, TrajectoryConfig
from gta_datasets.config.diffstitch import DiffStitchConfig, StateConfig, StitchingConfig
from gta_datasets.config.gta import FlowConfig, GTAConfig, SearchConfig
from gta_datasets.config.method import MethodConfig, StagedConfig
from gta_datasets.config.models import DynamicsConfig, QualificationConfig
from gta_datasets.config.s4rl import NoiseConfig, S4RLConfig
from gta_datasets.config.stages import (
    ConditionalTrainingConfig,
    DataConfig,
    NetworkConfig,
    ReadingConfig,
    SamplingConfig,
    SolverConfig,
    TrainingConfig,
)
from gta_datasets.config.synther import SynthERConfig, TransitionNetworkConfig, TransitionSamplingConfig

__all__ = [
    "ATraDiffConfig",
    "AdaptationConfig",
    "ConditionalTrainingConfig",
    "DataConfig",
    "DiffStitchConfig",
    "DynamicsConfig",
    "FlowConfig",
    "GTAConfig",
    "ImaginationConfig",
    "MethodConfig",
    "NetworkConfig",
    "NoiseConfig",
    "QualificationConfig",
    "ReadingConfig",
    "S4RLConfig",
    "SamplingConfig",
    "SearchConfig",
    "SolverConfig",
    "StagedConfig",
    "StateConfig",
    "StitchingConfig",
    "SynthERConfig",
    "TrainingConfig",
    "TrajectoryConfig",
    "TransitionNetworkConfig",
    "TransitionSamplingConfig",
]

"""Values that a configuration refuses: of the wrong type, out of range, or of a name that nobody knows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gta_datasets.config import (
    DataConfig,
    GTAConfig,
    NetworkConfig,
    SamplingConfig,
)
from gta_datasets.errors import ConfigError, GTADatasetsError


def test_unknown_keywords_are_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown keyword 'alhpa', 'beta'; known: ") as raised:
        GTAConfig().replace(beta=1, alpha=1.1, alhpa=1.2)
    listed = str(raised.value).split("known: ")[-1].split(", ")
    assert sorted(listed) == sorted(GTAConfig.keywords())


def test_unknown_names_in_a_stored_configuration_are_refused() -> None:
    with pytest.raises(ConfigError, match="stage='store' is not allowed; choose one of 'data', 'dynamics'"):
        GTAConfig.from_dict({"store": {}})
    with pytest.raises(ConfigError, match="a field of data='gamma' is not allowed; choose one of 'bins', 'disc"):
        GTAConfig.from_dict({"data": {"gamma": 0.9}})
    with pytest.raises(ConfigError, match="a field of data='alpha' is not allowed"):
        GTAConfig.from_dict({"data": {"alpha": 1.2}})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("horizon", "31", "int"),
        ("horizon", 31.0, "int"),
        ("horizon", True, "int"),
        ("horizon", None, "int"),
        ("alpha", "1.3", "float"),
        ("alpha", True, "float"),
        ("mu", None, "float"),
        ("sampler", 2, "str"),
        ("generate_batch_size", 8.0, "int"),
        ("reweighting", None, "str"),
    ],
)
def test_values_of_the_wrong_type_are_refused(name: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}={value!r} is not allowed; choose a value of type {wanted}"):
        GTAConfig().replace(**{name: value})


@pytest.mark.parametrize("name", ["alpha", "mu"])
def test_what_may_be_found_from_the_data_is_said_where_the_type_is_wrong(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}='hi' is not allowed; choose a value of type float, or 'auto'$"):
        GTAConfig().replace(**{name: "hi"})
    with pytest.raises(ConfigError, match=r"^guidance='hi' is not allowed; choose a value of type float$"):
        GTAConfig().replace(guidance="hi")


def test_whole_numbers_serve_as_floats() -> None:
    config = GTAConfig().replace(alpha=2, gradient_clip=5)
    assert (config.sampling.alpha, config.training.gradient_clip) == (2.0, 5.0)
    assert type(config.sampling.alpha) is float


NAN = math.nan


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("horizon", 0, "at least 1"),
        ("horizon", -3, "at least 1"),
        ("horizon", 10_001, "at most 10,000"),
        ("discount", -0.01, r"\[0, 1\]"),
        ("discount", 1.01, r"\[0, 1\]"),
        ("discount", NAN, "finite"),
        ("terminal_penalty", -1.0, "at least 0"),
        ("short_episodes", "drop", "one of 'pad', 'skip'"),
        ("invalid", "skip", "one of 'error', 'drop'"),
        ("reweighting", "maze", "one of 'none', 'dense', 'sparse'"),
        ("bins", 0, "at least 1"),
        ("success_weight", 0.0, "positive"),
        ("network", "unet", "one of 'temporal_mixer', 'mixer_unet'"),
        ("width", 7, "at least 8"),
        ("depth", 0, "at least 1"),
        ("training_steps", 0, "at least 1"),
        ("train_batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "positive"),
        ("learning_rate", NAN, "finite"),
        ("guidance", math.inf, "finite"),
        ("warmup_steps", -1, "at least 0"),
        ("ema_decay", 1.0, r"\[0, 1\)"),
        ("ema_decay", -0.1, r"\[0, 1\)"),
        ("gradient_clip", 0.0, "positive"),
        ("condition_dropout", 1.0, r"\[0, 1\)"),
        ("log_sigma_std", 0.0, "positive"),
        ("optimizer", "sgd", "one of 'adam', 'muon'"),
        ("precision", "float16", "one of 'float32', 'bfloat16'"),
        ("checkpoint_seconds", -1.0, "at least 0"),
        ("mu", 0.0, r"\(0, 1\]"),
        ("mu", 1.5, r"\(0, 1\]"),
        ("mu", NAN, "finite"),
        ("alpha", 0.9, r"\[1, 2\]"),
        ("alpha", 2.1, r"\[1, 2\]"),
        ("return_limit", -1.0, "0 or a number of at least 1"),
        ("return_limit", 0.5, "0 or a number of at least 1"),
        ("guidance", -1.0, "at least 0"),
        ("guidance_start", -0.1, "at least 0"),
        ("sampler", "ddim", "one of 'dpm_2m_sde'"),
        ("condition", "best", "one of 'amplified', 'fixed', 'none'"),
        ("coverage", "ends", "one of 'windows', 'transitions'"),
        ("returns", "true", "one of 'recorded', 'expected'"),
        ("source_quantile", 1.0, r"\[0, 1\)"),
        ("source_quantile", -0.1, r"\[0, 1\)"),
        ("sampler_steps", 1, "at least 2"),
        ("sigma_end", 0.0, "positive"),
        ("eta", -1.0, "at least 0"),
        ("churn", -1.0, "at least 0"),
        ("churn_min", -1.0, "at least 0"),
        ("churn_max", -1.0, "at least 0"),
        ("churn_noise", -1.0, "at least 0"),
        ("windows_per_shard", 0, "at least 1"),
        ("generate_batch_size", -1, "0 for one that suits"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}={value!r} is not allowed; choose .*{allowed}"):
        GTAConfig().replace(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("horizon", 1),
        ("discount", 0.0),
        ("discount", 1.0),
        ("terminal_penalty", 0.0),
        ("warmup_steps", 0),
        ("ema_decay", 0.0),
        ("mu", 1.0),
        ("alpha", 1.0),
        ("return_limit", 0.0),
        ("return_limit", 1.0),
        ("guidance", 0.0),
        ("sampler_steps", 2),
    ],
)
def test_ends_of_the_ranges_are_allowed(name: str, value: object) -> None:
    config = GTAConfig().replace(**{name: value}).to_dict()
    assert value in [stage[name] for stage in config.values() if name in stage]


def test_stages_check_themselves_without_replace() -> None:
    with pytest.raises(ConfigError, match=r"mu=2\.0 is not allowed"):
        SamplingConfig(mu=2)
    with pytest.raises(ValueError, match="horizon=0"):
        DataConfig(horizon=0)
    with pytest.raises(ConfigError, match=r"horizon=2\.5 is not allowed; choose a value of type int"):
        DataConfig(horizon=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width=20 is not allowed; choose a multiple of 8"):
        NetworkConfig(network="mixer_unet", width=20)
    assert DataConfig(horizon=np.int64(5)).horizon == 5
    assert issubclass(ConfigError, GTADatasetsError)

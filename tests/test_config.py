from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gta_datasets.config import (
    ATraDiffConfig,
    ConditionalTrainingConfig,
    DataConfig,
    DiffStitchConfig,
    DynamicsConfig,
    FlowConfig,
    GTAConfig,
    NetworkConfig,
    QualificationConfig,
    S4RLConfig,
    SamplingConfig,
    SearchConfig,
    StagedConfig,
    SynthERConfig,
)
from gta_datasets.errors import ConfigError
from gta_datasets.presets import PRESETS, TASKS

STAGES = {
    "qualification": QualificationConfig,
    "search": SearchConfig,
    "flow": FlowConfig,
    "dynamics": DynamicsConfig,
    "data": DataConfig,
    "network": NetworkConfig,
    "training": ConditionalTrainingConfig,
    "sampling": SamplingConfig,
}
IO_FIELDS = {"checkpoint_seconds", "generate_batch_size", "qualify_attempts"}
"""The fields that may differ between two runs that share a cache entry."""

# What the GTA paper searched (appendix C): alpha, mu.
SEARCHED = {
    "locomotion": ({1.1, 1.3, 1.4}, {0.25, 0.5}),
    "maze2d": ({1.25, 1.3}, {0.5}),
    "antmaze": ({1.1, 1.3, 1.5}, {0.05, 0.1, 0.25}),
    "adroit": ({1.1, 1.3}, {0.1, 0.25}),
    "kitchen": ({1.1, 1.3, 1.5}, {0.1, 0.25, 0.5}),
}


def another_value(name: str, value: object) -> object:
    """An allowed value of a field that is not `value`."""
    choices = {
        "short_episodes": "skip",
        "invalid": "drop",
        "reweighting": "dense",
        "network": "mixer_unet",
        "optimizer": "adam",
        "precision": "float32",
        "sampler": "heun",
        "condition": "fixed",
        "coverage": "transitions",
        "terminations": "source",
        "returns": "expected",
        "source_quantile": 0.5,
        "width": 64,
        "alpha": 1.6,
    }
    if name in choices:
        return choices[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    assert isinstance(value, float)
    shares = {"discount", "condition_dropout", "ema_decay", "mu", "auto_share"}
    return value / 2 if name in shares else value + 1.0


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_task_is_valid_and_survives_json(preset: str, task: str | None) -> None:
    overrides = {**PRESETS[preset], **(TASKS[task] if task else {})}
    config = GTAConfig().replace(**overrides)
    assert GTAConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config
    flat = {name: value for stage in config.to_dict().values() for name, value in stage.items()}
    assert {name: flat[name] for name in overrides} == overrides


@pytest.mark.parametrize("name", GTAConfig.keywords())
def test_every_field_can_be_replaced_alone_and_survives_json(name: str) -> None:
    before = {field: value for stage in GTAConfig().to_dict().values() for field, value in stage.items()}
    value = another_value(name, before[name])
    config = GTAConfig().replace(**{name: value})
    after = {field: value for stage in config.to_dict().values() for field, value in stage.items()}
    assert after == before | {name: value}
    assert GTAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert GTAConfig() != config


def test_field_names_are_unique_over_all_stages() -> None:
    names = [field.name for stage in STAGES.values() for field in dataclasses.fields(stage)]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(GTAConfig.keywords())
    assert {field.name: field.type for field in dataclasses.fields(GTAConfig)}.keys() == STAGES.keys()


def test_data_fields_leave_out_exactly_the_io_fields() -> None:
    kept = GTAConfig().data_fields()
    assert kept.keys() == STAGES.keys()
    for stage, fields in kept.items():
        every = GTAConfig().to_dict()[stage]
        assert fields == {name: value for name, value in every.items() if name not in IO_FIELDS}
    assert set(GTAConfig.keywords()) - {name for fields in kept.values() for name in fields} == IO_FIELDS
    json.dumps(kept, allow_nan=False)


def test_data_fields_of_some_stages() -> None:
    config = GTAConfig().replace(alpha=1.2, horizon=5)
    assert set(config.data_fields("sampling")) == {"sampling"}
    assert config.data_fields("data", "sampling") == {
        "data": config.data_fields()["data"],
        "sampling": config.data_fields()["sampling"],
    }
    assert config.data_fields("data")["data"]["horizon"] == 5


@pytest.mark.parametrize("name", GTAConfig.keywords())
def test_data_fields_change_with_every_field_that_affects_data(name: str) -> None:
    """Fault row 9, at the level of the configuration."""
    flat = {field: value for stage in GTAConfig().to_dict().values() for field, value in stage.items()}
    changed = GTAConfig().replace(**{name: another_value(name, flat[name])})
    assert (changed.data_fields() == GTAConfig().data_fields()) == (name in IO_FIELDS)


@pytest.mark.parametrize("name", ["alpha", "mu"])
def test_levels_may_be_left_to_the_data(name: str) -> None:
    config = GTAConfig().replace(**{name: "auto"})
    assert config.to_dict()["sampling"][name] == "auto"
    assert GTAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    wanted = {"alpha": "amplification", "mu": "exploration"}[name]
    assert getattr(GTAConfig().sampling, wanted) == getattr(GTAConfig().sampling, name)
    with pytest.raises(ConfigError, match=f"{name} is found when the model has been trained"):
        getattr(config.sampling, wanted)
    with pytest.raises(ConfigError, match=f"{name}='automatic' is not allowed"):
        GTAConfig().replace(**{name: "automatic"})
    with pytest.raises(ConfigError, match="guidance='auto' is not allowed"):
        GTAConfig().replace(guidance="auto")


@pytest.mark.parametrize("condition", ["none", "rewards"])
def test_a_flow_map_learns_what_returns_do(condition: str) -> None:
    with pytest.raises(
        ConfigError, match=f"condition='{condition}' is not allowed; choose one of 'amplified', 'fixed'"
    ):
        GTAConfig().replace(flow_steps=2, condition=condition)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"guidance": 1.0, "condition": "none"},
        {"guidance": 1.0, "condition": "rewards"},
        {"guidance": 1.0, "flow_steps": 2},
    ],
)
def test_what_needs_no_return_must_have_been_trained_without_one(others: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"condition_dropout=0.0 is not allowed; .*above 0 for guidance other than 1"):
        GTAConfig().replace(condition_dropout=0.0, **others)


@pytest.mark.parametrize("others", [{}, {"condition": "fixed"}, {"flow_steps": 2, "flow_guidance": 1.0}])
def test_without_guidance_every_window_may_be_trained_with_its_return(others: dict[str, Any]) -> None:
    assert GTAConfig().replace(condition_dropout=0.0, guidance=1.0, **others).training.condition_dropout == 0


def test_a_flow_map_starts_as_the_compact_network() -> None:
    with pytest.raises(ConfigError, match=r"network='mixer_unet' is not allowed; .*'temporal_mixer' with flow_steps"):
        GTAConfig().replace(flow_steps=2, network="mixer_unet")


def test_a_flow_map_amplifies_no_more_than_it_learned_to() -> None:
    assert GTAConfig().replace(flow_steps=2, alpha=1.5).sampling.alpha == 1.5
    assert GTAConfig().replace(alpha=1.8).sampling.alpha == 1.8
    with pytest.raises(ConfigError, match=r"alpha=1.8 is not allowed; .*at most 1.5 with flow_steps"):
        GTAConfig().replace(flow_steps=2, alpha=1.8)


@pytest.mark.parametrize("kind", [GTAConfig, S4RLConfig, SynthERConfig, DiffStitchConfig, ATraDiffConfig])
def test_every_method_says_what_becomes_of_episodes_that_cannot_be_used(kind: type[StagedConfig]) -> None:
    assert "drop" in [stage.get("invalid") for stage in kind().replace(invalid="drop").to_dict().values()]
    with pytest.raises(ConfigError, match="invalid='skip' is not allowed; choose one of 'error', 'drop'"):
        kind().replace(invalid="skip")


def test_configurations_are_frozen_and_replace_leaves_the_original_alone() -> None:
    config = GTAConfig()
    config.replace(alpha=1.1)
    assert config == GTAConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.sampling.alpha = 2.0


@pytest.mark.parametrize("task", TASKS)
def test_tasks_lie_within_what_the_paper_searched(task: str) -> None:
    alphas, levels = SEARCHED[task]
    assert TASKS[task]["alpha"] in alphas
    assert TASKS[task]["mu"] in levels
    assert TASKS[task]["terminal_penalty"] == (0 if "maze" in task else 100), "as in the authors' code"
    assert TASKS[task]["reweighting"] == ("dense" if task in ("locomotion", "adroit") else "sparse")


def test_paper_preset_has_the_papers_values() -> None:
    config = GTAConfig().replace(**PRESETS["paper"])
    assert config.data.horizon + 1 == 32
    assert (config.data.discount, config.data.terminal_penalty) == (0.99, 100.0)
    assert (config.network.network, config.network.width) == ("mixer_unet", 16)
    training = config.training
    assert (training.training_steps, training.train_batch_size, training.learning_rate) == (1_000_000, 256, 3e-4)
    assert (training.warmup_steps, training.ema_decay) == (0, 0.9995)
    assert (training.optimizer, training.condition_dropout) == ("adam", 0.25)
    assert (training.log_sigma_mean, training.log_sigma_std) == (-1.2, 1.2)
    sampling = config.sampling
    assert (sampling.sampler, sampling.sampler_steps, sampling.churn) == ("stochastic_heun", 128, 80.0)
    assert (sampling.churn_min, sampling.churn_max, sampling.churn_noise) == (0.05, 50.0, 1.003)
    assert (sampling.guidance, sampling.guidance_start, sampling.sigma_end) == (2.0, 0.0, 0.002)

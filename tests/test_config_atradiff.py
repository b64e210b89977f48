"""ATraDiff's configuration: every field can be set alone, survives JSON, and is checked."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gta_datasets.augment import configured
from gta_datasets.config import ATraDiffConfig, TrainingConfig
from gta_datasets.errors import ConfigError
from gta_datasets.presets import METHOD_PRESETS, PRESETS

FLAT = {name: value for stage in ATraDiffConfig().to_dict().values() for name, value in stage.items()}
OTHERS: dict[str, Any] = {
    "lengths": (3, 9),
    "invalid": "drop",
    "network": "mixer_unet",
    "width": 16,
    "precision": "float32",
    "optimizer": "adam",
    "sampler": "heun",
    "importance": "reward",
}
SHARES = ("rho", "ema_decay", "drop_share", "frozen_share")


def another_value(name: str) -> Any:
    """An allowed value of a field that is not its default."""
    if name in OTHERS:
        return OTHERS[name]
    return FLAT[name] / 2 if name in SHARES else FLAT[name] + 1


@pytest.mark.parametrize("name", FLAT)
def test_every_field_can_be_replaced_alone_and_survives_json(name: str) -> None:
    config = ATraDiffConfig().replace(**{name: another_value(name)})
    after = {field: value for stage in config.to_dict().values() for field, value in stage.items()}
    assert after == FLAT | {name: another_value(name)}
    assert ATraDiffConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_names_are_unique() -> None:
    assert sorted(FLAT) == sorted(ATraDiffConfig.keywords())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_give_what_the_configuration_knows_of_them(preset: str) -> None:
    config = configured(ATraDiffConfig(), preset, "cpu", {}, {"rho": 0.25})
    flat = {name: value for stage in config.to_dict().values() for name, value in stage.items()}
    named = {**PRESETS[preset], **METHOD_PRESETS["atradiff"].get(preset, {})}
    expected = {name: value for name, value in named.items() if name in FLAT}
    assert set(METHOD_PRESETS["atradiff"].get(preset, {})) <= set(expected)
    assert {name: flat[name] for name in expected} == expected
    assert flat["rho"] == 0.25


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("lengths", (), "ascending"),
        ("lengths", (5, 5), "ascending"),
        ("lengths", (9, 5), "ascending"),
        ("lengths", (0, 5), "at least 1"),
        ("lengths", (2.5,), "whole numbers"),
        ("lengths", 15, r"type tuple, such as \(15,\)$"),
        ("lengths", "short", r"type tuple, such as \(5, 15, 31\)$"),
        ("invalid", "skip", "one of 'error', 'drop'"),
        ("rho", 1.0, r"\[0, 1\)"),
        ("rho", -0.1, r"\[0, 1\)"),
        ("loop_tolerance", -0.1, "at least 0"),
        ("starts_per_batch", 0, "at least 1"),
        ("sampler_steps", 1, "at least 2"),
        ("adapt_every", -1, "at least 0"),
        ("adapt_steps", 0, "at least 1"),
        ("adapt_batch_size", 0, "at least 1"),
        ("adapt_learning_rate", 0.0, "positive"),
        ("importance", "novelty", "one of 'td_error', 'reward'"),
        ("subset_size", 0, "at least 1"),
        ("drop_share", 1.1, r"\[0, 1\]"),
        ("frozen_share", -0.1, r"\[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=.* is not allowed; choose .*{allowed}"):
        ATraDiffConfig().replace(**{name: value})


def test_the_training_of_an_adaptation_is_its_own() -> None:
    config = ATraDiffConfig().replace(adapt_steps=7, adapt_batch_size=9, adapt_learning_rate=0.5)
    offline = TrainingConfig(ema_decay=0.5, gradient_clip=3.0)
    expected = dataclasses.replace(
        offline, training_steps=7, train_batch_size=9, learning_rate=0.5, warmup_steps=0, optimizer="adam"
    )
    assert config.adaptation.training(offline) == expected

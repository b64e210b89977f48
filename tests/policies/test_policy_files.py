"""Saved policies act as before; what is not one, or of another version, is refused, and reading runs no code."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gta_datasets import policies
from gta_datasets.errors import CacheError, ConfigError, MissingExtraError
from gta_datasets.policies import GTPBCConfig, GTPConfig, actor, files, load_policy, save_policy
from gta_datasets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.policies.helpers import built, d3rlpy, minibatch

OTHER = d3rlpy.base.LearnableConfigWithShape((3,), 2, d3rlpy.algos.TD3PlusBCConfig())
STATES = np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 3)


def trained(config: type[Any] = GTPConfig) -> Any:
    scaler = d3rlpy.preprocessing.StandardObservationScaler(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    algorithm = built(config, observation_scaler=scaler, flow_weight=0.7)
    for step in range(3):
        algorithm.update(minibatch(seed=step))
    return algorithm


def assert_same_policy(first: Any, second: Any) -> None:
    for algorithm in (first, second):
        algorithm.impl._generator.manual_seed(5)
    np.testing.assert_array_equal(first.predict(STATES), second.predict(STATES))
    assert first.config.flow_weight == second.config.flow_weight == 0.7
    np.testing.assert_allclose(first.observation_scaler.mean, second.observation_scaler.mean)


def test_folders_and_files_that_users_choose_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    algorithm = trained(GTPBCConfig)
    save_policy(algorithm, tmp_path / "runs" / "policy.safetensors")
    assert_same_policy(algorithm, load_policy(tmp_path / "runs" / "policy.safetensors"))
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "runs" / "policy.safetensors")
    assert_same_policy(algorithm, load_policy(tmp_path / "link.safetensors"))
    save_policy(algorithm, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert_same_policy(algorithm, load_policy(tmp_path / "link.safetensors"))


def test_nobody_is_told_to_remove_a_file_of_his_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("by me" * 100)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in ("", tmp_path, tmp_path / "thesis.tex", tmp_path / "circle", os.devnull):
        with pytest.raises(CacheError, match=r"not .*; give a file that save_policy wrote$"):
            load_policy(path)
    for path in ("", tmp_path, tmp_path / "circle", os.devnull):
        with pytest.raises(CacheError, match=r"is not an ordinary file; choose another name"):
            save_policy(trained(GTPBCConfig), path)


@pytest.mark.parametrize("config", [GTPBCConfig, GTPConfig])
def test_what_is_loaded_acts_as_what_was_saved_and_trains_on(
    config: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, path = trained(config), tmp_path / "policy.safetensors"
    save_policy(algorithm, path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loading must not unpickle")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    found = load_policy(path)
    assert type(found) is type(algorithm)
    assert_same_policy(algorithm, found)
    before = found.predict(STATES)
    found.update(minibatch())
    assert not np.allclose(before, found.predict(STATES))


def test_values_are_saved_too(tmp_path: Path) -> None:
    algorithm = trained()
    save_policy(algorithm, tmp_path / "policy")
    actions = np.zeros((20, 2), np.float32)
    found = load_policy(tmp_path / "policy").predict_value(STATES, actions)
    np.testing.assert_array_equal(found, algorithm.predict_value(STATES, actions))


def test_saving_and_loading_of_d3rlpy_work(tmp_path: Path) -> None:
    algorithm, other = trained(), built(GTPConfig, seed=3)
    algorithm.save(str(tmp_path / "policy.d3"))
    assert_same_policy(algorithm, d3rlpy.load_learnable(str(tmp_path / "policy.d3")))
    algorithm.save_model(str(tmp_path / "model.pt"))
    other.load_model(str(tmp_path / "model.pt"))
    torch.testing.assert_close(other.impl.modules.actor.state_dict(), algorithm.impl.modules.actor.state_dict())


def test_a_policy_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, path, theirs = trained(), tmp_path / "policy", tmp_path / "policy.d3"
    with monkeypatch.context() as newer:
        for module in (actor, files):
            newer.setattr(module, "VERSION", 2)
        save_policy(algorithm, path)
        algorithm.save(str(theirs))
    message = "of version 2, and this release of gta-datasets reads version 1"
    with pytest.raises(CacheError, match=message):
        load_policy(path)
    with pytest.raises(CacheError, match=message):
        d3rlpy.load_learnable(str(theirs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "not a policy"),
        ({"version": None}, "of version None"),
        ({"settings": {}}, "does not hold a whole policy"),
        ({"settings": {"observation_shape": [3], "action_size": 2, "config": {"type": "x", "params": {}}}}, "whole"),
        ({"settings": json.loads(OTHER.serialize())}, "settings of TD3PlusBC"),
    ],
)
def test_what_is_no_policy_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy"
    save_policy(trained(GTPBCConfig), path)
    found = load_checkpoint(path)
    assert found is not None
    save_checkpoint(path, Checkpoint(found.tensors, found.record | change))
    with pytest.raises(CacheError, match=message):
        load_policy(path)


def test_missing_tensors_files_and_damage_are_told(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    with pytest.raises(CacheError, match="there is no policy at"):
        load_policy(path)
    save_policy(trained(GTPBCConfig), path)
    found = load_checkpoint(path)
    assert found is not None
    fewer = {name: tensor for name, tensor in found.tensors.items() if not name.startswith("average_actor")}
    save_checkpoint(tmp_path / "fewer", Checkpoint(fewer, found.record))
    with pytest.raises(CacheError, match=r"does not hold a whole policy .*Missing key"):
        load_policy(tmp_path / "fewer")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="checksum"):
        load_policy(path)


def test_there_is_nothing_to_save_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"before fit\(\) or create_impl\(\)"):
        save_policy(GTPConfig().create(), tmp_path / "policy")


def test_a_missing_d3rlpy_is_an_error_that_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("gta_datasets.policies.", "d3rlpy."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "d3rlpy", None)
    for name in ("GTP", "GTPBCConfig", "load_policy"):
        with pytest.raises(MissingExtraError, match=r"policies needs d3rlpy, .* pip install 'gta-datasets\[d3rlpy\]'"):
            getattr(policies, name)
    with pytest.raises(AttributeError, match="GTPConfigs"):
        policies.GTPConfigs  # noqa: B018

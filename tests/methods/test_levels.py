"""`alpha="auto"`, `mu="auto"`, `auto_steps`: what is tried, what is chosen, and that it is chosen once."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, ClassVar

import minari
import numpy as np
import pytest

from gta_datasets.config import SamplingConfig, SearchConfig
from gta_datasets.data.episodes import Episodes
from gta_datasets.errors import CacheError, ConfigError
from gta_datasets.methods.levels import LevelSearch, load_choice
from tests.builders import linear_dataset, linear_episodes
from tests.smoke import shard_bytes, tiny

BOTH = SamplingConfig(alpha="auto", mu="auto")


class Judge:
    """Windows are marked by their rewards: the setting's own reward, and whether they are bad."""

    identity: ClassVar = {"model": "judge"}

    def predict(self, observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return observations, actions[:, 0]

    def errors(self, episodes: Episodes) -> np.ndarray:
        return episodes.actions[:, 1]


def search(
    outcome: dict[tuple[float, float], tuple[float, int]],
    sampling: SamplingConfig = BOTH,
    share: float = 0.25,
    source_bad: int = 0,
    auto_steps: int = 0,
    bad_by_steps: dict[int, int] | None = None,
) -> tuple[LevelSearch, list[tuple[float, float]]]:
    """A search where every setting (alpha, mu) has a given mean reward and number of bad windows in ten."""
    tried: list[tuple[float, float]] = []

    def windows(reward: float, bad: int) -> dict[str, Any]:
        actions = np.zeros((30, 2))
        actions[:, 0] = reward
        actions[1 : 3 * bad : 3, 1] = 0.06
        return {**linear_episodes((3,) * 10).arrays(), "actions": actions}

    def probe(settings: SamplingConfig) -> dict[str, Any]:
        tried.append((settings.amplification, settings.exploration))
        reward, bad = outcome.get(tried[-1], (0.0, 0))
        return windows(reward, (bad_by_steps or {}).get(settings.sampler_steps, bad))

    def source() -> Episodes:
        return Episodes.from_arrays(windows(0.5, source_bad))

    config = SearchConfig(auto_share=share, auto_steps=auto_steps)
    judge: Any = Judge()
    return LevelSearch({"generator": 1}, sampling, config, windows=source, probe=probe, dynamics=judge), tried


def test_where_a_recording_had_to_stand_in_a_setting_was_bad(tmp_path: Path) -> None:
    found, _ = search({(1.5, 0.5): (3.0, 0)})
    probe = found._probe
    found._probe = lambda settings: {**probe(settings), "recorded": np.arange(10) < 4 * (settings.mu == 0.5)}
    found.fit(tmp_path, progress=False)
    bad = {(each["alpha"], each["mu"]): each["bad_share"] for each in found.found["probes"]}
    assert (bad[1.5, 0.5], bad[1.5, 0.25]) == (0.4, 0.0)
    assert found.chosen.mu != 0.5


def test_the_best_of_the_sound_settings_is_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, tried = search({(1.3, 0.5): (3.0, 9), (1.5, 0.25): (2.0, 2), (1.1, 0.25): (1.0, 0)})
    assert not found.is_fitted(tmp_path)
    with caplog.at_level(logging.INFO, logger="gta_datasets"):
        found.fit(tmp_path, progress=False)
    assert sorted(tried) == sorted((alpha, mu) for alpha in (1.1, 1.3, 1.5) for mu in (0.1, 0.25, 0.5))
    assert (found.chosen.alpha, found.chosen.mu) == (1.5, 0.25)
    assert found.chosen.guidance == BOTH.guidance
    measured = {(probe["alpha"], probe["mu"]): probe for probe in found.found["probes"]}
    assert measured[1.3, 0.5]["reward"] == 3.0
    assert measured[1.3, 0.5]["bad_share"] == 0.9
    assert "alpha=1.5, mu=0.25, sampler_steps=16; tried" in caplog.text
    assert found.is_fitted(tmp_path)


def test_where_none_is_sound_the_soundest_is_chosen(tmp_path: Path) -> None:
    every = {(alpha, mu): (alpha, 9) for alpha in (1.1, 1.3, 1.5) for mu in (0.1, 0.25, 0.5)}
    found, _ = search({**every, (1.1, 0.5): (0.0, 5)})
    found.fit(tmp_path, progress=False)
    assert (found.chosen.alpha, found.chosen.mu) == (1.1, 0.5)


def test_what_is_bad_in_the_source_already_is_no_fault_of_a_setting(tmp_path: Path) -> None:
    outcome = {(1.3, 0.5): (3.0, 8), (1.5, 0.5): (4.0, 9), (1.5, 0.25): (2.0, 2)}
    found, _ = search(outcome, source_bad=6)
    found.fit(tmp_path, progress=False)
    assert (found.chosen.alpha, found.chosen.mu) == (1.3, 0.5)
    assert found.found["source"] == {"reward": 0.5, "bad_share": 0.6}


def test_what_is_given_is_not_sought(tmp_path: Path) -> None:
    found, tried = search({(1.5, 0.33): (1.0, 0)}, SamplingConfig(alpha="auto", mu=0.33))
    found.fit(tmp_path, progress=False)
    assert sorted(tried) == [(1.1, 0.33), (1.3, 0.33), (1.5, 0.33)]
    assert (found.chosen.alpha, found.chosen.mu) == (1.5, 0.33)


@pytest.mark.parametrize(
    ("bad_by_steps", "auto_steps", "chosen", "tried"),
    [
        ({16: 2}, 128, 16, [16]),  # in line with the source: nothing to mend
        ({16: 9, 32: 6, 64: 2}, 128, 64, [16, 32, 64]),
        ({16: 9, 32: 6, 64: 2}, 63, 32, [16, 32]),  # no further than allowed
        ({16: 9, 32: 9}, 128, 16, [16, 32]),  # more steps do not help
        ({16: 9}, 0, 16, [16]),
    ],
)
def test_steps_are_doubled_while_windows_are_bad_and_it_helps(
    tmp_path: Path, bad_by_steps: dict[int, int], auto_steps: int, chosen: int, tried: list[int]
) -> None:
    found, _ = search({}, SamplingConfig(), auto_steps=auto_steps, bad_by_steps=bad_by_steps)
    found.fit(tmp_path, progress=False)
    assert found.chosen == SamplingConfig(sampler_steps=chosen)
    assert [probe["sampler_steps"] for probe in found.found["probes"]] == tried
    assert found.found["probes"][0]["bad_share"] == bad_by_steps[16] / 10


def test_the_search_is_done_once(tmp_path: Path) -> None:
    first, _ = search({(1.5, 0.25): (2.0, 0)})
    digest = first.fit(tmp_path, progress=False)
    again, tried = search({(1.1, 0.1): (9.0, 0)})
    assert again.fit(tmp_path, progress=False) == digest
    assert tried == []
    assert again.found == first.found


def test_a_cache_that_is_cleared_meanwhile_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "key"
    folder.mkdir()
    found, _ = search({(1.5, 0.25): (2.0, 0)})
    measure = found._measure
    monkeypatch.setattr(found, "_measure", lambda settings: (shutil.rmtree(folder, True), measure(settings))[1])
    found.fit(folder, progress=False)
    assert load_choice(folder / "levels.json") == found.found


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        pytest.param("[" * 100_000, id="deep"),
        '{"alpha": 1.1}',
        '{"alpha": 1.1, "mu": 0.1, "sampler_steps": 1, "source": {}, "probes": []}',
    ],
)
def test_a_file_that_is_no_choice_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "levels.json").write_text(text)
    with pytest.raises(CacheError, match=r"levels\.json is not a choice of levels"):
        search({})[0].fit(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 1.1), ("alpha", 9.1), ("sampler_steps", 32), ("source", {}), ("digest", None)]
)
def test_a_choice_that_was_changed_is_an_error(tmp_path: Path, name: str, value: object) -> None:
    search({(1.5, 0.25): (2.0, 0)})[0].fit(tmp_path, progress=False)
    path = tmp_path / "levels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    again, tried = search({})
    with pytest.raises(CacheError, match=r"levels\.json is damaged .*; remove it to choose again"):
        again.fit(tmp_path, progress=False)
    assert tried == []


def test_identities_depend_on_all_that_is_tried() -> None:
    base = search({})[0].identity
    assert search({}, share=0.5)[0].identity != base
    assert search({}, auto_steps=32)[0].identity != base
    assert search({}, SamplingConfig(alpha="auto"))[0].identity != base
    with pytest.raises(RuntimeError, match=r"fit\(\) must be called"):
        _ = search({})[0].chosen


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("levels/linear-v0")


def test_augment_uses_what_was_found_and_keeps_it(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    auto = tiny(dataset, alpha="auto", mu="auto", auto_windows=4, cache_dir=tmp_path)
    assert not auto.is_fitted
    found = auto.levels
    assert found is not None
    assert auto.is_fitted
    assert len(found["probes"]) == 9
    fixed = tiny(dataset, alpha=found["alpha"], mu=found["mu"], cache_dir=tmp_path)
    assert fixed.levels is None
    assert shard_bytes(auto, 0) == shard_bytes(fixed, 0)
    assert auto.key != fixed.key
    (stored,) = tmp_path.rglob("levels.json")
    assert load_choice(stored) == found
    again = tiny(dataset, alpha="auto", mu="auto", auto_windows=4, cache_dir=tmp_path)
    assert again.levels == found
    assert again.key == auto.key


def test_where_nothing_is_sought_nothing_is_trained(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path)
    assert augmented.levels is None
    assert not augmented.is_fitted


def test_augment_takes_the_steps_that_were_found(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    gated = tiny(dataset, auto_windows=16, auto_steps=4, auto_error=0.3, auto_share=0.0, cache_dir=tmp_path)
    found = gated.levels
    assert found is not None
    assert [probe["sampler_steps"] for probe in found["probes"]] == [2, 4]
    taken = tiny(dataset, sampler_steps=found["sampler_steps"], cache_dir=tmp_path)
    assert shard_bytes(gated, 0) == shard_bytes(taken, 0)


def test_a_flow_map_has_no_sampler_to_give_steps_to(dataset: minari.MinariDataset) -> None:
    with pytest.raises(ConfigError, match=r"auto_steps=32 .*0 with flow_steps"):
        tiny(dataset, flow_steps=2, auto_steps=32)


def test_the_filter_goes_with_it(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    auto = tiny(dataset, alpha="auto", auto_windows=4, qualify=1e9, num_transitions=20, cache_dir=tmp_path)
    assert auto.levels is not None
    assert auto.generate().acceptance_rate == 1.0

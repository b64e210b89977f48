"""The benchmarks of GTP run end to end at small size and record what they claim to."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bandit, gtp
from benchmarks.gtp_table import Way, picture, table, ways
from gta_datasets.demo import make_demo_dataset
from gta_datasets.policies.updates import GTPImpl


def run(module: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    {"gtp": gtp, "bandit": bandit}[module].main()


def test_every_variant_is_evaluated_once_at_every_k(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_demo_dataset("gtp/cheetah-v0", episodes=1)
    monkeypatch.setattr(gtp, "CALLS", 3)
    choices: list[int] = []
    judge = GTPImpl.inner_predict_best_action

    def note(policy: GTPImpl, x: torch.Tensor) -> torch.Tensor:
        choices.append(policy._config.n_action_samples)
        return judge(policy, x)

    monkeypatch.setattr(GTPImpl, "inner_predict_best_action", note)
    monkeypatch.setattr(gtp, "episode_returns", lambda act, environments, seeds: act(np.ones((len(seeds), 17)))[:, 0])
    size = ["--dataset", "gtp/cheetah-v0", "--updates", "2", "--batch-size", "8", "--episodes", "2"]
    variants = ["--variant", "gtp", "--variant", "gtp-bc", "--variant", "bc"]
    ways = ["--steps", "1", "--steps", "4", "--temperature", "1", "--temperature", "0"]
    ways += ["--action-samples", "1", "--action-samples", "3"]
    for _ in range(2):
        run("gtp", monkeypatch, *size, *variants, *ways, "--no-score-targets")
    assert "bc, seed 0: done already" in capsys.readouterr().out
    lines = [json.loads(line) for line in (results / "gtp.jsonl").read_text().splitlines()]
    assert [line["unit"]["variant"] for line in lines] == ["gtp", "gtp-bc", "bc"]
    chosen, cloned = (
        {(each["temperature"], each["steps"], each["samples"]): each["std"] for each in line["evaluations"]}
        for line in lines[:2]
    )
    assert cloned.keys() == {(1.0, 1, 1), (1.0, 4, 1), (0.0, 1, 1), (0.0, 4, 1)}
    assert chosen.keys() == cloned.keys() | {(1.0, 1, 3), (1.0, 4, 3)}, "nobody chooses for the clone"
    assert [number for number, _ in itertools.groupby(choices)] == [1, 3, 1, 3, 1], "as many as the record says"
    for found in (chosen, cloned):
        assert all((std > 0) == (temperature > 0) for (temperature, _, _), std in found.items())
    assert len(lines[2]["evaluations"]) == 1
    assert not any(line["unit"]["score_targets"] for line in lines)
    for line in lines:
        assert all(found["milliseconds_per_action"] > 0 for found in line["evaluations"])
        assert {"command", "machine", "versions", "revision", "seconds", "losses"} <= line.keys()
    assert "critic_loss" in lines[0]["losses"]
    assert "critic_loss" not in lines[1]["losses"]
    run("gtp", monkeypatch, "--dataset", "gtp/cheetah-v0", "--updates", "2", "--show")
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 2 + 6 + 4 + 1 + 1
    assert table.count("| GTP, solver's targets, batch_size 8 | 0 | 1 | 4 | 1 |") == 1
    assert (results / "gtp-gtp-cheetah-v0.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_all_seeds_are_put_together() -> None:
    def line(seed: int, mean: float, **changed: object) -> dict[str, object]:
        unit = {"dataset": "d", "updates": 9, "variant": "gtp", "data": "source", "score_targets": True, "seed": seed}
        one = {"temperature": 1.0, "steps": 5, "mean": mean, "milliseconds_per_action": 2.0 * mean}
        return {"unit": unit | changed, "evaluations": [one, {**one, "steps": 10, "mean": 7.0}]}

    others = [line(0, 50.0, data="gta"), line(0, 60.0, score_targets=False)]
    assert [way.label for way in ways([line(0, 1.0, eta=5.0)], "d", 9)] == ["GTP, eta 5.0, noise 1"] * 2
    found = ways(
        [line(0, 1.0), line(1, 9.0), line(1, 3.0), *others, line(0, 9.0, updates=8), line(0, 9.0, dataset="e")], "d", 9
    )
    assert [(way.label, way.steps, way.returns) for way in found] == [
        ("GTP, noise 1", 5, (1.0, 3.0)),
        ("GTP, noise 1", 10, (7.0, 7.0)),
        ("GTP on GTA data, noise 1", 5, (50.0,)),
        ("GTP on GTA data, noise 1", 10, (7.0,)),
        ("GTP, solver's targets, noise 1", 5, (60.0,)),
        ("GTP, solver's targets, noise 1", 10, (7.0,)),
    ]
    assert found[0].milliseconds == 4.0
    assert "| GTP | 1 | 1 | 5 | 2 | 2 ± 1 | 1 | 4.00 |" in table(found)


def test_many_ways_to_act_can_be_told_apart() -> None:
    jumping = [Way(f"policy {number}", 0.0, 1, steps, (1.0, 2.0), 1.0) for number in range(14) for steps in (1, 5)]
    level = [Way(f"level {number}", None, 1, None, (1.0,), 1.0) for number in range(14)]
    for panel in picture([*level, *jumping]).axes:
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in panel.lines}
        assert len(looks) == len(panel.lines) == 28


def test_the_bandit_counts_modes_and_draws_them(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("bandit", monkeypatch, "--updates", "3", "--actions", "300")
    found = json.loads((results / "bandit.json").read_text())
    assert found["good_modes"] == 4
    assert set(found["gtp"]) == {"1", "2", "5", "10"}
    assert found["gaussian"]["at_no_mode"] > 0.5
    assert (results / "bandit.png").read_bytes().startswith(b"\x89PNG")


def test_coverage_tells_good_modes_from_others() -> None:
    actions, rewards = bandit.draw_data(4_000, np.random.default_rng(0))
    everything = bandit.coverage(actions)
    assert everything["good_modes_covered"] == 4
    assert everything["at_good_modes"] == pytest.approx(0.5, abs=0.03)
    assert everything["at_other_modes"] == pytest.approx(0.5, abs=0.03)
    good = rewards > 0.5
    assert bandit.coverage(actions[good])["at_good_modes"] > 0.97
    alone = np.repeat(bandit.MODES[:1], 100, axis=0)
    assert bandit.coverage(alone)["good_modes_covered"] == 1
    assert bandit.coverage(0 * alone) == {
        "good_modes_covered": 0,
        "at_good_modes": 0.0,
        "at_other_modes": 0.0,
        "at_no_mode": 1.0,
    }

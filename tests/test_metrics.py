"""Metrics against values computed by hand, on a linear world whose true dynamics and rewards are known exactly."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from gta_datasets.data.episodes import Episodes, concatenate
from gta_datasets.errors import DatasetError, MissingExtraError
from gta_datasets.metrics import Quality, quality
from gta_datasets.novelty import nearest_distances, novelty
from gta_datasets.simulator import Steps
from tests.builders import LinearSimulator, linear_episodes

SOURCE = linear_episodes((40,) * 6 + (3, 1, 25))
ROUNDING = 1e-12  # squared: float32 states, summed in another order


def windows(count: int = 12, steps: int = 8, seed: int = 5) -> Episodes:
    return linear_episodes((steps,) * count, seed=seed)


def measure(generated: Episodes, source: Episodes = SOURCE, **kwargs: object) -> Quality:
    return quality(generated, source, simulator=kwargs.pop("simulator", LinearSimulator()), **kwargs)


def with_bad_last_states(episodes: Episodes, gaps: np.ndarray) -> Episodes:
    """The last state of window `e` is off by `gaps[e]` standard deviations of the source, in one dimension."""
    observations = episodes.observations.astype(np.float64)
    observations[episodes.observation_offsets[1:] - 1, 1] += gaps * SOURCE.observations.std(axis=0, dtype=float)[1]
    return dataclasses.replace(episodes, observations=observations)


def test_true_data_have_no_errors_and_the_oracle_rewards_are_the_recorded_ones() -> None:
    found = measure(windows())
    for scores, episodes in ((found.generated, windows()), (found.source, SOURCE)):
        assert scores.reward == pytest.approx(episodes.rewards.mean(), rel=1e-6)
        rounding = (scores.dynamics_mse, scores.dynamics_median, scores.dynamics_p99, scores.reward_mse)
        assert max(rounding) < ROUNDING
        assert abs(scores.reward_bias) < 1e-6
        assert scores.bad_window_share == scores.unstable_share == 0
    assert found.generated.oracle_reward == pytest.approx(windows().rewards.mean(), rel=1e-6)


def test_long_episodes_are_judged_in_pieces() -> None:
    """Of few whole episodes chance would decide."""
    generated = linear_episodes((300, 128, 5, 129), seed=5)
    every = quality(generated, SOURCE, simulator=LinearSimulator())
    assert (every.checked_windows, every.checked_transitions) == (7, 562)
    assert sorted(every.evidence.generated.windows.lengths) == [1, 5, 44, 128, 128, 128, 128]
    assert every.generated.oracle_reward == pytest.approx(generated.rewards.mean(), rel=1e-6)
    many = linear_episodes((1_000,) * 20, seed=5)
    some = quality(many, SOURCE, simulator=LinearSimulator(), sample=1_024)
    assert some.checked_windows in (8, 9)
    mixed = linear_episodes((300,) * 3 + (10,) * 90, seed=6)
    copied = quality(mixed, mixed, simulator=LinearSimulator(), sample=1_000)
    short = [
        (each.windows.lengths[each.windows.lengths == 10]).sum()
        for each in (copied.evidence.generated, copied.evidence.source)
    ]
    assert min(short) > 300, "half of the transitions, in the source's sample too"


def test_injected_dynamics_errors_are_found_exactly() -> None:
    gaps = np.array([0.0] * 5 + [0.3] * 4 + [2.0] * 3)
    found = measure(with_bad_last_states(windows(12, 8), gaps)).generated
    # One step in eight is off, in one of three dimensions.
    errors = np.concatenate([np.zeros(12 * 7), gaps**2 / 3])
    assert found.dynamics_mse == pytest.approx(errors.mean(), rel=1e-5)
    assert found.dynamics_median < ROUNDING
    assert found.dynamics_p99 == pytest.approx(np.quantile(errors, 0.99), rel=1e-5)


@pytest.mark.parametrize(("threshold", "share"), [(0.01, 7 / 12), (0.05, 3 / 12), (1.3, 3 / 12), (1.4, 0.0)])
def test_share_of_windows_with_a_bad_step_is_exact(threshold: float, share: float) -> None:
    gaps = np.array([0.0] * 5 + [0.3] * 4 + [2.0] * 3)
    found = measure(with_bad_last_states(windows(12, 8), gaps), threshold=threshold)
    assert found.generated.bad_window_share == pytest.approx(share)
    assert found.generated.bad_step_share == pytest.approx(share / 8), "the last of the eight of a window"
    assert found.source.bad_window_share == found.source.bad_step_share == 0


def test_errors_are_in_units_of_the_source_not_of_the_generated_data() -> None:
    generated = windows()
    wide = dataclasses.replace(SOURCE, observations=SOURCE.observations * 10)
    gaps = np.full(12, 2.0)
    assert measure(with_bad_last_states(generated, gaps), wide).generated.dynamics_mse == pytest.approx(
        measure(with_bad_last_states(generated, gaps)).generated.dynamics_mse / 100, rel=1e-4
    )


def test_injected_reward_errors_are_found_exactly() -> None:
    generated = windows()
    sign = np.where(np.arange(generated.num_transitions) % 4 == 0, -1, 1)
    off = dataclasses.replace(generated, rewards=generated.rewards.astype(np.float64) + 0.3 * sign)
    found = measure(off).generated
    assert found.reward_bias == pytest.approx(0.15, rel=1e-5)
    assert found.reward_mse == pytest.approx(0.09, rel=1e-5)
    assert found.oracle_reward == pytest.approx(generated.rewards.mean(), rel=1e-6)
    assert found.reward == pytest.approx(generated.rewards.mean() + 0.15, rel=1e-5)


def test_unstable_steps_are_in_no_mean_and_make_their_windows_bad() -> None:
    generated = windows(10, 4)
    observations = generated.observations.copy()
    starts = generated.observation_offsets[:-1]
    observations[starts[[2, 7]]] = 1e6
    observations[starts[2] + 1] = 1e6
    found = measure(dataclasses.replace(generated, observations=observations), simulator=LinearSimulator(1e3))
    assert found.generated.unstable_share == pytest.approx(3 / 40)
    # The step into the second impossible state starts in the first, so only the other windows' steps are judged.
    assert found.generated.dynamics_mse < ROUNDING
    assert found.generated.bad_window_share == pytest.approx(2 / 10)
    assert "Impossible steps" in found.table()
    assert "Impossible steps" not in measure(generated).table()


@pytest.mark.parametrize(
    ("flagged", "ending", "wrong"), [((), (), 0), ((3, 5), (), 2), ((), (3, 4, 9), 3), ((3, 5), (5, 9), 2)]
)
def test_terminations_that_the_simulator_does_not_share_are_counted(
    flagged: tuple[int, ...], ending: tuple[int, ...], wrong: int
) -> None:
    generated = windows(10, 4)
    last = generated.offsets[1:] - 1
    ends, terminations = np.zeros((2, 40), np.bool_)
    terminations[last[list(flagged)]] = True
    ends[last[list(ending)]] = True

    class Ending(LinearSimulator):
        def step(self, observations: np.ndarray, actions: np.ndarray) -> Steps:
            steps = super().step(observations, actions)
            known = {row.tobytes(): end for row, end in zip(generated.actions, ends, strict=True)}
            return dataclasses.replace(
                steps, terminations=np.array([known.get(row.tobytes(), False) for row in actions])
            )

    found = measure(dataclasses.replace(generated, terminations=terminations), simulator=Ending())
    assert found.generated.wrong_terminations == pytest.approx(wrong / 40)
    assert found.source.wrong_terminations == 0
    assert f"{100 * wrong / 40:.3f} %" in found.table()


def test_all_steps_unstable_leaves_nothing_but_the_shares() -> None:
    found = measure(windows(), simulator=LinearSimulator(0.0))
    assert found.generated.dynamics_mse is None
    assert found.generated.oracle_reward is None
    assert found.generated.bad_window_share == found.generated.bad_step_share == found.generated.unstable_share == 1
    assert found.generated.wrong_terminations is None
    assert found.evidence.example is None
    json.loads(found.to_json())


@pytest.mark.parametrize("sample", [1, 50, 10**6])
def test_whole_windows_are_drawn_and_the_source_gives_windows_of_the_same_lengths(sample: int) -> None:
    generated = concatenate([windows(20, 8), windows(20, 3), linear_episodes((100, 1))])
    found = measure(generated, sample=sample)
    made, real = found.evidence.generated.windows, found.evidence.source.windows
    assert made.num_transitions >= min(sample, generated.num_transitions)
    assert made.num_transitions - sample < 200
    assert found.checked_windows == made.num_episodes == real.num_episodes
    assert found.checked_transitions == made.num_transitions
    # No episode of the source is as long as the longest generated window.
    assert sorted(real.lengths) == sorted(np.minimum(made.lengths, 40))
    assert {row.tobytes() for row in made.observations} <= {row.tobytes() for row in generated.observations}


def test_windows_of_the_source_never_cross_an_episode() -> None:
    short = linear_episodes((5, 9, 4, 7) * 10)
    found = measure(windows(200, 4), short, sample=10**6)
    assert found.source.dynamics_p99 < ROUNDING
    starts = found.evidence.source.windows.observations[found.evidence.source.windows.observation_offsets[:-1]]
    distinct = len(np.unique(starts, axis=0))
    assert distinct > 60  # of the (2 + 6 + 1 + 4) * 10 places where a window can start


@pytest.mark.parametrize("lengths", [(1,) * 5, (1, 7, 2), (64,)])
def test_windows_of_any_length(lengths: tuple[int, ...]) -> None:
    found = measure(linear_episodes(lengths, seed=3))
    assert found.checked_transitions == sum(lengths)
    assert found.generated.dynamics_mse < ROUNDING


def test_a_constant_dimension_keeps_its_own_unit() -> None:
    source = dataclasses.replace(SOURCE, observations=SOURCE.observations * np.float32([1, 0, 1]))
    generated = with_bad_last_states(windows(12, 8), np.zeros(12))
    generated.observations[generated.observation_offsets[1:] - 1, 1] += 3.0
    found = measure(generated, source).generated
    assert found.dynamics_mse == pytest.approx(9 / 3 / 8, rel=1e-5)
    assert found.novelty is not None
    assert np.isfinite([found.novelty.state, found.novelty.both]).all()


def brute_force(queries: np.ndarray, points: np.ndarray, *, itself: bool) -> np.ndarray:
    distances = np.linalg.norm(queries[:, None].astype(float) - points[None], axis=2)
    return np.sort(distances, axis=1)[:, int(itself)]


def test_novelty_equals_brute_force_in_standard_deviations_of_the_source() -> None:
    generated = windows(20, 8)
    made, real = novelty(generated, SOURCE, sample=10**6, rng=np.random.default_rng(0))
    scale = SOURCE.observations.std(axis=0, dtype=float), SOURCE.actions.std(axis=0, dtype=float)

    def points(episodes: Episodes) -> dict[str, np.ndarray]:
        state = episodes.observations[episodes.transition_rows] / scale[0]
        action = episodes.actions / scale[1]
        return {"state": state, "action": action, "both": np.hstack([state, action])}

    for space, of_source in points(SOURCE).items():
        of_generated = points(generated)[space]
        assert getattr(made, space) == pytest.approx(brute_force(of_generated, of_source, itself=False).mean(), 1e-5)
        assert getattr(real, space) == pytest.approx(brute_force(of_source, of_source, itself=True).mean(), 1e-5)


def test_copies_of_the_source_have_no_novelty_and_duplicates_no_distance() -> None:
    made, _ = novelty(SOURCE, SOURCE, sample=50, rng=np.random.default_rng(0))
    assert (made.state, made.action, made.both) == (0, 0, 0)
    _, twice = novelty(SOURCE, concatenate([SOURCE, SOURCE]), sample=50, rng=np.random.default_rng(0))
    assert (twice.state, twice.action, twice.both) == (0, 0, 0)


def test_tiny_distances_survive_the_search() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(scale=5, size=(500, 17)).astype(np.float32)
    queries = (points + rng.normal(scale=3e-4, size=points.shape)).astype(np.float32)
    assert np.allclose(nearest_distances(queries, points), brute_force(queries, points, itself=False), rtol=1e-6)


def test_one_point_is_its_own_only_neighbour() -> None:
    point = np.zeros((1, 3), np.float32)
    assert nearest_distances(point, point, own=np.zeros(1, np.int64)).tolist() == [0]


def test_without_faiss_novelty_is_missing_and_a_note_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gta-datasets\[novelty\]'"):
        nearest_distances(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    found = measure(windows())
    assert found.generated.novelty is found.source.novelty is None
    assert any("gta-datasets[novelty]" in note for note in found.notes)
    assert not any(row.label.startswith("Novelty") for row in found.rows())


def test_correlation_of_asked_and_discounted_returns() -> None:
    generated = windows(60, 8)
    asked = np.round(np.random.default_rng(0).normal(size=60), 1)  # with ties
    found = measure(generated, asked_returns=asked, discount=0.9)
    returns = generated.rewards.reshape(60, 8).astype(float) @ 0.9 ** np.arange(8)
    assert np.allclose(found.evidence.returns, returns)
    assert found.pearson == pytest.approx(stats.pearsonr(asked, returns).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(asked, returns).statistic)
    assert measure(generated, asked_returns=np.exp(returns), discount=0.9).spearman == pytest.approx(1)


@pytest.mark.parametrize(("asked", "reason"), [(None, "none were asked for"), (np.ones(12), "one side is constant")])
def test_a_correlation_that_does_not_exist_is_noted(asked: np.ndarray | None, reason: str) -> None:
    found = measure(windows(), asked_returns=asked)
    assert found.pearson is found.spearman is None
    assert any(reason in note for note in found.notes)


def test_without_a_simulator_the_other_metrics_remain() -> None:
    found = quality(windows(), SOURCE, env_spec="AdroitHandDoor-v1", asked_returns=np.arange(12.0))
    for scores in (found.generated, found.source):
        assert scores.oracle_reward is scores.dynamics_mse is scores.bad_window_share is scores.reward_mse is None
        assert scores.bad_step_share is scores.wrong_terminations is None
        assert scores.novelty is not None
    assert found.simulator is None
    assert found.pearson is not None
    assert any("No true rewards and dynamics: 'AdroitHandDoor-v1'" in note for note in found.notes)
    assert "Oracle" not in found.table()
    assert found.notes[0] in found.table()


def test_a_simulator_of_other_dimensions_is_not_used() -> None:
    found = quality(windows(), SOURCE, env_spec="Hopper-v5")
    assert found.generated.dynamics_mse is None
    assert any("have 3 and 2 dimensions, those of Hopper-v5" in note for note in found.notes)


def test_the_same_seed_gives_the_same_numbers_and_global_state_is_untouched() -> None:
    generated = with_bad_last_states(windows(50, 8), np.linspace(0, 3, 50))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = (measure(generated, sample=40, novelty_sample=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.to_json() == again.to_json()
    assert first.generated != other.generated
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_inputs_stay_as_they_are_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    generated, source = windows(), linear_episodes()
    copies = [{name: array.copy() for name, array in part.arrays().items()} for part in (generated, source)]
    measure(generated, source, asked_returns=np.arange(12.0))
    for part, copy in zip((generated, source), copies, strict=True):
        assert all(np.array_equal(array, copy[name]) for name, array in part.arrays().items())
    assert capfd.readouterr() == ("", "")


def test_json_holds_every_number_and_the_table_every_metric() -> None:
    found = measure(windows(), asked_returns=np.arange(12.0))
    values = json.loads(found.to_json())
    assert values["generated"]["oracle_reward"] == found.generated.oracle_reward
    assert values["source"]["novelty"]["both"] == found.source.novelty.both
    assert values["simulator"] == "linear world"
    assert "evidence" not in values
    lines = str(found).splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    shares = next(line for line in lines if line.startswith("Windows with a step > 0.05"))
    assert shares.endswith("0.0 %      0.0 %")


def empty() -> Episodes:
    return SOURCE.slice(0, 0)


def with_empty_episode() -> Episodes:
    offsets = np.append(SOURCE.offsets, SOURCE.num_transitions)
    observations = np.concatenate([SOURCE.observations, SOURCE.observations[-1:]])
    return dataclasses.replace(SOURCE, offsets=offsets, observations=observations)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(empty()), "generated has lengths"),
        (lambda: measure(windows(), empty()), "source has lengths"),
        (lambda: measure(with_empty_episode()), "transitions in every episode"),
        (lambda: measure(windows(), asked_returns=np.zeros(11)), r"shape \(11,\) do not fit the 12 generated windows"),
        (
            lambda: measure(dataclasses.replace(windows(), actions=np.zeros((96, 3)))),
            "generated actions have 3 dimensions and those of the source 2",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], Quality], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        call()

"""The numbering of real and generated transitions that all adapters share."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from gta_datasets import GTAAugmentedDataset, augment
from gta_datasets.adapters import to_decision_transformer
from gta_datasets.adapters.corpus import Corpus
from gta_datasets.data import normalize
from gta_datasets.errors import ConfigError, DatasetError
from tests.builders import edit_file, linear_dataset, make_dataset
from tests.smoke import tiny


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> GTAAugmentedDataset:
    source = linear_dataset("corpus/linear-v0", lengths=(20, 4, 15), terminated=(1,))
    return tiny(source, cache_dir=tmp_path_factory.mktemp("cache"))


def rewards_of(dataset: minari.MinariDataset) -> np.ndarray:
    return np.concatenate([episode.rewards for episode in dataset])


def test_real_transitions_come_first(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented)
    assert (corpus.num_real, corpus.num_generated) == (39, augmented.generated.total_steps)
    np.testing.assert_array_equal(corpus.transitions(np.arange(len(corpus))).rewards, rewards_of(augmented))
    np.testing.assert_array_equal(corpus.rewards, rewards_of(augmented))


def test_any_order_of_numbers_is_kept(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented)
    numbers = np.random.default_rng(0).permutation(len(corpus))
    np.testing.assert_array_equal(corpus.transitions(numbers).rewards, rewards_of(augmented)[numbers])


@pytest.mark.parametrize(("stop", "ends"), [(None, [30, 60, 81]), (40, [30, 40]), (30, [30])])
def test_parts_are_the_first_transitions_in_order(
    augmented: GTAAugmentedDataset, monkeypatch: pytest.MonkeyPatch, stop: int | None, ends: list[int]
) -> None:
    monkeypatch.setattr(normalize.chunks, "__defaults__", (30,))
    parts = list(Corpus(augmented).parts(stop))
    assert [(numbers.start, numbers.stop) for numbers, _ in parts] == list(zip([0, *ends[:-1]], ends, strict=True))
    for numbers, found in parts:
        np.testing.assert_array_equal(found.rewards, rewards_of(augmented)[numbers])


def test_a_plain_dataset_is_all_real(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented.source)
    assert (corpus.num_real, corpus.num_generated) == (39, 0)


def test_generated_alone_has_nothing_real(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented.generated)
    assert corpus.num_real == 0
    np.testing.assert_array_equal(corpus.rewards, rewards_of(augmented.generated))


def test_a_filtered_dataset_keeps_what_is_real_and_what_is_not(augmented: GTAAugmentedDataset) -> None:
    chosen = augmented.filter_episodes(lambda episode: episode.id in (0, 2, 4))
    corpus = Corpus(chosen)
    assert (corpus.num_real, corpus.num_generated) == (35, len(augmented[4].rewards))
    np.testing.assert_array_equal(corpus.rewards, rewards_of(chosen))
    origin = augmented.storage.pipeline.provenance(1)
    assert corpus.first_timestep.tolist() == [0, 0, origin["source_start"]]


@pytest.mark.parametrize("indices", [[8, 1, 5, 0, 7, 3, 6, 2, 4], [2, 0], [2, 2, 6, 6, 5]])
def test_chosen_episodes_keep_the_order_they_were_given(augmented: GTAAugmentedDataset, indices: list[int]) -> None:
    """As of `minari.MinariDataset(storage, indices)`, or after assigning to `episode_indices`."""
    assert augmented.total_episodes == 9
    chosen = minari.MinariDataset(augmented.storage, np.array(indices))
    corpus = Corpus(chosen)
    order = sorted(indices, key=lambda number: number >= 3)  # stable: the real ones first
    np.testing.assert_array_equal(corpus.rewards, np.concatenate([augmented[number].rewards for number in order]))
    provenance = augmented.storage.pipeline.provenance
    starts = [0 if number < 3 else provenance(number - 3)["source_start"] for number in order]
    assert corpus.first_timestep.tolist() == starts
    whole = Corpus(augmented)
    np.testing.assert_array_equal(corpus.start_returns("source"), whole.start_returns("source")[order])


def test_chosen_episodes_of_a_shuffled_source_are_its_own() -> None:
    shuffled = minari.MinariDataset(linear_dataset("corpus/shuffled-v0", lengths=(20, 4, 15)).storage, np.array([2, 0]))
    augmented = tiny(shuffled)
    chosen = augmented.filter_episodes(lambda episode: episode.id in (1, 3))
    np.testing.assert_array_equal(Corpus(chosen).rewards, rewards_of(chosen))


@pytest.mark.parametrize("number", [-1, -35])
def test_a_negative_number_is_no_transition(augmented: GTAAugmentedDataset, number: int) -> None:
    """It would be read from memory outside of the arrays."""
    corpus = Corpus(augmented)
    for read in (corpus.transitions, lambda numbers: corpus.subsequences(numbers, 3)):
        with pytest.raises(IndexError, match=f"no transition {number}; there are {len(corpus)}"):
            read(np.array([3, number]))
    with pytest.raises(IndexError, match=r"shape \(2, 6\); one axis"):
        corpus.transitions(np.zeros((2, 6), np.int64))


@pytest.mark.parametrize("index", [-1, 9])
def test_an_episode_that_does_not_exist_has_no_metadata(augmented: GTAAugmentedDataset, index: int) -> None:
    with pytest.raises(IndexError, match=f"episode {index} does not exist; the dataset has episodes 0 to 8"):
        list(augmented.storage.get_episode_metadata([index]))


def test_nothing_is_copied(augmented: GTAAugmentedDataset) -> None:
    first, second = Corpus(augmented), Corpus(augmented)
    assert first.episodes is second.episodes


def test_pickling_carries_the_dataset_only(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented)
    corpus.returns_to_go("source")
    carried = pickle.dumps(corpus)
    assert len(carried) < 20_000
    np.testing.assert_array_equal(pickle.loads(carried).rewards, corpus.rewards)


def test_an_incomplete_cache_is_completed(tmp_path: Path) -> None:
    augmented = tiny(linear_dataset("corpus/partial-v0"), cache_dir=tmp_path)
    augmented.generated[0]
    assert not augmented.is_complete
    corpus = Corpus(augmented)
    assert corpus.num_generated == augmented.generated.total_steps
    assert not augmented.is_complete
    assert corpus.open().episodes.num_transitions == len(corpus)
    assert augmented.is_complete


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    source = linear_dataset("corpus/damaged-v0")
    complete = tiny(source, cache_dir=tmp_path).generate()
    expected = Corpus(complete).rewards
    shard = sorted(complete.path.glob("shard-*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    np.testing.assert_array_equal(Corpus(tiny(source, cache_dir=tmp_path)).rewards, expected)


@pytest.mark.parametrize("kind", ["amplified", "source"])
def test_returns_to_go_of_real_episodes_are_the_rewards_to_come(augmented: GTAAugmentedDataset, kind: str) -> None:
    corpus = Corpus(augmented)
    found = corpus.returns_to_go(kind)[: corpus.num_real]
    expected = [e.rewards[t:].sum(dtype=np.float64) for e in augmented.source for t in range(len(e.rewards))]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", ["gta", "s4rl", "synther", "diffstitch"])
def test_no_timestep_lies_beyond_the_longest_recorded_episode(method: str) -> None:
    dataset = linear_dataset(f"corpus/timesteps-{method}-v0", lengths=(40,) * 8)
    augmented = augment(dataset, method, preset="smoke", num_transitions=300, device="cpu", progress=False)
    corpus = Corpus(augmented)
    timesteps = corpus.subsequences(np.arange(len(corpus)), 1).timesteps
    assert timesteps.max() == 39
    starts = [augmented[number].id for number in range(8)]
    assert not corpus.first_timestep[starts].any()


@pytest.mark.parametrize("kind", ["amplified", "source"])
def test_a_trajectory_without_a_source_window_has_its_own_returns(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented = tiny(linear_dataset(f"corpus/windowless-{kind}-v0", lengths=(20, 4, 15), terminated=(1,)))
    before, pipeline = Corpus(augmented).open(), augmented.storage.pipeline
    combined = pipeline.combined
    without = np.arange(len(combined.source_episode)) % 2 == 1
    changed = dataclasses.replace(combined, source_episode=np.where(without, -1, combined.source_episode))
    monkeypatch.setitem(pipeline.__dict__, "combined", changed)
    corpus, own = Corpus(augmented), np.concatenate([np.ones(before.num_real_episodes, bool), without])
    expected = np.where(own, before.episode_returns, before.start_returns(kind))
    np.testing.assert_array_equal(corpus.start_returns(kind), expected)
    np.testing.assert_array_equal(corpus.first_timestep, np.where(own, 0, before.first_timestep))
    last = corpus.episodes.offsets[1:][own] - 1
    np.testing.assert_allclose(corpus.returns_to_go(kind)[last], corpus.rewards[last], atol=1e-5)
    changed = dataclasses.replace(combined, source_episode=np.full(len(without), -1))
    monkeypatch.setitem(pipeline.__dict__, "combined", changed)
    np.testing.assert_array_equal(Corpus(augmented).start_returns(kind), before.episode_returns)


@pytest.mark.parametrize("kind", ["amplified", "source"])
def test_a_stitched_trajectory_has_the_return_that_it_leads_to(kind: str, tmp_path: Path) -> None:
    """Not that of its first piece's episode: after the bridge comes the rest of another."""
    source = linear_dataset(f"corpus/stitched-{kind}-v0", lengths=(30,) * 8)
    augmented = augment(source, "diffstitch", preset="smoke", cache_dir=tmp_path, num_transitions=60, progress=False)
    corpus = Corpus(augmented)
    shard = augmented.storage.pipeline.shard(0)
    start, length, rewards = shard["stitch_start"], shard["stitch_length"], corpus.rewards
    for number in range(len(augmented.generated)):
        first = corpus.episodes.offsets[corpus.num_real_episodes + number]
        arrival = first + start[number] + length[number]
        target = source[int(shard["target_episode"][number])].rewards[shard["target_start"][number] :]
        to_go = corpus.returns_to_go(kind)
        np.testing.assert_allclose(to_go[arrival], target.sum(), atol=1e-3)
        np.testing.assert_allclose(to_go[first], rewards[first:arrival].sum() + target.sum(), atol=1e-3)


def test_subsequences_end_with_their_transition(augmented: GTAAugmentedDataset) -> None:
    corpus = Corpus(augmented.source)
    found = corpus.subsequences(np.array([2, 23]), 5)
    first, second = augmented.source[0], augmented.source[1]
    assert found.mask.tolist() == [[False, False, True, True, True], [False, True, True, True, True]]
    np.testing.assert_array_equal(found.observations[0, 2:], first.observations[:3])
    np.testing.assert_array_equal(found.actions[1, 1:], second.actions)
    assert found.timesteps.tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3]]
    assert found.terminated.tolist() == [False, True]
    for name in ("observations", "actions", "rewards", "returns_to_go"):
        assert not getattr(found, name)[~found.mask].any(), name


def test_what_is_no_dataset_is_refused(augmented: GTAAugmentedDataset) -> None:
    with pytest.raises(DatasetError, match=r"of type list; give a minari\.MinariDataset"):
        Corpus([])
    nothing = make_dataset("corpus/nothing-v0").filter_episodes(lambda _: False)
    with pytest.raises(DatasetError, match="no episodes"):
        Corpus(nothing)
    with pytest.raises(DatasetError, match="no transitions"):
        Corpus(augmented.filter_episodes(lambda _: False))
    with pytest.raises(ConfigError, match="'amplified' or 'source'"):
        Corpus(augmented).returns_to_go("own")


def test_a_missing_last_observation_names_the_episode() -> None:
    """Fault row 25: T observations for T steps."""

    def cut(file: h5py.File) -> None:
        observations = file["episode_1/observations"][:-1]
        del file["episode_1/observations"]
        file["episode_1/observations"] = observations

    broken = edit_file(make_dataset("corpus/cut-v0", lengths=(4, 5, 3)), cut)
    with pytest.raises(DatasetError, match=r"episode 1: .*observation"):
        Corpus(broken)


def test_the_remedy_against_an_invalid_episode_works() -> None:
    """An adapter of a plain dataset has no option `invalid`."""

    def spoil(file: h5py.File) -> None:
        file["episode_1/rewards"][2] = np.nan

    broken = edit_file(make_dataset("corpus/nan-v0", lengths=(4, 5, 3)), spoil)
    remedy = r"or leave it out with dataset\.filter_episodes\(lambda episode: episode\.id != \.\.\.\)"
    with pytest.raises(DatasetError, match=rf"episode 1: rewards is nan .*{remedy}") as caught:
        to_decision_transformer(broken)
    assert "invalid=" not in str(caught.value)
    rest = broken.filter_episodes(lambda episode: episode.id != 1)
    assert len(to_decision_transformer(rest)) == 7


def test_reading_again_and_again_holds_no_more_files_or_memory(augmented: GTAAugmentedDataset) -> None:
    """Fault row 37."""
    corpus, rng = Corpus(augmented), np.random.default_rng(0)

    def read(batches: int) -> None:
        for _ in range(batches):
            corpus.transitions(rng.integers(len(corpus), size=256))

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), int(Path("/proc/self/statm").read_text().split()[1])

    read(200)
    files, pages = held()
    read(4_000)  # a million transitions
    files_after, pages_after = held()
    assert files_after == files
    assert (pages_after - pages) * os.sysconf("SC_PAGE_SIZE") < 4e6

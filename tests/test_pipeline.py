"""The lazy stages: each is done when first needed, once, and what is in the cache is never made again."""

from __future__ import annotations

import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gta_datasets import pipeline as pipeline_module
from gta_datasets.methods.gta import GTA
from gta_datasets.plan import Plan
from gta_datasets.store import list_stores
from tests.builders import linear_dataset
from tests.smoke import shard_bytes, tiny

STEPS = 8 * 20


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("pipeline/linear-v0", terminated=(1, 3))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often anything was read, trained and generated."""
    counts: Counter[str] = Counter()

    def count(owner: object, name: str, label: str) -> None:
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[label] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(pipeline_module, "read_episodes", "read")
    count(GTA, "_loss", "train")
    count(GTA, "generate", "generate")
    return counts


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_every_trajectory_is_located_in_its_shard(sizes: list[int]) -> None:
    plan = Plan(np.ones(sum(sizes), np.int64), np.array(sizes))
    places = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    assert [plan.locate(number) for number in range(sum(sizes))] == places
    assert plan.num_shards == len(sizes)


@pytest.mark.parametrize("wanted", [1, 7, 8, 56, 57, 200])
def test_the_plan_is_the_shortest_that_holds_what_was_asked_for(dataset: minari.MinariDataset, wanted: int) -> None:
    plan = tiny(dataset, num_transitions=wanted).storage.pipeline.plan
    assert plan.lengths.sum() >= wanted
    assert plan.lengths[:-1].sum() < wanted
    assert plan.shard_sizes.sum() == len(plan.lengths)
    assert (plan.shard_sizes[:-1] == 8).all()
    assert 1 <= plan.shard_sizes[-1] <= 8


def test_by_default_as_much_is_generated_as_the_source_has(dataset: minari.MinariDataset) -> None:
    lengths = tiny(dataset).storage.pipeline.plan.lengths
    assert STEPS <= lengths.sum() < STEPS + lengths[-1]


def test_a_longer_plan_begins_like_a_shorter_one() -> None:
    dataset = linear_dataset("pipeline/lengths-v0", lengths=(3, 9, 5, 12, 2, 20))
    short, long = (tiny(dataset, num_transitions=steps).storage.pipeline.plan for steps in (90, 300))
    np.testing.assert_array_equal(long.lengths[: len(short.lengths)], short.lengths)
    assert set(long.lengths) > {2, 3, 7}, "this test needs trajectories of several lengths"


def test_the_plan_tells_the_lengths_of_what_is_generated() -> None:
    augmented = tiny(linear_dataset("pipeline/told-v0", lengths=(3, 9, 5, 12, 2, 20)))
    planned = augmented.storage.pipeline.plan.lengths
    assert [len(episode) for episode in augmented.generated] == planned.tolist()


def test_nothing_is_done_twice_and_nothing_before_it_is_needed(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    augmented = tiny(dataset, cache_dir=tmp_path / "cache")
    assert not work
    steps = augmented.total_steps
    assert work == {"read": 1}
    assert not (tmp_path / "cache").exists()
    augmented[len(dataset)]
    assert work == {"read": 1, "train": 1, "generate": 1}
    augmented[len(dataset) + 1]
    assert work["generate"] == 1, "the second trajectory lies in the same shard"
    augmented.generate()
    shards = augmented.storage.pipeline.plan.num_shards
    assert work == {"read": 1, "train": 1, "generate": shards}
    assert sum(len(episode) for episode in augmented) == steps
    augmented.generate().fit()
    assert work == {"read": 1, "train": 1, "generate": shards}


def test_a_second_call_trains_and_generates_nothing(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    first = tiny(dataset, cache_dir=tmp_path).generate()
    work.clear()
    second = tiny(dataset, cache_dir=tmp_path)
    assert second.is_complete
    assert second.key == first.key
    assert [e.rewards.tobytes() for e in second.generated] == [e.rewards.tobytes() for e in first.generated]
    assert work == {"read": 1}


def test_without_its_checkpoint_a_model_is_trained_again_to_the_same_weights(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    first = tiny(dataset, cache_dir=tmp_path).generate()
    before = times(first.path)
    (checkpoint,) = tmp_path.glob("*/model.safetensors")
    trained = load_file(checkpoint)
    checkpoint.unlink()
    work.clear()
    second = tiny(dataset, cache_dir=tmp_path)
    assert not second.is_fitted
    assert not second.is_complete
    second.generate()
    assert work == {"read": 1, "train": 1}
    again = load_file(checkpoint)
    assert all(again[name].tobytes() == trained[name].tobytes() for name in trained)
    assert second.key == first.key
    assert times(second.path) == before


def test_an_incomplete_cache_is_completed_with_the_same_bytes(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    first = tiny(dataset, cache_dir=tmp_path).generate()
    lost, damaged, *_ = sorted(first.path.glob("shard-*"))
    content = {path: path.read_bytes() for path in (lost, damaged)}
    lost.unlink()
    damaged.write_bytes(content[damaged][:-1])
    work.clear()
    second = tiny(dataset, cache_dir=tmp_path)
    assert not second.is_complete
    assert [e.actions.tobytes() for e in second.generated] == [e.actions.tobytes() for e in first.generated]
    assert second.is_complete
    assert work == {"read": 1, "generate": 2}
    assert {path: path.read_bytes() for path in content} == content


def test_asking_for_more_keeps_the_shards_there_are(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    small = tiny(dataset, num_transitions=100, cache_dir=tmp_path).generate()
    before = times(small.path)
    work.clear()
    large = tiny(dataset, num_transitions=300, cache_dir=tmp_path).generate()
    assert large.path == small.path
    after = times(large.path)
    assert before.items() < after.items()
    assert work == {"read": 1, "generate": len(after) - len(before)}
    for few, many in zip(small.generated, large.generated, strict=False):
        assert few.observations.tobytes() == many.observations.tobytes()
    assert tiny(dataset, num_transitions=100, cache_dir=tmp_path).is_complete


def test_a_pipeline_is_fitted_once(dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path) -> None:
    pipeline = tiny(dataset, cache_dir=tmp_path).storage.pipeline
    store = pipeline.fit()
    (checkpoint,) = tmp_path.glob("*/model.safetensors")
    checkpoint.unlink()
    assert pipeline.fit() is store
    assert work == {"read": 1, "train": 1}


def test_threads_that_need_the_same_model_train_it_once(
    dataset: minari.MinariDataset, work: Counter[str], tmp_path: Path
) -> None:
    start, keys = threading.Barrier(2), []

    def fit() -> None:
        augmented = tiny(dataset, cache_dir=tmp_path, training_steps=20)
        augmented.storage.pipeline.augmenter  # noqa: B018 - reads the source
        start.wait()
        keys.append(augmented.key)

    threads = [threading.Thread(target=fit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert work["train"] == 1
    assert keys[0] == keys[1]


def test_pickling_carries_no_data(dataset: minari.MinariDataset) -> None:
    pipeline = tiny(dataset).generate().storage.pipeline
    state = pickle.dumps(pipeline)
    assert len(state) < len(pickle.dumps(dataset)) + 3_000
    copy = pickle.loads(state)
    assert copy.fit().key == pipeline.fit().key
    assert copy.shard(0)["rewards"].tobytes() == pipeline.shard(0)["rewards"].tobytes()


def test_manifests_say_what_was_done(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    augmented = tiny(dataset, seed=5, cache_dir=tmp_path).generate()
    manifests = {store.read_manifest()["kind"]: store for store in list_stores(tmp_path)}
    assert set(manifests) == {"model", "trajectories"}
    assert manifests["trajectories"].path == augmented.path
    for store in manifests.values():
        manifest = store.read_manifest()
        assert manifest["dataset"] == "pipeline/linear-v0"
        assert manifest["seed"] == 5
        assert manifest["config"] == json.loads(json.dumps(augmented.config.to_dict()))
        assert manifest["versions"]["minari"] == minari.__version__


def test_the_losses_of_training_are_kept(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    for _ in range(2):  # trained, then loaded
        history = tiny(dataset, training_steps=120, cache_dir=tmp_path).storage.pipeline.loss_history
        assert len(history) == 3
        assert [step for step, _ in history][:2] == [50, 100]
        assert all(np.isfinite(loss) and loss > 0 for _, loss in history)


def test_where_a_trajectory_comes_from(dataset: minari.MinariDataset) -> None:
    """Windows lie within their episode, and their returns are those of the recorded rewards."""
    some = dataset.filter_episodes(lambda episode: episode.id in (1, 4, 6))
    augmented = tiny(some, num_transitions=200, alpha=1.7, return_limit=0.0)
    seen = set()
    for number, length in enumerate(augmented.storage.pipeline.plan.lengths):
        told = augmented.storage.pipeline.provenance(number)
        seen.add(told["source_episode"])
        (episode,) = some.iterate_episodes([told["source_episode"]])
        start = told["source_start"]
        assert 0 <= start <= len(episode) - length
        rewards = episode.rewards.astype(np.float64) - 100 * episode.terminations
        expected = sum(0.99**step * reward for step, reward in enumerate(rewards[start:]))
        assert told["source_return"] == pytest.approx(expected, rel=1e-5)
        assert told["asked_return"] == pytest.approx(expected + 0.7 * abs(expected), rel=1e-5)
    assert seen == {1, 4, 6}


@pytest.fixture
def short() -> Iterator[minari.MinariDataset]:
    yield linear_dataset("pipeline/short-v0", lengths=(3, 20, 1, 20, 6, 20))
    minari.delete_dataset("pipeline/short-v0")


def test_skipped_episodes_are_counted_and_named(short: minari.MinariDataset) -> None:
    augmented = tiny(short, short_episodes="skip")
    with pytest.warns(UserWarning, match=r"nothing is generated from 3 of 6 source episodes .*episode 0 of"):
        augmented.total_steps  # noqa: B018 - reads the source
    assert augmented.skipped == (
        "episode 0 of 'pipeline/short-v0' has 3 transitions, fewer than horizon=7: skipped",
        "episode 2 of 'pipeline/short-v0' has 1 transitions, fewer than horizon=7: skipped",
        "episode 4 of 'pipeline/short-v0' has 6 transitions, fewer than horizon=7: skipped",
    )
    assert len(augmented) - len(augmented.generated) == 6, "skipped episodes stay in the dataset"
    metadata = augmented.storage.get_episode_metadata(range(6, len(augmented)))
    assert {told["source_episode"] for told in metadata} <= {1, 3, 5}


def test_episodes_below_the_quantile_are_named_too(short: minari.MinariDataset) -> None:
    augmented = tiny(short, short_episodes="skip", source_quantile=0.9)
    returns = {episode.id: episode.rewards.sum() for episode in short if len(episode) == 20}
    poor = sorted(returns, key=lambda number: returns[number])[:2]
    with pytest.warns(UserWarning, match="nothing is generated from 5 of 6 source episodes"):
        skipped = augmented.skipped
    assert [sentence[8] for sentence in skipped] == sorted([*"024", *map(str, poor)])
    for number in poor:
        told = f"episode {number} of 'pipeline/short-v0' has a return below source_quantile=0.9: skipped"
        assert skipped.count(told) == 1


def test_a_warning_stays_short_however_many_episodes_are_skipped() -> None:
    dataset = linear_dataset("pipeline/many-v0", lengths=(2,) * 30 + (10,))
    augmented = tiny(dataset, short_episodes="skip")
    with pytest.warns(UserWarning, match="from 30 of 31 source episodes") as caught:
        augmented.total_steps  # noqa: B018 - reads the source
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 800
    assert len(augmented.skipped) == 30


def test_generating_again_gives_what_the_cache_holds(dataset: minari.MinariDataset) -> None:
    augmented = tiny(dataset).generate()
    stored = augmented.storage.pipeline.shard(1)
    assert shard_bytes(augmented, 1) == {name: array.tobytes() for name, array in stored.items()}


@pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu"), (1, "cuda"), (2, "cuda:1")])
def test_a_gpu_is_replaced_where_it_does_not_exist(
    dataset: minari.MinariDataset, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny(dataset).storage.pipeline
    pipeline.device = "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert pickle.loads(pickle.dumps(pipeline)).device == expected

"""A dataset for trying the library: roll-outs of a policy that ships with it, made in seconds and without a network."""

from __future__ import annotations

import shutil
from importlib import resources

import minari
from minari.data_collector.episode_buffer import EpisodeBuffer

from gta_datasets.data.screen import dataset_path, screen_id
from gta_datasets.errors import DatasetError
from gta_datasets.rollouts import SquashedGaussian, make_env, roll_out

__all__ = ["DEMO_DATASET_ID", "make_demo_dataset"]

DEMO_DATASET_ID = "gta-datasets/halfcheetah-demo-v0"
_ENV_ID = "HalfCheetah-v5"
_POLICY_FILE = "halfcheetah_medium_policy.npz"
_RANDOM_RETURN, _EXPERT_RETURN = -280.178953, 12135.0  # D4RL's references


def make_demo_dataset(dataset_id: str = DEMO_DATASET_ID, *, episodes: int = 40, seed: int = 1) -> minari.MinariDataset:
    """Roll the embedded medium policy out in HalfCheetah-v5 and store the episodes as a Minari dataset.

    The same arguments give the same data (on one machine and one version of MuJoCo), so a dataset that an earlier call
    made is opened instead of made again.

    Args:
        dataset_id: name of the dataset under Minari's root.
        episodes: number of episodes, 1,000 transitions each.
        seed: of the initial states and of the policy's noise.

    Raises:
        DatasetError: another dataset has this id.
        MissingExtraError: MuJoCo is not installed.
    """
    description = (
        f"{episodes} stochastic roll-outs (seed {seed}) of a SAC policy after 120,000 steps; made by gta_datasets.demo"
    )
    if screen_id(dataset_id).exists():
        return _existing(dataset_id, description, episodes)
    buffers = _roll_outs(episodes, seed)
    try:
        dataset: minari.MinariDataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=_ENV_ID,
            eval_env=_ENV_ID,
            algorithm_name="SAC",
            description=description,
            author="gta-datasets",
            author_email="none@example.com",
            code_permalink="https://example.com",
            ref_min_score=_RANDOM_RETURN,
            ref_max_score=_EXPERT_RETURN,
            data_format="hdf5",
        )
    except ValueError:  # another process was faster, and its dataset stays
        raise
    except BaseException:  # half of it would keep the name
        shutil.rmtree(dataset_path(dataset_id), ignore_errors=True)
        raise
    return dataset


def _existing(dataset_id: str, description: str, episodes: int) -> minari.MinariDataset:
    dataset: minari.MinariDataset = minari.load_dataset(dataset_id)
    if dataset.storage.metadata.get("description") == description and dataset.total_episodes == episodes:
        return dataset
    raise DatasetError(
        f"the dataset '{dataset_id}' exists and was not made by this call"
        f" ({dataset.total_episodes} episodes: {dataset.storage.metadata.get('description')!r});"
        f" choose another id, or remove it with minari.delete_dataset('{dataset_id}')"
    )


def _roll_outs(episodes: int, seed: int) -> list[EpisodeBuffer]:
    policy = SquashedGaussian.load(resources.files("gta_datasets") / "assets" / _POLICY_FILE)
    env = make_env(_ENV_ID)
    try:
        return [roll_out(env, policy, number, seed) for number in range(episodes)]
    finally:
        env.close()

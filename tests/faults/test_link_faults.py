"""Rows 15 and 17: links, pipes and HDF5 features that lead out of a dataset."""

from __future__ import annotations

import os

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from gta_datasets.data.screen import screen, screen_id
from gta_datasets.errors import UntrustedDatasetError
from tests.builders import write_buffers

pytestmark = pytest.mark.usefixtures("root")


def test_row_15_links_among_the_files(folder, tmp_path):
    outside = tmp_path / "outside.hdf5"
    (folder / "main_data.hdf5").rename(outside)
    (folder / "main_data.hdf5").symlink_to(outside)
    with pytest.raises(UntrustedDatasetError, match=r"main_data\.hdf5 is a link or not a regular file"):
        screen(folder)


def test_row_15_a_link_to_the_metadata(folder, tmp_path):
    (folder / "metadata.json").rename(tmp_path / "metadata.json")
    (folder / "metadata.json").symlink_to(tmp_path / "metadata.json")
    with pytest.raises(UntrustedDatasetError, match=r"metadata\.json is a link"):
        screen(folder)


def test_row_15_a_link_in_place_of_the_data_folder(folder, tmp_path):
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(UntrustedDatasetError, match="data is a link; a dataset's files must lie in its own folder"):
        screen(folder.parent)


@pytest.mark.parametrize("linked", ["evil/set-v0", "evil"])
def test_row_15_a_link_on_the_way_to_a_dataset(folder, root, tmp_path, linked):
    (root / linked).rename(tmp_path / "moved")
    (root / linked).symlink_to(tmp_path / "moved")
    with pytest.raises(UntrustedDatasetError, match="is reached through the link"):
        screen_id("evil/set-v0")


def test_row_15_a_pipe_among_the_files(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(UntrustedDatasetError, match="pipe is a link or not a regular file"):
        screen(folder)


def external_link(file, outside):
    file["episode_1/rewards"] = h5py.ExternalLink(str(outside), "/secret")


def soft_link(file, outside):
    file["episode_1/rewards"] = h5py.SoftLink("/episode_0/rewards")


def external_storage(file, outside):
    file["episode_1"].create_dataset("rewards", (20,), "u1", external=[(str(outside), 0, 20)])


def virtual_dataset(file, outside):
    layout = h5py.VirtualLayout((20,), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "secret", (20,))
    file["episode_1"].create_virtual_dataset("rewards", layout)


def far_larger_than_the_file(file, outside):
    file["episode_1"].create_dataset("rewards", (10**12,), "f4")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (external_link, "'rewards' is a soft or external link"),
        (soft_link, "'rewards' is a soft or external link"),
        (external_storage, "'rewards' keeps its data in other files"),
        (virtual_dataset, "'rewards' keeps its data in other files"),
        (far_larger_than_the_file, "far more than it can hold"),
    ],
)
def test_row_17_an_hdf5_file_that_reaches_out_of_itself(folder, tmp_path, plant, message):
    outside = tmp_path / "outside.hdf5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.arange(20, dtype=np.float32)
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]
        plant(file, outside)
    with pytest.raises(UntrustedDatasetError, match=message):
        screen(folder)


def test_row_17_stock_minari_follows_an_external_link(folder, tmp_path):
    """Why the HDF5 structure is screened."""
    secret = np.arange(20, dtype=np.float32)
    with h5py.File(tmp_path / "outside.hdf5", "w") as file:
        file["secret"] = secret
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]
        external_link(file, tmp_path / "outside.hdf5")
    np.testing.assert_array_equal(minari.load_dataset("evil/set-v0")[1].rewards, secret)


def test_groups_that_contain_themselves_end_the_walk(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file["episode_0/again"] = file["episode_0"]
    screen(folder)


def test_well_compressed_constant_data_are_not_mistaken_for_a_bomb():
    space = spaces.Box(-1, 1, (4,), np.float32)
    buffers = [
        minari.data_collector.episode_buffer.EpisodeBuffer(
            observations=np.zeros((20_001, 4), np.float32),
            actions=np.zeros((20_000, 4), np.float32),
            rewards=np.zeros(20_000),
            terminations=np.zeros(20_000, bool),
            truncations=np.zeros(20_000, bool),
        )
    ]
    folder = write_buffers("some/constant-v0", buffers, space, space).storage.data_path
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for name in ("observations", "actions"):
            values = file[f"episode_0/{name}"][()]
            del file[f"episode_0/{name}"]
            file["episode_0"].create_dataset(name, data=values, compression="gzip", compression_opts=9)
    screen(folder)

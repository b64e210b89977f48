from __future__ import annotations

import json

import gymnasium as gym
import minari
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from minari.serialization import serialize_space

from gta_datasets.data.screen import dataset_path, screen, screen_id
from gta_datasets.errors import DatasetError, UntrustedDatasetError
from tests.builders import linear_dataset, make_dataset
from tests.smoke import tiny


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def with_metadata(dataset, **entries):
    file = dataset.storage.data_path / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return file.parent


def test_a_sound_dataset_passes_by_id_by_folder_and_by_data_folder(root):
    linear_dataset("some/name/space/linear-v3")
    folder = root / "some" / "name" / "space" / "linear-v3"
    assert screen_id("some/name/space/linear-v3") == folder
    screen(folder)
    screen(str(folder / "data"))


def test_an_id_that_is_not_there_yet_is_only_resolved(root):
    assert screen_id("not/there-v0") == dataset_path("not/there-v0") == root / "not" / "there-v0"


def test_the_root_itself_may_be_a_link(root, tmp_path_factory, monkeypatch):
    linear_dataset("test/linear-v0")
    link = tmp_path_factory.mktemp("links") / "root"
    link.symlink_to(root)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(link))
    assert screen_id("test/linear-v0") == root / "test" / "linear-v0"


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (40, 40, 3), "uint8"),
        spaces.Text(7),
        spaces.Dict(a=spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary([2, 2])]), b=spaces.MultiDiscrete([2, 3])),
    ],
)
def test_every_space_that_minari_can_write_passes(space):
    screen(with_metadata(linear_dataset(), observation_space=serialize_space(space)))


def test_every_environment_of_gymnasium_passes():
    specs = [spec for spec in gym.registry.values() if isinstance(spec.entry_point, str)]
    assert len(specs) > 40
    dataset = linear_dataset()
    for spec in specs:
        screen(with_metadata(dataset, env_spec=spec.to_json(), eval_env_spec=spec.to_json()))


def test_the_wrappers_of_a_real_environment_pass():
    env = gym.wrappers.TimeAwareObservation(gym.wrappers.ClipReward(gym.make("Pendulum-v1"), -1.0, 1.0))
    assert len(env.spec.additional_wrappers) == 2
    screen(with_metadata(linear_dataset(), env_spec=env.spec.to_json()))


def test_an_old_specification_passes_as_minari_reads_it():
    spec = json.loads(gym.spec("CartPole-v1").to_json())
    spec = {"id": spec.pop("id"), "autoreset": False, "apply_api_compatibility": False, **spec}
    screen(with_metadata(linear_dataset(), env_spec=json.dumps(spec)))


def test_who_trusts_another_package_opens_the_dataset_without_the_screen():
    spec = EnvSpec("Mine-v0", entry_point="my_envs.walkers:Steep", additional_wrappers=())
    with_metadata(linear_dataset("mine/steep-v0"), env_spec=spec.to_json())
    with pytest.raises(
        UntrustedDatasetError,
        match=r"would run 'my_envs\.walkers:Steep'; .* give what minari\.load_dataset returns .* in a shell --trust",
    ):
        tiny("mine/steep-v0")
    assert len(tiny(minari.load_dataset("mine/steep-v0"), include_source=False)) > 0


def test_wrappers_are_held_to_the_same_list():
    wrapper = WrapperSpec("Mine", "my_envs.wrappers:Mine", {})
    spec = EnvSpec(
        "CartPole-v1", entry_point="gymnasium.envs.classic_control:CartPoleEnv", additional_wrappers=(wrapper,)
    )
    folder = with_metadata(linear_dataset(), env_spec=spec.to_json())
    with pytest.raises(UntrustedDatasetError, match=r"would run 'my_envs\.wrappers:Mine'"):
        screen(folder)


@pytest.mark.parametrize("missing", ["the folder", "metadata", "the data file"])
def test_what_is_no_dataset_is_an_ordinary_error(root, missing):
    folder = linear_dataset().storage.data_path
    if missing == "the folder":
        folder = root / "nowhere"
    else:
        (folder / ("metadata.json" if missing == "metadata" else "main_data.hdf5")).unlink()
    with pytest.raises(DatasetError, match=r"holds no Minari dataset|main_data.hdf5 is missing") as caught:
        screen(folder)
    assert not isinstance(caught.value, UntrustedDatasetError)


def test_a_damaged_file_is_an_ordinary_error():
    folder = linear_dataset().storage.data_path
    (folder / "main_data.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(DatasetError, match="is no readable HDF5 file"):
        screen(folder)


def test_a_format_that_minari_does_not_know():
    with pytest.raises(DatasetError, match=r"data_format 'pickle'; Minari knows hdf5, arrow, parquet"):
        screen(with_metadata(linear_dataset(), data_format="pickle"))


def test_many_kinds_of_observation_pass(root):
    make_dataset("kinds/nested-v0", observation_space=spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1)))
    assert screen_id("kinds/nested-v0").is_dir()

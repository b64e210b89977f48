"""Rows 15 and 17 of the fault matrix: a hostile dataset folder is refused before anything of it runs or leaves it."""

from __future__ import annotations

import contextlib
import json

import minari
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.serialization import serialize_space

from gta_datasets.data.screen import dataset_path, screen, screen_id
from gta_datasets.errors import DatasetError, UntrustedDatasetError

CARTPOLE = "gymnasium.envs.classic_control:CartPoleEnv"
pytestmark = pytest.mark.usefixtures("root")


def rewrite(folder, change):
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def spec(entry_point=CARTPOLE, **fields):
    return json.dumps({"id": "Evil-v0", "entry_point": entry_point, "additional_wrappers": [], **fields})


def plant_command(folder, marker, *, keep_spaces=False):
    def change(metadata):
        metadata["env_spec"] = spec("os:system", kwargs={"command": f"touch {marker}"})
        if not keep_spaces:
            del metadata["observation_space"], metadata["action_space"]

    rewrite(folder, change)


def test_row_17_stock_minari_runs_the_entry_point_of_a_dataset(folder, tmp_path):
    """Why screening exists: if this fails, Minari has closed the hole."""
    plant_command(folder, tmp_path / "marker")
    with pytest.raises(TypeError, match="must inherit from the gymnasium"):
        minari.load_dataset("evil/set-v0")
    assert (tmp_path / "marker").exists()


def test_row_17_stock_minari_runs_it_later_even_if_the_spaces_are_there(folder, tmp_path):
    plant_command(folder, tmp_path / "marker", keep_spaces=True)
    dataset = minari.load_dataset("evil/set-v0")
    assert not (tmp_path / "marker").exists()
    with pytest.raises(TypeError, match="must inherit from the gymnasium"):
        dataset.recover_environment()
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("keep_spaces", [False, True])
def test_row_17_screening_refuses_it_and_nothing_ran(folder, tmp_path, keep_spaces):
    plant_command(folder, tmp_path / "marker", keep_spaces=keep_spaces)
    for check in (lambda: screen(folder), lambda: screen(folder.parent), lambda: screen_id("evil/set-v0")):
        with pytest.raises(UntrustedDatasetError, match=r"observation_space is missing|would run 'os:system'"):
            check()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "entry_point",
    [
        "os:system",
        "builtins:exec",
        "subprocess:Popen",
        "minari:delete_dataset",
        "gymnasium:make",
        "gymnasium.envs.registration:make",
        "gymnasium.envs.registration:load_env_creator",
        "gymnasium.envs.registration:importlib",
        "gymnasium_robotics.envs_of_mine:Env",
        "gymnasium.envs.:Env",
        ".gymnasium.envs:Env",
        "gymnasium.envs",
        "gymnasium.envs:Env:Env",
        "gymnasium.envs:Env\n",
        "gymnаsium.envs:Env",  # noqa: RUF001  (a Cyrillic letter)
        "",
        7,
        ["os", "system"],
        {"module": "os"},
    ],
)
@pytest.mark.parametrize("place", ["env_spec", "eval_env_spec", "vector", "wrapper"])
def test_row_17_entry_points_outside_of_the_allowed_ones(folder, entry_point, place):
    def change(metadata):
        if place == "vector":
            metadata["env_spec"] = spec(vector_entry_point=entry_point)
        elif place == "wrapper":
            metadata["env_spec"] = spec(additional_wrappers=[{"name": "w", "entry_point": entry_point, "kwargs": {}}])
        else:
            metadata[place] = spec(entry_point)

    rewrite(folder, change)
    with pytest.raises(UntrustedDatasetError, match="would run"):
        screen(folder)


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "~/model.xml", "./model.xml", "a/../../b.xml", "..", "C:\\x", "module:Env-v0", "https://x"]
)
@pytest.mark.parametrize("wrap", [lambda v: {"a": v}, lambda v: {"a": [{"b": [v]}]}, lambda v: {v: 1}])
def test_row_17_arguments_that_reach_out_of_the_environment(folder, value, wrap):
    rewrite(folder, lambda metadata: metadata.update(env_spec=spec(kwargs=wrap(value))))
    with pytest.raises(UntrustedDatasetError, match="which is a path or a module to import"):
        screen(folder)


def test_row_17_a_payload_that_appears_only_after_minaris_own_rewriting(folder):
    """Minari removes '"order_enforce": true,' from the text before it parses it: here, half of a key."""
    text = spec("os:system")[:-1] + ', "x\\"order_enforce": true,"entry_point": "' + CARTPOLE + '"}'
    assert json.loads(text)["entry_point"] == CARTPOLE
    assert json.loads(text.replace('"order_enforce": true,', ""))["entry_point"] == "os:system"
    rewrite(folder, lambda metadata: metadata.update(env_spec=text))
    with pytest.raises(UntrustedDatasetError, match="would run 'os:system'"):
        screen(folder)


@pytest.mark.parametrize(
    "dataset_id",
    [
        "../evil/set-v0",
        "evil/../../set-v0",
        "evil/..-v0",
        "/etc/set-v0",
        "evil\\set-v0",
        "evil/set",
        "evil/set-v0/",
        "evil//set-v0",
        "evil/set-v0\n",
        "evil/set-v0\0",
        "hf://someone/set-v0",
        "",
        ".",
        "..",
        None,
    ],
)
def test_row_17_ids_that_leave_the_root(root, dataset_id):
    with pytest.raises(UntrustedDatasetError, match=r"dataset id .* is not allowed; an id looks like"):
        dataset_path(dataset_id)
    assert not root.exists()


SPACES = {
    "missing": None,
    "not a string": {"type": "Box"},
    "not JSON": "{",
    "no object": "[1]",
    "deep": "[" * 100_000,
    "unknown type": '{"type": "os.system"}',
    "object dtype": '{"type": "Box", "dtype": "O", "shape": [1], "low": [0], "high": [1]}',
    "a gigabyte per string": '{"type": "Box", "dtype": "U500000000", "shape": [1], "low": [0], "high": [1]}',
    "dtype is a list": '{"type": "Box", "dtype": ["int8"], "shape": [1], "low": [0], "high": [1]}',
    "huge shape": '{"type": "Box", "dtype": "float32", "shape": [1000000, 1000000], "low": 0, "high": 1}',
    "huge product": json.dumps(
        {"type": "Tuple", "subspaces": [{"type": "Box", "dtype": "int8", "shape": [2**22], "low": 0, "high": 1}] * 5}
    ),
    "negative shape": '{"type": "Box", "dtype": "float32", "shape": [-1], "low": [0], "high": [1]}',
    "fractional shape": '{"type": "MultiBinary", "n": 0.5}',
    "subspaces is a number": '{"type": "Tuple", "subspaces": 3}',
    "bounds of another shape": '{"type": "Box", "dtype": "float32", "shape": [2], "low": [0], "high": [1]}',
}


@pytest.mark.parametrize("text", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("key", ["observation_space", "action_space"])
def test_row_17_spaces_that_minari_cannot_or_must_not_read(folder, key, text):
    rewrite(folder, lambda metadata: metadata.update({key: text}))
    with pytest.raises(UntrustedDatasetError, match=key):
        screen(folder)


def test_row_17_the_two_spaces_share_one_limit(folder):
    space = serialize_space(spaces.MultiBinary([2**12, 2**11 + 1]))
    rewrite(folder, lambda metadata: metadata.update(observation_space=space))
    screen(folder)
    rewrite(folder, lambda metadata: metadata.update(action_space=space))
    with pytest.raises(UntrustedDatasetError, match="action_space has more than 16777216 elements"):
        screen(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "where a JSON object is needed"),
        (b"{" * 200_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b" " * (2**24 + 1), "at most 16777216 are read"),
    ],
)
def test_row_17_metadata_that_are_no_object(folder, content, message):
    (folder / "metadata.json").write_bytes(content)
    with pytest.raises(UntrustedDatasetError, match=message):
        screen(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"env_spec": 3},
        {"env_spec": "[]"},
        {"env_spec": "{"},
        {"env_spec": '{"additional_wrappers": 3}'},
        {"eval_env_spec": '{"additional_wrappers": ["os:system"]}'},
        {"total_episodes": 10**12},
        {"total_episodes": -1},
        {"total_episodes": True},
        {"total_episodes": 2.0},
        {"total_steps": "many"},
        {"total_steps": 2**64},
    ],
)
def test_row_17_metadata_of_the_wrong_kind(folder, entries):
    rewrite(folder, lambda metadata: metadata.update(entries))
    with pytest.raises(UntrustedDatasetError, match=next(iter(entries))):
        screen(folder)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Box", "Dict", "int8"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "dtype", "shape", "n", "low", "subspaces", "kwargs"]), children, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["observation_space", "env_spec", "eval_env_spec", "data_format", "total_episodes", "total_steps"]
    ),
    value=json_values,
    as_text=st.booleans(),
)
def test_row_17_fuzzed_metadata_pass_or_are_refused(folder, key, value, as_text):
    original = (folder / "metadata.json").read_text()
    rewrite(folder, lambda metadata: metadata.update({key: json.dumps(value) if as_text else value}))
    try:
        with contextlib.suppress(DatasetError):
            screen(folder)
    finally:
        (folder / "metadata.json").write_text(original)

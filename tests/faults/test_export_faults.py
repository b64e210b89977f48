"""Row 3 for exports and pages: a disk that is full costs a clear error, and nothing that was there before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gta_datasets import atomic
from gta_datasets.data.spaces import SpaceCodec
from gta_datasets.errors import CacheError, DatasetError
from gta_datasets.export import write_minari
from gta_datasets.page import write_page
from tests.builders import LINEAR_ACTION_SPACE, LINEAR_OBSERVATION_SPACE, linear_dataset, linear_episodes
from tests.smoke import run_script

pytestmark = pytest.mark.usefixtures("root")

FULL = """
import resource, sys
from pathlib import Path
from tests.faults.test_export_faults import write
from gta_datasets.errors import CacheError

most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    write("full/disk-v0", episodes=400)
except CacheError as error:
    print(error)
"""


def write(dataset_id: str, episodes: int = 2) -> None:
    observations = SpaceCodec.of(LINEAR_OBSERVATION_SPACE)
    actions = SpaceCodec.of(LINEAR_ACTION_SPACE, name="action")
    parts = (linear_episodes((50,) * 20) for _ in range(episodes // 20 or 1))
    write_minari(dataset_id, parts, observation_codec=observations, action_codec=actions)


@pytest.mark.skipif(os.name == "nt", reason="no limits of file sizes")
@pytest.mark.parametrize("most", [0, 10_000, 300_000, 1_000_000])
def test_row_3_an_export_to_a_full_disk_is_an_error_and_no_crash(root: Path, most: int) -> None:
    """HDF5 2.0 kills the process where it closes a file that it could not write."""
    said = run_script(FULL, most)
    assert "cannot write" in said
    assert "main_data.hdf5" in said
    assert "bytes needed" in said
    assert "raise the limit on file sizes" in said
    assert not list(root.iterdir())


def test_a_dataset_cannot_lie_within_another(root: Path) -> None:
    linear_dataset("outer/set-v0")
    before = sorted(root.rglob("*"))
    with pytest.raises(DatasetError, match=r"'outer/set-v0/inner-v0' would lie in .* the dataset 'outer/set-v0'"):
        write("outer/set-v0/inner-v0")
    assert sorted(root.rglob("*")) == before
    write("outer/data/set-v0")  # a namespace may have any name
    write("outer/other-v0")


def test_row_3_a_page_on_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(descriptor: int, _: object) -> None:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    page = tmp_path / "page.html"
    page.write_text("the old one")
    monkeypatch.setattr(atomic, "_fill", fill)
    parts = {"sheets": [], "notes": [], "pictures": [], "settings": {}}
    with pytest.raises(CacheError, match=r"cannot write .*page\.html .*No space left on device; free some space"):
        write_page(page, title="a", summary="b", size="c", method="d", **parts)
    assert page.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_dataset_that_cannot_be_named_is_an_error_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CacheError, match=r"cannot name the dataset .*set-v0: Input/output error"):
        write("new/set-v0")
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["namespace_metadata.json"]

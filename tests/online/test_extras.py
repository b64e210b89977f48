"""A missing library is an error that names its extra; that nothing imports it before, the adapters' tests see."""

from __future__ import annotations

import sys

import pytest

from gta_datasets import online
from gta_datasets.errors import MissingExtraError


@pytest.mark.parametrize("name", online.__all__)
def test_a_missing_library_is_an_error_that_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("gta_datasets.online.", "gta_datasets.adapters.", "stable_baselines3.")
    for module in [known for known in sys.modules if known.startswith(ours)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(MissingExtraError, match=r"not installed: pip install 'gta-datasets\[sb3\]'"):
        getattr(online, name)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="DreamerReplayBuffer"):
        online.DreamerReplayBuffer  # noqa: B018

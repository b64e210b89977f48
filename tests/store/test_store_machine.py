"""The store as a state machine: whatever happens to it, it agrees with a dictionary."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gta_datasets.store import ShardStore
from tests.store.helpers import KEY, same, sample, shard_files

INDICES = st.integers(0, 3)
SEEDS = st.integers(0, 2)


class Crash(BaseException):
    """The moment at which the process would have died."""


@contextmanager
def crash_at(number: int) -> Iterator[None]:
    """Die at the given write, sync or rename, without any cleaning up."""
    count = 0

    def patched(name: str) -> Any:
        original = getattr(os, name)

        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise Crash
            return original(*arguments)

        return mock.patch.object(os, name, call)

    def keep(path: Any) -> None:
        raise OSError("a dead process removes nothing")

    with patched("write"), patched("fsync"), patched("replace"), mock.patch.object(os, "unlink", keep):
        yield


class StoreMachine(RuleBasedStateMachine):
    """`model` holds the seed of the arrays committed for each index."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.model: dict[int, int] = {}

    @initialize()
    def open(self) -> None:
        self.store = ShardStore(self.root / "cache", KEY)

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(index=INDICES, seed=SEEDS)
    def put(self, index: int, seed: int) -> None:
        self.store.put(index, sample(seed))
        self.model.setdefault(index, seed)

    @rule(index=INDICES, seed=SEEDS)
    def get_or_make(self, index: int, seed: int) -> None:
        seed = self.model.setdefault(index, seed)
        assert same(self.store.get_or_make(index, lambda: sample(seed)), sample(seed))

    @rule(index=INDICES)
    def get(self, index: int) -> None:
        found = self.store.get(index)
        if index in self.model:
            assert same(found, sample(self.model[index]))
        else:
            assert found is None

    @rule(index=INDICES, seed=SEEDS, call=st.integers(1, 9))
    def crash(self, index: int, seed: int, call: int) -> None:
        """Nine calls commit a shard: six writes, a sync, the rename (the eighth) and the sync of the folder."""
        if self.store.get(index) is not None:  # which also sets a damaged file aside, so that no call is spent on it
            return
        self.store.path.mkdir(parents=True, exist_ok=True)
        with pytest.raises(Crash), crash_at(call):
            self.store.put(index, sample(seed))
        if call > 8:
            self.model[index] = seed
        self.open()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), cut=st.booleans())
    def damage(self, data: st.DataObject, cut: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.model)))
        (path,) = self.store.path.glob(f"shard-{index:06d}.*.safetensors")
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if cut:
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.unlink()  # the file on disk goes bad; what this process has mapped stays as it is
        path.write_bytes(content)
        del self.model[index]
        self.open()

    @rule()
    def verify(self) -> None:
        damaged = set(self.store.indices()) - self.model.keys()
        assert self.store.verify() == {**dict.fromkeys(self.model, True), **dict.fromkeys(damaged, False)}
        assert self.store.indices() == sorted(self.model)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()
        assert not self.store.path.exists()

    @rule()
    def reopen(self) -> None:
        self.open()

    @invariant()
    def nothing_unknown_is_committed(self) -> None:
        if not hasattr(self, "store"):
            return
        assert set(self.model) <= set(self.store.indices())
        assert len(shard_files(self.store.path)) == len(self.store.indices())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestStoreMachine = pytest.mark.usefixtures("_quiet")(StoreMachine.TestCase)

"""Rows 8 and 35 of the fault matrix: a forked child has none of its parent's threads, and waits for none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import linear_dataset
from tests.smoke import run_script, shard_bytes, tiny

SETTINGS = {"width": 32, "windows_per_shard": 64}

# The children begin while another thread of their parent holds the lock of `seeded`, and torch's threads have worked.
FORKED = """
import json, multiprocessing, sys, threading
from pathlib import Path

import minari, torch
from gta_datasets.seeding import seeded
from tests.smoke import tiny

root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
augmented = tiny(minari.load_dataset("fork/linear-v0"), cache_dir=root, **settings)
augmented.storage.pipeline.shard(0)
torch.ones(1_000_000).exp()
assert torch.get_num_threads() == 2

def make():
    (root / "threads").write_text(str(torch.get_num_threads()))
    shard = augmented.storage.pipeline.shard(1)
    (root / "made").write_text(json.dumps({name: array.tobytes().hex() for name, array in shard.items()}))

def seed():
    with seeded(3):
        (root / "seeded").write_text(str(torch.rand(())))

held = threading.Event()

def hold():
    with seeded(4):
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
children = [multiprocessing.get_context("fork").Process(target=work) for work in (make, seed)]
for child in children:
    child.start()
for child in children:
    child.join(60)
    child.kill()
    child.join()
assert torch.get_num_threads() == 2
print(json.dumps([child.exitcode for child in children]))
"""


def test_forked_children_generate_what_their_parent_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = linear_dataset("fork/linear-v0", lengths=(20,) * 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    cache = tmp_path / "cache"
    cache.mkdir()
    assert json.loads(run_script(FORKED, cache, json.dumps(SETTINGS))) == [0, 0], "a child hung and was killed"
    assert (cache / "threads").read_text() == "1"
    made = json.loads((cache / "made").read_text())
    alone = shard_bytes(tiny(dataset, cache_dir=tmp_path / "alone", **SETTINGS), 1)
    assert made == {name: value.hex() for name, value in alone.items()}

"""An entry of a shared cache that this user may not read is an error of the library, which names it."""

from __future__ import annotations

from pathlib import Path

from gta_datasets.store import list_stores
from tests.builders import linear_dataset
from tests.smoke import run_script, tiny

STRANGER = """
import os, sys, warnings
from pathlib import Path
from gta_datasets.errors import CacheError
from gta_datasets.inventory import check, describe
from gta_datasets.store import list_stores
from tests.smoke import tiny

def denied(action):
    try:
        print("no error:", action())
    except CacheError as error:
        print(error)

def again():
    return tiny(sys.argv[1], cache_dir=sys.argv[2], alpha="auto")

again()._pipeline.source  # Minari's file is read as who wrote it
augmented = [again() for _ in range(3)]
for each in augmented:
    each._pipeline.source
    each._pipeline.model_store
stores = list_stores(sys.argv[2])
for store in stores:
    store.path.chmod(0)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
denied(lambda: augmented[0].is_fitted)
denied(augmented[1].fit)
denied(augmented[2].generate)
for store in stores:
    denied(lambda: describe(store))
    print(*check(store).damaged)
"""


def test_an_entry_that_may_not_be_read(open_folder: Path) -> None:
    dataset = linear_dataset("faults/unreadable-v0")
    tiny(dataset, cache_dir=open_folder, alpha="auto").generate()
    kinds = len(list_stores(open_folder))
    said = run_script(STRANGER, dataset.id, open_folder).splitlines()
    assert len(said) == 3 + 2 * kinds
    assert all("Permission denied" in line for line in said), said

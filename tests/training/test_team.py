"""Several processes train what one would have trained."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import minari
import pytest
import torch

from gta_datasets.diffusion.edm import Condition, denoising_loss
from gta_datasets.errors import CacheError, MissingExtraError
from gta_datasets.training.fitting import CHECKPOINT_FILE, MODEL_FILE
from gta_datasets.training.team import Team
from tests.builders import linear_dataset
from tests.smoke import tiny
from tests.training.tasks import fresh_denoiser

STEPS = 110
SETTINGS = {"training_steps": STEPS, "train_batch_size": 9, "alpha": "auto", "auto_windows": 8, "dynamics_steps": 60}
"""The batch is no multiple of the number of processes; "auto" makes them fit three things one after another."""

# What a user would launch; leaves what this process ended with in a file of its own.
SCRIPT = """
import json, os, sys
from pathlib import Path
import minari
from tests.smoke import tiny

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
augmented = tiny(minari.load_dataset("team/linear-v0"), cache_dir=folder / "cache", **settings).generate()
pipeline = augmented.storage.pipeline
ended = {"key": augmented.key, "losses": pipeline.loss_history, "levels": augmented.levels["alpha"],
         "complete": augmented.is_complete}
(folder / f"rank-{os.environ['RANK']}").write_text(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def dataset() -> minari.MinariDataset:
    return linear_dataset("team/linear-v0", terminated=(1, 3))


def launch(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What the two processes of a launch ended with."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])
    found = subprocess.run(
        [*launcher, str(script), str(folder), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return [json.loads((folder / f"rank-{rank}").read_text()) for rank in range(2)]


def interrupt(dataset: minari.MinariDataset, cache: Path) -> None:
    """Train the first few steps alone and leave a checkpoint."""
    step, steps = torch.optim.Adam.step, itertools.count()

    def some(self: torch.optim.Adam, *args: Any) -> Any:
        if next(steps) == 5:
            raise KeyboardInterrupt
        return step(self, *args)

    augmented = tiny(dataset, cache_dir=cache, checkpoint_seconds=0.0, **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", some)
        with pytest.raises(KeyboardInterrupt):
            augmented.fit()
    assert list(cache.rglob(CHECKPOINT_FILE))


def test_two_processes_learn_what_one_learns(dataset: minari.MinariDataset, tmp_path: Path) -> None:
    """They go on from where one of them stopped alone."""
    pytest.importorskip("accelerate")
    alone = tiny(dataset, cache_dir=tmp_path / "alone", **SETTINGS).generate()
    interrupt(dataset, tmp_path / "cache")
    first, second = launch(tmp_path, SETTINGS)
    assert first == second
    assert first["complete"]
    assert first["levels"] == alone.levels["alpha"]
    steps, losses = zip(*first["losses"], strict=True)
    assert list(steps) == [50, 100, STEPS]
    expected = [loss for _, loss in alone.storage.pipeline.loss_history]
    assert losses[0] == pytest.approx(expected[0], rel=1e-4)
    assert losses == pytest.approx(expected, rel=1e-3), "more than what rounding grows to in some hundred steps of Adam"
    together = tiny(dataset, cache_dir=tmp_path / "cache", **SETTINGS)
    assert together.is_complete
    assert together.key == first["key"]
    for one, other in zip(alone.generated, together.generated, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(one.observations), torch.from_numpy(other.observations), atol=0.01, rtol=0.01
        )
    names = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert MODEL_FILE in names
    assert CHECKPOINT_FILE not in names
    assert not [name for name in names if name.startswith(".")], "a lock or a temporary file was left"


@pytest.mark.parametrize("size", [2, 3])
def test_loss_and_gradient_are_the_means_over_the_processes(size: int) -> None:
    """Some windows are padded, and the batch is no multiple of the number of processes."""
    denoiser = fresh_denoiser().double()
    clean = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones_like(clean)
    mask[2, 2:] = mask[5, 1:] = 0
    clean = clean * mask
    condition = Condition(clean.mean(dim=(1, 2)), torch.ones(7).double(), torch.zeros(7, 0).double(), mask)

    def found(team: Team) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        loss = team.size * denoising_loss(team.share(denoiser, clean), clean, condition, generator)
        return [loss.detach(), *torch.autograd.grad(loss, list(denoiser.parameters()))]

    shares = [found(Team(rank, size)) for rank in range(size)]
    for alone, several in zip(found(Team()), zip(*shares, strict=True), strict=True):
        torch.testing.assert_close(sum(several) / size, alone, atol=1e-6, rtol=1e-6)


def test_the_shares_of_a_batch_add_up_to_it() -> None:
    """Every window is evaluated by one process, and elsewhere counts as denoised already."""
    clean = torch.arange(5.0)[:, None, None].expand(5, 2, 3)
    condition = _NoCondition()

    def denoise(x: torch.Tensor, sigma: torch.Tensor, condition: object) -> torch.Tensor:
        assert len(x) == len(sigma)
        return x + 1

    estimates = [Team(rank, 2).share(denoise, clean)(clean, torch.ones(5), condition) for rank in range(2)]
    assert [(estimate != clean).any(dim=(1, 2)).tolist() for estimate in estimates] == [
        [True, False, True, False, True],
        [False, True, False, True, False],
    ]
    torch.testing.assert_close(sum(estimate - clean for estimate in estimates), torch.ones_like(clean))
    assert Team().share(denoise, clean) is denoise


class _NoCondition:
    def __getitem__(self, rows: slice) -> _NoCondition:
        return self


def test_processes_must_go_on_from_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(1, 1)
    others: list[float] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(others[0]))
    others[:] = [7.0]
    Team(1, 2).check_same(7, module)
    others[:] = [0.0]
    with pytest.raises(CacheError, match=r"process 1 of 2 would go on from step 7 .* must see the same cache_dir"):
        Team(1, 2).check_same(7, module)


def test_the_launch_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Team.of_launch() == Team(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Team.of_launch() == Team(0, 1), "some schedulers set the size alone"
    monkeypatch.setenv("RANK", "3")
    assert Team.of_launch() == Team(3, 4)
    assert [Team(rank, 4).leads for rank in range(4)] == [True, False, False, False]


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for device in ("cpu", "cuda:1"):
        Team(3, 4).take_device(torch.device(device))
    Team(0, 1).take_device(torch.device("cuda"))
    assert taken == [], "there is nothing to choose"
    Team(3, 4).take_device(torch.device("cuda"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    Team(3, 4).take_device(torch.device("cuda"))
    assert taken == [1, 0]


def test_own_shares_come_first() -> None:
    assert Team(1, 3).own_first(list(range(7))) == [1, 4, 2, 5, 0, 3, 6]
    assert Team().own_first([3, 5]) == [3, 5]


def test_without_accelerate_the_extra_is_named(
    dataset: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tiny(dataset, cache_dir=tmp_path / "trained").generate()
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(MissingExtraError, match=r"several processes needs accelerate.*'gta-datasets\[distributed\]'"):
        tiny(dataset, cache_dir=tmp_path / "untrained").fit()
    again = tiny(dataset, cache_dir=tmp_path / "trained").generate()
    assert again.key == trained.key, "what is trained needs neither accelerate nor the other process"

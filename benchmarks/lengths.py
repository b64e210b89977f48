"""ATraDiff's length estimator on episodes it has not seen: transitions that are left, estimated and actual.

python -m benchmarks.lengths sim/hopper/medium-replay-v0

Every tenth episode is held out, from the first on. Writes `results/lengths/<dataset>.json` and a picture beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import minari
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks import record
from gta_datasets.augment import configured
from gta_datasets.config import ATraDiffConfig
from gta_datasets.data.reading import Source, read_episodes
from gta_datasets.models.length import LengthModel
from gta_datasets.plots.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["judge", "main"]

EVERY = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on nine episodes of ten, judge by the tenth, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    config = configured(ATraDiffConfig(), options.preset, "cpu", {}, {})
    seen, unseen = split(minari.load_dataset(options.dataset))
    model = LengthModel(seen, config.dynamics, seed=options.seed, device=torch.device("cpu"))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model.fit(Path(folder), progress=False)
    seconds = time.process_time() - started
    episodes = unseen.episodes
    actual = episodes.remaining
    estimated = model.predict(episodes.observations[episodes.transition_rows])
    found = {
        "dataset": options.dataset,
        "preset": options.preset,
        "seed": options.seed,
        "episodes": {"seen": seen.episodes.num_episodes, "unseen": episodes.num_episodes},
        "states": len(actual),
        "seconds": round(seconds, 1),
        "estimated": judge(estimated, actual, config.trajectories.lengths),
        "median_of_seen": judge(
            np.full(len(actual), np.median(seen.episodes.remaining)), actual, config.trajectories.lengths
        ),
    }
    path = record.write_record(f"lengths/{options.dataset.replace('/', '-')}", "benchmarks.lengths", found)
    picture(estimated, actual).savefig(path.with_suffix(".png"), dpi=120)
    print(path.read_text())


def split(dataset: minari.MinariDataset) -> tuple[Source, Source]:
    """Nine episodes of ten, and the others."""
    numbers = np.asarray(dataset.episode_indices)
    held = np.arange(len(numbers)) % EVERY == 0
    seen, unseen = (
        read_episodes(minari.MinariDataset(dataset.storage, episode_indices=numbers[chosen]))
        for chosen in (~held, held)
    )
    return seen, unseen


def judge(estimated: NDArray[Any], actual: NDArray[Any], lengths: Sequence[int]) -> dict[str, float | None]:
    """How well numbers of transitions (N,) are estimated, and how often the model of the right length is chosen."""
    factor = np.exp(np.abs(np.log(estimated / actual)))
    limits = np.asarray(lengths[:-1])  # what is longer than all others has the last model
    right = np.searchsorted(limits, estimated) == np.searchsorted(limits, actual)
    varies = np.ptp(estimated) > 0
    return {
        "rank_correlation": round(float(spearmanr(estimated, actual).statistic), 4) if varies else None,
        "median_factor": round(float(np.median(factor)), 4),
        "within_factor_2": round(float((factor <= 2).mean()), 4),
        "right_model": round(float(right.mean()), 4),
    }


def picture(estimated: NDArray[Any], actual: NDArray[Any]) -> Figure:
    """States by both numbers, on logarithmic axes, and where they agree."""
    figure, (axes,) = new_figure()
    edges = np.geomspace(1, max(estimated.max(), actual.max()) * 1.01, 60)
    axes.hist2d(actual, estimated, bins=[edges, edges], cmap="Blues", cmin=1)
    axes.plot(edges, edges, color="#8b9199", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="transitions left", ylabel="estimated")
    return figure


if __name__ == "__main__":
    main()

"""The augmented dataset: a Minari dataset whose generated episodes come into being when they are read."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from minari import MinariDataset
from numpy.typing import NDArray

from gta_datasets.config import MethodConfig
from gta_datasets.config.fields import whole_number
from gta_datasets.data.episodes import Episodes
from gta_datasets.export import write_minari
from gta_datasets.measuring import measure, take_sample
from gta_datasets.metrics import Quality
from gta_datasets.page import check_page
from gta_datasets.pipeline import Pipeline
from gta_datasets.plots.drawing import figure_class
from gta_datasets.progress import progress_bar
from gta_datasets.report import write_report
from gta_datasets.storage import AugmentedStorage
from gta_datasets.workers import Backend

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer
    from torchrl.data import TensorDictReplayBuffer

    from gta_datasets.adapters.d3rlpy import AugmentedReplayBuffer
    from gta_datasets.adapters.decision_transformer import SequenceDataset

__all__ = ["GTAAugmentedDataset"]

EXPORTED_METADATA = (
    "algorithm_name",
    "author",
    "author_email",
    "code_permalink",
    "env_spec",
    "eval_env_spec",
    "num_episodes_average_score",
    "ref_max_score",
    "ref_min_score",
    "requirements",
)
"""What an exported dataset keeps of its source's metadata."""


class GTAAugmentedDataset(MinariDataset):
    """A source dataset and what is generated from it, as one `minari.MinariDataset`.

    Made by `gta_datasets.augment`. Constructing it does no work; the first look at its size reads the source, and the
    first generated episode trains the model and generates a shard, unless the cache has them. Its id is that of its
    source, as with filtered datasets of Minari; `export` gives it one of its own.

    What Minari's `filter_episodes` gives is a plain `minari.MinariDataset` without the methods below. The functions
    `to_d3rlpy`, `to_sb3`, `to_decision_transformer` and `to_torchrl` of `gta_datasets.adapters` take it all the same,
    and know which of its episodes are generated.
    """

    def __init__(self, pipeline: Pipeline, *, include_source: bool = True) -> None:
        self._indices: NDArray[np.int_] | None = None
        self._include_source = include_source
        storage = AugmentedStorage(pipeline, include_source=include_source)
        super().__init__(storage, episode_indices=np.zeros(0, np.int_))
        self._indices = None
        self._pipeline = pipeline

    @property
    def storage(self) -> AugmentedStorage:
        """What Minari reads the episodes from."""
        return cast("AugmentedStorage", super().storage)

    # Minari keeps the numbers of the episodes in this attribute; here they are counted when first asked for.
    @property
    def _episode_indices(self) -> NDArray[np.int_]:
        if self._indices is None:
            self._indices = np.arange(self.storage.total_episodes)
            self._total_steps = self.storage.total_steps
        return self._indices

    @_episode_indices.setter
    def _episode_indices(self, value: NDArray[np.int_]) -> None:
        self._indices = value

    @property
    def total_steps(self) -> int:
        """Transitions in all episodes."""
        self._episode_indices  # noqa: B018 - counts them, before Minari would add up their metadata
        return super().total_steps

    @cached_property
    def source(self) -> MinariDataset:
        """The dataset that was augmented, with the episodes it had then."""
        return copy.copy(self._pipeline.dataset)

    @property
    def generated(self) -> GTAAugmentedDataset:
        """The generated episodes alone."""
        return GTAAugmentedDataset(self._pipeline, include_source=False)

    @property
    def config(self) -> MethodConfig:
        """All settings of the method."""
        return self._pipeline.config

    @property
    def key(self) -> str:
        """Name of the shards in the cache; it depends on the weights, so asking for it trains them if need be."""
        return self._pipeline.fit().key

    @property
    def path(self) -> Path:
        """Folder of the shards, named by the key: asking for it trains the weights if need be; it generates nothing."""
        return self._pipeline.fit().path

    @property
    def is_fitted(self) -> bool:
        """Whether the model is trained."""
        return self._pipeline.is_fitted

    @property
    def is_complete(self) -> bool:
        """Whether everything is generated."""
        return self._pipeline.is_complete

    @property
    def skipped(self) -> tuple[str, ...]:
        """One sentence for every source episode that nothing is generated from."""
        return self._pipeline.skipped

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the drawn trajectories that `qualify` let pass, in the shards that are there; None without any."""
        return self._pipeline.acceptance_rate

    @property
    def levels(self) -> dict[str, Any] | None:
        """What `"auto"` and `auto_steps` came to: `alpha`, `mu`, `sampler_steps`, and what was measured.

        Each of `probes` has these three, `reward` (mean per step, predicted) and `bad_share` (of windows, in [0, 1]);
        `source` has the last two for the windows as they were.
        Found when first asked for, after training if need be; None where neither was asked for.
        """
        return self._pipeline.levels

    def fit(self) -> GTAAugmentedDataset:
        """Train the model now, or finish training that was interrupted.

        Raises:
            DatasetError: the source breaks Minari's contract or does not suit the method.
            DivergenceError: training diverged.
            CacheError: the cache cannot be read or written.
        """
        self._pipeline.fit()
        return self

    def generate(self, workers: int = 1, backend: Backend = "process") -> GTAAugmentedDataset:
        """Make every missing shard now; the same bytes whatever the arguments.

        Args:
            workers: processes that generate; 1 is this one. What is not trained yet is trained in this one first. A
                process that dies costs the shard it was making. A script has to call this below
                `if __name__ == "__main__":` if it asks for more than one, because worker processes import it.
            backend: where other processes run: "process" on this machine, "ray" on the Ray cluster that this process
                is connected to, or on one started for it. All machines have to see the cache and the source dataset.

        Raises:
            ConfigError: fewer than one worker, or an unknown backend.
            MissingExtraError: Ray is not installed.
            WorkerError: workers died of the same shard again and again.
            QualificationError: too few trajectories pass `qualify`.
            DatasetError, DivergenceError, CacheError: as of `fit`.
        """
        self._pipeline.generate(workers, backend)
        return self

    def quality(self, *, sample: int = 16_384, novelty_sample: int = 1_024, seed: int = 0) -> Quality:
        """Measure generated trajectories against the source (GTA, appendix D, and the tail of the dynamics error).

        Where the environment cannot be set to a state, a learned model of the source judges rewards and dynamics, not
        the one behind `qualify` and "auto"; it is trained if there is none, and the notes of the result say so.

        Args:
            sample: transitions that are set into the simulator; only as many shards as they need are generated. Of
                trajectories of more than 128 transitions there are more in the sample if they are in the cache.
            novelty_sample: transitions whose nearest source point is searched.
            seed: of the samples.

        Returns:
            The same numbers for `generated` and for `source`, with more beside them; `print` shows a table.
            `reward` (recorded) and `oracle_reward` (of the judge) are means per step in the environment's units.
            `dynamics_mse`, `dynamics_median` and `dynamics_p99` are of the squared difference between the next state
            and the judge's, in the source's standard deviations, averaged over the state's dimensions;
            `bad_step_share` and `bad_window_share`, in [0, 1], are of steps above `threshold` and of windows with such
            a step; `wrong_terminations` is of steps that end the task in the data or for the judge, but not for both.
            `novelty` is the mean distance to the nearest point of the source, in its standard deviations. None stands
            for what could not be measured, and `notes` says why.

        Raises:
            ConfigError: a sample that is no whole number of at least 1, or a seed that is none of at least 0.
            DatasetError, DivergenceError, QualificationError, CacheError: as of `fit` and `generate`.
        """
        sample, novelty_sample = whole_number("sample", sample, 1), whole_number("novelty_sample", novelty_sample, 1)
        seed = whole_number("seed", seed, 0)
        taken = take_sample(self._pipeline, sample)
        return measure(self._pipeline, taken, sample=sample, novelty_sample=novelty_sample, seed=seed)

    def report(self, path: str | Path, *, sample: int = 16_384, seed: int = 0) -> Quality:
        """Write the quality table and its plots to one HTML file, whose folder is made; returns the numbers.

        Raises:
            ConfigError: a path that cannot be written to, a sample that is no whole number of at least 1, or a seed
                that is none of at least 0.
            MissingExtraError: matplotlib is not installed.
            DatasetError, DivergenceError, QualificationError, CacheError: as of `fit` and `generate`.
        """
        sample, seed = whole_number("sample", sample, 1), whole_number("seed", seed, 0)
        figure_class()  # training and generating may take long
        page = check_page(path)
        taken = take_sample(self._pipeline, sample)
        found = measure(self._pipeline, taken, sample=sample, novelty_sample=1_024, seed=seed)
        write_report(
            page,
            found,
            taken.generated,
            self._pipeline.source.episodes,
            title=f"{self.id}, augmented",
            config=self.config.to_dict(),
            loss_history=self._pipeline.loss_history,
        )
        return found

    def to_d3rlpy(self, **options: Any) -> AugmentedReplayBuffer:
        """A d3rlpy replay buffer for any algorithm's `fit()`.

        Args:
            **options: those of `gta_datasets.adapters.to_d3rlpy`: `real_fraction`, `weights`, `return_to_go`,
                `tuple_observation`, `seed`. Its errors are raised.
        """
        from gta_datasets.adapters.d3rlpy import to_d3rlpy

        return to_d3rlpy(self, **options)

    def to_sb3(self, env: Any = None, **options: Any) -> ReplayBuffer:
        """A Stable-Baselines3 replay buffer that draws from all transitions of this dataset.

        They stay in the dataset's own arrays; those of the buffer are empty until something is added online.

        Args:
            env: where the model goes on online; None for one environment with the dataset's spaces.
            **options: those of `gta_datasets.adapters.to_sb3`: `real_fraction`, `weights`, `online_fraction`, `seed`,
                `buffer_size`, `device`, `copy`. Its errors are raised.
        """
        from gta_datasets.adapters.sb3 import to_sb3

        return to_sb3(self, env, **options)

    def to_decision_transformer(self, context_length: int = 20, **options: Any) -> SequenceDataset:
        """A torch dataset of context windows.

        Args:
            context_length: steps in a window.
            **options: those of `gta_datasets.adapters.to_decision_transformer`: `return_to_go`, `return_scale`,
                `normalize`. Its errors are raised.
        """
        from gta_datasets.adapters.decision_transformer import to_decision_transformer

        return to_decision_transformer(self, context_length, **options)

    def to_torchrl(self, **options: Any) -> TensorDictReplayBuffer:
        """A TorchRL replay buffer on memory-mapped data.

        Args:
            **options: those of `gta_datasets.adapters.to_torchrl`: `batch_size`, `real_fraction`, `weights`, `seed`,
                `device`. Its errors are raised.
        """
        from gta_datasets.adapters.torchrl import to_torchrl

        return to_torchrl(self, **options)

    def export(self, dataset_id: str) -> MinariDataset:
        """Write all episodes as an ordinary Minari dataset that needs this library no longer.

        Source episodes that were left out as invalid are not in it, and of the others one that was cut without a flag
        ends in a truncation, one that is both terminated and truncated in a termination. Of the metadata of episodes
        only ids and lengths are kept: an export does not tell which episodes were generated. They come after the
        source's; `augmented.generated.export` writes them alone.

        Args:
            dataset_id: its name, such as "hopper/medium-gta-v0".

        Raises:
            DatasetError: the name is taken, or the source has infos that are not numbers.
            UntrustedDatasetError: the name is malformed.
            DatasetError, DivergenceError, QualificationError, CacheError: as of `fit` and `generate`.
        """
        pipeline = self._pipeline
        source = pipeline.source
        metadata = self.storage.metadata
        kept = {name: metadata[name] for name in EXPORTED_METADATA if metadata.get(name) is not None}
        kept["description"] = f"{self.id}, augmented by the method {self.config.method!r} of gta-datasets"
        kept["gta_datasets"] = pipeline.description
        return write_minari(
            dataset_id,
            self._parts(),
            observation_codec=source.observation_codec,
            action_codec=source.action_codec,
            metadata=kept,
            infos=self._infos(),
        )

    def _parts(self) -> Iterator[Episodes]:
        if self._include_source:
            yield self._pipeline.source.episodes
        pipeline = self._pipeline
        pipeline.generate()
        with progress_bar(pipeline.plan.num_shards, "exporting", "shard", shown=pipeline.progress) as bar:
            for part in pipeline.generated():
                yield part
                bar.update()

    def _infos(self) -> Iterator[dict[str, Any]]:
        """Infos of every episode of `_parts`; generated ones have none."""
        if self._include_source:
            ids = self._pipeline.source.episode_ids
            yield from (found["infos"] or {} for found in self.source.storage.get_episodes(ids))
        yield from itertools.repeat({}, len(self._pipeline.plan.lengths))

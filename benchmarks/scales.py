"""How much is spent on the tables: sizes of trainings, of what is generated, and of what is judged."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True)
class Scale:
    """How much is spent on every unit."""

    name: str
    updates: int
    transformer_updates: int  # of Decision Transformer
    transformer_batch_size: int  # windows
    every: int  # updates between two evaluations
    transformer_every: int  # of Decision Transformer
    batch_size: int
    seeds: int
    episodes: int  # of an evaluation; some tasks take a multiple
    preset: str
    num_transitions: int  # generated
    tuned: bool  # GTA's settings by kind of task for locomotion too, instead of the library's defaults
    quality_preset: str
    quality_transitions: int  # generated
    quality_sample: int  # transitions set into the simulator
    quality_novelty_sample: int  # transitions whose nearest recorded one is sought
    source_steps: int  # transitions of a dataset that is made for it, if the paper's has as many
    least_source_steps: int  # fewer are not taken, unless the paper's has no more


SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="smoke",
            updates=4,
            transformer_updates=4,
            transformer_batch_size=64,
            every=2,
            transformer_every=1,
            batch_size=8,
            seeds=1,
            episodes=1,
            preset="smoke",
            num_transitions=50,
            tuned=False,
            quality_preset="smoke",
            quality_transitions=50,
            quality_sample=50,
            quality_novelty_sample=50,
            source_steps=200_000,
            least_source_steps=0,
        ),
        Scale(
            name="cpu",
            updates=300_000,
            transformer_updates=10_000,
            transformer_batch_size=64,
            every=30_000,
            transformer_every=2_500,
            batch_size=256,
            seeds=3,
            episodes=10,
            preset="cpu",
            num_transitions=200_000,
            tuned=False,
            quality_preset="demo",
            quality_transitions=20_000,
            quality_sample=16_384,
            quality_novelty_sample=4_096,
            source_steps=200_000,
            least_source_steps=50_000,
        ),
        Scale(
            name="gpu",
            updates=1_000_000,
            transformer_updates=100_000,
            transformer_batch_size=64,
            every=50_000,
            transformer_every=10_000,
            batch_size=256,
            seeds=5,
            episodes=10,
            preset="fast",
            num_transitions=1_000_000,
            tuned=False,
            quality_preset="fast",
            quality_transitions=1_000_000,
            quality_sample=100_000,
            quality_novelty_sample=4_096,
            source_steps=1_000_000,
            least_source_steps=500_000,
        ),
        Scale(
            name="paper",
            updates=1_000_000,
            transformer_updates=100_000,
            transformer_batch_size=1_024,
            every=50_000,
            transformer_every=10_000,
            batch_size=1_024,
            seeds=8,
            episodes=10,
            preset="paper",
            num_transitions=5_000_000,
            tuned=True,
            quality_preset="paper",
            quality_transitions=5_000_000,
            quality_sample=1_000_000,
            quality_novelty_sample=1_000_000,
            source_steps=2_000_000,
            least_source_steps=500_000,
        ),
    )
}

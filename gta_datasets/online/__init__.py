"""Augmentation while an agent learns: ATraDiff (Yang and Wang 2024, arXiv 2406.04323) for Stable-Baselines3.

buffer = gta_datasets.online.ATraDiffReplayBuffer.from_dataset(dataset, env, rho=0.5)
model = SAC("MlpPolicy", env)
model.learn(50_000, callback=buffer.callback())

Stable-Baselines3 is imported when one of these names is used; without it they raise MissingExtraError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gta_datasets.lazy import names_of

if TYPE_CHECKING:
    from gta_datasets.online.buffer import ATraDiffReplayBuffer
    from gta_datasets.online.callback import ATraDiffCallback

__all__ = ["ATraDiffCallback", "ATraDiffReplayBuffer"]

__getattr__ = names_of(__name__, {"ATraDiffCallback": "callback", "ATraDiffReplayBuffer": "buffer"})

"""Views on an augmented dataset for the libraries that train on it, one module per library.

Installed as `gta_datasets.adapters`. An adapter reads the dataset's own arrays, imports its target library only when it
is asked for, and names the extra to install when that library is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gta_datasets.adapters.mixing import linear_schedule
from gta_datasets.lazy import names_of

if TYPE_CHECKING:
    from gta_datasets.adapters.d3rlpy import to_d3rlpy
    from gta_datasets.adapters.decision_transformer import to_decision_transformer
    from gta_datasets.adapters.sb3 import pretrain, to_sb3
    from gta_datasets.adapters.torchrl import to_tensordict, to_torchrl

__all__ = [
    "linear_schedule",
    "pretrain",
    "to_d3rlpy",
    "to_decision_transformer",
    "to_sb3",
    "to_tensordict",
    "to_torchrl",
]

__getattr__ = names_of(
    __name__,
    {
        "pretrain": "sb3",
        "to_d3rlpy": "d3rlpy",
        "to_decision_transformer": "decision_transformer",
        "to_sb3": "sb3",
        "to_tensordict": "torchrl",
        "to_torchrl": "torchrl",
    },
)

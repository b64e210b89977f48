"""Policies that are generative models of actions, as algorithms of d3rlpy; they read datasets and make none.

d3rlpy is imported when one of the names is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gta_datasets.lazy import names_of

if TYPE_CHECKING:
    from gta_datasets.policies.config import GTPBCConfig, GTPConfig
    from gta_datasets.policies.files import load_policy, save_policy
    from gta_datasets.policies.gtp import GTP, GTPBC

__all__ = ["GTP", "GTPBC", "GTPBCConfig", "GTPConfig", "load_policy", "save_policy"]

__getattr__ = names_of(
    __name__,
    {
        "GTP": "gtp",
        "GTPBC": "gtp",
        "GTPBCConfig": "config",
        "GTPConfig": "config",
        "load_policy": "files",
        "save_policy": "files",
    },
)

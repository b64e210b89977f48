"""Many runs of an offline algorithm at once: what the tables need, and d3rlpy's one run at a time cannot give.

d3rlpy is what users take, and has every algorithm; these updates are checked against its own.
"""

from benchmarks.vectorised.iql import IQL
from benchmarks.vectorised.learner import Learner
from benchmarks.vectorised.td3_bc import TD3BC

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, type[Learner]] = {"td3_bc": TD3BC, "iql": IQL}

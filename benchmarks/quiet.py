"""d3rlpy without banners, progress bars and logs, and without what it sets for all of torch."""

from __future__ import annotations

import warnings
from typing import Any

import torch

__all__ = ["fit", "import_d3rlpy"]


def import_d3rlpy() -> Any:
    """d3rlpy without what it says on import and in every constructor.

    On a GPU its import has torch round float32 products to TF32, and compile autograd. Both are taken back: results
    must not depend on who imported it first.
    """
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import d3rlpy
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("highest")
        torch._dynamo.config.compiled_autograd = False
    return d3rlpy


def fit(algorithm: Any, buffer: Any, updates: int, *, epoch: int | None = None, **more: Any) -> Any:
    """d3rlpy's `fit` by so many updates, in one epoch if nothing else is said; what it returns."""
    return algorithm.fit(
        buffer,
        n_steps=updates,
        n_steps_per_epoch=epoch or updates,
        show_progress=False,
        logger_adapter=import_d3rlpy().logging.NoopAdapterFactory(),
        **more,
    )

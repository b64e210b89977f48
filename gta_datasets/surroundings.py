"""What is made does not depend on how its reader has set torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["plain_torch"]


@contextmanager
def plain_torch() -> Iterator[None]:
    """Torch as it is when it is imported: gradients, no autocast, float32, the CPU, products in full precision.

    The first read of a dataset trains and generates, and keeps what comes out for everybody; it may happen in
    somebody's `no_grad`, or in a program with other defaults. The default type and the precision of products are those
    of the whole process: where they differ, other threads see torch's own meanwhile.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if (precision := _precision()) != "highest":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        yield


def _precision() -> str:
    """Of matrix products; what was set by `torch.backends` alone cannot be read here, and stays."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"

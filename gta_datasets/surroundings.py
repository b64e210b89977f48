"""What is made does not depend on how its reader has set torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["plain_torch"]


@contextmanager
def plain_torch() -> Iterator[None]:
    """Torch as it is when it is imported: gradients, no autocast, float32, the CPU, matrix products in full precision.

    The first read of a dataset trains and generates, and keeps what comes out for everybody; it may happen in
    somebody's `no_grad`, or in a program with other defaults. The default type and the precision of products are those
    of the whole process: until the last thread is through, all others see torch's own.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_PROCESS)
        yield


class _Process:
    """The settings of the process: the first to enter takes torch's own, the last to leave gives back what was."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._dtype, self._precision = torch.float32, "highest"
        self._products: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._dtype, self._precision = torch.get_default_dtype(), _precision()
            kinds: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
            self._products = [(kind, kind.fp32_precision) for kind in kinds if hasattr(kind, "fp32_precision")]
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside > 0:
                return
            torch.set_default_dtype(self._dtype)
            if self._precision:
                torch.set_float32_matmul_precision(self._precision)
            for kind, precision in self._products:  # which the line above sets, too, and not as they were
                kind.fp32_precision = precision


def _precision() -> str:
    """Of matrix products; empty where torch's newer settings have none of the older names."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return ""


_PROCESS = _Process()

"""An imitation of a GPU, for machines without one: `python -m pytest -p tests.imitation.gpu -m gpu`.

Its tensors say that they are on cuda:0 and compute on the CPU. What a GPU refuses it refuses: operands on different
devices, generators of another device, arrays of tensors that are not on the CPU; while a graph is captured, whatever
waits or copies from memory that is not pinned. Where `torch.cuda.set_sync_debug_mode("error")` holds, waiting is an
error. Captured graphs compute nothing until they are replayed, and then on the memory that they were captured with.

What it cannot say: how fast anything is, how kernels round, how much memory there is, and whether torch.compile works.

This must be imported before torch, as a plugin of pytest is, and needs a torch without CUDA and a C++ compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

SOURCE = Path(__file__).with_name("device.cpp")


def _device_library() -> Path:
    """The compiled `device.cpp`, made at the first use and kept in the repository's folder of built things."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    torch_folder = Path(str(found.origin)).parent
    name = hashlib.sha256(SOURCE.read_bytes() + (torch_folder / "version.py").read_bytes()).hexdigest()[:16]
    library = SOURCE.parents[2] / "build" / f"imitated-gpu-{name}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        headers = torch_folder / "include"
        includes = [f"-I{headers}", f"-I{headers / 'torch' / 'csrc' / 'api' / 'include'}"]
        libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder / 'lib'}"]
        command = ["g++", "-std=c++20", "-shared", "-fPIC", str(SOURCE), "-o", str(made), *includes, *libraries]
        subprocess.run(command, check=True)
        made.replace(library)
    return library


ctypes.CDLL(str(_device_library()), mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402 - asks once, when it is imported, whether there is a GPU
import torch._dynamo  # noqa: E402 - looks at the classes that are replaced here
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
MAKING = (torch.tensor, torch.as_tensor)


class ImitatedTensor(torch.Tensor):
    """A tensor on the imitated GPU; `memory` holds its values."""

    memory: torch.Tensor

    @staticmethod
    def __new__(cls, memory: torch.Tensor) -> ImitatedTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            memory.shape,
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            device="cuda:0",
        )

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory

    def __repr__(self, **_: Any) -> str:
        return f"ImitatedTensor({self.memory})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Capture:
    """Records what is computed, for `torch.cuda.graph`."""

    current: ClassVar[_Capture | None] = None

    def __init__(self, graph: _Graph) -> None:
        self.tape = graph.tape
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __enter__(self) -> None:
        _Capture.current = self

    def __exit__(self, *_: object) -> None:
        _Capture.current = None
        for tensor, copy in self._before.values():
            tensor.copy_(copy)  # nothing is computed yet

    def keep(self, tensor: torch.Tensor) -> None:
        self._before.setdefault(id(tensor), (tensor, tensor.clone()))


class _Graph:
    def __init__(self) -> None:
        self.tape: list[Callable[[], None]] = []

    def replay(self) -> None:
        for compute_again in self.tape:
            compute_again()


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """What `func` gives, on the GPU if an operand is there or it was asked for."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, ImitatedTensor)]
    asked = kwargs.get("device")
    ours = bool(here) if asked is None else _is_gpu(asked)
    if func is aten.copy_.default:
        ours = isinstance(args[0], ImitatedTensor)
    if func in COPIES:
        _check_copy(func, args, kwargs, to_gpu=ours)
    elif here:
        _check_operands(func, args, tensors)

    written = [number for number, arg in enumerate(func._schema.arguments) if _is_written(arg)]
    inner_args, inner_kwargs = tree_map(_memory_of, (args, kwargs))
    if ours and asked is not None:
        inner_kwargs["device"] = torch.device("cpu")
    outside = _written_tensors(func, written, inner_args, inner_kwargs)
    capture = _Capture.current
    if capture is not None:
        for tensor in outside:
            capture.keep(tensor)
    if func is aten._to_copy.default:  # which returns what it is given where it believes nothing changes
        result = inner_args[0].to(inner_kwargs.get("dtype") or inner_args[0].dtype, copy=True)
    else:
        result = func(*inner_args, **inner_kwargs)
    if capture is not None:
        capture.tape.append(_again(func, inner_args, inner_kwargs, None if written else result))
    if func is aten._local_scalar_dense.default or not ours:
        return result
    known = {id(tensor.memory): tensor for tensor in here} if written else {}
    return tree_map(lambda leaf: _wrap(leaf, known), result)


def _again(func: Any, args: Any, kwargs: Any, result: Any) -> Callable[[], None]:
    def compute() -> None:
        for before, after in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=False):
            if isinstance(before, torch.Tensor) and before.data_ptr() != after.data_ptr():
                before.copy_(after)

    return compute


def _check_copy(func: Any, args: Any, kwargs: Any, *, to_gpu: bool) -> None:
    source = args[1] if func is aten.copy_.default else args[0]
    pinned = getattr(source, "is_imitated_pinned", False) and kwargs.get("non_blocking")
    if isinstance(source, ImitatedTensor) != to_gpu and not (to_gpu and pinned):
        _check_waiting(f"a copy from {source.device} ({func})")


def _check_operands(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    if func in WAITING or (func in INDEXING and any(_is_mask(index) for index in args[1])):
        _check_waiting(str(func))
    for tensor in tensors:
        numbers = func in INDEXING and tensor is not args[0]  # indices on the CPU are copied
        if not isinstance(tensor, ImitatedTensor) and tensor.dim() and not numbers:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({func})")
        if not isinstance(tensor, ImitatedTensor) and tensor.dim() and numbers:
            _check_waiting(f"an index on the CPU ({func})")


def _check_waiting(what: str) -> None:
    if _Capture.current is not None:
        raise RuntimeError(f"{what} is not permitted while a graph is captured")
    if _Cuda.sync_debug_mode == "error":
        raise RuntimeError(f"called a synchronizing CUDA operation: {what}")


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _written_tensors(func: Any, written: list[int], args: Any, kwargs: Any) -> list[torch.Tensor]:
    names = [argument.name for argument in func._schema.arguments]
    values = [args[number] if number < len(args) else kwargs.get(names[number]) for number in written]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _memory_of(leaf: Any) -> Any:
    return leaf.memory if isinstance(leaf, ImitatedTensor) else leaf


def _wrap(leaf: Any, known: dict[int, ImitatedTensor]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else ImitatedTensor(leaf)


class _Dispatch(TorchDispatchMode):
    """Sends what names the GPU to `_compute`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if _is_gpu(asked):
            return _compute(func, args, kwargs)
        if any(isinstance(leaf, ImitatedTensor) for leaf in tree_leaves((args, kwargs))):
            return _compute(func, args, kwargs)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What happens before torch dispatches: tensors of Python's numbers, conversions, generators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        if isinstance(first, ImitatedTensor):
            if func is torch.Tensor.new_tensor:
                return torch.tensor(*args[1:], **{"dtype": first.dtype, **kwargs, "device": "cpu"}).to(asked or "cuda")
            if func is torch.Tensor.tolist:
                return first.cpu().tolist()
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.pin_memory:
            assert first is not None
            pinned = first.clone()
            pinned.is_imitated_pinned = True  # type: ignore[attr-defined]
            return pinned
        if func in MAKING and _is_gpu(asked):
            return func(*args, **{**kwargs, "device": "cpu"}).to("cuda")
        generator = kwargs.get("generator")
        if generator is not None:
            place = torch.device(asked) if asked is not None else torch.device("cpu") if first is None else first.device
            if place.type != ("cuda" if id(generator) in _GeneratorKind.ours else "cpu"):
                raise RuntimeError(f"the generator of {func} is not on {place}")
        return func(*args, **kwargs)


class _GeneratorKind(type):
    """`torch.Generator` also on the GPU."""

    real: ClassVar[Any] = torch.Generator
    ours: ClassVar[dict[int, torch.Generator]] = {}

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        made: torch.Generator = _GeneratorKind.real("cpu")
        if _is_gpu(device):
            _GeneratorKind.ours[id(made)] = made  # kept, so that no other one gets its number
        return made

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _GeneratorKind.real)


class _Generator(metaclass=_GeneratorKind):
    pass


class _Stream:
    def __init__(self, _device: object = None) -> None:
        pass

    def wait_stream(self, _other: _Stream) -> None:
        pass


class _Cuda:
    """What replaces functions of `torch.cuda`."""

    sync_debug_mode: ClassVar[str] = "default"
    generator: ClassVar[torch.Generator] = _Generator("cuda")

    @staticmethod
    def set_sync_debug_mode(mode: str) -> None:
        _Cuda.sync_debug_mode = mode

    @staticmethod
    def install() -> None:
        replaced: dict[str, Any] = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "is_bf16_supported": lambda: True,
            "get_device_name": lambda _device=None: "imitated",
            "_lazy_init": lambda: None,
            "set_device": lambda _device: None,
            "device": lambda _device: nullcontext(),
            "synchronize": lambda _device=None: None,
            "Stream": _Stream,
            "current_stream": _Stream,
            "stream": lambda _stream: nullcontext(),
            "CUDAGraph": _Graph,
            "graph": _Capture,
            "manual_seed": _Cuda.generator.manual_seed,
            "get_rng_state": lambda _device=None: _Cuda.generator.get_state(),
            "set_rng_state": lambda state, _device=None: _Cuda.generator.set_state(state),
            "set_sync_debug_mode": _Cuda.set_sync_debug_mode,
        }
        for name, replacement in replaced.items():
            setattr(torch.cuda, name, replacement)


def _run_with_modes(self: threading.Thread, run: Callable[[threading.Thread], None] = threading.Thread.run) -> None:
    with _Dispatch(), _Functions():
        run(self)


torch.__future__.set_swap_module_params_on_conversion(True)  # a module's parameters become other objects on the GPU
torch.Generator = _Generator  # type: ignore[misc, assignment]
threading.Thread.run = _run_with_modes  # type: ignore[method-assign]  # modes hold for one thread
_Cuda.install()
_Dispatch().__enter__()
_Functions().__enter__()

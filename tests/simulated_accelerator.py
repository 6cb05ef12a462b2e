"""A simulated accelerator: device "sim", whose tensors hold CPU tensors inside.

It finds without a GPU what makes code fail or wait on one: operations that mix devices raise as
CUDA's do, and host synchronisations and kernel launches are counted. It knows nothing of a GPU's
rounding or speed. Built on torch's experimental Python backend for PrivateUse1.

    with simulated_accelerator() as accelerator:
        psi.to(accelerator.device).log_psi(configs.to(accelerator.device))
    print(accelerator.launches.total(), accelerator.waits)

One 0-dimensional CPU tensor counts as a number, as on CUDA. Stricter than CUDA: a CPU tensor as an
index of a device's tensor is refused, since it would be copied at every call.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "sim"
COPIES = {"_to_copy", "copy_"}
"""The operations that may see two devices."""
QUESTIONS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    *("linalg_eigh", "_linalg_eigh", "linalg_cholesky", "linalg_inv"),
}
"""Operations whose result, or its shape, the host waits for."""
INDEXINGS = {"index", "index_put", "index_put_", "_index_put_impl_"}
WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "_reshape_alias", "detach", "lift_fresh"),
}
"""Allocations, and views that torch does not call such."""


@dataclass
class Accelerator:
    """What happened on the device since it was made, or since `reset`.

    Attributes:
        launches: operations that would start a kernel, by name; views and allocations do not.
        waits: (operation, line of the project) where the host waits for the device.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)

    def reset(self) -> None:
        self.launches.clear()
        self.waits.clear()

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation, on the CPU tensors inside; its results are the device's where they
        should be."""
        name = func.__name__.split(".")[0]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        own = [x for x in tensors if isinstance(x, SimulatedTensor)]
        if len(own) < len(tensors) and own and name not in COPIES:
            _check_devices(name, tensors)
        here = bool(own)
        if kwargs.get("device") is not None:
            here = torch.device(kwargs["device"]).type == NAME
            kwargs = {**kwargs, "device": torch.device("cpu")}
        elif name == "copy_":
            here = isinstance(args[0], SimulatedTensor)
        if own and (not here or _asks(name, args, kwargs)):
            self.waits[name, _project_line()] += 1
        if here and not (func.is_view or name in WITHOUT_KERNEL):
            self.launches[name] += 1
        result = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if not here:
            return result
        known = {id(x.inner): x for x in own}  # written in place: the same tensor comes back
        return tree_map(lambda x: _wrapped(x, known), result)


def _asks(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the host must wait for an answer."""
    if name in INDEXINGS:  # a mask is searched for its True entries first
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in QUESTIONS


def _check_devices(name: str, tensors: list[Tensor]) -> None:
    shapes = [tuple(x.shape) for x in tensors if not isinstance(x, SimulatedTensor) and x.dim()]
    if shapes:
        raise RuntimeError(
            f"aten::{name} got tensors on {NAME}:0 and, of shape {shapes[0]}, on the CPU"
        )


def _inside(x: Any) -> Any:
    return x.inner if isinstance(x, SimulatedTensor) else x


def _wrapped(x: Any, known: dict[int, SimulatedTensor]) -> Any:
    if not isinstance(x, Tensor):
        return x
    return known[id(x)] if id(x) in known else SimulatedTensor(x)


def _project_line() -> str:
    for frame in reversed(traceback.extract_stack()):
        for package in ("/nqs/", "/hamiltonians/"):
            if package in frame.filename and "site-packages" not in frame.filename:
                path = frame.filename.split(package)[-1]
                return f"{package[1:]}{path}:{frame.lineno} {frame.line}"
    return "outside the project"


_current: list[Accelerator] = []


class SimulatedTensor(Tensor):
    """A tensor on the simulated device; `inner` is its content."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SimulatedTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _current[-1].call(func, args, kwargs or {})

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **more: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, **more).to(NAME)


class _Factories(TorchDispatchMode):
    """Operations without a tensor to dispatch on, such as torch.zeros(3, device="sim")."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and importing the compiler takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, SimulatedTensor)]
        device = kwargs.get("device")
        if tensors or (device is not None and torch.device(device).type == NAME):
            return _current[-1].call(func, args, kwargs)
        return func(*args, **kwargs)


class _Literals(TorchFunctionMode):
    """torch.tensor and torch.as_tensor with device="sim": made on the CPU, then copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        literal = func in (torch.tensor, torch.as_tensor)
        if literal and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Module(backend_registration._DummyBackendModule):
    """What torch.sim must answer."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_registered: list[_Module] = []


def _register() -> None:
    """Once a process; skips the test where torch has no devices written in Python."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} has no Python backends")
    if not _registered:
        _registered.append(_Module())
        backend_registration._setup_privateuseone_for_python_backend(
            NAME, backend_module=_registered[0]
        )


class _GeneratorKind(type):
    def __call__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        return _TorchGenerator("cpu" if torch.device(device).type == NAME else device)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _TorchGenerator)


_TorchGenerator = torch.Generator


class _Generator(metaclass=_GeneratorKind):
    """torch.Generator, but that random numbers of the device are drawn on the CPU."""


@contextlib.contextmanager
def simulated_accelerator() -> Iterator[Accelerator]:
    """The device, for as long as the block lasts; its tensors are of no use afterwards.

    Backward passes run on the calling thread: a thread of the device's own would share the
    interpreter's lock with it, and they can block each other.
    """
    _register()
    accelerator = Accelerator()
    _current.append(accelerator)
    try:
        with (
            _Factories(),
            _Literals(),
            mock.patch.object(torch, "Generator", _Generator),
            torch.autograd.set_multithreading_enabled(False),
        ):
            yield accelerator
    finally:
        _current.pop()

"""NumPy arrays and tensors: one kind in, the same kind out; with checks of shapes and of maps, in words.

A function computes in tensors or in arrays. :func:`in_tensors` lets one of the first kind take arrays too, and then return
arrays; :func:`in_arrays` is the reverse. Lists, tuples, dataclasses and ``functools.partial`` are looked into. Arguments of
both kinds together are an error: a silent copy from a device, or to it, is a wait that nobody asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from detect.ops.boxes import to_device

Array = np.ndarray | Tensor
if TYPE_CHECKING:
    AnyArray = Any  # a column that has the kind of its function's arguments
else:
    AnyArray = Array

ONES = {"uint8": "255, or by ", "uint16": "65535, or by "}  # what stands for 1 in maps stored as images
P = ParamSpec("P")
R = TypeVar("R")


def in_tensors(function: Callable[P, R]) -> Callable[..., R]:
    """Let a function that computes in tensors take NumPy arrays too, and then return arrays.

    Arrays share their memory with the tensors, unless they are read-only.

    >>> @in_tensors
    ... def double(maps):
    ...     return maps.mul(2)
    >>> double(np.array([1.5])), double(torch.tensor([1.5]))
    (array([3.]), tensor([3.]))
    """

    @functools.wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # a graph has tensors alone
            return function(*args, **kwargs)
        if not isinstance(_only_kind(function, args, kwargs), ndarray):
            return function(*args, **kwargs)
        found = function(*_converted(args, _to_tensor), **_converted(kwargs, _to_tensor))
        return _converted(found, to_numpy)

    return either


def in_arrays(function: Callable[P, R]) -> Callable[..., R]:
    """Let a function that computes in NumPy arrays take tensors too, and then return tensors on their device.

    >>> @in_arrays
    ... def double(points):
    ...     return np.multiply(points, 2)
    >>> double(np.array([1.5])), double([torch.tensor([1.5])])
    (array([3.]), tensor([[3.]]))
    """

    @functools.wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        reference = _only_kind(function, args, kwargs)
        if not isinstance(reference, Tensor):
            return function(*args, **kwargs)
        found = function(*_converted(args, to_numpy), **_converted(kwargs, to_numpy))
        return _converted(found, lambda values: like(values, reference))

    return either


def to_numpy(values: object) -> ndarray:
    """Convert an array-like or a tensor to NumPy; a tensor on the CPU shares its memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def like(values: ndarray, reference: Array) -> Any:
    """Convert an array to the kind of the reference: NumPy, or a tensor on its device."""
    return to_device(_to_tensor(values), reference.device) if isinstance(reference, Tensor) else values


def check_kinds(**named: Any) -> None:
    """Raise ValueError if some of the arguments are NumPy arrays and others tensors; numbers and None are neither.

    >>> check_kinds(points=[np.zeros(2)], sigma=torch.ones(2))
    Traceback (most recent call last):
    ValueError: points has NumPy arrays and sigma has tensors: give one kind; torch.from_numpy and .numpy() convert
    """
    kinds: dict[type, str] = {}
    for name, value in named.items():
        for each in _arrays_in(value):
            kinds.setdefault(Tensor if isinstance(each, Tensor) else ndarray, name)
    if len(kinds) > 1:
        arrays, tensors = kinds[ndarray], kinds[Tensor]
        raise ValueError(
            f"{arrays} has NumPy arrays and {tensors} has tensors: give one kind; torch.from_numpy and .numpy() convert"
        )


def check_maps(**maps: Array | None) -> None:
    """Raise ValueError for maps of integers, whose values would be taken for certainties, or cut to 0 and 1.

    >>> check_maps(targets=np.zeros((1, 1, 2, 2), np.uint8))
    Traceback (most recent call last):
    ValueError: targets are floats, got uint8: divide them by 255, or by the value that stands for 1
    """
    for name, values in maps.items():
        if values is None:
            continue
        if not isinstance(values, ndarray | Tensor):
            raise ValueError(f"{name} are an array or a tensor, got {type(values).__name__}")
        is_float = values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"
        if not is_float:
            dtype = str(values.dtype).removeprefix("torch.")
            ways = f"divide them by {ONES.get(dtype, '')}the value that stands for 1"
            raise ValueError(f"{name} are floats, got {dtype}: {'convert them' if dtype == 'bool' else ways}")


def check_shape(what: str, values: Array, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless the values have one of the shapes: others would broadcast, or be cut, without a word.

    >>> check_shape("one score for each point,", np.zeros(3), (2,))
    Traceback (most recent call last):
    ValueError: need one score for each point, (2,), got (3,)
    """
    if tuple(values.shape) not in shapes:
        wanted = " or ".join(dict.fromkeys(str(tuple(shape)) for shape in shapes))
        raise ValueError(f"need {what} {wanted}, got {tuple(values.shape)}")


def of_axes(what: str, given: Any, num_axes: int) -> ndarray:
    """Positive numbers for the axes x, y[, z] from one number, or from one for each of them.

    >>> of_axes("sigma", 2.0, 2), of_axes("sigma", (1.0, 3.0), 2)
    (array([2., 2.]), array([1., 3.]))
    """
    values = np.asarray(to_numpy(given), np.float64)
    if values.shape not in {(), (1,), (num_axes,)} or not ((values > 0) & (values < np.inf)).all():
        raise ValueError(f"need one positive {what}, or one for each of {num_axes} axes, got {given}")
    return np.broadcast_to(values, (num_axes,)).copy()


def _only_kind(function: Callable[..., Any], args: Any, kwargs: Any) -> Array | None:
    """The first array or tensor among the arguments, which must be of one kind; None without any."""
    every = list(_arrays_in([*args, *kwargs.values()]))
    if len({isinstance(each, Tensor) for each in every}) > 1:
        check_kinds(**signature(function).bind(*args, **kwargs).arguments)
    return every[0] if every else None


def _arrays_in(value: Any) -> Iterator[Array]:
    if isinstance(value, ndarray | Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _arrays_in(each)
    elif isinstance(value, functools.partial):
        yield from _arrays_in([*value.args, *value.keywords.values()])
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _arrays_in([getattr(value, field.name) for field in fields(value)])


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """A value with each array or tensor in it converted."""
    if isinstance(value, ndarray | Tensor):
        return convert(value)
    if isinstance(value, dict):
        return {name: _converted(each, convert) for name, each in value.items()}
    if isinstance(value, list | tuple):
        parts = [_converted(each, convert) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, functools.partial):
        return functools.partial(value.func, *_converted(value.args, convert), **_converted(value.keywords, convert))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _converted(getattr(value, field.name), convert) for field in fields(value)}
        )
    return value


def _to_tensor(values: Any) -> Tensor:
    """A tensor that shares the memory of an array, if torch can: not if it is read-only, reversed or of foreign bytes."""
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biufc" or values.dtype.char in "gG":  # long doubles
        raise ValueError(f"need arrays of numbers, got {values.dtype}")
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())

"""Functions that ``torch.compile`` runs as they are, without loading torch's compiler for everyone else.

``torch.compiler.disable`` imports the compiler, which takes longer than torch itself: half of the three seconds of CPU time
in which the criterion of a head was imported. Most programs compile nothing. Here the compiler is asked only once it is
loaded, as it is before anything can be compiled.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

COMPILER = "torch._dynamo"


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let ``torch.compile`` run a function, and all that it calls, as it is: see :func:`torch.compiler.disable`.

    >>> @uncompiled
    ... def double(number):
    ...     return 2 * number
    >>> double(4)
    8
    """

    @functools.wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        if COMPILER not in sys.modules:
            return function(*args, **kwargs)
        # made anew: a compiled caller would be compiled again if it saw a kept one for the first time
        return torch.compiler.disable(function)(*args, **kwargs)  # type: ignore[no-untyped-call]

    return either

"""Half precision is computed and returned in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def is_half(values: Tensor) -> bool:
    return values.dtype.itemsize < 4


def wide(values: Tensor) -> torch.dtype:
    return torch.float32 if is_half(values) else values.dtype


def widened(values: Tensor) -> Tensor:
    return values.to(wide(values))

"""Normalizers: the divisor of each image's loss, from the number of positives of each image of a batch.

With soft targets the number is their sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn

Amounts = Int64[Tensor, " b"] | Float[Tensor, " b"]


def image_normalizer(num_positives: Amounts) -> Float[Tensor, " b"]:
    """Divide each image by its own positives, at least 1, and average over images, as torchvision does.

    >>> image_normalizer(torch.tensor([3, 0]))
    tensor([6., 2.])
    """
    return len(num_positives) * num_positives.clamp(min=1).float()


def batch_normalizer(num_positives: Amounts) -> Float[Tensor, " b"]:
    """Divide the batch by its positives, at least 1 for each image, as mmdetection does.

    If ``torch.distributed`` is initialised, the count is averaged over processes, so every process must call this. The mean
    of gradients that DistributedDataParallel takes is then the gradient of the whole batch on one process.

    >>> batch_normalizer(torch.tensor([3, 0]))
    tensor([4., 4.])
    """
    return mean_over_processes(num_positives.clamp(min=1).sum().float()).expand(len(num_positives))


class EmaNormalizer(nn.Module):
    """Divide the batch by a moving average of the positives of batches, as detectron2 does.

    Each call in training first sets average <- momentum * average + (1 - momentum) * max(positives, 1): call it once a step
    and divide all losses by the result. The average starts at ``initial``; it is a buffer, so checkpoints keep it, and it
    stays as it is in evaluation. Several processes share one average, see :func:`batch_normalizer`.

    >>> EmaNormalizer()(torch.tensor([40, 10]))
    tensor([95., 95.])

    Raises:
        ValueError: ``initial`` is not above 0, or ``momentum`` is not from 0 and below 1.
    """

    average: Tensor

    def __init__(self, *, initial: float = 100.0, momentum: float = 0.9) -> None:
        super().__init__()
        if not (initial > 0 and 0 <= momentum < 1):
            raise ValueError(f"need initial > 0 and 0 <= momentum < 1, got {initial=}, {momentum=}")
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(float(initial)))

    def forward(self, num_positives: Amounts) -> Float[Tensor, " b"]:
        if self.training:
            positives = mean_over_processes(num_positives.sum().clamp(min=1).to(self.average.dtype))
            self.average.lerp_(positives, 1 - self.momentum)
        return self.average.clone().expand(len(num_positives))


def mean_over_processes(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean of a number over the processes of ``torch.distributed``; without them the number itself."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()

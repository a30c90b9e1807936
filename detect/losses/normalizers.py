"""What divides the sums of a batch: one number for each image, from the numbers of positives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn


def image_normalizer(num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Each image by its own positives, at least 1, then the mean over images: torchvision's rule.

    >>> image_normalizer(torch.tensor([3, 0]))
    tensor([6., 2.])
    """
    return len(num_positives) * num_positives.clamp(min=1).float()


def batch_normalizer(num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The batch by its positives, at least 1 for each image: mmdetection's rule, over the batch of all processes.

    Where ``torch.distributed`` is initialised, the count is the mean over processes, and every process has to call this:
    DistributedDataParallel's mean of gradients is then the gradient of the whole batch on one process.

    >>> batch_normalizer(torch.tensor([3, 0]))
    tensor([4., 4.])
    """
    return mean_over_processes(num_positives.clamp(min=1).sum().float()).expand(len(num_positives))


class EmaNormalizer(nn.Module):
    """A moving average of the batches' positives, which one odd batch hardly moves: detectron2's rule.

    average <- momentum * average + (1 - momentum) * max(positives, 1), before it divides. It is a buffer, so checkpoints
    keep it. Each call in training is a step: call once and divide all losses by the answer. In evaluation it stays.
    With several processes as :func:`batch_normalizer`.

    >>> EmaNormalizer()(torch.tensor([40, 10]))
    tensor([95., 95.])
    """

    average: Tensor

    def __init__(self, *, initial: float = 100.0, momentum: float = 0.9) -> None:
        super().__init__()
        if not (initial > 0 and 0 <= momentum < 1):
            raise ValueError(f"need initial > 0 and 0 <= momentum < 1, got {initial=}, {momentum=}")
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(float(initial)))

    def forward(self, num_positives: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        """One normalizer for all images of the batch."""
        if self.training:
            positives = mean_over_processes(num_positives.sum().clamp(min=1).to(self.average.dtype))
            self.average.lerp_(positives, 1 - self.momentum)
        return self.average.clone().expand(len(num_positives))


def mean_over_processes(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean of a number over the processes of ``torch.distributed``, or the number itself where there are none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()

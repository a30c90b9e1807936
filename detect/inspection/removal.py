"""Deletion and insertion: how a network's answer follows the pixels that an attribution calls important.

Petsiuk et al. 2018, "RISE", section 4.3. Patches of the image are ranked by their mean attribution. Deletion replaces them
by a baseline, the strongest first; insertion starts from the baseline and puts them back. Answers are normalised: 1 is that
of the image, 0 that of the baseline. A map of what the network looks at has a small area under the deletion curve and a
large one under the insertion curve. Chance depends on network and image and is not .5: rank a random map to see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int64
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor
from torch.nn import functional

from detect.inspection.targets import Scalar

BASELINES = ("blur", "mean")
BLUR_SHARE = 1 / 8  # sigma of the blur / longer side of the image: objects of a quarter of the image lose their shape
NUM_STEPS = 20
PATCH_PX = 4
NO_DIFFERENCE = 1e-6  # of the answers to image and baseline, relative to them


@dataclass(frozen=True, eq=False)
class RemovalCurves:
    """Normalised answers while patches are replaced or put back; NaN if image and baseline have the same answer.

    ``shares`` of the patches are from 0 to 1. ``full`` and ``empty`` are the answers to the image and to its baseline.
    """

    shares: Float[Tensor, " s"]
    deletion: Float[Tensor, " s"]
    insertion: Float[Tensor, " s"]
    full: float
    empty: float

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve: low if the map is right."""
        return float(torch.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve: high if the map is right."""
        return float(torch.trapezoid(self.insertion, self.shares))


def removal_curves(
    scalar: Scalar,
    image: Float[Tensor, "d h w"],
    heatmap: Float[Tensor, "_ _"],
    *,
    baseline: str = "blur",
    num_steps: int = NUM_STEPS,
    patch_px: int = PATCH_PX,
    batch_size: int = 16,
    seed: int = 0,
) -> RemovalCurves:
    """Measure both curves of a map, in ``2 * num_steps`` forward passes of single images.

    Step k of n has replaced (k / n) ** 2 of the patches: small steps first, where a small object vanishes. Among patches of
    equal attribution the order is random.

    The ``baseline`` is ``"blur"``, with a sigma of an eighth of the image's longer side, or ``"mean"``, the image's mean
    colour. ``patch_px`` is the side of the patches; 1 ranks pixels, as RISE does.
    """
    if image.ndim != 3 or tuple(heatmap.shape) != tuple(image.shape[1:]):
        raise ValueError(f"need an image (d, h, w) and a map (h, w), got {tuple(image.shape)}, {tuple(heatmap.shape)}")
    if not heatmap.isfinite().all():
        raise ValueError("the map has values that are not finite")
    if num_steps < 1 or patch_px < 1:
        raise ValueError(f"need a step and patches of a pixel, got {num_steps=}, {patch_px=}")
    empty = baseline_image(image, baseline)
    ranks = patch_ranks(heatmap, patch_px=patch_px, seed=seed).to(image.device)
    num_patches = int(ranks.max()) + 1
    counts = [round((step / num_steps) ** 2 * num_patches) for step in range(num_steps + 1)]

    def images() -> Iterator[Tensor]:
        for count in counts:
            yield torch.where(ranks < count, empty, image)
        for count in counts[1:-1]:
            yield torch.where(ranks < count, image, empty)

    answers = _answers(scalar, images(), batch_size)
    deletion = answers[: num_steps + 1]
    insertion = torch.cat([deletion[-1:], answers[num_steps + 1 :], deletion[:1]])
    low, high = float(deletion[-1]), float(deletion[0])
    span = high - low if abs(high - low) > NO_DIFFERENCE * max(abs(high), abs(low)) else math.nan
    shares = torch.tensor(counts, dtype=torch.float64) / num_patches
    return RemovalCurves(shares, (deletion - low) / span, (insertion - low) / span, high, low)


def baseline_image(image: Float[Tensor, "d h w"], baseline: str) -> Float[Tensor, "d h w"]:
    """The image without its objects: blurred, or its mean colour everywhere.

    >>> baseline_image(torch.tensor([[[0.0, 1.0]]]), "mean")
    tensor([[[0.5000, 0.5000]]])
    """
    if baseline == "mean":
        return image.mean(dim=(1, 2), keepdim=True).expand_as(image)
    if baseline != "blur":
        raise ValueError(f"no baseline {baseline!r}: need one of {', '.join(BASELINES)}")
    sigma_px = BLUR_SHARE * max(image.shape[1:])
    blurred = gaussian_filter(image.detach().cpu().numpy(), (0, sigma_px, sigma_px), mode="nearest")
    return torch.from_numpy(blurred).to(image)


def patch_ranks(heatmap: Float[Tensor, "h w"], *, patch_px: int = PATCH_PX, seed: int = 0) -> Int64[Tensor, "h w"]:
    """The rank of each pixel's patch by falling mean attribution, from 0; equal patches are ranked at random.

    Patches are squares, cut at the right and lower edges.

    >>> patch_ranks(torch.tensor([[1.0, 3.0, 9.0]]), patch_px=2)
    tensor([[1, 1, 0]])
    """
    height, width = heatmap.shape
    values = heatmap.detach().cpu().double()[None, None]
    cells = functional.avg_pool2d(values, patch_px, ceil_mode=True, count_include_pad=False)[0, 0]
    shuffled = torch.randperm(cells.numel(), generator=Generator().manual_seed(seed))
    order = shuffled[cells.flatten()[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    ranks = ranks.reshape(cells.shape)
    return ranks.repeat_interleave(patch_px, 0)[:height].repeat_interleave(patch_px, 1)[:, :width]


@torch.no_grad()
def _answers(scalar: Scalar, images: Iterator[Tensor], batch_size: int) -> Float[Tensor, " n"]:
    """The scalar of every image, a batch in memory at a time."""
    parts = []
    while batch := list(islice(images, batch_size)):
        parts.append(scalar(torch.stack(batch)))
    return torch.cat(parts).double().cpu()

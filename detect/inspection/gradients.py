"""Attribution by gradients and by occlusion.

Maps are sums over the channels of the image, with signs; saliency sums absolute values. SmoothGrad, integrated gradients
and occlusion are Captum's. Its deconvolution and guided backpropagation change only ReLUs that are modules of their own and
used once, so these two are rewritten operations (:mod:`detect.inspection.operations`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detect.errors import MissingExtraError
from detect.inspection.operations import Rewriting, gradient_of, rewritten, with_gradient
from detect.inspection.targets import Scalar

Image = Float[Tensor, "d h w"]
Map = Float[Tensor, "h w"]

NOISE_SHARE = 0.15  # Smilkov et al. 2017, section 3.2: standard deviation / range of the image, 10 to 20 % are best
NUM_NOISY = 25  # same place: little changes above 50
FIRST_STEPS, MOST_STEPS = 32, 256
GAP = 0.005  # of integrated gradients / their sum, at which no more steps are taken
AT_ONCE = 32  # images in a batch
WINDOWS = 8  # an occluding window is this part of the longer side, and moves by half of itself


def saliency(scalar: Scalar, image: Image) -> Map:
    """The absolute gradient (Simonyan et al. 2014, "Deep Inside Convolutional Networks", section 3)."""
    return gradient_of(scalar, image).abs().sum(dim=0)


def smooth_grad(scalar: Scalar, image: Image, *, seed: int = 0) -> Map:
    """The mean gradient of noisy copies of the image (Smilkov et al. 2017, "SmoothGrad")."""
    attr = _captum()
    spread = NOISE_SHARE * float(image.max() - image.min())
    options: dict[str, Any] = {"nt_type": "smoothgrad", "nt_samples": NUM_NOISY, "nt_samples_batch_size": AT_ONCE}
    with torch.random.fork_rng(devices=[]):  # Captum draws from torch's global generator
        torch.default_generator.manual_seed(seed)
        noisy = attr.NoiseTunnel(attr.Saliency(scalar))
        return noisy.attribute(image[None], stdevs=spread or 1e-3, abs=False, **options).sum(dim=1)[0]


def input_x_gradient(scalar: Scalar, image: Image) -> Map:
    """The image times its gradient (Shrikumar et al. 2016, "Not Just a Black Box")."""
    return (image * gradient_of(scalar, image)).sum(dim=0)


def integrated_gradients(scalar: Scalar, image: Image, baseline: Image, *, num_steps: int | None = None) -> Map:
    """The gradient along the straight line from the baseline to the image (Sundararajan et al. 2017, equation 1).

    Its sum is the difference of the two answers. Without ``num_steps`` their number doubles from 32 until the sum is within
    ``GAP`` of the difference, relative to it, or reaches 256.
    """
    attr = _captum()
    integrate = attr.IntegratedGradients(scalar)
    steps, most = (FIRST_STEPS, MOST_STEPS) if num_steps is None else (num_steps, num_steps)
    with torch.no_grad():
        image_answer, baseline_answer = scalar(torch.stack([image, baseline])).tolist()
    difference = image_answer - baseline_answer
    while True:
        own = {"n_steps": steps, "internal_batch_size": AT_ONCE}
        found: Tensor = integrate.attribute(image[None], baselines=baseline[None], **own).detach()
        if abs(float(found.sum()) - difference) <= GAP * abs(difference) or steps >= most:
            return found.sum(dim=1)[0].to(image)
        steps *= 2


def occlusion(scalar: Scalar, image: Image, baseline: Image, *, window_px: int | None = None) -> Map:
    """How much the answer falls if a square is replaced by the baseline, the mean over the squares that cover a pixel.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2. A square has ``window_px``
    pixels, by default an eighth of the longer side, and moves by half of it.
    """
    channels, height, width = image.shape
    side = min(window_px or max(2, max(height, width) // WINDOWS), height, width)
    occlude = _captum().Occlusion(scalar)
    with torch.no_grad():
        found: Tensor = occlude.attribute(
            image[None],
            sliding_window_shapes=(channels, side, side),
            strides=(channels, max(1, side // 2), max(1, side // 2)),
            baselines=baseline[None],
            perturbations_per_eval=AT_ONCE,
        )
    return found[0, 0]  # the same in all channels


class Deconvolution(Rewriting):
    """Passes on the positive part of each gradient, whatever the ReLU's input was."""

    def activation(self, function: Callable[..., Tensor], cells: Tensor) -> Tensor:
        return _positive_gradient(with_gradient(function(cells.detach()), cells))


class GuidedBackprop(Rewriting):
    """Passes on the positive part of each gradient where the ReLU's input was positive."""

    def activation(self, function: Callable[..., Tensor], cells: Tensor) -> Tensor:
        return _positive_gradient(function(cells))


def deconvolution(module: nn.Module, scalar: Scalar, image: Image) -> Map:
    """The deconvolutional network (Zeiler and Fergus 2014, section 2.1): its ReLUs rectify the gradient instead."""
    with rewritten(module, Deconvolution()):
        return gradient_of(scalar, image).sum(dim=0)


def guided_backprop(module: nn.Module, scalar: Scalar, image: Image) -> Map:
    """Guided backpropagation (Springenberg et al. 2015, "Striving for Simplicity", section 3.4)."""
    with rewritten(module, GuidedBackprop()):
        return gradient_of(scalar, image).sum(dim=0)


def _positive_gradient(cells: Tensor) -> Tensor:
    if cells.requires_grad:
        cells.register_hook(lambda gradient: gradient.clamp(min=0))  # type: ignore[no-untyped-call]
    return cells


def _captum() -> Any:
    try:
        from captum import attr  # noqa: PLC0415 - an extra, whose import takes seconds
    except ImportError:
        raise MissingExtraError("attribution needs captum: pip install 'detect-heads[explain]'") from None
    return attr

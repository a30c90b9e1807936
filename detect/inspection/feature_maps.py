"""Attribution by the feature maps of a detector: Grad-CAM and ODAM, for each level of the pyramid.

The maps are those the head reads, one for each level, or those of each call of another layer. A detection has a gradient on
the maps that its logit depends on. Maps are enlarged to the image bilinearly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detect.inspection.layers import tensors_in
from detect.inspection.operations import gradients
from detect.inspection.targets import Scalar

PYRAMID = "pyramid"  # the module of our detectors whose output the head reads


def grad_cam(
    module: nn.Module, scalar: Scalar, image: Float[Tensor, "d h w"], *, layer: str | None = None
) -> list[Float[Tensor, "h w"]]:
    """Grad-CAM of each map: channels weighed by their mean gradient, and the positive part (Selvaraju et al. 2017, 3).

    ``layer`` is the name of the module whose output the maps are: by default the pyramid, or the last convolution.
    """
    return _level_maps(module, scalar, image, layer, lambda gradient: gradient.mean(dim=(2, 3), keepdim=True))


def odam(
    module: nn.Module, scalar: Scalar, image: Float[Tensor, "d h w"], *, layer: str | None = None
) -> list[Float[Tensor, "h w"]]:
    """ODAM of each map: values times their own gradients, summed over channels, and the positive part.

    Zhao et al. 2024, "Gradient-based Instance-Specific Visual Explanations for Object Detection", section 3: the mean over
    the map, as Grad-CAM takes it, would mix the objects of an image.
    """
    return _level_maps(module, scalar, image, layer, lambda gradient: gradient)


def _level_maps(
    module: nn.Module, scalar: Scalar, image: Tensor, layer: str | None, weigh: Callable[[Tensor], Tensor]
) -> list[Float[Tensor, "h w"]]:
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        found.extend(cells for cells in tensors_in(output) if cells.ndim == 4)

    hook = _layer(module, layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            answer = scalar(image.detach()[None].clone().requires_grad_()).sum()
            if not found:
                raise ValueError(f"{layer or 'the layer'} gives no maps of rows and columns for this image")
            slopes = gradients(answer, found)
    finally:
        hook.remove()
    maps = [(weigh(slope) * cells).sum(dim=1, keepdim=True).relu() for slope, cells in zip(slopes, found, strict=True)]
    enlarge = {"size": image.shape[-2:], "mode": "bilinear", "align_corners": False}
    return [functional.interpolate(cells.detach(), **enlarge)[0, 0] for cells in maps]  # type: ignore[arg-type]


def _layer(module: nn.Module, name: str | None) -> nn.Module:
    modules = dict(module.named_modules())
    if name is None:
        names = [PYRAMID] if PYRAMID in modules else [each for each in modules if isinstance(modules[each], nn.Conv2d)]
        if not names:
            raise ValueError("the network has no convolution: name the layer whose maps to take")
        name = names[-1]
    if name not in modules:
        raise ValueError(f"the network has no module {name!r}")
    return modules[name]

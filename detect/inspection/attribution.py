"""Attribute one answer of a network to the pixels of an image: the methods by name, and one function for all.

The answer is a function of the image (:mod:`detect.inspection.targets`). A map is (h, w), summed over the channels, with
signs where the method has them. ``METHODS`` says what each method shows, where it is published and what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detect.inspection.deep_lift import deep_lift
from detect.inspection.feature_maps import grad_cam, odam
from detect.inspection.gradients import (
    deconvolution,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    saliency,
    smooth_grad,
)
from detect.inspection.patterns import Patterns, pattern_map
from detect.inspection.relevance import propagate_relevance
from detect.inspection.targets import Scalar


@dataclass(frozen=True)
class Settings:
    """What methods can be told.

    Args:
        baseline: the image without information: of integrated gradients, DeepLift and occlusion. None is black.
        layer: name of the module whose maps Grad-CAM and ODAM take; see :mod:`detect.inspection.feature_maps`.
        window_px: side of an occluding square.
        patterns: of PatternNet and PatternAttribution; see :func:`~detect.inspection.patterns.learn_patterns`.
        num_steps: of integrated gradients; by default as many as their sum needs to be complete, at most 256.
        seed: of SmoothGrad's noise.
    """

    baseline: Float[Tensor, "d h w"] | None = None
    layer: str | None = None
    window_px: int | None = None
    patterns: Patterns | None = None
    num_steps: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A method of attribution: what its map shows, where it is published, and what is known of it."""

    description: str
    source: str
    properties: tuple[str, ...]
    run: Callable[[nn.Module, Scalar, Tensor, Settings], Tensor]


def attribute(
    module: nn.Module, scalar: Scalar, image: Float[Tensor, "d h w"], method: str, settings: Settings | None = None
) -> Float[Tensor, "h w"]:
    """Attribute an answer to the pixels of an image; ``scalar`` runs ``module``, which is in evaluation mode.

    >>> module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()).eval()
    >>> _ = nn.init.ones_(module[0].weight)
    >>> image = torch.tensor([[[0.5, 0.0], [0.25, 0.0]]])
    >>> attribute(module, lambda images: module(images).sum(dim=(1, 2, 3)), image, "input-x-gradient")
    tensor([[0.5000, 0.0000],
            [0.2500, 0.0000]])

    Raises:
        ValueError: there is no such method, or it cannot be applied to the network.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}: there are {', '.join(METHODS)}")
    return METHODS[method].run(module, scalar, image, settings or Settings()).detach()


def _pattern_map(module: nn.Module, scalar: Scalar, image: Tensor, settings: Settings, *, attribution: bool) -> Tensor:
    if settings.patterns is None:
        raise ValueError("patterns are learned from training images: see learn_patterns")
    return pattern_map(module, scalar, image, settings.patterns, attribution=attribution)


def _relevance(rule: str, *, box: bool) -> Callable[[nn.Module, Scalar, Tensor, Settings], Tensor]:
    return lambda module, scalar, image, _: propagate_relevance(module, scalar, image, rule, box=box).pixels


def _over_levels(level_maps: Callable[..., list[Tensor]]) -> Callable[[nn.Module, Scalar, Tensor, Settings], Tensor]:
    return lambda module, scalar, image, settings: sum(
        level_maps(module, scalar, image, layer=settings.layer), torch.zeros_like(image[0])
    )


def _baseline(image: Tensor, settings: Settings) -> Tensor:
    return torch.zeros_like(image) if settings.baseline is None else settings.baseline


CONSERVES = "conserves: sums to the answer less what biases and stabiliser take"
COMPLETE = "complete: sums to the answer less that of the baseline"
EDGES = "shows edges of the image, even with random weights (Adebayo et al. 2018)"
POSITIVE = (
    "conserves: sums to the answer less the bias of the output",
    "changes little with random weights (Sixt et al. 2020)",
)
KINDERMANS = 'Kindermans et al. 2018, "Learning How to Explain Neural Networks"'

METHODS = {
    "saliency": Method(
        "how strongly the answer reacts to a small change of each pixel",
        'Simonyan et al. 2014, "Deep Inside Convolutional Networks", section 3',
        ("unsigned", "local", "noisy"),
        lambda _, scalar, image, __: saliency(scalar, image),
    ),
    "smoothgrad": Method(
        "the mean gradient of noisy copies of the image",
        'Smilkov et al. 2017, "SmoothGrad"',
        ("signed", "local"),
        lambda _, scalar, image, settings: smooth_grad(scalar, image, seed=settings.seed),
    ),
    "deconvolution": Method(
        "the pattern that an upside-down network with rectified gradients draws",
        'Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1',
        ("signed", EDGES),
        lambda module, scalar, image, _: deconvolution(module, scalar, image),
    ),
    "guided-backprop": Method(
        "the gradient through paths that are active and positive alone",
        'Springenberg et al. 2015, "Striving for Simplicity", section 3.4',
        ("signed", EDGES),
        lambda module, scalar, image, _: guided_backprop(module, scalar, image),
    ),
    "input-x-gradient": Method(
        "the share of each pixel in the answer, were the network linear",
        'Shrikumar et al. 2016, "Not Just a Black Box"',
        ("signed", "black pixels get nothing"),
        lambda _, scalar, image, __: input_x_gradient(scalar, image),
    ),
    "integrated-gradients": Method(
        "the gradient, averaged on the way from the baseline to the image",
        'Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"',
        ("signed", COMPLETE, "depends on the baseline"),
        lambda _, scalar, image, settings: integrated_gradients(
            scalar, image, _baseline(image, settings), num_steps=settings.num_steps
        ),
    ),
    "occlusion": Method(
        "the fall of the answer when a square is replaced by the baseline",
        'Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2',
        ("signed", "needs no gradient", "coarse: as fine as its square"),
        lambda _, scalar, image, settings: occlusion(
            scalar, image, _baseline(image, settings), window_px=settings.window_px
        ),
    ),
    "deep-lift": Method(
        "what each pixel's difference from the baseline adds, by slopes between the two",
        'Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences"',
        ("signed", COMPLETE, "depends on the baseline"),
        lambda _, scalar, image, settings: deep_lift(scalar, image, _baseline(image, settings)),
    ),
    "lrp": Method(
        "relevance: epsilon rule in the output layers, z-plus below them, box rule at the pixels",
        'Kohlbrenner et al. 2020, "Towards Best Practice in Explaining Neural Network Decisions with LRP"',
        ("signed", CONSERVES),
        _relevance("composite", box=True),
    ),
    "lrp-epsilon": Method(
        "relevance, shared in proportion to all contributions",
        'Bach et al. 2015, "On Pixel-Wise Explanations", equation 58',
        ("signed", CONSERVES, "noisy"),
        _relevance("epsilon", box=False),
    ),
    "lrp-gamma": Method(
        "relevance, shared with more weight on contributions of the output's sign; box rule at the pixels",
        'Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview", section 10.2.1',
        ("signed", CONSERVES),
        _relevance("gamma", box=True),
    ),
    "lrp-z-plus": Method(
        "relevance, shared among contributions of the output's sign alone",
        'Bach et al. 2015, "On Pixel-Wise Explanations", equation 60 with alpha 1 and beta 0',
        POSITIVE,
        _relevance("z-plus", box=False),
    ),
    "deep-taylor": Method(
        "relevance by a Taylor expansion in each layer: z-plus, and the box rule at the pixels",
        'Montavon et al. 2017, "Explaining NonLinear Classification Decisions with Deep Taylor Decomposition"',
        POSITIVE,
        _relevance("z-plus", box=True),
    ),
    "pattern-net": Method(
        "the signal in the image that the answer found, by patterns learned from training images",
        KINDERMANS,
        ("signed", "needs training images"),
        partial(_pattern_map, attribution=False),
    ),
    "pattern-attribution": Method(
        "the share of each pixel's signal in the answer, by patterns learned from training images",
        KINDERMANS,
        ("signed", "needs training images"),
        partial(_pattern_map, attribution=True),
    ),
    "grad-cam": Method(
        "the pyramid's maps, channels weighed by their mean gradient",
        'Selvaraju et al. 2017, "Grad-CAM", section 3',
        ("unsigned", "coarse: as fine as the level", "mixes the objects of a level"),
        _over_levels(grad_cam),
    ),
    "odam": Method(
        "the pyramid's maps, each value times its own gradient",
        'Zhao et al. 2024, "Gradient-based Instance-Specific Visual Explanations for Object Detection"',
        ("unsigned", "coarse: as fine as the level", "made for single detections"),
        _over_levels(odam),
    ),
}
"""The methods by name."""

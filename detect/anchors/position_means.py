"""Means over positions of what a box gains from an anchor, in closed form: the box lies anywhere against the grid.

Along an axis, a box of extent w and an anchor of extent W whose centres lie u apart overlap by

    x(u) = min(w, W, (w + W) / 2 - u),  at least 0:  a plateau of min(w, W) up to u = |w - W| / 2, then a ramp of slope -1,

and u is uniform from 0 to half a stride. With S the sum of both areas, IoU is x y / (S - x y). Over plateaus it is constant,
over a plateau P and a ramp its integral is a logarithm, and over two ramps a dilogarithm, since

    d2/dxdy Li2(x y / S) = 1 / (S - x y).

IoU reaches t where x y >= S t / (1 + t): the share of positions is an area under a hyperbola.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import spence

from detect.anchors.shape_gain import ShapeGain


@dataclass(frozen=True, eq=False)
class Overlap:
    """How far two intervals overlap along an axis when their centres lie anywhere from 0 to half a stride apart."""

    highest: Float64[ndarray, "*s"]
    """On the plateau."""
    lowest: Float64[ndarray, "*s"]
    """At half a stride."""
    level: Float64[ndarray, "*s"]
    """Share of positions on the plateau."""
    half: float
    """Half a stride, in pixels."""

    @classmethod
    def of(cls, extents: Float64[ndarray, "*n"], others: Float64[ndarray, "*a"], stride: int) -> Overlap:
        half = stride / 2
        highest = np.minimum(extents, others)
        lowest = np.clip((extents + others) / 2 - half, 0, highest)
        return cls(highest, lowest, np.minimum(np.abs(extents - others) / 2, half) / half, half)

    @property
    def ramp(self) -> Float64[ndarray, "*s"]:
        return self.highest - self.lowest


def overlaps_of(
    extents: Float64[ndarray, "2 n"], shapes: Float64[ndarray, "a 2"], stride: int
) -> tuple[Overlap, Overlap]:
    """Along both axes, of each box with each shape."""
    return Overlap.of(extents[0], shapes[:, :1], stride), Overlap.of(extents[1], shapes[:, 1:], stride)


def mean_gain(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"], gain: ShapeGain) -> Float64[ndarray, "*s"]:
    """The mean over positions of the gain, for overlaps along both axes and sums of both areas."""
    result = np.zeros(np.broadcast_shapes(x.highest.shape, y.highest.shape, areas.shape))
    if gain.recall_share < 1:
        result += (1 - gain.recall_share) * mean_iou(x, y, areas)
    if gain.recall_share > 0:
        result += gain.recall_share * share_above(x, y, areas * (gain.reaches / (1 + gain.reaches)))
    return result


def mean_iou(x: Overlap, y: Overlap, areas: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The mean of x y / (areas - x y), in closed form."""
    flat = x.highest * y.highest
    total = x.level * y.level * (flat / (areas - flat))
    for one, other in ((x, y), (y, x)):
        high, low = one.highest * other.highest, one.highest * other.lowest
        ramp = areas / one.highest * np.log((areas - low) / (areas - high)) - other.ramp
        total += one.level * ramp / other.half
    corner = _dilogarithm(flat / areas) + _dilogarithm(x.lowest * y.lowest / areas)
    corner -= _dilogarithm(x.lowest * y.highest / areas) + _dilogarithm(x.highest * y.lowest / areas)
    return total + (areas * corner - x.ramp * y.ramp) / (x.half * y.half)


def share_above(x: Overlap, y: Overlap, least: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    """The share of positions at which x y is at least so much, in closed form."""
    total = x.level * y.level * (x.highest * y.highest >= least)
    for one, other in ((x, y), (y, x)):
        reached = other.highest - np.clip(least / one.highest, other.lowest, other.highest)
        total += one.level * reached / other.half
    # on two ramps: for x from a on some y >= least / x reach it, from b on all
    a = np.clip(least / y.highest, x.lowest, x.highest)
    b = np.clip(np.divide(least, y.lowest, out=np.full_like(a, np.inf), where=y.lowest > 0), a, x.highest)
    some = y.highest * (b - a) - least * np.log(b / np.maximum(a, 1e-300))
    return total + (some + y.ramp * (x.highest - b)) / (x.half * y.half)


def _dilogarithm(z: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    result: Float64[ndarray, "*s"] = spence(1 - z)
    return result

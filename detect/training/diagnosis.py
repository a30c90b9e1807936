"""Diagnose why a detector does not learn: its images, dead units, missing gradients and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

MOSTLY_DEAD = 0.5
SMALLEST_RATE, LARGEST_RATE = 1e-6, 0.1  # for Adam-like optimizers, whose steps are about as large as the rate
SMALLEST_NORM = 1e-8
SMALLEST_STD, LARGEST_STD, LARGEST_MEAN = 0.05, 10.0, 5.0  # of normalized images, which should have std 1 and mean 0
FLAT_SHARE = 0.01  # a loss that falls by a smaller share counts as flat
PART_DEPTH = 2  # gradients are summed by the first components of a module's name, such as head.class_tower


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of a batch of normalized images, including padding."""

    mean: float
    std: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Diagnosis:
    """Measurements on one batch, made by :func:`diagnose`, and ``findings``: those that explain why nothing is learned.

    ``dead_units`` has, for each rectified layer, the share of channels that are 0 everywhere in all images, and
    ``gradient_norms`` the norm of the gradient of each part of the network.
    """

    loss: float
    learning_rate: float
    images: ImageStatistics
    num_objects: int
    dead_units: Mapping[str, float]
    gradient_norms: Mapping[str, float]
    findings: tuple[str, ...]

    def to_text(self) -> str:
        """Findings first, then the numbers."""
        images = self.images
        findings = self.findings or ("images, units, gradients and learning rate look healthy: check the labels",)
        lines = [f"- {each}" for each in findings]
        lines += [
            f"loss {self.loss:.4g}, learning rate {self.learning_rate:.3g}, {self.num_objects} objects in the batch",
            f"normalized images: mean {images.mean:.3g}, std {images.std:.3g}, "
            f"from {images.minimum:.3g} to {images.maximum:.3g}",
            "dead units: " + _listed({name: share for name, share in self.dead_units.items() if share}, "{:.0%}"),
            "gradient norms: " + _listed(self.gradient_norms, "{:.3g}"),
        ]
        return "\n".join(lines) + "\n"


def is_flat(losses: Sequence[float], *, epochs: int) -> bool:
    """Whether the mean loss of the last epochs is less than one per cent below that of as many epochs before.

    >>> is_flat([3.0, 1.01, 1.0, 1.02, 1.0], epochs=2), is_flat([3.0, 1.0, 1.1, 0.9, 1.05], epochs=2)
    (True, False)
    """
    before, last = losses[-2 * epochs : -epochs], losses[-epochs:]
    return len(before) == epochs and sum(last) > (1 - FLAT_SHARE) * sum(before)


def diagnose(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    images: Float[Tensor, "b d h w"],
    num_objects: int,
    learning_rate: float,
) -> Diagnosis:
    """Measure one forward and backward pass of ``loss``, which uses ``model``; gradients are restored afterwards.

    ``images`` are the normalized images of the batch, ``num_objects`` its instances or points.
    """
    kept = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    try:
        with _watch_units(model) as dead:
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        norms = _gradient_norms(model)
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = kept[name]
    values = images.detach().float()
    statistics = ImageStatistics(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
    findings = (*_image_findings(statistics, num_objects), *_network_findings(dead, norms, learning_rate))
    return Diagnosis(
        loss=float(value.detach()),
        learning_rate=learning_rate,
        images=statistics,
        num_objects=num_objects,
        dead_units=dict(dead),
        gradient_norms=norms,
        findings=findings,
    )


@contextmanager
def _watch_units(model: nn.Module) -> Iterator[dict[str, float]]:
    """Collect the dead share of every rectified layer, that is, of every output without a negative value."""
    dead: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001 - torch's signature
            if isinstance(output, Tensor) and output.ndim == 4 and output.numel() and float(output.detach().min()) >= 0:
                dead[name] = float((output.detach().amax(dim=(0, 2, 3)) <= 0).float().mean())

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.Sequential | nn.Identity)
    ]
    try:
        yield dead
    finally:
        for handle in handles:
            handle.remove()


def _gradient_norms(model: nn.Module) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ".".join(name.split(".")[:-1][:PART_DEPTH])
            square = 0.0 if parameter.grad is None else float(parameter.grad.float().square().sum())
            squares[part] = squares.get(part, 0.0) + square
    return {part: math.sqrt(square) for part, square in squares.items()}


def _image_findings(images: ImageStatistics, num_objects: int) -> Iterator[str]:
    if not all(map(math.isfinite, (images.mean, images.minimum, images.maximum))):
        yield "the images have values that are not finite"
    elif images.minimum == images.maximum:
        yield f"the images are constant, {images.minimum:.3g} everywhere"
    elif not (SMALLEST_STD <= images.std <= LARGEST_STD and abs(images.mean) <= LARGEST_MEAN):
        yield (
            f"normalized images have mean {images.mean:.3g} and standard deviation {images.std:.3g}, not near 0 and 1: "
            "remove data.mean and data.std from the configuration, so that they are measured"
        )
    if not num_objects:
        yield "no image of the batch has an object"


def _network_findings(dead: Mapping[str, float], norms: Mapping[str, float], learning_rate: float) -> Iterator[str]:
    for name, share in dead.items():
        if share > MOSTLY_DEAD:
            yield f"{share:.0%} of the units of {name} are 0 on all images"
    for part, norm in norms.items():
        if not math.isfinite(norm):
            yield f"the gradient of {part} is not finite"
        elif norm < SMALLEST_NORM:
            yield f"no gradient reaches {part}"
    if not SMALLEST_RATE <= learning_rate <= LARGEST_RATE:
        size = "small" if learning_rate < SMALLEST_RATE else "large"
        yield f"a learning rate of {learning_rate:.3g} is too {size}"


def _listed(numbers: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(number)}" for name, number in numbers.items()) or "none"

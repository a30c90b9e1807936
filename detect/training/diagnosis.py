"""Why nothing is learned: what reaches the network, which units are dead, where no gradient arrives, how large steps are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

MOSTLY_DEAD = 0.5
SMALLEST_RATE, LARGEST_RATE = 1e-6, 0.1  # of an optimiser such as Adam, whose steps are about as large as its rate
SMALLEST_NORM = 1e-8
SMALLEST_STD, LARGEST_STD, LARGEST_MEAN = 0.05, 10.0, 5.0  # of normalised images: measured ones have 1, 1 and 0
FLAT_SHARE = 0.01  # a loss that falls by less than this share does not fall
NEAR_ZERO = 0.2  # of the loss at the start
PARTS = 2  # components of a module's name that gradients are summed up by: head.class_tower


@dataclass(frozen=True)
class ImageStatistics:
    """Of a batch of images as the network takes them, that is, normalised; without padding they would differ a little."""

    mean: float
    std: float
    least: float
    most: float


@dataclass(frozen=True)
class Diagnosis:
    """What was measured on one batch, and what of it would explain that nothing is learned; made by :func:`diagnose`."""

    loss: float
    learning_rate: float
    images: ImageStatistics
    num_positives: int
    """Instances or points in the batch."""
    dead_units: Mapping[str, float]
    """Of each rectified layer the share of channels that are 0 everywhere, on all images."""
    gradient_norms: Mapping[str, float]
    """Of each part of the network."""
    findings: tuple[str, ...]
    """What is wrong, in words; empty where nothing here explains it."""

    def to_text(self) -> str:
        """For people: findings first, then the numbers."""
        images = self.images
        found = self.findings or ("inputs, units, gradients and rate look healthy: look at the labels",)
        lines = [f"- {each}" for each in found]
        lines += [
            f"loss {self.loss:.4g}, learning rate {self.learning_rate:.3g}, {self.num_positives} objects in the batch",
            f"normalised images: mean {images.mean:.3g}, std {images.std:.3g}, {images.least:.3g} to {images.most:.3g}",
            "dead units: " + _listed({name: share for name, share in self.dead_units.items() if share}, "{:.0%}"),
            "gradient norms: " + _listed(self.gradient_norms, "{:.3g}"),
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class OverfitVerdict:
    """Whether a few images could be learned by heart: where not, something other than the amount of data is wrong."""

    num_images: int
    num_steps: int
    first_loss: float
    last_loss: float
    diagnosis: Diagnosis

    @property
    def passed(self) -> bool:
        """The loss came near zero."""
        return self.last_loss <= NEAR_ZERO * self.first_loss

    def to_text(self) -> str:
        """For people."""
        fall = (
            f"loss {self.first_loss:.4g} -> {self.last_loss:.4g} on {self.num_images} images in {self.num_steps} steps"
        )
        if self.passed:
            return f"learned by heart: {fall}\n"
        return (
            f"NOT learned by heart: {fall}: expected {NEAR_ZERO * self.first_loss:.3g} or less. Boxes or points, "
            f"anchors, learning rate or network are wrong, and more data will not mend it.\n{self.diagnosis.to_text()}"
        )


def is_flat(losses: Sequence[float], epochs: int) -> bool:
    """Whether the mean loss of the last epochs is no better, by one per cent, than that of as many before them.

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
    num_positives: int,
    learning_rate: float,
) -> Diagnosis:
    """Measure one batch: forward and backward once; gradients are as they were afterwards.

    Args:
        model: whose modules and parameters are looked at, as it is used in ``loss``.
        loss: computes what is minimised.
        images: of the batch, normalised.
        num_positives: instances or points in it.
        learning_rate: of the step.
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
    statistics = _statistics(images)
    findings = [
        *_of_images(statistics, num_positives),
        *(
            f"{share:.0%} of the units of {name} are 0 on all images"
            for name, share in dead.items()
            if share > MOSTLY_DEAD
        ),
        *_of_gradients(norms),
        *_of_rate(learning_rate),
    ]
    return Diagnosis(
        float(value.detach()), learning_rate, statistics, num_positives, dict(dead), norms, tuple(findings)
    )


@contextmanager
def _watch_units(model: nn.Module) -> Iterator[dict[str, float]]:
    """While it lasts, the dead share of every module's output that is nowhere negative: it has been rectified."""
    dead: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001 - what torch calls it with
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
            part = ".".join(name.split(".")[:-1][:PARTS])
            square = 0.0 if parameter.grad is None else float(parameter.grad.float().square().sum())
            squares[part] = squares.get(part, 0.0) + square
    return {part: math.sqrt(square) for part, square in squares.items()}


def _statistics(images: Tensor) -> ImageStatistics:
    values = images.detach().float()
    return ImageStatistics(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))


def _of_images(images: ImageStatistics, num_positives: int) -> Iterator[str]:
    if not all(map(math.isfinite, (images.mean, images.least, images.most))):
        yield "the images hold numbers that are not finite"
    elif images.least == images.most:
        yield f"the images are constant, {images.least:.3g} everywhere"
    elif not (SMALLEST_STD <= images.std <= LARGEST_STD and abs(images.mean) <= LARGEST_MEAN):
        yield (
            f"normalised images have mean {images.mean:.3g} and standard deviation {images.std:.3g}, not near 0 and 1: "
            "leave out data.mean and data.std to have them measured"
        )
    if not num_positives:
        yield "no image of the batch has an object"


def _of_gradients(norms: Mapping[str, float]) -> Iterator[str]:
    for part, norm in norms.items():
        if not math.isfinite(norm):
            yield f"the gradient of {part} is not finite"
        elif norm < SMALLEST_NORM:
            yield f"no gradient reaches {part}"


def _of_rate(learning_rate: float) -> Iterator[str]:
    if not SMALLEST_RATE <= learning_rate <= LARGEST_RATE:
        size = "small" if learning_rate < SMALLEST_RATE else "large"
        yield f"a learning rate of {learning_rate:.3g} is too {size}"


def _listed(numbers: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(number)}" for name, number in numbers.items()) or "none"

"""Overfit a few images: a quick check that a detector can learn at all, before hours are spent on training."""

from __future__ import annotations

from dataclasses import dataclass

from detect.data.coco_reader import Progress
from detect.errors import ConfigError
from detect.loading.dataset import collate
from detect.training.builder import training_anchors
from detect.training.config import TrainConfig
from detect.training.diagnosis import Diagnosis
from detect.training.initial_weights import initial_checkpoint
from detect.training.inputs import read_inputs
from detect.training.step import Stepper, launch

NUM_STEPS = 300
WARMUP_STEPS = 20
LAST_STEPS = 5  # the last loss is the mean over these
NEAR_ZERO = 0.2  # largest last loss that passes, relative to the first


@dataclass(frozen=True)
class OverfitVerdict:
    """Whether a few images could be overfitted; if not, more data will not help."""

    num_images: int
    num_steps: int
    first_loss: float
    last_loss: float
    diagnosis: Diagnosis

    @property
    def passed(self) -> bool:
        """Whether the loss came near zero."""
        return self.last_loss <= NEAR_ZERO * self.first_loss

    def to_text(self) -> str:
        """The verdict, and the diagnosis if it failed."""
        losses = f"loss {self.first_loss:.4g} -> {self.last_loss:.4g}"
        fall = f"{losses} on {self.num_images} images in {self.num_steps} steps"
        if self.passed:
            return f"learned by heart: {fall}\n"
        return (
            f"NOT learned by heart: {fall}: expected {NEAR_ZERO * self.first_loss:.3g} or less. Boxes or points, "
            f"anchors, learning rate or network are wrong; more data will not help.\n{self.diagnosis.to_text()}"
        )


def overfit(
    config: TrainConfig, num_images: int, *, num_steps: int = NUM_STEPS, on_progress: Progress | None = None
) -> OverfitVerdict:
    """Train on a few images with objects, all of them in each step, without augmentation, at a constant learning rate."""
    fabric = launch(config)
    if fabric.world_size > 1:
        raise ConfigError("--overfit runs in one process")
    initial = initial_checkpoint(config)
    inputs = read_inputs(config, initial=initial, overfit=num_images, on_progress=on_progress)
    anchors = training_anchors(config, inputs.train.dataset)
    stepper = Stepper(config, fabric, inputs=inputs, anchors=anchors, initial=initial)
    batch = collate([inputs.train[place] for place in range(num_images)])
    losses = []
    for step in range(num_steps):
        rate = config.optimisation.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
        losses.append(stepper.training_step([batch], rate=rate, step=step)["loss"])
        if on_progress:
            on_progress(f"loss {losses[-1]:.3f}", step + 1, num_steps)
    last = losses[-LAST_STEPS:]
    diagnosis = stepper.diagnose(batch, rate=config.optimisation.learning_rate)
    return OverfitVerdict(num_images, num_steps, losses[0], sum(last) / len(last), diagnosis)

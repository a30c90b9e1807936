"""A few images learned by heart: whether learning works at all, before hours are spent on it."""

from __future__ import annotations

from detect.data.coco_reader import Progress
from detect.errors import ConfigError
from detect.loading.dataset import collate
from detect.training.builder import training_anchors
from detect.training.config import TrainConfig
from detect.training.diagnosis import OverfitVerdict
from detect.training.inputs import read_inputs
from detect.training.step import Stepper, launch

NUM_STEPS = 300
WARMUP_STEPS = 20
LAST_STEPS = 5  # that the last loss is the mean of


def overfit(
    config: TrainConfig, num_images: int, *, num_steps: int = NUM_STEPS, on_progress: Progress | None = None
) -> OverfitVerdict:
    """Learn a few images by heart, without augmentation, at a constant rate: a test of the learning problem.

    Raises:
        ConfigError: too few images with objects, or several processes.
        TrainingError: the loss is not finite.
    """
    fabric = launch(config)
    if fabric.world_size > 1:
        raise ConfigError("--overfit runs in one process")
    inputs = read_inputs(config, overfit=num_images, on_progress=on_progress)
    stepper = Stepper.of(config, fabric, inputs, training_anchors(config, inputs.train.dataset))
    batch = collate([inputs.train[place] for place in range(num_images)])
    losses = []
    for step in range(num_steps):
        rate = config.optimisation.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
        losses.append(stepper.take([batch], rate=rate, step=step)["loss"])
        if on_progress:
            on_progress(f"loss {losses[-1]:.3f}", step + 1, num_steps)
    ends = losses[-LAST_STEPS:]
    diagnosis = stepper.diagnose(batch, rate=config.optimisation.learning_rate)
    return OverfitVerdict(num_images, num_steps, losses[0], sum(ends) / len(ends), diagnosis)

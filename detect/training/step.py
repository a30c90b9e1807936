"""One step of training: the losses of a batch, their gradient, and weights moved along it, on any number of processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from detect.anchors.anchor_set import AnchorSet
from detect.errors import ConfigError, MissingExtraError, TrainingError
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.keypoints import Keypoints
from detect.loading.dataset import Batch
from detect.losses import batch_normalizer
from detect.training.averaging import WeightAverage
from detect.training.builder import Detector, build_detector
from detect.training.config import TrainConfig
from detect.training.diagnosis import Diagnosis, diagnose
from detect.training.inputs import Inputs

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Build = Callable[..., Detector]


def launch(config: TrainConfig) -> Fabric:
    """Devices and precision of a configuration; beneath torchrun, its processes.

    Raises:
        MissingExtraError: lightning-fabric is not installed.
        ConfigError: devices that are not there.
    """
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - only who trains pays for it
        from lightning_fabric.utilities.exceptions import MisconfigurationException  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("training needs lightning-fabric: pip install 'detect-heads[train]'") from None
    optimisation = config.optimisation
    processes = devices = optimisation.devices
    if distributed.is_available() and distributed.is_torchelastic_launched():
        processes, devices = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator=optimisation.accelerator,
            devices=devices,
            num_nodes=max(processes // devices, 1),
            strategy="ddp" if processes > 1 else "auto",
            precision=optimisation.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"optimisation: {' '.join(str(error).split())}") from None
    return fabric


class Stepper:
    """A detector with its optimiser and its averaged weights.

    Args:
        config: of the run.
        fabric: devices, processes and precision.
        detector: with fresh weights; it is moved to the device.
        file_names: of the rows of images, for messages.
    """

    def __init__(self, config: TrainConfig, fabric: Fabric, detector: Detector, *, file_names: Sequence[str]) -> None:
        self.config, self.fabric, self.file_names = config, fabric, file_names
        self.detector = nn.utils.convert_conv2d_weight_memory_format(detector, torch.channels_last).train()
        self.model, self.optimizer = fabric.setup(self.detector, _optimizer(self.detector, config))
        self.model.mark_forward_method("losses")
        self.average = WeightAverage(self.detector, decay=config.optimisation.ema_decay)

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        fabric: Fabric,
        inputs: Inputs,
        anchors: AnchorSet | None,
        build: Build = build_detector,
    ) -> Stepper:
        """For the detector of a configuration and its inputs, or for another that ``build`` makes."""
        detector = build(config, inputs.labels, anchors=anchors, mean=inputs.mean, std=inputs.std)
        return cls(config, fabric, detector, file_names=inputs.train.dataset.images.file_names)

    def take(self, parts: Sequence[Batch], *, rate: float, step: int = 0) -> dict[str, float]:
        """Learn from a batch, given in parts, and give its losses, their sum and the norm of the gradient.

        All are those of the whole batch, of all processes. What layers draw, such as those of stochastic depth, depends
        on the seed, the step and the process alone.

        Raises:
            TrainingError: the loss or its gradient is not finite. The weights are then as they were.
        """
        device = self.fabric.device
        seed = np.random.SeedSequence((self.config.seed, step, self.fabric.global_rank)).generate_state(1)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0]))  # noqa: TID251 - of a fork; layers know no other
            return self._take(parts, rate=rate)

    def _take(self, parts: Sequence[Batch], *, rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, float] = {}
        shares = self._shares(parts)
        for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(parts) - 1):
                losses = losses_of(self.model, part.to(self.fabric.device), self.config)
                for name, value in self._checked(losses, part).items():
                    sums[name] = sums.get(name, 0.0) + value * share
                self.fabric.backward(_total(losses) * share)
        norm = self._clipped_norm()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise TrainingError(f"the gradient is not finite (loss {sums}) on {self._names(parts)}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.detector)
        return {**sums, "grad_norm": norm}

    def diagnose(self, part: Batch, *, rate: float) -> Diagnosis:
        """Why nothing is learned from this batch, see :func:`detect.training.diagnosis.diagnose`."""
        batch = part.to(self.fabric.device)
        boxes = sum(len(image.boxes) for image in batch.targets)
        points = int((torch.as_tensor(batch.landmarks.visibility) > 0).sum())
        return diagnose(
            self.detector,
            lambda: _total(losses_of(self.detector, batch, self.config)),
            images=self.detector.normalise(batch.images),
            num_positives=points if self.config.task == "landmarks" else boxes,
            learning_rate=rate,
        )

    def state_dict(self) -> dict[str, Any]:
        """Weights, averaged weights and the optimiser's state."""
        return {
            "weights": self.detector.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.detector.load_state_dict(state["weights"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _shares(self, parts: Sequence[Batch]) -> list[float]:
        """What the losses of each part, which are divided by its own positives, weigh in those of the batch."""
        if len(parts) == 1:
            return [1.0]
        normalizers = []
        for part in parts:
            batch = part.to(self.fabric.device)
            positives = self.detector.num_positives(batch.images, _targets_of(batch, self.config))
            normalizers.append(float(batch_normalizer(positives)[0]))
        return [normalizer / sum(normalizers) for normalizer in normalizers]

    def _clipped_norm(self) -> float:
        """The norm of the gradient before it was clipped."""
        most = self.config.optimisation.clip_norm
        norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=most, error_if_nonfinite=False)
        return math.nan if norm is None else float(norm)

    def _checked(self, losses: Mapping[str, Tensor], part: Batch) -> dict[str, float]:
        """The losses as numbers, the same in all processes, so that all stop where one does."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.fabric.world_size > 1:
            values = torch.as_tensor(self.fabric.all_reduce(values, reduce_op="mean"))
        numbers = dict(zip(losses, values.tolist(), strict=True))
        if not all(map(math.isfinite, numbers.values())):
            told = ", ".join(f"{name} {number:g}" for name, number in numbers.items())
            raise TrainingError(f"the loss is not finite ({told}) on {self._names([part])}")
        return {"loss": sum(numbers.values()), **numbers}

    def _names(self, parts: Sequence[Batch]) -> str:
        """The files of a batch, of all processes, and which of them have pixels that are no numbers."""
        names, broken = [], []
        for part in parts:
            finite = torch.isfinite(part.images).flatten(1).all(dim=1)
            for row, is_finite in zip(part.image_rows.tolist(), finite.tolist(), strict=True):
                names.append(self.file_names[row])
                broken += [] if is_finite else [self.file_names[row]]
        if self.fabric.world_size > 1:
            gathered: list[Any] = [None] * self.fabric.world_size
            distributed.all_gather_object(gathered, (names, broken))
            names, broken = ([name for each in gathered for name in each[k]] for k in (0, 1))
        pixels = f" (pixels that are not finite: {', '.join(broken)})" if broken else ""
        return f"the batch of {', '.join(names)}{pixels}"


def losses_of(model: Any, batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """The losses of a batch by name; their sum is what is minimised."""
    images = batch.images.contiguous(memory_format=torch.channels_last)
    targets = _targets_of(batch, config)
    if config.task == "boxes":
        return dict(model.losses(images, targets)._asdict())
    ignored = [boxes + SHIFTS[config.data.pixel_origin] for boxes in batch.unlabelled]  # continuous
    return dict(model.losses(images, targets, ignored=ignored)._asdict())


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _targets_of(batch: Batch, config: TrainConfig) -> Any:
    """As the detector takes them: boxes, or points in indices of pixels."""
    if config.task == "boxes":
        return batch.targets
    points = batch.landmarks
    moved = points.points + (SHIFTS[config.data.pixel_origin] - SHIFTS["center"])
    return Keypoints(moved, points.image, points.types, points.visibility, points.num_images, points.num_types)


def _optimizer(detector: Detector, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); biases and the scales of norms do not decay."""
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.optimisation.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.optimisation.learning_rate)


DROP = 0.1  # of the step rule, at each milestone


def rate_factor(
    step: int,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """What the highest learning rate is multiplied by at a step, counted from 0.

    It rises linearly over the warm-up (Goyal et al. 2017, section 2.2), to 1 at its last step. Then it falls to 0 along half
    a cosine (Loshchilov and Hutter 2017, equation 5), or to a tenth at each milestone, a share of all steps.

    >>> [round(rate_factor(step, 10, warmup_steps=2), 3) for step in range(10)]
    [0.5, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0]
    >>> [round(rate_factor(step, 4, schedule="step", milestones=(0.5, 0.75)), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in {"cosine", "step"}:
        raise ValueError(f"schedule is 'cosine' or 'step', got {schedule!r}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step":
        return float(DROP ** sum(step >= share * num_steps for share in milestones))
    done = (step + 1 - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

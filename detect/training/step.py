"""One training step: losses, gradient, AdamW at a scheduled rate, and averaged weights, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

from detect.anchors.anchor_set import AnchorSet
from detect.conventions import ORIGIN_SHIFTS
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import TrainingError
from detect.loading.dataset import Batch
from detect.losses import mean_over_processes
from detect.training.builder import Detector, build_detector
from detect.training.checkpoints import Checkpoint
from detect.training.config import TrainConfig
from detect.training.diagnosis import Diagnosis, diagnose
from detect.training.initial_weights import take_weights
from detect.training.inputs import Inputs

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Build = Callable[..., Detector]
Tensors = tuple[Tensor, ...] | list[Tensor]

STEP_DECAY = 0.1  # factor of the step schedule at each milestone


def make_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and the scales of norms do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def average_weights(model: nn.Module, *, decay: float) -> AveragedModel:
    """Copy a model; each ``update_parameters(model)`` of the copy sets average <- d * average + (1 - d) * weight.

    At step t, counted from 0, d is (1 + t) / (10 + t) until that exceeds ``decay`` (TensorFlow's ExponentialMovingAverage
    with ``num_updates``), so that a short run forgets its initial weights. Buffers are copied. The copy, ``module``, is in
    evaluation mode.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> average = average_weights(model, decay=0.995)
    >>> _ = model.weight.data.fill_(1.0)
    >>> average.update_parameters(model)  # d = 1 / 10
    >>> round(average.module.weight.item(), 4)
    0.9
    """

    @torch.no_grad()
    def update(averages: Tensors, weights: Tensors, num_averaged: Tensor | int) -> None:
        step = int(num_averaged) - 1
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + step) / (10 + step)))

    average = AveragedModel(model, multi_avg_fn=update)
    average.update_parameters(model)  # the first update copies, so that step 0 is already an average
    average.module.eval().requires_grad_(False)
    return average


def rate_factor(
    step: int,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """The factor on the highest learning rate at a step, counted from 0.

    The rate rises linearly over the warm-up (Goyal et al. 2017, section 2.2) and reaches 1 at its last step. Then it falls
    to 0 along half a cosine (Loshchilov and Hutter 2017, equation 5), or to a tenth at each milestone, a share of all steps,
    or stays, if the schedule is constant.

    >>> [round(rate_factor(step, 10, warmup_steps=2), 3) for step in range(10)]
    [0.5, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0]
    >>> [round(rate_factor(step, 4, schedule="step", milestones=(0.5, 0.75)), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(STEP_DECAY ** sum(step >= share * num_steps for share in milestones))
    done = (step + 1 - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Stepper:
    """A detector with its optimizer and its averaged weights; ``build`` is called as :func:`build_detector`.

    The detector starts from the weights of ``initial`` that fit it; ``started_from`` says in a line which did.
    """

    def __init__(
        self,
        config: TrainConfig,
        fabric: Fabric,
        *,
        inputs: Inputs,
        anchors: AnchorSet | None,
        positive_weights: Sequence[float] | None = None,
        initial: Checkpoint | None = None,
        build: Build = build_detector,
    ) -> None:
        optimisation = config.optimisation
        self.config, self.fabric = config, fabric
        self.file_names = inputs.train.dataset.images.file_names
        detector = build(config, inputs.labels, anchors=anchors, mean=inputs.mean, std=inputs.std)
        self.started_from = (
            take_weights(detector, inputs.labels, initial, source=str(config.model.init)) if initial else None
        )
        self.positive_weights = positive_weights
        if isinstance(detector, RetinaNetDetector):
            detector.criterion.weigh_positives(positive_weights)
        self.detector = nn.utils.convert_conv2d_weight_memory_format(detector, torch.channels_last).train()
        optimizer = make_optimizer(
            self.detector, learning_rate=optimisation.learning_rate, weight_decay=optimisation.weight_decay
        )
        self.model, self.optimizer = fabric.setup(self.detector, optimizer)
        self.model.mark_forward_method("losses")
        self.average = average_weights(self.detector, decay=optimisation.ema_decay)

    @property
    def averaged_detector(self) -> Detector:
        """The detector with averaged weights, in evaluation mode."""
        return cast(Detector, self.average.module)

    def training_step(self, parts: Sequence[Batch], *, rate: float, step: int = 0) -> dict[str, float]:
        """Update the weights by a batch, given in parts; return its losses, their sum and the norm of the gradient.

        All numbers are for the whole batch, over all processes. Random layers, such as stochastic depth, depend only on the
        seed, the step and the process.

        Raises:
            TrainingError: the loss or its gradient is not finite, and the weights stay as they were; or memory is too small.
        """
        device = self.fabric.device
        seed = np.random.SeedSequence((self.config.seed, step, self.fabric.global_rank)).generate_state(1)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0]))  # noqa: TID251 - within the fork; layers draw from this generator only
            with _enough_memory(parts):
                losses = self._backward(parts)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.optimisation.clip_norm, error_if_nonfinite=False
        )
        if norm is None or not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise TrainingError(f"the gradient is not finite (loss {losses}) on {self._names(parts)}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.detector)
        return {**losses, "grad_norm": float(norm)}

    def _backward(self, parts: Sequence[Batch]) -> dict[str, float]:
        """Accumulate the gradients of all parts, and return the losses."""
        sums: dict[str, float] = {}
        total = 0.0
        for number, part in enumerate(parts):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(parts) - 1):
                losses = _losses(self.model, part.to(self.fabric.device), self.config)
                # a part's losses are divided by its own positives, not the batch's
                divisor = float(mean_over_processes(self.detector.divisor)) if len(parts) > 1 else 1.0
                for name, value in self._checked(losses, part).items():
                    sums[name] = sums.get(name, 0.0) + value * divisor
                self.fabric.backward(_total(losses) * divisor)
                total += divisor
        if len(parts) > 1:
            for parameter in self.detector.parameters():
                if parameter.grad is not None:
                    parameter.grad /= total
        return {name: value / total for name, value in sums.items()}

    def num_positives(self, part: Batch) -> Int64[Tensor, " b"]:
        """The number of positive anchors, or of points drawn, of each image of a batch."""
        batch = part.to(self.fabric.device)
        return self.detector.num_positives(batch.images, _targets(batch, self.config))

    def share_average(self) -> None:
        """Give the buffers of the averaged detector, such as running statistics, from the main process to all.

        Its weights are the same in all processes.
        """
        if self.fabric.world_size > 1:
            for buffer in self.averaged_detector.buffers():
                distributed.broadcast(buffer, 0)

    def diagnose(self, part: Batch, *, rate: float) -> Diagnosis:
        """Find out why nothing is learned from a batch, see :func:`detect.training.diagnosis.diagnose`."""
        batch = part.to(self.fabric.device)
        num_objects = sum(len(image.boxes) for image in batch.targets)
        if self.config.task == "landmarks":
            num_objects = int((torch.as_tensor(batch.keypoints.visibility) > 0).sum())
        return diagnose(
            self.detector,
            lambda: _total(_losses(self.detector, batch, self.config)),
            images=self.detector.normalise(batch.images),
            num_objects=num_objects,
            learning_rate=rate,
        )

    def state_dict(self) -> dict[str, Any]:
        """Weights, averaged weights and the state of the optimizer."""
        num_updates = int(self.average.n_averaged) - 1
        return {
            "weights": self.detector.state_dict(),
            "average": {"num_updates": num_updates, "weights": self.average.module.state_dict()},
            "optimizer": self.optimizer.state_dict(),
            "positive_weights": self.positive_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.detector.load_state_dict(state["weights"])
        self.average.module.load_state_dict(state["average"]["weights"])
        self.average.n_averaged.fill_(state["average"]["num_updates"] + 1)
        self.optimizer.load_state_dict(state["optimizer"])

    def _checked(self, losses: Mapping[str, Tensor], part: Batch) -> dict[str, float]:
        """The losses as numbers, the same in all processes, so that all processes stop together."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.fabric.world_size > 1:
            values = torch.as_tensor(self.fabric.all_reduce(values, reduce_op="mean"))
        numbers = dict(zip(losses, values.tolist(), strict=True))
        if not all(map(math.isfinite, numbers.values())):
            named = ", ".join(f"{name} {number:g}" for name, number in numbers.items())
            raise TrainingError(f"the loss is not finite ({named}) on {self._names([part])}")
        return {"loss": sum(numbers.values()), **numbers}

    def _names(self, parts: Sequence[Batch]) -> str:
        """The files of a batch, over all processes, and the files whose pixels are not finite."""
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


@contextmanager
def _enough_memory(parts: Sequence[Batch]) -> Iterator[None]:
    """Report that a batch needs too much memory, with the fields that lower it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "can't allocate memory")  # of CUDA and MPS, of the CPU
        if not (isinstance(error, MemoryError) or any(each in str(error) for each in words)):
            raise
        height, width = parts[0].images.shape[-2:]
        num_images = sum(map(len, parts))
        raise TrainingError(
            f"not enough memory for a batch of {num_images} images of {width}x{height} pixels in {len(parts)} parts: raise "
            "optimisation.accumulate (more parts), or lower optimisation.batch_size or the size of data.resize"
        ) from None


def _losses(model: Any, batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    options = {}
    if config.task == "landmarks":
        options["ignored"] = [
            boxes + ORIGIN_SHIFTS[config.data.pixel_origin] for boxes in batch.ignored_by_map()
        ]  # continuous
    images = batch.images.contiguous(memory_format=torch.channels_last)
    return dict(model.losses(images, _targets(batch, config), **options)._asdict())


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _targets(batch: Batch, config: TrainConfig) -> Any:
    """The targets that the detector takes: boxes, or points as pixel indices."""
    if config.task == "boxes":
        return batch.targets
    shift = ORIGIN_SHIFTS[config.data.pixel_origin] - ORIGIN_SHIFTS["center"]
    return replace(batch.keypoints, points=batch.keypoints.points + shift)

"""Overfit a few images: a quick check that a detector can learn at all, before hours are spent on training.

A loss near zero does not show that: a detector also fits labels that it cannot find. So the check runs the detector over the
images it has learned, and counts what it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detect.data import CocoResults
from detect.data.coco_reader import Progress
from detect.errors import ConfigError
from detect.evaluation.boxes import evaluate_boxes
from detect.evaluation.coco_points import evaluate_landmarks
from detect.loading.dataset import Batch, DetectionData, collate
from detect.loading.labels import LabelMap
from detect.training.builder import check_backbone, training_anchors, training_assignment, training_weights
from detect.training.config import TrainConfig
from detect.training.data_warnings import data_warnings
from detect.training.devices import launch
from detect.training.diagnosis import Diagnosis
from detect.training.inference import find_objects
from detect.training.initial_weights import initial_checkpoint
from detect.training.inputs import read_inputs
from detect.training.label_faults import countable_share, unlearnable, wrong_labels
from detect.training.step import Stepper
from detect.wording import plural

NUM_STEPS, MAX_STEPS = 300, 1500  # the second while the score rises
ROUNDS = 3  # in which NUM_STEPS are taken; the detector is evaluated after each
WARMUP_STEPS = 20
LAST_STEPS = 5  # the last loss is the mean over these
FOUND = 0.9  # a higher score passes: AP at IoU .5, or F1
RADIUS_PX = 5.0  # of F1, in pixels of the network's input
MAX_ANGLE_DEG = (
    10.0  # the median error of angles passes if it is not above; without learning it is a quarter of the period
)
RISE = 0.01  # of the score in two rounds, which is worth another; also of the angle error, as a share of 180 degrees


@dataclass(frozen=True)
class OverfitVerdict:
    """Whether a few images could be overfitted; if not, more data will not help.

    ``metric`` names the score, which must exceed ``needed``; it is None, like the losses and the diagnosis, if nothing was
    trained because the labels are ``wrong``. ``angle_error_deg`` is the median over the points found, which must not exceed
    ``MAX_ANGLE_DEG``; None without orientations, or without a point found whose angle is known. ``causes`` say why objects
    cannot be found.
    """

    num_images: int
    num_objects: int
    metric: str = ""
    needed: float = FOUND
    num_positives: int = 0
    num_steps: int = 0
    score: float | None = None
    angle_error_deg: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    wrong: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None

    @property
    def passed(self) -> bool:
        """Whether the labels are not wrong, there were positives, and the detector finds what it has learned."""
        is_found = (self.score or 0.0) > self.needed and (self.angle_error_deg or 0.0) <= MAX_ANGLE_DEG
        return not self.wrong and self.num_positives > 0 and is_found

    def to_text(self) -> str:
        """The verdict; if it failed, what failed, the causes and the diagnosis."""
        if self.wrong:
            return (
                "\n- ".join(["NOT learned by heart: nothing is trained on labels that are wrong:", *self.wrong]) + "\n"
            )
        angle = (
            "" if self.angle_error_deg is None else f" and a median angle error of {self.angle_error_deg:.1f} degrees"
        )
        amount = f"{plural(self.num_images, 'image')} after {plural(self.num_steps, 'step')}"
        score = f"{self.metric} {self.score:.3f}{angle} on {amount}"
        losses = f"loss {self.first_loss:.4g} -> {self.last_loss:.4g}"
        rest = f"{plural(self.num_objects, 'object')}, {plural(self.num_positives, 'positive')}, {losses}"
        if self.passed:
            return f"learned by heart: {score} ({rest})\n"
        most = f" and at most {MAX_ANGLE_DEG:g} degrees" if angle else ""
        needed = f"expected more than {self.needed:.3g}{most}"
        text = f"NOT learned by heart: {score}, {needed} ({rest}); more data will not help"
        causes = [*([] if self.num_positives else ["there are no positives, so nothing is learned"]), *self.causes]
        return "\n- ".join([text, *causes]) + f"\n{self.diagnosis.to_text() if self.diagnosis else ''}"


def overfit(
    config: TrainConfig,
    num_images: int,
    *,
    num_steps: int = NUM_STEPS,
    max_steps: int = MAX_STEPS,
    on_progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> OverfitVerdict:
    """Train on a few images with objects, all of them in each step, and count what the detector then finds in them.

    There is no augmentation, and the learning rate is constant. Training ends as soon as the score passes; after
    ``num_steps`` it goes on only while the score rises, up to ``max_steps``. The weights of the last step are evaluated, not
    their average. ``log`` is called with warnings about the data.
    """
    fabric = launch(config)
    if fabric.world_size > 1:
        raise ConfigError("--overfit runs in one process")
    check_backbone(config, log)
    initial = initial_checkpoint(config)
    inputs = read_inputs(config, initial=initial, overfit=num_images, on_progress=on_progress)
    if wrong := wrong_labels(inputs.train):
        return OverfitVerdict(num_images, len(inputs.train.without_broken().dataset.instances), wrong=tuple(wrong))
    anchors = training_anchors(config, inputs.train.dataset)
    assignment = training_assignment(config, inputs.train.dataset, anchors, on_progress=on_progress)
    weights = training_weights(config, assignment, dataset=inputs.train.dataset, labels=inputs.labels)
    if log:
        for line in data_warnings(config, inputs, assignment=assignment):
            log(line)
    stepper = Stepper(config, fabric, inputs=inputs, anchors=anchors, positive_weights=weights, initial=initial)
    if log and stepper.started_from:
        log(stepper.started_from)
    data = inputs.train.without_broken()
    batch = collate([data[place] for place in range(num_images)])
    check = _Check(config, stepper, labels=inputs.labels, data=data)
    for last_step in range(num_steps // ROUNDS, max_steps + 1, num_steps // ROUNDS):
        check.train(batch, last_step, on_progress)
        check.evaluate()
        if check.found or (last_step >= num_steps and not check.rises):
            break
    last = check.losses[-LAST_STEPS:]
    return OverfitVerdict(
        num_images=num_images,
        num_objects=check.num_objects,
        metric=check.metric,
        needed=check.needed,
        num_positives=int(stepper.num_positives(batch).sum()),
        num_steps=len(check.losses),
        score=check.scores[-1],
        angle_error_deg=check.angle_errors[-1],
        first_loss=check.losses[0],
        last_loss=sum(last) / len(last),
        causes=() if check.found else (*unlearnable(config, data, batch, anchors=anchors), *check.missed),
        diagnosis=stepper.diagnose(batch, rate=config.optimisation.learning_rate),
    )


class _Check:
    """A detector in training, with its losses, its score after each round, and what it misses."""

    def __init__(self, config: TrainConfig, stepper: Stepper, *, labels: LabelMap, data: DetectionData) -> None:
        self.config, self.stepper, self.labels, self.data = config, stepper, labels, data
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.angle_errors: list[float | None] = []  # medians in degrees
        self.missed: list[str] = []
        if config.task == "boxes":
            self.metric, self.needed = "AP50", FOUND * countable_share(data)
            self.num_objects = len(data.dataset.instances)
            return
        scale = float(data.resize.resize_images(data.dataset.images.wh).scale_xy.min())
        self.radius_px = RADIUS_PX / min(scale, 1.0)
        self.metric, self.needed = f"F1 at {self.radius_px:.3g} px", FOUND
        self.num_objects = sum(map(len, data.keypoints.landmarks.per_image())) if data.keypoints else 0

    @property
    def found(self) -> bool:
        """Whether the last score, and the last angle error if there is one, pass."""
        return self.scores[-1] > self.needed and (self.angle_errors[-1] or 0.0) <= MAX_ANGLE_DEG

    @property
    def rises(self) -> bool:
        """Whether the score or the share of angles' half turn that is right has risen lately."""
        shares = [0.0 if error is None else 1 - error / 180 for error in self.angle_errors]
        return _rises(self.scores) or _rises(shares)

    def train(self, batch: Batch, last_step: int, on_progress: Progress | None) -> None:
        """Train up to a step."""
        optimisation = self.config.optimisation
        while len(self.losses) < last_step:
            rate = optimisation.learning_rate * min(1.0, (len(self.losses) + 1) / WARMUP_STEPS)
            losses = self.stepper.training_step([batch], rate=rate, step=len(self.losses))
            self.losses.append(losses["loss"])
            if on_progress:
                score = f", {self.metric} {self.scores[-1]:.3f}" if self.scores else ""
                what = f"step {len(self.losses)}, loss {losses['loss']:.3f}{score}"
                on_progress(what, len(self.losses), last_step)

    def evaluate(self) -> None:
        """Score what the detector finds with the weights of the last step."""
        detector = self.stepper.detector.eval()
        results = find_objects(
            detector,
            self.data,
            labels=self.labels,
            batch_size=len(self.data),
            device=self.stepper.fabric.device,
            pixel_origin=self.config.data.pixel_origin,
        )
        detector.train()
        score, by_name, angle_error = self._scores(results)
        self.scores.append(score)
        self.angle_errors.append(angle_error)
        self.missed = []
        if len(by_name) > 1:
            low = [f"{name} {each:.3f}" for name, each in by_name.items() if each <= FOUND]
            self.missed = [f"not found ({self.metric}): {', '.join(low)}"] if low else []
        if not len(results.scores):
            model, boxes = self.config.model, self.config.task == "boxes"
            name, threshold = ("score_threshold", model.score_threshold) if boxes else ("threshold", model.threshold)
            self.missed = [f"nothing has a score above model.{name}={threshold}"]

    def _scores(self, results: CocoResults) -> tuple[float, dict[str, float], float | None]:
        """The score, that of each category or keypoint type that has objects, and the median error of angles."""
        if self.config.task == "boxes" or self.data.keypoints is None:
            boxes = evaluate_boxes(results, self.data.dataset)
            by_category = {self.data.dataset.category_name(key): each.ap50 for key, each in boxes.by_category.items()}
            return boxes.overall.ap50 or 0.0, {name: ap for name, ap in by_category.items() if ap is not None}, None
        points = evaluate_landmarks(results, self.data.keypoints, radii=[self.radius_px])
        by_type = {name: float(scores[0].micro.f1) for name, scores in points.by_type.items()}
        score = float(points.overall[0].micro.f1)
        by_name = {name: f1 for name, f1 in by_type.items() if not math.isnan(f1)}
        angle = points.overall[0].angle
        return (0.0 if math.isnan(score) else score), by_name, None if angle is None else angle.median


def _rises(scores: Sequence[float]) -> bool:
    """Whether one of the last two scores is higher than all before."""
    return max(scores[-2:]) > max([0.0, *scores[:-2]]) + RISE

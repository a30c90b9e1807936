"""The training loop: epochs of steps, measured, logged and saved, on one device or several.

A step depends only on the configuration, its number, and the state in a checkpoint: on one machine, a run that was killed
and resumed gives exactly the numbers of an uninterrupted one. The number of processes does not change a step's images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from detect.anchors.assignment import Assignment
from detect.data.coco_reader import Progress
from detect.errors import OutputError, TrainingError
from detect.files import locked, write_whole
from detect.loading.dataset import Batch, DetectionData
from detect.loading.sampling import image_loader
from detect.loading.sharing import from_main
from detect.training.builder import (
    build_detector,
    check_backbone,
    training_anchors,
    training_assignment,
    training_weights,
    without_weights,
)
from detect.training.checkpoints import (
    BEST,
    LAST,
    Checkpoint,
    RunState,
    check_same_data,
    check_same_run,
    differing_fields,
    fitting_parts,
    read_checkpoint,
    save_checkpoint,
)
from detect.training.config import TrainConfig
from detect.training.data_warnings import data_warnings
from detect.training.devices import launch
from detect.training.diagnosis import is_flat
from detect.training.inference import MAIN_METRIC, validate
from detect.training.initial_weights import initial_checkpoint
from detect.training.inputs import data_checksum, epoch_batches, read_inputs
from detect.training.logs import EPOCHS, STEPS, VALIDATION, ImageRate, RunLog
from detect.training.processes import check_alike, end_together
from detect.training.step import Build, Stepper, rate_factor
from detect.wording import listed, plural, significant

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Log = Callable[[str], None]

SCHEDULE = {"warmup_steps", "schedule", "milestones"}  # fields that are arguments of rate_factor
HOST_FIELDS = {"data.images", "data.val_images", "data.num_workers", "output.folder"}  # may differ between hosts
LOCK = "training.lock"  # in the folder while a process trains there
FLAT_ABOVE = 0.1  # share of the highest learning rate; below it a loss that hardly falls is normal


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The outcome of a run.

    ``metrics`` are from the last validation (empty without one), ``best`` is the best main metric: AP of boxes, F1 at 5
    pixels of landmarks. The main process is the one that writes files and messages.
    """

    folder: Path
    epochs: int
    steps: int
    metrics: Mapping[str, float]
    best: float | None
    stopped_early: bool
    seconds: float
    is_main: bool
    num_processes: int


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    on_progress: Progress | None = None,
    log: Log | None = None,
    build: Build = build_detector,
) -> TrainingResult:
    """Train a detector from the beginning, or from where a run was interrupted.

    The folder of the configuration gets ``last.pt`` after each epoch, ``best.pt`` after the best validation so far,
    ``config.yaml``, ``anchors.yaml`` (boxes only), ``steps.csv``, ``epochs.csv``, ``validation.csv`` and TensorBoard files.

    Args:
        resume: continue from ``last.pt``, if it exists.
        on_progress: called as ``on_progress(what, done, total)`` while images are checked, then after each step.
        log: called with lines for people.
        build: makes the detector; called as :func:`detect.training.builder.build_detector`. An experiment may pass its own:
            the configuration does not record it, so resuming needs the same one, and loading needs weights that fit.

    Raises:
        TrainingError: the loss is not finite, the folder already holds a run, or the run cannot be resumed.
        DetectError: data, anchors or configuration do not fit, see :mod:`detect.training.inputs`.

    Of several processes, each raises a TrainingError when one fails, see :func:`detect.training.processes.end_together`.
    """
    started = time.monotonic()
    fabric = launch(config)
    with end_together(), ExitStack() as stack:
        check_alike(config, _differing_on_hosts)
        from_main(lambda: stack.enter_context(locked(config.output.folder / LOCK, OutputError)))
        before = from_main(lambda: _last_checkpoint(config, resume))
        run = _Run(config, fabric, before=before, on_progress=on_progress, log=log, build=build)
        with run.open_tables() as run.tables:
            run.train_to_end()
    state = run.state
    return TrainingResult(
        folder=config.output.folder,
        epochs=state.epoch,
        steps=state.step,
        metrics=state.metrics,
        best=state.best,
        stopped_early=state.stopped,
        seconds=time.monotonic() - started,
        is_main=run.is_main,
        num_processes=fabric.world_size,
    )


def _differing_on_hosts(main: TrainConfig, other: TrainConfig) -> str:
    return ", ".join(differing_fields(main, other, but=HOST_FIELDS))


def _differing_data(main: int, other: int) -> str:
    return (
        ""
        if main == other
        else "the labels or the usable images of data.train or data.val differ; copy the same files to both"
    )


def _last_checkpoint(config: TrainConfig, resume: bool) -> Checkpoint | None:
    """The checkpoint to resume from, if any; raises TrainingError if the folder holds another run, or one not to resume."""
    last = config.output.folder / LAST
    if not last.exists():
        return None
    if not resume:
        raise TrainingError(f"{config.output.folder} holds a run: --resume it, delete it or set output.folder")
    before = read_checkpoint(last)
    check_same_run(last, before=before.config, now=config)
    return before


class _Run:
    """The parts of a run: data, detector, state and outputs. Only the main process has outputs."""

    tables: RunLog | None = None

    def __init__(
        self,
        config: TrainConfig,
        fabric: Fabric,
        *,
        before: Checkpoint | None,
        on_progress: Progress | None,
        log: Log | None,
        build: Build,
    ) -> None:
        self.config, self.fabric = config, fabric
        self.is_main = bool(fabric.is_global_zero)
        self.on_progress = on_progress if self.is_main else None
        self.log = log if log and self.is_main else lambda _: None
        self.last = config.output.folder / LAST
        if not before:
            check_backbone(config, self.log)
        initial = before or from_main(lambda: initial_checkpoint(config))
        self.inputs = read_inputs(config, initial=initial, on_progress=self.on_progress)
        check_alike(data_checksum(self.inputs), _differing_data)
        dataset = self.inputs.train.dataset
        if before:
            check_same_data(self.last, before, labels=self.inputs.labels, num_images=len(self.inputs.train))
        self.anchors = before.anchors if before else from_main(lambda: training_anchors(config, dataset))
        self.assignment: Assignment | None = None
        weights = before.positive_weights if before else from_main(self.assign_anchors)
        self.stepper = Stepper(
            without_weights(config) if before else config,
            fabric,
            inputs=self.inputs,
            anchors=self.anchors,
            positive_weights=weights,
            initial=None if before else initial,
            build=build,
        )
        if self.stepper.started_from:
            self.log(self.stepper.started_from)
        self.state, self.speed = RunState(), ImageRate()
        if before and before.training:
            with fitting_parts(self.last, "its state of training does not fit"):
                self.state = RunState.resumed(before.training["state"], patience=config.optimisation.patience)
                self.stepper.load_state_dict(before.training["stepper"])
            self.log(f"resumed after step {self.state.step}")
        self.batches = epoch_batches(config, self.inputs.train, fabric)
        self.loader = image_loader(self.inputs.train, self.batches, num_workers=config.data.num_workers)
        self.num_steps = config.optimisation.epochs * self.batches.num_batches
        if self.is_main and not before:
            self.log_warnings()

    def log_warnings(self) -> None:
        """Log what is wrong with the data, and a warm-up that takes most of the run."""
        for line in data_warnings(self.config, self.inputs, assignment=self.assignment):
            self.log(line)
        warmup_steps = self.config.optimisation.warmup_steps
        if 2 * warmup_steps > self.num_steps:
            self.log(
                f"the learning rate rises for optimisation.warmup_steps={warmup_steps} of the run's {self.num_steps} steps: "
                "train for more epochs, or lower it"
            )

    def assign_anchors(self) -> Sequence[float] | None:
        """Find what the anchors learn, for warnings; return the weight of each class's positive anchors, which is logged."""
        config, labels, dataset = self.config, self.inputs.labels, self.inputs.train.dataset
        self.assignment = training_assignment(config, dataset, self.anchors, on_progress=self.on_progress)
        weights = training_weights(config, self.assignment, dataset=dataset, labels=labels)
        if weights:
            named = [f"{name} {weight:.2f}" for name, weight in zip(labels.category_names, weights, strict=True)]
            self.log(f"weights of positive anchors: {listed(named, most=8)}")
        return weights

    def open_tables(self) -> RunLog | nullcontext[None]:
        """Open the tables, and write the configuration and the anchors, in the main process."""
        output = self.config.output
        if not self.is_main:
            return nullcontext()
        mid_epoch = self.state.batch > 0
        tables = RunLog(output.folder, from_step=self.state.step, mid_epoch=mid_epoch, tensorboard=output.tensorboard)
        write_whole(output.folder / "config.yaml", self.config.to_yaml())
        if self.anchors and not self.state.step:  # a checkpoint does not hold all that the file says of them
            self.anchors.save(output.folder / "anchors.yaml")
        return tables

    def train_to_end(self) -> None:
        """Run the remaining epochs."""
        while self.state.epoch < self.config.optimisation.epochs and not self.state.stopped:
            began = time.monotonic()
            self.train_epoch()
            self.end_epoch(time.monotonic() - began)
            self.save(LAST)

    def train_epoch(self) -> None:
        """Run the remaining steps of the epoch."""
        state, save_steps = self.state, self.config.output.save_steps
        self.batches.start_at(state.epoch, state.batch)
        self.speed.begin_epoch()
        loaded = iter(self.loader)
        while parts := list(islice(loaded, self.config.optimisation.accumulate)):
            optimisation = self.config.optimisation
            factor = rate_factor(state.step, self.num_steps, **optimisation.model_dump(include=SCHEDULE))
            rate = optimisation.learning_rate * factor
            try:
                losses = self.stepper.training_step(parts, rate=rate, step=state.step)
            except TrainingError as error:
                saved = f"{self.last} is from before" if self.last.exists() else "no checkpoint was written before"
                raise TrainingError(f"epoch {state.epoch + 1}, step {state.step + 1}: {error}; {saved}") from None
            state.step, state.batch = state.step + 1, state.batch + 1
            for name, value in losses.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            self.report_step(losses, rate)
            if save_steps and state.step % save_steps == 0:
                self.save(LAST)
            self.diagnose_if_flat(parts[0], rate)

    def report_step(self, losses: Mapping[str, float], rate: float) -> None:
        """Write a row of the step, and show progress."""
        epoch, step = self.state.epoch + 1, self.state.step
        images_per_s = self.speed.after_step(self.config.optimisation.batch_size)
        if self.tables:
            self.tables.write(STEPS, step, {"epoch": epoch, "learning_rate": rate, **losses})
        if self.on_progress:
            where = f"epoch {epoch}/{self.config.optimisation.epochs}, step {step}/{self.num_steps}"
            what = f"{where}, loss {losses['loss']:.3f}, {significant(images_per_s, 3)} images/s"
            self.on_progress(what, step, self.num_steps)

    def diagnose_if_flat(self, batch: Batch, rate: float) -> None:
        """Diagnose once, while the rate is still high, why the loss has stopped falling."""
        state, optimisation = self.state, self.config.optimisation
        if state.flat_reported or state.batch != 1 or rate < FLAT_ABOVE * optimisation.learning_rate:
            return
        if not is_flat(state.epoch_losses, epochs=optimisation.flat_epochs):
            return
        state.flat_reported = True
        text = self.stepper.diagnose(batch, rate=rate).to_text()  # in all processes: they share the number of positives
        if self.is_main:
            write_whole(self.config.output.folder / "diagnosis.txt", text)
            self.log(
                f"the loss has not fallen for {plural(optimisation.flat_epochs, 'epoch')}; diagnosis.txt says:\n{text}"
            )

    def end_epoch(self, seconds: float) -> None:
        """Write the means of the epoch, and validate if it is due."""
        state, output = self.state, self.config.output
        means = {name: value / state.batch for name, value in state.sums.items()}
        if self.tables:
            self.tables.write(EPOCHS, state.step, {"epoch": state.epoch + 1, **means, "seconds": round(seconds, 3)})
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
        state.epoch_losses.append(means["loss"])
        is_last = state.epoch == self.config.optimisation.epochs
        if self.inputs.val is not None and (is_last or state.epoch % output.validate_epochs == 0):
            self.validate(self.inputs.val)

    def validate(self, data: DetectionData) -> None:
        """Measure the averaged weights, save them if they are the best, and stop without progress."""
        state = self.state
        self.stepper.share_average()
        state.metrics = self.measure(data)
        main = state.metrics[MAIN_METRIC[self.config.task]]
        if not math.isnan(main) and (state.best is None or main > state.best):
            state.best, state.validations_since_best = main, 0
            self.save(BEST)
        else:
            state.validations_since_best += 1
        state.stopped = state.out_of_patience(self.config.optimisation.patience)
        if self.tables:
            self.tables.write(VALIDATION, state.step, {"epoch": state.epoch, **state.metrics})
        known = [f"{name} {value:.3f}" for name, value in state.metrics.items() if not math.isnan(value)]
        self.log(f"epoch {state.epoch}: {', '.join(known)}")

    def measure(self, data: DetectionData) -> dict[str, float]:
        """The metrics of the averaged weights."""
        optimisation = self.config.optimisation
        return validate(
            self.stepper.averaged_detector,
            data,
            labels=self.inputs.labels,
            batch_size=optimisation.batch_size // (self.fabric.world_size * optimisation.accumulate),
            device=self.fabric.device,
            num_workers=self.config.data.num_workers,
            pixel_origin=self.config.data.pixel_origin,
            on_progress=self.on_progress,
        )

    def save(self, name: str) -> None:
        """Write a checkpoint; only the last one holds the state of training."""
        if not self.is_main:
            return
        state, training = self.state, None
        if name == LAST:
            images = len(self.inputs.train)
            training = {"state": asdict(state), "stepper": self.stepper.state_dict(), "images": images}
        weights = self.stepper.averaged_detector.state_dict()
        checkpoint = Checkpoint(
            self.config, self.inputs.labels, self.anchors, weights, state.step, state.metrics, training=training
        )
        save_checkpoint(self.config.output.folder / name, checkpoint)

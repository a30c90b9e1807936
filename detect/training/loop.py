"""The training loop: epochs of steps, measured, logged and saved, on one device or several.

All that a step depends on is the configuration, its number, and the state that a checkpoint holds: a run that was killed and
is resumed gives, on the same machine, the very numbers of one that was not. Each step learns from the same images however
many processes there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from detect.data.coco_reader import Progress
from detect.errors import TrainingError
from detect.files import write_whole
from detect.loading.dataset import Batch
from detect.training.builder import build_detector, training_anchors
from detect.training.checkpoints import (
    BEST,
    LAST,
    Checkpoint,
    RunState,
    TrainingResult,
    check_same_data,
    check_same_run,
    read_checkpoint,
    save_checkpoint,
)
from detect.training.config import TrainConfig
from detect.training.diagnosis import is_flat
from detect.training.inference import MAIN_METRIC, validate
from detect.training.inputs import notices, read_inputs
from detect.training.loaders import epoch_batches, in_groups, part_loader
from detect.training.logs import EPOCHS, STEPS, VALIDATION, RunLog
from detect.training.step import Build, Stepper, launch, rate_factor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Note = Callable[[str], None]

FLAT_ABOVE = 0.1  # of the highest learning rate: below, a loss that hardly falls is ordinary


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    on_progress: Progress | None = None,
    note: Note | None = None,
    build: Build = build_detector,
) -> TrainingResult:
    """Train a detector, from the beginning or from where a run was cut short.

    The folder of the configuration gets ``last.pt`` after each epoch, ``best.pt`` when a validation is the best so far,
    ``config.yaml``, of a box run ``anchors.yaml``, ``steps.csv``, ``epochs.csv``, ``validation.csv``, and TensorBoard's.

    Args:
        config: of the run.
        resume: go on from ``last.pt``, where there is one.
        progress: called as ``progress(what, done, total)``: images that are checked, then steps.
        note: called with lines for people.
        build: makes the detector, called as :func:`detect.training.builder.build_detector`; experiments put in their own.
            What it makes is not in the configuration: checkpoints are resumed with the same, and loaded if the weights fit.

    Raises:
        TrainingError: the loss is not finite; a run is there already; or it cannot be resumed.
        DetectError: data, anchors or configuration that do not fit, see :mod:`detect.training.inputs`.
    """
    started = time.monotonic()
    last = last_of(config)
    before = read_checkpoint(last) if resume and last.exists() else None
    if before:
        check_same_run(last, before.config, config)
    elif last.exists():
        raise TrainingError(f"{config.output.folder} holds a run: --resume it, delete it or set output.folder")
    fabric = launch(config)
    run = _Run(config, fabric, before, on_progress, note, build)
    fabric.barrier()  # all have read what one is about to write
    with run.open_log() as run.log:
        run.go()
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


def last_of(config: TrainConfig) -> Path:
    """The checkpoint of a run's last epoch."""
    return config.output.folder / LAST


class _Run:
    """Everything that a run has in its hands."""

    log: RunLog | None = None

    def __init__(
        self,
        config: TrainConfig,
        fabric: Fabric,
        before: Checkpoint | None,
        on_progress: Progress | None,
        note: Note | None,
        build: Build,
    ) -> None:
        self.config, self.fabric = config, fabric
        self.is_main = bool(fabric.is_global_zero)
        self.on_progress = on_progress if self.is_main else None
        self.note = note if note and self.is_main else lambda _: None
        self.inputs = read_inputs(config, on_progress=self.on_progress)
        if before:
            check_same_data(last_of(config), before, self.inputs.labels, len(self.inputs.train))
        self.anchors = before.anchors if before else training_anchors(config, self.inputs.train.dataset)
        self.stepper = Stepper.of(config, fabric, self.inputs, self.anchors, build)
        self.state = RunState()
        if before and before.training:
            self.state = RunState(**before.training["state"])
            self.state.stopped = self.state.is_out_of(config.optimisation.patience)
            self.stepper.load_state_dict(before.training["stepper"])
            self.note(f"resumed after step {self.state.step}")
        self.batches = epoch_batches(config, self.inputs.train, fabric)
        self.loader = part_loader(config, self.inputs.train, self.batches)
        for line in notices(config, self.inputs, self.anchors) if self.is_main and not before else ():
            self.note(line)

    def open_log(self) -> RunLog | nullcontext[None]:
        """The run's tables, which one process writes."""
        output = self.config.output
        if not self.is_main:
            return nullcontext()
        log = RunLog(
            output.folder,
            from_step=self.state.step,
            mid_epoch=self.state.batch > 0,
            tensorboard=output.tensorboard,
        )
        write_whole(output.folder / "config.yaml", self.config.to_yaml())
        if self.anchors:
            self.anchors.save(output.folder / "anchors.yaml")
        return log

    def go(self) -> None:
        """Train to the end."""
        while self.state.epoch < self.config.optimisation.epochs and not self.state.stopped:
            began = time.monotonic()
            self.train_epoch()
            self.end_epoch(time.monotonic() - began)
            self.save(LAST)

    def train_epoch(self) -> None:
        """The steps of the epoch that are left."""
        state, accumulate = self.state, self.config.optimisation.accumulate
        self.batches.start_at(state.epoch, state.batch)
        for parts in in_groups(iter(self.loader), accumulate):
            rate = self.rate()
            try:
                losses = self.stepper.take(parts, rate=rate, step=state.step)
            except TrainingError as error:
                raise TrainingError(
                    f"epoch {state.epoch + 1}, step {state.step + 1}: {error}; {self._kept()}"
                ) from None
            state.step, state.batch = state.step + 1, state.batch + 1
            for name, value in losses.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            self._tell(losses, rate)
            if self.config.output.save_steps and state.step % self.config.output.save_steps == 0:
                self.save(LAST)
            self._look_if_flat(parts[0], rate)

    def end_epoch(self, seconds: float) -> None:
        """Means of the epoch, and a validation where it is time for one."""
        state, output = self.state, self.config.output
        means = {name: value / state.batch for name, value in state.sums.items()}
        if self.log:
            self.log.write(EPOCHS, state.step, {"epoch": state.epoch + 1, **means, "seconds": round(seconds, 3)})
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
        state.epoch_losses.append(means["loss"])
        is_last = state.epoch == self.config.optimisation.epochs
        if self.inputs.val is not None and (is_last or state.epoch % output.validate_epochs == 0):
            self.validate()

    def validate(self) -> None:
        """Measure the averaged weights, in one process for all; keep the best, and see whether it gets no better."""
        state, data = self.state, self.config.data
        metrics: dict[str, float] = {}
        if self.is_main and self.inputs.val is not None:
            metrics = validate(
                self.stepper.average.model,
                self.inputs.val,
                self.inputs.labels,
                batch_size=self.batch_size_at_once,
                device=self.fabric.device,
                num_workers=data.num_workers,
                pixel_origin=data.pixel_origin,
            )
        state.metrics = self.fabric.broadcast(metrics)
        main = state.metrics[MAIN_METRIC[self.config.task]]
        if main == main and (state.best is None or main > state.best):  # noqa: PLR0124 - not NaN
            state.best, state.validations_since_best = main, 0
            self.save(BEST)
        else:
            state.validations_since_best += 1
        state.stopped = state.is_out_of(self.config.optimisation.patience)
        if self.log:
            self.log.write(VALIDATION, state.step, {"epoch": state.epoch, **state.metrics})
        self.note(f"epoch {state.epoch}: " + ", ".join(f"{name} {value:.3f}" for name, value in state.metrics.items()))

    @property
    def batch_size_at_once(self) -> int:
        """Images that a device holds in training."""
        optimisation = self.config.optimisation
        return optimisation.batch_size // (self.fabric.world_size * optimisation.accumulate)

    def rate(self) -> float:
        """The learning rate of the step to come."""
        optimisation = self.config.optimisation
        factor = rate_factor(
            self.state.step,
            optimisation.epochs * self.batches.num_batches,
            warmup_steps=optimisation.warmup_steps,
            schedule=optimisation.schedule,
            milestones=optimisation.milestones,
        )
        return optimisation.learning_rate * factor

    def save(self, name: str) -> None:
        """Write a checkpoint; only that of the last step has what training needs."""
        if not self.is_main:
            return
        state, training = self.state, None
        if name == LAST:
            images = len(self.inputs.train)
            training = {"state": asdict(state), "stepper": self.stepper.state_dict(), "images": images}
        weights = self.stepper.average.model.state_dict()
        checkpoint = Checkpoint(
            self.config, self.inputs.labels, self.anchors, weights, state.step, state.metrics, training
        )
        save_checkpoint(self.config.output.folder / name, checkpoint)

    def _tell(self, losses: Mapping[str, float], rate: float) -> None:
        state, epochs = self.state, self.config.optimisation.epochs
        if self.log:
            self.log.write(STEPS, state.step, {"epoch": state.epoch + 1, "learning_rate": rate, **losses})
        if self.on_progress:
            what = f"epoch {state.epoch + 1}/{epochs}, loss {losses['loss']:.3f}"
            self.on_progress(what, state.step, epochs * self.batches.num_batches)

    def _look_if_flat(self, batch: Batch, rate: float) -> None:
        """Say once why learning may have stopped, while the rate is still high."""
        state, optimisation = self.state, self.config.optimisation
        if state.told_flat or state.batch != 1 or rate < FLAT_ABOVE * optimisation.learning_rate:
            return
        if not is_flat(state.epoch_losses, optimisation.flat_epochs):
            return
        state.told_flat = True
        text = self.stepper.diagnose(batch, rate=rate).to_text()  # all processes, which divide by common positives
        if self.is_main:
            write_whole(self.config.output.folder / "diagnosis.txt", text)
            self.note(f"the loss has not fallen for {optimisation.flat_epochs} epochs; diagnosis.txt says:\n{text}")

    def _kept(self) -> str:
        last = last_of(self.config)
        return f"{last} is from before" if last.exists() else "no checkpoint was written before"

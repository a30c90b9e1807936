"""Tables and curves of a run."""

from __future__ import annotations

import pytest

from detect.errors import OutputError
from detect.training.logs import RATE_STEPS, ImageRate, RunLog, read_log


def test_rows_are_on_disk_at_once_with_their_header(tmp_path):
    with RunLog(tmp_path / "run", tensorboard=False) as log:
        log.write("steps", 1, {"loss": 0.1 + 0.2, "rate": 0.1})
        log.write("steps", 2, {"loss": 1.5, "rate": float("nan")})
        assert (tmp_path / "run" / "steps.csv").read_text() == "step,loss,rate\n1,0.30000000000000004,0.1\n2,1.5,\n"
    first, second = read_log(tmp_path / "run" / "steps.csv")
    assert (first, second) == ({"step": 1, "loss": 0.1 + 0.2, "rate": 0.1}, {"step": 2, "loss": 1.5})


def test_a_resumed_log_loses_what_came_after_the_checkpoint_and_half_a_row(tmp_path):
    (tmp_path / "steps.csv").write_text("step,loss\n1,3\n2,2\n3,1\n4,0.")
    (tmp_path / "epochs.csv").write_text("step,loss\n3,2\n")
    log = RunLog(tmp_path, from_step=2, tensorboard=False)
    log.write("steps", 3, {"loss": 1.25})
    assert (tmp_path / "steps.csv").read_text() == "step,loss\n1,3\n2,2\n3,1.25\n"
    assert not (tmp_path / "epochs.csv").exists()


def test_tensorboard_reads_the_curves(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLog(tmp_path) as log:
        log.write("steps", 1, {"loss": 2.5})
        log.write("steps", 2, {"loss": 1.5, "rate": None})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("steps/loss")] == [(1, 2.5), (2, 1.5)]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        RunLog(tmp_path / "file" / "run")


def test_the_speed_is_that_of_the_last_steps_of_the_epoch():
    now = 100.0
    rate = ImageRate(clock=lambda: now)
    rate.begin_epoch()
    for _ in range(RATE_STEPS):
        now += 2.0
        assert rate.after_step(8) == pytest.approx(4.0)
    for _ in range(RATE_STEPS):
        now += 1.0
        speed = rate.after_step(8)
    assert speed == pytest.approx(8.0)  # the slow steps are forgotten
    now += 1000.0  # validation
    rate.begin_epoch()
    now += 1.0
    assert rate.after_step(16) == pytest.approx(16.0)

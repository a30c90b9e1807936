"""Whole runs in two processes, on one host and on two: what one process learns, and what is left when one is killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import (
    ON_ONE_HOST,
    TOOL,
    TwoHosts,
    assert_alike,
    assert_same_run,
    run_python,
    two_hosts,
)

from detect.training.checkpoints import read_checkpoint
from detect.training.logs import read_log
from detect.training.loop import LOCK, train

FIELDS = ("optimisation.epochs=2", "output.save_steps=3")  # of four steps
KILLED_AFTER = 7  # steps, in the middle of the second epoch; the last checkpoint is of step 6
KILLED = """
import os, signal, sys
from detect.cli.app import main
from detect.training.step import Stepper

take = Stepper.training_step
def training_step(self, parts, *, step, **options):
    if step == int(os.environ["KILLED_AFTER"]) and os.environ["RANK"] == os.environ["KILLED"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, parts, step=step, **options)

Stepper.training_step = training_step
sys.argv[1:1] = ["train"]
main()
"""
Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def files(tiny, tmp_path) -> tuple[Path, Path]:
    """The configuration of a run, and a program that trains by it but kills a process."""
    (tmp_path / "run.yaml").write_text(tiny(*FIELDS).to_yaml())
    (tmp_path / "killed.py").write_text(KILLED)
    return tmp_path / "run.yaml", tmp_path / "killed.py"


def killed(rank: int) -> dict[str, str]:
    return {"KILLED": str(rank), "KILLED_AFTER": str(KILLED_AFTER)}


def assert_ended_with_a_word(survivor: Ended, rank: int) -> None:
    """One line names the killed process and says how to go on, and torchrun's report repeats it."""
    assert survivor.returncode == 1
    lines = [line for line in survivor.stderr.splitlines() if f"rank {rank} (host " in line]
    said, repeated = lines
    assert said.startswith("detect: ")
    assert repeated == f"  traceback : {said}"
    assert "start the run again on every host with --resume" in said
    assert "pair.cc" not in survivor.stderr  # where gloo's own message is from


def assert_nothing_is_half_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {
        LOCK
    } == {  # a killed process leaves its lock, which holds nobody up
        *("anchors.yaml", "best.pt", "config.yaml", "epochs.csv", "last.pt", "steps.csv", "validation.csv")
    }
    assert read_checkpoint(folder / "last.pt").step == 6
    assert [row["step"] for row in read_log(folder / "steps.csv")] == list(range(1, KILLED_AFTER + 1))


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_when_one_was_killed(tiny, files, tmp_path):
    config, program = files
    train(tiny(*FIELDS, f"output.folder={tmp_path / 'one'}"))
    two, cut = (f"output.folder={tmp_path / name}" for name in ("two", "cut"))
    whole = run_python(*ON_ONE_HOST, TOOL, config, two, "--json")
    assert whole.returncode == 0, whole.stderr
    (said,) = [line for line in whole.stdout.splitlines() if line.startswith("{")]  # one of them speaks
    assert json.loads(said)["steps"] == 8
    assert_alike(tmp_path / "one", tmp_path / "two")
    assert_ended_with_a_word(run_python(*ON_ONE_HOST, program, config, cut, **killed(1)), 1)
    assert_nothing_is_half_written(tmp_path / "cut")
    resumed = run_python(*ON_ONE_HOST, TOOL, config, cut, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step 6" in resumed.stderr
    assert_same_run(tmp_path / "two", tmp_path / "cut")


@pytest.mark.slow
def test_two_hosts_learn_what_one_process_does_and_go_on_when_the_first_was_killed(hosts, tiny, files, tmp_path):
    config, program = files
    train(tiny(*FIELDS, f"output.folder={tmp_path / 'one'}"))

    def command(tool: Path, name: str, *options: str) -> Callable[[int], list[object]]:
        """The second host does not share the folder that the first one writes."""
        folders = (tmp_path / name, tmp_path / "second host" / name)
        return lambda host: [tool, config, f"output.folder={folders[host]}", *options]

    for whole in hosts.torchrun(command(TOOL, "two")):
        assert whole.returncode == 0, whole.stderr
    assert_alike(tmp_path / "one", tmp_path / "two")
    first, second = hosts.torchrun(command(program, "cut"), **killed(0))
    assert first.returncode == 1
    assert "exitcode  : -9" in first.stderr
    assert_ended_with_a_word(second, 0)
    assert_nothing_is_half_written(tmp_path / "cut")
    for resumed in hosts.torchrun(command(TOOL, "cut", "--resume")):
        assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "two", tmp_path / "cut")
    assert not (tmp_path / "second host").exists()


@pytest.mark.slow
def test_hosts_that_read_different_things_are_told_so(hosts, files, tmp_path):
    config, _ = files
    for ended in hosts.torchrun(lambda host: [TOOL, config, f"seed={host}"]):
        assert ended.returncode == 1
        (said,) = [line for line in ended.stderr.splitlines() if line.startswith("detect: ")]
        assert said.startswith("detect: rank 1 (host ")
        assert said.endswith("): seed")
    assert not (tmp_path / "run").exists()

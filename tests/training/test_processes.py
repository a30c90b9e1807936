"""Processes end together, and their messages name the one that failed; whole runs are in tests/test_two_hosts.py."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable

import pytest
from process_groups import IN_PROCESSES
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from detect.training.processes import check_alike, end_together, is_first_to_say, tell_torchrun

TOGETHER = """
import torch
from detect.errors import ConfigError
from detect.training import processes
processes.SILENT_S = 1.0

def body(rank):
    with processes.end_together():
        say(f"{{rank}} {{os.getpid()}}")
        distributed.barrier()
        {what}
        distributed.all_reduce(torch.ones(1))

in_processes(3, body, {options})
"""
CALLS = """
import torch
from detect.training.processes import check_alike, is_first_to_say
in_processes({count}, lambda rank: {call})
"""


@pytest.fixture
def messages(fresh_python) -> Callable[..., dict[int, str]]:
    """What each of three processes raises; {1} in it stands for the name of the second one."""

    def run(what: str, options: str = "") -> dict[int, str]:
        lines = fresh_python(IN_PROCESSES + TOGETHER.format(what=what, options=options)).splitlines()
        said = [line.split(" ", 1) for line in lines]
        (process,) = [text for rank, text in said if rank == "1" and text.isdigit()]
        name = f"rank 1 (host {socket.gethostname()}, process {process})"
        return {int(rank): text.replace(name, "{1}") for rank, text in said if not text.isdigit()}

    return run


def test_the_others_name_the_killed_process_and_none_that_is_busy(messages):
    said = messages("rank == 1 and os.kill(os.getpid(), signal.SIGKILL); rank == 2 and time.sleep(3)")
    assert said.keys() == {0, 2}
    for text in said.values():
        assert text.startswith(
            "TrainingError: {1} was killed or does not answer; start the run again on every host with"
        )


@pytest.mark.slow
def test_a_process_that_hangs_is_named_when_the_others_have_waited_for_long(messages):
    said = messages("rank == 1 and os.kill(os.getpid(), signal.SIGSTOP)", "timeout_s=4, never_ends=1")
    assert said.keys() == {0, 2}
    assert all(text.startswith("TrainingError: {1} was killed or does not answer") for text in said.values())


@pytest.mark.slow
def test_a_process_that_lives_but_is_late_is_told_how_to_be_waited_for(messages):
    said = messages("rank == 1 and time.sleep(8)", "timeout_s=4")
    assert said.keys() == {0, 1, 2}
    assert sum("longer than optimisation.timeout_minutes, although all" in said[rank] for rank in (0, 2)) >= 1
    assert all("--resume" in text for text in said.values())


@pytest.mark.parametrize(
    ("what", "own", "of_others"),
    [
        ("raise ConfigError('no image')", "TrainingError: {1}: no image", "TrainingError: {1}: no image"),
        ("raise KeyError('x')", "KeyError: 'x'", "TrainingError: {1}: KeyError: 'x'"),  # a bug keeps its traceback
        ("os.kill(os.getpid(), signal.SIGTERM)", "TrainingError: ended by SIGTERM", "TrainingError: {1}: ended by"),
    ],
)
def test_the_message_of_the_one_that_failed_is_everyone_s(messages, what, own, of_others):
    said = messages(f"if rank == 1: {what}")
    assert said.keys() == {0, 1, 2}
    assert said[1].startswith(own)
    assert said[0].startswith(of_others)
    assert said[2].startswith(of_others)


def test_a_failure_of_all_has_no_name(messages):
    assert messages("raise ConfigError('no such field')") == dict.fromkeys(range(3), "TrainingError: no such field")


def test_a_store_that_is_gone_took_a_process_with_it(messages):
    said = messages("time.sleep(2); rank == 1 and os._exit(1)", "store_ends=True")
    assert said.keys() == {0, 2}
    for text in said.values():
        assert text.startswith("TrainingError: torchrun at 127.0.0.1 has ended or cannot be reached, and one of ")
        assert "{1}" in text


def test_contents_that_differ_name_the_process_that_has_them(fresh_python):
    call = "check_alike(7 + rank // 2, lambda main, other: '' if main == other else f'{main} is not {other}')"
    lines = fresh_python(IN_PROCESSES + CALLS.format(count=3, call=call)).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.split(" ", 1)[1].startswith("TrainingError: rank 2 (host ")
        assert ") does not have the inputs of rank 0 (host " in line
        assert line.endswith("): 7 is not 8")
    check_alike(7, lambda main, other: "differ")  # there is no other


def test_one_process_of_each_host_says_what_all_would(fresh_python):
    call = "say((is_first_to_say('a'), is_first_to_say(f'b{rank}'))) or distributed.barrier()"
    said = fresh_python(IN_PROCESSES + CALLS.format(count=3, call=call)).splitlines()
    assert sorted(said) == ["(False, True)", "(True, True)", "(True, True)"]  # of two on the first host, and one


def test_a_process_alone_says_all_and_is_ended_as_ever():
    before = signal.getsignal(signal.SIGTERM)
    with end_together():
        assert signal.getsignal(signal.SIGTERM) == before
    assert is_first_to_say("a")
    assert is_first_to_say("a")


def test_torchrun_reports_the_text(tmp_path, monkeypatch):
    tell_torchrun("nobody reads this")
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    tell_torchrun("detect: rank 1 was killed")
    failure = ProcessFailure(local_rank=0, pid=4, exitcode=2, error_file=str(file))
    assert "traceback : detect: rank 1 was killed\n" in str(ChildFailedError("train.py", {0: failure}))
    assert json.loads(file.read_text())["message"]["message"] == "detect: rank 1 was killed"

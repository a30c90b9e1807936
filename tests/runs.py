"""Runs of training: what they measured, and runs in processes and on hosts of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detect.training.checkpoints import read_checkpoint
from detect.training.logs import read_log

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "train.py"
TORCHRUN = ("-m", "torch.distributed.run")
ON_ONE_HOST = (*TORCHRUN, "--standalone", "--nproc-per-node", 2)
LONGEST_S = 300


def tables(folder: Path) -> dict[str, list[dict[str, float]]]:
    """All that a run measured, but for the time."""
    found = {path.stem: read_log(path) for path in folder.glob("*.csv")}
    for row in found["epochs"]:
        row.pop("seconds")
    return found


def assert_same_run(one: Path, other: Path) -> None:
    assert tables(one) == tables(other)  # to the last digit
    first, second = (read_checkpoint(folder / "last.pt") for folder in (one, other))
    assert_close(dict(first.weights), dict(second.weights), rtol=0, atol=0)
    assert repr(first.training["state"]) == repr(second.training["state"])  # repr, as NaN is no NaN


def assert_alike(one: Path, other: Path) -> None:
    """Up to rounding, which the number of processes changes, and what AdamW makes of it."""
    for name in ("steps", "validation"):
        for mine, theirs in zip(tables(one)[name], tables(other)[name], strict=True):
            assert mine.keys() == theirs.keys()
            assert_allclose(list(theirs.values()), list(mine.values()), rtol=1e-3, atol=1e-5)
    first, second = (read_checkpoint(folder / "last.pt").weights for folder in (one, other))
    assert_close(dict(first), dict(second), rtol=1e-2, atol=1e-3)


def start_python(
    *arguments: object, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start this Python, with the package of this checkout; ``before`` is a command that starts the command."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [*before, sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a process, not for ever."""
    try:
        out, err = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return ended(start_python(*arguments, environment=environment))


class TwoHosts:
    """Two network namespaces joined by a cable, each with an address of its own, as two hosts have."""

    addresses = ("10.77.0.1", "10.77.0.2")

    def __init__(self) -> None:
        self.names = [f"detect-{os.getpid()}-{number}" for number in range(2)]

    def make(self) -> None:
        """Raise OSError or CalledProcessError if this system lets no namespaces be made."""
        for name in self.names:
            _ip("netns", "add", name)
        _ip(
            "link",
            "add",
            "cable",
            "netns",
            self.names[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            self.names[1],
        )
        for name, address in zip(self.names, self.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove the namespaces, with all that runs in them."""
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                for process in _ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)

    def torchrun(
        self, command_of: Callable[[int], Sequence[object]], **environment: str
    ) -> list[subprocess.CompletedProcess[str]]:
        """Run a command on each host, whose number ``command_of`` is given, by torchrun with one process there."""
        options = ("--nnodes", 2, "--nproc-per-node", 1, "--master-addr", self.addresses[0], "--master-port", 29400)
        started = [
            start_python(
                *(*TORCHRUN, *options, "--node-rank", number, *command_of(number)),
                before=("ip", "netns", "exec", name),
                environment=environment,
            )
            for number, name in enumerate(self.names)
        ]
        return [ended(process) for process in started]


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts, which are removed again; skips the test where they cannot be made."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    hosts = TwoHosts()
    try:
        try:
            hosts.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield hosts
    finally:
        hosts.remove()


def _ip(*arguments: str) -> str:
    return subprocess.run(("ip", *arguments), check=True, capture_output=True, text=True, timeout=30).stdout

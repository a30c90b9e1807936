"""Time and memory of one piece of work, printed to stdout for the process that started this one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """Wall seconds, CPU seconds, peak megabytes, megabytes above those at the start, and the scores of a fit by name."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    extra_megabytes: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Pieces of work and their titles, ours first; memory is the peak or, with ``extra_memory``, the increase."""

    title: str
    path: Path
    names: dict[str, str]
    extra_memory: bool = False


class Measuring:
    """Measures wall time, CPU time and peak memory of this process, from its creation."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _memory("VmRSS")
        self._seconds, self._cpu_seconds = time.perf_counter(), time.process_time()

    def report(self, scores: Callable[[], dict[str, float]] = dict) -> None:
        """Print the result."""
        seconds, cpu_seconds = time.perf_counter() - self._seconds, time.process_time() - self._cpu_seconds
        peak = _memory("VmHWM")
        self.print_result(seconds, cpu_seconds, peak, scores())

    def print_result(
        self, seconds: float, cpu_seconds: float, peak: float, scores: dict[str, float] | None = None
    ) -> None:
        """Print one line that the parent process reads."""
        print("RESULT", json.dumps([seconds, cpu_seconds, peak, peak - self._before, scores or {}]), flush=True)


def report_median(work: Callable[[], object], repeats: int = 7) -> None:
    """Report the median times of several runs after a first one, and their peak memory."""
    work()
    measuring = Measuring()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, cpu = (sorted(each)[repeats // 2] for each in zip(*seconds, strict=True))
    measuring.print_result(wall, cpu, _memory("VmHWM"))


def _memory(name: str) -> float:
    """Megabytes; getrusage would also count the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]

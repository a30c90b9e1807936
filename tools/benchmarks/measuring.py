"""Time and memory of one piece of work, printed to stdout for the process that started this one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """Seconds gone by, CPU seconds, peak megabytes, those beyond what was there before, and of fits the average IoU."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    extra_megabytes: float
    average_iou: float | None = None


@dataclass(frozen=True)
class Table:
    """Names of pieces of work, ours first, and what they are called; of memory all or only what the work adds."""

    title: str
    path: Path
    names: dict[str, str]
    extra_memory: bool = False


class Measuring:
    """From its making on: the clock, the processor's time and the peak of memory of this process alone."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _memory("VmRSS")
        self._seconds, self._cpu_seconds = time.perf_counter(), time.process_time()

    def report(self, average_iou: Callable[[], float] | None = None) -> None:
        """Print the result of the work since."""
        seconds, cpu_seconds = time.perf_counter() - self._seconds, time.process_time() - self._cpu_seconds
        peak = _memory("VmHWM")
        self.print_result(seconds, cpu_seconds, peak, average_iou() if average_iou else None)

    def print_result(self, seconds: float, cpu_seconds: float, peak: float, average_iou: float | None = None) -> None:
        """One line, which the other process looks for."""
        print("RESULT", json.dumps([seconds, cpu_seconds, peak, peak - self._before, average_iou]), flush=True)


def report_median(work: Callable[[], object], repeats: int = 7) -> None:
    """Of several runs after a first one the median times; the memory of them all."""
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
    """Megabytes; what getrusage tells also counts the process that this one was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]

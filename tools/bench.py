"""Compare with other packages, in one run: python tools/bench.py anchors|heads|heatmaps|gpu [--rounds 3] [-o FILE.md].

Every measurement has a process of its own and gives the seconds and peak memory of one piece of work, without its imports.
Packages take turns, round by round; the tables show medians and their ratios to this package. The data are generated here.
On a GPU all rows share one process (tools/benchmarks/gpu.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import Result, Table

DATA = Path("bench-data")
MODULES = {"anchors": ("anchors",), "heads": ("heads",), "heatmaps": ("heatmaps", "peaks"), "gpu": ("gpu",)}
HEAD = (
    "# Benchmarks: {title}\n\nMade by `make bench` (tools/bench.py): each row a process of its own, seconds of the work "
    "without imports (of commands with them), medians over rounds in which the rows take turns; ratios are to the first "
    "row of a table. 2 cores, no GPU, a noisy machine: the ratios carry over, the seconds do not.\n\n"
)


def modules(kind: str) -> list[Any]:
    """The benchmarks of a kind, and no others: what they import counts as memory."""
    return [importlib.import_module(f"benchmarks.{name}") for name in MODULES[kind]]


def measure(kind: str, work: str, path: Path) -> Result | None:
    """Measure one piece of work in a process of its own; None if it cannot run."""
    command = [sys.executable, __file__, kind, "--work", work, "--on", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"  {work}: not measured: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return Result(*json.loads(lines[-1].removeprefix("RESULT ")))


def compare(kind: str, table: Table, rounds: int) -> str:
    """Write a table as text; ratios are to its first row, this package."""
    results: dict[str, list[Result]] = {work: [] for work in table.names}
    for number in range(rounds):
        for work in table.names:
            print(f"{table.title}: round {number + 1} of {rounds}: {work}", file=sys.stderr)
            result = measure(kind, work, table.path)
            if result:
                results[work].append(result)
    medians = {work: _median(of_work) for work, of_work in results.items() if of_work}
    memory = "extra MB" if table.extra_memory else "peak MB"
    scores = list(dict.fromkeys(name for result in medians.values() for name in result.scores))
    columns = ["s", "ratio", "CPU s", memory, "ratio", *scores]
    lines = [f"## {table.title}", "", f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for work, name in table.names.items():
        if work in medians:
            row = _row(medians[work], medians[next(iter(table.names))], table.extra_memory)
            row += [f"{medians[work].scores[name]:.4f}" if name in medians[work].scores else "" for name in scores]
        else:
            row = ["not installed", *[""] * (len(columns) - 1)]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


def _row(result: Result, ours: Result, extra_memory: bool) -> list[str]:
    own, other = (each.extra_megabytes if extra_memory else each.megabytes for each in (ours, result))
    memory = f"{other / own:.1f}" if own > 0 else "-"
    times = f"{result.seconds:.4g}", f"{result.seconds / ours.seconds:.2f}", f"{result.cpu_seconds:.4g}"
    return [*times, f"{other:.0f}", memory]


def _median(results: list[Result]) -> Result:
    return Result(
        statistics.median(result.seconds for result in results),
        statistics.median(result.cpu_seconds for result in results),
        statistics.median(result.megabytes for result in results),
        statistics.median(result.extra_megabytes for result in results),
        {name: statistics.median(result.scores[name] for result in results) for name in results[0].scores},
    )


def _tables(kind: str, num_annotations: int | None) -> list[Table]:
    if kind == "anchors":
        (anchors,) = modules(kind)
        return anchors.tables(DATA, num_annotations or anchors.NUM_ANNOTATIONS)
    return [table for module in modules(kind) for table in module.tables()]


def main() -> None:
    """Measure one piece of work (for the processes started here), or all tables of a kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", nargs="?", choices=tuple(MODULES), default="anchors", help="which tables")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default 3)")
    parser.add_argument("--annotations", type=int, help="size of the COCO file")
    parser.add_argument("-o", "--output", type=Path, help="write the tables here as well")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--on", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work = {name: run for module in modules(arguments.kind) for name, run in module.WORK.items()}
        work[arguments.work](arguments.on)
        return
    if arguments.kind == "gpu":
        (gpu,) = modules("gpu")
        document = gpu.document()
    else:
        tables = _tables(arguments.kind, arguments.annotations)
        text = "\n\n".join(compare(arguments.kind, table, arguments.rounds) for table in tables)
        document = HEAD.format(title=arguments.kind) + text + "\n"
        print(text)
    if arguments.output:
        from detect.files import write_whole

        write_whole(arguments.output, document)


if __name__ == "__main__":
    main()

"""Fuzz readers and commands with damaged input: python tools/fuzz.py --executions 300000 --seed 0 --jobs 2.

Each file that is tried must be read, or refused by a DetectError of one line, within seconds and bounded memory. atheris
mutates the files of tests/data/fuzz and keeps those that reach new code; Hypothesis draws command lines. Whatever fails
otherwise is saved in as short a form as is quickly found, with the command that repeats it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout, whichever is installed
from fuzzing.mutations import mutate
from fuzzing.targets import TARGETS, execute, prepare, small_blocks

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests" / "data" / "fuzz"
MEMORY = Path("/dev/shm")  # noqa: S108 - files that are written and read thousands of times a second
MAX_MEMORY_BYTES = 4 * 2**30
SHORTENING_S = 20.0
MAX_FINDINGS = 20  # of a target, after which it ends


@dataclass
class Counts:
    """What happened in the executions of a target; findings are tracebacks by place."""

    executions: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)


class Fuzzer:
    """Runs a target on one file after the other and ends the process after so many executions."""

    def __init__(self, name: str, executions: int, folder: Path, kept: Path) -> None:
        self.name, self.target, self.wanted = name, TARGETS[name], executions
        self.folder, self.kept = folder, kept
        self.counts = Counts()

    def __call__(self, data: bytes) -> None:
        self.counts.executions += 1
        try:
            self.counts.refused += bool(execute(self.target, data, self.folder))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self.keep(data, error)
        if self.counts.executions >= self.wanted or len(self.counts.findings) >= MAX_FINDINGS:
            self.counts.cpu_seconds = time.process_time()
            (self.kept / f"{self.name}.counts").write_bytes(msgspec.json.encode(self.counts))
            os._exit(0)  # as atheris does: libFuzzer has no way back

    def keep(self, data: bytes, error: BaseException) -> None:
        """Save what failed, once for each place in the code."""
        place = place_of(error)
        if place in self.counts.findings:
            return
        self.counts.findings[place] = "".join(traceback.format_exception(error))

        def fails(shorter: bytes) -> bool:
            try:
                execute(self.target, shorter, self.folder)
            except BaseException as other:
                return place_of(other) == place
            return False

        file = self.kept / f"{self.name}-{len(self.counts.findings)}{self.target.suffix}"
        file.write_bytes(data)
        file.write_bytes(shortened(data, fails))


def place_of(error: BaseException) -> str:
    """The type of an error and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if each.filename.startswith(str(ROOT / "detect"))] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def shortened(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Leave out halves, quarters and so on down to single bytes, as long as the rest still fails.

    >>> shortened(b"abcdefgh", lambda text: b"d" in text and b"g" in text)
    b'dg'
    """
    ends, length = time.monotonic() + SHORTENING_S, len(data) // 2
    while length:
        place = 0
        while place < len(data) and time.monotonic() < ends:
            rest = data[:place] + data[place + length :]
            data, place = (rest, place) if fails(rest) else (data, place + length)
        length //= 2
    return data


def fuzz(name: str, executions: int, seed: int, *, folder: Path, kept: Path) -> None:
    """Run one target in this process, which ends with it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    run = Fuzzer(name, executions, folder, kept)
    if name == "command-lines":
        draw_command_lines(run, seed)
    try:
        import atheris
    except ImportError:
        print(f"{name}: atheris is not installed: mutations that know no coverage", file=sys.stderr)
        mutate_seeds(run, seed)
    with atheris.instrument_imports(include=["detect"]), small_blocks():
        prepare(run.folder)
        found = run.folder / "found"
        found.mkdir()
        options = [
            f"-seed={seed + 1}",
            "-max_len=65536",
            "-len_control=0",
            "-reduce_inputs=0",
            "-mutate_depth=1",
            "-timeout=60",
        ]
        atheris.Setup(
            ["fuzz", *options, f"-artifact_prefix={kept}/{name}-", str(found), str(SEEDS / name)],
            run,
            custom_mutator=lambda data, most, number: mutate(data, Random(number), most=most),
        )
        atheris.Fuzz()


def mutate_seeds(run: Fuzzer, seed: int) -> None:
    """Without atheris."""
    random, files = Random(seed), [file.read_bytes() for file in sorted((SEEDS / run.name).iterdir())]
    with small_blocks():
        prepare(run.folder)
        while True:
            run(mutate(random.choice(files), random))


def draw_command_lines(run: Fuzzer, number: int) -> None:
    from fuzzing.command_lines import command_lines
    from hypothesis import HealthCheck, Phase, given, seed, settings

    checks = [*HealthCheck]

    @seed(number)
    @settings(
        max_examples=10 * run.wanted,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=checks,
    )
    @given(command_lines())
    def try_one(line: list[str]) -> None:
        run("\n".join(line).encode())

    prepare(run.folder)
    for file in sorted((SEEDS / run.name).iterdir()):
        run(file.read_bytes())
    try_one()


def in_process(name: str, executions: int, seed: int, kept: Path) -> Counts:
    """Run a target in a process of its own; what it counted."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        own = ["--in-process", folder, "--targets", name, "--executions", str(executions), "--seed", str(seed)]
        command = [sys.executable, __file__, *own, "--kept", str(kept)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with (kept / f"{name}.log").open("wb") as log:
            code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
        counted = kept / f"{name}.counts"
        if counted.exists():
            return msgspec.json.decode(counted.read_bytes(), type=Counts)
        for file in Path(folder).glob("input*"):  # of the execution that ended the process
            shutil.copy(file, kept / f"{name}-1{TARGETS[name].suffix}")
    return Counts(findings={f"the process ended with code {code}": (kept / f"{name}.log").read_text()[-2000:]})


def shares(executions: int, names: Iterable[str]) -> dict[str, int]:
    """The executions of each target."""
    weights = {name: TARGETS[name].share for name in names}
    return {name: -(-executions * weight // sum(weights.values())) for name, weight in weights.items()}


def report(given: argparse.Namespace) -> int:
    """Run the targets, print a table with a row for each, and then what failed and how to repeat it."""
    given.kept.mkdir(parents=True)
    wanted, began = shares(given.executions, given.targets), time.monotonic()
    print(f"{'target':<20}{'executions':>12}{'refused':>10}{'CPU s':>9}{'findings':>10}", flush=True)

    def run(name: str) -> Counts:
        counts = in_process(name, wanted[name], given.seed, given.kept)
        row = f"{counts.executions:>12,}{counts.refused:>10,}{counts.cpu_seconds:>9.0f}{len(counts.findings):>10}"
        print(f"{name:<20}{row}", flush=True)
        return counts

    with ThreadPoolExecutor(given.jobs) as threads:
        done = dict(zip(wanted, threads.map(run, wanted), strict=True))
    total = [sum(getattr(counts, name) for counts in done.values()) for name in ("executions", "refused")]
    print(f"{'all':<20}{total[0]:>12,}{total[1]:>10,}  in {time.monotonic() - began:,.0f} s")
    for name, counts in done.items():
        for number, (place, text) in enumerate(counts.findings.items(), 1):
            file = given.kept / f"{name}-{number}{TARGETS[name].suffix}"
            print(f"\n{text.rstrip()}\n{name}: {place}: python tools/fuzz.py --targets {name} --repeat {file}")
    return int(any(counts.findings for counts in done.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=300_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kept", type=Path, default=Path("fuzz-findings"), help="new folder for what fails")
    parser.add_argument("--repeat", type=Path, help="only run the target on this file")
    parser.add_argument("--in-process", type=Path, help=argparse.SUPPRESS)  # its folder
    given = parser.parse_args()
    if given.repeat:
        with tempfile.TemporaryDirectory() as folder, small_blocks():
            print(execute(TARGETS[given.targets[0]], given.repeat.read_bytes(), prepare(Path(folder))) or "read")
        return 0
    if given.kept.exists() and not given.in_process:
        parser.error(f"{given.kept} exists: delete it, or name another folder by --kept")
    if given.in_process:
        fuzz(given.targets[0], given.executions, given.seed, folder=given.in_process, kept=given.kept)
    return report(given)


if __name__ == "__main__":
    sys.exit(main())

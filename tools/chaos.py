"""Kills, interrupts and starves every command that writes: is anything torn, lost or left behind?

    python tools/chaos.py --seed 0

Each command runs to its end on two inputs, so that its old and its new files are known. Then it is killed by SIGKILL over
old files, at random moments and while it writes; interrupted by SIGINT; run twice at the same time; and run on a full and on
a read-only disk (tmpfs, which needs root). After each, every file must be the old or the new one, whole, and the run after a
kill must give the new files, to the bit. Runs are forks of this process, which has loaded all packages, so that kills meet
the work and not the start. Prints a table; the exit code is 1 after any fault, or if a command that writes has no case.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from chaos_cases import CASES, Case, make_inputs
from chaos_files import PAGE, Files, can_mount, disk, files_of, is_whole, pages_of, remount, temporary_in
from chaos_runs import Run, load_packages, start

INTERRUPTED = 130
SLOW_S = 8.0  # a run that takes longer is killed once
FAULTS = ("failed", "unclear", "torn", "lost", "left", "differs", "mixed")
COLUMNS = ("runs", "SIGKILL", "SIGKILL while writing", "SIGINT", "two writers", "full disk", "read-only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=3, help="kills of each command")
    parser.add_argument("--only", default="", help="part of the names of the commands to run")
    options = parser.parse_args()
    if wrong := writing_commands() ^ {case.command for case in CASES}:
        sys.exit(f"these commands need a case in tools/chaos_cases.py, or have one and do not write: {sorted(wrong)}")
    trials = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        load_packages()
        make_inputs(Path(folder), lambda words: finish(start(words, Path(folder, "messages.txt"))))
        for case in CASES:
            if options.only in case.name:
                trials.append(Trial(case, Path(folder), random.Random(f"{options.seed} {case.name}")))
                trials[-1].run(options.kills)
    print_table(trials)
    sys.exit(any(trial.counts[fault] for trial in trials for fault in FAULTS))


def writing_commands() -> set[str]:
    """The commands with an option ``--output``, and ``train``, whose configuration names its folder."""
    from typer.main import get_command

    from detect.cli.app import app

    found, writing = [("", get_command(app))], {"train"}
    for name, command in found:  # which grows
        found += [(f"{name} {inner}".strip(), each) for inner, each in getattr(command, "commands", {}).items()]
        writing |= {name} if any("--output" in parameter.opts for parameter in command.params) else set()
    return writing


def finish(run: Run) -> None:
    """Wait for a run that must succeed."""
    run.wait()
    if run.code:
        sys.exit(run.text)


@dataclass
class Trial:
    """All that is done to one command, and what came of it."""

    case: Case
    work: Path
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of a run that ends
    writing_s: float = 0.0  # from its first temporary file on
    old: Files = field(default_factory=dict)
    new: Files = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)  # that each new file takes

    @property
    def box(self) -> Path:
        """The folder that the command may change."""
        return self.work / "box"

    def run(self, num_kills: int) -> None:
        """Do all of it."""
        began = time.monotonic()
        self.learn()
        self.send(signal.SIGKILL, num_kills)
        self.send(signal.SIGINT, 1)
        self.write_twice()
        if can_mount(self.box):
            self.fill_disk()
            self.forbid_writing()
        faults = ", ".join(f"{fault} {self.counts[fault]}" for fault in FAULTS if self.counts[fault])
        print(f"{self.case.name}: {self.counts['runs']} runs in {time.monotonic() - began:.0f} s: {faults or 'well'}")

    def learn(self) -> None:
        """Make the old files, then the new ones, and measure how long that takes."""
        self.prepare()
        self.finish(1)
        self.old = self.files()
        shutil.rmtree(self.work / "old", ignore_errors=True)
        shutil.copytree(self.box, self.work / "old")
        self.prepare(fresh=True)
        began = time.monotonic()
        run = self.start()
        wait_for_writing(run, self.box)
        wrote = time.monotonic()
        run.wait()
        self.seconds, self.writing_s = time.monotonic() - began, time.monotonic() - wrote
        self.expect(run.code == 0, "failed", run.text)
        self.new, self.pages = self.files(), pages_of(self.box)

    def files(self) -> dict[str, bytes]:
        """What is there now."""
        return files_of(self.box, self.case.times)

    def prepare(self, *, fresh: bool = False) -> None:
        """Empty the folder, and put the old files there if the command may find some."""
        self.box.mkdir(exist_ok=True)
        for path in self.box.iterdir():
            shutil.rmtree(path)
        old = self.old and not (fresh or self.case.fresh)
        shutil.copytree(self.work / "old" if old else self.work / "given", self.box, dirs_exist_ok=True)

    def start(self, variant: int = 0, *, again: bool = False) -> Run:
        """Start the command, to make the new files or, as variant 1, the old ones."""
        line = f"{self.case.words} {self.case.again if again else ''}"
        names = {"work": self.work, "box": self.box, "out": self.box / "out", "v": self.case.variants[variant]}
        self.counts["runs"] += 1
        return start([word.format(**names) for word in line.split()], self.work / f"messages-{variant}.txt")

    def finish(self, variant: int = 0, *, again: bool = False) -> None:
        """Run the command to its end, which must be a good one."""
        run = self.start(variant, again=again)
        run.wait()
        self.expect(run.code == 0, "failed", run.text)

    def expect(self, is_true: bool, fault: str, about: str) -> None:
        """Count a fault and tell of it, unless all is well."""
        if not is_true:
            self.counts[fault] += 1
            print(f"{self.case.name}: {fault}: {about.strip()[-500:]}", file=sys.stderr, flush=True)

    def send(self, number: signal.Signals, times: int) -> None:
        """Send a signal until it has met a living process so often: at any moment, and while the command writes."""
        before = {} if self.case.fresh else self.old
        for attempt in range(4 * times):
            if self.counts[number.name] >= times if self.seconds < SLOW_S else self.counts[number.name]:
                return
            self.prepare()
            run = self.start()
            if attempt % 2:
                wait_for_writing(run, self.box)
            run.wait(self.random.uniform(0, self.writing_s if attempt % 2 else self.seconds))
            run.signal(number)
            hit = run.code in (-number, INTERRUPTED)
            self.expect(hit or run.code == 0, "unclear", f"code {run.code} after {number.name}: {run.text}")
            self.expect(not hit or "Traceback" not in run.text, "unclear", run.text)
            self.counts[number.name] += hit
            if not hit:  # it ended sooner than the run that was measured, on a machine with more to do
                self.seconds, self.writing_s = self.seconds / 2, self.writing_s / 2
            self.counts[f"{number.name} while writing"] += hit and bool(temporary_in(self.box))
            self.check(number.name, before)
            if number == signal.SIGKILL:
                self.check_next(before)

    def check(self, after: str, before: Files) -> None:
        """Every file is new or as before, and none from before is missing."""
        found = self.files()
        for name, content in found.items():
            known = [each[name] for each in (self.new, before) if name in each]
            half_way = name.endswith(self.case.grows or "?") and is_whole(self.box / name, content, known)
            self.expect(content in known or half_way, "torn", f"{name} after {after}")
        self.expect(found.keys() >= before.keys(), "lost", f"{sorted(before.keys() - found.keys())} after {after}")

    def check_next(self, before: Files) -> None:
        """The same command once more gives the new files, and leaves none that is temporary."""
        expected = {**before, **self.new}
        done = self.case.fresh and not self.case.again and self.files() == expected
        run = self.start(again=True)
        run.wait()
        self.expect(run.code == (2 if done else 0), "failed", run.text)  # a folder that was done is in the way
        found = self.files()
        differing = sorted(name for name in expected if found.get(name) != expected[name])
        self.expect(not differing, "differs", ", ".join(differing))
        left = temporary_in(self.box) + sorted(found.keys() - expected.keys())
        self.expect(not left, "left", ", ".join(left))
        self.counts["next"] += 1
        self.counts["next identical"] += not differing

    def write_twice(self) -> None:
        """Two processes write other content to the same place: one of them wins, whole; another may be refused."""
        self.prepare(fresh=True)
        runs = [self.start(variant) for variant in (0, 1)]
        for run in runs:
            run.wait()
            self.expect(run.code in (0, 2), "unclear", run.text)
        self.expect(any(run.code == 0 for run in runs), "failed", "two writers, and none of them is well")
        found, sources = self.files(), set()
        for name, content in found.items():
            own = [each[name] == content for each in (self.new, self.old) if name in each]
            self.expect(any(own), "torn", f"{name} of two writers")
            sources |= {own[0]} if len(own) > 1 and own[0] != own[1] else set()
        self.expect(len(sources) < 2, "mixed", "files of two writers")
        self.expect(not temporary_in(self.box), "left", "of two writers")
        self.counts["two writers"] += 1

    def fill_disk(self) -> None:
        """On a disk without space for the largest file, one line says so and all stays; with space, it is written."""
        with disk(self.box):
            self.prepare(fresh=True)
            before = self.files()
            given = pages_of(self.box)
            largest = max(pages for name, pages in self.pages.items() if name not in given)
            remount(self.box, f"size={PAGE * (sum(given.values()) + largest - 1)}")
            self.refused("No space left", "full disk")
            remount(self.box, "size=1g")
            self.check("a full disk", before)
            self.finish(again=True)
            self.expect(self.files() == self.new, "differs", "once there is space")

    def forbid_writing(self) -> None:
        """On a read-only disk, one line says so and all stays."""
        with disk(self.box):
            self.prepare()
            before = self.files()
            remount(self.box, "ro")
            self.refused("Read-only", "read-only")
            self.expect(self.files() == before, "torn", "on a read-only disk")
            remount(self.box, "rw")

    def refused(self, reason: str, name: str) -> None:
        """The command ends with exit code 2 and one line that gives a reason, and leaves nothing temporary."""
        run = self.start()
        run.wait()
        last = run.text.strip().rpartition("\n")[2]
        told = last.startswith("detect: ") and (reason in last or "disk is full" in last or "readonly" in last)
        self.expect(run.code == 2 and told and "Traceback" not in run.text, "unclear", f"{name}: {run.code} {run.text}")
        left = [each for each in temporary_in(self.box) if "tiles" not in each]  # the next run goes on with them
        self.expect(not left, "left", f"{name}: {left}")
        self.counts[name] += 1


def wait_for_writing(run: Run, box: Path) -> None:
    """Wait until a temporary folder is there, or the run has ended."""
    while not run.poll() and not any(box.glob("**/.detect-*")):
        time.sleep(0.0002)


def print_table(trials: list[Trial]) -> None:
    """Print a row for each command, and the sums."""
    columns = (*COLUMNS, *FAULTS)
    print(f"\n| command | {' | '.join(columns)} | identical afterwards |\n|---|{'---|' * (len(columns) + 1)}")
    total: Counter[str] = Counter()
    for trial in trials:
        total += trial.counts
    for name, counts in [*((f"`{trial.case.name}`", trial.counts) for trial in trials), ("all", total)]:
        cells = [str(counts[column]) for column in columns]
        print(f"| {name} | {' | '.join(cells)} | {counts['next identical']} of {counts['next']} |")


if __name__ == "__main__":
    main()

"""The processes of a run, on one host or several: they end together, with a line that says which of them failed, and why.

A process whose connection breaks knows only that someone is gone. So each process notes in the store of torchrun, several
times a second, that it lives; if it fails by itself, it leaves its message there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar
from uuid import uuid4
from zlib import crc32

from torch import distributed

from detect.errors import DetectError, TrainingError
from detect.loading.sharing import from_main, gather, rank_and_count
from detect.wording import listed

T = TypeVar("T")

BEAT_S = 0.25
SILENT_S = 3.0  # a process without a sign of life for so long has ended
STORE_TIMEOUT = timedelta(seconds=2)

LIVES, FAILED = "lives ", "failed "  # how a note begins

REMEDY = "start the run again on every host with --resume: it goes on from its last checkpoint"
PATIENCE = "a process waited for the others longer than optimisation.timeout_minutes, although all of them live"


class _Terminated(BaseException):
    """SIGTERM: torchrun ends the processes that are left, or someone ends the run."""


@dataclass(frozen=True)
class Member:
    """A process of a run."""

    rank: int
    host: str
    process: int

    @classmethod
    def own(cls) -> Member:
        """This process."""
        return cls(rank_and_count()[0], socket.gethostname(), os.getpid())

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.process})"


@contextmanager
def end_together() -> Iterator[None]:
    """Run the body in every process of a run; if one of them fails, all raise an error that names it.

    Without other processes this does nothing. All processes enter it, after they are connected. A process that was killed is
    noticed as soon as its connections close; one that hangs, after ``optimisation.timeout_minutes``. After a failure SIGTERM
    is ignored: torchrun ends the processes that are left, and would cut their message off.

    Raises:
        TrainingError: a process failed, was killed or does not answer, or this one was told to end.
    """
    if rank_and_count()[1] == 1:
        yield
        return
    notes, before = _Notes(), signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except (_Terminated, Exception) as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, DetectError):
            raise TrainingError(notes.own_failure(str(error))) from error
        if isinstance(error, Exception) and not _is_lost_connection(error):
            notes.own_failure(f"{type(error).__name__}: {error}")
            raise  # a bug, which keeps its traceback
        raise TrainingError(notes.failure_of_others() or notes.own_end(_without_failure(error))) from error
    finally:
        notes.stop()
    signal.signal(signal.SIGTERM, before)


def check_alike(content: T, difference: Callable[[T, T], str]) -> None:
    """Raise TrainingError in all processes if a process has other contents than the main one.

    ``difference(main, other)`` says in words how two differ; it is empty if they do not.
    """
    contents = gather([(Member.own(), content)])

    def compare() -> None:
        for member, other in contents[1:]:
            if found := difference(contents[0][1], other):
                raise TrainingError(f"{member} does not have the inputs of {contents[0][0]}: {found}")

    from_main(compare)


def is_first_to_say(text: str) -> bool:
    """Whether no other process of this host has said this; true without other processes, or if it cannot be known."""
    try:
        host = [os.environ.get(name, "") for name in ("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT")]
        return bool(_run_store().add("/".join(["said", *host, str(crc32(text.encode()))]), 1) == 1)
    except (KeyError, RuntimeError):
        return True


def tell_torchrun(text: str) -> None:
    """Leave the text for torchrun's report, in the form that ``torch.distributed.elastic.multiprocessing.errors`` reads."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": content}), "utf-8")


class _Notes:
    """What each process of the run says of itself in the store: a number that rises while it lives, or its failure."""

    def __init__(self) -> None:
        self.own = Member.own()
        attempt = from_main(lambda: uuid4().hex)  # torchrun restarts runs, and each host counts for itself how often
        self.keys = [f"{attempt}/{rank}" for rank in range(rank_and_count()[1])]
        self.store, self.stopped = _run_store(), Event()
        self._write(LIVES)
        members: list[Any] = [None] * len(self.keys)
        distributed.all_gather_object(members, self.own)
        self.others: list[Member] = [member for member in members if member != self.own]
        self.thread = Thread(target=self._live, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Note no more that this process lives."""
        self.stopped.set()
        self.thread.join(STORE_TIMEOUT.total_seconds())

    def own_failure(self, text: str) -> str:
        """Note how this process failed; return the text, with its name unless all processes failed alike."""
        self.stop()
        note = FAILED + text

        def tell() -> list[str]:
            self._write(note)
            return self._later(lambda now: all(each.startswith(FAILED) for each in now))

        with suppress(RuntimeError):
            if set(_answer(tell)) == {note}:
                return text
        return f"{self.own}: {text}"

    def own_end(self, text: str) -> str:
        """Note why this process ends although none has failed; return the text."""
        with suppress(RuntimeError):
            _answer(lambda: self._write(FAILED + text))
        return text

    def failure_of_others(self) -> str:
        """The processes that failed, with their texts, or those that are silent; empty if all of them live."""
        self.stop()

        def ask() -> tuple[list[str], list[str]]:
            self._write(FAILED)
            before = self._read()
            return before, self._later(lambda now: all(map(_is_known, before, now)))

        try:
            before, after = _answer(ask)
        except RuntimeError:
            named = listed(map(str, self.others), most=8)
            several = "one of " if len(self.others) > 1 else ""
            address = os.environ["MASTER_ADDR"]
            return f"torchrun at {address} has ended or cannot be reached, and {several}{named} with it; {REMEDY}"
        for each in self.others:
            note = after[each.rank]
            if note.startswith(FAILED) and note != FAILED:
                return f"{each}: {note.removeprefix(FAILED)}"
        silent = [str(each) for each in self.others if not _is_known(before[each.rank], after[each.rank])]
        return f"{listed(silent, most=8)} was killed or does not answer; {REMEDY}" if silent else ""

    def _live(self) -> None:
        number = 0
        with suppress(RuntimeError):  # the store is gone
            while not self.stopped.wait(BEAT_S):
                number += 1
                self._write(f"{LIVES}{number}")

    def _write(self, note: str) -> None:
        self.store.set(self.keys[self.own.rank], note)

    def _read(self) -> list[str]:
        return [note.decode() for note in self.store.multi_get(self.keys)]

    def _later(self, enough: Callable[[list[str]], bool]) -> list[str]:
        """The notes as soon as there is enough to know, or after a while."""
        until, notes = time.monotonic() + SILENT_S, self._read()
        while not enough(notes) and time.monotonic() < until:
            time.sleep(BEAT_S)
            notes = self._read()
        return notes


def _answer(ask: Callable[[], T]) -> T:
    """What a function finds in the store, asked in a thread: despite its timeout, a store whose host is cut off may block.

    Raises:
        RuntimeError: the store does not answer.
    """
    answers: list[T] = []

    def run() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(SILENT_S + 2 * STORE_TIMEOUT.total_seconds())
    if not answers:
        raise RuntimeError("the store does not answer")
    return answers[0]


def _is_known(before: str, after: str) -> bool:
    """Whether a process has failed, or has lived on."""
    return after.startswith(FAILED) or after != before


def _run_store() -> distributed.Store:
    """The store where the processes of the run meet.

    Raises:
        KeyError: there are no other processes.
        RuntimeError: it cannot be reached.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(address, port, is_master=False, timeout=STORE_TIMEOUT)  # type: ignore[attr-defined]
    prefix = f"detect/{os.environ.get('TORCHELASTIC_RUN_ID', '')}"
    return distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def _is_lost_connection(error: Exception) -> bool:
    """Whether an operation between processes failed; torch has a class of errors for few of them."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error).lower() for name in ("gloo", "nccl"))


def _without_failure(error: BaseException) -> str:
    """Why the run ends although every process lives."""
    if isinstance(error, _Terminated):
        return f"ended by SIGTERM; {REMEDY}"
    reason = " ".join(str(error).split())
    return f"{PATIENCE} ({reason}); {REMEDY}" if "timed out" in reason.lower() else f"{reason}; {REMEDY}"


def _raise_terminated(*_: object) -> None:
    raise _Terminated

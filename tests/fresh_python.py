"""An interpreter without the tests' checks of shapes: torch is imported once, and each program runs in a fork of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = """
import json, os, sys, traceback
import torch, torch.testing
for line in sys.stdin:
    code, *files = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, file in enumerate(files[:2], 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    sys.argv, failed = ["-c", *files[2:]], False
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        failed = bool(stop.code)
    except BaseException:
        failed = traceback.print_exc() is None
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(failed)
"""


class FreshPython:
    """Runs programs as ``python -c`` does, with torch already imported; none of them sees what another has done."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.files = server, [str(folder / name) for name in ("stdout", "stderr")]

    def __call__(self, code: str, *arguments: object) -> str:
        """What a program prints; it must end without an error."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps([code, *self.files, *map(str, arguments)]), file=self.server.stdin, flush=True)
        status = self.server.stdout.readline().strip()
        printed, errors = (Path(file).read_text("utf-8") for file in self.files)
        assert status == "0", errors[-3000:]
        return printed


@contextmanager
def fresh_python(folder: Path) -> Iterator[FreshPython]:
    """Start the interpreter, and end it."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield FreshPython(server, folder)
        assert server.stdin is not None
        server.stdin.close()

"""Runs a Python program without a network, together with all Python programs that it starts.

    python tools/offline.py -m pytest tests/cli

Connections to other machines fail; they are listed at the end, and the exit code is 1 after any. It needs no rights and no
other package; pytest-socket forbids the connections of the tests' own process alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HOOK = Path(__file__).resolve().parent / "no_network"


def main(arguments: list[str]) -> int:
    """Run the program; its exit code, or 1 if it was 0 and there were attempts."""
    with TemporaryDirectory() as folder:
        attempts = Path(folder) / "attempts.txt"
        attempts.touch()
        paths = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "DETECT_ATTEMPTS": str(attempts)}
        run = subprocess.run([sys.executable, *arguments], env=environment, check=False)
        found = attempts.read_text("utf-8")
    starts = [line for line in found.splitlines() if line.startswith("socket.")]
    print(f"{found}attempts to reach other machines: {len(starts)}", file=sys.stderr)
    return run.returncode or min(len(starts), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

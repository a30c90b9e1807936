"""The journal of tiles outlives its process and belongs to one checkpoint, slide and choice of settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.errors import OutputError
from detect.training.tile_journal import NAME, identity_of, open_journal

WRITER = """
import os, signal, sys, numpy as np
from detect.training.tile_journal import open_journal
with open_journal(sys.argv[1], "own") as journal:
    for number in range(5):
        journal[number] = {"values": np.arange(number)}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_arrays_come_back_as_they_were(tmp_path):
    with open_journal(tmp_path / "new" / "folder", "own") as journal:
        assert (len(journal), 3 in journal) == (0, False)
        arrays = {"a": np.float32([[1.5, np.nan]]), "b": np.zeros(0, np.int64)}
        journal[3] = arrays
        assert (len(journal), 3 in journal) == (1, True)
        for name, values in journal[3].items():
            assert_array_equal(values, arrays[name])
            assert values.dtype == arrays[name].dtype
        with pytest.raises(KeyError):
            journal[4]
    assert not (tmp_path / "new" / "folder").exists()


def test_an_error_leaves_what_is_done(tmp_path):
    def stops() -> None:
        with open_journal(tmp_path, "own") as journal:
            journal[0] = {"a": np.ones(3)}
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stops()
    with open_journal(tmp_path, "own") as journal:
        assert_array_equal(journal[0]["a"], np.ones(3))


def test_a_killed_process_leaves_what_is_done(tmp_path):
    run = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False)
    assert run.returncode == -signal.SIGKILL
    with open_journal(tmp_path, "own") as journal:
        assert len(journal) == 5
        assert_array_equal(journal[4]["values"], np.arange(4))


def test_the_journal_of_another_run_is_not_touched(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_journal(tmp_path, "own"):
        raise KeyboardInterrupt
    with (
        pytest.raises(OutputError, match="unfinished tiles of another checkpoint, slide or setting"),
        open_journal(tmp_path, "other"),
    ):
        pass
    assert (tmp_path / NAME).exists()


def test_two_processes_do_not_share_a_journal(tmp_path):
    with open_journal(tmp_path, "own"):
        with pytest.raises(OutputError, match="another process is writing there"), open_journal(tmp_path, "own"):
            pass
        assert (tmp_path / NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal_is_one_line(tmp_path):
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match=f"{NAME}: cannot be used: "), open_journal(tmp_path, "own"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), open_journal(tmp_path / "file", "own"):
        pass


def test_a_flipped_bit_of_a_tile_is_refused(tmp_path):
    with open_journal(tmp_path, "own") as journal:
        journal[3] = {"a": np.arange(100.0)}
        whole = journal.database.execute("SELECT arrays FROM tiles").fetchone()[0]
        start = whole.index(np.arange(100.0).tobytes())
        for place in (start, start + 333, start + 799):
            damaged = whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
            journal.database.execute("UPDATE tiles SET arrays = ?", (damaged,))
            with pytest.raises(OutputError, match=f"{NAME}: tile 3 is damaged .* remove the file"):
                journal[3]


def test_checkpoint_slide_and_settings_make_the_identity(tmp_path):
    checkpoint, slide, folder = tmp_path / "best.pt", tmp_path / "a.tif", tmp_path / "a.zarr"
    checkpoint.write_bytes(b"weights")
    slide.write_bytes(b"pixels" * 100_000)
    (folder / "c").mkdir(parents=True)
    (folder / "c" / "0").write_bytes(b"chunk")

    def now() -> list[str]:
        return [identity_of(checkpoint, path, {"tile": 1}) for path in (slide, folder)]

    seen = [now()]
    assert now() == seen[0]
    times = slide.stat()
    slide.write_bytes(b"pixels" * 99_999 + b"pixelS")
    os.utime(slide, ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "c" / "1").write_bytes(b"")
    seen.append(now())
    checkpoint.write_bytes(b"others")
    seen.append(now())
    assert all(len({each[place] for each in seen}) == 3 for place in (0, 1))
    assert identity_of(checkpoint, slide, {"tile": 2}) != now()[0]

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from detect.files import (
    MAX_FILE_BYTES,
    exists,
    is_file,
    is_folder,
    locked,
    read_small_text,
    write_files,
    write_folder,
    write_whole,
)


def test_text_and_bytes_are_written_into_a_folder_that_is_made(tmp_path):
    write_whole(tmp_path / "new" / "text", "é\n")
    write_whole(str(tmp_path / "new" / "bytes"), b"\x00\r\n")
    assert (tmp_path / "new" / "text").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "new" / "bytes").read_bytes() == b"\x00\r\n"


def test_a_file_that_is_there_is_replaced(tmp_path):
    (tmp_path / "file").write_text("a longer text")
    write_whole(tmp_path / "file", "short")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "short"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")  # a lone surrogate has no UTF-8
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "text")  # written beside it, but cannot be renamed over a folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_name_that_no_file_can_have_is_neither_file_nor_folder(tmp_path):
    (tmp_path / "file").touch()
    told = {name: (is_file(name), is_folder(name), exists(name)) for name in (tmp_path / "file", str(tmp_path))}
    assert [*told.values()] == [(True, False, True), (False, True, True)]
    for name in ("9" * 300, "a\0b", "a\udc80", ""):  # Path's own raise OSError for the first
        assert (is_file(name), is_folder(name), exists(name)) == (False, False, False)


def test_a_file_that_cannot_be_read_raises_the_given_error_which_names_it(tmp_path):
    (tmp_path / "large").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "text").write_text("é", "utf-8")
    assert read_small_text(tmp_path / "text", ValueError) == "é"
    for name, reason in (("none", "No such file"), ("large", "larger than 1 MiB"), ("binary", "not UTF-8 text")):
        with pytest.raises(KeyError, match=f"{name}: {reason}"):
            read_small_text(tmp_path / name, KeyError)


def test_a_folder_is_written_whole_into_a_new_or_empty_place(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "deep"):
        write_folder(folder, [("a/b.txt", b"text"), ("c", b"")])
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == ["a", "a/b.txt", "c"]
        assert (folder / "a" / "b.txt").read_bytes() == b"text"


def test_a_content_that_is_a_file_is_moved(tmp_path):
    (tmp_path / "old").write_text("moved")
    write_folder(tmp_path / "new", [("a/b", tmp_path / "old")])
    assert (tmp_path / "new" / "a" / "b").read_text() == "moved"
    assert not (tmp_path / "old").exists()


def test_a_folder_that_is_in_use_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_text("old")
    for taken in ("full", "full/old"):
        with pytest.raises(FileExistsError, match="it exists and is not an empty folder"):
            write_folder(tmp_path / taken, [("new", b"")])
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "old"]


def test_a_folder_that_fails_on_the_way_is_not_there(tmp_path):
    def files():
        yield "a", b"1"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_folder(tmp_path / "new", files())
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from detect.files import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    (folder / "half").write_text("half a file")
    os.kill(os.getpid(), signal.SIGKILL)
"""
ALIVE = """
import sys
from detect.files import temporary_folder
with temporary_folder(sys.argv[1]) as folder:
    print(folder, flush=True)
    input()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_nothing_that_is_in_use(tmp_path):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob(".detect-*/*")] == ["half"]
    with subprocess.Popen(
        [sys.executable, "-c", ALIVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        in_use = other.stdout.readline().strip()
        write_whole(tmp_path / "file", "text")
        assert sorted(str(path) for path in tmp_path.iterdir()) == [in_use, str(tmp_path / "file")]
        other.communicate("\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_threads_that_write_the_same_file_at_once_each_write_it_whole(tmp_path):
    contents = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_whole(tmp_path / "file", content), contents * 5))
    assert (tmp_path / "file").read_text() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_of_the_longest_length_can_be_written(tmp_path):
    write_whole(tmp_path / ("a" * 255), "text")
    write_folder(tmp_path / ("b" * 255), [("a" * 255, b"text")])
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_written_all_or_none(tmp_path):
    write_files(tmp_path, {"a": "old", "deep/b": b"old"})
    with pytest.raises(TypeError):
        write_files(tmp_path, {"a": "new", "deep/b": None})  # type: ignore[dict-item]
    assert [(tmp_path / name).read_text() for name in ("a", "deep/b")] == ["old", "old"]
    write_files(tmp_path, {"a": "new", "c": "new"})
    assert [(tmp_path / name).read_text() for name in ("a", "deep/b", "c")] == ["new", "old", "new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "deep"]


def test_of_writers_at_once_one_leaves_all_its_files(tmp_path):
    names = [f"{number}" for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        for first in range(0, 40, 4):
            list(
                threads.map(
                    lambda own: write_files(tmp_path, dict.fromkeys(names, own)), map(str, range(first, first + 4))
                )
            )
            assert len({(tmp_path / name).read_text() for name in names}) == 1


HOLDER = """
import os, signal, sys
from detect.files import locked
with locked(sys.argv[1], OSError):
    print("locked", flush=True)
    if input() == "die":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("word", ["end", "die"])
def test_a_locked_folder_is_for_one_process_until_it_ends_or_is_killed(tmp_path, word):
    path = tmp_path / "new" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(KeyError, match="new: another process is writing there"), locked(path, KeyError):
            pass
        other.communicate(word + "\n")
    assert path.exists() == (word == "die")
    with locked(path, KeyError):
        assert path.exists()
    assert [each.name for each in tmp_path.rglob("*")] == (["new"] if word == "die" else [])


def test_a_place_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KeyError, match="file: cannot be written: "), locked(tmp_path / "file" / "lock", KeyError):
        pass

from __future__ import annotations

import csv
import io
import itertools
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.files import (
    MAX_FILE_BYTES,
    csv_text,
    exists,
    is_file,
    is_folder,
    locked,
    parse_yaml,
    read_small_text,
    read_yaml,
    unguarded,
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


@pytest.mark.parametrize(
    "text",
    [
        *("a: [", "!!int ", "!!int x", "!!timestamp x", "!!float x", "!!bool x", "!!binary x", "!!omap x", "!!set x"),
        *("!!python/object/apply:os.getcwd []", "[" * 1200, "\x00", "9" * 5000, "0x" + "f" * 5000, "\ud800"),
        *('"\\ud800"', "? [a]\n: b", r'a: ["b\0"]', r'{"\x00": 1}', r'!!set {"\u0000"}'),
        *("&a [*a]", "&a {b: *a}", "*a", "<<: 3", "a: &a {<<: *a}"),
        # each list is nine of the one before: four billion values
        *("\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11))]),),
        # likewise by merging, which copies while it is read
        *(
            "\n".join(
                ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9))]
            ),
        ),
        *(f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 50_000)}]",),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_plain_yaml_raises_the_given_error_in_one_short_line(text):
    with pytest.raises(KeyError) as caught:
        parse_yaml(text, KeyError)
    assert caught.value.args[0].startswith("not YAML (")
    assert "\n" not in caught.value.args[0]
    assert len(caught.value.args[0]) < 400


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20_000])
def test_an_integer_of_too_many_digits_in_yaml_is_an_error_with_its_line(number):
    with pytest.raises(KeyError, match=r"an integer of too many digits.* line 2, column 4"):
        parse_yaml(f"k: 9\nl: {number}", KeyError)


def test_plain_yaml_is_read_with_aliases_and_dates_as_they_are_written():
    assert parse_yaml("a: [1]", KeyError) == {"a": [1]}
    assert parse_yaml("", KeyError) is None
    assert parse_yaml("base: &base {k: 9}\nown: {<<: *base, x: 1}\nsame: *base", KeyError)["own"] == {"k": 9, "x": 1}
    assert parse_yaml("[2020-01-01, 2020-99-99, 1e3, ~]", KeyError) == ["2020-01-01", "2020-99-99", "1e3", None]


@given(st.text("ab:[]{}&*!<>-?|'~ \\\n1\x00\ud800\u2028" + '"', max_size=30))
def test_any_text_is_yaml_or_one_line(text):
    with suppress(KeyError):
        parse_yaml(text, KeyError)


def test_a_yaml_file_names_itself_in_its_error(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1]")
    assert read_yaml(tmp_path / "a.yaml", KeyError) == {"a": [1]}
    (tmp_path / "a.yaml").write_text("a: [")
    for name, reason in (("a.yaml", "not YAML"), ("b.yaml", "No such file")):
        with pytest.raises(KeyError, match=rf"{name}: {reason}"):
            read_yaml(tmp_path / name, KeyError)


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


CELLS = st.text("=+-@ab1. '\t\n,", max_size=6) | st.floats(allow_nan=False) | st.none()


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_no_cell_of_a_table_is_a_formula_and_each_comes_back(rows):
    read = list(csv.reader(io.StringIO(csv_text(["a", "b"], rows), newline="")))
    for cell, text in zip(itertools.chain(*rows), itertools.chain(*read[1:]), strict=True):
        if isinstance(cell, str):
            assert unguarded(text) == cell or cell[:1] == "'"  # an apostrophe of one's own before a formula is lost
            if text.strip().startswith(("=", "+", "-", "@")) and text != "-":
                float(text)  # a number
        elif cell is not None:
            assert float(text) == cell


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

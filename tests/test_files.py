from __future__ import annotations

import pytest

from detect.files import MAX_FILE_BYTES, parse_yaml, read_small_text, read_yaml, write_folder, write_whole


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


def test_a_file_that_cannot_be_read_raises_the_given_error_which_names_it(tmp_path):
    (tmp_path / "large").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "text").write_text("é", "utf-8")
    assert read_small_text(tmp_path / "text", ValueError) == "é"
    for name, reason in (("none", "No such file"), ("large", "larger than 1 MiB"), ("binary", "not UTF-8 text")):
        with pytest.raises(KeyError, match=f"{name}: {reason}"):
            read_small_text(tmp_path / name, KeyError)


@pytest.mark.parametrize(
    "text", ["a: [", "!!int ", "!!timestamp x", "!!python/object/apply:os.getcwd []", "[" * 1200, "\x00"]
)
def test_what_is_no_plain_yaml_raises_the_given_error_in_one_line(text):
    with pytest.raises(KeyError) as caught:
        parse_yaml(text, KeyError)
    assert caught.value.args[0].startswith("not YAML (")
    assert "\n" not in caught.value.args[0]
    assert parse_yaml("a: [1]", KeyError) == {"a": [1]}


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

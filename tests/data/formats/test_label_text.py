"""Text, JSON and XML of label files: encodings, damage, limits."""

from __future__ import annotations

import os

import pytest

from detect.data.formats import label_text
from detect.data.formats.label_text import folder_of, numbers_of, read_json, read_text, read_xml, stem_of
from detect.errors import CocoError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_is_read_in_the_encodings_that_tools_write(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes("Zellkörper\r\n".encode(encoding))
    assert read_text(str(file)) == "Zellkörper\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2", "not JSON (line 1, column 6: Expecting ',' delimiter)"),
        (b"", "not JSON (line 1, column 1: Expecting value)"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(CocoError) as caught:
        read_json(str(file))
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_json_may_have_nan_as_python_writes_it(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[NaN, 1]")
    assert str(read_json(str(file))) == "[nan, 1]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<a><b></a>", "not XML (mismatched tag"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "not XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "it declares a document type"),
        ("<?xml version='1.0'?><!DOCTYPE a []><a/>".encode("utf-16"), "it declares a document type"),
    ],
)
def test_xml_that_cannot_be_read_is_one_line(tmp_path, content, message):
    file = tmp_path / "a.xml"
    file.write_bytes(content)
    with pytest.raises(CocoError) as caught:
        read_xml(str(file))
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_or_missing_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(label_text, "MAX_FILE_BYTES", 3)
    file = tmp_path / "a.txt"
    file.write_text("four")
    with pytest.raises(CocoError, match=r"a\.txt: more than"):
        read_text(str(file))
    with pytest.raises(CocoError, match=r"b\.txt: No such file"):
        read_text(str(tmp_path / "b.txt"))


def test_numbers_are_finite():
    assert numbers_of(["1", 2, " 3.5 "]) == [1.0, 2.0, 3.5]
    for wrong in (["1", "nan"], [None], [[1]], ["x" * 100], [float("inf")]):
        with pytest.raises(ValueError, match=r"^.{0,50} is not a number$"):
            numbers_of(wrong)


def test_names_of_files():
    assert stem_of(f"a.b{os.sep}c.d.txt") == "c.d"
    assert folder_of(["a/b/c.txt", "a/d/e.txt"]) == "a"
    assert folder_of(["c.txt"]) == "."
    assert folder_of(["/a/c.txt", "b/c.txt"]) == "."

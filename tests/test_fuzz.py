"""Damaged input: every file of tests/data/fuzz is read or refused, and tools/fuzz.py keeps what is neither."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
import typer
from hypothesis import given
from PIL import Image

from detect.cli.app import app
from detect.errors import CocoError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import fuzz  # noqa: E402 - lies beside the package
from fuzzing.command_lines import command_lines, leaf_commands  # noqa: E402
from fuzzing.mutations import mutate  # noqa: E402
from fuzzing.targets import TARGETS, Target, TooLong, execute, prepare, small_blocks  # noqa: E402

CORPUS = ROOT / "tests" / "data" / "fuzz"
FILES = sorted(CORPUS.glob("*/*"))
IN_BLOCKS = {"coco", "angles", "parquet-conversion"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_file_of_the_corpus_is_read_or_refused_by_one_line(folder, file):
    said = execute(TARGETS[file.parent.name], file.read_bytes(), folder)
    if file.parent.name in IN_BLOCKS:
        with small_blocks():
            assert execute(TARGETS[file.parent.name], file.read_bytes(), folder) == said
    assert "\n" not in said


def test_every_target_has_seeds_and_the_corpus_is_small():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    sizes = [file.stat().st_size for file in FILES]
    assert max(sizes) < 5_000
    assert sum(sizes) < 100_000


def test_most_seeds_are_read_so_that_changes_reach_deep(folder):
    refused = [
        file.name for file in CORPUS.glob("labels-*/*") if execute(TARGETS[file.parent.name], file.read_bytes(), folder)
    ]
    assert len(refused) <= 3


def test_an_error_that_is_no_detect_error_passes_through(folder):
    def fail(path: Path) -> None:
        raise KeyError(path.read_text())

    with pytest.raises(KeyError, match="some text"):
        execute(Target(fail, 1), b"some text", folder)


def test_an_error_needs_a_message(folder):
    def refuse(path: Path) -> None:
        raise CocoError(path.read_text())

    assert execute(Target(refuse, 1), b"a.json: why\n", folder) == r"a.json: why\n"
    with pytest.raises(ValueError, match="without a message"):
        execute(Target(refuse, 1), b" ", folder)


def test_what_hangs_is_stopped(folder):
    def wait(_: Path) -> None:
        while True:
            pass

    with pytest.raises(TooLong, match=r"more than 0\.05 s"):
        execute(Target(wait, 1, max_seconds=0.05), b"", folder)


def test_a_warning_is_a_failure(folder):
    with pytest.raises(RuntimeWarning, match="divide by zero"):
        execute(Target(lambda _: np.log(np.zeros(1)), 1), b"", folder)


def test_mutations_follow_from_their_seed_and_keep_the_structure():
    document = b'{"images": [{"id": 1, "width": 64}], "annotations": []}'
    changed = [mutate(document, Random(number)) for number in range(300)]
    assert changed == [mutate(document, Random(number)) for number in range(300)]
    assert len(set(changed)) > 200

    def is_json(text: bytes) -> bool:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True

    assert sum(map(is_json, changed)) > 150


def test_mutated_archives_and_pictures_have_right_checksums():
    packed, picture = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/data", b"some data")
    Image.new("L", (9, 7)).save(picture, "PNG")
    contents, sizes = set(), set()
    for number in range(400):  # one change in twenty is of any byte
        with (
            suppress(zipfile.BadZipFile),
            zipfile.ZipFile(io.BytesIO(mutate(packed.getvalue(), Random(number)))) as archive,
        ):
            contents |= {archive.read(name) for name in archive.namelist()}
        with (
            suppress(Exception),
            Image.open(io.BytesIO(mutate(picture.getvalue(), Random(number)))) as opened,
        ):
            sizes.add(opened.size)
    assert len(contents) > 20
    assert len(sizes) > 3


def test_an_input_is_shortened_to_what_fails():
    assert fuzz.shortened(b"abcdefgh", lambda text: b"d" in text and b"g" in text) == b"dg"
    assert fuzz.shortened(b"x", lambda _: True) == b"x"


def test_what_fails_is_saved_once_for_each_place(tmp_path, monkeypatch):
    def fail_on_numbers(path: Path) -> None:
        if b"7" in path.read_bytes():
            raise KeyError("seven")

    monkeypatch.setitem(TARGETS, "coco", Target(fail_on_numbers, 1, ".json"))
    run = fuzz.Fuzzer("coco", 100, prepare(tmp_path / "own"), tmp_path)
    for data in (b"[1, 2, 7]", b"[1]", b"7 and 7"):
        run(data)
    assert (run.counts.executions, run.counts.refused, len(run.counts.findings)) == (3, 0, 1)
    assert "KeyError: 'seven'" in next(iter(run.counts.findings.values()))
    assert (tmp_path / "coco-1.json").read_bytes() == b"7"


def test_executions_are_shared_by_weight():
    shares = fuzz.shares(300_000, TARGETS)
    assert 300_000 <= sum(shares.values()) < 300_000 + len(TARGETS)
    assert shares["coco"] > shares["command-lines"] > 1000


@given(line=command_lines())
def test_command_lines_have_declared_options_and_stay_in_their_folder(line):
    commands = dict(leaf_commands(typer.main.get_command(app)))
    options = {name for parameters in commands.values() for each in parameters for name in each.opts}
    assert {word for word in line if word.startswith("--") and word != "--"} <= options
    assert not any(word.startswith("/") or ".." in word for word in line)


def test_the_tool_counts_and_ends_with_code_0(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sys,
        "argv",
        ["fuzz.py", "--executions", "40", "--targets", "results", "--kept", str(tmp_path / "k")],
    )
    assert fuzz.main() == 0
    name, executions, refused, _, findings = capsys.readouterr().out.splitlines()[1].split()
    assert (name, executions, findings) == ("results", "40", "0")
    assert 0 < int(refused) < 40

"""What a command prints: it is written last, in one piece, and a stream that takes nothing costs no file."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from detect.cli.terminal import HeldOutput, held_output, is_terminal, print_now
from detect.errors import OutputError
from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")
ROOT = Path(__file__).parents[2]
FILES = ["anchors.yaml", "report.html"]


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("| true", 0, ""),
        (">/dev/full", 2, "detect: stdout cannot be written: No space left on device"),
        (">&-", 2, "detect: stdout is closed: the result cannot be printed"),
        ("2>/dev/full >/dev/null", 0, ""),
        ("2>&- >/dev/null", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_costs_no_file_and_no_traceback(redirection, code, message, tmp_path):
    command = f"{sys.executable} -m detect anchors fit {NUCLEI} -k 2 --resize none -o {tmp_path}/anchors {redirection}"
    line = f"set -o pipefail; {command}"
    run = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr  # as Python says when it flushes a stream at its end
    assert sorted(path.name for path in (tmp_path / "anchors").iterdir()) == FILES
    assert run.returncode == code
    lines = [line for line in run.stderr.splitlines() if line.startswith("detect: ")]
    assert lines == ([message] if message else [])


def test_files_are_written_before_anything_is_printed(monkeypatch, tmp_path):
    """For every command: what it prints is held until it has ended."""
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", seen)

    def command() -> None:
        with held_output():
            sys.stdout.write("a table\n")
            assert seen.getvalue() == ""
            raise ValueError("no files")

    with pytest.raises(ValueError, match="no files"):
        command()
    assert seen.getvalue() == "a table\n"


def test_what_is_printed_early_is_printed_once(monkeypatch):
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", seen)
    with held_output():
        sys.stdout.write("first\n")
        print_now()
        assert seen.getvalue() == "first\n"
        sys.stdout.write("second\n")
    assert seen.getvalue() == "first\nsecond\n"
    print_now()  # nothing is held


def test_characters_that_a_stream_cannot_hold_are_escaped():
    raw = io.BytesIO()
    held = HeldOutput(io.TextIOWrapper(raw, "ascii"))
    held.write("5 µm \ud800")
    held.release()
    assert raw.getvalue() == b"5 \\xb5m \\ud800"


def test_nothing_is_no_mistake_on_a_closed_stream():
    HeldOutput(None).release()
    held = HeldOutput(None)
    held.write("text")
    with pytest.raises(OutputError, match="stdout is closed"):
        held.release()
    assert not is_terminal(None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["anchors", "fit", NUCLEI, "-o", ""],
        ["anchors", "fit", NUCLEI, "--output="],
        ["anchors", "fit", NUCLEI, "--output", " "],
        ["anchors", "fit", NUCLEI, "--images", ""],
        ["anchors", "fit", ""],
        ["convert", NUCLEI, "--to", "coco", "-o", ""],
    ],
)
def test_an_empty_argument_is_a_mistake_of_every_command(detect, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = detect(*arguments)
    assert run.code == 2
    assert "an empty argument" in run.err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_choice_is_told_without_the_name_of_an_error(detect):
    run = detect("anchors", "fit", NUCLEI, "-k", 3, "--layout", "rows")
    assert (run.code, "Invalid value for '--layout': 'rows' is not one of" in run.err) == (2, True)


def test_an_empty_field_of_a_configuration_is_a_mistake(detect, tmp_path):
    (tmp_path / "a.yaml").write_text("output: ''")
    run = detect("anchors", "fit", NUCLEI, "--config", tmp_path / "a.yaml")
    assert (run.code, run.err.strip()) == (2, f"detect: {tmp_path}/a.yaml: output: an empty text")

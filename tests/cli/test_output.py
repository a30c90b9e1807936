"""Printing and writing: what users and programs see of numbers, findings and files."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest

from detect.cli import output
from detect.data import read_coco
from detect.errors import ConfigError
from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


def test_a_place_that_cannot_be_written_is_named(detect, tmp_path):
    (tmp_path / "taken").write_text("", "utf-8")
    result = detect("anchors", "fit", NUCLEI, "-k", 2, "--resize", "none", "-o", tmp_path / "taken")
    assert (result.code, "cannot be written" in result.err) == (2, True)


def test_the_mean_of_nothing_is_null(capsys):
    output.print_json({"a": float("nan"), "b": [1.5, float("nan")], "c": {"d": (2, None)}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": [2, None]}}


def test_numbers_of_a_comma_list_have_a_minimum():
    assert output.numbers("2, .5", "--strides", least=0.5) == [2.0, 0.5]
    for text in ("", "2,", "a", "0.4", "nan", "inf"):
        with pytest.raises(ConfigError, match=r"--strides: expected numbers of 0\.5 or more between commas, got"):
            output.numbers(text, "--strides", least=0.5)


def test_findings_are_counted_and_the_first_five_are_printed(capsys):
    boxes = [{"id": number, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0]} for number in range(7)]
    image = {"id": 1, "width": 9, "height": 9, "file_name": "a.png"}
    dataset = read_coco({"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": boxes})
    output.print_findings(dataset)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 invalid:"
    assert len(lines) == 1 + 5 + 1
    assert lines[-1] == "  and 2 more: --findings lists them all"
    assert len(output.findings_csv(output.findings_of(dataset)).splitlines()) == 1 + 7


def test_columns_of_words_are_on_the_left(capsys):
    output.show_table(("level", "stride", "shapes, width x height"), [["P3", "8", "20x30"]])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == "P3          8  20x30"


def test_brackets_of_names_are_no_markup(capsys):
    output.show("[red]cell[/red]")
    output.show_table(("name",), [["[red]cell[/red]"]])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "[red]cell[/red]",
        "name",
        "[red]cell[/red]",
    ]


def test_names_that_a_terminal_would_obey_are_escaped_wherever_they_are_printed(capsys):
    name = "\x1b[2J\u202e:cat:\ud800"
    output.show(name)
    output.show_table(("category",), [[name + "\n"], ["c" * 500]])
    output.note(name)
    captured = capsys.readouterr()
    for line in [*captured.out.splitlines()[:1], *captured.out.splitlines()[2:3], *captured.err.splitlines()]:
        assert line.strip().removesuffix("\\n") == "\\x1b[2J\\u202e:cat:\\ud800"
    assert len(captured.out.splitlines()[3].strip()) == 60


class Clock:
    """A clock that is set by hand, and the lines that were written by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.on_progress = output.ProgressLines(clock=lambda: self.now, write=self.lines.append)

    def at(self, seconds: float, what: str, done: int, total: int) -> list[str]:
        """Report progress at a time, in seconds from the start, and return the new lines."""
        self.now, before = 1000.0 + seconds, len(self.lines)
        self.on_progress(what, done, total)
        return self.lines[before:]


def test_without_a_terminal_a_line_is_written_every_half_minute():
    clock = Clock()
    assert clock.at(0, "epoch 1/5, loss 2.000", 10, 110) == []
    assert clock.at(29.9, "epoch 1/5, loss 1.900", 19, 110) == []
    # 20 of 100 steps took 30 s, so that 80 take 120 s
    assert clock.at(30, "epoch 1/5, loss 1.800", 30, 110) == ["epoch 1/5, loss 1.800: 27%, 2 min left"]
    assert clock.at(31, "epoch 1/5, loss 1.800", 31, 110) == []
    assert clock.at(59, "epoch 1/5, loss 1.800", 32, 110) == []
    assert clock.at(90, "epoch 2/5, loss 1.500", 70, 110) == ["epoch 2/5, loss 1.500: 64%, 60 s left"]


def test_another_piece_of_work_is_timed_anew():
    clock = Clock()
    clock.at(0, "reading a.json", 0, 50)
    clock.at(20, "reading a.json", 50, 50)
    assert clock.at(40, "checking images", 1, 100) == ["checking images: 1%"]  # nothing is known of its speed
    assert clock.at(70, "checking images", 51, 100) == ["checking images: 51%, 29 s left"]
    assert clock.at(100, "detecting", 1, 100) == ["detecting: 1%"]  # as many images, from the beginning
    assert clock.at(200, "nothing", 0, 0) == ["nothing: 0%"]


def test_work_of_unknown_length_says_how_long_it_takes(capsys):
    ends = iter([False, False, False, False, True])
    waited: list[float] = []

    def ended(seconds: float) -> bool:
        waited.append(seconds)
        return next(ends)

    output.lines_until(ended, lambda: "fitting anchors")
    assert waited == [output.LINE_EVERY_S] * 5
    lines = [f"fitting anchors: {time} so far" for time in ("30 s", "60 s", "90 s", "2 min")]
    assert capsys.readouterr().err.splitlines() == lines


def test_the_steps_of_work_are_told_and_the_lines_pause_while_a_bar_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.01)

    def new_line() -> str:
        while not (lines := capsys.readouterr().err.splitlines()):
            time.sleep(0.005)
        return lines[-1]

    with output.busy("detect anchors"), output.busy("fitting anchors") as tell:
        assert new_line().startswith("detect anchors: fitting anchors: 0 s so far")
        tell("proof, round 1")
        while "fitting anchors: proof, round 1: 0 s" not in new_line():
            pass
        with output.reading_bar() as on_progress:
            on_progress("reading", 1, 2)
            time.sleep(0.05)  # the line that was being written
            capsys.readouterr()
            time.sleep(0.05)
            assert "so far" not in capsys.readouterr().err
            on_progress("reading", 2, 2)  # from now on there is other work
            while "so far" not in new_line():
                pass


def test_on_a_terminal_a_spinner_shows_the_work_and_goes(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(output, "BAR_AFTER_S", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with output.busy("fitting anchors"):
        while "fitting anchors: 0 s" not in terminal.getvalue():
            time.sleep(0.005)
        sys.stdout.write("a result")  # which what is drawn must not take
        output.note("a note")
    assert "a note" in terminal.getvalue()
    assert capsys.readouterr().out == "a result"
    assert sys.stderr is terminal


def test_short_work_writes_nothing(capsys):
    with output.busy("fitting anchors"), output.reading_bar() as on_progress:
        on_progress("reading", 1, 2)
    assert capsys.readouterr().err == ""

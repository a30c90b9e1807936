from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detect import AnchorGenerator, AnchorSet, load_anchors

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_example_runs_and_prints_what_it_says(capsys):
    assert len([line for line in EXAMPLES[0].splitlines() if line and not line.startswith(("from", "import"))]) <= 10
    exec(EXAMPLES[0], {})  # noqa: S102 - it is ours
    out = capsys.readouterr().out
    assert "annotation 3951, image 300: width 0 and height 0 are not positive" in out
    averages = dict(re.findall(r"(.+): mean side ratio (\S+),", out))
    assert float(averages["fitted for yolov5"]) > float(averages["yolov5"]) + 0.05
    assert "# P3/8" in out


def test_the_example_of_advice_runs_and_prints_what_is_lost(capsys):
    exec(EXAMPLES[1], {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no positive 36 of 318"
    assert lines[-1].endswith("instead of 36")


def test_what_it_says_of_advice_is_what_the_trainings_say():
    text = " ".join(README.split())
    told = re.search(
        r"In (\d+) trainings on nuclei and blood cells, .*? \(Spearman's correlation (\S+) and (\S+)\)", text
    )
    assert told
    advice = (ROOT / "docs" / "advice.md").read_text("utf-8")
    measured = [re.search(rf"\| {data} \| no cell of its own \| (\S+) \|", advice) for data in ("nuclei", "bccd")]
    assert [told[2], told[3]] == [found[1].replace("-0.", "-.") for found in measured if found]
    rows = (ROOT / "docs" / "evidence" / "advice.csv").read_text("utf-8").splitlines()[1:]
    assert int(told[1]) == len({tuple(row.split(",")[:4]) for row in rows})
    worth_it = [line.split("|") for line in advice.splitlines() if "| worth it |" in line]
    assert worth_it
    assert all(cell.strip().startswith("+") for cells in worth_it for cell in cells[7:9])


def test_the_example_of_the_head_runs():
    names: dict[str, Any] = {}
    exec(EXAMPLES[2], names)  # noqa: S102
    assert names["output"].logits.shape == (1, len(names["anchors"].boxes), 3)
    assert names["losses"].classification > 0
    assert names["losses"].box > 0
    assert len(names["detections"]) == 1


def test_anchors_of_ones_own_load_as_the_example_says(tmp_path, monkeypatch):
    load_anchors("yolov5-coco").save(
        tmp_path / "anchors" / "anchors.yaml"
    )  # where `detect anchors fit -o anchors` writes
    monkeypatch.chdir(tmp_path)
    (own,) = re.findall(r"# or your own: (\S+\(AnchorSet\.load\(.*\)\))", EXAMPLES[2])
    assert eval(own, {"AnchorGenerator": AnchorGenerator, "AnchorSet": AnchorSet}).num_anchors == [3, 3, 3]  # noqa: S307 - it is ours


def test_the_example_of_landmarks_runs_and_prints_what_it_says(capsys):
    names: dict[str, Any] = {}
    exec(EXAMPLES[3], names)  # noqa: S102
    assert names["targets"].heatmaps.shape == (80, 1, 32, 32)
    assert (
        abs(len(names["found"]) - len(names["nuclei"].landmarks.points)) <= 6
    )  # of cells that touch only one is a peak
    assert float(capsys.readouterr().out) > 0.996


def test_links_lead_somewhere():
    links = [
        page.parent / link.partition("#")[0]
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))
        if "://" not in link and not link.startswith("#")
    ]
    assert links
    assert [link for link in links if not link.exists()] == []


def test_commands_in_it_exist():
    from detect.cli import anchors, heatmaps

    for noun, group in (("anchors", anchors), ("heatmaps", heatmaps)):
        commands = {command.callback.__name__ for command in group.app.registered_commands if command.callback}
        written = set(re.findall(rf"\$ detect {noun} (\w+)", README))
        assert written
        assert written <= commands
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\$ make (\w+)", README):
        assert f"\n{target}:" in makefile

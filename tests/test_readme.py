from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_example_runs_and_prints_what_it_says(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line and not line.startswith(("from", "import"))]) <= 10
    exec(example, {})  # noqa: S102 - it is ours
    out = capsys.readouterr().out
    assert "annotation 3951, image 300: width 0 and height 0 are not positive" in out
    averages = dict(re.findall(r"(\S+): average IoU (\S+),", out))
    assert float(averages["fitted"]) > float(averages["yolov5-coco"]) + 0.05
    assert "# P3/8" in out


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_in_it_exist():
    from detect.cli import anchors

    commands = {command.callback.__name__ for command in anchors.app.registered_commands if command.callback}
    assert set(re.findall(r"\$ detect anchors (\w+)", README)) <= commands
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\$ make (\w+)", README):
        assert f"\n{target}:" in makefile

"""Command lines drawn by Hypothesis from the options that the commands declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import typer
from hypothesis import strategies as st

LEFT_OUT = (  # they train for minutes, make an environment of processes, or leave the folder
    *("train", "demo", "export", "backbone"),
    *("engine", "scheduler", "workers", "worker_memory", "device", "help"),
)
FILES = (
    "coco.json",
    "input.png",
    "points.csv",
    "results.json",
    "anchors.yaml",
    "options.yaml",
    "run",
    ".",
    "none",
    "broken.json",
)
WORDS = {  # what options are for; all others take numbers
    "files": ("coco.json", "coco.json", "coco.json", "*.csv", "points.csv"),
    "validation": ("coco.json",),
    "val": ("coco.json",),
    "images": (".", "input.png"),
    "val_images": (".",),
    "image": ("input.png",),
    "results": ("results.json", "results.json", "points.csv"),
    "maps": ("maps.npy",),
    "config": ("options.yaml",),
    "run": ("run", "run/best.pt"),
    "checkpoint": ("run", "run/best.pt"),
    "anchors": ("anchors.yaml", "yolov5", "retinanet", "10,13 16,30 33,23"),
    "compare": ("anchors.yaml", "yolov3", "10,13 16,30"),
    "start": ("anchors.yaml", "yolov5"),
    "names": ("yolov5", "yolo11", "retinanet", "fcos", "yolov5,rt-detr", "run"),
    "detector": ("yolov5", "ssd300", "retinanet", "yolov3"),
    "resize": ("letterbox:64", "stretch:64x32", "shortest:80:133:mmdet", "tiles:32:0.2", "none", "tiles:8:8"),
    "tiles": ("32:0.2", "16:15", "64:8"),
    "k": ("1", "2", "2"),
    "worst": ("3",),
    "resamples": ("10", "20"),
    "time_limit": ("0", "2", "5"),
    "levels": ("p3-p5", "p3,p4", "p2", "p9-p2"),
    "per_level": ("1", "1,2", "3"),
    "objective": ("iou", "recall@0.5", "grid:recall@0.5", "grid:iou", "ratio", "0.8*iou+0.2*recall@0.5"),
    "radius": ("5", "0.5um", "0.01", "1e9"),
    "sizes": ("64,128", "32,64,96"),
    "size": ("64", "32"),
    "weight": ("cell=2", "a b=0.5", "none=1"),
    "fixed": ("8x8", "20x10"),
    "ignore_category": ("cell", "a b"),
    "device": ("cpu",),
    "output": ("out", "out/deep"),
    "axes": ("yx", "zyx", "cyx"),
    "spacing": ("1,1", "0.5", "1,1,1"),
    "at": ("10,10", "0,0", "99,99"),
    "strides": ("1,2,4", "4"),
    "sigmas": ("1,2", "2"),
    "shape": ("32x32", "8x8"),
    "oks_sigmas": ("0.1,0.1", "0.025"),
    "maps_of": ("fpn", "backbone"),
    "iou_with": ("1,2,30,20",),
}
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "8",
    "64",
    "0.5",
    "0.9",
    "-1",
    "nan",
    "inf",
    "1e400",
    "9223372036854775808",
    "9" * 5000,
    "1_0",
    "0x1",
)
TEXTS = st.text(
    st.characters(exclude_characters="-/.", exclude_categories=["Cs", "Zl", "Zp", "Cc"]), min_size=1, max_size=8
)

ODD_VALUES = st.sampled_from((*NUMBERS, *FILES)) | TEXTS


def leaf_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Sequence[Any]]]:
    """The words of each command and its parameters."""
    for name, command in group.commands.items():
        if name in LEFT_OUT:
            continue
        if hasattr(command, "commands"):
            yield from leaf_commands(command, (*path, name))
        else:
            yield (*path, name), [each for each in command.params if each.name not in LEFT_OUT]


def choices(annotation: Any) -> list[str]:
    """The texts of the literals in an annotation."""
    return [text for each in get_args(annotation) for text in ([each] if isinstance(each, str) else choices(each))]


def values(parameter: Any) -> st.SearchStrategy[str]:
    """Values that a parameter is for."""
    return st.sampled_from((*WORDS.get(parameter.name, ()), *choices(parameter.type_descriptor.annotation)) or NUMBERS)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with its required parameters and up to five of the others, one in twenty left out or in another place."""
    from detect.cli.app import app

    path, parameters = draw(st.sampled_from(list(leaf_commands(typer.main.get_command(app)))))
    others = [each for each in parameters if not each.required]
    chosen = [each for each in parameters if each.required]
    chosen += draw(st.lists(st.sampled_from(others), max_size=5)) if others else []
    line = list(path)
    for each in chosen:
        name = [each.opts[0]] if each.param_type_name == "option" else []
        line += (
            name
            if getattr(each, "is_flag", False)
            else [*name, draw(ODD_VALUES if draw(st.integers(0, 9)) == 0 else values(each))]
        )
    if draw(st.integers(0, 19)) == 0:
        place = draw(st.integers(0, len(line) - 1))
        line[place : place + 1] = draw(st.sampled_from([[], ["--"], [line[place]] * 2, ["--json"]]))
    return line

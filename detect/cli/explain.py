"""``detect explain``: which pixels a detection is made of, by any method of attribution, and whether to believe it."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import AsJson, Checkpoint, Device, note_fetched
from detect.cli.output import json_text, note, numbers, print_answer, progress_over, save, show, show_table
from detect.errors import ConfigError, DetectError, ImageError
from detect.files import is_folder

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from detect.inspection.patterns import Patterns
    from detect.inspection.removal import RemovalCurves
    from detect.inspection.targets import Found, Scalar
    from detect.loading.transforms import Transform
    from detect.report.attribution_page import JudgedMap
    from detect.training.checkpoints import TrainedDetector

AnswerName = Literal["class", "left", "top", "right", "bottom", "iou", "peak"]
ALL = "all"
DEFAULT_METHOD = "saliency"  # passes every test on both detectors of docs/attributions.md
PATTERN_METHODS = ("pattern-net", "pattern-attribution")
MAP_METHODS = ("grad-cam", "odam")
PATTERN_IMAGES, RANDOM_PATTERN_IMAGES = 32, 4  # images that patterns are learned from; with random weights, to judge


def explain(
    run: Checkpoint,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for explain.png, maps.npz, explain.json and report.html.")
    ] = Path("explanation"),
    detection: Annotated[
        int | None, typer.Option(min=1, help="Which detection, counted by falling score. Default: the first.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="The detection at this pixel of the image, the best of several.")
    ] = None,
    of: Annotated[
        AnswerName | None,
        typer.Option(
            help="The number to explain: the logit of the class or the peak, a side of the box in pixels, or its IoU with "
            "--iou-with. Default: the logit."
        ),
    ] = None,
    iou_with: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="The box to compare with, in pixels of the image.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Name of a method, repeatable, or all. Default: saliency. A wrong name lists them."),
    ] = None,
    maps_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="Name of the layer whose feature maps grad-cam and odam take, such as tiny's backbone.model.stages.2 of "
            "stride 16: detect backbone layers RUN lists them; repeatable. Default: all levels of the pyramid.",
        ),
    ] = None,
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Show which pixels a detection is made of.

    `detect explain runs/nuclei photo.png --at 64,80 --method all -o explanation` finds the objects in an image, takes the
    one at this pixel, and attributes its class logit to the pixels by every method. The anchor or the cell that made the
    detection is held fixed. Maps are drawn side by side, and saved in `maps.npz` in pixels of the network's input.

    Each map is judged: the share of it inside the detection's box, how the answer follows when the pixels it marks are
    removed, and whether it looks the same for a network with random weights. The doubts about a map are written beside it.
    """
    from detect.cli.detectors import load_on

    methods = _methods(method)
    trained = load_on(run, device)
    _check_layers(trained.model, maps_of or [], methods)
    view = _View.open(trained, image, device)
    found = view.find()
    number = _chosen(found, detection, at, view.transform)
    scalar, answer = _answer(trained, found[number], of, iou_with, view)
    images = _training_images(trained, methods, required=method != [ALL])
    methods = [name for name in methods if images or name not in PATTERN_METHODS]
    explainer = _Explainer(trained.model, scalar, view.image, found[number].box, images)
    layers: list[str | None] = [*maps_of] if maps_of else [None]
    wanted = [(name, layer) for name in methods for layer in (layers if name in MAP_METHODS else [None])]
    judged = [explainer.judged(name, layer) for name, layer in progress_over(wanted, "explaining")]
    value = scalar(view.image[None]).item()
    content = _content(view, found[number], number, (answer, value), judged)
    title = f"Detection {number + 1} of {len(found)}: {content['label']}, score {found[number].score:.2f}"
    save(output, _files(title, view, found[number], judged, content))
    print_answer(json, lambda: content, lambda: _print(title, content, judged))


@dataclass(frozen=True, eq=False)
class _View:
    """One image as the network reads it."""

    trained: TrainedDetector
    path: Path
    image: Tensor
    image_hw: tuple[int, int]
    transform: Transform

    @classmethod
    def open(cls, trained: TrainedDetector, path: Path, device: str) -> _View:
        from detect.cli.detectors import open_images
        from detect.loading.image_files import dataset_from_files
        from detect.loading.transforms import resize_transform

        if is_folder(path):
            raise ImageError(f"{path}: a folder, where one image file is expected")
        dataset, folder = dataset_from_files([path], trained.labels)
        sample = open_images(trained, dataset, folder, on_broken="fail")[0]
        width, height = dataset.images.wh[0].tolist()
        height_in, width_in = sample.image_hw.tolist()
        transform = resize_transform(trained.resize, (width, height))
        return cls(trained, path, sample.image.to(device), (height_in, width_in), transform)

    def find(self) -> list[Found]:
        """The detections by falling score; none is an error."""
        from detect.inspection.targets import find_answers

        found = find_answers(self.trained.model, self.image, self.image_hw)
        if not found:
            raise ImageError(f"{self.path}: {self.trained.name} finds nothing in it, so there is nothing to explain")
        return found

    @property
    def picture(self) -> Image.Image:
        """The network's input as a picture."""
        import numpy as np
        from PIL import Image

        values = (self.image[:3].cpu().permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        return Image.fromarray(values[..., 0] if values.shape[2] < 3 else values)


def _methods(given: list[str] | None) -> list[str]:
    from detect.inspection.attribution import METHODS

    names = [name.replace("_", "-") for name in given or [DEFAULT_METHOD]]
    if names == [ALL]:
        return list(METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        raise ConfigError(f"--method {unknown[0]}: there is no such method; there are {ALL}, {', '.join(METHODS)}")
    return list(dict.fromkeys(names))


def _check_layers(module: nn.Module, layers: list[str], methods: list[str]) -> None:
    if layers and not set(methods) & set(MAP_METHODS):
        raise ConfigError(f"--maps-of: only {' and '.join(MAP_METHODS)} take feature maps: --method {MAP_METHODS[-1]}")
    known = dict(module.named_modules())
    for layer in layers:
        if layer not in known:
            near = ", ".join(get_close_matches(layer, known, n=3, cutoff=0.3))
            raise ConfigError(f"--maps-of {layer}: the network has no such layer; near it: {near or 'none'}")


def _chosen(found: list[Found], detection: int | None, at: str | None, transform: Transform) -> int:
    """The place of the detection that the options name."""
    import numpy as np

    from detect.inspection.targets import found_at

    if detection is not None and at is not None:
        raise ConfigError("--detection and --at: give one of the two")
    if at is None:
        if detection is not None and detection > len(found):
            raise ConfigError(f"--detection {detection}: the image has {len(found)} detections")
        return (detection or 1) - 1
    point = np.array([_numbers(at, "--at", 2)])
    (x, y), number = transform.apply_to_points(point)[0].tolist(), None
    number = found_at(found, (x, y))
    if number is None:
        centers = np.array([(x0 + x1, y0 + y1) for x0, y0, x1, y1 in (each.box for each in found)]) / 2
        nearest = int(np.square(centers - (x, y)).sum(axis=1).argmin())
        near_x, near_y = transform.invert_points(centers[nearest : nearest + 1])[0].tolist()
        where = f"the nearest is number {nearest + 1}, at {near_x:.0f},{near_y:.0f}"
        raise ConfigError(f"--at {at}: there is no detection at this pixel; {where}")
    return number


def _answer(
    trained: TrainedDetector, found: Found, of: AnswerName | None, iou_with: str | None, view: _View
) -> tuple[Scalar, str]:
    """The number to explain, and its name."""
    import numpy as np

    from detect.inspection.targets import BOX_ANSWERS, PEAK_ANSWERS, answer_of

    own = PEAK_ANSWERS if trained.task == "landmarks" else BOX_ANSWERS
    answer = of or own[0]
    if answer not in own:
        what = "finds points and has no boxes" if trained.task == "landmarks" else "finds boxes and has no heatmap"
        raise ConfigError(f"--of {answer}: {trained.name} {what}; there is {', '.join(own)}")
    if (answer == "iou") != (iou_with is not None):
        raise ConfigError("--of iou and --iou-with X0,Y0,X1,Y1 are given together")
    box = None
    if iou_with is not None:
        box = view.transform.apply_to_boxes(np.array([_numbers(iou_with, "--iou-with", 4)]))[0].tolist()
    image_hw = (view.image.shape[-2], view.image.shape[-1])
    return answer_of(trained.model, found, answer, image_hw=image_hw, box=box), answer


def _numbers(text: str, option: str, count: int) -> list[float]:
    values = numbers(text, option, least=0.0)
    if len(values) != count:
        raise ConfigError(f"{option} {text}: expected {count} numbers between commas")
    return values


def _training_images(trained: TrainedDetector, methods: list[str], *, required: bool) -> list[Tensor]:
    """Some of the run's training images, if a method learns from them; none, with a note, if they cannot be read."""
    import numpy as np

    from detect.cli.detectors import open_images, spread_evenly
    from detect.training.inputs import read_labels

    if not set(methods) & set(PATTERN_METHODS):
        return []
    own = trained.config.data
    note_fetched(own.train)
    try:
        dataset = read_labels(trained.config, own.train, own.images)
        rows = np.array(spread_evenly(range(len(dataset.images)), PATTERN_IMAGES), np.int64)
        data = open_images(trained, dataset.take_images(rows), own.images, on_broken="skip")
        return [data[place].image for place in range(len(data))]
    except DetectError as error:
        if required:
            raise ConfigError(f"--method: patterns are learned from the run's training images: {error}") from None
        note(f"left out {' and '.join(PATTERN_METHODS)}, which learn from the run's training images: {error}")
        return []


@dataclass(frozen=True, eq=False)
class _Explainer:
    """One answer about one image, and the images that patterns are learned from."""

    module: nn.Module
    scalar: Scalar
    image: Tensor
    box: tuple[float, float, float, float]
    training_images: list[Tensor]

    def judged(self, method: str, layer: str | None) -> JudgedMap:
        """The map of a method, and its judgement; patterns are learned again for random weights."""
        from detect.inspection.attribution import Settings, attribute
        from detect.inspection.judging import judge
        from detect.report.attribution_page import JudgedMap

        learns = method in PATTERN_METHODS

        def again() -> Tensor:
            patterns = self._learned(RANDOM_PATTERN_IMAGES) if learns else None
            return attribute(self.module, self.scalar, self.image, method, Settings(patterns=patterns, layer=layer))

        settings = Settings(patterns=self._patterns if learns else None, layer=layer)
        try:
            heatmap = attribute(self.module, self.scalar, self.image, method, settings)
        except ValueError as error:
            raise ConfigError(f"--method {method}: {error}") from None
        own = (self.module, self.scalar, self.image, heatmap, self.box, again)
        return JudgedMap(method, heatmap.cpu().numpy(), judge(*own, by_chance=self._by_chance), layer)

    @cached_property
    def _patterns(self) -> Patterns:
        return self._learned(PATTERN_IMAGES)

    @cached_property
    def _by_chance(self) -> RemovalCurves:
        import torch

        from detect.inspection.removal import removal_curves

        order = torch.rand(self.image.shape[-2:], generator=torch.Generator().manual_seed(0))
        return removal_curves(self.scalar, self.image, order)

    def _learned(self, num_images: int) -> Patterns:
        from detect.inspection.patterns import learn_patterns

        return learn_patterns(self.module, [each[None].to(self.image) for each in self.training_images[:num_images]])


def _content(
    view: _View, found: Found, number: int, of_answer: tuple[str, float], judged: list[JudgedMap]
) -> dict[str, Any]:
    """The JSON object of an explanation; boxes are in pixels of the image, and of the network's input."""
    import numpy as np

    labels = view.trained.labels
    names = labels.category_names if view.trained.task == "boxes" else labels.type_names
    return {
        "image": str(view.path),
        "detection": number + 1,
        "label": names[found.label],
        "score": found.score,
        "box": view.transform.invert_boxes(np.array([found.box]))[0].tolist(),
        "box_in_input": list(found.box),
        "of": of_answer[0],
        "answer": of_answer[1],
        "methods": {each.name: {**asdict(each.judgement), "doubts": each.judgement.doubts} for each in judged},
    }


def _files(title: str, view: _View, found: Found, judged: list[JudgedMap], content: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from detect.report.attribution_page import attribution_page

    stream = io.BytesIO()
    arrays: dict[str, Any] = {each.name: each.heatmap for each in judged}
    np.savez_compressed(stream, **arrays)
    answer = f"explained: {_in_words(content)}"
    page, png = attribution_page(title, view.picture, found.box, judged, image_name=str(view.path), notes=[answer])
    text = json_text(content, indent=2)
    return {"explain.png": png, "maps.npz": stream.getvalue(), "explain.json": text, "report.html": page}


def _in_words(content: dict[str, Any]) -> str:
    """The explained number with its name and unit."""
    names = {"class": "class logit {}", "peak": "peak logit {}", "iou": "IoU {}"}
    return names.get(content["of"], f"{content['of']} side {{}} px").format(f"{content['answer']:.4g}")


def _print(title: str, content: dict[str, Any], judged: list[JudgedMap]) -> None:
    from detect.report.attribution_page import COLUMN_TITLES

    show(f"{title}; {_in_words(content)}")
    show_table(COLUMN_TITLES, [[*each.row[:-1], str(len(each.judgement.doubts))] for each in judged])
    if len(judged) == 1:
        show("\n".join(judged[0].judgement.doubts))

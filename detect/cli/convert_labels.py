"""``detect convert``: labels in any format that is understood, written in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import AsJson, DatasetFiles
from detect.cli.output import cannot_write, note, print_answer, print_findings, reading_bar, show
from detect.errors import ConfigError
from detect.files import temporary_folder, write_folder

if TYPE_CHECKING:
    from detect.data.formats.label_files import LabelFiles

LabelFormat = Literal["coco", "yolo", "voc", "parquet"]


def convert(
    *,
    to: Annotated[LabelFormat, typer.Option(help="The format to write.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to: new, or empty.")],
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Write labels in another format: COCO, YOLO, Pascal VOC or Parquet, and print what it cannot hold.

    `detect convert labels --images images --to coco -o coco` writes `coco/annotations.json`. Images are not copied: YOLO
    expects them in a folder `images` beside `labels`. Nothing is written if anything fails.

    `--to parquet` turns COCO files of any size into a folder of columns in parts, with bounded memory: 12 GB of JSON in .78
    GB on two cores. Every field of every entry is kept as it is, also of entries that cannot be used; `--to coco` makes the
    same file of it again. Commands read such a folder three to five times as fast as the JSON. Other formats, and COCO with
    an option that changes or checks what is read, go through memory. It needs `pip install 'detect-heads[scale]'`.
    """
    if "://" in str(output) or ":/" in str(output):
        raise ConfigError(f"{output}: write to a local folder, and copy it to the URL")
    if files := _kept_whole(to, dataset):
        counts, lost = _convert_as_it_is(to, files, output)

        def text() -> None:
            show(f"written as {to}: {', '.join(f'{name} {number:,}' for name, number in counts.items())}")
            for each in lost:
                show(f"  not held: {each}", soft_wrap=True)

        note(f"wrote {output}")
        print_answer(json, lambda: {"format": to, **counts, "lost": lost}, text)
    else:
        _convert_in_memory(to, dataset, output, json)


def _kept_whole(to: str, dataset: DatasetFiles) -> list[str]:
    """The files, if they can be converted without reading them as a dataset: COCO to Parquet, or a Parquet dataset back."""
    from detect.data.coco_dataset import paths_of
    from detect.data.read_dataset import files_by_format

    if to not in ("parquet", "coco") or dataset.option:
        return []
    by_format, left_out = files_by_format(paths_of(dataset.files))
    (kind, files), *others = by_format.items()
    is_whole = kind == "coco" if to == "parquet" else kind == "parquet" and len(files) == 1
    return files if is_whole and not others and not left_out else []


def _convert_as_it_is(to: str, files: list[str], output: Path) -> tuple[dict[str, int], list[str]]:
    """Convert without a loss of entries; the counts of what was written, and what was not."""
    from detect.data.parquet_files import needed

    needed("pyarrow", str(output))
    with reading_bar() as on_progress, _writing(output):
        if to == "parquet":
            from detect.data.parquet_writer import write_parquet

            made = write_parquet(files, output, on_progress=on_progress)
            parts, lost = made.parts, made.lost
        else:
            from detect.data.parquet_to_coco import write_coco

            written = write_coco(files[0], output, on_progress=on_progress)
            parts, lost = [(part.num_images, part.num_annotations) for part in written], []
    images, annotations = (sum(part[place] for part in parts) for place in (0, 1))
    return {"parts": len(parts), "images": images, "annotations": annotations}, lost


def _convert_in_memory(to: str, dataset: DatasetFiles, output: Path, json: bool) -> None:
    from detect.data.formats.label_files import WRITERS

    read = dataset.read(keypoints=True).with_pixel_origin("center")  # what COCO and YOLO are read as
    made = WRITERS["coco" if to == "parquet" else to](read)
    with reading_bar() as on_progress, _writing(output):
        if to == "parquet":
            num_files = _write_parquet(made, output, on_progress)
        else:
            write_folder(output, _with_progress(made, on_progress))
            num_files = made.num_files
    counts = {"images": len(read.images), "annotations": len(read.annotations), "categories": len(read.category_ids)}
    kinds = {"invalid": len(read.invalid), "suspicious": len(read.suspicious), "crowd": len(read.crowd)}

    def text() -> None:
        words = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        show(f"written as {to}: files {num_files:,}, {words}")
        for each in made.lost:
            show(f"  not held: {each}", soft_wrap=True)
        print_findings(read)

    note(f"wrote {output}")
    print_answer(json, lambda: {"format": to, "files": num_files, **counts, **kinds, "lost": list(made.lost)}, text)


def _with_progress(made: LabelFiles, on_progress: Any) -> Iterator[tuple[str, bytes]]:
    for done, file in enumerate(made.files):
        on_progress("writing labels", done, made.num_files)
        yield file


def _write_parquet(made: LabelFiles, output: Path, on_progress: Any) -> int:
    """Write the COCO file of a dataset as Parquet; the number of files."""
    from detect.data.parquet_files import needed

    needed("pyarrow", str(output))
    from detect.data.parquet_writer import write_parquet

    with temporary_folder(output.parent) as temporary:
        path = temporary / "annotations.json"
        path.write_bytes(next(content for _, content in made.files))
        return 2 * len(write_parquet([str(path)], output, on_progress=on_progress).parts) + 1


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(error, output) from None

"""``detect convert``: labels in any format that is understood, written in another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from detect.cli.options import AsJson, DatasetFiles
from detect.cli.output import cannot_write, note, print_answer, print_findings, reading_bar, show
from detect.files import write_folder

LabelFormat = Literal["coco", "yolo", "voc"]


def convert(
    *,
    to: Annotated[LabelFormat, typer.Option(help="The format to write.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to: new, or empty.")],
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Write labels in another format: COCO, YOLO or Pascal VOC, and print what it cannot hold.

    `detect convert labels --images images --to coco -o coco` writes `coco/annotations.json`. Images are not copied: YOLO
    expects them in a folder `images` beside `labels`. Nothing is written if anything fails.
    """
    from detect.data.formats.label_files import WRITERS

    read = dataset.read(keypoints=True)
    made = WRITERS[to](read)
    with reading_bar() as on_progress:

        def files() -> Iterator[tuple[str, bytes]]:
            for done, file in enumerate(made.files):
                on_progress("writing labels", done, made.num_files)
                yield file

        try:
            write_folder(output, files())
        except OSError as error:
            raise cannot_write(error, output) from None
    counts = {"images": len(read.images), "annotations": len(read.annotations), "categories": len(read.category_ids)}
    kinds = {"invalid": len(read.invalid), "suspicious": len(read.suspicious), "crowd": len(read.crowd)}

    def text() -> None:
        words = ", ".join(f"{name} {number:,}" for name, number in counts.items())
        show(f"written as {to}: files {made.num_files:,}, {words}")
        for each in made.lost:
            show(f"  not held: {each}", soft_wrap=True)
        print_findings(read)

    note(f"wrote {output}")
    print_answer(
        json, lambda: {"format": to, "files": made.num_files, **counts, **kinds, "lost": list(made.lost)}, text
    )

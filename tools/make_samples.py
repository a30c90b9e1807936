"""Make detect/samples/ from the sources named in its READMEs: python tools/make_samples.py BCCD_FOLDER NUCLEI_FOLDER.

BCCD_FOLDER holds bccd_coco.json and LICENSE; NUCLEI_FOLDER holds nuclei_train.json and images/.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "detect" / "samples"
NUM_NUCLEI_IMAGES = 80


def make_bccd(source: Path) -> None:
    """Copy all annotations, without the images."""
    target = SAMPLES / "bccd"
    target.mkdir(parents=True, exist_ok=True)
    content = json.loads((source / "bccd_coco.json").read_text("utf-8"))
    write_json(target / "annotations.json", content)
    shutil.copyfile(source / "LICENSE", target / "LICENSE")


def make_nuclei(source: Path) -> None:
    """Copy evenly spaced training crops with their annotations."""
    target = SAMPLES / "nuclei"
    (target / "images").mkdir(parents=True, exist_ok=True)
    content = json.loads((source / "nuclei_train.json").read_text("utf-8"))
    images = sorted(content["images"], key=lambda image: image["id"])
    kept = [images[number * len(images) // NUM_NUCLEI_IMAGES] for number in range(NUM_NUCLEI_IMAGES)]
    ids = {image["id"] for image in kept}
    content["images"] = kept
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    write_json(target / "annotations.json", content)
    for image in kept:
        shutil.copyfile(source / "images" / image["file_name"], target / "images" / image["file_name"])


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make_bccd(Path(sys.argv[1]))
    make_nuclei(Path(sys.argv[2]))

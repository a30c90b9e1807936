"""Points on a slide of 100,000 x 100,000 pixels, or fewer, within a bound of memory: made, found, interrupted, scored.

    python tools/slide_proof.py FOLDER --run runs/nuclei_landmarks

makes a slide of islands of nuclei or, without --run, maps with planted points, both mostly empty as slides are, from a
stated seed. It finds their points by the command line, in processes whose peak memory the operating system measures; the
network's run is killed in the middle and continued by the same command. Needs the extra `slides` and GNU time.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image

from detect import score_points
from detect.samples import sample_annotations

SIZE, CHUNK = 100_000, 1024
SEED = 7
SIGMA = 2.0
REACH = 10  # cells of a Gaussian that are drawn around its point
NUCLEI_PX = 128  # side of a sample image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of a side of the slide")
    parser.add_argument("--run", type=Path, help="a run on landmarks of nuclei; without it only maps are read")
    parser.add_argument(
        "--blocks", type=int, default=100, help="blocks of 1024 x 1024 cells of the maps that have points"
    )
    parser.add_argument("--islands", type=int, default=1, help="islands of nuclei on the slide")
    parser.add_argument("--island-px", type=int, default=1024)
    parser.add_argument("--kill-after", type=int, default=4000, help="tiles after which the network's run is killed")
    options = parser.parse_args()
    if options.run is None:
        maps = options.folder / "maps.zarr"
        truth = make_maps(maps, options.size, options.blocks)
        found, row = measured(["heatmaps", "peaks", maps, "--threshold", 0.3, "-o", options.folder / "points"])
        print(f"maps: {len(truth):,} points planted; {row}; {scores(found, truth, radius=0.5)}")
        return
    slide = options.folder / "slide.zarr"
    truth = make_slide(slide, options.size, options.islands, options.island_px)
    command = ["predict", options.run, slide, "-o", options.folder / "nuclei"]
    done = killed(command, options.folder / "nuclei", options.kill_after)
    found, row = measured(command)
    print(f"slide: killed after {done:,} tiles, then {row}; {scores(found, truth, radius=5.0)}")


def make_maps(path: Path, size: int, num_blocks: int) -> ndarray:
    """Gaussians in some blocks of an empty map of uint8, 6 to 60 cells apart; their points (x, y)."""
    random, array = np.random.default_rng(SEED), new_array(path, size)
    points = [np.zeros((0, 2))]
    for x, y in places(random, num_blocks, size, shift=CHUNK // 2):
        cells = np.stack(np.meshgrid(*[np.arange(20, CHUNK - 20, 14)] * 2), axis=-1).reshape(-1, 2)
        own = (cells + random.uniform(-4, 4, cells.shape))[random.random(len(cells)) < random.uniform(0.02, 1)]
        block = np.zeros((CHUNK, CHUNK))
        for point in own:
            draw(block, point)
        array[y : y + CHUNK, x : x + CHUNK] = (block * 255).round().astype(np.uint8)
        points.append(own + np.array([x, y]))
    return np.concatenate(points)


def draw(block: ndarray, point: ndarray) -> None:
    column, row = (point - REACH).round().astype(int).clip(0)
    part = block[row : row + 2 * REACH, column : column + 2 * REACH]
    rows, columns = (np.arange(extent)[:, None] for extent in part.shape)
    y, x = (
        np.exp(-((rows + row - point[1]) ** 2) / (2 * SIGMA**2)),
        np.exp(-((columns + column - point[0]) ** 2) / (2 * SIGMA**2)),
    )
    np.maximum(part, y * x.T, out=part)


def make_slide(path: Path, size: int, num_islands: int, island_px: int) -> ndarray:
    """Islands of micrographs from the samples on black; the centres (x, y) of their nuclei."""
    random, array = np.random.default_rng(SEED + 1), new_array(path, size)
    file = sample_annotations("nuclei")
    content = json.loads(file.read_text("utf-8"))
    names = {each["id"]: each["file_name"] for each in content["images"]}
    own: dict[int, list[list[float]]] = {number: [] for number in names}
    for entry in content["annotations"]:
        own[entry["image_id"]].append(entry["keypoints"][:2])
    pixels = {n: np.asarray(Image.open(file.parent / "images" / name).convert("L")) for n, name in names.items()}
    numbers = [n for n in names if pixels[n].shape == (NUCLEI_PX, NUCLEI_PX)]
    points = [np.zeros((0, 2))]
    for left, top in places(random, num_islands, size, shift=(CHUNK + NUCLEI_PX) // 2):
        for y in range(top, top + island_px, NUCLEI_PX):
            for x in range(left, left + island_px, NUCLEI_PX):
                number = int(random.choice(numbers))
                array[y : y + NUCLEI_PX, x : x + NUCLEI_PX] = pixels[number]
                points.append(np.array(own[number]).reshape(-1, 2) + np.array([x, y]))
    return np.concatenate(points)


def new_array(path: Path, size: int) -> Any:
    import zarr

    return zarr.create_array(path, shape=(size, size), chunks=(CHUNK, CHUNK), dtype="uint8", overwrite=True)


def places(random: np.random.Generator, count: int, size: int, *, shift: int) -> Iterator[tuple[int, int]]:
    """Corners of different blocks, shifted so that these lie over the seams of chunks and of tiles."""
    side = size // CHUNK - 2
    for number in random.permutation(side**2)[:count].tolist():
        yield number % side * CHUNK + shift, number // side * CHUNK + shift


def measured(command: list[Any]) -> tuple[Path, str]:
    """Run a command of detect; its folder of output, and its time, peak memory and answer.

    GNU time starts the command, since a process begins with the peak of the one that it was forked from.
    """
    with NamedTemporaryFile("r") as usage:
        measuring = ["/usr/bin/time", "-f", "%e %U %S %M", "-o", usage.name]
        run = subprocess.run([*measuring, *line_of(command)], stdout=subprocess.PIPE, text=True, check=True)
        seconds, user, system, kilobytes = map(float, usage.read().split())
    memory = f"at most {kilobytes / 2**20:.2f} GB"
    return Path(command[-1]), f"{seconds:.0f} s ({user + system:.0f} s of CPU), {memory}; {run.stdout.strip()}"


def killed(command: list[Any], folder: Path, num_tiles: int) -> int:
    """Start a command and kill it by SIGKILL when its journal has this many tiles; the number that it has."""
    with subprocess.Popen(line_of(command)) as process:
        journal, done = folder / "unfinished_tiles.sqlite", 0
        while done < num_tiles and process.poll() is None:
            time.sleep(0.2)
            if journal.exists():
                with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
                    done = count_of(database)
        process.send_signal(signal.SIGKILL)
    return done


def count_of(database: sqlite3.Connection) -> int:
    try:
        return int(database.execute("SELECT count(*) FROM tiles").fetchone()[0])
    except sqlite3.Error:
        return 0  # not yet made


def line_of(command: list[Any]) -> list[str]:
    return [sys.executable, "-m", "detect", *map(str, command)]


def scores(folder: Path, truth: ndarray, *, radius: float) -> str:
    """How the points of a folder's CSV fit the planted ones."""
    (file,) = folder.glob("*.csv")
    points = np.loadtxt(file, delimiter=",", skiprows=1, usecols=(0, 1), ndmin=2)
    found = score_points([points], [truth], radius=radius)
    error = "" if found.error is None else f", mean error {found.error.mean:.4f} px"
    rates = found.micro
    return f"precision {rates.precision:.4f}, recall {rates.recall:.4f} within {radius:g} px{error}"


if __name__ == "__main__":
    main()

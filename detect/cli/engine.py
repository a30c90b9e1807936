"""The options that tell where a command computes: on the whole dataset in this process, or on its shards with Dask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detect.cli.options import DatasetFiles, expert
from detect.cli.output import note, reading_bar
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.cli.read_data import PlainData, ShardedData

SHARDS_LEFT_OUT = 3  # exit code
NO_PAGE = "note: no report.html: its figures show the boxes themselves, which stay in their shards"


@dataclass(frozen=True)
class EngineOptions:
    """Where a command computes."""

    engine: Annotated[
        Literal["plain", "dask"],
        typer.Option(
            help="plain: in this process. dask: the files, COCO JSON or parts of a Parquet dataset, are shards that Dask "
            "reads one by one, any number of them; all annotations of an image lie in one shard. The numbers are the same "
            "to the last digit. Needs `pip install 'detect-heads[scale]'`."
        ),
    ] = "plain"
    scheduler: Annotated[
        str | None,
        expert(
            help="With --engine dask: a running scheduler, tcp://HOST:8786, whose workers see the files by the same names. "
            "Default: a local cluster over the cores."
        ),
    ] = None
    workers: Annotated[
        int | None, expert(min=1, max=1024, help="Processes of the local cluster. Default: one for each core.")
    ] = None
    worker_memory: Annotated[
        str | None, expert(help="Memory of each process of the local cluster, such as 1GB. Default: an equal share.")
    ] = None
    bad_shards: Annotated[
        Literal["fail", "skip"],
        expert(
            help="A shard that cannot be read after three attempts, or whose categories contradict others': fail names it "
            "and ends with exit code 2; skip counts it out, names it, and ends with exit code 3."
        ),
    ] = "fail"

    @contextmanager
    def open(self, dataset: DatasetFiles) -> Iterator[PlainData | ShardedData]:
        """The dataset, read here or by a cluster."""
        from detect.cli.read_data import PlainData, ShardedData

        if self.engine == "plain":
            given = [self.scheduler, self.workers, self.worker_memory]
            if any(each is not None for each in given) or self.bad_shards != "fail":
                raise ConfigError("--scheduler, --workers, --worker-memory and --bad-shards need --engine dask")
            yield PlainData(dataset.read())
            return
        from detect.data.read_dataset import read_shard, shards_of
        from detect.distributed import Shards, connect

        names = shards_of(dataset.files)
        how: dict[str, Any] = {
            "images": dataset.images,
            "bbox": dataset.bbox,
            "exif": dataset.exif or "auto",
            "strict": dataset.strict,
        }
        read = partial(read_shard, ignore_category=tuple(dataset.ignore_category or ()), **how)
        with (
            connect(self.scheduler, workers=self.workers, memory=self.worker_memory) as (client, about),
            reading_bar() as on_progress,
        ):
            note(about)
            yield ShardedData(Shards(client, names, read, self.bad_shards == "skip", on_progress), dataset)

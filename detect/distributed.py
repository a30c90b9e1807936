"""Statistics over the shards of a dataset, on Dask: each task reads one shard and reduces it, and a tree adds the results.

What is computed on a shard has a ``+`` that is the same in any order (:mod:`detect.ops.exact_sums`), so the split, the order
in which shards end, retries and lost workers change no bit. All annotations of an image lie in one shard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.shard_ids import ShardIds
from detect.errors import CocoError, ConfigError, ImageError, MissingExtraError
from detect.ops.exact_sums import FirstItems, Sums, add_up
from detect.wording import plural

RETRIES = 2  # of a shard that cannot be read
FAN_IN = 8  # results that one task adds
CONNECT_S = 10
EVERY = 2**62  # shards are all named
# Dask lets workers return all freed memory at once, which the arrays of the next shard take back page by page
KEPT_BYTES = {"MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**28}

Sum = TypeVar("Sum")
Read = Callable[
    [str, Mapping[int, str] | None], CocoDataset
]  # a shard's dataset; its annotations may use these categories


@dataclass(frozen=True)
class ShardPart(Sums, Generic[Sum]):
    """What shards with equal lists of categories add up to."""

    shards: FirstItems[str]
    num_invalid: int
    image_ids: ShardIds
    annotation_ids: ShardIds
    result: Sum


def reduce_shard(
    shard: str,
    *,
    read: Read,
    work: Callable[[CocoDataset], Sum],
    known: Mapping[int, str] | None,
    with_ids: bool = True,
) -> dict[tuple[tuple[int, str], ...], ShardPart[Sum]]:
    """Read a shard and compute what is wanted of it, by its list of categories; with its ids, to compare with others."""
    dataset = read(shard, known)
    ids = [each.ids[: None if with_ids else 0] for each in (dataset.images, dataset.annotations)]
    part = ShardPart(
        FirstItems.of([shard], most=EVERY),
        len(dataset.invalid),
        image_ids=ShardIds.of(ids[0], shard),
        annotation_ids=ShardIds.of(ids[1], shard),
        result=work(dataset),
    )
    return {tuple(dataset.categories.items()): part}


@dataclass
class Shards:
    """The shards of a dataset on a cluster.

    Args:
        client: a ``distributed.Client``.
        names: paths of the shards, in any order.
        read: reads the dataset of a shard.
        skip: whether shards that cannot be read are counted out, in ``bad`` with their reasons, instead of an error.
        on_progress: called with what is done, the shards done, and their number.
    """

    client: Any
    names: Sequence[str]
    read: Read
    skip: bool = False
    on_progress: Progress | None = None
    bad: dict[str, str] = field(default_factory=dict)
    categories: Mapping[int, str] | None = None
    """The categories of all shards; None until they have been read."""
    warnings: list[str] = field(default_factory=list)

    def reduce(self, work: Callable[[CocoDataset], Sum], what: str = "reading shards") -> Sum:
        """The sum of what ``work`` returns for each shard.

        Raises:
            CocoError: a shard cannot be read after several attempts, its categories contradict those of others, or it shares
                an image with another; unless bad shards are skipped, which a second reading does not.
        """
        first = self.categories is None
        readable = [name for name in self.names if name not in self.bad]
        parts = self._run(readable, work, what, skip=self.skip and first, with_ids=first)
        if first:
            parts = self._agreed(parts)
            names = dict(sorted({key: name for listed in parts for key, name in listed}.items()))
            again = [listed for listed, part in parts.items() if dict(listed) != names and part.num_invalid]
            self.categories = names
            for listed in again:  # an annotation may use a category that only other shards list
                parts |= {(*listed, "again"): self._again(list(parts.pop(listed).shards), work, what)}
        total = add_up(parts.values())
        if first:
            self._check_ids(total)
        return total.result

    def _run(
        self, names: Sequence[str], work: Callable[[CocoDataset], Any], what: str, *, skip: bool, with_ids: bool
    ) -> dict[Any, Any]:
        """Compute on shards, and add the results as a tree in the cluster; what failed is an error or listed in ``bad``."""
        from distributed import as_completed

        task = partial(reduce_shard, read=self.read, work=work, known=self.categories, with_ids=with_ids)
        shards = self.client.map(task, names, pure=False, retries=RETRIES)
        name_of, ready, done = dict(zip([each.key for each in shards], names, strict=True)), [], 0
        running = as_completed(shards)
        try:
            for future in running:
                done += future.key in name_of
                if self.on_progress:
                    self.on_progress(what, done, len(names))
                if future.status != "finished":
                    self._fail(name_of.get(future.key), future, skip=skip)
                    continue
                ready.append(future)
                if len(ready) == FAN_IN:
                    running.add(self.client.submit(add_up, ready, pure=False, retries=RETRIES))
                    ready = []
        except BaseException:
            self.client.cancel(shards + ready)
            raise
        if not ready:
            raise CocoError(f"none of {len(names)} shards could be read; the first: {_told(self.bad)}")
        return self.client.submit(add_up, ready, pure=False, retries=RETRIES).result()

    def _again(self, names: Sequence[str], work: Callable[[CocoDataset], Any], what: str) -> Any:
        return add_up(self._run(names, work, what, skip=False, with_ids=True).values())

    def _fail(self, name: str | None, future: Any, *, skip: bool) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if name is None or not isinstance(error, CocoError | ImageError | OSError | MemoryError | KilledWorker):
            raise error
        reason = str(error) if isinstance(error, CocoError | ImageError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KilledWorker):
            reason = "its workers died, perhaps for want of memory"
        self._found_bad(name, reason, skip=skip)

    def _found_bad(self, name: str, reason: str, *, skip: bool) -> None:
        self.bad[name] = reason.removeprefix(f"{name}: ")
        if not skip:
            again = "" if self.categories is None else " now, though it could be read before"
            raise CocoError(f"{_told({name: self.bad[name]})}{again}")

    def _agreed(self, parts: dict[Any, Any]) -> dict[Any, Any]:
        """The parts whose lists of categories agree with that of most shards; the shards of the others are bad."""
        listed = sorted(parts, key=lambda each: (-len(parts[each].shards), each))
        kept, names = {}, dict[int, str]()
        for each in listed:
            other = next((key for key, name in each if names.get(key, name) != name), None)
            if other is None:
                kept[each] = parts[each]
                names |= dict(each)
                continue
            why = f"category id {other} is {dict(each)[other]!r}, in other shards {names[other]!r}"
            for shard in parts[each].shards:
                self._found_bad(shard, why, skip=self.skip)
        return kept

    def _check_ids(self, total: ShardPart[Any]) -> None:
        if shared := total.image_ids.shared:
            number, *files = shared
            raise CocoError(
                f"image {number} is in {' and in '.join(files)}: all annotations of an image lie in one shard"
            )
        if shared := total.annotation_ids.shared:
            number, *files = shared
            both = f"ids of annotations repeat between shards, such as {number} in {' and in '.join(files)}"
            self.warnings.append(f"{both}: only those that repeat within a shard are listed as suspicious")


def _told(bad: Mapping[str, str]) -> str:
    name, reason = next(iter(bad.items()))
    return f"{name}: {reason}"


@contextmanager
def connect(
    scheduler: str | None = None, *, workers: int | None = None, memory: str | None = None
) -> Iterator[tuple[Any, str]]:
    """A client of a scheduler, or of a local cluster of processes over the cores, and a line about it with its dashboard.

    Args:
        scheduler: address such as ``tcp://host:8786``; None starts a local cluster.
        workers: processes of the local cluster, by default one for each core.
        memory: most memory of each, such as ``1GB``; by default an equal share.

    Raises:
        MissingExtraError: Dask is not installed.
        ConfigError: no scheduler answers at the address, or the amount of memory does not parse.
    """
    try:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingExtraError("--engine dask needs Dask: pip install 'detect-heads[scale]'") from None
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"--scheduler {scheduler}: no scheduler answers: {error}") from None
        with client:
            yield client, f"Dask scheduler {scheduler}{_dashboard(client)}"
        return
    number = workers or CPU_COUNT  # of this process, also in a container
    how: dict[str, Any] = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    kept = {f"distributed.nanny.pre-spawn-environ.{name}": number_bytes for name, number_bytes in KEPT_BYTES.items()}
    try:
        with dask.config.set(kept):
            cluster = LocalCluster(
                n_workers=number, memory_limit=memory or "auto", silence_logs=logging.CRITICAL, **how
            )
    except ValueError as error:
        raise ConfigError(f"--worker-memory {memory}: {error}") from None
    with cluster, Client(cluster) as client:
        limit = min((worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()), default=0)
        yield (
            client,
            f"local Dask cluster: {plural(number, 'worker')} of at most {limit / 1e9:.3g} GB{_dashboard(client)}",
        )


def _dashboard(client: Any) -> str:
    return f"; dashboard {client.dashboard_link}" if find_spec("bokeh") else "; no dashboard: it needs bokeh"

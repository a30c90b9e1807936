"""The devices, processes and memory of a run.

On a CPU freed memory is kept, so that training does not clear the same pages in each step: glibc's malloc takes every large
tensor from the system and gives it back when it is freed. Three times forward and backward through EfficientNet-Lite0 with 8
images of 320 x 320 take 6.4 CPU seconds so, 1.6 of them in the system. With the memory kept they take 3.8, of them .1 in the
system (two cores, one thread).
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import TYPE_CHECKING

from torch import distributed

from detect.errors import ConfigError, MissingExtraError
from detect.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# options of malloc.h
M_TRIM_THRESHOLD = -1  # free bytes at the end of the heap above which they are given back
M_TOP_PAD = -2  # bytes that the heap grows by beyond what is asked for
M_MMAP_MAX = -4  # how many large blocks are mapped by themselves, and unmapped when they are freed

LARGEST = 2**31 - 1
GROWTH = 2**28


def launch(config: TrainConfig) -> Fabric:
    """Set up the devices and precision of a configuration; under torchrun, also its processes.

    Raises:
        MissingExtraError: lightning-fabric is not installed.
        ConfigError: the devices do not exist.
    """
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - an optional package
        from lightning_fabric.utilities.exceptions import MisconfigurationException  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("training needs lightning-fabric: pip install 'detect-heads[train]'") from None
    optimisation = config.optimisation
    processes = devices = optimisation.devices
    if distributed.is_available() and distributed.is_torchelastic_launched():
        processes, devices = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator=optimisation.accelerator,
            devices=devices,
            num_nodes=max(processes // devices, 1),
            strategy="ddp" if processes > 1 else "auto",
            precision=optimisation.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"optimisation: {' '.join(str(error).split())}") from None
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


def keep_freed_memory() -> bool:
    """Let malloc reuse large blocks instead of mapping each anew; False where the C library is not glibc.

    The process keeps the largest amount of memory that it has used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, GROWTH))
    return min(mallopt(option, value) for option, value in options) == 1

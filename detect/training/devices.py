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
import socket
import struct
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
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

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
SIOCGIFADDR = 0x8915  # of netdevice(7) on Linux: the address of an interface, which bytes 20 to 23 of the answer hold
LOOPBACK = 127  # first byte


def launch(config: TrainConfig) -> Fabric:
    """Set up the devices and precision of a configuration; under torchrun, also its processes.

    Raises:
        MissingExtraError: lightning-fabric is not installed.
        ConfigError: the devices do not exist, or the processes cannot be connected.
    """
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415 - an optional package
        from lightning_fabric.strategies.ddp import DDPStrategy  # noqa: PLC0415
        from lightning_fabric.utilities.exceptions import MisconfigurationException  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("training needs lightning-fabric: pip install 'detect-heads[train]'") from None
    optimisation = config.optimisation
    if optimisation.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("optimisation.accelerator=cuda: torch finds no CUDA device")
    processes = devices = optimisation.devices
    if distributed.is_available() and distributed.is_torchelastic_launched():
        processes, devices = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if processes > devices and (interface := interface_towards(os.environ["MASTER_ADDR"])):
        os.environ.setdefault(GLOO_INTERFACE, interface)
    timeout = timedelta(minutes=optimisation.timeout_minutes)
    try:
        fabric = Fabric(
            accelerator=optimisation.accelerator,
            devices=devices,
            num_nodes=max(processes // devices, 1),
            strategy=DDPStrategy(timeout=timeout) if processes > 1 else "auto",
            precision=optimisation.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        text = " ".join(str(error).split())
        hint = f"; {GLOO_INTERFACE} must name the network between the hosts" if "gloo" in text.lower() else ""
        raise ConfigError(f"optimisation: {text}{hint}") from None
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


def interface_towards(address: str) -> str | None:
    """The network interface over which this host reaches an address; None if it cannot be told, or is the host itself.

    gloo asks for the address of the host's name instead, which many systems set to a loopback address.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((address, 9))  # of a datagram: nothing is sent
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if answer[20:24] == own and own[0] != LOOPBACK:
                    return name
    return None


def keep_freed_memory() -> bool:
    """Let malloc reuse large blocks instead of mapping each anew; False where the C library is not glibc.

    The process keeps the largest amount of memory that it has used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, GROWTH))
    return min(mallopt(option, value) for option, value in options) == 1

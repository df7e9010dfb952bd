"""Where values are counted: the CPU, or NVIDIA GPUs through torch. torch is not imported on machines without a driver."""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layerhouse.errors import UsageError
from layerhouse.optional import require

if TYPE_CHECKING:
    from layerhouse.ingest.measure.counter import AnyCounter

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
DRIVER_FOLDER = Path("/proc/driver/nvidia")
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DRIVER_PROGRAM = "nvidia-smi"


def find_devices(wanted: str) -> tuple[str, ...]:
    """The devices that an option names: `cpu`; `cuda` (every GPU), `cuda:1`; `auto` (every GPU, or the CPU if there is none).

    Each checkpoint is counted on one of them. Raises UsageError for an unknown option and for a device that is missing.
    """
    match = re.fullmatch(rf"{CUDA}(?::(\d{{1,4}}))?", wanted)
    if wanted not in (CPU, AUTO) and match is None:
        raise UsageError(f"device {wanted!r}: there is cpu, cuda, cuda:N (N from 0) and auto")
    if wanted == CPU or (wanted == AUTO and not has_driver()):
        return (CPU,)
    if not has_driver():
        raise UsageError(f"device {wanted!r}: this machine has no NVIDIA driver; count on the CPU with --device cpu")
    count, reason = _count_gpus()
    if wanted == AUTO and count == 0:
        return (CPU,)
    if count == 0:
        raise UsageError(f"device {wanted!r}: {reason}; count on the CPU with --device cpu")
    names = tuple(f"{CUDA}:{index}" for index in range(count))
    if match is None or match[1] is None:
        return names
    if int(match[1]) >= count:
        raise UsageError(f"device {wanted!r}: there is {', '.join(names)}")
    return (f"{CUDA}:{int(match[1])}",)


def has_driver() -> bool:
    """Whether a part of an NVIDIA driver is installed: its folder in /proc, its library or its program."""
    if DRIVER_FOLDER.exists() or shutil.which(DRIVER_PROGRAM) is not None:
        return True
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def make_counter(device: str) -> AnyCounter:
    """A counter for one thread. `device` is cpu, or one that torch knows, such as cuda:0."""
    if device == CPU:
        from layerhouse.ingest.measure.counter import Counter

        return Counter()
    from layerhouse.ingest.measure.gpu_counter import DeviceCounter

    return DeviceCounter(device)


def _count_gpus() -> tuple[int, str]:
    """The number of GPUs that torch can use, and the reason if there are none."""
    try:
        torch = require("torch", for_what="counting on a GPU")
    except UsageError as error:
        return 0, str(error)
    if torch.version.cuda is None:
        return 0, f"there is a driver, and torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return 0, "there is a driver, and torch finds no GPU that it can use"
    return int(torch.cuda.device_count()), ""
